//! The page of a run: tables, plots, and what was measured where and how.

use std::{fmt::Write as _, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    contest::{Outcome, Round, Settings, median},
    peers::{FLOOR, TIDEGATE_BY_URL, subscribes_by_url},
    plot::{self, Plot, Series, short},
    scenario::{Kind, Scenario},
};

/// Everything a run came to: enough to write the page again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The commit, with `+` where files had changed since.
    pub commit: String,
    /// When, UTC.
    pub date: String,
    /// What was run.
    pub command: String,
    /// How it was built.
    pub build: String,
    /// How long each was measured. The rounds are each group's own.
    pub settings: Settings,
    /// Where.
    pub machine: Machine,
    /// Who took part, in the order of the tables; the floor first, then Tidegate.
    pub servers: Vec<ServerInfo>,
    /// What was measured.
    pub groups: Vec<Group>,
}

/// The machine, without its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// How many cores.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// In bytes.
    pub memory_bytes: u64,
}

/// A server that took part, or that could not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// As in the tables.
    pub name: String,
    /// What it is.
    pub what: String,
    /// Its version, or why it could not take part.
    pub version: String,
}

/// Scenarios that were measured in turn, to be compared with each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Group {
    /// What is shown.
    pub heading: String,
    /// How to read it.
    pub note: String,
    /// Its scenarios.
    pub tables: Vec<Table>,
}

/// One scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Table {
    /// As [`Scenario`] is written.
    pub scenario: String,
    /// Who took part or could not.
    pub rows: Vec<Row>,
}

/// One server in one scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub server: String,
    /// Why it did not take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot: Option<String>,
    /// What each round came to.
    pub rounds: Vec<Outcome>,
}

impl Row {
    fn valid(&self) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter_map(Outcome::valid)
    }

    /// The values of a figure, round by round.
    fn values(&self, figure: usize) -> Vec<f64> {
        self.valid().filter_map(|round| round.figures().get(figure).map(|(_, value)| *value)).collect()
    }

    /// The median of a figure's ratio to another's of the same round.
    fn ratio(&self, to: &Row, figure: usize) -> f64 {
        let value = |outcome: &Outcome| Some(outcome.valid()?.figures().get(figure)?.1);
        let ratios =
            self.rounds.iter().zip(&to.rounds).filter_map(|(own, to)| Some(value(own)? / value(to)?));
        median(&ratios.collect::<Vec<_>>())
    }

    fn middle(&self, read: impl Fn(&Round) -> f64) -> f64 {
        median(&self.valid().map(read).collect::<Vec<_>>())
    }
}

impl Table {
    fn row(&self, server: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.server == server && row.valid().next().is_some())
    }

    /// The row of ours that does what this server's clients do: where connecting is measured, those that subscribe by
    /// their URL are held against ours that does.
    fn ours(&self, server: &str) -> Option<&Row> {
        let by_url = subscribes_by_url(server).then(|| self.row(TIDEGATE_BY_URL));
        by_url.flatten().or_else(|| self.row(OURS))
    }

    fn kind(&self) -> Option<Scenario> {
        self.scenario.parse().ok()
    }
}

const OURS: &str = "tidegate-bincode";

impl Record {
    /// Writes the page to `docs/benchmarks.md` and the plots to `docs/plots`.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        let plots = root.join("docs/plots");
        fs::create_dir_all(&plots)?;
        for (name, svg) in self.plots() {
            fs::write(plots.join(name), svg)?;
        }
        fs::write(root.join("docs/benchmarks.md"), self.page())
    }

    fn page(&self) -> String {
        let Machine { cpu, cores, kernel, memory_bytes } = &self.machine;
        let Settings { seconds, warm_up, server_core, load_core, .. } = self.settings;
        let mut out = format!(
            "<!-- Written by `benches/report`; do not edit. -->\n# Benchmarks\n\n\
             Commit {}, {}, by `{}`, {}. Each server ran alone on core {server_core}, the load generator on core \
             {load_core}; every round measured each server in turn, {seconds} s after a warm-up of {warm_up} s. \
             {cpu}, {cores} cores, {:.0} GiB, Linux {kernel}, loopback.\n\n",
            self.commit,
            self.date,
            self.command,
            self.build,
            *memory_bytes as f64 / f64::from(1 << 30),
        );
        out += "Every message to every subscriber is checked: where one was missing, doubled, reordered or changed, \
                the run is void and says so. *x floor* is the ratio to a server that does nothing but `send`, in \
                the same round; *x Tidegate* the ratio to `tidegate-bincode`: above 1 the server costs more than \
                Tidegate. Where connecting is measured (idle connections, the storm), servers whose clients \
                subscribe by the URL (bun, ws, nchan) are held against `tidegate-url`, whose clients do, all others \
                against `tidegate-bincode`, whose clients send a message for it. Medians of the rounds, with the least and the most in brackets. On a shared machine \
                compare ratios, not rates. 32/16 means: at most 32 messages out to the slowest subscriber, 16 \
                written at a time. *A read* is how many messages one read of a subscriber brought: what was \
                batched. [How to run this, and how to read it](../benches/README.md).\n\n";
        self.summary(&mut out);
        out += "![Cost of a delivery beside the floor](plots/ratio.svg)\n\n\
                ![Latency](plots/latency.svg)\n\n\
                ![Cost as subscribers grow](plots/growth.svg)\n\n\
                ![Memory as connections grow](plots/memory.svg)\n\n## The servers\n\n\
                | name | what | version |\n| --- | --- | --- |\n";
        for ServerInfo { name, what, version } in &self.servers {
            let _ = writeln!(out, "| {name} | {what} | {version} |");
        }
        out += "\nTheir configuration stands in `benches/peers/`, each tuned as its manual advises. Tidegate runs \
                with its defaults: offsets, the `default` stream of every topic, policies and gaps switched on. Of \
                the others only those with `history` in their name, and nchan, keep messages.\n";
        for group in &self.groups {
            let _ = write!(out, "\n## {}\n\n{}\n", group.heading, group.note);
            slow(group, &mut out);
            for table in &group.tables {
                self.table(table, &mut out);
            }
        }
        out
    }

    /// Where Tidegate leads and where it does not.
    fn summary(&self, out: &mut String) {
        let (mut ahead, mut behind) = (0, Vec::new());
        for table in self.groups.iter().flat_map(|group| &group.tables) {
            for row in &table.rows {
                if row.server == FLOOR || row.server.starts_with("tidegate") {
                    continue;
                }
                let Some(ours) = table.ours(&row.server) else { continue };
                let figure = figure_of_interest(table);
                let ratio = row.ratio(ours, figure);
                if ratio >= 1.0 {
                    ahead += 1;
                } else if ratio.is_finite() {
                    let title = table.kind().map(Scenario::title).unwrap_or_default();
                    behind.push(format!("{} at {title} ({})", row.server, short(ratio)));
                }
            }
        }
        let _ = write!(
            out,
            "**Tidegate (bincode) costs no more in {ahead} of {} comparisons**, each of a peer in a scenario, by its \
             first figure: CPU time, at a given rate the 99th percentile.",
            ahead + behind.len()
        );
        match behind.len() {
            0 => *out += "\n\n",
            _ => {
                let _ = write!(
                    out,
                    " It costs more than these (their cost over Tidegate's): {}.\n\n",
                    behind.join("; ")
                );
            }
        }
    }

    fn table(&self, table: &Table, out: &mut String) {
        let Some(scenario) = table.kind() else { return };
        let _ = write!(out, "\n### {}\n\n", scenario.title());
        let Some(first) = table.rows.iter().find_map(|row| row.valid().next()) else {
            let _ = writeln!(out, "No server finished.");
            return void(table, out);
        };
        let figures = first.figures();
        let main = figure_of_interest(table);
        let delivers = first.report.deliveries > 0 && first.report.connections.is_none();
        let mut head = format!("| server | {} [range] | x floor | x Tidegate |", figures[main].0);
        for (index, (name, _)) in figures.iter().enumerate() {
            if index != main {
                let _ = write!(head, " {name} |");
            }
        }
        if delivers {
            head += " bytes each | a read | of a core | RSS, MiB | generator CPU µs |";
        }
        let columns = head.matches('|').count() - 1;
        let _ = writeln!(out, "{head}\n|{}", " --- |".repeat(columns));
        let floor = table.row(FLOOR);
        for row in table.rows.iter().filter(|row| row.valid().next().is_some()) {
            let beside =
                |other: Option<&Row>| other.map_or("-".into(), |other| short(row.ratio(other, main)));
            let _ = write!(out, "| {} | {} |", row.server, spread(&row.values(main)));
            let _ = write!(out, " {} | {} |", beside(floor), beside(table.ours(&row.server)));
            for index in (0..figures.len()).filter(|index| *index != main) {
                let _ = write!(out, " {} |", short(median(&row.values(index))));
            }
            if delivers {
                let _ = write!(
                    out,
                    " {} | {} | {:.0} % | {} | {} |",
                    short(row.middle(|round| round.report.wire_bytes)),
                    short(row.middle(|round| round.report.messages_a_read)),
                    row.middle(|round| round.report.server_core.unwrap_or(f64::NAN)) * 100.0,
                    short(
                        row.middle(|round| round.report.rss_bytes.unwrap_or(0) as f64 / f64::from(1 << 20))
                    ),
                    short(row.middle(|round| round.report.generator_cpu_us)),
                );
            }
            out.push('\n');
        }
        void(table, out);
    }

    fn color(&self, server: &str) -> usize {
        self.servers.iter().position(|info| info.name == server).unwrap_or(0)
    }

    fn find(&self, wanted: impl Fn(Scenario) -> bool) -> Vec<(Scenario, &Table)> {
        let tables = self.groups.iter().flat_map(|group| &group.tables);
        let found = tables.filter_map(|table| Some((table.kind()?, table)));
        found.filter(|(scenario, _)| wanted(*scenario)).collect()
    }

    fn plots(&self) -> Vec<(&'static str, String)> {
        // The first group: the usual number of subscribers, little and much at a time.
        let fan_out = self.groups.first().map_or(&[][..], |group| &group.tables);
        let mut ratio: Vec<(String, Vec<Series<f64>>)> = Vec::new();
        for (scenario, table) in fan_out.iter().filter_map(|table| Some((table.kind()?, table))) {
            let Some(floor) = table.row(FLOOR) else { continue };
            let mut series: Vec<Series<f64>> = (table.rows.iter().filter(|row| row.server != FLOOR))
                .map(|row| (row.server.clone(), self.color(&row.server), row.ratio(floor, 0)))
                .collect();
            series.sort_by(|a, b| a.2.total_cmp(&b.2));
            ratio.push((scenario.title(), series));
        }
        let ratio_plot = Plot {
            title: "What a delivery costs beside a server that does nothing but send",
            unit: "Server's CPU time a delivery, as a multiple of the floor's in the same round",
            note: "Less is better",
        };

        let mut growth = self.find(|scenario| {
            scenario.payload == 128 && scenario.kind == Kind::FanOut { window: 32, burst: 16, stalled: 0 }
        });
        growth.sort_by_key(|(scenario, _)| scenario.subscribers);
        growth.dedup_by_key(|(scenario, _)| scenario.subscribers);
        let growth_plot = Plot {
            title: "What a delivery costs as subscribers grow (32/16)",
            unit: "Server's CPU µs a delivery",
            note: "Less is better; flat is right",
        };

        let mut memory = self.find(|scenario| matches!(scenario.kind, Kind::Idle(_)));
        let count = |scenario: Scenario| if let Kind::Idle(count) = scenario.kind { count } else { 0 };
        memory.sort_by_key(|(scenario, _)| count(*scenario));
        let memory_plot = Plot {
            title: "What idle subscribers take as they grow",
            unit: "Server's memory for all of them, MiB",
            note: "Less is better",
        };

        let rate = self.find(|scenario| matches!(scenario.kind, Kind::Rate(_)));
        let latency_plot = Plot {
            title: "From when a message was due until it arrived",
            unit: "ms",
            note: &rate
                .first()
                .map_or(String::new(), |(scenario, _)| format!("{}; less is better", scenario.title())),
        };
        let percentiles = ["p50", "p99", "p99.9", "max"].map(str::to_owned);
        let latency = rate.first().map_or(Vec::new(), |(_, table)| {
            let rows = table.rows.iter().filter(|row| row.valid().next().is_some());
            rows.map(|row| {
                let values = (2..6).map(|figure| Some(median(&row.values(figure)))).collect();
                (row.server.clone(), self.color(&row.server), values)
            })
            .collect()
        });

        vec![
            ("ratio.svg", plot::bars(&ratio_plot, &ratio)),
            (
                "growth.svg",
                self.lines(
                    &growth_plot,
                    &growth,
                    |scenario| scenario.subscribers,
                    |_, row| median(&row.values(0)),
                ),
            ),
            (
                "memory.svg",
                self.lines(&memory_plot, &memory, count, |scenario, row| {
                    median(&row.values(1)) * count(scenario) as f64 / f64::from(1 << 20)
                }),
            ),
            ("latency.svg", plot::lines(&latency_plot, &percentiles, &latency)),
        ]
    }

    /// One line for each server over several scenarios.
    fn lines(
        &self,
        plot: &Plot<'_>,
        tables: &[(Scenario, &Table)],
        place: impl Fn(Scenario) -> usize,
        value: impl Fn(Scenario, &Row) -> f64,
    ) -> String {
        let places: Vec<String> =
            tables.iter().map(|(scenario, _)| crate::scenario::thousands(place(*scenario))).collect();
        let series: Vec<Series<Vec<Option<f64>>>> = (self.servers.iter().enumerate())
            .map(|(color, info)| {
                let values = tables.iter().map(|(scenario, table)| {
                    let value = value(*scenario, table.row(&info.name)?);
                    (value > 0.0).then_some(value)
                });
                (info.name.clone(), color, values.collect::<Vec<_>>())
            })
            .filter(|(.., values)| values.iter().any(Option::is_some))
            .collect();
        plot::lines(plot, &places, &series)
    }
}

/// The figure that a table is about: at a given rate the 99th percentile, else the first.
fn figure_of_interest(table: &Table) -> usize {
    match table.kind().map(|scenario| scenario.kind) {
        Some(Kind::Rate(_)) => 3,
        _ => 0,
    }
}

/// What stalled subscribers cost the healthy: both scenarios of the group, round by round.
fn slow(group: &Group, out: &mut String) {
    let [none, some] = &group.tables[..] else { return };
    let stalled = |table: &Table| match table.kind().map(|scenario| scenario.kind) {
        Some(Kind::Slow(stalled)) => Some(stalled),
        _ => None,
    };
    let (Some(0), Some(count)) = (stalled(none), stalled(some)) else { return };
    let _ = write!(
        out,
        "\n| server | CPU µs a delivery, none stalled | beside {count} stalled | ratio | p99 ms, none stalled | beside \
         {count} stalled | ratio |\n|{}\n",
        " --- |".repeat(7)
    );
    for row in &none.rows {
        let (Some(without), Some(with)) = (none.row(&row.server), some.row(&row.server)) else { continue };
        let _ = write!(out, "| {} |", row.server);
        for figure in [0, 3] {
            let (before, after) = (median(&without.values(figure)), median(&with.values(figure)));
            let _ = write!(
                out,
                " {} | {} | {} |",
                short(before),
                short(after),
                short(with.ratio(without, figure))
            );
        }
        out.push('\n');
    }
}

/// Who could not take part, and which runs were void.
fn void(table: &Table, out: &mut String) {
    let mut told = Vec::new();
    for row in &table.rows {
        if let Some(why) = row.cannot.as_deref().filter(|why| !why.is_empty()) {
            told.push(format!("{} does not take part: {why}", row.server));
        }
        let void: Vec<&str> = (row.rounds.iter())
            .filter_map(|outcome| if let Outcome::Void(why) = outcome { Some(why.as_str()) } else { None })
            .collect();
        if let Some(why) = void.first() {
            let why = why.lines().next().unwrap_or("").trim_start_matches("the run is void: ");
            told.push(format!("{}: {} of {} void ({why})", row.server, void.len(), row.rounds.len()));
        }
    }
    if !told.is_empty() {
        let _ = writeln!(out, "\n{}.", told.join("; "));
    }
}

fn spread(values: &[f64]) -> String {
    let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(min, max), &v| (min.min(v), max.max(v)));
    if values.len() < 2 {
        return short(median(values));
    }
    format!("{} [{}-{}]", short(median(values)), short(min), short(max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    fn outcome(cpu: f64) -> Outcome {
        let report = Report { server_cpu_us: Some(cpu), deliveries: 10, ..Report::default() };
        Outcome::Valid(Box::new(Round { report, probe_us: 2.0 }))
    }

    fn row(server: &str, rounds: Vec<Outcome>) -> Row {
        Row { server: server.into(), cannot: None, rounds }
    }

    fn record() -> Record {
        let rows = vec![
            row("floor", vec![outcome(1.0), outcome(2.0)]),
            row("tidegate-bincode", vec![outcome(1.1), outcome(2.2)]),
            row("quick", vec![outcome(0.9), Outcome::Void("the run is void: missing".into())]),
            row("slow", vec![outcome(4.4), outcome(8.8)]),
            Row { cannot: Some("it rests".into()), ..row("lazy", Vec::new()) },
        ];
        Record {
            commit: "abc".into(),
            date: "today".into(),
            command: "benches/report".into(),
            build: "release".into(),
            settings: Settings { rounds: 2, seconds: 1.0, warm_up: 0.5, server_core: 0, load_core: 1 },
            machine: Machine { cpu: "a CPU".into(), cores: 2, kernel: "6".into(), memory_bytes: 1 << 30 },
            servers: rows
                .iter()
                .map(|row| ServerInfo {
                    name: row.server.clone(),
                    what: String::new(),
                    version: String::new(),
                })
                .collect(),
            groups: vec![Group {
                heading: "Fan-out".into(),
                note: String::new(),
                tables: vec![Table { scenario: "32/16@1000:128".into(), rows }],
            }],
        }
    }

    #[test]
    fn ratios_are_those_of_one_round() {
        let page = record().page();
        assert!(page.contains("| slow | 6.6 [4.4-8.8] | 4.4 | 4 |"), "{page}");
        assert!(page.contains("no more in 1 of 2 comparisons"), "{page}");
        assert!(page.contains("quick at fan-out to 1,000, 32/16, 128 B (0.818)"), "{page}");
    }

    #[test]
    fn whose_clients_subscribe_by_the_url_is_held_against_ours_that_do() {
        let mut record = record();
        let table = &mut record.groups[0].tables[0];
        table.scenario = "storm/5000".into();
        let rows = [("tidegate-url", 0.5), ("bun", 2.0), ("bun-confirmed", 2.2)];
        table.rows.extend(rows.map(|(server, cpu)| row(server, vec![outcome(cpu), outcome(2.0 * cpu)])));
        let page = record.page();
        assert!(page.contains("| bun | 3 [2-4] | 2 | 4 |"), "{page}");
        assert!(page.contains("| bun-confirmed | 3.3 [2.2-4.4] | 2.2 | 2 |"), "{page}");
        assert!(page.contains("| tidegate-bincode | 1.65 [1.1-2.2] | 1.1 | 1 |"), "{page}");
    }

    #[test]
    fn who_is_void_or_cannot_is_named() {
        let page = record().page();
        assert!(page.contains("lazy does not take part: it rests"), "{page}");
        assert!(page.contains("quick: 1 of 2 void (missing)"), "{page}");
    }

    #[test]
    fn a_record_reads_back_and_gives_the_same_page() {
        let record = record();
        let text = serde_json::to_string(&record).unwrap();
        let again: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(again.page(), record.page());
        assert!(record.plots().iter().all(|(_, svg)| svg.ends_with("</svg>\n")));
    }
}
