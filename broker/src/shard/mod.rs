//! A thread that owns connections, and the loop that moves their bytes.
//!
//! One tick: read what is readable, carry out what the clients ask, fan out what the inbox holds, flush each connection
//! once, go on with the lanes of those that are behind.
//!
//! # Layout, in the order of a message's path
//!
//! * [`client`]: what the shard knows of a connection and of a subscription.
//! * [`start`]: where a subscription begins in a stream.
//! * [`inbox`]: what comes from the hub, in the streams' order.
//! * [`index`]: whose filters take a topic.
//! * [`delivery`]: fan-out, flush, lanes; over [`arena`] (a tick's encoded messages), [`control`] (replies) and [`cork`]
//!   (one connection's burst).

pub mod arena;
pub mod client;
pub mod control;
pub mod cork;
pub mod delivery;
#[cfg(feature = "faults")]
pub mod fault;
pub mod inbox;
pub mod index;
pub mod start;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mio::{Events, Interest, Token};
use smallvec::SmallVec;
use tidegate_protocol::{
    ClientFrame, CloseCode, ErrorCode, Filter, ServerFrame,
    codec::DecodeError,
    frame::{AckResult, Overflow, Published as PublishedAck, StartPosition, Subscribe, Subscribed},
};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use self::{
    client::{Client, Held, Key, Sub},
    control::What,
    delivery::{ARENA_BYTES, Budget, Delivery, End},
    inbox::{Inbox, Item, Waiting},
    index::Index,
};
use crate::{
    config::Config,
    connection::{Connection, ReadOutcome},
    engine::{Accepted, Request, Settled, Submission, Tally, Ticket},
    http::Upgraded,
    hub::Hub,
    metrics::Published as PublishedMetrics,
    outbox::{Lane, Terms},
    session::{Action, PublishAction, Rules, Session, error},
    stream::{Read, ReadBudget},
    websocket::{Kind, ReaderLimits},
};

/// What a shard is given at its start.
pub struct Parts {
    pub number: usize,
    /// How many there are.
    pub shards: usize,
    pub config: Arc<Config>,
    pub hub: Arc<Hub>,
    pub inbox: Arc<Inbox>,
    pub metrics: Arc<PublishedMetrics>,
}

/// What the server tells a shard.
pub enum Order {
    /// A connection that became a WebSocket.
    Adopt(Upgraded),
    /// Tell every client to come back elsewhere, close, and end when all are gone or at the deadline.
    Drain { deadline: Instant },
}

/// See the module.
pub struct Shard {
    number: usize,
    config: Arc<Config>,
    rules: Rules,
    reader_limits: ReaderLimits,
    hub: Arc<Hub>,
    inbox: Arc<Inbox>,
    metrics: Arc<PublishedMetrics>,
    index: Index<Key>,
    delivery: Delivery,
    poll: mio::Poll,
    /// Becomes readable when `poll` has events: how the runtime waits for them.
    readiness: AsyncFd<OwnedFd>,
    events: Events,
    /// Reads of all connections go through it; only what is incomplete stays with a connection.
    scratch: Vec<u8>,
    frames: VecDeque<Result<ClientFrame, DecodeError>>,
    waiting: Waiting,
    /// Connections to read.
    reads: VecDeque<u32>,
    /// Connections that hold frames until there is room.
    held: Vec<u32>,
    /// Connections that are not read for backpressure.
    paused: Vec<u32>,
    /// Connections whose mark is due.
    marks: Vec<usize>,
    /// Takes every topic that clients may publish to.
    everything: Filter,
    /// Streams whose logs hold what the inbox was refused, all of whose earlier messages are fanned out.
    refused: Vec<usize>,
    /// Whether the cursors are to be brought to the streams' heads.
    wants_heads: bool,
    /// When to look at which connection.
    checks: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Reports that have yet to come.
    tallies: VecDeque<(Instant, Arc<Tally>)>,
    next_expiry: Instant,
    /// When what gathers is flushed, with a `flush_interval`.
    next_flush: Option<Instant>,
    /// What buffers and control lanes of this shard's connections may hold.
    buffer_budget: u64,
    generation: usize,
    draining: Option<Instant>,
    now_ms: u64,
}

/// One read of a connection goes no further than this in a tick, so that a busy publisher starves nobody.
const READ_BYTES: usize = 256 << 10;
/// Frames carried out before the shard looks at other connections.
const FRAMES: usize = 1024;
/// What a shard whose inbox was full reads from a stream's log at a time, and how often in a tick.
const REFUSED_READ: ReadBudget = ReadBudget { messages: 1024, bytes: 1 << 20 };
const REFUSED_READS: usize = 8;
const SCRATCH_BYTES: usize = 64 << 10;
/// Messages in the inbox that are worth a fan-out amid the reads.
const INBOX_HIGH: usize = 1024;
/// How long a publish waits for the report of other shards.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often streams let go of what is too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// How soon a publisher without room is tried again.
const HELD_INTERVAL: Duration = Duration::from_millis(1);
/// Ticks in a row before HTTP connections and new arrivals get their turn.
const BUSY_TICKS: usize = 8;
/// A connection that holds no more than this, in bytes, is not closed for the process's budget.
const SMALL_BUFFER: u64 = 4 << 10;
const TOKEN_BITS: u32 = usize::BITS / 2;

impl Shard {
    /// # Errors
    ///
    /// The kernel gives no epoll instance.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let Parts { number, shards, config, hub, inbox, metrics } = parts;
        let poll = mio::Poll::new()?;
        let descriptor = poll.registry().as_fd().try_clone_to_owned()?;
        let now = Instant::now();
        let budget = Budget {
            connection_bytes: config.limits.connection_bytes as u64,
            shard_bytes: config.memory.outbox_bytes / shards as u64,
            page: ReadBudget {
                messages: config.limits.history_page_messages as usize,
                bytes: config.limits.history_page_bytes,
            },
            stall_timeout: config.websocket.stall_timeout,
        };
        Ok(Self {
            number,
            rules: Rules::new(&config),
            reader_limits: ReaderLimits {
                max_message_bytes: config.websocket.max_message_bytes,
                max_fragments: config.websocket.max_fragments,
            },
            delivery: Delivery::new(hub.clone(), budget, now),
            hub,
            inbox,
            metrics,
            index: Index::new(),
            poll,
            readiness: readiness(descriptor)?,
            events: Events::with_capacity(1024),
            scratch: vec![0; SCRATCH_BYTES],
            frames: VecDeque::new(),
            waiting: Waiting::default(),
            reads: VecDeque::new(),
            held: Vec::new(),
            paused: Vec::new(),
            marks: Vec::new(),
            wants_heads: false,
            everything: Filter::parse(">").expect("a filter"),
            refused: Vec::new(),
            checks: BinaryHeap::new(),
            tallies: VecDeque::new(),
            next_expiry: now + EXPIRY_INTERVAL,
            next_flush: None,
            buffer_budget: config.memory.connection_bytes / shards as u64,
            generation: 0,
            draining: None,
            now_ms: 0,
            config,
        })
    }

    /// Runs until drained. `orders` is bounded by its sender.
    ///
    /// # Errors
    ///
    /// The kernel's readiness interface failed.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> io::Result<()> {
        let inbox = self.inbox.clone();
        let mut busy_ticks = 0;
        loop {
            let mut busy = self.tick()?;
            while let Ok(order) = orders.try_recv() {
                self.carry_out(order);
                busy = true;
            }
            if self
                .draining
                .is_some_and(|deadline| self.delivery.clients.is_empty() || deadline <= Instant::now())
            {
                return Ok(());
            }
            if busy {
                busy_ticks += 1;
                if busy_ticks % BUSY_TICKS == 0 {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            busy_ticks = 0;
            let deadline = tokio::time::Instant::from_std(self.next_deadline());
            tokio::select! {
                biased;
                ready = self.readiness.readable() => ready?.clear_ready(),
                () = inbox.woken() => {}
                Some(order) = orders.recv() => self.carry_out(order),
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// Does what can be done without waiting. Whether there is more.
    fn tick(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        self.delivery.now = now;
        self.now_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut busy = self.poll_sockets()?;
        busy |= self.read_all();
        busy |= self.retry_held();
        self.check_due();
        self.drain_inbox();
        self.write_marks();
        if self.is_time_to_flush() {
            self.delivery.flush_dirty();
        }
        busy |= self.delivery.pump();
        self.end_all();
        self.resume_paused();
        self.publish_metrics();
        Ok(busy
            || !self.refused.is_empty()
            || (!self.delivery.dirty.is_empty() && self.next_flush.is_none())
            || !self.reads.is_empty())
    }

    /// With a `flush_interval` a flush gathers what comes meanwhile.
    fn is_time_to_flush(&mut self) -> bool {
        let interval = self.config.websocket.flush_interval;
        if interval.is_zero() || self.delivery.dirty.is_empty() {
            return true;
        }
        let due = *self.next_flush.get_or_insert(self.delivery.now + interval);
        if due <= self.delivery.now {
            self.next_flush = None;
        }
        due <= self.delivery.now
    }

    /// Learns which sockets are ready. Whether any is.
    fn poll_sockets(&mut self) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let Token(token) = event.token();
            let at = place(token);
            let Some(client) = self.delivery.clients.get_mut(at as usize).filter(|c| c.token == token) else {
                continue;
            };
            if event.is_read_closed() {
                client.connection.on_read_closed();
            }
            if event.is_writable() && client.blocked {
                client.blocked = false;
                self.delivery.mark_dirty(at);
            }
            let client = &mut self.delivery.clients[at as usize];
            if (event.is_readable() || event.is_read_closed() || event.is_error())
                && !client.reading
                && !client.paused
            {
                client.reading = true;
                self.reads.push_back(at);
            }
        }
        Ok(!self.events.is_empty())
    }

    /// Reads each connection that has something, once. Whether some have more.
    fn read_all(&mut self) -> bool {
        for _ in 0..self.reads.len() {
            let Some(at) = self.reads.pop_front() else { break };
            let Some(client) = self.delivery.clients.get_mut(at as usize) else { continue };
            client.reading = false;
            self.read(at);
            if self.inbox.depth() > INBOX_HIGH {
                self.drain_inbox();
            }
        }
        !self.reads.is_empty()
    }

    fn read(&mut self, at: u32) {
        let client = &mut self.delivery.clients[at as usize];
        if client.paused || client.held.is_some() {
            return;
        }
        let (codec, frames) = (client.codec, &mut self.frames);
        let wanted = match codec {
            tidegate_protocol::Codec::Json => Kind::Text,
            tidegate_protocol::Codec::Bincode => Kind::Binary,
        };
        let mut unsupported = false;
        let mut bytes_in = 0;
        let outcome = client.connection.read(
            &mut self.scratch,
            &self.reader_limits,
            READ_BYTES,
            self.delivery.now,
            &mut |kind, data| {
                bytes_in += data.len() as u64;
                if kind != wanted {
                    unsupported = true;
                    return ControlFlow::Break(());
                }
                frames.extend(codec.decode_client(data));
                if frames.len() >= FRAMES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        self.delivery.counters.bytes_in += bytes_in;
        if matches!(outcome, ReadOutcome::More) && !client.reading {
            client.reading = true;
            self.reads.push_back(at);
        }
        if client.connection.has_pending() {
            self.delivery.mark_dirty(at);
        }
        if unsupported {
            let reason = format!("{} takes {wanted:?} messages", codec.subprotocol());
            self.delivery.end(at, End::Close(CloseCode::Unsupported, reason));
        }
        self.carry_out_frames(at);
        if matches!(outcome, ReadOutcome::Closed(_)) {
            self.delivery.end(at, End::Gone);
        }
        let buffered = self.delivery.charge(at);
        if self.delivery.buffered > self.buffer_budget && buffered > SMALL_BUFFER {
            let reason = CloseCode::OverBudget.reason().into();
            self.delivery.end(at, End::Close(CloseCode::OverBudget, reason));
        }
    }

    /// Carries out the frames that were read, in order; those for which there is no room wait with their connection.
    fn carry_out_frames(&mut self, at: u32) {
        while let Some(frame) = self.frames.pop_front() {
            let client = &mut self.delivery.clients[at as usize];
            if client.ending {
                self.frames.clear();
                return;
            }
            let hub = &self.hub;
            let action = client.session.on_frame(frame, &self.rules, |filter: &Filter| {
                if hub.reach(filter).streams.is_empty() { Overflow::DropOldest } else { Overflow::CatchUp }
            });
            let refused = match action {
                Action::Nothing => None,
                Action::Reply(frame) => {
                    self.reply(at, &frame);
                    None
                }
                Action::Fail(frame, code) => {
                    self.reply(at, &frame);
                    self.delivery.flush(at);
                    self.delivery.end(at, End::Close(code, code.reason().into()));
                    None
                }
                Action::Publish(publish) => self.publish(at, publish).err(),
                Action::Subscribe(subscribe, terms) => {
                    self.subscribe(at, *subscribe, terms);
                    None
                }
                Action::Unsubscribe { id, sub, key } => {
                    self.unsubscribe(at, id, sub, key);
                    None
                }
                Action::Credit { key, add } => {
                    let sub = &mut self.delivery.subs[key as usize];
                    sub.granted = sub.granted.saturating_add(add.into());
                    if self.delivery.clients[at as usize].outbox.is_some() {
                        self.delivery.pump_later(at);
                    }
                    None
                }
                Action::History(request) => {
                    let client = &mut self.delivery.clients[at as usize];
                    if client.history.is_some() {
                        let busy = "one request at a time";
                        self.reply(at, &error(Some(request.id), ErrorCode::HistoryBusy, busy));
                    } else {
                        client.history = Some(request);
                        self.delivery.pump_later(at);
                    }
                    None
                }
            };
            let client = &mut self.delivery.clients[at as usize];
            let full = client.control_bytes() > self.config.limits.control_lane_bytes;
            if refused.is_some() || (full && !self.frames.is_empty()) {
                let frames = std::mem::take(&mut self.frames);
                client.held = Some(Box::new(Held { submission: refused, frames }));
                self.held.push(at);
                self.pause(at);
                return;
            }
        }
        let client = &self.delivery.clients[at as usize];
        if client.session.window_is_full(&self.rules)
            || client.control_bytes() > self.config.limits.control_lane_bytes
        {
            self.pause(at);
        }
    }

    fn reply(&mut self, at: u32, frame: &ServerFrame) {
        if matches!(frame, ServerFrame::Error(_)) {
            self.delivery.counters.refused += 1;
        }
        self.delivery.clients[at as usize].reply(frame, What::Other);
        self.delivery.mark_dirty(at);
    }

    /// # Errors
    ///
    /// There is no room; the submission comes back.
    fn publish(&mut self, at: u32, publish: PublishAction) -> Result<(), Box<Submission>> {
        let client = &self.delivery.clients[at as usize];
        let ticket = publish.id.map(|id| Ticket {
            shard: self.number,
            connection: client.token,
            id,
            payload_bytes: publish.draft.payload.len() as u32,
        });
        let tally = ticket.filter(|_| publish.report).map(|ticket| Arc::new(Tally::new(ticket)));
        if let Some(tally) = &tally {
            self.tallies.push_back((self.delivery.now + REPORT_TIMEOUT, tally.clone()));
        }
        let idempotency = publish.idempotency.map(|key| (client.session.instance().clone(), key));
        let request = Request { ticket, idempotency, tally, shard: self.number };
        self.submit(Submission { draft: publish.draft, request, now_ms: self.now_ms })
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Box<Submission>> {
        self.hub.submit(submission)?;
        self.delivery.counters.published += 1;
        Ok(())
    }

    /// Tries again what there was no room for. Whether something moved.
    fn retry_held(&mut self) -> bool {
        let mut moved = false;
        for at in std::mem::take(&mut self.held) {
            let Some(client) = self.delivery.clients.get_mut(at as usize) else { continue };
            let Some(mut held) = client.held.take() else { continue };
            let full = client.control_bytes() > self.config.limits.control_lane_bytes;
            let refused = match held.submission.take() {
                Some(submission) => self.submit(*submission).err(),
                None => None,
            };
            if full || refused.is_some() {
                held.submission = refused;
                self.delivery.clients[at as usize].held = Some(held);
                self.held.push(at);
                continue;
            }
            moved = true;
            self.frames = held.frames;
            self.carry_out_frames(at);
        }
        moved
    }

    fn subscribe(&mut self, at: u32, subscribe: Subscribe, terms: Terms) {
        let Subscribe { id, filter, from, credit, echo, .. } = subscribe;
        let reach = self.hub.reach(&filter);
        let first = self.index.under(&filter).is_empty();
        self.delivery.flush_ranges(at);
        let key = self.delivery.subs.vacant_key() as u32;
        let mut positions = Vec::with_capacity(reach.streams.len());
        let mut lanes: SmallVec<[(usize, Lane); 1]> = SmallVec::new();
        let mut waits = false;
        for &stream in &reach.streams {
            let cell = &self.hub.streams()[stream];
            let mut ordered = cell.lock();
            // From here on this shard is given what is published, so the head is where history ends.
            if first {
                ordered.listen(&filter, self.number);
            }
            let cap = self.config.limits.last_messages;
            let start = start::resolve(&from, cell.name.as_ref(), &ordered.log, &filter, terms, cap);
            drop(ordered);
            let (offset, live) = (start.offset, start.live);
            positions.push(StartPosition { stream: cell.name.clone(), epoch: cell.epoch, offset, live });
            match start.lane {
                Some(lane) => lanes.push((stream, lane)),
                None if self.delivery.cursors[stream] < live => {
                    lanes.push((stream, Lane::waiting_for(terms, live)));
                }
                None => {}
            }
            waits |= self.delivery.cursors[stream] < live;
        }
        if reach.live_only {
            let mut live_only = self.hub.lock_live_only();
            if first {
                live_only.listen(&filter, self.number);
            }
        }
        let client = &mut self.delivery.clients[at as usize];
        client.session.on_subscribed(id, key);
        let level = lanes.is_empty();
        for (stream, lane) in lanes {
            let pinned = lane.pinned();
            client.pinned += pinned;
            self.delivery.pinned += pinned;
            client.outbox.get_or_insert_default().insert(key, Some(stream), lane);
        }
        let ack = Subscribed {
            positions,
            overflow: terms.overflow,
            limit: terms.limit,
            limit_bytes: terms.limit_bytes,
            live_only: reach.live_only,
        };
        self.index.insert(&filter, Key { client: at, sub: key });
        self.delivery.subs.insert(Sub {
            client: at,
            level,
            no_echo: !echo,
            sent: 0,
            granted: credit.map_or(u64::MAX, u64::from),
            since: self.delivery.arena.next_serial(),
            gapped: 0,
            marked: 0,
            id,
            terms,
            filter,
            reach,
        });
        self.reply(at, &ServerFrame::Ack { id, result: AckResult::Subscribed(ack) });
        if waits {
            self.delivery.settling.push(at);
        }
        if !level {
            self.delivery.pump_later(at);
        }
    }

    fn unsubscribe(&mut self, at: u32, id: u64, sub: u64, key: u32) {
        self.delivery.mark(at);
        self.forget(at, sub, key);
        self.reply(at, &ServerFrame::Unsubscribed { sub, code: None });
        self.reply(at, &ServerFrame::Ack { id, result: AckResult::Done });
    }

    /// Takes a subscription away, everywhere.
    fn forget(&mut self, at: u32, sub: u64, key: u32) {
        let Some(gone) = self.delivery.subs.try_remove(key as usize) else { return };
        self.index.remove(&gone.filter, Key { client: at, sub: key });
        if self.index.under(&gone.filter).is_empty() {
            for &stream in &gone.reach.streams {
                self.hub.streams()[stream].lock().unlisten(&gone.filter, self.number);
            }
            if gone.reach.live_only {
                self.hub.lock_live_only().unlisten(&gone.filter, self.number);
            }
        }
        let client = &mut self.delivery.clients[at as usize];
        client.session.on_unsubscribed(sub);
        if let Some(outbox) = &mut client.outbox {
            outbox.retain(|owned| owned.sub != key);
            let pinned = outbox.pinned();
            self.delivery.pinned = self.delivery.pinned + pinned - client.pinned;
            client.pinned = pinned;
            if outbox.is_empty() {
                client.outbox = None;
            }
        }
    }

    /// Fans out what the inbox held when it was taken, and answers publishers.
    fn drain_inbox(&mut self) {
        // What was pushed before a head was read under the stream's lock is in the inbox now: once all of that is
        // fanned out, the shard stands at these heads, in streams nobody here listens to as well.
        let heads: Option<SmallVec<[u64; 4]>> = (!self.delivery.settling.is_empty() || self.wants_heads)
            .then(|| self.hub.streams().iter().map(|stream| self.level_head(stream)).collect());
        self.wants_heads = false;
        let mut waiting = std::mem::take(&mut self.waiting);
        self.inbox.take(&mut waiting);
        let mut items = waiting.items.make_contiguous();
        while !items.is_empty() {
            let (burst, rest) = items.split_at_mut(burst_of_one_topic(items));
            self.fan_out(burst);
            items = rest;
        }
        waiting.items.clear();
        self.refused.append(&mut waiting.refused);
        let mut refused = std::mem::take(&mut self.refused);
        refused.retain(|&at| !self.read_refused(at));
        self.refused = refused;
        for settled in waiting.settled.drain(..) {
            self.answer(settled);
        }
        self.waiting = waiting;
        if let Some(heads) = heads {
            for (cursor, head) in self.delivery.cursors.iter_mut().zip(heads) {
                *cursor = (*cursor).max(head);
            }
        }
        // A lane may wait for a cursor that is still on its way through a log.
        if self.refused.is_empty() {
            for at in std::mem::take(&mut self.delivery.settling) {
                if self.delivery.clients.contains(at as usize) {
                    self.delivery.pump_later(at);
                }
            }
        }
        while self.tallies.front().is_some_and(|(deadline, _)| *deadline <= self.delivery.now) {
            let Some((_, tally)) = self.tallies.pop_front() else { break };
            if let Some(settled) = tally.expire() {
                self.answer(settled);
            }
        }
    }

    /// A stream's head, or how far this shard comes with what its inbox holds.
    fn level_head(&self, stream: &crate::hub::Stream) -> u64 {
        let ordered = stream.lock();
        ordered.refused(self.number).map_or(ordered.log.head(), |first| first - 1)
    }

    /// Fans messages of one topic out. One that is reported on comes alone.
    fn fan_out(&mut self, items: &[Item]) {
        let Some(first) = items.first() else { return };
        let matches = self.index.matches(&first.published.message.topic);
        let report = self.delivery.fan_out(items, matches);
        if let Some(tally) = &first.tally
            && let Some(settled) = tally.add(report)
        {
            self.hub.settled(settled, self.number);
        }
        if self.delivery.arena.bytes() >= ARENA_BYTES {
            self.delivery.flush_dirty();
        }
    }

    /// The inbox was full: what it was not given of a stream is read from the log, a part in each tick. Whether that is
    /// all; what is refused after that waits for what the inbox holds by then.
    fn read_refused(&mut self, at: usize) -> bool {
        let hub = self.hub.clone();
        let stream = &hub.streams()[at];
        for _ in 0..REFUSED_READS {
            let ordered = stream.lock();
            let Some(first) = ordered.refused(self.number) else { return true };
            let (after, head) = (first - 1, ordered.log.head());
            let read = ordered.log.read(after, head, &self.everything, REFUSED_READ);
            drop(ordered);
            let (messages, scanned) = match read {
                Read::Batch { messages, scanned } => (messages, scanned),
                Read::Sealed(segment) => segment.read(after, head, &self.everything, REFUSED_READ),
                // What a shard has yet to fan out is held: it cannot be evicted.
                Read::Evicted { start } => (Vec::new(), start - 1),
            };
            for published in messages {
                self.fan_out(&[Item { published, stream: Some(at), tally: None }]);
            }
            self.delivery.cursors[at] = self.delivery.cursors[at].max(scanned);
            if stream.lock().caught_up(self.number, scanned) {
                return true;
            }
        }
        false
    }

    fn answer(&mut self, settled: Settled) {
        let Settled { ticket, outcome } = settled;
        let at = place(ticket.connection);
        let Some(client) =
            self.delivery.clients.get_mut(at as usize).filter(|c| c.token == ticket.connection)
        else {
            return;
        };
        let frame = match outcome {
            Ok(Accepted { position, duplicate, report }) => ServerFrame::Ack {
                id: ticket.id,
                result: AckResult::Published(PublishedAck { position, duplicate, report }),
            },
            Err(code) => error(Some(ticket.id), code, "the message was not taken"),
        };
        client.reply(&frame, What::PublishAck(ticket.payload_bytes));
        self.delivery.mark_dirty(at);
    }

    /// Stops reading a connection for backpressure.
    fn pause(&mut self, at: u32) {
        let client = &mut self.delivery.clients[at as usize];
        if !client.paused {
            client.paused = true;
            self.paused.push(at);
        }
    }

    /// Goes on reading where there is room again.
    fn resume_paused(&mut self) {
        for at in std::mem::take(&mut self.paused) {
            let Some(client) = self.delivery.clients.get_mut(at as usize).filter(|client| client.paused)
            else {
                continue;
            };
            let full = client.held.is_some()
                || client.session.window_is_full(&self.rules)
                || client.control_bytes() > self.config.limits.control_lane_bytes;
            if full {
                self.paused.push(at);
                continue;
            }
            client.paused = false;
            client.resumed = self.delivery.now;
            if !client.reading {
                client.reading = true;
                self.reads.push_back(at);
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Adopt(upgraded) => {
                if let Err(error) = self.adopt(upgraded) {
                    tracing::debug!(%error, "connection lost at its start");
                }
            }
            Order::Drain { deadline } => self.drain(deadline),
        }
    }

    fn adopt(&mut self, upgraded: Upgraded) -> io::Result<()> {
        let Upgraded { stream, leftover, codec, .. } = upgraded;
        let now = Instant::now();
        let has_leftover = !leftover.is_empty();
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        // Or the kernel would take megabytes for a reader that takes none, and no policy would act.
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(NOTSENT_BYTES)?;
        let mut connection = Connection::new(mio::net::TcpStream::from_std(stream), leftover, now);
        let place = self.delivery.clients.vacant_key();
        self.generation = self.generation.wrapping_add(1) & (usize::MAX >> TOKEN_BITS);
        let token = (self.generation << TOKEN_BITS) | place;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(connection.stream(), Token(token), interest)?;
        let ping = self.config.websocket.ping_interval;
        // The first ping comes early by chance, so that clients that came together do not stay together.
        let next_ping = now + ping.mul_f64(0.5 + fastrand::f64() / 2.0);
        let id: Arc<str> = format!("c{:016x}", getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))).into();
        self.delivery.clients.insert(Client {
            token,
            connection,
            codec,
            session: Session::new(id),
            ranges: SmallVec::new(),
            control: None,
            outbox: None,
            pinned: 0,
            history: None,
            held: None,
            blocked: false,
            dirty: false,
            pumping: false,
            reading: has_leftover,
            charged: 0,
            ending: false,
            paused: false,
            resumed: now,
            next_ping,
            next_check: next_ping,
        });
        self.checks.push(Reverse((next_ping, token)));
        self.delivery.counters.opened += 1;
        if has_leftover {
            self.reads.push_back(place as u32);
        }
        if self.draining.is_some() {
            self.say_goodbye(place as u32);
        }
        Ok(())
    }

    fn drain(&mut self, deadline: Instant) {
        self.draining = Some(deadline);
        let all: Vec<u32> = self.delivery.clients.iter().map(|(at, _)| at as u32).collect();
        for at in all {
            self.say_goodbye(at);
        }
    }

    /// Tells a client its books, when to come back, and that this is the end.
    fn say_goodbye(&mut self, at: u32) {
        let (from, to) = self.config.server.reconnect_window;
        let window = to.saturating_sub(from);
        let reconnect_ms = (from + window.mul_f64(fastrand::f64())).as_millis() as u64;
        self.delivery.mark(at);
        self.reply(at, &ServerFrame::Drain { reconnect_ms });
        self.delivery.flush(at);
        self.delivery.end(at, End::Close(CloseCode::Drain, CloseCode::Drain.reason().into()));
    }

    /// Looks at the connections whose time has come.
    fn check_due(&mut self) {
        let now = self.delivery.now;
        self.checks.extend(self.delivery.checks.drain(..).map(Reverse));
        while self.checks.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((due, token))) = self.checks.pop() else { break };
            let at = place(token);
            let client = self.delivery.clients.get(at as usize);
            if client.is_some_and(|client| client.token == token && client.next_check == due) {
                self.check(at);
            }
        }
        if self.next_expiry <= now {
            self.next_expiry = now + EXPIRY_INTERVAL;
            self.delivery.survey_lanes();
            if self.number == 0 {
                self.hub.streams().iter().for_each(|stream| stream.lock().expire(self.now_ms));
            }
        }
    }

    fn check(&mut self, at: u32) {
        let now = self.delivery.now;
        let websocket = &self.config.websocket;
        let client = &mut self.delivery.clients[at as usize];
        if client.connection.is_done(now, websocket.close_timeout) {
            self.delivery.end(at, End::Drop);
            return;
        }
        let next = if let Some(since) = client.connection.closing_since() {
            since + websocket.close_timeout
        } else {
            let heard = client.connection.last_heard().max(client.resumed);
            let silent = now.saturating_duration_since(heard);
            let dead = websocket.ping_interval + websocket.pong_timeout;
            let stalled = client.connection.stalled_since().map(|since| since + websocket.stall_timeout);
            if let Some(stalled) = stalled
                && stalled <= now
            {
                let reason = books_of(client, &self.delivery.subs);
                self.delivery.counters.closed_slow += 1;
                self.delivery.end(at, End::Close(CloseCode::Stalled, reason));
                return;
            }
            if silent >= dead && !client.paused {
                self.delivery
                    .end(at, End::Close(CloseCode::PingTimeout, CloseCode::PingTimeout.reason().into()));
                return;
            }
            if client.next_ping <= now {
                client.next_ping = now + websocket.ping_interval;
                client.connection.ping();
                self.wants_heads = true;
                self.marks.push(client.token);
            }
            let next = client.next_ping.min(stalled.unwrap_or(client.next_ping));
            if client.paused { next } else { next.min((heard + dead).max(now)) }
        };
        let client = &mut self.delivery.clients[at as usize];
        client.next_check = next.max(now + Duration::from_millis(1));
        self.checks.push(Reverse((client.next_check, client.token)));
    }

    /// Writes the marks that are due, once the cursors are fresh.
    fn write_marks(&mut self) {
        for token in std::mem::take(&mut self.marks) {
            let at = place(token);
            if self
                .delivery
                .clients
                .get(at as usize)
                .is_some_and(|c| c.token == token && c.connection.is_open())
            {
                self.delivery.mark(at);
                self.delivery.mark_dirty(at);
            }
        }
    }

    /// Ends the connections that must.
    fn end_all(&mut self) {
        let mut ending = std::mem::take(&mut self.delivery.ending);
        for (token, end) in ending.drain(..) {
            let at = place(token);
            let Some(client) = self.delivery.clients.get_mut(at as usize).filter(|c| c.token == token) else {
                continue;
            };
            client.ending = true;
            let subs: Vec<(u64, u32)> = client.session.subs().to_vec();
            for (sub, key) in subs {
                self.forget(at, sub, key);
            }
            let client = &mut self.delivery.clients[at as usize];
            client.ranges.clear();
            client.control = None;
            client.history = None;
            client.held = None;
            match end {
                End::Close(code, reason) => {
                    if code == CloseCode::Slow {
                        self.delivery.counters.closed_slow += 1;
                    }
                    client.close(code, &reason, self.delivery.now);
                    self.say_last(at);
                }
                End::Gone => self.say_last(at),
                End::Drop => self.remove(at),
            }
        }
        ending.append(&mut self.delivery.ending);
        self.delivery.ending = ending;
    }

    /// Writes what the closing handshake has to say, and waits for the peer's part of it for `close_timeout`.
    fn say_last(&mut self, at: u32) {
        let client = &mut self.delivery.clients[at as usize];
        client.ending = false;
        client.blocked = false;
        self.delivery.flush(at);
        let (now, close_timeout) = (self.delivery.now, self.config.websocket.close_timeout);
        let client = &mut self.delivery.clients[at as usize];
        if client.connection.is_done(now, close_timeout) {
            self.remove(at);
        } else {
            client.next_check = now + close_timeout;
            self.checks.push(Reverse((client.next_check, client.token)));
        }
    }

    fn remove(&mut self, at: u32) {
        let mut client = self.delivery.clients.remove(at as usize);
        self.delivery.buffered -= client.charged;
        // It fails only where the kernel has let go of the socket already.
        let _ = self.poll.registry().deregister(client.connection.stream());
    }

    fn next_deadline(&self) -> Instant {
        let mut next = self.next_expiry;
        if let Some(Reverse((due, _))) = self.checks.peek() {
            next = next.min(*due);
        }
        if let Some(due) = self.next_flush {
            next = next.min(due);
        }
        if let Some((due, _)) = self.tallies.front() {
            next = next.min(*due);
        }
        if !self.held.is_empty() {
            next = next.min(self.delivery.now + HELD_INTERVAL);
        }
        if let Some(deadline) = self.draining {
            next = next.min(deadline);
        }
        next
    }

    fn publish_metrics(&mut self) {
        let delivery = &mut self.delivery;
        delivery.counters.connections = delivery.clients.len() as u64;
        delivery.counters.subscriptions = delivery.subs.len() as u64;
        delivery.counters.outbox_bytes = delivery.pinned;
        delivery.counters.buffer_bytes = delivery.buffered;
        self.metrics.store(&delivery.counters);
    }
}

/// Lets the runtime wait on an epoll instance.
#[expect(deprecated, reason = "its replacement is unsafe; an `OwnedFd` keeps the promise that one wants")]
fn readiness(epoll: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(epoll)
}

/// How many messages at the head of `items` are of one topic, reported on by none, and no more than a flush takes.
fn burst_of_one_topic(items: &[Item]) -> usize {
    let Some(first) = items.first().filter(|item| item.tally.is_none()) else { return 1 };
    let mut bytes = 0;
    let same = |item: &&Item| {
        bytes += item.published.cost as usize;
        bytes <= ARENA_BYTES
            && item.tally.is_none()
            && item.published.message.topic == first.published.message.topic
    };
    items.iter().take_while(same).count().max(1)
}

/// What the kernel may hold unsent of one socket, in bytes, before it counts as full.
const NOTSENT_BYTES: u32 = 128 << 10;

/// The slab's place of a token.
fn place(token: usize) -> u32 {
    (token & (usize::MAX >> TOKEN_BITS)) as u32
}

/// A stalled connection's counters, for its close reason.
fn books_of(client: &Client, subs: &slab::Slab<Sub>) -> String {
    let (sent, gapped) = client.session.subs().iter().fold((0, 0), |(sent, gapped), &(_, key)| {
        let sub = &subs[key as usize];
        (sent + sub.sent, gapped + sub.gapped)
    });
    format!("stalled: sent {sent} gapped {gapped} pinned {}", client.pinned)
}
