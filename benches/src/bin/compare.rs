//! Measures servers beside each other: interleaved (A B C A B C …), each alone on its core, the load on another;
//! prints medians and, round by round, ratios to the floor.

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    str::FromStr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use tidegate_benches::{probe, process, report::Report};

/// Compares servers in one run.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The broker's binary. Without it only the floor is measured.
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// Another broker's binary, to compare two builds: it stands beside the first as `other-…`.
    #[arg(long)]
    other: Option<PathBuf>,
    /// Measure the broker with these adapters.
    #[arg(long, value_delimiter = ',', default_value = "tidegate-bincode,tidegate-json")]
    adapters: Vec<String>,
    /// Another server: `name=adapter=command line`. `{port}` in it becomes a free port. Repeatable.
    #[arg(long = "server")]
    servers: Vec<Contender>,
    /// `window/burst`, `window/burst+stalled`, `rate/deliveries a second`, `pairs`, `pairs/in flight` or
    /// `idle/connections`.
    #[arg(long, value_delimiter = ',', default_value = "1/1,32/16,256/128")]
    scenarios: Vec<Scenario>,
    /// How often each is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one measurement is, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Subscribers of a fan-out.
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// A second floor whose deliveries have this many bytes on the wire, as many as the broker's.
    #[arg(long)]
    frame_bytes: Option<usize>,
    /// The servers' core.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The load generator's core.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Print every report as JSON, one a line, before the tables.
    #[arg(long)]
    json: bool,
}

/// A server to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contender {
    name: String,
    adapter: String,
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    FanOut { window: usize, burst: usize, stalled: usize },
    Rate { deliveries: usize },
    Pairs { in_flight: usize },
    Idle { connections: usize },
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    let contenders = options.contenders()?;
    for &scenario in &options.scenarios {
        let mut rounds: Vec<Vec<Round>> = Vec::new();
        for _ in 0..options.rounds {
            let round = contenders.iter().map(|contender| measure(options, scenario, contender));
            rounds.push(round.collect::<io::Result<_>>()?);
        }
        print!("{}", table(scenario, options, &contenders, &rounds));
    }
    Ok(())
}

impl Options {
    fn contenders(&self) -> io::Result<Vec<Contender>> {
        let floor = sibling("floor")?;
        let mut contenders = vec![Contender::new("floor", "floor", &[&floor])];
        if let Some(bytes) = self.frame_bytes {
            let command = [&floor, "--frame-bytes", &bytes.to_string()];
            contenders.push(Contender::new(&format!("floor-{bytes}"), "floor", &command));
        }
        for (binary, prefix) in [(&self.tidegate, ""), (&self.other, "other-")] {
            let Some(binary) = binary else { continue };
            let command = [&*binary.to_string_lossy(), "serve", "--listen", "127.0.0.1:0"];
            for adapter in &self.adapters {
                contenders.push(Contender::new(&format!("{prefix}{adapter}"), adapter, &command));
            }
        }
        contenders.extend(self.servers.iter().cloned());
        Ok(contenders)
    }
}

/// A program of this crate, built beside this one.
fn sibling(name: &str) -> io::Result<String> {
    let path = std::env::current_exe()?.with_file_name(name);
    path.exists()
        .then(|| path.to_string_lossy().into_owned())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} is not built", path.display())))
}

impl Contender {
    fn new(name: &str, adapter: &str, command: &[&str]) -> Self {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Self { name: name.to_owned(), adapter: adapter.to_owned(), command }
    }
}

impl FromStr for Contender {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '=');
        let (Some(name), Some(adapter), Some(command)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("a server is given as name=adapter=command line");
        };
        let command: Vec<_> = command.split_whitespace().collect();
        if command.is_empty() {
            return Err("a server needs a command");
        }
        Ok(Self::new(name, adapter, &command))
    }
}

impl FromStr for Scenario {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            text.parse()
                .map_err(|_| "a scenario is window/burst[+stalled], rate/…, pairs[/in flight] or idle/…")
        };
        let (kind, rest) = text.split_once('/').unwrap_or((text, "1"));
        match kind {
            "rate" => Ok(Self::Rate { deliveries: number(rest)? }),
            "pairs" => Ok(Self::Pairs { in_flight: number(rest)? }),
            "idle" => Ok(Self::Idle { connections: number(rest)? }),
            window => {
                let (burst, stalled) = rest.split_once('+').unwrap_or((rest, "0"));
                Ok(Self::FanOut { window: number(window)?, burst: number(burst)?, stalled: number(stalled)? })
            }
        }
    }
}

impl Scenario {
    fn arguments(self, options: &Options) -> Vec<String> {
        let subscribers = options.subscribers;
        let scenario = match self {
            Self::FanOut { window, burst, stalled } => {
                format!(
                    "fan-out --subscribers {subscribers} --window {window} --burst {burst} --stalled {stalled}"
                )
            }
            Self::Rate { deliveries } => format!("fan-out --subscribers {subscribers} --rate {deliveries}"),
            Self::Pairs { in_flight } => format!("pairs --window {in_flight} --burst {in_flight}"),
            Self::Idle { connections } => return words(&format!("idle --connections {connections}")),
        };
        words(&format!("{scenario} --seconds {}", options.seconds))
    }

    fn title(self, options: &Options) -> String {
        match self {
            Self::FanOut { window, burst, stalled: 0 } => {
                format!("fan-out to {}, {window}/{burst}", options.subscribers)
            }
            Self::FanOut { window, burst, stalled } => {
                format!(
                    "fan-out to {}, {window}/{burst}, beside {stalled} that never read",
                    options.subscribers
                )
            }
            Self::Rate { deliveries } => {
                format!("fan-out to {}, {deliveries} deliveries a second", options.subscribers)
            }
            Self::Pairs { in_flight } => format!("1,000 pairs, {in_flight} in flight"),
            Self::Idle { connections } => format!("{connections} idle subscribers"),
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// One measurement.
struct Round {
    report: Report,
    /// What a send and receive on the server's core cost around it, in µs.
    probe_us: f64,
}

impl Round {
    /// What is compared, with its unit.
    fn figures(&self) -> Vec<(&'static str, f64)> {
        match self.report.connections {
            Some(cost) => vec![("connect, CPU µs", cost.connect_cpu_us), ("RSS, bytes", cost.rss_bytes)],
            None => {
                let cpu = self.report.server_cpu_us.unwrap_or(f64::NAN);
                let mut figures = vec![("CPU µs a delivery", cpu), ("over the probe", cpu / self.probe_us)];
                if let Some([p50, p99, ..]) = self.report.latency_ms {
                    figures.extend([("latency p50, ms", p50), ("latency p99, ms", p99)]);
                }
                figures
            }
        }
    }
}

fn measure(options: &Options, scenario: Scenario, contender: &Contender) -> io::Result<Round> {
    let probe_before = probe::send_and_receive(options.server_core)?;
    let server = Server::start(&contender.command, options.server_core)?;
    let output = Command::new(sibling("load")?)
        .args(scenario.arguments(options))
        .args(["--json", "--adapter", &contender.adapter])
        .args(["--address", &server.address.to_string()])
        .args(["--pid", &server.process.id().to_string()])
        .args(["--core", &options.load_core.to_string()])
        .args(["--payload", &options.payload.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    drop(server);
    let probe_after = probe::send_and_receive(options.server_core)?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{} failed at {}", contender.name, scenario.title(options))));
    }
    if options.json {
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
    let report = serde_json::from_slice(&output.stdout)?;
    Ok(Round { report, probe_us: (probe_before + probe_after) / 2e3 })
}

/// How long a server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that runs, until this is dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts it on one core, and waits until it says where it listens.
    fn start(command: &[String], core: usize) -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let given_port = command.iter().any(|word| word.contains("{port}"));
        let words: Vec<_> = command.iter().map(|word| word.replace("{port}", &port.to_string())).collect();
        // A process inherits the cores of the thread that starts it.
        let mut process = thread::scope(|scope| {
            let start = scope.spawn(|| {
                process::pin(core)?;
                Command::new(&words[0])
                    .args(&words[1..])
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
            });
            start.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
        })?;
        // Room for the one address that is waited for.
        let (found, address) = mpsc::sync_channel(1);
        if let Some(stdout) = process.stdout.take() {
            watch(stdout, found.clone());
        }
        if let Some(stderr) = process.stderr.take() {
            watch(stderr, found);
        }
        let mut server = Self { process, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            match address.recv_timeout(Duration::from_millis(50)) {
                Ok(address) if !given_port => {
                    server.address = address;
                    return Ok(server);
                }
                _ if given_port && TcpStream::connect(server.address).is_ok() => return Ok(server),
                _ => {}
            }
        }
        Err(io::Error::other(format!("{} does not say where it listens", words[0])))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads to the end, so that the server is never blocked on its log, and hands over the first address in it.
fn watch(output: impl Read + Send + 'static, found: mpsc::SyncSender<SocketAddr>) {
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if let Some(address) = address_in(&String::from_utf8_lossy(&line)) {
                // Only the first is waited for.
                let _ = found.try_send(address);
            }
        }
    });
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let start = line.find("127.0.0.1:")?;
    let address = &line[start..];
    let end = address.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(address.len());
    address[..end].parse().ok().filter(|address: &SocketAddr| address.port() != 0)
}

fn table(scenario: Scenario, options: &Options, contenders: &[Contender], rounds: &[Vec<Round>]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\n{}, {} B payload; median [min-max] of {} rounds; beside the floor round by round",
        scenario.title(options),
        options.payload,
        rounds.len()
    );
    let _ = writeln!(
        out,
        "{:<20} {:<18} {:>28} {:>24} {:>11} {:>17}",
        "server", "figure", "measured", "x floor", "bytes each", "generator CPU µs"
    );
    for (index, contender) in contenders.iter().enumerate() {
        for figure in 0..rounds[0][index].figures().len() {
            let of = |round: &Vec<Round>, index: usize| round[index].figures()[figure].1;
            let own: Vec<f64> = rounds.iter().map(|round| of(round, index)).collect();
            let ratio: Vec<f64> = rounds.iter().map(|round| of(round, index) / of(round, 0)).collect();
            let name = if figure == 0 { &contender.name } else { "" };
            let _ = write!(out, "{name:<20} {:<18} ", rounds[0][index].figures()[figure].0);
            let _ = write!(out, "{:>28} {:>24}", spread(&own), spread(&ratio));
            if figure == 0 && rounds[0][index].report.deliveries > 0 {
                let report = |read: fn(&Report) -> f64| {
                    median(&rounds.iter().map(|round| read(&round[index].report)).collect::<Vec<_>>())
                };
                let _ = write!(out, " {:>11.1}", report(|report| report.wire_bytes));
                let _ = write!(out, " {:>17.3}", report(|report| report.generator_cpu_us));
            }
            let _ = writeln!(out);
        }
    }
    out
}

fn spread(values: &[f64]) -> String {
    let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(min, max), &v| (min.min(v), max.max(v)));
    let digits = if median(values) >= 100.0 { 0 } else { 3 };
    format!("{:.digits$} [{min:.digits$}-{max:.digits$}]", median(values))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_any_log_line() {
        let expected = Some("127.0.0.1:41234".parse().unwrap());
        assert_eq!(address_in("listening on 127.0.0.1:41234"), expected);
        assert_eq!(address_in("INFO tidegate: listening url=ws://127.0.0.1:41234/ws"), expected);
        assert_eq!(address_in("{\"address\":\"127.0.0.1:41234\"}"), expected);
        assert_eq!(address_in("will listen on 127.0.0.1:0"), None);
    }

    #[test]
    fn scenarios_and_servers_are_read_as_documented() {
        assert_eq!("32/16".parse(), Ok(Scenario::FanOut { window: 32, burst: 16, stalled: 0 }));
        assert_eq!("32/16+50".parse(), Ok(Scenario::FanOut { window: 32, burst: 16, stalled: 50 }));
        assert_eq!("rate/60000".parse(), Ok(Scenario::Rate { deliveries: 60_000 }));
        assert_eq!("pairs".parse(), Ok(Scenario::Pairs { in_flight: 1 }));
        assert_eq!("idle/500".parse(), Ok(Scenario::Idle { connections: 500 }));
        assert!("idle/x".parse::<Scenario>().is_err());
        assert_eq!(
            "bun=bare=bun run x.ts".parse(),
            Ok(Contender::new("bun", "bare", &["bun", "run", "x.ts"]))
        );
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[9.0, 1.0, 3.0]), 3.0);
    }
}
