//! Measures servers beside each other: interleaved (A B C A B C …), each alone on its core, the load on another;
//! prints medians and, round by round, ratios to the floor.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use tidegate_benches::{
    contest::{Contender, Outcome, Round, Settings, median, sibling},
    peers::{self, PEERS},
    process,
    report::Report,
    scenario::Scenario,
};

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
    /// `window/burst[+stalled]`, `rate/deliveries a second`, `slow/stalled`, `pairs[/in flight]`, `many/publishers`,
    /// `topics/…`, `wildcards/…`, `idle/connections`, `storm/…` or `resume/…`, then `[@subscribers][:payload]`.
    #[arg(long, value_delimiter = ',', default_value = "1/1,32/16,256/128")]
    scenarios: Vec<Scenario>,
    /// Peers of `benches/peers`, installed there, to measure beside: names, or `all`.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How often each is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one measurement is, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How long it warms up, in seconds.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Subscribers of every fan-out, in place of what the scenario says.
    #[arg(long)]
    subscribers: Option<usize>,
    /// Bytes of every payload, in place of what the scenario says.
    #[arg(long)]
    payload: Option<usize>,
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

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every run was valid.
fn run(options: &Options) -> io::Result<bool> {
    process::raise_open_files()?;
    let contenders = options.contenders()?;
    let settings = Settings {
        rounds: options.rounds,
        seconds: options.seconds,
        warm_up: options.warm_up,
        server_core: options.server_core,
        load_core: options.load_core,
    };
    let mut valid = true;
    for &scenario in &options.scenarios {
        let scenario = Scenario {
            subscribers: options.subscribers.unwrap_or(scenario.subscribers),
            payload: options.payload.unwrap_or(scenario.payload),
            ..scenario
        };
        let outcomes =
            settings.contest(&[scenario], &contenders, |scenario, contender, outcome| match outcome {
                Outcome::Valid(round) if options.json => {
                    println!("{}", serde_json::to_string(&round.report).unwrap_or_default());
                }
                Outcome::Valid(_) => {}
                Outcome::Void(why) => {
                    valid = false;
                    eprintln!("{} at {}: {why}", contender.name, scenario.title());
                }
            });
        print!("{}", table(scenario, options, &contenders, &outcomes[0]));
    }
    Ok(valid)
}

impl Options {
    fn contenders(&self) -> io::Result<Vec<Contender>> {
        let floor = sibling("floor")?.to_string_lossy().into_owned();
        let mut contenders = vec![peers::floor(&floor)];
        if let Some(bytes) = self.frame_bytes {
            let command = [&*floor, "--frame-bytes", &bytes.to_string()];
            contenders.push(Contender::new(&format!("floor-{bytes}"), "floor", &command));
        }
        for (binary, prefix) in [(&self.tidegate, ""), (&self.other, "other-")] {
            let Some(binary) = binary else { continue };
            let command = [&*binary.to_string_lossy(), "serve", "--listen", "127.0.0.1:0"];
            for adapter in &self.adapters {
                contenders.push(Contender::new(&format!("{prefix}{adapter}"), adapter, &command));
            }
        }
        for name in &self.peers {
            let before = contenders.len();
            let chosen = PEERS.iter().filter(|peer| name == "all" || name == peer.name);
            contenders.extend(chosen.map(|peer| peer.contender(Path::new("."))));
            if contenders.len() == before {
                return Err(io::Error::other(format!("there is no peer {name}")));
            }
        }
        contenders.extend(self.servers.iter().cloned());
        Ok(contenders)
    }
}

fn table(scenario: Scenario, options: &Options, contenders: &[Contender], rounds: &[Vec<Outcome>]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\n{}; median [min-max] of {} rounds; beside the floor round by round",
        scenario.title(),
        options.rounds
    );
    let _ = writeln!(
        out,
        "{:<20} {:<18} {:>28} {:>24} {:>11} {:>7} {:>17}",
        "server", "figure", "measured", "x floor", "bytes each", "a read", "generator CPU µs"
    );
    for (contender, outcomes) in contenders.iter().zip(rounds) {
        let valid: Vec<&Round> = outcomes.iter().filter_map(Outcome::valid).collect();
        let Some(first) = valid.first() else { continue };
        for (index, (figure, _)) in first.figures().into_iter().enumerate() {
            let own: Vec<f64> =
                valid.iter().filter_map(|round| Some(round.figures().get(index)?.1)).collect();
            let ratio: Vec<f64> = outcomes
                .iter()
                .zip(&rounds[0])
                .filter_map(|(own, floor)| Some((own.valid()?, floor.valid()?)))
                .filter_map(|(own, floor)| Some(own.figures().get(index)?.1 / floor.figures().get(index)?.1))
                .collect();
            let name = if index == 0 { &contender.name } else { "" };
            let _ = write!(out, "{name:<20} {figure:<18} {:>28} {:>24}", spread(&own), spread(&ratio));
            if index == 0 && first.report.deliveries > 0 {
                let middle = |read: fn(&Report) -> f64| {
                    median(&valid.iter().map(|round| read(&round.report)).collect::<Vec<_>>())
                };
                let _ = write!(out, " {:>11.1}", middle(|report| report.wire_bytes));
                let _ = write!(out, " {:>7.1}", middle(|report| report.messages_a_read));
                let _ = write!(out, " {:>17.3}", middle(|report| report.generator_cpu_us));
            }
            let _ = writeln!(out);
        }
    }
    out
}

fn spread(values: &[f64]) -> String {
    // Beside a floor of nothing there is no ratio.
    if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
        return "-".to_owned();
    }
    let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(min, max), &v| (min.min(v), max.max(v)));
    let digits = if median(values) >= 100.0 { 0 } else { 3 };
    format!("{:.digits$} [{min:.digits$}-{max:.digits$}]", median(values))
}
