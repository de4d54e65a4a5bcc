//! The load generator. Exits with 1, and without a figure, where a subscriber missed, doubled or reordered a message.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidegate_benches::{
    adapter::{Adapter, Fault, Protocol, Visit},
    instructions::Counting,
    load::{Load, Pace, Plan, Spent, Until},
    payload::{MAX_FLOWS, Shape},
    process,
    report::{Comeback, Connections, Report},
    tally::Topology,
};

/// Drives a server and counts what every subscriber gets.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The server's protocol.
    #[arg(long, global = true, value_enum, default_value = "tidegate-json")]
    adapter: Protocol,
    /// The server's address.
    #[arg(long, global = true, default_value = "127.0.0.1:7400")]
    address: SocketAddr,
    /// The server's processes, whose CPU time and memory are read. Repeatable.
    #[arg(long = "pid", global = true)]
    pids: Vec<u32>,
    /// Run on this core only.
    #[arg(long, global = true)]
    core: Option<usize>,
    /// Bytes of a payload: 16, or 21 and more.
    #[arg(long, global = true, default_value_t = 128)]
    payload: usize,
    /// Topic, or what topics begin with.
    #[arg(long, global = true, default_value = "bench.load")]
    topic: String,
    /// The run is void when nothing arrives for so long, in seconds.
    #[arg(long, global = true, default_value_t = 10.0)]
    stall_timeout: f64,
    /// Print the report as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Publishers whose messages go to all subscribers.
    FanOut {
        #[arg(long, default_value_t = 1000)]
        subscribers: usize,
        #[arg(long, default_value_t = 1)]
        publishers: usize,
        /// Subscribers beside the others that never read.
        #[arg(long, default_value_t = 0)]
        stalled: usize,
        /// Before the warm-up, as fast as it goes, so many bytes of payload to each subscriber: what those that never
        /// read have waiting.
        #[arg(long, default_value_t = 0)]
        flood: u64,
        /// Deliveries a second, in place of window and burst; measures latency.
        #[arg(long)]
        rate: Option<f64>,
        #[command(flatten)]
        length: Length,
    },
    /// One publisher whose messages go round over many topics, each with one subscriber.
    Topics {
        #[arg(long, default_value_t = 100_000)]
        topics: usize,
        /// How many share the topics among them; a divisor of their number.
        #[arg(long, default_value_t = 1000)]
        subscribers: usize,
        /// They subscribe by filters with a wildcard, as many as there are topics.
        #[arg(long)]
        wildcards: bool,
        #[command(flatten)]
        length: Length,
    },
    /// Subscribers that are all cut at once and connect again.
    Comeback {
        #[arg(long, default_value_t = 5000)]
        connections: usize,
        /// Under way at a time.
        #[arg(long, default_value_t = 256)]
        at_once: usize,
        /// Messages published while they are away, for which they come back with their positions.
        #[arg(long, default_value_t = 0)]
        missed: usize,
    },
    /// Publishers and subscribers one to one, each pair with a topic of its own.
    Pairs {
        #[arg(long, default_value_t = 1000)]
        pairs: usize,
        /// Deliveries a second, in place of window and burst; measures latency.
        #[arg(long)]
        rate: Option<f64>,
        #[command(flatten)]
        length: Length,
    },
    /// Subscribers that connect and stay: what one costs.
    Idle {
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// How long they do nothing, in seconds.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Messages that then go to all of them, one at a time.
        #[arg(long, default_value_t = 0)]
        messages: u64,
    },
}

#[derive(Debug, Args)]
struct Length {
    /// Messages of a publisher that the slowest subscriber may yet have to receive.
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// Messages a publisher writes in one write.
    #[arg(long, default_value_t = 1)]
    burst: usize,
    /// How long to warm up, in seconds.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Stop measuring after so many deliveries.
    #[arg(long, default_value_t = 100_000_000)]
    deliveries: u64,
}

/// What a topic's number has digits for.
const MAX_TOPICS: usize = 1_000_000;
/// How a flood is published: enough at a time to be fast, not so much that a queue of the healthy overflows.
const FLOOD: Pace = Pace::Window { window: 32, burst: 16 };

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(report) if options.common.json => match serde_json::to_string(&report) {
            Ok(json) => {
                println!("{json}");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error.to_string()),
        },
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(fault) => fail(&fault.to_string()),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("the run is void: {why}");
    ExitCode::FAILURE
}

fn run(options: &Options) -> Result<Report, Fault> {
    let common = &options.common;
    let wrong = |what: &str| Fault::Told(what.to_owned());
    let shape = Shape::new(common.payload).ok_or_else(|| wrong("a payload has 16 bytes, or 21 and more"))?;
    if let Some(core) = common.core {
        process::pin(core)?;
    }
    let files = process::raise_open_files()?;
    let (topology, pace, stalled) = match options.scenario {
        Scenario::FanOut { subscribers, publishers, stalled, rate, ref length, .. } => {
            (Topology::FanOut { subscribers, publishers }, length.pace(rate), stalled)
        }
        Scenario::Pairs { pairs, rate, ref length } => (Topology::Pairs(pairs), length.pace(rate), 0),
        Scenario::Topics { topics, subscribers, ref length, .. } => {
            if subscribers == 0 || !topics.is_multiple_of(subscribers) || topics > MAX_TOPICS {
                return Err(wrong("at most 1,000,000 topics, as many for each subscriber"));
            }
            (Topology::Topics { topics, subscribers }, length.pace(None), 0)
        }
        Scenario::Comeback { connections, missed, .. } => {
            let topology = Topology::FanOut { subscribers: connections, publishers: 1 };
            let window = missed.max(1);
            (topology, Pace::Window { window, burst: 1 }, 0)
        }
        Scenario::Idle { connections, .. } => {
            let topology = Topology::FanOut { subscribers: connections, publishers: 1 };
            (topology, Pace::Window { window: 1, burst: 1 }, 0)
        }
    };
    if topology.subscribers() == 0 || !(1..=MAX_FLOWS).contains(&topology.flows()) {
        return Err(wrong("there must be a subscriber and 1 to 10,000 publishers"));
    }
    if matches!(pace, Pace::Window { window, burst } if burst == 0 || burst > window) {
        return Err(wrong("a burst has at least one message and at most the window"));
    }
    // Standard streams, epoll and what /proc needs for a moment.
    if (topology.subscribers() + topology.flows() + stalled + 16) as u64 > files {
        return Err(wrong(&format!("no more than {files} files may be open")));
    }
    let plan = Plan {
        address: common.address,
        pids: common.pids.clone(),
        topology,
        topic: common.topic.clone(),
        shape: shape.clone(),
        pace,
        wildcards: matches!(options.scenario, Scenario::Topics { wildcards: true, .. }),
        stalled,
        stall_timeout: Duration::try_from_secs_f64(common.stall_timeout)
            .map_err(|error| wrong(&error.to_string()))?,
    };
    common.adapter.with(&shape, Run { options, plan })
}

impl Length {
    fn pace(&self, rate: Option<f64>) -> Pace {
        rate.map_or(Pace::Window { window: self.window, burst: self.burst }, Pace::Rate)
    }

    fn warm_up(&self) -> Until {
        Until { elapsed: Duration::from_secs_f64(self.warm_up), deliveries: self.deliveries }
    }

    fn measure(&self) -> Until {
        Until { elapsed: Duration::from_secs_f64(self.seconds), deliveries: self.deliveries }
    }
}

struct Run<'a> {
    options: &'a Options,
    plan: Plan,
}

impl Visit for Run<'_> {
    type Output = Result<Report, Fault>;

    fn visit(self, adapter: impl Adapter) -> Self::Output {
        let (scenario, adapter_name) = (self.scenario(), self.adapter_name());
        let server_is_known = !self.plan.pids.is_empty();
        match self.options.scenario {
            Scenario::FanOut { ref length, .. }
            | Scenario::Pairs { ref length, .. }
            | Scenario::Topics { ref length, .. } => {
                let subscribers = self.plan.topology.subscribers() as u64;
                let size = self.plan.shape.size() as u64;
                let pids = self.plan.pids.clone();
                let mut load = Load::connect(adapter, self.plan)?;
                if let Scenario::FanOut { flood: flood @ 1.., .. } = self.options.scenario {
                    let deliveries = flood.div_ceil(size) * subscribers;
                    load.phase_at(FLOOD, Until { elapsed: Duration::MAX, deliveries })?;
                }
                // Attaching takes the warm-up's time, not the measurement's.
                let counting = Counting::attach(&pids);
                load.phase(length.warm_up())?;
                let counting = counting.and_then(Counting::start);
                let measured = load.phase(length.measure())?;
                let report = Report::of(scenario, adapter_name, &measured, server_is_known);
                Ok(report.with_instructions(counting.and_then(Counting::end)))
            }
            Scenario::Comeback { connections: count, at_once, missed } => {
                let pids = self.plan.pids.clone();
                let mut load = Load::connect(adapter, self.plan)?;
                let before = process::Usage::of_all(&pids)?;
                load.cut()?;
                load.publish_missed(missed)?;
                let ready = load.reconnect(at_once, missed > 0)?;
                let whole = load.settle()?;
                let spent = Spent::between(before, process::Usage::of_all(&pids)?);
                // They are there again: what is published now reaches every one of them.
                load.phase(Until { elapsed: Duration::MAX, deliveries: 10 * count as u64 })?;
                let ms = |time: Duration| time.as_secs_f64() * 1e3;
                let all = ready.last().copied().unwrap_or_default();
                let comeback = Comeback {
                    count,
                    at_once,
                    missed,
                    most_ms: ms(ready[(count * 99).div_ceil(100) - 1]),
                    all_ms: ms(all),
                    whole_ms: ms(all + whole),
                    cpu_us: spent.cpu_ns as f64 / 1e3 / count as f64,
                };
                let comeback = server_is_known.then_some(comeback);
                Ok(Report { scenario, adapter: adapter_name, comeback, ..Report::default() })
            }
            Scenario::Idle { connections, seconds, messages } => {
                let before = process::Usage::of_all(&self.plan.pids)?.rss_bytes;
                let each = |spent: Spent| spent.rss_bytes.saturating_sub(before) as f64 / connections as f64;
                let mut load = Load::connect(adapter, self.plan)?;
                load.linger(Duration::from_millis(500))?;
                let spent = load.spent_on_connecting()?;
                load.linger(Duration::from_secs_f64(seconds))?;
                let idle_ns = load.spent_on_connecting()?.cpu_ns.saturating_sub(spent.cpu_ns);
                let mut report = Report { scenario, adapter: adapter_name, ..Report::default() };
                let mut costs = Connections {
                    count: connections,
                    connect_cpu_us: spent.cpu_ns as f64 / 1e3 / connections as f64,
                    rss_bytes: each(spent),
                    idle_cpu_us: idle_ns as f64 / 1e3 / connections as f64 / seconds.max(1e-3),
                    rss_bytes_after_traffic: None,
                };
                if messages > 0 {
                    let until = Until { elapsed: Duration::MAX, deliveries: messages * connections as u64 };
                    let measured = load.phase(until)?;
                    costs.rss_bytes_after_traffic = Some(each(measured.server));
                    report = Report::of(report.scenario, report.adapter, &measured, server_is_known);
                }
                report.connections = server_is_known.then_some(costs);
                Ok(report)
            }
        }
    }
}

impl Run<'_> {
    fn adapter_name(&self) -> String {
        let name = self.options.common.adapter.to_possible_value();
        name.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn scenario(&self) -> String {
        let Plan { topology, pace, stalled, .. } = &self.plan;
        let size = self.options.common.payload;
        let who = match (topology, &self.options.scenario) {
            (_, Scenario::Idle { connections, .. }) => return format!("{connections} idle subscribers"),
            (_, Scenario::Comeback { connections, missed, .. }) => {
                return format!("{connections} subscribers come back for {missed} messages");
            }
            (Topology::Topics { topics, subscribers }, _) => {
                let filters = if self.plan.wildcards { "filters with a wildcard" } else { "topics" };
                format!("1 to {topics} {filters} of {subscribers} subscribers")
            }
            (Topology::FanOut { subscribers, publishers }, _) => {
                format!("{publishers} to {subscribers}, {stalled} stalled")
            }
            (Topology::Pairs(pairs), _) => format!("{pairs} pairs"),
        };
        match pace {
            Pace::Window { window, burst } => format!("{who}, {size} B, window {window}, burst {burst}"),
            Pace::Rate(rate) => format!("{who}, {size} B, {rate} deliveries a second"),
        }
    }
}
