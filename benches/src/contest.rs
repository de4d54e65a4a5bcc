//! Measures servers beside each other: interleaved (A B C A B C …), each alone on its core, the load on another.

use std::{
    io,
    path::PathBuf,
    process::{Command, Stdio},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{
    probe,
    report::Report,
    scenario::{Kind, Scenario},
    server::Server,
};

/// A server to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// What it is called.
    pub name: String,
    /// The adapter of `load`.
    pub adapter: String,
    /// The adapter where topics are many, if another.
    pub many_topics: Option<String>,
    /// What starts it. `{port}` becomes a free port; without it the server says where it listens.
    pub command: Vec<String>,
    /// How many processes it has.
    pub processes: usize,
    /// What it cannot do, and why; without a reason where nobody need be told.
    pub cannot: Vec<(Ability, &'static str)>,
}

/// What not every server can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// Messages to connections of one topic each.
    Deliver,
    /// Many topics on one connection.
    Topics,
    /// Filters with a wildcard.
    Wildcards,
    /// Several publishers to one topic.
    Many,
    /// Coming back for what was missed.
    Resume,
}

impl Ability {
    /// What a scenario takes.
    pub fn needed(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Topics(_) => Some(Self::Topics),
            Kind::Wildcards(_) => Some(Self::Wildcards),
            Kind::Many(_) => Some(Self::Many),
            Kind::Resume(_) => Some(Self::Resume),
            Kind::FanOut { .. } | Kind::Rate(_) | Kind::Slow(_) | Kind::Pairs(_) => Some(Self::Deliver),
            Kind::Idle(_) | Kind::Storm(_) => None,
        }
    }
}

impl Contender {
    /// One that can do everything.
    pub fn new(name: &str, adapter: &str, command: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            adapter: adapter.to_owned(),
            many_topics: None,
            command: command.iter().map(|&word| word.to_owned()).collect(),
            processes: 1,
            cannot: Vec::new(),
        }
    }

    /// Why it cannot take part in a scenario.
    pub fn cannot(&self, scenario: Scenario) -> Option<&'static str> {
        let needed = Ability::needed(scenario.kind)?;
        self.cannot.iter().find(|(ability, _)| *ability == needed).map(|(_, why)| *why)
    }

    fn adapter(&self, scenario: Scenario) -> &str {
        match (&self.many_topics, scenario.kind) {
            (Some(adapter), Kind::Topics(_) | Kind::Wildcards(_)) => adapter,
            _ => &self.adapter,
        }
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

/// A program of this crate, built beside the one that runs.
///
/// # Errors
/// Where it is not built.
pub fn sibling(name: &str) -> io::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is not built", path.display())))
}

/// Where and how long is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How often each is measured.
    pub rounds: usize,
    /// How long one measurement is, in seconds.
    pub seconds: f64,
    /// How long it warms up, in seconds.
    pub warm_up: f64,
    /// The servers' core.
    pub server_core: usize,
    /// The load generator's core.
    pub load_core: usize,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// What the load generator measured.
    pub report: Report,
    /// What a send and receive on the server's core cost around it, in µs.
    pub probe_us: f64,
}

/// A measurement, or why it is void.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every message arrived as it should.
    Valid(Box<Round>),
    /// The run gives no figure.
    Void(String),
}

impl Outcome {
    /// The measurement, where it is one.
    pub fn valid(&self) -> Option<&Round> {
        match self {
            Self::Valid(round) => Some(round),
            Self::Void(_) => None,
        }
    }
}

impl Settings {
    /// Measures scenarios that are to be compared with each other: in each round every server takes part in each.
    /// Returns, for each scenario and contender, its rounds.
    pub fn contest(
        &self,
        scenarios: &[Scenario],
        contenders: &[Contender],
        mut told: impl FnMut(Scenario, &Contender, &Outcome),
    ) -> Vec<Vec<Vec<Outcome>>> {
        let mut outcomes = vec![vec![Vec::new(); contenders.len()]; scenarios.len()];
        for _ in 0..self.rounds {
            for (contender_index, contender) in contenders.iter().enumerate() {
                for (scenario_index, &scenario) in scenarios.iter().enumerate() {
                    if contender.cannot(scenario).is_some() {
                        continue;
                    }
                    let outcome = match self.measure(scenario, contender) {
                        Ok(round) => Outcome::Valid(Box::new(round)),
                        Err(error) => Outcome::Void(error.to_string()),
                    };
                    told(scenario, contender, &outcome);
                    outcomes[scenario_index][contender_index].push(outcome);
                }
            }
        }
        outcomes
    }

    /// Measures once.
    ///
    /// # Errors
    /// Where the server does not start, or the run is void.
    pub fn measure(&self, scenario: Scenario, contender: &Contender) -> io::Result<Round> {
        let probe_before = probe::send_and_receive(self.server_core)?;
        let server = Server::start(&contender.command, contender.processes, self.server_core)?;
        let output = Command::new(sibling("load")?)
            .args(scenario.arguments(self.seconds, self.warm_up))
            .args(["--json", "--adapter", contender.adapter(scenario)])
            .args(["--address", &server.address().to_string()])
            .args(server.pids().iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]))
            .args(["--core", &self.load_core.to_string()])
            .stdin(Stdio::null())
            .output()?;
        drop(server);
        let probe_after = probe::send_and_receive(self.server_core)?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(Round {
            report: serde_json::from_slice(&output.stdout)?,
            probe_us: (probe_before + probe_after) / 2e3,
        })
    }
}

impl Round {
    /// What is compared, with its unit.
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        if let Some(cost) = self.report.connections {
            return vec![
                ("connect, CPU µs", cost.connect_cpu_us),
                ("RSS, bytes", cost.rss_bytes),
                ("idle, CPU µs/s", cost.idle_cpu_us),
            ];
        }
        if let Some(back) = self.report.comeback {
            return vec![
                ("CPU µs each", back.cpu_us),
                ("99 % back, ms", back.most_ms),
                ("all back, ms", back.all_ms),
                ("all whole, ms", back.whole_ms),
            ];
        }
        let cpu = self.report.server_cpu_us.unwrap_or(f64::NAN);
        let mut figures = vec![("CPU µs a delivery", cpu), ("over the probe", cpu / self.probe_us)];
        if let Some(latency) = self.report.latency_ms {
            figures.extend(["p50, ms", "p99, ms", "p99.9, ms", "max, ms"].into_iter().zip(latency));
        }
        if let Some([user, kernel]) = self.report.server_instructions {
            figures.push(("instructions", user + kernel));
        }
        figures
    }
}

/// The value in the middle; not a number where there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_documented() {
        let bun = Contender::new("bun", "plain", &["bun", "run", "x.ts"]);
        assert_eq!("bun=plain=bun run x.ts".parse(), Ok(bun));
        assert!("bun=plain=".parse::<Contender>().is_err());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[9.0, 1.0, 3.0]), 3.0);
        assert!(median(&[]).is_nan());
    }
}
