//! Fan-out, flush and lanes over real sockets, read as a client reads them: subscriptions that overlap on connections
//! that block, are cut at any moment and come back. Each subscription by itself keeps order, and its messages and gaps
//! add up to what was published; the marks' books are the client's own, and their positions are true.
//!
//! The sockets are pairs with small kernel buffers, so whoever does not read blocks the writer at once.

mod model;
mod seeds;
#[path = "model/shard.rs"]
mod shard;

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use fastrand::Rng;
use model::{Flow, LiveFlow, Owed, draft, filter, number, pick};
use shard::{At as Place, Port};
use tidegate::{
    config::{Config, Stream},
    outbox::Terms,
};
use tidegate_protocol::{
    Codec, Epoch, Filter, From, Position, ServerFrame,
    frame::{AckResult, Gap, GapReason, Mark, Message, Overflow, Subscribe, Subscribed},
    position::At,
};

/// In about 30 s under the development profile.
const SEEDS: u64 = 2_000;
const PAYLOAD: usize = 3_000;

#[test]
fn overlapping_subscriptions_add_up_over_blocked_and_cut_connections() {
    seeds::for_each_seed(SEEDS, |rng| {
        let mut world = World::new(rng);
        for _ in 0..rng.usize(20..200) {
            world.step(rng);
        }
        world.drain();
    });
}

/// Replies go ahead of messages, so the ack of a subscription overtook messages that waited for the flush, and its
/// client took them for its own, beyond what it had yet to read (seed 6).
#[test]
fn a_subscription_is_acked_behind_what_was_gathered_before_it() {
    let mut port = Port::new(&Config::default(), 1_000, 1 << 20);
    let mut rng = Rng::with_seed(6);
    let (at, mut socket) = port.connect(Codec::Json, 100_000);
    let terms = Terms { overflow: Overflow::CatchUp, limit: 256, limit_bytes: 256 << 10 };
    port.subscribe(at, plain_subscribe(1, From::Live), terms);
    port.tick(&[]);
    port.publish(draft(&mut rng, "chat.room1", 1, PAYLOAD));
    // As amid the reads of a busy shard.
    port.drain_inbox();
    port.subscribe(at, plain_subscribe(2, From::Beginning), terms);
    (0..3).for_each(|_| drop(port.tick(&[])));
    let mut bytes = vec![0; 1 << 20];
    let length = socket.read(&mut bytes).unwrap();
    let mut rest = &bytes[..length];
    let mut said = Vec::new();
    while let Some((_, payload, length)) = websocket_message(rest) {
        said.extend(Codec::Json.decode_server(payload).map(|frame| match frame.unwrap() {
            ServerFrame::Ack { id, .. } => format!("ack {id}"),
            ServerFrame::Message(Message { offset, sub, .. }) => format!("message {offset:?} for {sub:?}"),
            other => format!("{other:?}"),
        }));
        rest = &rest[length..];
    }
    assert_eq!(said, ["ack 1", "message Some(1) for None", "ack 2", "message Some(1) for Some(2)"]);
}

/// Every lane read a batch as large as its own bound, whatever the connection's budget said.
#[test]
fn lanes_that_read_on_keep_within_the_connections_budget() {
    let mut port = Port::new(&Config::default(), 1_000, 30_000);
    let mut rng = Rng::with_seed(1);
    for _ in 0..1_000 {
        port.publish(draft(&mut rng, "chat.room1", 1, PAYLOAD));
    }
    let (at, mut socket) = port.connect(Codec::Json, 1);
    for id in 1..=40 {
        let terms = Terms { overflow: Overflow::CatchUp, limit: 256, limit_bytes: 256 << 10 };
        port.subscribe(at, plain_subscribe(id, From::Beginning), terms);
    }
    let mut most = 0;
    for _ in 0..20 {
        // Checks what the lanes pin.
        port.tick(&[]);
        most = most.max(port.pinned());
        while socket.read(&mut [0; 4096]).is_ok() {}
        port.on_writable(at);
    }
    assert!(most > 30_000, "the budget was never used up: nothing is shown");
}

/// Each went through all the others and their lanes.
#[test]
fn a_connection_leaves_with_many_subscriptions_at_once_and_nothing_of_them_stays() {
    let mut port = Port::new(&Config::default(), 1_000, 30_000);
    let mut rng = Rng::with_seed(1);
    port.publish(draft(&mut rng, "chat.room1", 1, PAYLOAD));
    let (at, _socket) = port.connect(Codec::Bincode, 1);
    let terms = Terms { overflow: Overflow::CatchUp, limit: 256, limit_bytes: 4_000 };
    for id in 1..=50_000 {
        // Half of them share a filter, and those have a lane.
        let filter = if id % 2 == 0 { filter("chat.room1") } else { filter(&format!("chat.room1.x{id}")) };
        port.subscribe(at, Subscribe { filter, ..plain_subscribe(id, From::Beginning) }, terms);
    }
    assert!(!port.is_idle(at), "there are lanes");
    port.remove(at);
    port.check_empty();
}

fn plain_subscribe(id: u64, from: From) -> Subscribe {
    let filter = filter("chat.room1");
    Subscribe { id, filter, from, overflow: None, limit: None, limit_bytes: None, credit: None, echo: true }
}

/// A shard and its clients.
struct World {
    port: Port,
    /// How much the kernel holds of a connection, in bytes.
    buffer: usize,
    peers: Vec<Peer>,
}

/// A client, as it sees the world.
struct Peer {
    /// None while its line is cut.
    line: Option<Line>,
    codec: Codec,
    subs: BTreeMap<u64, Asked>,
    next_id: u64,
}

struct Line {
    at: Place,
    socket: UnixStream,
    /// Read, and not yet a whole WebSocket message.
    unread: Vec<u8>,
    /// A request whose answer ends a drain.
    pongs: u64,
}

/// A subscription that was asked for.
struct Asked {
    filter: Filter,
    terms: Terms,
    no_echo: bool,
    credit: Option<u64>,
    from: From,
    /// In each stream of its filter, what it is owed.
    owed: Vec<(usize, Owed)>,
    live_owed: Option<Owed>,
    /// Once the ack came.
    given: Option<Given>,
    /// It was unsubscribed from; its end is on the way.
    leaves: bool,
}

struct Given {
    flows: BTreeMap<usize, Flow>,
    live: Option<LiveFlow>,
    positions: Vec<Position>,
    lives: Vec<Position>,
    /// The books at the last mark.
    marked: (u64, u64),
}

impl World {
    fn new(rng: &mut Rng) -> Self {
        let stream = |name: &str, filters: &[&str], rng: &mut Rng| Stream {
            name: name.into(),
            filters: filters.iter().map(|text| filter(text)).collect(),
            max_age: Duration::from_millis(pick(rng, &[300, 1_000_000])),
            max_bytes: pick(rng, &[6_000, 40_000, 10_000_000]),
            retain_last_bytes: pick(rng, &[0, 5_000]),
        };
        let streams = match rng.u32(0..3) {
            0 => vec![stream("chat", &["chat.>"], rng), stream("news", &["news.>"], rng)],
            1 => vec![stream("news", &["news.>"], rng), stream("default", &[], rng)],
            _ => vec![stream("default", &[], rng)],
        };
        let mut config = Config { streams, ..Config::default() };
        config.limits.last_messages = pick(rng, &[2, 1_000]);
        let port = Port::new(&config, pick(rng, &[4, 1_000]), pick(rng, &[4_000, 30_000, 1 << 20]));
        let mut world = Self { port, buffer: pick(rng, &[1, 8_000, 40_000]), peers: Vec::new() };
        for _ in 0..rng.usize(1..4) {
            let codec = pick(rng, &Codec::ALL);
            world.peers.push(Peer { line: None, codec, subs: BTreeMap::new(), next_id: 1 });
        }
        for at in 0..world.peers.len() {
            world.connect(at);
            if rng.bool() {
                // The three that the issue names.
                for (text, overflow) in [
                    ("chat.room1", Overflow::CatchUp),
                    ("chat.>", Overflow::DropOldest),
                    ("chat.*", Overflow::Latest),
                ] {
                    let terms = Terms { overflow, limit: pick(rng, &[2, 10, 256]), limit_bytes: 4_000 };
                    world.subscribe(at, filter(text), From::Live, terms, false, None);
                }
            }
        }
        world
    }

    fn step(&mut self, rng: &mut Rng) {
        let at = rng.usize(0..self.peers.len());
        match rng.u32(0..100) {
            0..30 => (0..rng.usize(1..10)).for_each(|_| self.publish(rng)),
            30..38 => self.port.drain_inbox(),
            38..62 => {
                let marks = rng.u32(0..4) == 0;
                self.tick(marks);
            }
            62..78 => {
                let bytes = rng.usize(1..10_000);
                self.peers[at].read(&self.port, bytes);
                if let (Some(line), true) = (&self.peers[at].line, rng.u32(0..4) > 0) {
                    self.port.on_writable(line.at);
                }
            }
            78..84 => self.subscribe_any(rng, at),
            84..86 => self.unsubscribe(rng, at),
            86..92 => self.credit(rng, at),
            92..94 => {
                self.port.now_ms += rng.u64(0..300);
                let now_ms = self.port.now_ms;
                self.port.hub.streams().iter().for_each(|stream| stream.lock().expire(now_ms));
            }
            94..97 => {
                let bytes = rng.usize(0..10_000);
                self.peers[at].read(&self.port, bytes);
                self.cut(at);
            }
            _ => self.connect(at),
        }
    }

    fn publish(&mut self, rng: &mut Rng) {
        let topics = ["chat.room1", "chat.room1", "chat.room1", "chat.room2", "chat.a.b", "news.x", "tmp.y"];
        let topic = pick(rng, &topics);
        let number = self.port.published.last().unwrap().len() as u64 + 1;
        self.port.now_ms += rng.u64(0..3);
        let draft = draft(rng, topic, number, PAYLOAD);
        self.port.publish(draft);
    }

    /// A turn of the shard. Connections that must end are cut, once their clients have what is in the kernel.
    fn tick(&mut self, marks: bool) {
        let marks: Vec<Place> = match marks {
            true => self.peers.iter().filter_map(|peer| peer.line.as_ref()).map(|line| line.at).collect(),
            false => Vec::new(),
        };
        for ends in self.port.tick(&marks) {
            let is_it = |peer: &Peer| peer.line.as_ref().is_some_and(|line| line.at == ends);
            let at = self.peers.iter().position(is_it).expect("a connection that is there ends");
            let disconnects = |asked: &Asked| asked.terms.overflow == Overflow::Disconnect;
            assert!(self.peers[at].subs.values().any(disconnects), "closed without a reason");
            self.peers[at].read(&self.port, usize::MAX);
            self.cut(at);
        }
    }

    fn subscribe_any(&mut self, rng: &mut Rng, at: usize) {
        if self.peers[at].subs.len() >= 6 {
            return;
        }
        let filters = ["chat.room1", "chat.>", "chat.*", ">", "*.room1", "news.*", "tmp.y", "chat.room2"];
        let all = [
            Overflow::CatchUp,
            Overflow::DropOldest,
            Overflow::DropNewest,
            Overflow::Latest,
            Overflow::Disconnect,
        ];
        let terms = Terms {
            overflow: pick(rng, &all),
            limit: pick(rng, &[1, 4, 30, 256]),
            limit_bytes: pick(rng, &[1_000, 8_000, 100_000]),
        };
        let filter = filter(pick(rng, &filters));
        let from = match rng.u32(0..10) {
            0..5 => From::Live,
            5 => From::Beginning,
            6 => From::Since(self.port.now_ms.saturating_sub(rng.u64(0..300))),
            7 => From::Last { n: rng.u32(0..4), at: None },
            8 => From::Positions(vec![Position { stream: None, epoch: Epoch(99), offset: 3 }]),
            _ => From::Positions(Vec::new()),
        };
        let credit = rng.bool().then(|| rng.u64(0..20));
        let no_echo = rng.u32(0..4) == 0;
        self.subscribe(at, filter, from, terms, no_echo, credit);
    }

    fn subscribe(
        &mut self,
        at: usize,
        filter: Filter,
        from: From,
        terms: Terms,
        no_echo: bool,
        credit: Option<u64>,
    ) {
        let peer = &mut self.peers[at];
        let Some(line) = &peer.line else { return };
        let id = peer.next_id;
        peer.next_id += 1;
        let reach = self.port.hub.reach(&filter);
        let not_from = no_echo.then(|| "me".into());
        let owed_of = |&stream: &usize| {
            let log = &self.port.hub.streams()[stream].lock().log;
            let all = &self.port.published[stream];
            (stream, Owed::from_start(&from, log, all, &filter, not_from.clone()))
        };
        let owed = reach.streams.iter().map(owed_of).collect();
        let live_owed = reach.live_only.then(|| Owed {
            filter: filter.clone(),
            not_from: not_from.clone(),
            after: self.port.published.last().unwrap().len() as u64,
            selected: self.port.live_waiting.clone(),
            live: 0,
            is_new_epoch: false,
        });
        let subscribe = Subscribe {
            id,
            filter: filter.clone(),
            from: from.clone(),
            overflow: Some(terms.overflow),
            limit: Some(terms.limit),
            limit_bytes: Some(terms.limit_bytes),
            credit: credit.map(|credit| credit as u32),
            echo: !no_echo,
        };
        self.port.subscribe(line.at, subscribe, terms);
        let asked =
            Asked { filter, terms, no_echo, credit, from, owed, live_owed, given: None, leaves: false };
        peer.subs.insert(id, asked);
    }

    fn unsubscribe(&mut self, rng: &mut Rng, at: usize) {
        let peer = &mut self.peers[at];
        let Some(line) = &peer.line else { return };
        let staying: Vec<_> = peer.subs.iter_mut().filter(|(_, asked)| !asked.leaves).collect();
        let Some((&sub, asked)) = rng.choice(staying) else {
            return;
        };
        asked.leaves = true;
        self.port.unsubscribe(line.at, peer.next_id, sub);
        peer.next_id += 1;
    }

    fn credit(&mut self, rng: &mut Rng, at: usize) {
        let peer = &mut self.peers[at];
        let Some(line) = &peer.line else { return };
        let subs = peer.subs.iter_mut();
        let with_credit: Vec<_> = subs.filter(|(_, asked)| !asked.leaves && asked.credit.is_some()).collect();
        let Some((&sub, asked)) = rng.choice(with_credit) else { return };
        let add = rng.u64(1..20);
        asked.credit = asked.credit.map(|credit| credit + add);
        self.port.credit(line.at, sub, add);
    }

    fn cut(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if let Some(line) = peer.line.take() {
            self.port.remove(line.at);
            peer.subs.retain(|_, asked| !asked.leaves);
            for given in peer.subs.values().filter_map(|asked| asked.given.as_ref()) {
                for (&stream, flow) in &given.flows {
                    flow.check_to(&self.port.published[stream], flow.position);
                }
            }
        }
    }

    /// A client comes back, and resumes each subscription where it stood.
    fn connect(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if peer.line.is_some() {
            return;
        }
        let (place, socket) = self.port.connect(peer.codec, self.buffer);
        peer.line = Some(Line { at: place, socket, unread: Vec::new(), pongs: 0 });
        peer.next_id = 1;
        for (_, asked) in std::mem::take(&mut peer.subs) {
            let (from, credit) = (asked.resume(), asked.credit.map(|credit| credit.min(50)));
            self.subscribe(at, asked.filter, from, asked.terms, asked.no_echo, credit);
        }
    }

    /// Everybody reads everything.
    fn drain(mut self) {
        for _ in 0..10_000 {
            for at in 0..self.peers.len() {
                self.connect(at);
                let peer = &mut self.peers[at];
                let line = peer.line.as_ref().unwrap();
                for (&sub, asked) in peer.subs.iter_mut().filter(|(_, asked)| !asked.leaves) {
                    if asked.credit.is_some_and(|credit| credit < 1 << 30) {
                        asked.credit = asked.credit.map(|credit| credit + (1 << 31));
                        self.port.credit(line.at, sub, 1 << 31);
                    }
                }
                self.port.on_writable(line.at);
            }
            self.tick(false);
            for peer in &mut self.peers {
                peer.read(&self.port, usize::MAX);
            }
            let is_idle = |peer: &Peer| peer.line.as_ref().is_some_and(|line| self.port.is_idle(line.at));
            if self.peers.iter().all(is_idle) {
                return self.finish();
            }
        }
        panic!("never level");
    }

    fn finish(mut self) {
        assert_eq!(self.port.pinned(), 0);
        self.tick(true);
        for peer in &mut self.peers {
            let line = peer.line.as_ref().unwrap();
            let (at, pongs) = (line.at, line.pongs);
            // A mark and the pong behind it: so all that was written has been read.
            self.port.reply(at, &ServerFrame::Pong { id: 1 });
            self.port.tick(&[]);
            peer.read(&self.port, usize::MAX);
            assert_eq!(peer.line.as_ref().unwrap().pongs, pongs + 1);
            for asked in peer.subs.values() {
                let given = asked.given.as_ref().expect("acked");
                for (&stream, flow) in &given.flows {
                    flow.check_whole(&self.port.published[stream]);
                }
                if let Some(live) = &given.live {
                    live.check_whole(self.port.published.last().unwrap());
                }
            }
        }
        (0..self.peers.len()).for_each(|at| self.cut(at));
        self.port.check_empty();
    }
}

impl Peer {
    /// Reads up to so many bytes, and takes the frames that are whole.
    fn read(&mut self, port: &Port, most: usize) {
        let Some(line) = &mut self.line else { return };
        let mut left = most;
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            let length = buffer.len().min(left);
            match line.socket.read(&mut buffer[..length]) {
                Ok(0) => break,
                Ok(read) => {
                    line.unread.extend_from_slice(&buffer[..read]);
                    left -= read;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let mut messages = Vec::new();
        while let Some((opcode, payload, length)) = websocket_message(&line.unread) {
            if opcode == 1 || opcode == 2 {
                messages.push(payload.to_vec());
            }
            line.unread.drain(..length);
        }
        for message in messages {
            for frame in self.codec.decode_server(&message) {
                self.on_frame(port, frame.unwrap());
            }
        }
    }

    fn on_frame(&mut self, port: &Port, frame: ServerFrame) {
        match frame {
            ServerFrame::Ack { id, result: AckResult::Subscribed(ack) } => {
                self.subs.get_mut(&id).unwrap().on_ack(port, ack);
            }
            ServerFrame::Ack { .. } => {}
            ServerFrame::Message(message) => self.on_message(port, &message),
            ServerFrame::Gap(gap) => self.subs.get_mut(&gap.sub).unwrap().on_gap(port, gap),
            ServerFrame::Mark(mark) => self.on_mark(port, &mark),
            ServerFrame::Unsubscribed { sub, .. } => {
                let asked = self.subs.remove(&sub).unwrap();
                assert!(asked.leaves);
                if let Some(given) = asked.given {
                    assert_eq!(given.marked, given.books(), "no mark stands before the end of {sub}");
                }
            }
            ServerFrame::Pong { .. } => self.line.as_mut().unwrap().pongs += 1,
            other => panic!("{other:?}"),
        }
    }

    /// Without `sub` it is for every subscription that takes its topic.
    fn on_message(&mut self, port: &Port, message: &Message) {
        let takers = self.subs.iter_mut().filter(|(id, asked)| match message.sub {
            Some(sub) => sub == **id,
            None => asked.filter.matches(&message.topic) && asked.given.is_some(),
        });
        let mut taken = 0;
        for (_, asked) in takers {
            asked.on_message(port, message);
            taken += 1;
        }
        assert!(taken > 0, "a message for nobody: {message:?}");
    }

    fn on_mark(&mut self, port: &Port, mark: &Mark) {
        for (id, asked) in &mut self.subs {
            let Some(given) = &mut asked.given else {
                assert!(!mark.subs.iter().any(|books| books.sub == *id), "a mark of {id} before its ack");
                continue;
            };
            let told = mark.subs.iter().find(|books| books.sub == *id);
            match told {
                Some(books) => {
                    given.marked = (books.messages, books.gapped);
                    assert_eq!(given.marked, given.books(), "the books of {id} at {mark:?}");
                }
                None => assert_eq!(given.marked, given.books(), "{id} is not listed in {mark:?}"),
            }
            if told.is_some_and(|books| books.behind) {
                continue;
            }
            for (&stream, flow) in &mut given.flows {
                let name = &port.hub.streams()[stream].name;
                let position = mark.positions.iter().find(|p| p.stream == *name);
                flow.mark(&port.published[stream], position.expect("each stream has a position").offset);
            }
        }
    }
}

impl Asked {
    fn on_ack(&mut self, port: &Port, ack: Subscribed) {
        assert!(self.given.is_none(), "acked twice");
        assert_eq!(ack.positions.len(), self.owed.len());
        let mut flows = BTreeMap::new();
        let (mut positions, mut lives) = (Vec::new(), Vec::new());
        for ((stream, owed), start) in std::mem::take(&mut self.owed).into_iter().zip(&ack.positions) {
            let cell = &port.hub.streams()[stream];
            assert_eq!((&start.stream, start.epoch, start.live), (&cell.name, cell.epoch, owed.live));
            let at = |offset| Position { stream: cell.name.clone(), epoch: cell.epoch, offset };
            positions.push(at(start.offset));
            lives.push(at(start.live));
            flows.insert(stream, Flow::new(owed, self.terms.overflow, start.offset, &port.published[stream]));
        }
        let live_policy = match self.terms.overflow {
            Overflow::CatchUp => Overflow::DropOldest,
            overflow => overflow,
        };
        let live = self.live_owed.take().map(|owed| LiveFlow::new(owed, live_policy));
        assert_eq!(ack.live_only, live.is_some());
        self.given = Some(Given { flows, live, positions, lives, marked: (0, 0) });
    }

    fn on_message(&mut self, port: &Port, message: &Message) {
        let given = self.given.as_mut().expect("the ack comes before everything else");
        match message.offset {
            Some(offset) => {
                let stream = port.hub.stream_of(&message.topic).unwrap();
                let published = &port.published[stream][offset as usize - 1].message;
                assert_eq!(&Message { sub: None, ..message.clone() }, published, "not what was published");
                given.flows.get_mut(&stream).unwrap().message(&port.published[stream], offset);
            }
            None => {
                let live_only = port.published.last().unwrap();
                given.live.as_mut().unwrap().message(live_only, number(&message.payload));
            }
        }
        let messages = given.books().0;
        assert!(self.credit.is_none_or(|credit| messages <= credit), "{messages} of {:?}", self.credit);
    }

    fn on_gap(&mut self, port: &Port, gap: Gap) {
        let given = self.given.as_mut().expect("the ack comes before everything else");
        if gap.from.is_none() && gap.reason != GapReason::Epoch {
            return given.live.as_mut().unwrap().gap(gap);
        }
        let is_it = |stream: &usize| port.hub.streams()[*stream].name == gap.stream;
        let stream = *given.flows.keys().find(|stream| is_it(stream)).expect("a gap of a stream it has");
        given.flows.get_mut(&stream).unwrap().gap(&port.published[stream], gap);
    }

    /// Where to come back.
    fn resume(&self) -> From {
        let Some(given) = &self.given else { return self.from.clone() };
        let at = |positions: &[Position], offsets: &dyn Fn(usize) -> u64| -> Vec<Position> {
            let streams = given.flows.keys().copied();
            positions.iter().zip(streams).map(|(p, s)| Position { offset: offsets(s), ..p.clone() }).collect()
        };
        if let From::Last { n, at: before } = &self.from
            && given.flows.values().any(|flow| flow.position < flow.owed.live)
        {
            let lives = before.clone().unwrap_or_else(|| At::Positions(given.lives.clone()));
            return From::Last { n: *n, at: Some(lives) };
        }
        From::Positions(at(&given.positions, &|stream| given.flows[&stream].position))
    }
}

impl Given {
    /// Messages, and messages told as missing, over all its streams.
    fn books(&self) -> (u64, u64) {
        let flows = self.flows.values().map(|flow| (flow.messages, flow.gapped));
        let live = self.live.iter().map(|live| (live.messages, live.gapped));
        flows.chain(live).fold((0, 0), |(m, g), (messages, gapped)| (m + messages, g + gapped))
    }
}

/// A whole message of a server at the start of `bytes`: its opcode, its payload, and how long it is (RFC 6455, 5.2).
fn websocket_message(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (opcode, short) = (bytes.first()? & 15, *bytes.get(1)?);
    let (head, length) = match short {
        126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()) as usize),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize),
        short => (2, short as usize),
    };
    Some((opcode, bytes.get(head..head + length)?, head + length))
}
