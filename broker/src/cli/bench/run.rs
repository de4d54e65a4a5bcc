//! A run: what is published, what arrives, and when it is over.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use indicatif::{HumanCount, ProgressBar};
use tidegate_client::{
    Client, ConnectionState, Event, Gap, GapReason, Payload, PendingAck, PublishErrorKind, Subscription,
};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Failure, Plan,
    ledger::{Ledger, Stamp, Tally, Window},
    line::Cut,
    peers::Peers,
    report::{Quantiles, Report, Storm},
};

/// What publishers and readers share.
pub(super) struct Run {
    plan: Plan,
    /// What stamps count from.
    began: Instant,
    /// Publishers end.
    stopped: AtomicBool,
    received: AtomicU64,
    /// One for each publisher, where publishers wait for the slowest subscriber.
    windows: Vec<Window>,
    latencies: Vec<Mutex<Histogram<u64>>>,
    /// Set when the lines are cut, in nanoseconds since the beginning.
    cut_at: AtomicU64,
    back: AtomicU64,
    back_us: Mutex<Histogram<u64>>,
}

/// What became of one publisher.
#[derive(Default)]
struct Published {
    messages: u64,
    unacknowledged: u64,
}

/// Messages of one publisher on their way in fan-out: what a lane of the broker holds by default, so that nobody falls
/// behind by design.
const WINDOW: usize = 256;
/// Where nothing has arrived for so long, nothing will.
pub(super) const SETTLE: Duration = Duration::from_secs(10);
/// How long to look out for messages that come a second time, once all have come.
const LINGER: Duration = Duration::from_millis(200);
/// How often the bar is drawn and the end looked for.
const TICK: Duration = Duration::from_millis(50);
/// The longest latency that is told apart, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;
/// Readers share this many histograms: one each would take more memory than the messages.
const HISTOGRAMS: usize = 16;
/// Latencies that a reader gathers before it enters them.
const BATCH: usize = 256;

impl Run {
    pub(super) fn new(plan: Plan) -> Self {
        let windows = if plan.window { plan.publishers } else { 0 };
        Self {
            windows: (0..windows).map(|_| Window::new(WINDOW, plan.subscribers)).collect(),
            plan,
            began: Instant::now(),
            stopped: AtomicBool::new(false),
            received: AtomicU64::new(0),
            latencies: (0..HISTOGRAMS).map(|_| Mutex::new(histogram())).collect(),
            cut_at: AtomicU64::new(0),
            back: AtomicU64::new(0),
            back_us: Mutex::new(histogram()),
        }
    }

    /// From the first publish to the last delivery.
    pub(super) async fn measure(
        self: &Arc<Self>,
        peers: Peers,
        bar: &ProgressBar,
    ) -> Result<Report, Failure> {
        let run = self;
        let Peers { cut, publishers, stalled, subscribers, connected_us } = peers;
        let (end, ended) = watch::channel(false);
        let clients: Vec<Client> = subscribers.iter().map(|(client, _)| client.clone()).collect();
        let mut readers = JoinSet::new();
        for (number, (_, subscription)) in subscribers.into_iter().enumerate() {
            readers.spawn(read(run.clone(), number, subscription, ended.clone()));
        }
        let mut writers = JoinSet::new();
        for (number, client) in publishers.into_iter().enumerate() {
            let (run, handle) = (run.clone(), Handle::current());
            // A thread of its own: it sleeps more exactly than the runtime's timer, which counts milliseconds.
            writers.spawn_blocking(move || publish(&run, &handle, number as u32, &client));
        }
        if run.plan.storm {
            run.cut_and_wait(&cut, bar).await;
            run.stop();
        }
        let mut published = Published::default();
        loop {
            run.show(bar);
            match timeout(TICK, writers.join_next()).await {
                Ok(Some(one)) => {
                    let one = one.map_err(|error| Failure::Failed(format!("a publisher: {error}")))?;
                    published.messages += one.messages;
                    published.unacknowledged += one.unacknowledged;
                }
                Ok(None) => break,
                Err(_) => {}
            }
        }
        let seconds = run.began.elapsed().as_secs_f64();
        let expected = published.messages * u64::from(run.plan.subscribers);
        let last = run.settle(expected, bar).await;
        // Nobody waits for the end any more where every reader has gone.
        let _ = end.send(true);
        let mut all = Tally::default();
        while let Some(tally) = readers.join_next().await {
            all.add(tally.map_err(|error| Failure::Failed(format!("a subscriber: {error}")))?);
        }
        bar.finish_and_clear();
        drop(stalled);
        Ok(run.report(&published, &clients, all, seconds, last, &connected_us))
    }

    /// Ends the publishing; what is on its way is waited for.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Cuts every subscriber, and waits until all are back or the time is over.
    async fn cut_and_wait(&self, cut: &Cut, bar: &ProgressBar) {
        bar.set_message("cut; coming back");
        bar.set_position(0);
        self.cut_at.store(self.now(), Relaxed);
        let began = Instant::now();
        cut.cut();
        while self.back.load(Relaxed) < self.plan.subscribers.into()
            && began.elapsed() < self.plan.time
            && !self.stopped.load(Relaxed)
        {
            bar.set_position(self.back.load(Relaxed));
            sleep(TICK).await;
        }
    }

    /// Waits until everything has arrived, or nothing arrives any more. When the last came, in seconds since the
    /// beginning.
    async fn settle(&self, expected: u64, bar: &ProgressBar) -> f64 {
        let (mut seen, mut moved) = (self.received.load(Relaxed), Instant::now());
        while seen < expected && moved.elapsed() < SETTLE {
            sleep(TICK).await;
            self.show(bar);
            let now = self.received.load(Relaxed);
            if now > seen {
                (seen, moved) = (now, Instant::now());
            }
        }
        sleep(LINGER).await;
        moved.duration_since(self.began).as_secs_f64()
    }

    /// A subscriber that was cut is back.
    fn on_back(&self) {
        let took = self.now().saturating_sub(self.cut_at.load(Relaxed));
        lock(&self.back_us).saturating_record(took / 1000);
        self.back.fetch_add(1, Relaxed);
    }

    /// Nanoseconds since the beginning.
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn show(&self, bar: &ProgressBar) {
        let (elapsed, received) = (self.began.elapsed(), self.received.load(Relaxed));
        if !self.plan.storm {
            bar.set_length(self.plan.time.as_millis() as u64);
            bar.set_position(elapsed.as_millis() as u64);
        }
        let rate = received as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        bar.set_message(format!("{} delivered, {}/s", HumanCount(received), HumanCount(rate as u64)));
    }

    fn report(
        &self,
        published: &Published,
        clients: &[Client],
        all: Tally,
        seconds: f64,
        last: f64,
        connected_us: &Histogram<u64>,
    ) -> Report {
        let plan = &self.plan;
        let mut latencies = histogram();
        for part in &self.latencies {
            // All have the same bounds.
            let _ = latencies.add(&*lock(part));
        }
        let stats = || clients.iter().map(Client::stats);
        let back = self.back.load(Relaxed);
        let mut report = Report {
            mode: plan.name,
            url: plan.url.clone(),
            subscribers: plan.subscribers,
            publishers: plan.publishers,
            stalled: plan.stalled,
            payload_bytes: plan.payload,
            seconds,
            published: published.messages,
            publishes_per_second: published.messages as f64 / seconds,
            unacknowledged: published.unacknowledged,
            deliveries: 0,
            deliveries_per_second: all.received as f64 / last,
            missing: 0,
            told_by_gaps: stats().map(|stats| stats.gapped).sum(),
            doubled: 0,
            reordered: 0,
            foreign: 0,
            reconnects: stats().map(|stats| stats.connections.saturating_sub(1)).sum(),
            books_differ: stats().map(|stats| stats.books_differ).sum(),
            latency_us: Quantiles::of(&latencies),
            storm: plan.storm.then(|| Storm {
                connected_us: Quantiles::of(connected_us),
                back_us: Quantiles::of(&lock(&self.back_us)),
                not_back: u64::from(plan.subscribers).saturating_sub(back),
            }),
            histogram: latencies,
        };
        report.enter(all, published.messages * u64::from(plan.subscribers));
        report
    }
}

/// One subscriber: reads until the end, and gives its books.
async fn read(
    run: Arc<Run>,
    number: usize,
    mut subscription: Subscription,
    mut ended: watch::Receiver<bool>,
) -> Tally {
    let mut ledger = Ledger::new(run.plan.publishers);
    let mut latencies = Vec::with_capacity(BATCH);
    let mut is_back = false;
    loop {
        let first = tokio::select! {
            biased;
            event = subscription.recv() => event,
            // A sender that is gone is the end too.
            _ = ended.changed() => None,
        };
        let Some(first) = first else { break };
        let mut next = Some(first);
        let received = ledger.tally.received;
        while let Some(event) = next {
            match event {
                Event::Message(message) => on_message(&run, &mut ledger, &mut latencies, &message.payload),
                // Where the topic is in no stream, the SDK's own gap is the sign of being back.
                Event::Resumed(_) | Event::Gap(Gap { reason: GapReason::Away, .. }) if !is_back => {
                    is_back = true;
                    run.on_back();
                }
                // What a gap tells of never comes, which the ledger sees; the SDK counts what was told.
                Event::Resumed(_) | Event::Gap(_) | Event::Reset(_) => {}
            }
            next = if latencies.len() < BATCH { subscription.try_recv() } else { None };
        }
        run.received.fetch_add(ledger.tally.received - received, Relaxed);
        let mut histogram = lock(&run.latencies[number % HISTOGRAMS]);
        latencies.drain(..).for_each(|us| histogram.saturating_record(us));
    }
    ledger.tally
}

fn on_message(run: &Run, ledger: &mut Ledger, latencies: &mut Vec<u64>, payload: &Payload) {
    let Some(stamp) = Stamp::read(payload.data(), run.plan.payload) else {
        ledger.tally.foreign += 1;
        return;
    };
    latencies.push(run.now().saturating_sub(stamp.due) / 1000);
    let settled = ledger.on_message(stamp);
    if let Some(window) = run.windows.get(stamp.publisher as usize) {
        window.on_settled(settled);
    }
}

/// One publisher, on a thread of its own.
fn publish(run: &Run, handle: &Handle, number: u32, client: &Client) -> Published {
    let plan = &run.plan;
    let mut published = Published::default();
    let mut pending: VecDeque<PendingAck> = VecDeque::new();
    loop {
        let due = match plan.rate {
            Some(rate) => {
                // The publishers take turns.
                let turn = published.messages * u64::from(plan.publishers) + u64::from(number);
                (turn as f64 * 1e9 / f64::from(rate)) as u64
            }
            None => run.now(),
        };
        // A storm goes on until it is stopped.
        if !plan.storm && u128::from(due) >= plan.time.as_nanos() || !wait_until(run, due) {
            break;
        }
        if let Some(window) = run.windows.get(number as usize) {
            match handle.block_on(async { timeout(SETTLE, window.room.acquire()).await }) {
                Ok(Ok(permit)) => permit.forget(),
                // A subscriber gets nothing any more: the run ends here, and says what is missing.
                _ => break,
            }
        }
        let due = if plan.rate.is_some() { due } else { run.now() };
        let stamp = Stamp { publisher: number, sequence: published.messages, due };
        let payload = Payload::binary(stamp.payload(plan.payload));
        // A message without room is published once there is some; it was due before.
        let sent = match client.try_publish(plan.topic.clone(), payload.clone()) {
            Err(error) if error.kind() == PublishErrorKind::Full => {
                let enqueue = client.enqueue(plan.topic.clone(), payload);
                handle.block_on(async { timeout(SETTLE, enqueue).await })
            }
            sent => Ok(sent),
        };
        match sent {
            Ok(Ok(ack)) => pending.push_back(ack),
            Ok(Err(_)) | Err(_) => {
                published.unacknowledged += 1;
                break;
            }
        }
        published.messages += 1;
        while let Some(ack) = pending.front_mut() {
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(settled) = Pin::new(ack).poll(&mut cx) else { break };
            published.unacknowledged += u64::from(settled.is_err());
            pending.pop_front();
        }
        if client.connection_state() == ConnectionState::Closed {
            break;
        }
    }
    for ack in pending {
        let settled = handle.block_on(async { timeout(SETTLE, ack).await });
        published.unacknowledged += u64::from(!matches!(settled, Ok(Ok(_))));
    }
    published
}

/// False where the publishers are to end before that.
#[expect(clippy::disallowed_methods, reason = "a fixed rate is made of waiting for points in time")]
fn wait_until(run: &Run, due: u64) -> bool {
    loop {
        if run.stopped.load(Relaxed) {
            return false;
        }
        let left = Duration::from_nanos(due.saturating_sub(run.now()));
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(TICK));
    }
}

/// Of microseconds, three digits of each.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("bounds that can be had")
}

/// A reader that panicked has left its histogram whole: a record is one addition.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
