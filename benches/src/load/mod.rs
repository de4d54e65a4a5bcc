//! A run: connect, warm up, measure, judge.
//!
//! One thread and one epoll instance drive all connections. On the receive side nothing is allocated for a message:
//! each read goes into one scratch buffer, is walked there, and only a WebSocket frame that is not whole yet stays
//! with its connection.

mod connection;

use std::{
    net::{Shutdown, SocketAddr},
    ops::Range,
    time::{Duration, Instant},
};

use connection::{Connection, Stage};
use hdrhistogram::Histogram;

use crate::{
    adapter::{Adapter, Fault, Role, Talk},
    events,
    payload::{Shape, Stamp},
    poll::{Interest, Poll, Ready},
    process::Usage,
    tally::{Round, Tally, Topology},
    websocket,
};

/// Connections on their way at once, but in a storm: below every listen backlog, so that no SYN is dropped and sent again a second
/// later.
const CONNECTING: usize = 64;
/// One read takes at most this much, in bytes. The largest frame must fit.
const SCRATCH: usize = websocket::MAX_FRAME + 64 * 1024;
/// How long after a phase what nobody published, or what comes twice, is still waited for.
const SETTLE: Duration = Duration::from_millis(50);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub address: SocketAddr,
    /// Its processes, for their CPU time and memory.
    pub pids: Vec<u32>,
    /// Who gets what.
    pub topology: Topology,
    /// The topic, of two tokens; with other topologies than a fan-out what all topics begin with.
    pub topic: String,
    /// What is published.
    pub shape: Shape,
    /// How fast: in every phase, where [`Load::phase_at`] is not told otherwise.
    pub pace: Pace,
    /// With [`Topology::Topics`]: subscribers name their topics by filters with a wildcard, half of them in the
    /// first token, half in the second.
    pub wildcards: bool,
    /// Subscribers beside the others that never read.
    pub stalled: usize,
    /// A run is void when nothing arrives for so long.
    pub stall_timeout: Duration,
}

/// How fast is published.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as the slowest subscriber of a flow receives: at most `window` messages of a flow out, `burst` of
    /// them written at a time, in one write.
    Window {
        /// Messages.
        window: usize,
        /// Messages.
        burst: usize,
    },
    /// This many deliveries a second over all, each message when it is due, however late the others are. Latency
    /// counts from when it was due.
    Rate(f64),
}

/// At [`Pace::Rate`] this many messages of a flow may be out; beyond it the server has lost the race and the run is
/// void.
const MAX_OUT_AT_RATE: usize = 1 << 14;

/// A phase of a run ends at the first of these, and then when all that is out has arrived.
#[derive(Debug, Clone, Copy)]
pub struct Until {
    /// So long after its start.
    pub elapsed: Duration,
    /// So many deliveries after its start.
    pub deliveries: u64,
}

/// What a phase came to.
#[derive(Debug, Clone)]
pub struct Measured {
    /// From the first publish to the last delivery.
    pub elapsed: Duration,
    /// Messages received by all subscribers together.
    pub deliveries: u64,
    /// Bytes received by all subscribers together: what TCP carries, with WebSocket's headers, without TCP's.
    pub bytes: u64,
    /// Reads that brought them: what the server wrote at a time, as far as the reader kept up.
    pub reads: u64,
    /// What the server spent.
    pub server: Spent,
    /// What this process spent.
    pub generator: Spent,
    /// In nanoseconds, at [`Pace::Rate`] only.
    pub latency: Option<Histogram<u64>>,
}

/// CPU time of a phase, and memory at its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Of the CPU time, the part in user space, between 0 and 1; from clock ticks of 10 ms.
    pub user_part: f64,
    /// Memory in RAM at the end, in bytes.
    pub rss_bytes: u64,
}

impl Spent {
    /// Between two readings.
    pub fn between(before: Usage, after: Usage) -> Self {
        let user = after.user_ticks.saturating_sub(before.user_ticks) as f64;
        let system = after.system_ticks.saturating_sub(before.system_ticks) as f64;
        Self {
            cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns),
            user_part: user / (user + system).max(1.0),
            rss_bytes: after.rss_bytes,
        }
    }
}

/// A running load.
pub struct Load<A: Adapter> {
    adapter: A,
    plan: Plan,
    poll: Poll,
    ready: Vec<Ready>,
    scratch: Vec<u8>,
    /// First the subscribers, then the publishers, then those that never read.
    connections: Vec<Connection<A::State>>,
    publishing: Vec<Template>,
    tally: Tally,
    bytes: u64,
    reads: u64,
    round: Option<Round>,
    /// Subscribers that connect now were here before.
    returning: bool,
    /// When each of the connections under way became ready.
    became_ready: Vec<Instant>,
    /// When each message that is out was due, a ring for each flow; and what came of it. At [`Pace::Rate`] only.
    due: Vec<Box<[Instant]>>,
    latency: Option<Histogram<u64>>,
    usage_before_connecting: Usage,
}

/// The frame a publisher writes, again and again with another stamp.
struct Template {
    frame: Vec<u8>,
    stamp: Field<16>,
    /// The number of the topic, where messages go round.
    topic: Option<Field<TOPIC_DIGITS>>,
}

/// Digits that change from message to message.
struct Field<const N: usize> {
    /// Where they stand in the frame.
    at: usize,
    /// What they are masked with.
    mask: [u8; N],
}

/// Digits of a topic's number.
const TOPIC_DIGITS: usize = 6;

impl<A: Adapter> Load<A> {
    /// Connects everybody and waits until all are ready.
    ///
    /// # Errors
    /// Where a connection is refused or does not become ready in time.
    pub fn connect(adapter: A, plan: Plan) -> Result<Self, Fault> {
        let window = match plan.pace {
            Pace::Window { window, .. } => window,
            Pace::Rate(_) => MAX_OUT_AT_RATE,
        };
        let flows = plan.topology.flows();
        let mut load = Self {
            poll: Poll::new(1024)?,
            ready: Vec::with_capacity(1024),
            scratch: vec![0; SCRATCH],
            connections: Vec::new(),
            publishing: (0..flows).map(|flow| Template::new(&adapter, &plan, flow)).collect(),
            tally: Tally::new(plan.topology, plan.shape.clone(), window),
            bytes: 0,
            reads: 0,
            round: plan.topology.round(),
            returning: false,
            became_ready: Vec::new(),
            due: match plan.pace {
                Pace::Rate(_) => vec![vec![Instant::now(); window].into(); flows],
                Pace::Window { .. } => Vec::new(),
            },
            latency: None,
            usage_before_connecting: Usage::of_all(&plan.pids)?,
            adapter,
            plan,
        };
        load.connect_all()?;
        Ok(load)
    }

    /// What the server spent on all connections together, since before the first.
    pub fn spent_on_connecting(&self) -> Result<Spent, Fault> {
        Ok(Spent::between(self.usage_before_connecting, Usage::of_all(&self.plan.pids)?))
    }

    /// Publishes until then, and waits until all of it has arrived.
    ///
    /// # Errors
    /// Where the run is void.
    pub fn phase(&mut self, until: Until) -> Result<Measured, Fault> {
        self.phase_at(self.plan.pace, until)
    }

    /// As [`Load::phase`], at another pace than the plan's: with no more messages out than the plan allows.
    ///
    /// # Errors
    /// Where the run is void.
    pub fn phase_at(&mut self, pace: Pace, until: Until) -> Result<Measured, Fault> {
        self.latency = match pace {
            // Up to a minute, a thousandth part exact. With bounds, so that recording never allocates.
            Pace::Rate(_) => Some(
                Histogram::new_with_bounds(1, 60_000_000_000, 3)
                    .map_err(|error| Fault::Told(error.to_string()))?,
            ),
            Pace::Window { .. } => None,
        };
        let (deliveries, bytes, reads) = (self.tally.deliveries(), self.bytes, self.reads);
        let server = Usage::of_all(&self.plan.pids)?;
        let generator = Usage::of(std::process::id())?;
        let start = Instant::now();
        let end = self.publish_until(pace, start, until)?;
        let measured = Measured {
            elapsed: end - start,
            deliveries: self.tally.deliveries() - deliveries,
            bytes: self.bytes - bytes,
            reads: self.reads - reads,
            server: Spent::between(server, Usage::of_all(&self.plan.pids)?),
            generator: Spent::between(generator, Usage::of(std::process::id())?),
            latency: self.latency.take(),
        };
        self.linger(SETTLE)?;
        Ok(measured)
    }

    /// Reads on for so long. Whatever arrives now makes the run void.
    ///
    /// # Errors
    /// As [`Load::phase`].
    pub fn linger(&mut self, time: Duration) -> Result<(), Fault> {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            self.turn(Some(end - now))?;
        }
    }

    /// Connects all subscribers again after [`Load::cut`], `at_once` under way at a time; where they are
    /// `returning`, for what they missed. Returns how long each took until it was ready, shortest first.
    ///
    /// # Errors
    /// As [`Load::connect`], and [`Fault::NoResume`].
    pub fn reconnect(&mut self, at_once: usize, returning: bool) -> Result<Vec<Duration>, Fault> {
        self.returning = returning;
        let start = Instant::now();
        let mut ready = self.connect_range(0..self.plan.topology.subscribers(), at_once)?;
        ready.sort_unstable();
        Ok(ready.into_iter().map(|ready| ready - start).collect())
    }

    /// Cuts all subscribers at once.
    ///
    /// # Errors
    /// Where a socket is not there any more.
    pub fn cut(&mut self) -> Result<(), Fault> {
        for connection in &self.connections[..self.plan.topology.subscribers()] {
            self.poll.remove(&connection.socket)?;
            // Fails only where the server was faster.
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
        Ok(())
    }

    /// Publishes `count` messages of each flow for which nobody is there.
    ///
    /// # Errors
    /// Where the socket to the server fails.
    pub fn publish_missed(&mut self, count: usize) -> Result<(), Fault> {
        for flow in 0..self.plan.topology.flows() {
            let publisher = self.plan.topology.subscribers() + flow;
            for _ in 0..count {
                self.enter(flow, publisher);
            }
            self.flush(publisher)?;
        }
        // Long enough for the server to have read them; whatever is late is delivered live, and judged the same.
        self.linger(Duration::from_millis(300))
    }

    /// Reads until every subscriber has everything, and returns how long that took.
    ///
    /// # Errors
    /// Where the run is void.
    pub fn settle(&mut self) -> Result<Duration, Fault> {
        let start = Instant::now();
        let mut progress = (start, self.tally.deliveries());
        while !self.tally.is_settled() {
            self.turn(Some(self.plan.stall_timeout))?;
            let (now, deliveries) = (Instant::now(), self.tally.deliveries());
            if deliveries > progress.1 {
                progress = (now, deliveries);
            } else if now - progress.0 >= self.plan.stall_timeout {
                let out = (0..self.plan.topology.flows()).map(|flow| self.tally.out(flow)).sum();
                return Err(Fault::Stalled { deliveries, out });
            }
        }
        Ok(start.elapsed())
    }

    fn connect_all(&mut self) -> Result<(), Fault> {
        let live = self.plan.topology.subscribers() + self.plan.topology.flows();
        self.connect_range(0..live + self.plan.stalled, CONNECTING)?;
        for stalled in &self.connections[live..] {
            self.poll.remove(&stalled.socket)?;
        }
        Ok(())
    }

    /// Connects these and waits until all are ready. Returns when each was.
    fn connect_range(&mut self, tokens: Range<usize>, at_once: usize) -> Result<Vec<Instant>, Fault> {
        let wanted = tokens.len();
        self.became_ready = Vec::with_capacity(wanted);
        let mut started = 0;
        let mut progress = Instant::now();
        loop {
            let ready = self.became_ready.len();
            if ready == wanted {
                return Ok(std::mem::take(&mut self.became_ready));
            }
            while started < wanted.min(ready + at_once) {
                self.connect_one(tokens.start + started)?;
                started += 1;
            }
            self.turn(Some(self.plan.stall_timeout))?;
            let now = Instant::now();
            if self.became_ready.len() > ready {
                progress = now;
            } else if now - progress >= self.plan.stall_timeout {
                return Err(Fault::NotReady { ready, wanted });
            }
        }
    }

    fn connect_one(&mut self, token: usize) -> Result<(), Fault> {
        let (mut state, mut topics) = (A::State::default(), Vec::new());
        if let Some(before) = self.connections.get_mut(token) {
            state = std::mem::take(&mut before.state);
        }
        let stalls = token >= self.plan.topology.subscribers() + self.plan.topology.flows();
        let role = role_of(&self.plan, token, self.returning, &mut topics);
        let connection = Connection::connect(self.plan.address, &self.adapter, role, state, stalls)?;
        self.poll.add(&connection.socket, token, Interest::Read)?;
        match self.connections.get_mut(token) {
            Some(before) => *before = connection,
            None => self.connections.push(connection),
        }
        Ok(())
    }

    /// Returns when the last delivery came.
    fn publish_until(&mut self, pace: Pace, start: Instant, until: Until) -> Result<Instant, Fault> {
        let flows = self.plan.topology.flows();
        let first = self.tally.deliveries();
        let mut schedule = match pace {
            Pace::Rate(deliveries) => {
                let fan_out = match self.plan.topology {
                    Topology::FanOut { subscribers, .. } => subscribers as f64,
                    Topology::Pairs(_) | Topology::Topics { .. } => 1.0,
                };
                Some(Schedule { start, period: Duration::from_secs_f64(fan_out / deliveries), next: 0 })
            }
            Pace::Window { .. } => None,
        };
        if schedule.is_none() {
            for flow in 0..flows {
                self.top_up(pace, flow)?;
            }
        }
        let mut progress = (start, first);
        let mut publishing = true;
        loop {
            let deliveries = self.tally.deliveries();
            let now = Instant::now();
            publishing &= now - start < until.elapsed && deliveries - first < until.deliveries;
            if deliveries > progress.1 {
                progress = (now, deliveries);
            } else if now - progress.0 >= self.plan.stall_timeout {
                let out = (0..flows).map(|flow| self.tally.out(flow)).sum();
                return Err(Fault::Stalled { deliveries, out });
            }
            if !publishing && self.tally.is_settled() {
                return Ok(now);
            }
            match &mut schedule {
                // Turns without sleep, so that no timer adds its slack to the latencies.
                Some(schedule) if publishing => {
                    while let Some((number, due)) = schedule.take_due(now) {
                        self.publish_due(number as usize % flows, due)?;
                    }
                    self.turn(Some(Duration::ZERO))?;
                }
                _ => self.turn(Some(self.plan.stall_timeout))?,
            }
            while let Some(flow) = self.tally.take_moved() {
                if publishing {
                    self.top_up(pace, flow)?;
                }
            }
        }
    }

    /// Fills the window of a flow, in whole bursts.
    fn top_up(&mut self, pace: Pace, flow: usize) -> Result<(), Fault> {
        let Pace::Window { window, burst } = pace else { return Ok(()) };
        while self.tally.out(flow) + burst <= window {
            let publisher = self.plan.topology.subscribers() + flow;
            for _ in 0..burst {
                self.enter(flow, publisher);
            }
            self.flush(publisher)?;
        }
        Ok(())
    }

    fn publish_due(&mut self, flow: usize, due: Instant) -> Result<(), Fault> {
        if self.tally.out(flow) == MAX_OUT_AT_RATE {
            return Err(Fault::Stalled { deliveries: self.tally.deliveries(), out: MAX_OUT_AT_RATE });
        }
        let publisher = self.plan.topology.subscribers() + flow;
        let stamp = self.enter(flow, publisher);
        self.due[flow][stamp.sequence as usize % MAX_OUT_AT_RATE] = due;
        self.flush(publisher)
    }

    /// Enters the next message of a flow as published, and writes it to its connection's buffer.
    fn enter(&mut self, flow: usize, publisher: usize) -> Stamp {
        let stamp = self.tally.publish(flow);
        let topic = self.round.map_or(0, |round| round.topic(stamp.sequence));
        self.publishing[flow].write(stamp, topic, &mut self.connections[publisher].unsent);
        stamp
    }

    /// Waits once, and reads and writes what is ready.
    fn turn(&mut self, timeout: Option<Duration>) -> Result<(), Fault> {
        let mut ready = std::mem::take(&mut self.ready);
        self.poll.wait(timeout, &mut ready)?;
        for event in &ready {
            if event.readable {
                self.read(event.token)?;
            }
            if event.writable {
                self.flush(event.token)?;
            }
        }
        self.ready = ready;
        Ok(())
    }

    fn read(&mut self, token: usize) -> Result<(), Fault> {
        let connection = &mut self.connections[token];
        let Some((filled, received)) = connection.receive(&mut self.scratch)? else { return Ok(()) };
        if token < self.plan.topology.subscribers() {
            self.bytes += received as u64;
            self.reads += 1;
        }
        let mut rest = &self.scratch[..filled];
        let mut topics = Vec::new();
        let mut talk = Conversation {
            subscriber: token,
            opcode: self.adapter.opcode(),
            tally: &mut self.tally,
            unsent: &mut connection.unsent,
            is_ready: false,
            now: self.latency.as_ref().map(|_| Instant::now()),
            due: &self.due,
            latency: &mut self.latency,
        };
        if connection.stage == Stage::Asking {
            let Some(after_head) = connection::check_answer(rest, connection.is_events)? else {
                connection.unread.extend_from_slice(rest);
                return Ok(());
            };
            rest = after_head;
            connection.stage = Stage::Opening;
            let role = role_of(&self.plan, token, self.returning, &mut topics);
            self.adapter.open(&mut connection.state, role, &mut talk)?;
        }
        while connection.is_events {
            let Some((piece, after)) = events::split_chunk(rest)? else { break };
            rest = after;
            if piece.is_empty() {
                return Err(Fault::Closed(" at the end of its events".into()));
            }
            self.adapter.receive(&mut connection.state, piece, &mut talk)?;
        }
        while !connection.is_events {
            let Some(header) = websocket::Header::read(rest)? else { break };
            let Some((frame, after)) = rest.split_at_checked(header.total()) else { break };
            rest = after;
            let payload = &frame[header.head..];
            match header.opcode {
                websocket::TEXT | websocket::BINARY if header.fin => {
                    self.adapter.receive(&mut connection.state, payload, &mut talk)?;
                }
                websocket::TEXT | websocket::BINARY | websocket::CONTINUATION => {
                    connection.fragments.extend_from_slice(payload);
                    if header.fin {
                        let message = std::mem::take(&mut connection.fragments);
                        self.adapter.receive(&mut connection.state, &message, &mut talk)?;
                    }
                }
                websocket::PING => websocket::write_client(talk.unsent, websocket::PONG, payload),
                websocket::CLOSE => return Err(connection::closed(payload)),
                _ => {}
            }
        }
        if talk.is_ready && connection.stage != Stage::Ready {
            connection.stage = Stage::Ready;
            self.became_ready.push(Instant::now());
        }
        connection.unread.extend_from_slice(rest);
        if connection.unsent.is_empty() { Ok(()) } else { self.flush(token) }
    }

    fn flush(&mut self, token: usize) -> Result<(), Fault> {
        let connection = &mut self.connections[token];
        let was_blocked = connection.blocked;
        connection.flush()?;
        match (was_blocked, connection.blocked) {
            (false, true) => self.poll.modify(&connection.socket, token, Interest::ReadWrite)?,
            (true, false) => self.poll.modify(&connection.socket, token, Interest::Read)?,
            _ => {}
        }
        Ok(())
    }
}

/// The topic a flow publishes to. Where messages go round, with a number that is yet to be filled in.
fn topic_of(plan: &Plan, flow: usize) -> String {
    match plan.topology {
        Topology::FanOut { .. } => plan.topic.clone(),
        Topology::Pairs(_) => format!("{}.{flow}", plan.topic),
        Topology::Topics { .. } => format!("{}.{}", plan.topic, numbered(0)),
    }
}

/// The last token of a topic among many. A letter first, so that it is never taken for a payload's digits.
fn numbered(topic: usize) -> String {
    format!("t{topic:0TOPIC_DIGITS$}")
}

/// What a connection is for. `topics` holds the names.
fn role_of<'a>(plan: &Plan, token: usize, returning: bool, topics: &'a mut Vec<String>) -> Role<'a> {
    let subscribers = plan.topology.subscribers();
    let flows = plan.topology.flows();
    if (subscribers..subscribers + flows).contains(&token) {
        topics.push(topic_of(plan, token - subscribers));
        return Role::Publisher(&topics[0]);
    }
    let (first, second) = plan.topic.split_once('.').unwrap_or((&plan.topic, ""));
    match plan.topology {
        Topology::FanOut { .. } | Topology::Pairs(_) => topics.push(topic_of(plan, token)),
        Topology::Topics { topics: all, subscribers } => {
            topics.extend((token..all).step_by(subscribers).map(|topic| {
                match (plan.wildcards, topic / subscribers % 2) {
                    (false, _) => format!("{}.{}", plan.topic, numbered(topic)),
                    (true, 0) => format!("*.{second}.{}", numbered(topic)),
                    (true, _) => format!("{first}.*.{}", numbered(topic)),
                }
            }));
        }
    }
    if returning { Role::Returning(topics) } else { Role::Subscriber(topics) }
}

impl Template {
    fn new(adapter: &impl Adapter, plan: &Plan, flow: usize) -> Self {
        let payload = plan.shape.payload(Stamp { flow, sequence: 0 });
        let mut message = Vec::new();
        adapter.publish(&topic_of(plan, flow), &payload, &mut message);
        let at =
            memchr::memmem::rfind(&message, &payload).expect("an adapter publishes the payload as it is");
        let topic = matches!(plan.topology, Topology::Topics { .. })
            .then(|| memchr::memmem::find(&message[..at], numbered(0).as_bytes()))
            .flatten();
        let mut frame = Vec::new();
        websocket::write_client(&mut frame, adapter.opcode(), &message);
        let head = frame.len() - message.len();
        Self {
            stamp: Field::new(head, at + plan.shape.digits().start),
            topic: topic.map(|at| Field::new(head, at + 1)),
            frame,
        }
    }

    fn write(&mut self, stamp: Stamp, topic: usize, out: &mut Vec<u8>) {
        self.stamp.write(&mut self.frame, stamp.digits());
        if let Some(field) = &self.topic {
            let mut rest = topic;
            let mut digits = [b'0'; TOPIC_DIGITS];
            for digit in digits.iter_mut().rev() {
                *digit += (rest % 10) as u8;
                rest /= 10;
            }
            field.write(&mut self.frame, digits);
        }
        out.extend_from_slice(&self.frame);
    }
}

impl<const N: usize> Field<N> {
    /// At `at` of a message that stands behind `head` bytes.
    fn new(head: usize, at: usize) -> Self {
        Self { at: head + at, mask: std::array::from_fn(|i| websocket::MASK[(at + i) % 4]) }
    }

    fn write(&self, frame: &mut [u8], digits: [u8; N]) {
        let masked: [u8; N] = std::array::from_fn(|i| digits[i] ^ self.mask[i]);
        frame[self.at..self.at + N].copy_from_slice(&masked);
    }
}

/// When messages are due.
struct Schedule {
    start: Instant,
    period: Duration,
    /// The number of the next.
    next: u32,
}

impl Schedule {
    fn take_due(&mut self, now: Instant) -> Option<(u32, Instant)> {
        let due = self.start + self.period * self.next;
        (due <= now).then(|| {
            self.next += 1;
            (self.next - 1, due)
        })
    }
}

/// A connection's side of what an adapter does.
struct Conversation<'a> {
    subscriber: usize,
    opcode: u8,
    tally: &'a mut Tally,
    unsent: &'a mut Vec<u8>,
    is_ready: bool,
    now: Option<Instant>,
    due: &'a [Box<[Instant]>],
    latency: &'a mut Option<Histogram<u64>>,
}

impl Talk for Conversation<'_> {
    #[inline]
    fn deliver(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let stamp = self.tally.deliver(self.subscriber, payload)?;
        if let (Some(now), Some(latency)) = (self.now, self.latency.as_mut()) {
            let due = self.due[stamp.flow][stamp.sequence as usize % MAX_OUT_AT_RATE];
            latency.saturating_record((now - due).as_nanos().try_into().unwrap_or(u64::MAX));
        }
        Ok(())
    }

    fn send(&mut self, message: &[u8]) {
        websocket::write_client(self.unsent, self.opcode, message);
    }

    fn ready(&mut self) {
        self.is_ready = true;
    }
}
