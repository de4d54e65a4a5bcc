//! The session against a model of the broker, under a seeded schedule of cuts, lost deliveries, marks, evictions,
//! restarts and slow readers.
//!
//! The model is the dullest broker that can be right: a vector for the log, a linear scan for everything. What each
//! reader saw is held against the log afterwards: everything once, in order, or told by gaps whose counts add up.
//! `TIDEGATE_SEED` repeats one run, `TIDEGATE_SEEDS` says how many there are.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tidegate_protocol::{
    ClientFrame, Codec, Epoch, Filter, From, Message, Payload, Position, ServerFrame, Topic,
    frame::{
        AckResult, Gap, GapReason, Mark, Overflow, PublishWindow, Published, StartPosition, SubMark,
        Subscribe, Subscribed, Welcome, WelcomeLimits,
    },
    position::At,
};
use tokio::sync::{broadcast, oneshot, watch};

use super::{Closed, Next, Outlets, Session, Settings};
use crate::{
    command::{Command, Idempotency, PublishCommand, SubscribeCommand},
    error::{PublishError, SubscribeError},
    event::{ConnectionEvent, ConnectionState},
    queue::{Item, Queue},
    stats::Counters,
    subscription::Event,
    window::Window,
};

const TOPICS: [&str; 4] = ["a.x", "a.y", "b.x", "b.y"];
const FILTERS: [&str; 5] = ["a.x", "a.*", ">", "*.x", "b.y"];
const STEPS: usize = 400;

#[test]
fn everything_comes_once_and_in_order_or_is_told() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("TIDEGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TIDEGATE_SEEDS").unwrap_or(300),
    };
    let mut met = Met::default();
    for seed in seeds {
        println!("TIDEGATE_SEED={seed}");
        Simulation::new(seed).run(&mut met);
    }
    println!("{met:?}");
    if number("TIDEGATE_SEED").is_none() {
        let all = [
            met.cuts,
            met.losses,
            met.repairs,
            met.resets,
            met.resumed,
            met.evicted,
            met.resent,
            met.amid_last,
        ];
        assert!(all.iter().all(|&count| count > 0), "the schedule meets every hazard: {met:?}");
    }
}

/// How often the runs met what they are about.
#[derive(Debug, Default)]
struct Met {
    cuts: u64,
    losses: u64,
    repairs: u64,
    resets: u64,
    resumed: u64,
    evicted: u64,
    resent: u64,
    amid_last: u64,
}

struct Simulation {
    rng: fastrand::Rng,
    now: Instant,
    session: Session,
    counters: Arc<Counters>,
    window: Arc<Window>,
    broker: Broker,
    up: bool,
    /// Written by the broker, not yet read by the client.
    down_line: VecDeque<ServerFrame>,
    readers: Vec<Reader>,
    publishes: Vec<oneshot::Receiver<Result<Published, PublishError>>>,
    /// A frame was lost and no mark has told: a cut now would make it a loss that no book shows.
    unmarked_loss: bool,
    _events: broadcast::Receiver<ConnectionEvent>,
    _state: watch::Receiver<ConnectionState>,
    _ready: oneshot::Receiver<Result<(), crate::error::ConnectError>>,
}

struct Reader {
    key: u64,
    filter: Filter,
    queue: Arc<Queue>,
    acked: oneshot::Receiver<Result<Subscribed, SubscribeError>>,
    taken: u64,
    events: Vec<Event>,
}

/// The model.
struct Broker {
    epoch: Epoch,
    /// Offset `n` is at `n - 1`; nothing is ever taken out, `evicted` says up to where the log has forgotten.
    log: Vec<Message>,
    evicted: u64,
    /// The last offset that was fanned out.
    cursor: u64,
    keys: HashMap<Box<str>, u64>,
    subs: Vec<ModelSub>,
    out: Vec<ServerFrame>,
    /// What each subscription was promised when it first started, by its `limit`, which the tests use as a name.
    starts: HashMap<u32, Start>,
}

#[derive(Debug, Clone)]
struct Start {
    epoch: Epoch,
    offsets: Vec<u64>,
    after: u64,
}

struct ModelSub {
    id: u64,
    filter: Filter,
    /// The newest of each topic, to be sent first.
    first: VecDeque<u64>,
    offset: u64,
    credit: u64,
    behind: bool,
    messages: u64,
    gapped: u64,
    traffic: bool,
}

impl Broker {
    fn append(&mut self, topic: &str) -> u64 {
        let offset = self.log.len() as u64 + 1;
        self.log.push(Message {
            topic: Topic::parse(topic).unwrap(),
            stream: None,
            offset: Some(offset),
            prev: None,
            time: 0,
            payload: Payload::text(offset.to_string()),
            key: None,
            headers: Vec::new(),
            sub: None,
        });
        offset
    }

    fn matching<'a>(
        &'a self,
        filter: &'a Filter,
        range: std::ops::RangeInclusive<u64>,
    ) -> impl Iterator<Item = u64> + 'a {
        range.filter(move |&offset| filter.matches(&self.log[offset as usize - 1].topic))
    }

    fn on_frame(&mut self, frame: ClientFrame) {
        match frame {
            ClientFrame::Connect(connect) => self.out.push(ServerFrame::Welcome(Welcome {
                id: connect.id,
                connection: "c".into(),
                limits: WelcomeLimits {
                    payload_bytes: 1 << 16,
                    message_bytes: 1 << 17,
                    subscriptions: 100,
                    limit: 1000,
                    limit_bytes: 1 << 20,
                },
                publish_window: PublishWindow { messages: 8, bytes: 1000 },
                ping_ms: 25_000,
                reconnect_ms: (0, 5000),
            })),
            ClientFrame::Subscribe(subscribe) => self.on_subscribe(subscribe),
            ClientFrame::Unsubscribe { id, sub } => {
                self.subs.retain(|model| model.id != sub);
                self.out.push(ServerFrame::Ack { id, result: AckResult::Done });
            }
            ClientFrame::Publish(publish) => {
                let key = publish.idempotency.clone().expect("every publish has a key");
                let known = self.keys.get(&key).copied();
                let offset = known.unwrap_or_else(|| self.append(publish.topic.as_str()));
                self.keys.insert(key, offset);
                let position = Some(Position { stream: None, epoch: self.epoch, offset });
                let published = Published { position, duplicate: known.is_some(), report: None };
                let id = publish.id.expect("every publish wants an ack");
                self.out.push(ServerFrame::Ack { id, result: AckResult::Published(published) });
            }
            ClientFrame::Credit { sub, add } => {
                if let Some(model) = self.subs.iter_mut().find(|model| model.id == sub) {
                    model.credit += u64::from(add);
                }
            }
            other => panic!("the client has no reason to say {other:?}"),
        }
    }

    fn on_subscribe(&mut self, subscribe: Subscribe) {
        let head = self.cursor;
        let mut unknown_epoch = false;
        let (first, offset) = match &subscribe.from {
            From::Live => (Vec::new(), head),
            From::Beginning => (Vec::new(), self.evicted.min(head)),
            From::Positions(positions) => match &positions[..] {
                [held] if held.epoch == self.epoch && held.offset <= self.log.len() as u64 => {
                    (Vec::new(), held.offset)
                }
                _ => {
                    unknown_epoch = true;
                    (Vec::new(), self.evicted.min(head))
                }
            },
            From::Last { n, at } => {
                let at = match at {
                    None => head,
                    Some(At::Positions(positions)) if positions[0].epoch == self.epoch => positions[0].offset,
                    Some(_) => {
                        unknown_epoch = true;
                        head
                    }
                };
                let mut first = Vec::new();
                for topic in TOPICS {
                    let of_topic = |&offset: &u64| self.log[offset as usize - 1].topic.as_str() == topic;
                    let all: Vec<u64> = self.matching(&subscribe.filter, 1..=at).filter(of_topic).collect();
                    first.extend(all.iter().rev().take(*n as usize));
                }
                first.sort_unstable();
                (first, at)
            }
            From::Since(_) => unreachable!("the schedule does not use it"),
        };
        let start = first.first().map_or(offset, |first| first - 1);
        let name = subscribe.limit.unwrap();
        self.starts.entry(name).or_insert_with(|| Start {
            epoch: self.epoch,
            offsets: first.clone(),
            after: offset,
        });
        let terms = Subscribed {
            positions: vec![StartPosition {
                stream: None,
                epoch: self.epoch,
                offset: start,
                live: offset.max(head),
            }],
            overflow: Overflow::CatchUp,
            limit: name,
            limit_bytes: 1,
            live_only: false,
        };
        self.out.push(ServerFrame::Ack { id: subscribe.id, result: AckResult::Subscribed(terms) });
        if unknown_epoch {
            self.out.push(ServerFrame::Gap(gap(subscribe.id, None, None, GapReason::Epoch)));
        }
        self.subs.push(ModelSub {
            id: subscribe.id,
            behind: !first.is_empty() || offset < head,
            filter: subscribe.filter,
            first: first.into(),
            offset,
            credit: subscribe.credit.unwrap().into(),
            messages: 0,
            gapped: 0,
            traffic: false,
        });
    }

    /// Hands the next message to everybody who takes it and is level.
    fn fan_out(&mut self) -> bool {
        let Some(message) = self.log.get(self.cursor as usize).cloned() else { return false };
        self.cursor += 1;
        let offset = self.cursor;
        let takes = |sub: &ModelSub| sub.filter.matches(&message.topic) && sub.offset < offset;
        let shared = self
            .subs
            .iter()
            .filter(|sub| sub.filter.matches(&message.topic))
            .all(|sub| sub.offset < offset && !sub.behind && sub.credit > 0);
        let mut written = false;
        for sub in self.subs.iter_mut().filter(|sub| takes(sub)) {
            if sub.behind || sub.credit == 0 {
                sub.behind = true;
                continue;
            }
            sub.write(offset);
            if shared && !written {
                self.out.push(ServerFrame::Message(message.clone()));
                written = true;
            } else if !shared {
                self.out.push(ServerFrame::Message(Message { sub: Some(sub.id), ..message.clone() }));
            }
        }
        true
    }

    /// Lets everybody who is behind read on as far as credit goes.
    fn catch_up(&mut self) {
        for at in 0..self.subs.len() {
            while self.subs[at].behind {
                let sub = &self.subs[at];
                let filter = sub.filter.clone();
                if sub.offset < self.evicted && sub.first.is_empty() {
                    let (from, to) = (sub.offset + 1, self.evicted);
                    let count = self.matching(&filter, from..=to).count() as u64;
                    let sub = &mut self.subs[at];
                    sub.offset = to;
                    if count > 0 {
                        sub.gapped += count;
                        sub.traffic = true;
                        self.out.push(ServerFrame::Gap(gap(
                            sub.id,
                            Some(count),
                            Some((from, to)),
                            GapReason::Evicted,
                        )));
                    }
                    continue;
                }
                let next = match sub.first.front() {
                    Some(&first) => Some(first),
                    None => self.matching(&filter, sub.offset + 1..=self.cursor).next(),
                };
                let sub = &mut self.subs[at];
                match next {
                    Some(_) if sub.credit == 0 => break,
                    Some(offset) => {
                        if sub.first.pop_front().is_some() {
                            let after = sub.offset;
                            sub.write(offset);
                            sub.offset = after;
                        } else {
                            sub.write(offset);
                        }
                        let message = Message { sub: Some(sub.id), ..self.log[offset as usize - 1].clone() };
                        self.out.push(ServerFrame::Message(message));
                    }
                    None => {
                        sub.offset = sub.offset.max(self.cursor);
                        sub.behind = false;
                    }
                }
            }
        }
    }

    fn mark(&mut self) {
        let position = Position { stream: None, epoch: self.epoch, offset: self.cursor };
        let listed = self.subs.iter_mut().filter(|sub| sub.traffic || sub.behind);
        let subs = listed.map(|sub| {
            sub.traffic = false;
            SubMark { sub: sub.id, messages: sub.messages, gapped: sub.gapped, behind: sub.behind }
        });
        let mark = Mark { subs: subs.collect(), positions: vec![position] };
        self.out.push(ServerFrame::Mark(mark));
    }

    fn restart(&mut self) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.log.clear();
        self.keys.clear();
        (self.evicted, self.cursor) = (0, 0);
    }
}

impl ModelSub {
    fn write(&mut self, offset: u64) {
        self.offset = offset;
        self.messages += 1;
        self.credit -= 1;
        self.traffic = true;
    }
}

fn gap(sub: u64, count: Option<u64>, range: Option<(u64, u64)>, reason: GapReason) -> Gap {
    Gap {
        sub,
        stream: None,
        topic: None,
        count,
        at_most: None,
        from: range.map(|(from, _)| from),
        to: range.map(|(_, to)| to),
        reason,
        policy: Overflow::CatchUp,
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let (events, _events) = broadcast::channel(1024);
        let (state, _state) = watch::channel(ConnectionState::Connecting);
        let (ready, _ready) = oneshot::channel();
        let (counters, window) = (Arc::<Counters>::default(), Arc::new(Window::new()));
        let outlets = Outlets { events, state, counters: counters.clone(), window: window.clone() };
        let settings = Settings {
            codec: Codec::Bincode,
            client_name: None,
            token: None,
            instance: "i".into(),
            key_prefix: "k".into(),
            connect_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            seed,
        };
        Self {
            rng: fastrand::Rng::with_seed(seed),
            now: Instant::now(),
            session: Session::new(settings, outlets, ready),
            counters,
            window,
            broker: Broker {
                epoch: Epoch(1),
                log: Vec::new(),
                evicted: 0,
                cursor: 0,
                keys: HashMap::new(),
                subs: Vec::new(),
                out: Vec::new(),
                starts: HashMap::new(),
            },
            up: false,
            down_line: VecDeque::new(),
            readers: Vec::new(),
            publishes: Vec::new(),
            unmarked_loss: false,
            _events,
            _state,
            _ready,
        }
    }

    fn run(mut self, met: &mut Met) {
        self.connect();
        self.settle();
        for _ in 0..STEPS {
            self.step(met);
        }
        self.finish();
        self.check(met);
    }

    fn step(&mut self, met: &mut Met) {
        self.now += Duration::from_millis(self.rng.u64(0..20));
        match self.rng.u32(0..100) {
            0..3 if self.readers.len() < 6 => self.subscribe(),
            3..25 => {
                self.broker.append(TOPICS[self.rng.usize(0..TOPICS.len())]);
            }
            25..35 => self.publish(),
            35..50 => drop(self.broker.fan_out()),
            50..58 => self.broker.catch_up(),
            58..62 if self.up => {
                self.broker.mark();
            }
            62..64 => {
                let to = self.broker.cursor.saturating_sub(self.rng.u64(0..10));
                self.broker.evicted = self.broker.evicted.max(to);
            }
            64..66 if self.up && !self.unmarked_loss => {
                met.cuts += 1;
                met.amid_last += u64::from(self.broker.subs.iter().any(|sub| !sub.first.is_empty()));
                self.cut();
                if self.rng.u32(0..8) == 0 {
                    self.broker.restart();
                }
            }
            66..72 if !self.up => self.connect(),
            72..74 => self.lose(met),
            74..85 => self.read(),
            _ => self.move_frames(),
        }
    }

    fn subscribe(&mut self) {
        let (reply, acked) = oneshot::channel();
        let (key, queue) = (self.readers.len() as u64, Arc::<Queue>::default());
        let filter = Filter::parse(FILTERS[self.rng.usize(0..FILTERS.len())]).unwrap();
        let from = match self.rng.u32(0..3) {
            0 => From::Live,
            1 => From::Beginning,
            _ => From::Last { n: self.rng.u32(1..5), at: None },
        };
        let command = SubscribeCommand {
            key,
            filter: filter.clone(),
            from,
            overflow: None,
            limit: Some(key as u32),
            limit_bytes: None,
            buffer: self.rng.u32(1..8),
            echo: true,
            queue: queue.clone(),
            reply,
        };
        self.session.on_command(Command::Subscribe(command), self.now);
        self.readers.push(Reader { key, filter, queue, acked, taken: 0, events: Vec::new() });
    }

    fn publish(&mut self) {
        let payload = Payload::text("p");
        let Ok(place) = self.window.try_place(payload.len()) else { return };
        let (reply, ack) = oneshot::channel();
        let command = PublishCommand {
            topic: Topic::parse(TOPICS[self.rng.usize(0..TOPICS.len())]).unwrap(),
            payload,
            key: None,
            headers: Vec::new(),
            idempotency: Idempotency::Automatic,
            report: false,
            place,
            reply,
        };
        self.session.on_command(Command::Publish(command), self.now);
        self.publishes.push(ack);
    }

    fn connect(&mut self) {
        self.session.on_open(self.now);
        self.up = true;
    }

    /// What was on its way in either direction is lost.
    fn cut(&mut self) {
        // Some of what the client has to say got through, and the answers to it did not.
        if self.rng.bool() {
            self.client_to_broker();
        }
        self.up = false;
        self.down_line.clear();
        self.broker.out.clear();
        self.broker.subs.clear();
        let closed = Closed { code: None, reason: "cut".into() };
        assert!(matches!(self.session.on_closed(closed, self.now), Next::Reconnect(_)));
        // What was promised to a reader that never heard of it is promised anew.
        for reader in &mut self.readers {
            if let Err(oneshot::error::TryRecvError::Empty) = reader.acked.try_recv() {
                self.broker.starts.remove(&(reader.key as u32));
            } else {
                reader.acked.close();
            }
        }
    }

    /// One delivery of those on their way vanishes.
    fn lose(&mut self, met: &mut Met) {
        self.down_line.extend(self.broker.out.drain(..));
        let is_delivery = |frame: &ServerFrame| matches!(frame, ServerFrame::Message(_));
        let last = self.down_line.iter().rposition(is_delivery);
        let first = self.down_line.iter().position(is_delivery);
        if let Some(at) = if self.rng.bool() { first } else { last } {
            self.down_line.remove(at);
            met.losses += 1;
            self.unmarked_loss = true;
            self.broker.mark();
        }
    }

    fn read(&mut self) {
        let at = self.rng.usize(0..self.readers.len().max(1));
        let Some(reader) = self.readers.get_mut(at) else { return };
        reader.read_all();
        if reader.queue.took(reader.taken) {
            self.session.on_attention(reader.key);
        }
    }

    fn client_to_broker(&mut self) {
        let mut bytes = Vec::new();
        while self.session.write_frame(&mut bytes, self.now) {}
        for frame in Codec::Bincode.decode_client(&bytes) {
            self.broker.on_frame(frame.expect("what the client writes can be read"));
        }
    }

    fn move_frames(&mut self) {
        if !self.up {
            return;
        }
        self.client_to_broker();
        self.down_line.extend(self.broker.out.drain(..));
        for _ in 0..self.rng.usize(1..20) {
            let Some(frame) = self.down_line.pop_front() else { break };
            let is_mark = matches!(frame, ServerFrame::Mark(_));
            self.session.on_heard(self.now);
            self.session.on_frame(frame, self.now);
            if is_mark && !self.down_line.iter().any(|frame| matches!(frame, ServerFrame::Mark(_))) {
                self.unmarked_loss = false;
            }
        }
        assert_eq!(self.session.ending(), None, "no reason to hang up");
        self.session.deliver();
    }

    fn settle(&mut self) {
        while {
            self.move_frames();
            !self.down_line.is_empty() || !self.broker.out.is_empty()
        } {}
    }

    /// No more faults: everybody gets level.
    fn finish(&mut self) {
        if !self.up {
            self.connect();
        }
        for _ in 0..200 {
            self.settle();
            while self.broker.fan_out() {}
            self.broker.catch_up();
            self.broker.mark();
            self.settle();
            for reader in &mut self.readers {
                reader.read_all();
                if reader.queue.took(reader.taken) {
                    self.session.on_attention(reader.key);
                }
            }
        }
    }

    fn check(&mut self, met: &mut Met) {
        let stats = self.counters.snapshot();
        met.repairs += stats.books_differ;
        met.resent += stats.resent;
        assert_eq!(stats.unreadable, 0);
        for reader in &self.readers {
            reader.check(&self.broker, met);
        }
        let mut last = (0, 0);
        let mut seen = HashSet::new();
        for ack in &mut self.publishes {
            let published = ack.try_recv().expect("every publish is answered").expect("and none is refused");
            let position = published.position.unwrap();
            let here = (position.epoch.0, position.offset);
            assert!(here > last, "publishes stand in the order they were made: {here:?} after {last:?}");
            assert!(seen.insert(here));
            last = here;
        }
    }
}

fn brief(event: &Event) -> String {
    match event {
        Event::Message(message) => message.offset.unwrap().to_string(),
        Event::Gap(gap) => format!("{:?} {:?}/{:?}", gap.reason, gap.count, gap.at_most),
        Event::Resumed(resumed) => format!("resumed {}", resumed.positions[0].offset),
        Event::Reset(reset) => format!("reset {}", reset.new.offset),
    }
}

impl Reader {
    fn read_all(&mut self) {
        let mut local = VecDeque::new();
        let cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(true) = self.queue.poll_take(&mut local, &cx) {
            for item in local.drain(..) {
                if let Item::Event(event) = item {
                    self.taken += u64::from(matches!(event, Event::Message(_)));
                    self.events.push(event);
                }
            }
        }
    }

    /// Holds what it saw of the last incarnation against the log.
    fn check(&self, broker: &Broker, met: &mut Met) {
        let reset = self.events.iter().rposition(|event| matches!(event, Event::Reset(_)));
        met.resets += u64::from(reset.is_some());
        let start = &broker.starts[&(self.key as u32)];
        let events = &self.events[reset.map_or(0, |at| at + 1)..];

        let mut offsets = Vec::new();
        let (mut counted, mut bounded, mut unknown) = (0, 0, false);
        for event in events {
            match event {
                Event::Message(message) => {
                    assert!(self.filter.matches(&message.topic));
                    offsets.push(message.offset.unwrap());
                }
                Event::Gap(gap) => {
                    met.evicted += u64::from(gap.reason == GapReason::Evicted);
                    counted += gap.count.unwrap_or(0);
                    bounded += gap.at_most.unwrap_or(0);
                    unknown |= gap.count.is_none() && gap.at_most.is_none();
                }
                Event::Resumed(_) => met.resumed += 1,
                Event::Reset(_) => unreachable!("it was cut off"),
            }
        }
        assert!(offsets.is_sorted_by(|a, b| a < b), "in order, and none twice: {offsets:?}");
        if broker.epoch != start.epoch && reset.is_none() {
            panic!("a new incarnation of the log is always told");
        }
        if unknown {
            // What the new log had evicted before the reader came is not counted by anybody.
            return;
        }
        let promised: Vec<u64> = match reset {
            Some(_) => broker.matching(&self.filter, 1..=broker.cursor).collect(),
            None => {
                let after = broker.matching(&self.filter, start.after + 1..=broker.cursor);
                start.offsets.iter().copied().chain(after).collect()
            }
        };
        let got = offsets.len() as u64;
        assert!(offsets.iter().all(|offset| promised.contains(offset)));
        let missing = promised.len() as u64 - got;
        assert!(
            counted <= missing && missing <= counted + bounded,
            "{}: {missing} are missing, {counted} were counted and {bounded} bounded of {promised:?}: {:?}",
            self.filter,
            self.events.iter().map(brief).collect::<Vec<_>>()
        );
    }
}
