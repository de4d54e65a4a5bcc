//! Plain counters of each shard, folded into Prometheus' format when somebody asks.
//!
//! No label holds a topic or a user's name: what a client can choose must not grow a table here.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus::{Encoder, IntCounter, IntGauge, Opts, Registry, TextEncoder};

use crate::hub::Hub;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $kind:ident, $name:literal, $help:literal;)*) => {
        /// One shard's figures; only its thread writes them.
        #[derive(Debug, Clone, Copy, Default)]
        pub struct Counters { $($(#[$doc])* pub $field: u64,)* }

        /// The same, as the shard published them last.
        #[derive(Debug, Default)]
        pub struct Published { $($field: AtomicU64,)* }

        impl Published {
            /// Lets the other threads see a shard's figures.
            pub fn store(&self, counters: &Counters) {
                $(self.$field.store(counters.$field, Relaxed);)*
            }

            fn load(&self) -> Counters {
                Counters { $($field: self.$field.load(Relaxed),)* }
            }
        }

        fn register(registry: &Registry, sum: &Counters) {
            $(counters!(@$kind registry, $name, $help, sum.$field);)*
        }

        fn add(sum: &mut Counters, one: &Counters) {
            $(sum.$field += one.$field;)*
        }
    };
    (@counter $registry:ident, $name:literal, $help:literal, $value:expr) => {
        counter($registry, $name, $help, $value)
    };
    (@gauge $registry:ident, $name:literal, $help:literal, $value:expr) => {
        gauge($registry, $name, $help, $value)
    };
}

counters! {
    connections: gauge, "tidegate_connections", "WebSocket connections.";
    subscriptions: gauge, "tidegate_subscriptions", "Subscriptions of all connections.";
    opened: counter, "tidegate_connections_opened_total", "WebSocket connections ever opened.";
    published: counter, "tidegate_publishes_total", "Messages accepted from publishers.";
    refused: counter, "tidegate_errors_total", "Requests and frames answered with an error.";
    delivered: counter, "tidegate_deliveries_total", "Message frames handed to sockets.";
    dropped: counter, "tidegate_dropped_total", "Messages dropped by a lane's policy; each is told in a gap.";
    merged: counter, "tidegate_merged_total", "Messages replaced by a newer value of their key.";
    gaps: counter, "tidegate_gaps_total", "Gap notices handed to sockets.";
    blocked: counter, "tidegate_blocked_total", "Times a socket took no more.";
    closed_slow: counter, "tidegate_closed_slow_total", "Connections closed for falling behind (4008) or stalling (4009).";
    bytes_in: counter, "tidegate_received_bytes_total", "Bytes read from clients' sockets.";
    bytes_out: counter, "tidegate_sent_bytes_total", "Bytes of data handed to sockets.";
    outboxes: gauge, "tidegate_outboxes", "Connections with a lane that waits or reads on from a log; once a second.";
    outbox_depth: gauge, "tidegate_outbox_depth", "Messages that wait in all lanes; once a second.";
    outbox_bytes: gauge, "tidegate_outbox_bytes", "Bytes pinned by all lanes.";
    buffer_bytes: gauge, "tidegate_connection_buffer_bytes", "Bytes held for partial reads, partial writes and replies.";
}

/// What every shard publishes and the listener's pages read.
#[derive(Debug)]
pub struct Metrics {
    shards: Box<[Arc<Published>]>,
    outbox_budget: u64,
    connection_budget: u64,
}

impl Metrics {
    /// For so many shards, and the budgets to state beside the figures, in bytes.
    pub fn new(shards: usize, outbox_budget: u64, connection_budget: u64) -> Self {
        Self { shards: (0..shards).map(|_| Arc::default()).collect(), outbox_budget, connection_budget }
    }

    /// Where a shard publishes its figures.
    pub fn shard(&self, shard: usize) -> Arc<Published> {
        self.shards[shard].clone()
    }

    /// The sum over all shards.
    pub fn sum(&self) -> Counters {
        let mut sum = Counters::default();
        self.shards.iter().for_each(|shard| add(&mut sum, &shard.load()));
        sum
    }

    /// What the connections' buffers hold, over all shards, in bytes.
    pub fn buffer_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.buffer_bytes.load(Relaxed)).sum()
    }

    /// How many connections one shard has.
    pub fn connections(&self, shard: usize) -> u64 {
        self.shards[shard].connections.load(Relaxed)
    }

    /// The text of `/metrics`. `bodies` is what those of HTTP requests and answers hold, and may, in bytes.
    pub fn render(&self, hub: &Hub, bodies: (u64, u64)) -> String {
        let registry = Registry::new();
        register(&registry, &self.sum());
        gauge(&registry, "tidegate_outbox_budget_bytes", "What all lanes may pin.", self.outbox_budget);
        gauge(
            &registry,
            "tidegate_connection_buffer_budget_bytes",
            "What buffers may hold.",
            self.connection_budget,
        );
        let (held, most) = bodies;
        gauge(&registry, "tidegate_http_body_bytes", "Bytes held for HTTP bodies under way.", held);
        gauge(&registry, "tidegate_http_body_budget_bytes", "What HTTP bodies under way may hold.", most);
        let (mut messages, mut bytes, mut retained) = (0, 0, 0);
        for stream in hub.streams() {
            let log = &stream.lock().log;
            messages += log.messages();
            bytes += log.bytes();
            retained += log.retained_bytes();
        }
        gauge(&registry, "tidegate_log_messages", "Messages in all streams' logs.", messages);
        gauge(&registry, "tidegate_log_bytes", "Bytes pinned by all streams' logs.", bytes);
        gauge(
            &registry,
            "tidegate_retained_bytes",
            "Bytes pinned by newest messages beyond the logs.",
            retained,
        );
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn counter(registry: &Registry, name: &str, help: &str, value: u64) {
    if let Ok(counter) = IntCounter::with_opts(Opts::new(name, help)) {
        counter.inc_by(value);
        // Names are unique by the tables above.
        let _ = registry.register(Box::new(counter));
    }
}

fn gauge(registry: &Registry, name: &str, help: &str, value: u64) {
    if let Ok(gauge) = IntGauge::with_opts(Opts::new(name, help)) {
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let _ = registry.register(Box::new(gauge));
    }
}
