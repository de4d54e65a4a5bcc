//! `tidegate bench`: load for a running broker, and what it made of it.
//!
//! Publishers and subscribers are clients of the SDK, one connection each, so that what is measured is what an
//! application sees: broker and SDK together.
//!
//! * [`peers`]: who is connected, over [`line`]: sockets that can be cut and left unread.
//! * [`run`]: from the first publish to the last delivery; [`ledger`] judges what arrives.
//! * [`report`]: what was found.

mod ledger;
mod line;
mod peers;
mod report;
mod run;

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tidegate_client::Topic;
use tokio::runtime::Builder;

use self::{peers::Peers, report::Report, run::Run};
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

impl Plan {
    async fn run(self) -> Result<Report, Failure> {
        let mut signals = Signals::catch().map_err(|error| Failure::Failed(format!("signals: {error}")))?;
        let bar = progress();
        bar.set_message("connecting");
        let peers = tokio::select! {
            peers = Peers::connect(&self, &bar) => peers?,
            () = signals.recv() => return Err(Failure::Failed("stopped before the end".into())),
        };
        let run = Arc::new(Run::new(self));
        tokio::select! {
            report = run.measure(peers, &bar) => report,
            // The first ends the publishing, and what was found is told; the second ends all.
            () = async {
                signals.recv().await;
                run.stop();
                signals.recv().await;
            } => Err(Failure::Failed("stopped before the end".into())),
        }
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
