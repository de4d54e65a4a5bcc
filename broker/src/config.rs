//! Every option: its unit, its default, its bounds and the reason for it.
//!
//! An option is stated once, inside `sections!`: the struct's field, its default, what it is read as and the
//! comment that `config print` writes above it all come from the same lines.
//!
//! # Layout
//!
//! * `section`: what the macro makes of the lines below.
//! * `unit`: how a value is read, written and bounded: durations, sizes, counts, filters.
//! * [`load`]: defaults < file < environment < flags, and where each value came from.
//! * `check`: the rules that hold between options.
//! * `print`: the configuration as a file that can be loaded again.

use std::{net::SocketAddr, time::Duration};

use tidegate_protocol::{Filter, limits, position::DEFAULT_STREAM};

use self::{
    section::{Section, sections},
    unit::{Address, Count, Filters, Flag, Maybe, Name, OneFilter, Origins, Size, Time, Window},
};

mod check;
pub mod load;
mod print;
mod section;
mod unit;

#[cfg(feature = "cli")]
pub(crate) use self::unit::{A_DURATION, parse_duration};
pub use self::{
    check::Mistake,
    load::{ConfigError, Loader},
};

/// The whole configuration. `config/tidegate.toml` shows every option at its default; a test keeps it so.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where and for whom the broker listens.
    pub server: Server,
    /// One connection's clocks and framing.
    pub websocket: WebSocket,
    /// What one connection may do and ask for.
    pub limits: Limits,
    /// Budgets of the whole process.
    pub memory: Memory,
    /// The streams; a list in a file or in the environment takes the place of the whole list. With none, every
    /// topic is live only.
    pub streams: Vec<Stream>,
    /// What subscriptions may ask for, by topic. The first rule whose filter takes the whole of theirs holds.
    pub topics: Vec<TopicRule>,
    /// Whether the pages of `tidegate demo` are served. Not an option: no file and no variable can set it.
    pub demo: bool,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

sections! {
    /// Where and for whom the broker listens.
    pub struct Server {
        /// Address and port of the one listener: the console page, WebSocket (/ws), the HTTP API (/v1), /metrics, /live and /ready.
        /// Port 0 takes any that is free; the broker says which.
        pub listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7400)), Address;
        /// Threads that own connections; 0 is one for each core the process may run on.
        pub shards: usize = 0, Count(0..=256);
        /// Connections over all shards; the soft limit of open files is raised for it. Beyond it a client gets
        /// HTTP 503.
        pub max_connections: usize = 20_000, Count(1..=10_000_000);
        /// Whoever reaches the port may publish and read everything: to listen beyond loopback without
        /// authentication, the operator has to say so here.
        pub allow_anonymous_beyond_loopback: bool = false, Flag;
        /// Browser origins that are welcome besides the broker's own host, as `scheme://host` or
        /// `scheme://host:port`; `*` is any. On a loopback listener loopback origins are welcome anyway.
        pub allowed_origins: Vec<String> = Vec::new(), Origins;
        /// The window clients draw their reconnect delays from: from, to.
        pub reconnect_window: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(5)), Window(0..=HOUR);
        /// How long a stop waits for what is still to be written; the clients' returns are spread over it.
        pub drain_timeout: Duration = Duration::from_secs(10), Time(0..=HOUR);
    }

    /// One connection's clocks and framing.
    pub struct WebSocket {
        /// From accept to upgraded.
        pub handshake_timeout: Duration = Duration::from_secs(5), Time(1..=MINUTE);
        /// How often the broker pings, and marks what each subscription was given.
        pub ping_interval: Duration = Duration::from_secs(25), Time(1..=HOUR);
        /// How long after a ping something must be heard; at most ping_interval.
        pub pong_timeout: Duration = Duration::from_secs(10), Time(1..=HOUR);
        /// A socket with bytes pending that takes none for this long is closed with 4009.
        pub stall_timeout: Duration = Duration::from_secs(30), Time(1..=HOUR);
        /// How long a close frame is tried on a blocked socket, and the peer's answer is waited for.
        pub close_timeout: Duration = Duration::from_secs(1), Time(0..=MINUTE);
        /// A client's WebSocket message over all its fragments (close code 1009 beyond it). Leaves room for a
        /// payload of limits.payload_bytes as base64, with its frame around it.
        pub max_message_bytes: usize = limits::DEFAULT_CLIENT_MESSAGE_BYTES, Size(KIB..=GIB);
        /// Fragments of one message, empty ones too (close code 1008 beyond it).
        pub max_fragments: u32 = 1024, Count(1..=1_000_000);
        /// At least so long from one flush of a shard to the next; what comes sooner gathers. Less CPU for more
        /// latency where messages come faster than that, none of either where they do not.
        pub flush_interval: Duration = Duration::ZERO, Time(0..=1);
    }

    /// What one connection may do and ask for.
    pub struct Limits {
        /// A payload (error 1203 beyond it).
        pub payload_bytes: usize = limits::DEFAULT_PAYLOAD_BYTES, Size(1..=512 * MIB);
        /// Subscriptions of one connection (error 1301 beyond it).
        pub subscriptions: usize = 1024, Count(1..=1_000_000);
        /// The largest `limit` a subscription is given, in messages.
        pub subscription_limit: u32 = 16_384, Count(1..=10_000_000);
        /// The largest `limit_bytes` a subscription is given.
        pub subscription_limit_bytes: u32 = 8 << 20, Size(KIB..=2 * GIB);
        /// Publishes of one connection whose ack is not yet written, in messages. Beyond it the broker stops
        /// reading that connection.
        pub publish_window_messages: u64 = 1024, Count(1..=1_000_000);
        /// The same in payload bytes; at least limits.payload_bytes.
        pub publish_window_bytes: u64 = 1 << 20, Size(KIB..=GIB);
        /// Replies and notices that wait for one connection; beyond it the connection is not read.
        pub control_lane_bytes: usize = 256 << 10, Size(16 * KIB..=64 * MIB);
        /// What all lanes of one connection may pin.
        pub connection_bytes: usize = 32 << 20, Size(64 * KIB..=TIB);
        /// Messages of one page of `history`.
        pub history_page_messages: u32 = 1000, Count(1..=100_000);
        /// Bytes of one page of `history`; a larger message has a page for itself.
        pub history_page_bytes: usize = 256 << 10, Size(KIB..=64 * MIB);
        /// Messages of one batch over HTTP (error 1203 beyond it).
        pub batch_messages: usize = 1000, Count(1..=100_000);
        /// Bytes of one batch over HTTP, as it is sent (error 1203 beyond it).
        pub batch_bytes: usize = 1 << 20, Size(KIB..=GIB);
        /// Messages a subscription from `last` may start with; the oldest beyond it become a gap.
        pub last_messages: usize = 16_384, Count(1..=10_000_000);
        /// Frames that could not be read before the connection is closed with 4501.
        pub errors: u32 = 100, Count(1..=1_000_000);
        /// How long an idempotency key is remembered. The SDKs count on two minutes.
        pub idempotency_window: Duration = Duration::from_secs(120), Time(1..=DAY);
        /// Client instances whose idempotency keys are remembered.
        pub idempotency_instances: usize = 10_000, Count(1..=10_000_000);
    }

    /// Budgets of the whole process.
    pub struct Memory {
        /// What all lanes of all connections may pin. At it, lanes count as full.
        pub outbox_bytes: u64 = 256 << 20, Size(MIB..=16 * TIB);
        /// What read buffers and control lanes may hold. At it, new connections are refused.
        pub connection_bytes: u64 = 256 << 20, Size(MIB..=16 * TIB);
        /// What the bodies of HTTP requests and answers under way may hold, with what is read out of them. At it, requests
        /// are refused with 503.
        pub http_bytes: u64 = 64 << 20, Size(MIB..=16 * TIB);
        /// What remembered idempotency keys may hold, for each stream. At it, the longest idle go.
        pub idempotency_bytes: u64 = 64 << 20, Size(MIB..=16 * TIB);
        /// What waits between shards, in messages for one shard.
        pub shard_queue_messages: usize = 16_384, Count(16..=10_000_000);
    }

    /// A named, bounded log. A topic belongs to one stream at most.
    pub struct Stream {
        /// One token. The stream `default` takes what no other stream's filters take; where the list has none,
        /// topics in no stream are live only.
        pub name: String = DEFAULT_STREAM.into(), Name;
        /// Which topics it keeps; none for `default`. Filters of two streams may not overlap.
        pub filters: Vec<Filter> = Vec::new(), Filters;
        /// How long a message stays.
        pub max_age: Duration = Duration::from_secs(120), Time(1..=3650 * DAY);
        /// What the log may hold; beyond it the oldest messages go.
        pub max_bytes: u64 = 64 << 20, Size(64 * KIB..=16 * TIB);
        /// What the newest message of each topic may hold once the log has let go of it.
        pub retain_last_bytes: u64 = 16 << 20, Size(0..=16 * TIB);
    }

    /// What subscriptions whose filter lies inside this rule's filter may ask for, in place of the section limits.
    pub struct TopicRule {
        /// Which subscriptions: those whose filter takes nothing that this one does not take.
        pub filter: Filter = everything(), OneFilter;
        /// The largest `limit` such a subscription is given, in messages.
        pub subscription_limit: Option<u32> = None, Maybe(Count(1..=10_000_000));
        /// The largest `limit_bytes` such a subscription is given.
        pub subscription_limit_bytes: Option<u32> = None, Maybe(Size(KIB..=2 * GIB));
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server::default(),
            websocket: WebSocket::default(),
            limits: Limits::default(),
            memory: Memory::default(),
            streams: vec![Stream::default()],
            topics: Vec::new(),
            demo: false,
        }
    }
}

impl Server {
    /// How many shards to run: `shards`, or one for each core the process may run on (its affinity and its cgroup's
    /// quota count).
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            shards => shards,
        }
    }
}

impl Config {
    /// The sections that stand once in a file, each under its name.
    fn sections(&self) -> [(&'static str, &dyn Section); 4] {
        [
            ("server", &self.server),
            ("websocket", &self.websocket),
            ("limits", &self.limits),
            ("memory", &self.memory),
        ]
    }

    fn section_mut(&mut self, name: &str) -> Option<&mut dyn Section> {
        match name {
            "server" => Some(&mut self.server),
            "websocket" => Some(&mut self.websocket),
            "limits" => Some(&mut self.limits),
            "memory" => Some(&mut self.memory),
            _ => None,
        }
    }
}

/// The lists a file may hold besides the sections.
const LISTS: [&str; 2] = ["streams", "topics"];

fn everything() -> Filter {
    Filter::parse(">").expect("a filter")
}
