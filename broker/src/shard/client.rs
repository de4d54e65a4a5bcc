//! A connection's and a subscription's state, as their shard holds it.

use std::{collections::VecDeque, time::Instant};

use smallvec::SmallVec;
use tidegate_protocol::{
    ClientFrame, CloseCode, Codec, Filter, ServerFrame,
    codec::DecodeError,
    frame::{HistoryRequest, SubMark},
};

use super::control::{Control, What};
use crate::{
    admission::Admission,
    connection::Connection,
    engine::Submission,
    hub::Reach,
    outbox::{Outbox, Terms},
    session::Session,
};

/// Who is to be given a message: ascending keys bring a connection's subscriptions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub client: u32,
    pub sub: u32,
}

/// One connection. Small while it is idle: what only a busy or slow one needs is boxed and goes when it is done.
pub struct Client {
    /// The place in the slab, and above it a generation: a late event must not reach the place's next owner.
    pub token: usize,
    /// Held as long as it is here.
    pub admission: Admission,
    pub connection: Connection,
    pub codec: Codec,
    pub session: Session,
    /// The arena's serials that the next flush writes, coalesced.
    pub ranges: SmallVec<[(u64, u64); 1]>,
    pub control: Option<Box<Control>>,
    pub outbox: Option<Box<Outbox<u32>>>,
    /// What the lanes pin.
    pub pinned: u64,
    /// Asked for and not yet answered; waits for room in the socket.
    pub history: Option<Box<HistoryRequest>>,
    /// What was read and cannot be carried out yet.
    pub held: Option<Box<Held>>,
    /// The socket takes nothing: an event will tell.
    pub blocked: bool,
    /// Stands in the list of connections to flush.
    pub dirty: bool,
    /// Stands in the list of connections whose lanes go on.
    pub pumping: bool,
    /// Stands in the list of connections to read.
    pub reading: bool,
    /// What it holds in buffers and replies, as the budget knows it.
    pub charged: u64,
    /// Stands in the list of connections that must end.
    pub ending: bool,
    /// Not read for backpressure since; its liveness is not judged meanwhile.
    pub paused: bool,
    /// When reading went on last.
    pub resumed: Instant,
    pub next_ping: Instant,
    /// When it is looked at next.
    pub next_check: Instant,
}

/// Frames that wait for room elsewhere: their connection is not read meanwhile.
pub struct Held {
    /// The engine had no room for it.
    pub submission: Option<Box<Submission>>,
    /// What came behind it in the same read.
    pub frames: VecDeque<Result<ClientFrame, DecodeError>>,
}

/// One subscription.
pub struct Sub {
    pub client: u32,
    /// It has no lane: it is given what the shard fans out, as it is.
    pub level: bool,
    /// `echo: false`.
    pub no_echo: bool,
    /// Messages written.
    pub sent: u64,
    /// Messages that may be written.
    pub granted: u64,
    /// The shard's serial when it came.
    pub since: u64,
    /// Messages told by gaps.
    pub gapped: u64,
    /// `sent + gapped` at the last mark.
    pub marked: u64,
    /// Its id on the connection.
    pub id: u64,
    pub terms: Terms,
    pub filter: Filter,
    pub reach: Reach,
}

/// A token's lower half is a place, its upper half a generation.
const PLACE_BITS: u32 = usize::BITS / 2;

/// The token of a connection at a place in the slab; generations come again after `1 << PLACE_BITS`.
pub fn token(generation: usize, place: usize) -> usize {
    (generation << PLACE_BITS) | place
}

/// The slab's place of a token.
pub fn place(token: usize) -> u32 {
    (token & (usize::MAX >> PLACE_BITS)) as u32
}

impl Client {
    /// A connection that asked for nothing yet, and is looked at first for its first ping.
    pub fn new(
        token: usize,
        admission: Admission,
        connection: Connection,
        codec: Codec,
        session: Session,
        now: Instant,
        next_ping: Instant,
    ) -> Self {
        Self {
            token,
            admission,
            connection,
            codec,
            session,
            ranges: SmallVec::new(),
            control: None,
            outbox: None,
            pinned: 0,
            history: None,
            held: None,
            blocked: false,
            dirty: false,
            pumping: false,
            reading: false,
            charged: 0,
            ending: false,
            paused: false,
            resumed: now,
            next_ping,
            next_check: next_ping,
        }
    }

    /// Queues a reply or notice.
    pub fn reply(&mut self, frame: &ServerFrame, what: What) {
        self.control.get_or_insert_default().push(self.codec, frame, what);
    }

    /// How many bytes of replies wait.
    pub fn control_bytes(&self) -> usize {
        self.control.as_ref().map_or(0, |control| control.bytes())
    }

    /// Whether messages may be written right away.
    pub fn takes_ranges(&self) -> bool {
        !self.blocked && self.connection.is_open()
    }

    /// Adds the arena's messages `from..to` to what the next flush writes.
    pub fn extend(&mut self, from: u64, to: u64) {
        match self.ranges.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => self.ranges.push((from, to)),
        }
    }

    /// Begins to close, with a reason of at most 123 bytes.
    pub fn close(&mut self, code: CloseCode, reason: &str, now: Instant) {
        self.connection.close(code, reason, now);
    }
}

impl Sub {
    /// Its entry in a mark.
    pub fn books(&self) -> SubMark {
        SubMark { sub: self.id, messages: self.sent, gapped: self.gapped, behind: !self.level }
    }

    /// Whether it may be sent one more message.
    pub fn has_credit(&self) -> bool {
        self.has_credit_for(1)
    }

    /// Whether it may be sent so many more.
    pub fn has_credit_for(&self, messages: u64) -> bool {
        self.granted.saturating_sub(self.sent) >= messages
    }
}
