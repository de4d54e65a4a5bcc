//! Compares the broker with its peers in every scenario, and writes `docs/benchmarks.md`, its plots and the raw
//! figures. `benches/report` builds and installs what it needs, then runs it.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use clap::Parser;
use serde_json::Value;
use tidegate_benches::{
    contest::{Contender, Outcome, Settings, sibling},
    document::{Group, Machine, Record, Row, ServerInfo, Table},
    peers::{self, PEERS},
    process,
    scenario::Scenario,
};

/// Writes the benchmarks' page.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The project's root.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// The broker's binary.
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// Less of everything: in less than 15 minutes.
    #[arg(long)]
    quick: bool,
    /// Only these peers, besides the floor and Tidegate; `none` for none.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only these groups of scenarios: fan-out, growth, payloads, latency, pairs, topics, idle, slow, comeback.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// How often each is measured, in place of each group's own.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long one measurement is, in seconds: 0.5 if quick, else 2.
    #[arg(long)]
    seconds: Option<f64>,
    /// Numbers of subscribers, connections and topics are divided by this: for trying the report out.
    #[arg(long, default_value_t = 1)]
    shrink: usize,
    /// The servers' core.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The load generator's core.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Measure nothing: write the page again from the raw figures of an earlier run.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Go on with a run that was cut short: groups that stand in its raw figures are not measured again.
    #[arg(long)]
    resume: bool,
    /// Where the raw figures go: `docs/benchmarks/quick.json` or `full.json`.
    #[arg(long)]
    raw: Option<PathBuf>,
}

/// Scenarios to be compared with each other.
struct Plan {
    name: &'static str,
    heading: &'static str,
    note: &'static str,
    /// Rounds: quick, full.
    rounds: (usize, usize),
    quick: &'static str,
    /// What the full report measures beside that.
    full: &'static str,
}

const PLANS: &[Plan] = &[
    Plan {
        name: "fan-out",
        heading: "Fan-out",
        note: "One publisher, 1,000 subscribers.",
        rounds: (2, 5),
        quick: "1/1 32/16 256/128",
        full: "",
    },
    Plan {
        name: "growth",
        heading: "As subscribers grow",
        note: "The cost of a delivery should not depend on how many others get the message.",
        rounds: (1, 3),
        quick: "32/16@10 32/16@100 32/16@5000",
        // Not 256/128 beyond 1,000: one window of it is minutes of work for the slowest.
        full: "32/16@15000 1/1@10 1/1@100 1/1@5000 1/1@15000 256/128@10 256/128@100",
    },
    Plan {
        name: "payloads",
        heading: "As payloads grow",
        note: "",
        rounds: (1, 3),
        quick: "32/16:16 32/16:1024 32/16@100:16384",
        full: "1/1:16 1/1:1024 1/1:16384 256/128:16 256/128@100:1024",
    },
    Plan {
        name: "latency",
        heading: "Latency at a fixed rate",
        note: "From when a message was due, so that a stall is charged to every message it held up. Measured three \
               times as long as the rest, since a 99th percentile takes many messages.",
        rounds: (1, 5),
        quick: "rate/60000",
        full: "rate/20000 rate/150000",
    },
    Plan {
        name: "pairs",
        heading: "One to one, many to one",
        note: "",
        rounds: (1, 3),
        quick: "pairs/1 pairs/8 many/1000",
        full: "",
    },
    Plan {
        name: "topics",
        heading: "Many topics, many wildcards",
        note: "One publisher whose messages go round over all topics, each with one subscription: what a delivery \
               costs is what a publish costs. The cost should not depend on how many topics there are.",
        rounds: (1, 3),
        quick: "topics/100000 wildcards/100000",
        full: "topics/1000 wildcards/1000",
    },
    Plan {
        name: "idle",
        heading: "Idle connections",
        note: "Connected, subscribed, silent. RSS is the server's own memory for each; the kernel's is the same for all.",
        rounds: (1, 3),
        quick: "idle/1000 idle/10000",
        full: "idle/5000 idle/15000",
    },
    Plan {
        name: "slow",
        heading: "Slow consumers",
        note: "What 50 subscribers that never read cost the 1,000 that do. Before it is measured, each was sent 256 \
               KiB, more than its socket holds. With and without in the same round.",
        rounds: (1, 5),
        quick: "slow/0 slow/50",
        full: "",
    },
    Plan {
        name: "comeback",
        heading: "Reconnect storm, resume",
        note: "All are cut at once and connect again, 256 under way at a time; in the second scenario with their \
               position, for what was published meanwhile.",
        rounds: (1, 3),
        quick: "storm/5000 resume/5000",
        full: "",
    },
];

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
    if let Some(from) = &options.from {
        let record: Record = serde_json::from_str(&fs::read_to_string(from)?)?;
        return record.write(&options.root);
    }
    process::raise_open_files()?;
    let plans = options.plans()?;
    let (contenders, servers) = options.contenders()?;
    let mut record = Record {
        commit: commit(&options.root),
        date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"], &options.root),
        command: command(),
        build: format!("profile `{}`", profile()),
        settings: Settings {
            rounds: 0,
            seconds: options.seconds.unwrap_or(if options.quick { 0.5 } else { 2.0 }),
            warm_up: if options.quick { 0.3 } else { 1.0 },
            server_core: options.server_core,
            load_core: options.load_core,
        },
        machine: machine()?,
        servers,
        groups: Vec::new(),
    };
    let raw = options.raw.clone().unwrap_or_else(|| {
        options.root.join("docs/benchmarks").join(if options.quick { "quick.json" } else { "full.json" })
    });
    if options.resume {
        record.groups = kept(&raw, &record)?;
    }
    let start = Instant::now();
    for plan in plans {
        if record.groups.iter().any(|group| group.heading == plan.heading) {
            continue;
        }
        let group = options.measure(plan, &contenders, record.settings, start)?;
        record.groups.push(group);
        record.groups.sort_by_key(|group| PLANS.iter().position(|plan| plan.heading == group.heading));
        // After each, so that a run that is cut short has a page too.
        save(&record, &raw)?;
        record.write(&options.root)?;
    }
    println!("docs/benchmarks.md is written, after {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

impl Options {
    fn plans(&self) -> io::Result<Vec<&'static Plan>> {
        for name in &self.scenarios {
            if !PLANS.iter().any(|plan| plan.name == name) {
                return Err(io::Error::other(format!("there is no group of scenarios {name}")));
            }
        }
        let chosen =
            |plan: &&Plan| self.scenarios.is_empty() || self.scenarios.iter().any(|name| name == plan.name);
        Ok(PLANS.iter().filter(chosen).collect())
    }

    /// Who takes part, and about each of them and of those that could not be installed.
    fn contenders(&self) -> io::Result<(Vec<Contender>, Vec<ServerInfo>)> {
        let own = format!("this commit, {}", env!("CARGO_PKG_VERSION"));
        let tidegate = match &self.tidegate {
            Some(path) => path.clone(),
            None => sibling("tidegate")?,
        };
        let command = [&*tidegate.to_string_lossy(), "serve", "--listen", "127.0.0.1:0"];
        let mut contenders = vec![
            peers::floor(&sibling("floor")?.to_string_lossy()),
            Contender::new("tidegate-bincode", "tidegate-bincode", &command),
            Contender::new("tidegate-json", "tidegate-json", &command),
            peers::by_url(&command),
        ];
        let what = [
            "a loop that does nothing but `send`",
            "Tidegate, bincode",
            "Tidegate, JSON",
            "Tidegate, bincode, where a client subscribes by its URL and is told when it is",
        ];
        let mut servers: Vec<ServerInfo> = (contenders.iter().zip(what))
            .map(|(contender, what)| ServerInfo {
                name: contender.name.clone(),
                what: what.to_owned(),
                version: own.clone(),
            })
            .collect();
        let versions = peers::versions(&self.root).unwrap_or_default();
        for name in self.peers.iter().filter(|name| *name != "none") {
            if !PEERS.iter().any(|peer| peer.name == name) {
                return Err(io::Error::other(format!("there is no peer {name}")));
            }
        }
        for peer in PEERS {
            // Of the engine's four settings the least telling; Protobuf with history stands for it.
            let left_out = self.peers.is_empty() && self.quick && peer.name == "centrifugo-protobuf";
            if left_out || !self.peers.is_empty() && !self.peers.iter().any(|name| name == peer.name) {
                continue;
            }
            let version = versions.get(peer.folder).cloned().unwrap_or_else(|| "not installed".to_owned());
            if !version.starts_with("not installed") {
                contenders.push(peer.contender(&self.root));
            }
            servers.push(ServerInfo { name: peer.name.to_owned(), what: peer.what.to_owned(), version });
        }
        Ok((contenders, servers))
    }

    fn measure(
        &self,
        plan: &Plan,
        contenders: &[Contender],
        settings: Settings,
        start: Instant,
    ) -> io::Result<Group> {
        let more = if self.quick { "" } else { plan.full };
        let scenarios = (plan.quick.split_whitespace().chain(more.split_whitespace()))
            .map(|text| text.parse().map(|scenario: Scenario| scenario.shrunk(self.shrink)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::other)?;
        let rounds = self.rounds.unwrap_or(if self.quick { plan.rounds.0 } else { plan.rounds.1 });
        let settings = Settings { rounds, ..settings };
        let mut outcomes = settings.contest(&scenarios, contenders, |scenario, contender, outcome| {
            let figure = match outcome {
                Outcome::Valid(round) => {
                    let figures = round.figures();
                    format!("{:.3} {}", figures[0].1, figures[0].0)
                }
                Outcome::Void(why) => why.clone(),
            };
            let seconds = start.elapsed().as_secs_f64();
            println!("{seconds:6.0} s  {:<28} {:<50} {figure}", contender.name, scenario.title());
            // Whoever watches a log sees where it is.
            let _ = io::stdout().flush();
        });
        let tables = scenarios.iter().zip(&mut outcomes).map(|(scenario, outcomes)| Table {
            scenario: scenario.to_string(),
            rows: (contenders.iter().zip(outcomes))
                .map(|(contender, rounds)| Row {
                    server: contender.name.clone(),
                    cannot: contender.cannot(*scenario).map(str::to_owned),
                    rounds: std::mem::take(rounds),
                })
                .collect(),
        });
        let (heading, note) = (plan.heading.to_owned(), plan.note.to_owned());
        Ok(Group { heading, note, tables: tables.collect() })
    }
}

/// What an earlier run of the same commit, servers and lengths has measured.
fn kept(raw: &Path, record: &Record) -> io::Result<Vec<Group>> {
    let earlier: Record = match fs::read_to_string(raw) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let same = earlier.commit == record.commit
        && earlier.settings == record.settings
        && earlier.build == record.build
        && earlier.servers == record.servers;
    if same {
        return Ok(earlier.groups);
    }
    Err(io::Error::other(format!("{}: of another commit, build, length or choice of peers", raw.display())))
}

/// Writes the raw figures, with five digits that matter.
fn save(record: &Record, path: &Path) -> io::Result<()> {
    fn round(value: &mut Value) {
        match value {
            Value::Number(number) if number.is_f64() => {
                let rounded = format!("{:.4e}", number.as_f64().unwrap_or(0.0)).parse::<f64>();
                *value = rounded.map_or(Value::Null, Value::from);
            }
            Value::Array(values) => values.iter_mut().for_each(round),
            Value::Object(fields) => {
                fields.retain(|_, value| !value.is_null());
                fields.values_mut().for_each(round);
            }
            _ => {}
        }
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut value = serde_json::to_value(record)?;
    round(&mut value);
    fs::write(path, serde_json::to_string(&value)? + "\n")
}

fn commit(root: &Path) -> String {
    let commit = said("git", &["rev-parse", "--short", "HEAD"], root);
    let changed = said(
        "git",
        &["status", "--porcelain", "--untracked-files=no", "broker", "protocol", "benches"],
        root,
    );
    if changed.is_empty() { commit } else { commit + "+" }
}

/// What a command prints; nothing where it fails.
fn said(program: &str, arguments: &[&str], root: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(root).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// As it was typed, without what `benches/report` adds.
fn command() -> String {
    let mut words = vec!["benches/report".to_owned()];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--root" || argument == "--tidegate" {
            arguments.next();
        } else {
            words.push(argument);
        }
    }
    words.join(" ")
}

/// The folder this program was built to.
fn profile() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().and_then(Path::file_name).unwrap_or_default();
    folder.to_string_lossy().into_owned()
}

fn machine() -> io::Result<Machine> {
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(':'));
        line.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let memory = value(&fs::read_to_string("/proc/meminfo")?, "MemTotal");
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    Ok(Machine {
        cpu: value(&processors, "model name"),
        cores: process::cores()?.len(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        memory_bytes: kib * 1024,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(commit: &str) -> Record {
        Record {
            commit: commit.into(),
            date: String::new(),
            command: String::new(),
            build: String::new(),
            settings: Settings { rounds: 0, seconds: 0.5, warm_up: 0.3, server_core: 0, load_core: 1 },
            machine: Machine { cpu: String::new(), cores: 2, kernel: String::new(), memory_bytes: 0 },
            servers: Vec::new(),
            groups: vec![Group { heading: "Fan-out".into(), note: String::new(), tables: Vec::new() }],
        }
    }

    #[test]
    fn what_was_measured_is_kept_for_the_same_commit_only() {
        let raw = std::env::temp_dir().join(format!("tidegate-report-{}.json", std::process::id()));
        assert!(kept(&raw, &record("abc")).unwrap().is_empty(), "nothing was measured yet");
        save(&record("abc"), &raw).unwrap();
        assert_eq!(kept(&raw, &record("abc")).unwrap().len(), 1);
        assert!(kept(&raw, &record("def")).is_err());
        fs::remove_file(&raw).unwrap();
    }
}
