//! Lanes over a real log, against a list of everything published: each subscription's messages and gaps add up to it.
//!
//! A connection is played as the shard plays it: what is fanned out goes to the subscriptions that are level, or into
//! their lanes; what lanes hold is written in parts, of which some are taken back.

mod model;
mod seeds;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use fastrand::Rng;
use model::{Flow, LiveFlow, Owed, draft, filter, number, pick};
use tidegate::{
    outbox::{Batch, Entry, Evicted, Lane, LogSource, Offered, Outbox, Terms},
    shard::start,
    stream::{Draft, Log, LogLimits, Published, Read, ReadBudget},
};
use tidegate_protocol::{Epoch, Filter, From, Payload, Position, Topic, frame::Overflow, position::At};

const EPOCH: Epoch = Epoch(7);
const ALL_POLICIES: [Overflow; 5] =
    [Overflow::CatchUp, Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect];
/// The largest payload, in bytes.
const PAYLOAD: usize = 4_000;
/// More than the largest message costs beside its payload, in bytes.
const MESSAGE_COST: u64 = 1_000;
/// More than a lane's reading pins, in bytes: selected offsets, and counts of segments.
const READING: u64 = 8_000;

#[test]
fn messages_and_gaps_of_every_lane_add_up_to_what_was_published() {
    seeds::for_each_seed(2_000, |rng| {
        let mut peer = Peer::new(rng);
        for _ in 0..rng.usize(20..250) {
            peer.step(rng);
            peer.check();
        }
        peer.drain();
    });
}

#[test]
fn a_key_that_changes_faster_than_the_lane_drains_goes_out_with_every_generation() {
    let terms = Terms { overflow: Overflow::Latest, limit: 8, limit_bytes: 1 << 20 };
    let mut log = Log::new(None, EPOCH, roomy());
    let mut lane = Lane::new(terms, true);
    let mut sent = HashMap::new();
    for round in 0..300 {
        // Three keys change twice while one message is written.
        for key in ["a", "b", "c", "a", "b", "c"] {
            let published = log.append(keyed(key), round, None).unwrap();
            lane.offer(&published, true);
        }
        while let Some(entry) = lane.pop(true) {
            if let Entry::Message(message) = entry {
                *sent.entry(message.message.key.clone()).or_insert(0) += 1;
                break;
            }
        }
    }
    assert_eq!(sent.len(), 3);
    assert!(sent.values().all(|&count| count == 100), "{sent:?}");
}

/// Each gap of a hole jumped over offsets that only the next one told: a client that was cut between the two resumed
/// behind them.
#[test]
fn a_client_cut_between_two_gaps_of_one_hole_resumes_without_a_loss() {
    let mut log = Log::new(None, EPOCH, roomy());
    let mut lane = Lane::new(Terms { overflow: Overflow::Latest, limit: 2, limit_bytes: 1 << 20 }, true);
    // 1 and 4 are replaced, 2 and 3 are pushed out.
    for key in ["a", "a", "b", "c", "c", "d"] {
        lane.offer(&log.append(keyed(key), 0, None).unwrap(), true);
    }
    let mut position = 0;
    let (mut told, mut given) = (0, Vec::new());
    while let Some(entry) = lane.pop(true) {
        match entry {
            Entry::Message(message) => given.push(message.offset().unwrap()),
            Entry::Loss(loss) => {
                let gap = loss.gap(1, None, Overflow::Latest);
                assert!(gap.from > Some(position), "{gap:?} lies behind position {position}");
                told += gap.count.unwrap();
                position = gap.to.unwrap();
            }
        }
    }
    assert_eq!((told, given), (4, vec![5, 6]));
}

/// What was read and not yet written stood in front, and live messages overtook those that waited behind it.
#[test]
fn live_messages_wait_behind_those_that_came_during_the_read() {
    let terms = Terms { overflow: Overflow::DropOldest, limit: 8, limit_bytes: 1 << 20 };
    let mut log = Log::new(None, EPOCH, roomy());
    let filter = filter("s.a");
    let append = |log: &mut Log| log.append(keyed("k"), 0, None).unwrap();
    append(&mut log);
    let mut lane = Lane::starting(terms, 0, 1, Vec::new(), false);
    lane.offer(&append(&mut log), true);
    let budget = ReadBudget { messages: 10, bytes: 10_000 };
    lane.read_on(2, budget, true, &mut Source { log: &log, filter: &filter }, |_| true);
    lane.offer(&append(&mut log), true);
    assert_eq!(offsets(&mut lane), [1, 2, 3]);
}

/// A lane read a full batch whatever its own bound was.
#[test]
fn a_lane_reads_no_more_than_its_bound_at_a_time() {
    let mut log = Log::new(None, EPOCH, roomy());
    (0..10).for_each(|_| drop(log.append(keyed("k"), 0, None).unwrap()));
    let filter = filter("s.a");
    let budget = ReadBudget { messages: 256, bytes: 64 << 10 };
    for (limit, limit_bytes, selected, expected) in [
        (3, 1 << 20, vec![], 3),
        (100, 1, vec![], 1),
        (100, 1, vec![4, 5], 1),
        (3, 1 << 20, vec![1, 2, 4, 5], 3),
    ] {
        let terms = Terms { overflow: Overflow::CatchUp, limit, limit_bytes };
        let mut lane = Lane::starting(terms, 0, 10, selected, false);
        lane.read_on(10, budget, true, &mut Source { log: &log, filter: &filter }, |_| true);
        assert_eq!(offsets(&mut lane).len(), expected, "{terms:?}");
    }
}

/// The cap on `last` counted what `echo: false` holds back as if it were missing.
#[test]
fn a_cut_last_tells_a_bound() {
    let mut log = Log::new(None, EPOCH, roomy());
    (0..10).for_each(|_| drop(log.append(keyed("k"), 0, None).unwrap()));
    let terms = Terms { overflow: Overflow::CatchUp, limit: 8, limit_bytes: 1 << 20 };
    let from = From::Last { n: 10, at: None };
    let mut lane = start::resolve(&from, None, &log, &filter("s.a"), terms, 4).lane.unwrap();
    let Some(Entry::Loss(loss)) = lane.pop(true) else { panic!("nothing is said of the six others") };
    let gap = loss.gap(1, None, Overflow::CatchUp);
    assert_eq!((gap.count, gap.at_most, gap.from, gap.to), (None, Some(6), Some(1), Some(6)));
}

fn offsets(lane: &mut Lane) -> Vec<u64> {
    let entries = std::iter::from_fn(|| lane.pop(true));
    entries
        .filter_map(|entry| match entry {
            Entry::Message(message) => message.offset(),
            Entry::Loss(_) => None,
        })
        .collect()
}

fn keyed(key: &str) -> Draft {
    Draft {
        topic: Topic::parse("s.a").unwrap(),
        payload: Payload::text("1 x"),
        key: Some(key.into()),
        headers: Vec::new(),
        origin: None,
    }
}

fn roomy() -> LogLimits {
    LogLimits { max_age_ms: u64::MAX, max_bytes: u64::MAX, retain_last_bytes: 0 }
}

/// A connection, and the world it lives in.
struct Peer {
    log: Log,
    all: Vec<Arc<Published>>,
    live_only: Vec<Arc<Published>>,
    now: u64,
    /// On its way to the shard; the flag says whether it is in the stream.
    inbox: VecDeque<(bool, Arc<Published>)>,
    /// Fanned out up to here.
    cursor: u64,
    live_cursor: u64,
    outbox: Outbox<u32>,
    subs: BTreeMap<u32, Sub>,
    next: u32,
    blocked: bool,
    room: bool,
    /// Where subscriptions that ended stood.
    left: Vec<u64>,
}

struct Sub {
    filter: Filter,
    terms: Terms,
    no_echo: bool,
    credit: u64,
    flow: Flow,
    live: LiveFlow,
}

impl Peer {
    fn new(rng: &mut Rng) -> Self {
        let limits = LogLimits {
            max_age_ms: pick(rng, &[100, 1_000, u64::MAX]),
            max_bytes: pick(rng, &[2_000, 10_000, 50_000, u64::MAX]),
            retain_last_bytes: pick(rng, &[0, 5_000]),
        };
        Self {
            log: Log::new(None, EPOCH, limits),
            all: Vec::new(),
            live_only: Vec::new(),
            now: 1_000,
            inbox: VecDeque::new(),
            cursor: 0,
            live_cursor: 0,
            outbox: Outbox::default(),
            subs: BTreeMap::new(),
            next: 1,
            blocked: false,
            room: true,
            left: Vec::new(),
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.u32(0..100) {
            0..35 => self.publish(rng),
            35..60 => (0..rng.usize(1..6)).for_each(|_| self.fan_out()),
            60..68 => self.subscribe(rng),
            68..70 => self.unsubscribe(rng),
            70..75 => self.blocked = rng.bool(),
            75..77 => self.room = rng.u32(0..3) > 0,
            77..81 => {
                if let Some(sub) = rng.choice(self.subs.values_mut()) {
                    sub.credit = sub.credit.saturating_add(rng.u64(1..10));
                }
            }
            81..84 => {
                self.now += rng.u64(0..200);
                self.log.expire(self.now, None);
            }
            84..87 => self.look_into_lanes(),
            _ => {
                let begun = rng.usize(0..30);
                self.pump(rng.usize(1..40), begun);
            }
        }
    }

    fn publish(&mut self, rng: &mut Rng) {
        self.now += rng.u64(0..5);
        for _ in 0..rng.usize(1..12) {
            let topic = pick(rng, &["s.a", "s.a", "s.b", "s.b.c", "s.d", "l.a", "l.b"]);
            if topic.starts_with("l.") {
                let number = self.live_only.len() as u64 + 1;
                let published = Published::live_only(draft(rng, topic, number, PAYLOAD), self.now);
                self.live_only.push(published.clone());
                self.inbox.push_back((false, published));
            } else {
                let draft = draft(rng, topic, self.all.len() as u64 + 1, PAYLOAD);
                let published = self.log.append(draft, self.now, None).unwrap();
                self.all.push(published.clone());
                self.inbox.push_back((true, published));
            }
        }
    }

    fn fan_out(&mut self) {
        let Some((in_stream, published)) = self.inbox.pop_front() else { return };
        match published.offset() {
            Some(offset) => self.cursor = offset,
            None => self.live_cursor += 1,
        }
        let stream = in_stream.then_some(0);
        let mut ended = Vec::new();
        for (&key, sub) in &mut self.subs {
            if !sub.filter.matches(published.topic()) || sub.holds_back(&published) {
                continue;
            }
            let is_level = !self.outbox.lanes().iter().any(|owned| owned.sub == key);
            if is_level && !self.blocked && sub.credit > 0 {
                sub.given(&self.all, &self.live_only, &published);
                continue;
            }
            if self.outbox.lane_mut(key, stream).is_none() {
                self.outbox.insert(key, stream, Lane::new(sub.terms, in_stream));
            }
            let lane = self.outbox.lane_mut(key, stream).unwrap();
            if lane.offer(&published, self.room) == Offered::Disconnect {
                assert_eq!(sub.terms.overflow, Overflow::Disconnect);
                ended.push(key);
            }
        }
        ended.into_iter().for_each(|key| self.end(key));
    }

    fn subscribe(&mut self, rng: &mut Rng) {
        if self.subs.len() >= 6 {
            return;
        }
        let filter = filter(pick(rng, &["s.a", "s.b", "s.>", "s.*", ">", "*.a", "l.a", "*.*"]));
        let terms = Terms {
            overflow: pick(rng, &ALL_POLICIES),
            limit: pick(rng, &[1, 2, 5, 30, 1_000]),
            limit_bytes: pick(rng, &[500, 5_000, 100_000]),
        };
        let from = self.from(rng);
        let cap = pick(rng, &[2, 1_000]);
        let start = start::resolve(&from, None, &self.log, &filter, terms, cap);
        assert_eq!(start.live, self.log.head());
        let no_echo = rng.u32(0..4) == 0;
        let not_from = no_echo.then(|| "me".into());
        let owed = Owed::from_start(&from, &self.log, &self.all, &filter, not_from);
        let live = Owed { after: self.live_cursor, selected: BTreeSet::new(), ..owed.clone() };
        let live_policy = match terms.overflow {
            Overflow::CatchUp => Overflow::DropOldest,
            overflow => overflow,
        };
        let sub = Sub {
            no_echo,
            credit: if rng.bool() { rng.u64(0..20) } else { u64::MAX },
            flow: Flow::new(owed, terms.overflow, start.offset, &self.all),
            live: LiveFlow::new(live, live_policy),
            filter,
            terms,
        };
        let key = self.next;
        self.next += 1;
        self.subs.insert(key, sub);
        match start.lane {
            Some(lane) => drop(self.outbox.insert(key, Some(0), lane)),
            None if self.cursor < start.live => {
                self.outbox.insert(key, Some(0), Lane::waiting_for(terms, start.live));
            }
            None => {}
        }
    }

    /// Where to start: every kind there is, right and wrong.
    fn from(&mut self, rng: &mut Rng) -> From {
        let head = self.log.head();
        let position = |epoch, offset| Position { stream: None, epoch, offset };
        let resumed = rng.choice(&self.left).copied().unwrap_or(0);
        match rng.u32(0..12) {
            0..3 => From::Live,
            3 => From::Beginning,
            4 => From::Since(self.now.saturating_sub(rng.u64(0..300))),
            5 => From::Last { n: rng.u32(0..5), at: None },
            6 => From::Last { n: rng.u32(1..5), at: Some(At::Offset(rng.u64(0..=head + 1))) },
            7 => From::Positions(vec![position(Epoch(8), rng.u64(0..=head))]),
            8 => From::Positions(vec![position(EPOCH, rng.u64(0..=head + 2))]),
            9 => From::Positions(Vec::new()),
            _ => From::Positions(vec![position(EPOCH, resumed)]),
        }
    }

    fn unsubscribe(&mut self, rng: &mut Rng) {
        if let Some(key) = rng.choice(self.subs.keys().copied().collect::<Vec<_>>()) {
            self.end(key);
        }
    }

    /// A subscription ends, or its line is cut: what it has is what its position says.
    fn end(&mut self, key: u32) {
        let sub = self.subs.remove(&key).unwrap();
        sub.flow.check_to(&self.all, sub.flow.position);
        self.left.push(sub.flow.position);
        self.outbox.retain(|owned| owned.sub != key);
    }

    /// Reads on and writes as long as something moves: up to `most` entries at a time, of which `begun` are taken.
    fn pump(&mut self, most: usize, begun: usize) {
        let budget = ReadBudget { messages: most, bytes: 500 * most };
        while self.read_logs(budget) | (!self.blocked && self.write_lanes(most, begun)) {}
        let cursor = self.cursor;
        self.outbox.retain(|owned| !owned.lane.is_level(owned.stream.map_or(0, |_| cursor)));
    }

    fn read_logs(&mut self, budget: ReadBudget) -> bool {
        let mut moved = false;
        for owned in self.outbox.lanes_mut() {
            let sub = &self.subs[&owned.sub];
            let lane = &mut owned.lane;
            if !lane.wants_log() || (!lane.reads_unpaced() && (self.blocked || sub.credit == 0)) {
                continue;
            }
            let mut source = Source { log: &self.log, filter: &sub.filter };
            lane.read_on(self.cursor, budget, self.room, &mut source, |published| !sub.holds_back(published));
            moved = true;
        }
        moved
    }

    fn write_lanes(&mut self, most: usize, begun: usize) -> bool {
        let mut popped = Vec::new();
        let mut credits: HashMap<u32, u64> = self.subs.iter().map(|(&key, sub)| (key, sub.credit)).collect();
        while popped.len() < most
            && let Some((lane, entry)) = self.outbox.pop(|key| credits[&key] > 0)
        {
            if let Entry::Message(_) = entry {
                *credits.get_mut(&self.outbox.lanes()[lane].sub).unwrap() -= 1;
            }
            popped.push((lane, entry));
        }
        self.blocked |= popped.len() > begun;
        for (lane, entry) in popped.drain(begun.min(popped.len())..).rev() {
            self.outbox.unpop(lane, entry);
        }
        for (lane, entry) in &popped {
            let owned = &self.outbox.lanes()[*lane];
            let sub = self.subs.get_mut(&owned.sub).unwrap();
            match entry {
                Entry::Message(published) => sub.given(&self.all, &self.live_only, published),
                Entry::Loss(loss) => {
                    let gap = loss.gap(1, None, owned.lane.overflow());
                    match owned.stream {
                        Some(_) => sub.flow.gap(&self.all, gap),
                        None => sub.live.gap(gap),
                    }
                }
            }
        }
        !popped.is_empty()
    }

    /// What `catch_up` lanes hold, taken out and put back.
    fn look_into_lanes(&mut self) {
        for owned in self.outbox.lanes_mut() {
            let sub = &self.subs[&owned.sub];
            if owned.lane.overflow() != Overflow::CatchUp {
                continue;
            }
            let pinned = owned.lane.pinned();
            let entries: Vec<Entry> = std::iter::from_fn(|| owned.lane.pop(true)).collect();
            let costs: Vec<u64> = entries
                .iter()
                .filter_map(|entry| match entry {
                    Entry::Message(message) => Some(message.cost.into()),
                    Entry::Loss(_) => None,
                })
                .collect();
            let bytes = costs.iter().sum::<u64>();
            assert_eq!(pinned - owned.lane.pinned(), bytes);
            assert!(
                costs.len() <= sub.terms.limit as usize,
                "{} messages wait: {:?}",
                costs.len(),
                sub.terms
            );
            assert!(
                bytes <= sub.terms.limit_bytes.into() || costs.len() == 1,
                "{bytes} bytes: {:?}",
                sub.terms
            );
            entries.into_iter().rev().for_each(|entry| owned.lane.unpop(entry));
            assert_eq!(owned.lane.pinned(), pinned);
        }
    }

    fn check(&self) {
        for owned in self.outbox.lanes() {
            let most = u64::from(self.subs[&owned.sub].terms.limit_bytes).max(PAYLOAD as u64 + MESSAGE_COST);
            // What goes out, and what gathers behind it.
            assert!(
                owned.lane.pinned() <= 2 * most + READING,
                "{} bytes in {:?}",
                owned.lane.pinned(),
                owned.lane
            );
        }
        let sum = self.outbox.lanes().iter().map(|owned| owned.lane.pinned()).sum::<u64>();
        assert_eq!(self.outbox.pinned(), sum);
        for (key, sub) in &self.subs {
            if !self.outbox.lanes().iter().any(|owned| owned.sub == *key) {
                sub.flow.check_to(&self.all, self.cursor);
                sub.live.check_to(&self.live_only, self.live_cursor);
            }
        }
    }

    /// The peer reads everything.
    fn drain(mut self) {
        (self.blocked, self.room) = (false, true);
        self.subs.values_mut().for_each(|sub| sub.credit = u64::MAX);
        while !self.inbox.is_empty() {
            self.fan_out();
        }
        self.pump(1_000, usize::MAX);
        assert!(self.outbox.is_empty(), "never level: {:?}", self.outbox);
        assert_eq!(self.outbox.pinned(), 0);
        for sub in self.subs.values() {
            sub.flow.check_whole(&self.all);
            sub.live.check_whole(&self.live_only);
        }
    }
}

impl Sub {
    fn holds_back(&self, published: &Published) -> bool {
        self.no_echo && published.origin.as_deref() == Some("me")
    }

    fn given(&mut self, all: &[Arc<Published>], live_only: &[Arc<Published>], published: &Published) {
        self.credit = self.credit.checked_sub(1).expect("nothing is written without credit");
        match published.offset() {
            Some(offset) => self.flow.message(all, offset),
            None => self.live.message(live_only, number(&published.message.payload)),
        }
    }
}

struct Source<'a> {
    log: &'a Log,
    filter: &'a Filter,
}

impl LogSource for Source<'_> {
    fn read(&mut self, after: u64, upto: u64, budget: ReadBudget) -> Result<Batch, Evicted> {
        match self.log.read(after, upto, self.filter, budget) {
            Read::Batch { messages, scanned } => Ok((messages, scanned)),
            Read::Sealed(segment) => Ok(segment.read(after, upto, self.filter, budget)),
            Read::Evicted { start } => Err(Evicted { start }),
        }
    }

    fn get(&mut self, offset: u64) -> Option<Arc<Published>> {
        self.log.get(offset)
    }
}
