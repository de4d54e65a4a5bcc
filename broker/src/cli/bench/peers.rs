//! The clients of a run: one connection each.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use tidegate_client::{Client, Options, Overflow, Subscription};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Failure, Plan,
    line::{Cut, Stall},
    run::{SETTLE, histogram},
};

/// Everyone who is connected.
pub(super) struct Peers {
    pub(super) cut: Cut,
    pub(super) publishers: Vec<Client>,
    pub(super) stalled: Vec<(Client, Subscription)>,
    pub(super) subscribers: Vec<(Client, Subscription)>,
    /// How long each subscriber took since the first began.
    pub(super) connected_us: Histogram<u64>,
}

/// Connections that are made at a time, but for a storm.
const CONNECTING: usize = 64;
/// What the SDK holds for a reader: more than the window of several publishers.
const BUFFER: u32 = 4096;
/// Credit of one who never reads: no bound, so that the socket is what stalls.
const UNLIMITED: u32 = 1 << 30;

impl Peers {
    /// Connects all that `plan` wants.
    pub(super) async fn connect(plan: &Plan, bar: &ProgressBar) -> Result<Self, Failure> {
        let cut = Cut::new();
        let publishers = plan.connect_publishers().await?;
        let stalled = plan.connect_stalled(bar).await?;
        let (subscribers, connected_us) = plan.connect_subscribers(&cut, bar).await?;
        Ok(Self { cut, publishers, stalled, subscribers, connected_us })
    }
}

impl Plan {
    fn options(&self) -> Options {
        Options::new()
            .client_name(concat!("tidegate-bench/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.time.max(SETTLE))
    }

    async fn connect_publishers(&self) -> Result<Vec<Client>, Failure> {
        let mut clients = Vec::new();
        for _ in 0..self.publishers {
            let client =
                self.options().connect(&self.url).await.map_err(|error| self.not_connected(&error))?;
            clients.push(client);
        }
        Ok(clients)
    }

    /// Subscribers whose sockets are never read once they have subscribed.
    async fn connect_stalled(&self, bar: &ProgressBar) -> Result<Vec<(Client, Subscription)>, Failure> {
        let (all, _) = self.connect(self.stalled, CONNECTING, &Cut::new(), UNLIMITED, true, bar).await?;
        Ok(all)
    }

    /// And how long each took since the first began, in microseconds.
    async fn connect_subscribers(
        &self,
        cut: &Cut,
        bar: &ProgressBar,
    ) -> Result<(Vec<(Client, Subscription)>, Histogram<u64>), Failure> {
        let at_once = if self.storm { self.subscribers as usize } else { CONNECTING };
        self.connect(self.subscribers, at_once, cut, BUFFER, false, bar).await
    }

    async fn connect(
        &self,
        count: u32,
        at_once: usize,
        cut: &Cut,
        buffer: u32,
        stalls: bool,
        bar: &ProgressBar,
    ) -> Result<(Vec<(Client, Subscription)>, Histogram<u64>), Failure> {
        let turns = Arc::new(Semaphore::new(at_once));
        let began = Instant::now();
        let mut connecting = JoinSet::new();
        for _ in 0..count {
            let stall = Stall::default();
            let options = cut.dial(self.options(), &self.url, &stall);
            let (plan, turns) = (self.clone(), turns.clone());
            connecting.spawn(async move {
                let _turn = turns.acquire().await;
                let client = options.connect(&plan.url).await.map_err(|error| plan.not_connected(&error))?;
                let subscription = client
                    .subscribe(plan.topic.clone())
                    .overflow(Overflow::CatchUp)
                    .buffer(buffer)
                    .await
                    .map_err(|error| Failure::Failed(format!("not subscribed to {}: {error}", plan.topic)))?;
                stall.store(stalls, Relaxed);
                Ok(((client, subscription), began.elapsed()))
            });
        }
        let mut all = Vec::with_capacity(count as usize);
        let mut took = histogram();
        bar.set_length(count.into());
        bar.set_position(0);
        while let Some(connected) = connecting.join_next().await {
            let (connected, elapsed) =
                connected.map_err(|error| Failure::Failed(format!("connecting: {error}")))??;
            took.saturating_record(elapsed.as_micros() as u64);
            all.push(connected);
            bar.inc(1);
        }
        Ok((all, took))
    }

    fn not_connected(&self, error: &tidegate_client::ConnectError) -> Failure {
        Failure::Failed(format!("{}: {error}", self.url))
    }
}
