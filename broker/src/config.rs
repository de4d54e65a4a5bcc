//! Every option, its unit, its default and the reason for it.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_protocol::{Filter, limits};

/// The whole configuration. `config/tidegate.toml` shows every option at its default; a test keeps it so.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub server: Server,
    pub websocket: WebSocket,
    pub limits: Limits,
    pub memory: Memory,
    pub streams: Vec<Stream>,
    pub topics: Vec<TopicRule>,
}

/// Where and for whom the broker listens.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// One listener for `/`, `/ws`, `/metrics`, `/live` and `/ready`.
    pub listen: SocketAddr,
    /// Threads that own connections; 0 is one for each core the process may run on.
    pub shards: usize,
    /// Connections over all shards; the soft limit of open files is raised for it. Beyond it: HTTP 503.
    pub max_connections: usize,
    /// Listening beyond loopback without authentication is refused unless this says so.
    pub allow_anonymous_beyond_loopback: bool,
    /// Browser origins that are welcome besides the own host, as `scheme://host[:port]`; `*` is any.
    pub allowed_origins: Vec<String>,
    /// The window clients draw their reconnect delays from.
    pub reconnect_window: (Duration, Duration),
    /// How long a stop waits for what is still to be written, and over which drained clients are spread.
    pub drain_timeout: Duration,
}

/// One connection's clocks and framing.
#[derive(Debug, Clone, PartialEq)]
pub struct WebSocket {
    /// From accept to upgraded.
    pub handshake_timeout: Duration,
    /// How often the broker pings and marks.
    pub ping_interval: Duration,
    /// How long after a ping something must be heard.
    pub pong_timeout: Duration,
    /// A socket with bytes pending that takes none for this long is closed with 4009.
    pub stall_timeout: Duration,
    /// How long a close frame is tried on a blocked socket, and the peer's answer is waited for.
    pub close_timeout: Duration,
    /// A client's WebSocket message over all its fragments, in bytes (1009).
    pub max_message_bytes: usize,
    /// Fragments of one message, empty ones too (1008).
    pub max_fragments: u32,
    /// Waits this long after a tick's reads before it writes: less CPU for more latency.
    pub flush_interval: Duration,
}

/// What one connection may do and ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// A payload, in bytes (error 1203).
    pub payload_bytes: usize,
    /// Subscriptions of one connection (error 1301).
    pub subscriptions: usize,
    /// The largest `limit` a subscription is given, in messages.
    pub subscription_limit: u32,
    /// The largest `limit_bytes` a subscription is given.
    pub subscription_limit_bytes: u32,
    /// Publishes whose ack is not yet written: messages.
    pub publish_window_messages: u64,
    /// Publishes whose ack is not yet written: payload bytes.
    pub publish_window_bytes: u64,
    /// Replies and notices that wait for one connection, in bytes; beyond it the connection is not read.
    pub control_lane_bytes: usize,
    /// What all lanes of one connection may pin, in bytes.
    pub connection_bytes: usize,
    /// Messages of one page of `history`, and its bytes.
    pub history_page_messages: u32,
    pub history_page_bytes: usize,
    /// Offsets a subscription from `last` may start with; the oldest beyond it become a gap.
    pub last_messages: usize,
    /// Frames that could not be read before the connection is closed with 4501.
    pub errors: u32,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
    /// Instances whose idempotency keys are remembered.
    pub idempotency_instances: usize,
}

/// Budgets of the whole process.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// What all lanes of all connections may pin, in bytes. At it, lanes count as full.
    pub outbox_bytes: u64,
    /// What read buffers and control lanes may hold, in bytes. At it, new connections are refused.
    pub connection_bytes: u64,
    /// What waits between shards, in messages of one shard.
    pub shard_queue_messages: usize,
}

/// A named, bounded log.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// `default` takes what no other stream's filters take.
    pub name: String,
    /// Which topics it keeps; empty for `default`.
    pub filters: Vec<Filter>,
    /// How long a message stays.
    pub max_age: Duration,
    /// What the log may hold, in bytes.
    pub max_bytes: u64,
    /// What the newest message of each topic may hold beyond the log, in bytes.
    pub retain_last_bytes: u64,
}

/// What subscriptions whose filter lies inside this rule's filter may ask for, instead of [`Limits`].
#[derive(Debug, Clone, PartialEq)]
pub struct TopicRule {
    pub filter: Filter,
    pub subscription_limit: Option<u32>,
    pub subscription_limit_bytes: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server {
                listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
                shards: 0,
                max_connections: 20_000,
                allow_anonymous_beyond_loopback: false,
                allowed_origins: Vec::new(),
                reconnect_window: (Duration::ZERO, Duration::from_secs(5)),
                drain_timeout: Duration::from_secs(10),
            },
            websocket: WebSocket {
                handshake_timeout: Duration::from_secs(5),
                ping_interval: Duration::from_secs(25),
                pong_timeout: Duration::from_secs(10),
                stall_timeout: Duration::from_secs(30),
                close_timeout: Duration::from_secs(1),
                max_message_bytes: limits::DEFAULT_CLIENT_MESSAGE_BYTES,
                max_fragments: 1024,
                flush_interval: Duration::ZERO,
            },
            limits: Limits {
                payload_bytes: limits::DEFAULT_PAYLOAD_BYTES,
                subscriptions: 1024,
                subscription_limit: 16_384,
                subscription_limit_bytes: 8 << 20,
                publish_window_messages: 1024,
                publish_window_bytes: 1 << 20,
                control_lane_bytes: 256 << 10,
                connection_bytes: 32 << 20,
                history_page_messages: 1000,
                history_page_bytes: 256 << 10,
                last_messages: 16_384,
                errors: 100,
                idempotency_window: Duration::from_secs(120),
                idempotency_instances: 10_000,
            },
            memory: Memory { outbox_bytes: 256 << 20, connection_bytes: 256 << 20, shard_queue_messages: 16_384 },
            streams: vec![Stream {
                name: "default".into(),
                filters: Vec::new(),
                max_age: Duration::from_secs(120),
                max_bytes: 64 << 20,
                retain_last_bytes: 16 << 20,
            }],
            topics: Vec::new(),
        }
    }
}
