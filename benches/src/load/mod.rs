//! A run: connect, warm up, measure, judge.
//!
//! One thread and one epoll instance drive all connections. On the receive side nothing is allocated for a message:
//! each read goes into one scratch buffer, is walked there, and only a WebSocket frame that is not whole yet stays
//! with its connection.

mod connection;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use connection::{Connection, Stage};
use hdrhistogram::Histogram;

use crate::{
    adapter::{Adapter, Fault, Role, Talk},
    payload::{Shape, Stamp},
    poll::{Interest, Poll, Ready},
    process::Usage,
    tally::{Tally, Topology},
    websocket,
};

/// Connections on their way at once: below every listen backlog, so that no SYN is dropped and sent again a second
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
    /// The topic; with [`Topology::Pairs`] what all topics begin with.
    pub topic: String,
    /// What is published.
    pub shape: Shape,
    /// How fast.
    pub pace: Pace,
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
    /// When each message that is out was due, a ring for each flow; and what came of it. At [`Pace::Rate`] only.
    due: Vec<Box<[Instant]>>,
    latency: Option<Histogram<u64>>,
    usage_before_connecting: Usage,
}

/// The frame a publisher writes, again and again with another stamp.
struct Template {
    frame: Vec<u8>,
    /// Where its digits stand, and what they are masked with.
    digits: usize,
    mask: [u8; 16],
}

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
        self.latency = match self.plan.pace {
            // Up to a minute, a thousandth part exact. With bounds, so that recording never allocates.
            Pace::Rate(_) => Some(
                Histogram::new_with_bounds(1, 60_000_000_000, 3)
                    .map_err(|error| Fault::Told(error.to_string()))?,
            ),
            Pace::Window { .. } => None,
        };
        let (deliveries, bytes) = (self.tally.deliveries(), self.bytes);
        let server = Usage::of_all(&self.plan.pids)?;
        let generator = Usage::of(std::process::id())?;
        let start = Instant::now();
        let end = self.publish_until(start, until)?;
        let measured = Measured {
            elapsed: end - start,
            deliveries: self.tally.deliveries() - deliveries,
            bytes: self.bytes - bytes,
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

    fn connect_all(&mut self) -> Result<(), Fault> {
        let (subscribers, flows) = (self.plan.topology.subscribers(), self.plan.topology.flows());
        let wanted = subscribers + flows + self.plan.stalled;
        let mut ready = 0;
        let mut progress = Instant::now();
        while ready < wanted {
            while self.connections.len() < wanted.min(ready + CONNECTING) {
                self.connect_one()?;
            }
            self.turn(Some(self.plan.stall_timeout))?;
            let now_ready =
                ready + self.connections[ready..].iter().take_while(|c| c.stage == Stage::Ready).count();
            let now = Instant::now();
            if now_ready > ready {
                progress = now;
            } else if now - progress >= self.plan.stall_timeout {
                return Err(Fault::NotReady { ready, wanted });
            }
            ready = now_ready;
        }
        for stalled in &self.connections[subscribers + flows..] {
            self.poll.remove(&stalled.socket)?;
            // So that it is the server that has to cope with what is not read, and not this end's kernel.
            rustix::net::sockopt::set_socket_recv_buffer_size(&stalled.socket, 4096)
                .map_err(|error| Fault::Io(error.into()))?;
        }
        Ok(())
    }

    fn connect_one(&mut self) -> Result<(), Fault> {
        let token = self.connections.len();
        let topic = topic_of(&self.plan, token);
        let (path, subprotocol) = self.adapter.upgrade(role_of(&self.plan, token, &topic));
        let connection = Connection::connect(self.plan.address, &path, subprotocol)?;
        self.poll.add(&connection.socket, token, Interest::Read)?;
        self.connections.push(connection);
        Ok(())
    }

    /// Returns when the last delivery came.
    fn publish_until(&mut self, start: Instant, until: Until) -> Result<Instant, Fault> {
        let flows = self.plan.topology.flows();
        let first = self.tally.deliveries();
        let mut schedule = match self.plan.pace {
            Pace::Rate(deliveries) => {
                let fan_out = self.plan.topology.subscribers() as f64 / flows as f64;
                Some(Schedule { start, period: Duration::from_secs_f64(fan_out / deliveries), next: 0 })
            }
            Pace::Window { .. } => None,
        };
        if schedule.is_none() {
            for flow in 0..flows {
                self.top_up(flow)?;
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
                    self.top_up(flow)?;
                }
            }
        }
    }

    /// Fills the window of a flow, in whole bursts.
    fn top_up(&mut self, flow: usize) -> Result<(), Fault> {
        let Pace::Window { window, burst } = self.plan.pace else { return Ok(()) };
        while self.tally.out(flow) + burst <= window {
            let publisher = self.plan.topology.subscribers() + flow;
            for _ in 0..burst {
                let stamp = self.tally.publish(flow);
                self.publishing[flow].write(stamp, &mut self.connections[publisher].unsent);
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
        let stamp = self.tally.publish(flow);
        self.due[flow][stamp.sequence as usize % MAX_OUT_AT_RATE] = due;
        self.publishing[flow].write(stamp, &mut self.connections[publisher].unsent);
        self.flush(publisher)
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
        }
        let mut rest = &self.scratch[..filled];
        let topic;
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
        if connection.stage == Stage::Upgrading {
            let Some(after_head) = connection::check_upgrade(rest)? else {
                connection.unread.extend_from_slice(rest);
                return Ok(());
            };
            rest = after_head;
            connection.stage = Stage::Opening;
            topic = topic_of(&self.plan, token);
            self.adapter.open(role_of(&self.plan, token, &topic), &mut talk)?;
        }
        while let Some(header) = websocket::Header::read(rest)? {
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
        if talk.is_ready {
            connection.stage = Stage::Ready;
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

/// The topic of a connection.
fn topic_of(plan: &Plan, token: usize) -> String {
    match plan.topology {
        Topology::FanOut { .. } => plan.topic.clone(),
        Topology::Pairs(pairs) => format!("{}.{}", plan.topic, token % pairs),
    }
}

fn role_of<'a>(plan: &Plan, token: usize, topic: &'a str) -> Role<'a> {
    let subscribers = plan.topology.subscribers();
    if (subscribers..subscribers + plan.topology.flows()).contains(&token) {
        Role::Publisher(topic)
    } else {
        Role::Subscriber(topic)
    }
}

impl Template {
    fn new(adapter: &impl Adapter, plan: &Plan, flow: usize) -> Self {
        let payload = plan.shape.payload(Stamp { flow, sequence: 0 });
        let mut message = Vec::new();
        adapter.publish(&topic_of(plan, flow), &payload, &mut message);
        let at =
            memchr::memmem::rfind(&message, &payload).expect("an adapter publishes the payload as it is");
        let mut frame = Vec::new();
        websocket::write_client(&mut frame, adapter.opcode(), &message);
        let in_message = at + plan.shape.digits().start;
        Self {
            digits: frame.len() - message.len() + in_message,
            mask: std::array::from_fn(|i| websocket::MASK[(in_message + i) % 4]),
            frame,
        }
    }

    fn write(&mut self, stamp: Stamp, out: &mut Vec<u8>) {
        let digits = stamp.digits();
        let masked: [u8; 16] = std::array::from_fn(|i| digits[i] ^ self.mask[i]);
        self.frame[self.digits..self.digits + masked.len()].copy_from_slice(&masked);
        out.extend_from_slice(&self.frame);
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
