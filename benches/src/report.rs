//! What a run came to, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::load::{Measured, Spent};

/// The figures of one run. A figure that was not measured is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What was measured, for people.
    pub scenario: String,
    /// The adapter's name.
    pub adapter: String,
    /// Messages received by all subscribers together.
    pub deliveries: u64,
    /// From the first publish to the last delivery, in seconds.
    pub seconds: f64,
    /// Deliveries a second.
    pub rate: f64,
    /// Server's CPU time per delivery, in microseconds.
    pub server_cpu_us: Option<f64>,
    /// Of the server's CPU time the part in user space.
    pub server_user_part: Option<f64>,
    /// Instructions of the server per delivery, in user space and in the kernel, where the machine counts them.
    pub server_instructions: Option<[f64; 2]>,
    /// Of one core, what the server used.
    pub server_core: Option<f64>,
    /// Generator's CPU time per delivery, in microseconds.
    pub generator_cpu_us: f64,
    /// Of one core, what the generator used.
    pub generator_core: f64,
    /// Bytes on the wire per delivery, with WebSocket's headers, without TCP's.
    pub wire_bytes: f64,
    /// Messages that one read of a subscriber brought: what the server wrote at a time, as far as the reader kept up.
    pub messages_a_read: f64,
    /// Server's memory at the end, in bytes.
    pub rss_bytes: Option<u64>,
    /// Latency from when a message was due, in milliseconds: 50th, 99th, 99.9th percentile and the largest.
    pub latency_ms: Option<[f64; 4]>,
    /// What a connection costs.
    pub connections: Option<Connections>,
    /// What coming back costs.
    pub comeback: Option<Comeback>,
}

/// What it came to when all subscribers were cut at once and connected again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Comeback {
    /// How many.
    pub count: usize,
    /// Of these, under way at a time.
    pub at_once: usize,
    /// Messages that each of them missed, and got.
    pub missed: usize,
    /// Until 99 % were subscribed again, in milliseconds from the first connect.
    pub most_ms: f64,
    /// Until all were.
    pub all_ms: f64,
    /// Until every one had everything it missed.
    pub whole_ms: f64,
    /// Server's CPU time for one of them, in microseconds: for the cut, the return and what was missed.
    pub cpu_us: f64,
}

/// What connecting came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// How many.
    pub count: usize,
    /// Server's CPU time to connect and subscribe one, in microseconds.
    pub connect_cpu_us: f64,
    /// Server's memory for one, in bytes.
    pub rss_bytes: f64,
    /// Server's CPU time for one that does nothing, in microseconds a second.
    pub idle_cpu_us: f64,
    /// Memory after messages went to all of them.
    pub rss_bytes_after_traffic: Option<f64>,
}

impl Report {
    /// The figures of a phase.
    pub fn of(scenario: String, adapter: String, measured: &Measured, server_is_known: bool) -> Self {
        let deliveries = (measured.deliveries as f64).max(1.0);
        let seconds = measured.elapsed.as_secs_f64();
        let per_delivery = |spent: &Spent| spent.cpu_ns as f64 / 1e3 / deliveries;
        let core = |spent: &Spent| spent.cpu_ns as f64 / 1e9 / seconds;
        Self {
            scenario,
            adapter,
            deliveries: measured.deliveries,
            seconds,
            rate: measured.deliveries as f64 / seconds,
            server_cpu_us: server_is_known.then(|| per_delivery(&measured.server)),
            server_user_part: server_is_known.then_some(measured.server.user_part),
            server_instructions: None,
            server_core: server_is_known.then(|| core(&measured.server)),
            generator_cpu_us: per_delivery(&measured.generator),
            generator_core: core(&measured.generator),
            wire_bytes: measured.bytes as f64 / deliveries,
            messages_a_read: measured.deliveries as f64 / (measured.reads as f64).max(1.0),
            rss_bytes: server_is_known.then_some(measured.server.rss_bytes),
            latency_ms: measured.latency.as_ref().map(|latency| {
                [0.5, 0.99, 0.999, 1.0].map(|part| latency.value_at_quantile(part) as f64 / 1e6)
            }),
            connections: None,
            comeback: None,
        }
    }
}

impl Report {
    /// The same, with what was counted meanwhile.
    pub fn with_instructions(self, counted: Option<[u64; 2]>) -> Self {
        let deliveries = (self.deliveries as f64).max(1.0);
        let server_instructions = counted.map(|counts| counts.map(|count| count as f64 / deliveries));
        Self { server_instructions, ..self }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}, {}", self.adapter, self.scenario)?;
        if self.deliveries > 0 {
            writeln!(
                out,
                "  {} deliveries in {:.2} s, {:.0} a second, {:.1} bytes each, {:.1} a read",
                self.deliveries, self.seconds, self.rate, self.wire_bytes, self.messages_a_read
            )?;
        }
        if let (Some(cpu), Some(user), Some(core)) =
            (self.server_cpu_us, self.server_user_part, self.server_core)
        {
            writeln!(
                out,
                "  server    {cpu:.3} µs CPU a delivery ({:.0} % in user space), {:.0} % of a core",
                user * 100.0,
                core * 100.0
            )?;
        }
        if let Some([user, kernel]) = self.server_instructions {
            writeln!(out, "            {user:.0} + {kernel:.0} instructions a delivery, user + kernel")?;
        }
        if self.deliveries > 0 {
            writeln!(
                out,
                "  generator {:.3} µs CPU a delivery, {:.0} % of a core",
                self.generator_cpu_us,
                self.generator_core * 100.0
            )?;
        }
        if let Some([p50, p99, p999, max]) = self.latency_ms {
            writeln!(
                out,
                "  latency   p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms"
            )?;
        }
        if let Some(connections) = self.connections {
            let Connections { count, connect_cpu_us, rss_bytes, idle_cpu_us, rss_bytes_after_traffic } =
                connections;
            write!(
                out,
                "  {count} connections: {connect_cpu_us:.1} µs CPU and {rss_bytes:.0} bytes RSS each, idle {idle_cpu_us:.2} µs CPU a second"
            )?;
            match rss_bytes_after_traffic {
                Some(bytes) => writeln!(out, ", {bytes:.0} bytes after the messages")?,
                None => writeln!(out)?,
            }
        }
        if let Some(Comeback { count, at_once, missed, most_ms, all_ms, whole_ms, cpu_us }) = self.comeback {
            writeln!(
                out,
                "  {count} come back, {at_once} at a time: 99 % after {most_ms:.0} ms, all after {all_ms:.0} ms, \
                 with the {missed} messages each missed after {whole_ms:.0} ms; {cpu_us:.1} µs CPU each"
            )?;
        }
        Ok(())
    }
}
