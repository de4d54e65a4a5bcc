//! `tidegate bench`: load for a running broker, and what it made of it.
//!
//! Publishers and subscribers are clients of the SDK, one connection each, so that what is measured is what an
//! application sees: broker and SDK together. [`ledger`] judges what arrives, [`line`] are the sockets, [`report`] says
//! what was found.

mod ledger;
mod line;
mod report;

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tidegate_client::{
    Client, ConnectionState, Event, Gap, GapReason, Options, Overflow, Payload, PendingAck, PublishErrorKind,
    Subscription, Topic,
};
use tokio::{
    runtime::{Builder, Handle},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    ledger::{Ledger, Stamp, Tally, Window},
    line::{Cut, Stall},
    report::{Quantiles, Report, Storm},
};
use super::{Failure, connection::Connection, signals::Signals};

/// Put load on a running broker and measure what it makes of it
///
/// Every message is counted at every subscriber: a run in which one is missing, doubled or out of order is void.
/// Publishers and subscribers are clients of the Rust SDK, one connection each, and run in this process: what is
/// measured is broker and SDK together, and where both share a machine the SDK is the larger part. What the broker alone
/// can do is measured in benches/, with a load generator that costs less than any server.
#[derive(Debug, Args)]
#[command(
    // Else clap answers a missing subcommand with its whole help, which is no line that says what is wrong.
    arg_required_else_help = false,
    after_help = "Exit codes: 0 every subscriber got every message once and in order; 1 one did not, or the broker could \
                  not be reached; 2 a mistake in the flags.\n\n\
                  tidegate bench fan-out --subscribers 1000 --publishers 4\n\
                  tidegate bench latency --rate 5000 --json"
)]
pub(super) struct Bench {
    #[command(subcommand)]
    mode: Mode,
}

const EXIT_CODES: &str = "Exit codes: 0 every subscriber got every message once and in order; 1 one did not, or the broker \
                          could not be reached; 2 a mistake in the flags.";

#[derive(Debug, Subcommand)]
enum Mode {
    /// As many messages as all subscribers can take: a publisher goes no further than 256 messages beyond the slowest
    ///
    /// Latency counts from the call that publishes.
    #[command(after_help = EXIT_CODES)]
    FanOut(Load),
    /// Messages at a fixed rate (1,000 a second), and how long each took
    ///
    /// Latency counts from when a message was due, whether it could be published then or not: a broker that stalls is
    /// charged for every message that its stall held up (no coordinated omission).
    #[command(after_help = EXIT_CODES)]
    Latency(Load),
    /// All subscribers connect at once; then all are cut at once and come back, while messages go on (100 a second)
    ///
    /// Coming back includes the up to 200 ms that the SDK waits before its first attempt. --seconds is how long to wait
    /// for them to come, and to come back, at most.
    #[command(after_help = EXIT_CODES)]
    Storm(Load),
}

#[derive(Debug, Args)]
struct Load {
    #[command(flatten)]
    connection: Connection,

    /// Connections that subscribe [default: 100; of storm 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    subscribers: Option<u32>,

    /// Connections that publish
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    publishers: u32,

    /// Size of a message's payload, at least 20
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(20..))]
    payload: u32,

    /// Messages a second, of all publishers together [default: fan-out as many as go, latency 1000, storm 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// How long to publish [default: 10; of storm 60]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: Option<u32>,

    /// Subscribers beside the others that never read what they are sent, and are not counted
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    stalled: u32,

    /// The topic [default: a random one under bench]
    #[arg(long, value_parser = super::publish::topic)]
    topic: Option<Topic>,

    /// Print the result as one JSON object; latencies in microseconds
    #[arg(long)]
    json: bool,
}

/// Messages of one publisher on their way in fan-out: what a lane of the broker holds by default, so that nobody falls
/// behind by design.
const WINDOW: usize = 256;
/// Connections that are made at a time, but for a storm.
const CONNECTING: usize = 64;
/// What the SDK holds for a reader: more than the window of several publishers.
const BUFFER: u32 = 4096;
/// Credit of one who never reads: no bound, so that the socket is what stalls.
const UNLIMITED: u32 = 1 << 30;
/// Where nothing has arrived for so long, nothing will.
const SETTLE: Duration = Duration::from_secs(10);
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

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (name, load) = match &self.mode {
            Mode::FanOut(load) => ("fan-out", load),
            Mode::Latency(load) => ("latency", load),
            Mode::Storm(load) => ("storm", load),
        };
        let (fan_out, storm) = (matches!(self.mode, Mode::FanOut(_)), matches!(self.mode, Mode::Storm(_)));
        let subscribers = load.subscribers.unwrap_or(if storm { 1000 } else { 100 });
        let topic = match &load.topic {
            Some(topic) => topic.clone(),
            None => Topic::parse(&format!("bench.{:016x}", fastrand::u64(..)))
                .map_err(|error| Failure::Failed(error.to_string()))?,
        };
        let plan = Plan {
            name,
            storm,
            url: load.connection.url().to_owned(),
            topic,
            subscribers,
            publishers: load.publishers,
            payload: load.payload as usize,
            rate: load.rate.or(if fan_out { None } else { Some(if storm { 100 } else { 1000 }) }),
            window: fan_out,
            time: Duration::from_secs(load.seconds.unwrap_or(if storm { 60 } else { 10 }).into()),
            stalled: load.stalled,
        };
        open_files(u64::from(subscribers) + u64::from(load.stalled) + u64::from(load.publishers))?;
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start a runtime: {error}")))?;
        let report = runtime.block_on(plan.run())?;
        // Thousands of clients that say goodbye would take longer than the run.
        runtime.shutdown_background();
        if load.json {
            let json = serde_json::to_string(&report).map_err(|error| Failure::Failed(error.to_string()))?;
            super::print(&(json + "\n"))?;
        } else {
            super::print(&report.to_string())?;
        }
        report.fault().map_or(Ok(()), |fault| Err(Failure::Failed(fault)))
    }
}

/// A run, with nothing left to be decided.
#[derive(Debug, Clone)]
struct Plan {
    name: &'static str,
    url: String,
    topic: Topic,
    subscribers: u32,
    publishers: u32,
    payload: usize,
    /// Messages a second, of all publishers; as many as go where absent.
    rate: Option<u32>,
    /// Whether publishers wait for the slowest subscriber.
    window: bool,
    /// Whether all come at once, are cut and come back.
    storm: bool,
    /// How long is published; of a storm, how long it may last.
    time: Duration,
    stalled: u32,
}

/// What publishers and readers share.
struct Run {
    plan: Plan,
    /// What stamps count from.
    began: Instant,
    /// Publishers end.
    stopped: AtomicBool,
    published: AtomicU64,
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

impl Plan {
    async fn run(self) -> Result<Report, Failure> {
        let mut signals = Signals::catch().map_err(|error| Failure::Failed(format!("signals: {error}")))?;
        let bar = progress();
        bar.set_message("connecting");
        let peers = tokio::select! {
            peers = self.connect_all(&bar) => peers?,
            () = signals.recv() => return Err(Failure::Failed("stopped before the end".into())),
        };
        let run = Arc::new(Run::new(self));
        tokio::select! {
            report = measure(run.clone(), peers, &bar) => report,
            // The first ends the publishing, and what was found is told; the second ends all.
            () = async {
                signals.recv().await;
                run.stopped.store(true, Relaxed);
                signals.recv().await;
            } => Err(Failure::Failed("stopped before the end".into())),
        }
    }

    async fn connect_all(&self, bar: &ProgressBar) -> Result<Peers, Failure> {
        let cut = Cut::new();
        let publishers = self.connect_publishers().await?;
        let stalled = self.connect_stalled(bar).await?;
        let (subscribers, connected_us) = self.connect_subscribers(&cut, bar).await?;
        Ok(Peers { cut, publishers, stalled, subscribers, connected_us })
    }

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

/// Everyone who is connected.
struct Peers {
    cut: Cut,
    publishers: Vec<Client>,
    stalled: Vec<(Client, Subscription)>,
    subscribers: Vec<(Client, Subscription)>,
    /// How long each subscriber took since the first began.
    connected_us: Histogram<u64>,
}

/// From the first publish to the last delivery.
async fn measure(run: Arc<Run>, peers: Peers, bar: &ProgressBar) -> Result<Report, Failure> {
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
        run.stopped.store(true, Relaxed);
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

impl Run {
    fn new(plan: Plan) -> Self {
        let windows = if plan.window { plan.publishers } else { 0 };
        Self {
            windows: (0..windows).map(|_| Window::new(WINDOW, plan.subscribers)).collect(),
            plan,
            began: Instant::now(),
            stopped: AtomicBool::new(false),
            published: AtomicU64::new(0),
            received: AtomicU64::new(0),
            latencies: (0..HISTOGRAMS).map(|_| Mutex::new(histogram())).collect(),
            cut_at: AtomicU64::new(0),
            back: AtomicU64::new(0),
            back_us: Mutex::new(histogram()),
        }
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
        run.published.fetch_add(1, Relaxed);
        while let Some(ack) = pending.front_mut() {
            let mut cx = std::task::Context::from_waker(Waker::noop());
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

fn progress() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::hidden());
    if io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_bar} {percent:>3} % {msg}") {
            bar.set_style(style);
        }
    }
    bar
}

/// Of microseconds, three digits of each.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("bounds that can be had")
}

/// A reader that panicked has left its histogram whole: a record is one addition.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Open files beside the connections.
const OTHER_FILES: u64 = 64;

/// Raises the soft limit to what the connections need.
fn open_files(connections: u64) -> Result<(), Failure> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections + OTHER_FILES;
    if limit.current.is_none_or(|current| wanted <= current) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(wanted), ..limit };
    match limit.maximum {
        Some(most) if most < wanted => {
            Err(Failure::Mistake(format!("{connections} connections: this process may open {most} files")))
        }
        _ => setrlimit(Resource::Nofile, raised)
            .map_err(|error| Failure::Failed(format!("the limit of open files cannot be raised: {error}"))),
    }
}
