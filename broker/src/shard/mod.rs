//! A thread that owns connections, and the loop that moves their bytes.
//!
//! One tick: read what is readable, carry out what the clients ask, fan out what the inbox holds, flush each connection
//! once, go on with the lanes of those that are behind.
//!
//! # Layout, in the order of a message's path
//!
//! * [`client`]: what the shard knows of a connection and of a subscription.
//! * [`start`]: where a subscription begins in a stream.
//! * [`accept`]: where connections begin.
//! * [`inbox`]: what comes from the hub, in the streams' order.
//! * [`dispatch`]: subscriptions, and the turns in which the inbox is fanned out to them; the rules, without the thread.
//! * [`errand`]: publishes that came over HTTP.
//! * [`index`]: whose filters take a topic.
//! * [`delivery`]: fan-out, flush, lanes; over [`arena`] (a tick's encoded messages), [`control`] (replies) and [`cork`]
//!   (one connection's burst).

pub mod accept;
pub mod arena;
pub mod client;
pub mod control;
pub mod cork;
pub mod delivery;
pub mod dispatch;
pub mod errand;
#[cfg(feature = "faults")]
pub mod fault;
pub mod inbox;
pub mod index;
pub mod start;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    future::{Future, poll_fn},
    io,
    ops::ControlFlow,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use mio::{Events, Interest, Token, Waker};
use tidegate_protocol::{
    ClientFrame, CloseCode, Filter, ServerFrame, codec::DecodeError, frame::Overflow, topic::Topics,
};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use self::{
    accept::Acceptor,
    client::{Client, Held, Sub, place, token},
    delivery::{Budget, End},
    dispatch::Dispatch,
    errand::Errand,
    inbox::Inbox,
};
use crate::{
    config::Config,
    connection::{Connection, Taken, Then},
    http::{Admitted, Upgraded},
    hub::Hub,
    metrics::Published as PublishedMetrics,
    session::{Action, Rules, Session},
    stream::ReadBudget,
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
    /// It may be this shard's turn to accept.
    Accept,
    /// The end of a socket pair on which another part of this process speaks WebSocket, in JSON frames. Non-blocking.
    AdoptPair(UnixStream, Admitted),
    /// What came over HTTP to be published.
    Publish(Vec<Errand>),
    /// Tell every client to come back elsewhere, close, and end when all are gone or at the deadline.
    Drain { deadline: Instant },
}

/// How a connection begins.
#[derive(Default)]
struct Begin<'a> {
    /// Whether its socket is registered already.
    registered: bool,
    /// What was read of it.
    leftover: Bytes,
    /// What goes before all frames.
    rest: &'a [u8],
    /// Whether the kernel has taken no more of it already.
    blocked: bool,
}

/// What one read of a connection may still do.
struct Room {
    bytes: usize,
    frames: usize,
}

/// See the module.
pub struct Shard {
    number: usize,
    config: Arc<Config>,
    rules: Rules,
    reader_limits: ReaderLimits,
    metrics: Arc<PublishedMetrics>,
    dispatch: Dispatch,
    poll: mio::Poll,
    /// Absent for a shard that is given its connections, and while it drains.
    acceptor: Option<Acceptor>,
    /// Becomes readable when `poll` has events: how the runtime waits for them, while it must.
    readiness: Option<AsyncFd<OwnedFd>>,
    events: Events,
    /// Reads of all connections go through it; only what is incomplete stays with a connection.
    scratch: Vec<u8>,
    frames: VecDeque<Result<ClientFrame, DecodeError>>,
    /// What publishers repeat.
    topics: Topics,
    /// Connections to read.
    reads: VecDeque<u32>,
    /// Connections that hold frames until there is room.
    held: Vec<u32>,
    /// Connections that are not read for backpressure.
    paused: Vec<u32>,
    /// When to look at which connection.
    checks: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Random numbers for the names of connections.
    random: Vec<u64>,
    next_expiry: Instant,
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
/// Frames decoded before the first is carried out: as many buffers of one size as glibc's allocator keeps at hand in a
/// thread (its `tcache_count` is 7).
const AHEAD: usize = 7;
/// Other threads' end of a wait. No connection has it, no fresh socket either.
const WAKER: Token = Token(accept::LISTENER - accept::FRESH);
const SCRATCH_BYTES: usize = 64 << 10;
/// Topics of which a shard remembers that they are valid: 96 KiB, and as many texts of at most 255 bytes.
const TOPICS: usize = 4096;
/// Messages in the inbox that are worth a fan-out amid the reads.
const INBOX_HIGH: usize = 1024;
/// How often streams let go of what is too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// How soon a publisher without room is tried again.
const HELD_INTERVAL: Duration = Duration::from_millis(1);
/// Ticks in a row before HTTP connections and new arrivals get their turn.
const BUSY_TICKS: usize = 8;
/// A connection that holds no more than this, in bytes, is not closed for the process's budget.
const SMALL_BUFFER: u64 = 4 << 10;

impl Shard {
    /// # Errors
    ///
    /// The kernel gives no epoll instance.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let Parts { number, shards, config, hub, inbox, metrics } = parts;
        let poll = mio::Poll::new()?;
        inbox.wake_with(Waker::new(poll.registry(), WAKER)?);
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
            dispatch: Dispatch::new(number, hub, inbox, &config, budget, now),
            metrics,
            poll,
            acceptor: None,
            readiness: None,
            events: Events::with_capacity(1024),
            scratch: vec![0; SCRATCH_BYTES],
            frames: VecDeque::new(),
            topics: Topics::new(TOPICS),
            reads: VecDeque::new(),
            held: Vec::new(),
            paused: Vec::new(),
            checks: BinaryHeap::new(),
            random: Vec::new(),
            next_expiry: now + EXPIRY_INTERVAL,
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
        let mut busy_ticks = 0;
        let mut wait = Duration::ZERO;
        // It waits on over several rounds of the loop, which costs less than a new one for each.
        let mut sleep = pin!(tokio::time::sleep_until(self.next_deadline().into()));
        loop {
            let mut busy = self.tick(wait)?;
            let in_vain = wait > Duration::ZERO && self.events.is_empty();
            wait = Duration::ZERO;
            while let Ok(order) = orders.try_recv() {
                self.carry_out(order);
                busy = true;
            }
            if self.draining.is_some_and(|deadline| {
                self.dispatch.delivery.clients.is_empty() || deadline <= Instant::now()
            }) {
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
            let deadline = self.next_deadline();
            // While no task of this thread needs the runtime, the shard waits for its sockets itself: one call of the
            // kernel for a wake in place of two. A wait in vain gives the runtime its turn all the same.
            if !in_vain && self.acceptor.as_ref().is_some_and(Acceptor::is_alone) {
                wait = deadline.saturating_duration_since(self.dispatch.delivery.now);
                self.readiness = None;
                continue;
            }
            // Set anew only to end earlier: what stands costs a tick too many, a new one its place among all timers.
            if deadline < sleep.deadline().into_std() || sleep.is_elapsed() {
                sleep.as_mut().reset(deadline.into());
            }
            let readiness = match self.readiness.take() {
                Some(readiness) => readiness,
                None => readiness(self.poll.registry().as_fd().try_clone_to_owned()?)?,
            };
            let readiness = self.readiness.insert(readiness);
            let order = poll_fn(|context| {
                if let Poll::Ready(ready) = readiness.poll_read_ready(context) {
                    return Poll::Ready(ready.map(|mut ready| ready.clear_ready()).map(|()| None));
                }
                if let Poll::Ready(Some(order)) = orders.poll_recv(context) {
                    return Poll::Ready(Ok(Some(order)));
                }
                sleep.as_mut().poll(context).map(|()| Ok(None))
            });
            if let Some(order) = order.await? {
                self.carry_out(order);
            }
        }
    }

    /// Waits that long for sockets, then does what can be done without waiting. Whether there is more.
    fn tick(&mut self, wait: Duration) -> io::Result<bool> {
        let mut busy = self.poll_sockets(wait)?;
        self.read_clocks();
        busy |= self.accept_some();
        busy |= self.read_all();
        busy |= self.retry_held();
        self.check_due();
        busy |= self.dispatch.turn();
        self.end_all();
        self.resume_paused();
        self.publish_metrics();
        self.checks.extend(self.dispatch.delivery.checks.drain(..).map(Reverse));
        Ok(busy || self.dispatch.is_busy() || !self.reads.is_empty())
    }

    fn read_clocks(&mut self) {
        self.dispatch.delivery.now = Instant::now();
        self.now_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    }

    /// Learns which sockets are ready. Whether more may be by now: behind several, but seldom behind one alone, for which
    /// a look that finds nothing would cost as much again. What comes later is an event of [`Shard::readiness`].
    fn poll_sockets(&mut self, wait: Duration) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let Token(token) = event.token();
            if self.acceptor.as_mut().is_some_and(|acceptor| acceptor.on_event(event.token())) {
                continue;
            }
            let at = place(token);
            let Some(client) =
                self.dispatch.delivery.clients.get_mut(at as usize).filter(|c| c.token == token)
            else {
                continue;
            };
            if event.is_read_closed() {
                client.connection.on_read_closed();
            }
            if event.is_writable() && client.blocked {
                client.blocked = false;
                self.dispatch.delivery.mark_dirty(at);
            }
            let client = &mut self.dispatch.delivery.clients[at as usize];
            if (event.is_readable() || event.is_read_closed() || event.is_error())
                && !client.reading
                && !client.paused
            {
                client.reading = true;
                self.reads.push_back(at);
            }
        }
        Ok(self.events.iter().nth(1).is_some())
    }

    /// Reads each connection that has something, once. Whether some have more.
    fn read_all(&mut self) -> bool {
        for _ in 0..self.reads.len() {
            let Some(at) = self.reads.pop_front() else { break };
            let Some(client) = self.dispatch.delivery.clients.get_mut(at as usize) else { continue };
            client.reading = false;
            self.read(at);
            if self.dispatch.inbox.depth() > INBOX_HIGH {
                self.dispatch.drain_inbox();
            }
        }
        !self.reads.is_empty()
    }

    fn read(&mut self, at: u32) {
        let client = &mut self.dispatch.delivery.clients[at as usize];
        if client.paused || client.held.is_some() {
            return;
        }
        let mut room = Room { bytes: READ_BYTES, frames: FRAMES };
        let mut ended = false;
        let more = loop {
            let client = &mut self.dispatch.delivery.clients[at as usize];
            let filled = client.connection.fill(&mut self.scratch, self.dispatch.delivery.now);
            match self.take(at, filled.bytes, &mut room) {
                Taken::All => {}
                Taken::Broke(used) => {
                    let client = &mut self.dispatch.delivery.clients[at as usize];
                    client.connection.keep(&self.scratch[used..filled.bytes]);
                    break true;
                }
                Taken::Ended(_) => ended = true,
            }
            room.bytes = room.bytes.saturating_sub(filled.bytes);
            match filled.then {
                Then::Wait => break false,
                Then::More if room.bytes == 0 => break true,
                Then::More => {}
                Then::Closed(_) => {
                    ended = true;
                    break false;
                }
            }
        };
        let client = &mut self.dispatch.delivery.clients[at as usize];
        if more && !ended && !client.reading {
            client.reading = true;
            self.reads.push_back(at);
        }
        if client.connection.has_pending() {
            self.dispatch.delivery.mark_dirty(at);
        }
        if ended {
            self.dispatch.delivery.end(at, End::Gone);
        }
        let buffered = self.dispatch.delivery.charge(at);
        if self.dispatch.delivery.buffered > self.buffer_budget && buffered > SMALL_BUFFER {
            let reason = CloseCode::OverBudget.reason().into();
            self.dispatch.delivery.end(at, End::Close(CloseCode::OverBudget, reason));
        }
    }

    /// Takes what was read, a few frames at a time. What comes behind a frame that there is no room for waits with it: a
    /// publisher that comes again on another shard must not overtake what it sent here.
    fn take(&mut self, at: u32, bytes: usize, room: &mut Room) -> Taken {
        let mut used = 0;
        loop {
            let client = &mut self.dispatch.delivery.clients[at as usize];
            let ahead = if client.held.is_some() { room.frames } else { AHEAD.min(room.frames) };
            let (codec, frames, topics) = (client.codec, &mut self.frames, &mut self.topics);
            let wanted = match codec {
                tidegate_protocol::Codec::Json => Kind::Text,
                tidegate_protocol::Codec::Bincode => Kind::Binary,
            };
            let mut unsupported = false;
            let mut bytes_in = 0;
            let misses = topics.misses();
            let taken = client.connection.take(
                &mut self.scratch[used..bytes],
                &self.reader_limits,
                self.dispatch.delivery.now,
                &mut |kind, data| {
                    bytes_in += data.len() as u64;
                    if kind != wanted {
                        unsupported = true;
                        return ControlFlow::Break(());
                    }
                    frames.extend(codec.decode_client_with(data, topics));
                    if frames.len() >= ahead { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                },
            );
            self.dispatch.delivery.counters.bytes_in += bytes_in;
            if unsupported {
                let reason = format!("{} takes {wanted:?} messages", codec.subprotocol());
                self.dispatch.delivery.end(at, End::Close(CloseCode::Unsupported, reason));
            }
            // A topic that comes often is at hand, and one alone is fetched as it is used.
            if self.topics.misses() > misses + 1 {
                self.dispatch.hub.expect(self.frames.iter().filter_map(|frame| match frame {
                    Ok(ClientFrame::Publish(publish)) => Some(&publish.topic),
                    _ => None,
                }));
            }
            room.frames = room.frames.saturating_sub(self.frames.len());
            match &mut self.dispatch.delivery.clients[at as usize].held {
                Some(held) => held.frames.append(&mut self.frames),
                None => self.carry_out_frames(at),
            }
            let Taken::Broke(more) = taken else { return taken };
            used += more;
            if room.frames == 0 || self.dispatch.delivery.clients[at as usize].ending {
                return Taken::Broke(used);
            }
        }
    }

    /// Carries out the frames that were read, in order; those for which there is no room wait with their connection.
    fn carry_out_frames(&mut self, at: u32) {
        while let Some(frame) = self.frames.pop_front() {
            let client = &mut self.dispatch.delivery.clients[at as usize];
            if client.ending {
                self.frames.clear();
                return;
            }
            let hub = &self.dispatch.hub;
            let action = client.session.on_frame(frame, &self.rules, |filter: &Filter| {
                if hub.reach(filter).streams.is_empty() { Overflow::DropOldest } else { Overflow::CatchUp }
            });
            let refused = match action {
                Action::Nothing => None,
                Action::Reply(frame) => {
                    self.dispatch.reply(at, &frame);
                    None
                }
                Action::Fail(frame, code) => {
                    self.dispatch.reply(at, &frame);
                    self.dispatch.delivery.flush(at);
                    self.dispatch.delivery.end(at, End::Close(code, code.reason().into()));
                    None
                }
                Action::Publish(publish) => self.dispatch.publish(at, publish, self.now_ms).err(),
                Action::Subscribe(subscribe, terms) => {
                    self.dispatch.subscribe(at, *subscribe, terms);
                    None
                }
                Action::Unsubscribe { id, sub, key } => {
                    self.dispatch.unsubscribe(at, id, sub, key);
                    None
                }
                Action::Credit { key, add } => {
                    self.dispatch.credit(at, key, add.into());
                    None
                }
                Action::History(request) => {
                    self.dispatch.history(at, request);
                    None
                }
            };
            let client = &mut self.dispatch.delivery.clients[at as usize];
            let full = client.control_bytes() > self.config.limits.control_lane_bytes;
            if refused.is_some() || (full && !self.frames.is_empty()) {
                let frames = std::mem::take(&mut self.frames);
                client.held = Some(Box::new(Held { submission: refused, frames }));
                self.held.push(at);
                self.pause(at);
                return;
            }
        }
        let client = &self.dispatch.delivery.clients[at as usize];
        if client.session.window_is_full(&self.rules)
            || client.control_bytes() > self.config.limits.control_lane_bytes
        {
            self.pause(at);
        }
    }

    /// Tries again what there was no room for. Whether something moved.
    fn retry_held(&mut self) -> bool {
        let mut moved = false;
        for at in std::mem::take(&mut self.held) {
            let Some(client) = self.dispatch.delivery.clients.get_mut(at as usize) else { continue };
            let Some(mut held) = client.held.take() else { continue };
            let full = client.control_bytes() > self.config.limits.control_lane_bytes;
            let refused = match held.submission.take() {
                Some(submission) => self.dispatch.submit(*submission).err(),
                None => None,
            };
            if full || refused.is_some() {
                held.submission = refused;
                self.dispatch.delivery.clients[at as usize].held = Some(held);
                self.held.push(at);
                continue;
            }
            moved = true;
            self.frames = held.frames;
            self.carry_out_frames(at);
        }
        moved
    }

    /// Stops reading a connection for backpressure.
    fn pause(&mut self, at: u32) {
        let client = &mut self.dispatch.delivery.clients[at as usize];
        if !client.paused {
            client.paused = true;
            self.paused.push(at);
        }
    }

    /// Goes on reading where there is room again.
    fn resume_paused(&mut self) {
        for at in std::mem::take(&mut self.paused) {
            let Some(client) =
                self.dispatch.delivery.clients.get_mut(at as usize).filter(|client| client.paused)
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
            client.resumed = self.dispatch.delivery.now;
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
            Order::Accept => self.acceptor.iter_mut().for_each(Acceptor::on_call),
            Order::AdoptPair(pair, admitted) => {
                // What a connection asks of its stream, a socket pair does as well.
                let stream = std::net::TcpStream::from(OwnedFd::from(pair));
                let stream = mio::net::TcpStream::from_std(stream);
                if let Err(error) = self.insert(stream, Begin::default(), admitted) {
                    tracing::debug!(%error, "a pair was not adopted");
                }
            }
            Order::Publish(errands) => {
                // It may have come after a long wait.
                self.read_clocks();
                self.dispatch.run(errands, self.now_ms);
            }
            Order::Drain { deadline } => self.drain(deadline),
        }
    }

    fn adopt(&mut self, upgraded: Upgraded) -> io::Result<()> {
        let Upgraded { stream, leftover, admitted, .. } = upgraded;
        set_options(&stream)?;
        let begin = Begin { leftover, ..Begin::default() };
        self.insert(mio::net::TcpStream::from_std(stream), begin, admitted)
    }

    /// Takes a connection over a socket whose options are set.
    fn insert(
        &mut self,
        stream: mio::net::TcpStream,
        begin: Begin<'_>,
        admitted: Admitted,
    ) -> io::Result<()> {
        let Begin { registered, leftover, rest, blocked } = begin;
        let Admitted { admission, codec, subscribes } = admitted;
        let now = Instant::now();
        let has_leftover = !leftover.is_empty();
        let mut connection = Connection::new(stream, leftover, now);
        connection.keep_partial(rest);
        let place = self.dispatch.delivery.clients.vacant_key();
        self.generation = self.generation.wrapping_add(1);
        let token = token(self.generation, place);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        if registered {
            registry.reregister(connection.stream(), Token(token), interest)?;
        } else {
            registry.register(connection.stream(), Token(token), interest)?;
        }
        let ping = self.config.websocket.ping_interval;
        // The first ping comes early by chance, so that clients that came together do not stay together.
        let next_ping = now + ping.mul_f64(0.5 + fastrand::f64() / 2.0);
        let id: Arc<str> = format!("c{:016x}", self.random()).into();
        let session = Session::new(id);
        let client = Client::new(token, admission, connection, codec, session, now, next_ping);
        self.dispatch.delivery.clients.insert(client);
        self.checks.push(Reverse((next_ping, token)));
        self.dispatch.delivery.counters.opened += 1;
        if has_leftover {
            self.dispatch.delivery.clients[place].reading = true;
            self.reads.push_back(place as u32);
        }
        self.dispatch.delivery.clients[place].blocked = blocked;
        if !subscribes.is_empty() {
            self.frames.extend(subscribes.into_iter().map(|subscribe| Ok(ClientFrame::Subscribe(subscribe))));
            self.carry_out_frames(place as u32);
            self.dispatch.delivery.flush(place as u32);
        }
        if self.draining.is_some() {
            self.say_goodbye(place as u32);
        }
        Ok(())
    }

    /// Nobody can guess it. One call of the kernel gives many.
    fn random(&mut self) -> u64 {
        if self.random.is_empty() {
            let mut bytes = [0; 512];
            if getrandom::fill(&mut bytes).is_err() {
                fastrand::fill(&mut bytes);
            }
            self.random.extend(bytes.as_chunks().0.iter().map(|&number| u64::from_ne_bytes(number)));
        }
        self.random.pop().unwrap_or_default()
    }

    fn drain(&mut self, deadline: Instant) {
        self.draining = Some(deadline);
        self.stop_listening();
        let all: Vec<u32> = self.dispatch.delivery.clients.iter().map(|(at, _)| at as u32).collect();
        for at in all {
            self.say_goodbye(at);
        }
    }

    /// Tells a client its books, when to come back, and that this is the end.
    fn say_goodbye(&mut self, at: u32) {
        let (from, to) = self.config.server.reconnect_window;
        let window = to.saturating_sub(from);
        let reconnect_ms = (from + window.mul_f64(fastrand::f64())).as_millis() as u64;
        self.dispatch.delivery.mark(at);
        self.dispatch.reply(at, &ServerFrame::Drain { reconnect_ms });
        self.dispatch.delivery.flush(at);
        self.dispatch.delivery.end(at, End::Close(CloseCode::Drain, CloseCode::Drain.reason().into()));
    }

    /// Looks at the connections whose time has come.
    fn check_due(&mut self) {
        let now = self.dispatch.delivery.now;
        while self.checks.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((due, token))) = self.checks.pop() else { break };
            let at = place(token);
            let client = self.dispatch.delivery.clients.get(at as usize);
            if client.is_some_and(|client| client.token == token && client.next_check == due) {
                self.check(at);
            }
        }
        if self.next_expiry <= now {
            self.next_expiry = now + EXPIRY_INTERVAL;
            self.dispatch.delivery.survey_lanes();
            if self.number == 0 {
                self.dispatch.hub.streams().iter().for_each(|stream| stream.lock().expire(self.now_ms));
            }
        }
    }

    fn check(&mut self, at: u32) {
        let now = self.dispatch.delivery.now;
        let websocket = &self.config.websocket;
        let client = &mut self.dispatch.delivery.clients[at as usize];
        if client.connection.is_done(now, websocket.close_timeout) {
            self.dispatch.delivery.end(at, End::Drop);
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
                let reason = books_of(client, &self.dispatch.delivery.subs);
                self.dispatch.delivery.counters.closed_slow += 1;
                self.dispatch.delivery.end(at, End::Close(CloseCode::Stalled, reason));
                return;
            }
            if silent >= dead && !client.paused {
                self.dispatch
                    .delivery
                    .end(at, End::Close(CloseCode::PingTimeout, CloseCode::PingTimeout.reason().into()));
                return;
            }
            if client.next_ping <= now {
                client.next_ping = now + websocket.ping_interval;
                client.connection.ping();
                self.dispatch.mark_later(at);
            }
            let client = &self.dispatch.delivery.clients[at as usize];
            let next = client.next_ping.min(stalled.unwrap_or(client.next_ping));
            if client.paused { next } else { next.min((heard + dead).max(now)) }
        };
        let client = &mut self.dispatch.delivery.clients[at as usize];
        client.next_check = next.max(now + Duration::from_millis(1));
        self.checks.push(Reverse((client.next_check, client.token)));
    }

    /// Ends the connections that must.
    fn end_all(&mut self) {
        let mut ending = std::mem::take(&mut self.dispatch.delivery.ending);
        for (token, end) in ending.drain(..) {
            let at = place(token);
            let Some(client) =
                self.dispatch.delivery.clients.get_mut(at as usize).filter(|c| c.token == token)
            else {
                continue;
            };
            client.ending = true;
            self.dispatch.forget_all(at);
            let client = &mut self.dispatch.delivery.clients[at as usize];
            client.ranges.clear();
            client.control = None;
            client.history = None;
            client.held = None;
            match end {
                End::Close(code, reason) => {
                    if code == CloseCode::Slow {
                        self.dispatch.delivery.counters.closed_slow += 1;
                    }
                    client.close(code, &reason, self.dispatch.delivery.now);
                    self.say_last(at);
                }
                End::Gone => self.say_last(at),
                End::Drop => self.remove(at),
            }
        }
        ending.append(&mut self.dispatch.delivery.ending);
        self.dispatch.delivery.ending = ending;
    }

    /// Writes what the closing handshake has to say, and waits for the peer's part of it for `close_timeout`.
    fn say_last(&mut self, at: u32) {
        let client = &mut self.dispatch.delivery.clients[at as usize];
        client.ending = false;
        client.blocked = false;
        self.dispatch.delivery.flush(at);
        let (now, close_timeout) = (self.dispatch.delivery.now, self.config.websocket.close_timeout);
        let client = &mut self.dispatch.delivery.clients[at as usize];
        if client.connection.is_done(now, close_timeout) {
            self.remove(at);
        } else {
            client.next_check = now + close_timeout;
            self.checks.push(Reverse((client.next_check, client.token)));
        }
    }

    fn remove(&mut self, at: u32) {
        // The kernel forgets the registration with the socket, which nothing else holds.
        drop(self.dispatch.remove(at));
    }

    fn next_deadline(&self) -> Instant {
        let mut next = self.next_expiry;
        if let Some(Reverse((due, _))) = self.checks.peek() {
            next = next.min(*due);
        }
        if let Some(due) = self.dispatch.next_deadline() {
            next = next.min(due);
        }
        if !self.held.is_empty() {
            next = next.min(self.dispatch.delivery.now + HELD_INTERVAL);
        }
        if let Some(due) = self.acceptor.as_ref().and_then(Acceptor::next_deadline) {
            next = next.min(due);
        }
        if let Some(deadline) = self.draining {
            next = next.min(deadline);
        }
        next
    }

    fn publish_metrics(&mut self) {
        let delivery = &mut self.dispatch.delivery;
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

/// What the kernel may hold unsent of one socket, in bytes, before it counts as full.
const NOTSENT_BYTES: u32 = 128 << 10;

/// What every connection's socket is set to; what is accepted from a listener has it from there.
///
/// # Errors
///
/// The kernel refuses it.
pub fn set_options(socket: &impl AsFd) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    // Or the kernel would take megabytes for a reader that takes none, and no policy would act.
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(NOTSENT_BYTES)?;
    Ok(())
}

/// A stalled connection's counters, for its close reason.
fn books_of(client: &Client, subs: &slab::Slab<Sub>) -> String {
    let (sent, gapped) = client.session.subs().iter().fold((0, 0), |(sent, gapped), &(_, key)| {
        let sub = &subs[key as usize];
        (sent + sub.sent, gapped + sub.gapped)
    });
    format!("stalled: sent {sent} gapped {gapped} pinned {}", client.pinned)
}
