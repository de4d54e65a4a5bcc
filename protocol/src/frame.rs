//! Everything a client and a broker can say to each other. `docs/protocol.md` states how each codec writes it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    close::CloseCode,
    error::ErrorCode,
    filter::Filter,
    payload::Payload,
    position::{Epoch, From, Position, StreamName},
    topic::Topic,
};

/// What a client says.
///
/// Every request carries an `id` that only grows on a connection; its [`ServerFrame::Ack`] or
/// [`ServerFrame::Error`] repeats it.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientFrame {
    /// Says who the client is. May be left out where anonymous clients are welcome.
    Connect(Connect),
    /// Starts a subscription, whose id is this frame's `id`.
    Subscribe(Subscribe),
    /// Ends a subscription.
    Unsubscribe {
        /// The request's id.
        id: u64,
        /// The subscription.
        sub: u64,
    },
    /// Publishes a message.
    Publish(Publish),
    /// Asks for a part of one topic's log.
    History(HistoryRequest),
    /// Renews the token in place.
    Refresh {
        /// The request's id.
        id: u64,
        /// The new token.
        token: String,
    },
    /// Lets a subscription made with `credit` have this many messages more.
    Credit {
        /// The subscription.
        sub: u64,
        /// How many more.
        add: u32,
    },
    /// Asks for a [`ServerFrame::Pong`].
    Ping {
        /// The request's id.
        id: u64,
    },
}

/// See [`ClientFrame::Connect`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect {
    /// The request's id.
    pub id: u64,
    /// A JWT.
    pub token: Option<String>,
    /// The application's name and version, for logs.
    pub client: Option<String>,
    /// A random id the client keeps across its reconnects: `echo: false` and idempotency keys go by it.
    pub instance: Option<String>,
}

/// See [`ClientFrame::Subscribe`].
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    /// The request's id, and from now on the subscription's.
    pub id: u64,
    /// Which topics.
    pub filter: Filter,
    /// Where to start.
    pub from: From,
    /// What happens when it falls behind; the broker's default where absent.
    pub overflow: Option<Overflow>,
    /// Its bound in messages; the ack says what is in force.
    pub limit: Option<u32>,
    /// Its bound in bytes; the ack says what is in force.
    pub limit_bytes: Option<u32>,
    /// How many messages it may be sent before it asks for more with [`ClientFrame::Credit`]; unlimited where absent.
    pub credit: Option<u32>,
    /// Whether it is sent what this instance published itself. `true` where absent on the wire.
    pub echo: bool,
}

/// What happens to a subscription's messages when its lane is full.
///
/// ```
/// use tidegate_protocol::frame::Overflow;
///
/// fn suits(subject: &str) -> Overflow {
///     match subject {
///         "prices" => Overflow::Latest,       // only the newest matters
///         "sensors" => Overflow::DropOldest,  // the newer, the better
///         "samples" => Overflow::DropNewest,  // any will do
///         "ledger" => Overflow::Disconnect,   // all or nothing
///         _ => Overflow::CatchUp,             // nothing may be missing
///     }
/// }
/// assert_eq!(suits("chat"), Overflow::CatchUp);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Let go of the messages, keep the position, read on from the log as the socket drains.
    CatchUp,
    /// The oldest waiting message goes.
    DropOldest,
    /// The new message goes.
    DropNewest,
    /// One slot per topic and key: a newer value replaces the waiting one.
    Latest,
    /// The connection is closed with 4008.
    Disconnect,
}

/// Names and values that travel beside a payload, in the publisher's order.
pub type Headers = Vec<(Box<str>, Box<str>)>;

/// See [`ClientFrame::Publish`].
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    /// The request's id; without one no ack is asked for.
    pub id: Option<u64>,
    /// Where to.
    pub topic: Topic,
    /// What.
    pub payload: Payload,
    /// What [`Overflow::Latest`] tells values of one topic apart by.
    pub key: Option<Arc<str>>,
    /// Names and values beside the payload.
    pub headers: Headers,
    /// A repeated publish with this key acks the first one's position.
    pub idempotency: Option<Box<str>>,
    /// Whether the ack shall carry a [`Report`].
    pub report: bool,
}

/// See [`ClientFrame::History`].
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryRequest {
    /// The request's id.
    pub id: u64,
    /// Of which topic.
    pub topic: Topic,
    /// From where on. [`From::Live`] gives nothing.
    pub from: From,
    /// At most this many messages; the broker's bound where absent or larger.
    pub limit: Option<u32>,
}

/// What a broker says.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerFrame {
    /// Answers [`ClientFrame::Connect`].
    Welcome(Welcome),
    /// A request was carried out.
    Ack {
        /// The request's id.
        id: u64,
        /// What came of it.
        result: AckResult,
    },
    /// A request was refused, or a frame could not be read.
    Error(ErrorFrame),
    /// A message.
    Message(Message),
    /// Messages a subscription was not given.
    Gap(Gap),
    /// What the subscriptions were given and told so far.
    Mark(Mark),
    /// A page of a topic's log.
    History(HistoryPage),
    /// A subscription has ended, by request or not.
    Unsubscribed {
        /// The subscription.
        sub: u64,
        /// Why, where the client did not ask for it.
        code: Option<ErrorCode>,
    },
    /// The broker is going: come back after `reconnect_ms`.
    Drain {
        /// This client's own delay, in milliseconds.
        reconnect_ms: u64,
    },
    /// Answers [`ClientFrame::Ping`].
    Pong {
        /// The request's id.
        id: u64,
    },
}

/// See [`ServerFrame::Welcome`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The request's id.
    pub id: u64,
    /// This connection's id.
    pub connection: String,
    /// The bounds in force.
    pub limits: WelcomeLimits,
    /// How much may be published whose ack has not come yet.
    pub publish_window: PublishWindow,
    /// How often the broker pings and marks, in milliseconds.
    pub ping_ms: u64,
    /// The window a client draws its reconnect delays from, in milliseconds: from, to.
    pub reconnect_ms: (u64, u64),
}

/// See [`Welcome::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WelcomeLimits {
    /// The largest payload, in bytes.
    pub payload_bytes: u64,
    /// The largest WebSocket message a client may send, over all its fragments, in bytes.
    pub message_bytes: u64,
    /// The most subscriptions of one connection.
    pub subscriptions: u64,
    /// The largest `limit` a subscription may ask for.
    pub limit: u64,
    /// The largest `limit_bytes` a subscription may ask for.
    pub limit_bytes: u64,
}

/// See [`Welcome::publish_window`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishWindow {
    /// In messages.
    pub messages: u64,
    /// In payload bytes.
    pub bytes: u64,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum AckResult {
    /// Of a subscribe.
    Subscribed(Subscribed),
    /// Of a publish.
    Published(Published),
    /// Of anything else.
    Done,
}

/// The terms of a new subscription.
///
/// ```
/// use tidegate_protocol::frame::{Overflow, Subscribed};
///
/// fn show(terms: &Subscribed) -> String {
///     format!("{} messages, {} bytes, then {:?}", terms.limit, terms.limit_bytes, terms.overflow)
/// }
/// # let terms = Subscribed {
/// #     positions: Vec::new(), overflow: Overflow::CatchUp, limit: 256, limit_bytes: 262_144, live_only: false,
/// # };
/// assert_eq!(show(&terms), "256 messages, 262144 bytes, then CatchUp");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// Where it stands, in each stream its filter can reach.
    pub positions: Vec<StartPosition>,
    /// The policy in force.
    pub overflow: Overflow,
    /// The bound in force, in messages.
    pub limit: u32,
    /// The bound in force, in bytes.
    pub limit_bytes: u32,
    /// Whether the filter reaches topics that are in no stream.
    pub live_only: bool,
}

/// Where a new subscription stands in one stream.
///
/// ```
/// use tidegate_protocol::{Epoch, frame::StartPosition};
///
/// let start = StartPosition { stream: None, epoch: Epoch(0x8f3a), offset: 41, live: 57 };
/// println!("offsets {} to {} are read from the log first", start.offset + 1, start.live);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPosition {
    /// The stream; absent for the default one.
    pub stream: Option<StreamName>,
    /// The log's incarnation.
    pub epoch: Epoch,
    /// The position until the first message or gap.
    pub offset: u64,
    /// The last offset before live.
    pub live: u64,
}

/// What came of a publish.
///
/// ```
/// use tidegate_protocol::{Epoch, Position, frame::Published};
///
/// let position = Position { stream: None, epoch: Epoch(0x8f3a), offset: 42 };
/// let ack = Published { position: Some(position), duplicate: false, report: None };
/// assert_eq!(ack.position.map(|position| position.offset), Some(42));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where the message stands; absent for a topic in no stream.
    pub position: Option<Position>,
    /// Whether the idempotency key was known: the position is the first publish's.
    pub duplicate: bool,
    /// How the fan-out went, where asked for.
    pub report: Option<Report>,
}

/// How a fan-out stood, before the flush.
///
/// ```
/// use tidegate_protocol::frame::Report;
///
/// fn all_take_it(report: &Report) -> bool {
///     !report.partial && report.queued == report.matched
/// }
/// assert!(all_take_it(&Report { matched: 3, queued: 3, ..Report::default() }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Subscriptions whose filter takes the topic.
    pub matched: u64,
    /// Of these: will be written, or wait in a lane.
    pub queued: u64,
    /// Replaced a waiting value of the same key.
    pub merged: u64,
    /// Were dropped, or pushed another message out.
    pub dropped: u64,
    /// Will be read from the log later.
    pub behind: u64,
    /// Whether a shard had not answered within a second.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// See [`ServerFrame::Error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFrame {
    /// The request's id, where one could be read.
    pub id: Option<u64>,
    /// The number. Its name and whether a retry can help are written beside it, from the one table.
    pub code: ErrorCode,
    /// For a person.
    pub message: String,
}

/// A message as a subscriber gets it.
///
/// ```
/// use tidegate_protocol::{Codec, Message, ServerFrame};
///
/// fn show(message: &Message) -> String {
///     format!("{} {}: {:?}", message.offset.unwrap_or(0), message.topic, message.payload.as_str())
/// }
/// # let line = br#"{"op":"message","topic":"chat.room1","offset":42,"time":1790000000123,"text":"hi"}"#;
/// # let Some(Ok(ServerFrame::Message(message))) = Codec::Json.decode_server(line).next() else { panic!() };
/// assert_eq!(show(&message), r#"42 chat.room1: Some("hi")"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its topic.
    pub topic: Topic,
    /// Its stream; absent for the default one, and for a message that is in none (then `offset` is absent too).
    pub stream: Option<StreamName>,
    /// Its place in the stream, from 1.
    pub offset: Option<u64>,
    /// The offset of the topic's message before it, where the log holds one.
    pub prev: Option<u64>,
    /// When the broker took it, in milliseconds since the Unix epoch.
    pub time: u64,
    /// Its content.
    pub payload: Payload,
    /// Its key.
    pub key: Option<Arc<str>>,
    /// Its headers.
    pub headers: Headers,
    /// The one subscription it is for; absent where it is for every subscription of the connection that takes it.
    pub sub: Option<u64>,
}

/// Messages a subscription was not given, at the place in its flow where they are missing.
///
/// ```
/// use tidegate_protocol::{Codec, ServerFrame, frame::Gap};
///
/// fn show(gap: &Gap) -> String {
///     match (gap.count, gap.at_most) {
///         (Some(count), _) => format!("{count} messages are missing: {:?}", gap.reason),
///         (None, Some(bound)) => format!("at most {bound} messages are missing: {:?}", gap.reason),
///         (None, None) => format!("messages are missing: {:?}", gap.reason),
///     }
/// }
/// # let line = br#"{"op":"gap","sub":2,"count":12,"from":43,"to":60,"reason":"overflow","policy":"drop_oldest"}"#;
/// # let Some(Ok(ServerFrame::Gap(gap))) = Codec::Json.decode_server(line).next() else { panic!() };
/// assert_eq!(show(&gap), "12 messages are missing: Overflow");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The subscription.
    pub sub: u64,
    /// The stream; absent for the default one, and where `from` is.
    pub stream: Option<StreamName>,
    /// The topic, only where all the missing messages are of one that is known.
    pub topic: Option<Topic>,
    /// How many, exactly.
    pub count: Option<u64>,
    /// How many at most, where the exact number cannot be known.
    pub at_most: Option<u64>,
    /// The first offset that may be missing. Absent for live-only messages.
    pub from: Option<u64>,
    /// The last offset that may be missing; the subscription's position is now this.
    pub to: Option<u64>,
    /// Why.
    pub reason: GapReason,
    /// Under which policy.
    pub policy: Overflow,
}

/// Why messages are missing.
///
/// ```
/// use tidegate_protocol::frame::GapReason;
///
/// /// Whether what is missing is gone for good, and not only superseded.
/// fn is_loss(reason: GapReason) -> bool {
///     match reason {
///         GapReason::Merged => false,
///         GapReason::Overflow | GapReason::Evicted | GapReason::Epoch => true,
///         GapReason::Away | GapReason::Books => true,
///     }
/// }
/// assert!(!is_loss(GapReason::Merged));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The lane was full.
    Overflow,
    /// A newer value of the same key took their place.
    Merged,
    /// The log no longer holds them.
    Evicted,
    /// The position is of another incarnation of the log.
    Epoch,
    /// They were not in a stream, and the client was away. Made by the SDKs.
    Away,
    /// The books did not agree and the log could not mend it. Made by the SDKs.
    Books,
}

/// See [`ServerFrame::Mark`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// What every subscription of the connection has been given everything up to, but those listed as `behind`.
    pub positions: Vec<Position>,
    /// The subscriptions with traffic since the last mark, and all that are behind.
    pub subs: Vec<SubMark>,
}

/// One subscription's books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubMark {
    /// The subscription.
    pub sub: u64,
    /// Messages written to it, ever.
    pub messages: u64,
    /// Messages told to it by gaps (`count`, else `at_most`), ever.
    pub gapped: u64,
    /// Whether it reads on from the log, or waits in its lane: the mark's positions do not hold for it.
    pub behind: bool,
}

/// See [`ServerFrame::History`].
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    /// The request's id.
    pub id: u64,
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Where the page ends: `from` this position comes the next. Absent for a topic in no stream.
    pub position: Option<Position>,
    /// Whether there is more up to the log's end.
    pub more: bool,
}

/// Whether a client comes back after this close code: one that this version does not know goes by its range (see
/// [`CloseCode`]), and beyond the ranges it does.
pub fn reconnects(code: u16) -> bool {
    CloseCode::from_number(code).map_or(!(4500..5000).contains(&code), CloseCode::reconnect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_code_of_a_newer_broker_goes_by_its_range() {
        assert!(reconnects(4499));
        assert!(!reconnects(4500));
        assert!(!reconnects(4999));
        assert!(reconnects(1006));
        assert!(!reconnects(1000));
    }
}
