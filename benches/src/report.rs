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
    /// Of one core, what the server used.
    pub server_core: Option<f64>,
    /// Generator's CPU time per delivery, in microseconds.
    pub generator_cpu_us: f64,
    /// Of one core, what the generator used.
    pub generator_core: f64,
    /// Bytes on the wire per delivery, with WebSocket's headers, without TCP's.
    pub wire_bytes: f64,
    /// Latency from when a message was due, in milliseconds: 50th, 99th, 99.9th percentile and the largest.
    pub latency_ms: Option<[f64; 4]>,
    /// What a connection costs.
    pub connections: Option<Connections>,
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
    /// The same after messages went to all of them.
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
            server_core: server_is_known.then(|| core(&measured.server)),
            generator_cpu_us: per_delivery(&measured.generator),
            generator_core: core(&measured.generator),
            wire_bytes: measured.bytes as f64 / deliveries,
            latency_ms: measured.latency.as_ref().map(|latency| {
                [0.5, 0.99, 0.999, 1.0].map(|part| latency.value_at_quantile(part) as f64 / 1e6)
            }),
            connections: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}, {}", self.adapter, self.scenario)?;
        if self.deliveries > 0 {
            writeln!(
                out,
                "  {} deliveries in {:.2} s, {:.0} a second, {:.1} bytes each",
                self.deliveries, self.seconds, self.rate, self.wire_bytes
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
            let Connections { count, connect_cpu_us, rss_bytes, rss_bytes_after_traffic } = connections;
            write!(
                out,
                "  {count} connections: {connect_cpu_us:.1} µs CPU and {rss_bytes:.0} bytes RSS each"
            )?;
            match rss_bytes_after_traffic {
                Some(bytes) => writeln!(out, ", {bytes:.0} bytes after the messages")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }
}
