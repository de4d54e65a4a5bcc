//! What the load generator has to know of a server: how to subscribe, how to publish, how to find the payloads in
//! what it sends. One file a protocol.
//!
//! To add one: implement [`Adapter`] in a file here and name it in [`Protocol`] and in
//! [`with`](Protocol::with). Walk the frames, do not decode them: what an adapter spends, the generator spends once
//! for each delivery.

mod centrifuge_json;
mod centrifuge_protobuf;
mod floor;
mod mqtt;
mod nats;
mod plain;
mod pusher;
mod socketio;
mod tidegate_bincode;
mod tidegate_events;
mod tidegate_json;
#[cfg(test)]
mod transcript;

use std::io;

pub use centrifuge_json::CentrifugeJson;
pub use centrifuge_protobuf::CentrifugeProtobuf;
pub use floor::Floor;
pub use mqtt::Mqtt;
pub use nats::Nats;
pub use plain::{Plain, PlainTopics};
pub use pusher::Pusher;
pub use socketio::SocketIo;
pub use tidegate_bincode::TidegateBincode;
pub use tidegate_events::TidegateEvents;
pub use tidegate_json::TidegateJson;

use crate::{events, payload::Shape, websocket::Malformed};

/// A server's protocol over WebSocket, or over server-sent events.
pub trait Adapter {
    /// What has to be remembered of a connection between two WebSocket messages, and from a connection to the one
    /// that comes back for it.
    type State: Default;

    /// The path and the subprotocol to ask for.
    fn upgrade(&self, role: Role<'_>) -> (String, Option<&'static str>);

    /// What asks for an event stream, where this role reads one in place of a WebSocket. What the stream carries comes
    /// to [`Adapter::receive`] in pieces, cut where the server did.
    fn events(&self, _role: Role<'_>) -> Option<events::Request> {
        None
    }

    /// The opcode of the client's messages.
    fn opcode(&self) -> u8;

    /// Speaks first, after the upgrade. [`Talk::ready`] must be called here, or in [`Adapter::receive`] once the
    /// server has confirmed.
    ///
    /// # Errors
    /// Those that [`Talk`] gives, and [`Fault::NoResume`].
    fn open(&self, state: &mut Self::State, role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault>;

    /// Appends the WebSocket message that publishes `payload`. Its bytes must hold `payload` as it is: the
    /// generator makes it once and then changes only the stamp.
    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>);

    /// Reads one WebSocket message.
    ///
    /// # Errors
    /// What ends the run.
    fn receive(&self, state: &mut Self::State, message: &[u8], talk: &mut impl Talk) -> Result<(), Fault>;
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role<'a> {
    /// It gets what is published to these topics, or to what these filters match: at least one, in Tidegate's
    /// syntax, of letters, digits, dots and wildcards.
    Subscriber(&'a [String]),
    /// The same, but it was connected before, and gets what it missed since. Its state is what it had then.
    Returning(&'a [String]),
    /// It publishes to this topic, and gets nothing.
    Publisher(&'a str),
}

/// What an adapter can do with the connection it reads.
pub trait Talk {
    /// Hands over a payload that arrived.
    ///
    /// # Errors
    /// Where it is not the one that is due.
    fn deliver(&mut self, payload: &[u8]) -> Result<(), Fault>;

    /// Sends a WebSocket message.
    fn send(&mut self, message: &[u8]);

    /// Says that from now on what is published will arrive.
    fn ready(&mut self);
}

/// Why a run is void.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A payload that was not published.
    #[error("subscriber {subscriber} got what nobody published: {payload}")]
    Corrupt {
        /// Who.
        subscriber: usize,
        /// What, up to 200 bytes.
        payload: String,
    },
    /// A message of a topic it does not subscribe to.
    #[error("subscriber {subscriber} got a message of flow {flow}, which it does not subscribe to")]
    Misrouted {
        /// Who.
        subscriber: usize,
        /// Whose message.
        flow: usize,
    },
    /// A message that is yet to be published.
    #[error("subscriber {subscriber} got message {sequence} of flow {flow}, which is yet to be published")]
    NeverPublished {
        /// Who.
        subscriber: usize,
        /// Whose message.
        flow: usize,
        /// Which.
        sequence: u64,
    },
    /// Something is missing before it, or it came too early.
    #[error(
        "missing or reordered: subscriber {subscriber} got message {sequence} of flow {flow} in place of {expected}"
    )]
    Missing {
        /// Who.
        subscriber: usize,
        /// Whose message.
        flow: usize,
        /// What was due.
        expected: u64,
        /// What came.
        sequence: u64,
    },
    /// It came before, or it came too late.
    #[error(
        "doubled or late: subscriber {subscriber} got message {sequence} of flow {flow} in place of {expected}"
    )]
    Repeated {
        /// Who.
        subscriber: usize,
        /// Whose message.
        flow: usize,
        /// What was due.
        expected: u64,
        /// What came.
        sequence: u64,
    },
    /// The protocol, or this adapter of it, cannot come back for what it missed.
    #[error("there is no resume in this protocol")]
    NoResume,
    /// The server refused something, or told of a loss.
    #[error("the server said: {0}")]
    Told(String),
    /// What arrived cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A connection was closed or reset.
    #[error("a connection was closed{0}")]
    Closed(String),
    /// Nothing arrived for too long.
    #[error("stalled: {deliveries} deliveries so far, {out} messages are out")]
    Stalled {
        /// So far.
        deliveries: u64,
        /// Messages some subscriber has not.
        out: usize,
    },
    /// Connecting took too long.
    #[error("stalled: only {ready} of {wanted} connections became ready")]
    NotReady {
        /// So far.
        ready: usize,
        /// Of these.
        wanted: usize,
    },
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The protocols there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Subprotocol `tidegate.v1.json`.
    TidegateJson,
    /// Subprotocol `tidegate.v1.bincode`.
    TidegateBincode,
    /// The same, but subscribers subscribe by their URL.
    TidegateUrl,
    /// Server-sent events of one subscription, as a bare `EventSource` reads them.
    TidegateEvents,
    /// Those of a session, as the browser's client reads them where it gets no WebSocket.
    TidegateSession,
    /// Bare payloads; the path names the topic: `floor`'s protocol, in text messages.
    Plain,
    /// Bare payloads to subscribers; messages name the topics.
    PlainTopics,
    /// As `plain`, with nchan's buffers to come back for.
    Nchan,
    /// Centrifugo's JSON.
    CentrifugeJson,
    /// Centrifugo's Protobuf.
    CentrifugeProtobuf,
    /// NATS over WebSocket.
    Nats,
    /// MQTT 3.1.1 over WebSocket, QoS 0.
    Mqtt,
    /// Socket.IO 4.
    Socketio,
    /// Pusher's channels.
    Pusher,
    /// The server `floor` of this crate.
    Floor,
}

/// What is to be done with an adapter, whichever it is.
pub trait Visit {
    /// What comes of it.
    type Output;

    /// Does it.
    fn visit(self, adapter: impl Adapter) -> Self::Output;
}

impl Protocol {
    /// Does something with this protocol's adapter. Generic, so that nothing is called through a pointer on the
    /// receive path.
    pub fn with<V: Visit>(self, shape: &Shape, visit: V) -> V::Output {
        match self {
            Self::TidegateJson => visit.visit(TidegateJson::new(shape)),
            Self::TidegateBincode => visit.visit(TidegateBincode::by_frames()),
            Self::TidegateUrl => visit.visit(TidegateBincode::by_url()),
            Self::TidegateEvents => visit.visit(TidegateEvents::bare(shape)),
            Self::TidegateSession => visit.visit(TidegateEvents::session(shape)),
            Self::Plain => visit.visit(Plain::live()),
            Self::PlainTopics => visit.visit(PlainTopics),
            Self::Nchan => visit.visit(Plain::nchan()),
            Self::CentrifugeJson => visit.visit(CentrifugeJson::new(shape)),
            Self::CentrifugeProtobuf => visit.visit(CentrifugeProtobuf),
            Self::Nats => visit.visit(Nats),
            Self::Mqtt => visit.visit(Mqtt),
            Self::Socketio => visit.visit(SocketIo),
            Self::Pusher => visit.visit(Pusher::new(shape)),
            Self::Floor => visit.visit(Floor::new(shape)),
        }
    }
}

/// Hands `message`, behind what `unread` kept of the last, to `take` until that finds nothing whole any more, and keeps
/// the rest. `take` returns how many bytes it took. Copies only where the server cut something.
#[inline]
fn reassemble(
    unread: &mut Vec<u8>,
    message: &[u8],
    mut take: impl FnMut(&[u8]) -> Result<Option<usize>, Fault>,
) -> Result<(), Fault> {
    if unread.is_empty() {
        let mut taken = 0;
        while taken < message.len() {
            let Some(length) = take(&message[taken..])? else { break };
            taken += length;
        }
        unread.extend_from_slice(&message[taken..]);
        return Ok(());
    }
    unread.extend_from_slice(message);
    if unread.len() > MAX_UNREAD {
        return Err(Malformed("a message that does not end").into());
    }
    let whole = std::mem::take(unread);
    reassemble(unread, &whole, take)
}

/// Bytes of an unfinished message that are kept at most.
const MAX_UNREAD: usize = 4 << 20;
