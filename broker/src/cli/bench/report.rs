//! What a run found, for a person or for a program.

use std::fmt::{self, Write as _};

use hdrhistogram::Histogram;
use indicatif::HumanCount;
use serde::Serialize;

use super::ledger::Tally;

/// A run's figures. Its fields are the keys of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) mode: &'static str,
    pub(super) url: String,
    pub(super) subscribers: u32,
    pub(super) publishers: u32,
    pub(super) stalled: u32,
    pub(super) payload_bytes: usize,
    /// How long was published.
    pub(super) seconds: f64,
    pub(super) published: u64,
    pub(super) publishes_per_second: f64,
    /// Publishes whose ack did not come.
    pub(super) unacknowledged: u64,
    pub(super) deliveries: u64,
    pub(super) deliveries_per_second: f64,
    pub(super) missing: u64,
    /// Of those, what the subscribers were told of in gaps: exact counts, else bounds.
    pub(super) told_by_gaps: u64,
    pub(super) doubled: u64,
    pub(super) reordered: u64,
    /// Messages on the topic that this run did not publish.
    pub(super) foreign: u64,
    /// Connections of subscribers that were lost and came back, those that were cut among them.
    pub(super) reconnects: u64,
    /// How often a subscription's books differed from the broker's.
    pub(super) books_differ: u64,
    /// In microseconds, of every delivery.
    pub(super) latency_us: Quantiles,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) storm: Option<Storm>,
    #[serde(skip)]
    pub(super) histogram: Histogram<u64>,
}

/// How clients came, and came back, all at once; in microseconds since the first began, or since they were cut.
#[derive(Debug, Serialize)]
pub(super) struct Storm {
    pub(super) connected_us: Quantiles,
    pub(super) back_us: Quantiles,
    /// Those who were not back in time.
    pub(super) not_back: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Quantiles {
    pub(super) count: u64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) p99_9: u64,
    pub(super) max: u64,
    pub(super) mean: f64,
}

impl Quantiles {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max(),
            mean: histogram.mean(),
        }
    }
}

/// The widest bar of a histogram, in characters.
const BAR: f64 = 40.0;

impl Report {
    /// Enters what all subscribers got of the `expected` deliveries.
    pub(super) fn enter(&mut self, all: Tally, expected: u64) {
        self.deliveries = all.received;
        self.missing = expected.saturating_sub(all.received);
        (self.doubled, self.reordered, self.foreign) = (all.doubled, all.reordered, all.foreign);
    }

    /// What is wrong, in one line.
    pub(super) fn fault(&self) -> Option<String> {
        let not_back = self.storm.as_ref().map_or(0, |storm| storm.not_back);
        let faults = [
            (self.missing, "missing"),
            (self.doubled, "doubled"),
            (self.reordered, "reordered"),
            (self.foreign, "of another publisher"),
            (self.unacknowledged, "not acknowledged"),
            (self.books_differ, "times the books differed"),
            (not_back, "clients not back in time"),
        ];
        let told: Vec<_> = faults
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!told.is_empty()).then(|| format!("the run is void: {}", told.join(", ")))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} at {}: {} publishing {} bytes to {}{}",
            self.mode,
            self.url,
            self.publishers,
            self.payload_bytes,
            self.subscribers,
            if self.stalled > 0 { format!(", {} stalled beside them", self.stalled) } else { String::new() }
        )?;
        let per_second = |rate: f64| HumanCount(rate.round() as u64);
        writeln!(
            f,
            "published    {:>12}  {:>12}/s",
            HumanCount(self.published).to_string(),
            per_second(self.publishes_per_second).to_string()
        )?;
        writeln!(
            f,
            "delivered    {:>12}  {:>12}/s",
            HumanCount(self.deliveries).to_string(),
            per_second(self.deliveries_per_second).to_string()
        )?;
        writeln!(
            f,
            "missing {} (told by gaps: {}), doubled {}, reordered {}",
            self.missing, self.told_by_gaps, self.doubled, self.reordered
        )?;
        if let Some(Storm { connected_us, back_us, not_back }) = &self.storm {
            for (what, quantiles) in [("connected", connected_us), ("back", back_us)] {
                writeln!(
                    f,
                    "{what:<12} 50 % {:>8}   99 % {:>8}   100 % {:>8}",
                    time(quantiles.p50),
                    time(quantiles.p99),
                    time(quantiles.max)
                )?;
            }
            if *not_back > 0 {
                writeln!(f, "not back in time: {not_back}")?;
            }
        }
        let Quantiles { p50, p90, p99, p99_9, max, .. } = &self.latency_us;
        writeln!(
            f,
            "\nlatency      p50 {}   p90 {}   p99 {}   p99.9 {}   max {}",
            time(*p50),
            time(*p90),
            time(*p99),
            time(*p99_9),
            time(*max)
        )?;
        f.write_str(&bars(&self.histogram))
    }
}

/// A line for each doubling of the latency.
fn bars(histogram: &Histogram<u64>) -> String {
    let steps: Vec<(u64, u64)> = histogram
        .iter_log(1, 2.0)
        .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
        .skip_while(|&(_, count)| count == 0)
        .collect();
    let most = steps.iter().map(|&(_, count)| count).max().unwrap_or(0).max(1);
    let mut text = String::new();
    for (upto, count) in steps {
        let bar = "█".repeat((BAR * count as f64 / most as f64).ceil() as usize);
        // Writing to a String does not fail.
        let _ = writeln!(text, "  to {:>8} {:>12} {bar}", time(upto + 1), HumanCount(count).to_string());
    }
    text
}

/// Microseconds, as a person reads them.
fn time(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} µs"),
        10_000..10_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let histogram = Histogram::new_with_bounds(1, 1 << 20, 3).unwrap();
        Report {
            mode: "fan-out",
            url: "ws://broker".into(),
            subscribers: 2,
            publishers: 1,
            stalled: 0,
            payload_bytes: 128,
            seconds: 1.0,
            published: 3,
            publishes_per_second: 3.0,
            unacknowledged: 0,
            deliveries: 0,
            deliveries_per_second: 6.0,
            missing: 0,
            told_by_gaps: 0,
            doubled: 0,
            reordered: 0,
            foreign: 0,
            reconnects: 0,
            books_differ: 0,
            latency_us: Quantiles::of(&histogram),
            storm: None,
            histogram,
        }
    }

    #[test]
    fn a_whole_run_has_no_fault() {
        let mut report = report();
        report.enter(Tally { received: 6, ..Tally::default() }, 6);
        assert_eq!(report.fault(), None);
    }

    #[test]
    fn each_fault_is_told_with_its_count() {
        let mut report = report();
        report.enter(Tally { received: 4, doubled: 1, reordered: 3, foreign: 0 }, 6);
        assert_eq!(report.fault().unwrap(), "the run is void: 2 missing, 1 doubled, 3 reordered");
        report.unacknowledged = 5;
        assert!(report.fault().unwrap().ends_with("5 not acknowledged"));
    }

    #[test]
    fn a_histogram_has_a_bar_for_each_doubling() {
        let mut report = report();
        for us in [3, 3, 100] {
            report.histogram.record(us).unwrap();
        }
        let bars = bars(&report.histogram);
        assert_eq!(bars.lines().filter(|line| line.contains('█')).count(), 2, "{bars}");
        assert!(bars.lines().next().unwrap().contains("4 µs"), "{bars}");
    }
}
