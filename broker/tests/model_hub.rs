//! The hub between several shards, without their threads: whatever one shard is too slow for, each gets a stream's
//! messages in the stream's order, none missing and none twice; every request is answered once.
//!
//! A shard is played here, as dull as can be, for what no shard can be made to do: others publish between any two of its
//! steps, while it reads from a log what its inbox refused. The real one, `tidegate::shard::dispatch::Dispatch`, is driven
//! in `model_delivery.rs`.

mod model;
mod seeds;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use model::{draft, filter, number, pick};
use tidegate::{
    config::{Config, Stream},
    engine::{Accepted, Request, Submission, Tally, Ticket, memory::Memory},
    hub::Hub,
    shard::inbox::{Inbox, Item, Waiting},
    stream::{Read, ReadBudget},
};
use tidegate_protocol::{Epoch, Position, frame::Report};

const FILTERS: [&str; 7] = ["chat.a", "chat.*", "chat.>", "news.x", ">", "tmp.y", "*.y"];
const TOPICS: [&str; 5] = ["chat.a", "chat.b", "chat.b.c", "news.x", "tmp.y"];

struct World {
    hub: Hub,
    shards: Vec<Shard>,
    capacity: usize,
    now_ms: u64,
    /// How many messages each stream took; the last count is of the topics in none.
    published: Vec<u64>,
    /// What each idempotency key stands for.
    keys: HashMap<String, Option<Position>>,
    requests: HashMap<u64, Asked>,
    /// Which request asked for a report on which message, by order and number.
    reported: HashMap<(usize, u64), u64>,
    next_id: u64,
    /// Nobody publishes any more.
    is_over: bool,
}

struct Shard {
    inbox: Arc<Inbox>,
    filters: BTreeSet<&'static str>,
    /// What it must be given yet, by stream and in order; the last queue is of the topics in no stream.
    owed: Vec<VecDeque<u64>>,
    /// The last it was given of each.
    last: Vec<u64>,
    /// The publish there was no room for: its connection is not read.
    held: Option<Publish>,
    tallies: Vec<Arc<Tally>>,
}

/// A publish on its way, and what it needs to be tried again.
struct Publish {
    submission: Submission,
    key: Option<String>,
}

/// A request that waits for its answer.
struct Asked {
    shard: usize,
    expected: Accepted,
    wants_report: bool,
    /// What the shards counted before the answer was ready.
    matched: u64,
    is_ready: bool,
    /// A shard was refused it, or the time for reports is over.
    is_partial: bool,
}

/// Seed 9 found a shard that read from a log what was refused it, ahead of older messages that others had put into its
/// inbox since it took what waited there.
#[test]
fn every_shard_is_given_every_stream_whole_and_in_order() {
    seeds::for_each_seed(2_000, |rng| {
        let mut world = World::new(rng);
        for _ in 0..rng.usize(20..200) {
            let shard = rng.usize(0..world.shards.len());
            match rng.u32(0..20) {
                0..12 => world.publish(rng, shard),
                12..15 => world.drain(rng, shard),
                15..18 => world.change_interest(rng, shard),
                18 => world.expire_reports(shard),
                _ => {
                    world.now_ms += rng.u64(0..200);
                    world.hub.streams().iter().for_each(|stream| stream.lock().expire(world.now_ms));
                }
            }
            world.check();
        }
        world.finish(rng);
    });
}

/// A report that came after its second was over took one from a count that was 0.
#[test]
fn a_shard_may_report_after_the_time_for_it_is_over() {
    let ticket = Ticket { shard: 0, connection: 1, id: 2, payload_bytes: 3 };
    let tally = Tally::new(ticket);
    tally.expect();
    assert_eq!(tally.settle(Ok(Accepted::default())), None);
    let settled = tally.expire().expect("answered without the shard");
    assert!(settled.outcome.unwrap().report.is_some_and(|report| report.partial));
    assert_eq!(tally.add(Report { matched: 1, ..Report::default() }), None);
}

impl World {
    fn new(rng: &mut Rng) -> Self {
        let stream = |name: &str, filters: &[&str], rng: &mut Rng| Stream {
            name: name.into(),
            filters: filters.iter().map(|text| filter(text)).collect(),
            max_age: Duration::from_millis(pick(rng, &[300, 1_000_000])),
            max_bytes: pick(rng, &[3_000, 20_000, 10_000_000]),
            retain_last_bytes: 0,
        };
        let mut streams = vec![stream("chat", &["chat.>"], rng), stream("news", &["news.>"], rng)];
        if rng.u32(0..4) == 0 {
            streams.push(stream("default", &[], rng));
        }
        let config = Config { streams, ..Config::default() };
        let capacity = rng.usize(1..6);
        let count = rng.usize(1..4);
        let inboxes: Vec<_> = (0..count).map(|_| Arc::new(Inbox::new(capacity))).collect();
        let mut epoch = 0;
        let hub = Hub::new(&config, inboxes.clone().into(), Box::new(Memory), || {
            epoch += 1;
            Epoch(epoch)
        });
        let orders = hub.streams().len() + 1;
        let shard = |inbox| Shard {
            inbox,
            filters: BTreeSet::new(),
            owed: vec![VecDeque::new(); orders],
            last: vec![0; orders],
            held: None,
            tallies: Vec::new(),
        };
        Self {
            hub,
            shards: inboxes.into_iter().map(shard).collect(),
            capacity,
            now_ms: 1_000,
            published: vec![0; orders],
            keys: HashMap::new(),
            requests: HashMap::new(),
            reported: HashMap::new(),
            next_id: 1,
            is_over: false,
        }
    }

    /// What waits for room goes first: each publisher keeps its order.
    fn publish(&mut self, rng: &mut Rng, shard: usize) {
        if let Some(held) = self.shards[shard].held.take() {
            return self.submit(shard, held);
        }
        let topic = pick(rng, &TOPICS);
        let order = self.order(topic);
        let number = self.published[order] + 1;
        let draft = draft(rng, topic, number, 1_000);
        // Few keys, so that they come again; each of one order, as a publisher's are.
        let key = (rng.u32(0..3) == 0).then(|| format!("{order} {}", rng.u32(0..6)));
        let id = self.next_id;
        self.next_id += 1;
        let ticket = rng.bool().then(|| Ticket {
            shard,
            connection: 1,
            id,
            payload_bytes: draft.payload.len() as u32,
        });
        let tally = ticket.filter(|_| rng.bool()).map(|ticket| Arc::new(Tally::new(ticket)));
        self.shards[shard].tallies.extend(tally.clone());
        let idempotency = key.as_deref().map(|key| ("me".into(), key.into()));
        let request = Request { ticket, idempotency, tally, shard };
        let submission = Submission { draft, request, now_ms: self.now_ms };
        self.submit(shard, Publish { submission, key });
    }

    fn submit(&mut self, shard: usize, publish: Publish) {
        let Publish { mut submission, key } = publish;
        let topic = submission.draft.topic.clone();
        let order = self.order(topic.as_str());
        let is_live_only = order == self.hub.streams().len();
        // Its number is that of its place, which others may have taken meanwhile.
        let number = self.published[order] + 1;
        submission.draft.payload = tidegate_protocol::Payload::text(format!("{number} x"));
        let known = key.as_ref().and_then(|key| self.keys.get(key).cloned());
        let (ticket, wants_report) = (submission.request.ticket, submission.request.tally.is_some());
        let interested: Vec<usize> =
            (0..self.shards.len()).filter(|&at| self.shards[at].wants(&topic)).collect();
        let is_full = |at: &usize| self.shards[*at].inbox.depth() >= self.capacity;
        let any_full = interested.iter().any(is_full);
        let is_partial =
            !is_live_only && interested.iter().any(|&at| is_full(&at) || self.is_refused(order, at));
        if let Some(ticket) = ticket {
            let position = (!is_live_only).then(|| {
                let stream = &self.hub.streams()[order];
                Position { stream: stream.name.clone(), epoch: stream.epoch, offset: number }
            });
            let expected = Accepted {
                position: known.clone().unwrap_or(position),
                duplicate: known.is_some(),
                report: None,
            };
            let asked = Asked { shard, expected, wants_report, matched: 0, is_ready: false, is_partial };
            self.requests.insert(ticket.id, asked);
        }
        let tally = submission.request.tally.clone();
        match self.hub.submit(submission) {
            Err(back) => {
                ticket.inspect(|ticket| drop(self.requests.remove(&ticket.id)));
                if is_live_only {
                    assert!(any_full, "refused though there was room");
                } else {
                    let held_back = (0..self.shards.len()).any(|at| self.is_refused(order, at));
                    assert!(held_back && known.is_none(), "refused though nothing held it back");
                }
                assert_eq!(back.draft.topic, topic);
                assert!(tally.is_some() == back.request.tally.is_some());
                self.shards[shard].held = Some(Publish { submission: *back, key });
            }
            Ok(()) if known.is_some() => {}
            Ok(()) => {
                assert!(!is_live_only || !any_full, "a live-only message went past a full queue");
                self.published[order] = number;
                if let Some(ticket) = ticket.filter(|_| wants_report) {
                    self.reported.insert((order, number), ticket.id);
                }
                let position = (!is_live_only).then(|| {
                    let ordered = self.hub.streams()[order].lock();
                    assert_eq!(ordered.log.head(), number);
                    ordered.log.position(number)
                });
                key.and_then(|key| self.keys.insert(key, position));
                interested.into_iter().for_each(|at| self.shards[at].owed[order].push_back(number));
            }
        }
    }

    /// A shard takes what waits for it.
    fn drain(&mut self, rng: &mut Rng, at: usize) {
        let mut waiting = Waiting::default();
        self.shards[at].inbox.take(&mut waiting);
        for Item { published, stream, tally, .. } in waiting.items {
            let order = stream.unwrap_or(self.hub.streams().len());
            let number = published.offset().unwrap_or_else(|| number(&published.message.payload));
            self.shards[at].given(order, number);
            if let Some(tally) = tally {
                let counted = rng.u64(0..4);
                let report = Report { matched: counted, queued: counted, ..Report::default() };
                let settled = tally.add(report);
                // One that was answered already tells of those that were in time.
                if let Some(asked) = self.requests.get_mut(&self.reported[&(order, number)])
                    && !asked.is_ready
                {
                    asked.matched += counted;
                    asked.is_ready = settled.is_some();
                }
                if let Some(settled) = settled {
                    self.hub.settled(settled, at);
                }
            }
        }
        for order in waiting.refused {
            self.read_refused(rng, at, order);
        }
        for settled in waiting.settled {
            let asked = self.requests.remove(&settled.ticket.id).expect("answered twice, or never asked");
            assert_eq!(asked.shard, at);
            let Accepted { position, duplicate, report } = settled.outcome.unwrap();
            assert_eq!((position, duplicate), (asked.expected.position, asked.expected.duplicate));
            assert_eq!(report.is_some(), asked.wants_report && !duplicate);
            if let Some(report) = report {
                assert_eq!((report.matched, report.queued), (asked.matched, asked.matched));
                assert_eq!(report.partial, asked.is_partial);
            }
        }
    }

    /// While a shard reads from a log what its inbox refused, others publish, and may fill the inbox again.
    fn read_refused(&mut self, rng: &mut Rng, at: usize, order: usize) {
        let everything = filter(">");
        let mut others = 3;
        loop {
            let stream = &self.hub.streams()[order];
            let budget = ReadBudget { messages: rng.usize(1..5), bytes: 5_000 };
            let (read, after, head) = {
                let ordered = stream.lock();
                let first = ordered.refused(at).expect("nobody else clears it");
                let head = ordered.log.head();
                (ordered.log.read(first - 1, head, &everything, budget), first - 1, head)
            };
            let (messages, scanned) = match read {
                Read::Batch { messages, scanned } => (messages, scanned),
                Read::Sealed(segment) => segment.read(after, head, &everything, budget),
                Read::Evicted { .. } => panic!("what a shard has yet to fan out was evicted"),
            };
            for message in messages {
                self.shards[at].given(order, message.offset().unwrap());
            }
            if others > 0 && self.shards.len() > 1 && !self.is_over {
                others -= 1;
                let other = (at + 1) % self.shards.len();
                (0..rng.usize(0..8)).for_each(|_| self.publish(rng, other));
            }
            let is_level = self.hub.streams()[order].lock().caught_up(at, scanned);
            if is_level {
                let owed = &self.shards[at].owed[order];
                assert!(owed.is_empty(), "level, and {owed:?} were never given");
                return;
            }
        }
    }

    fn change_interest(&mut self, rng: &mut Rng, at: usize) {
        let text = pick(rng, &FILTERS);
        let filter = filter(text);
        let reach = self.hub.reach(&filter);
        let listens = !self.shards[at].filters.remove(text);
        if listens {
            self.shards[at].filters.insert(text);
        }
        for stream in reach.streams {
            let mut ordered = self.hub.streams()[stream].lock();
            match listens {
                true => ordered.listen(&filter, at, None),
                false => ordered.unlisten(&filter, at),
            }
        }
        if reach.live_only {
            let mut live_only = self.hub.lock_live_only();
            match listens {
                true => live_only.listen(&filter, at),
                false => live_only.unlisten(&filter, at),
            }
        }
    }

    /// The second that reports are waited for is over.
    fn expire_reports(&mut self, at: usize) {
        for tally in std::mem::take(&mut self.shards[at].tallies) {
            if let Some(settled) = tally.expire() {
                if let Some(asked) = self.requests.get_mut(&settled.ticket.id) {
                    (asked.is_ready, asked.is_partial) = (true, true);
                }
                self.hub.settled(settled, at);
            }
        }
    }

    fn check(&self) {
        for shard in &self.shards {
            assert!(shard.inbox.depth() <= self.capacity, "{} wait", shard.inbox.depth());
        }
        for (stream, published) in self.hub.streams().iter().zip(&self.published) {
            assert_eq!(stream.lock().log.head(), *published);
        }
    }

    fn finish(mut self, rng: &mut Rng) {
        self.is_over = true;
        let is_busy = |shard: &Shard| shard.held.is_some() || shard.owed.iter().any(|owed| !owed.is_empty());
        for _ in 0..1_000 {
            for at in 0..self.shards.len() {
                self.drain(rng, at);
                if let Some(held) = self.shards[at].held.take() {
                    self.submit(at, held);
                }
                self.check();
            }
            if !self.shards.iter().any(is_busy) && self.requests.is_empty() {
                return;
            }
        }
        let owed: Vec<_> = self.shards.iter().map(|shard| &shard.owed).collect();
        panic!("never given: {owed:?}; never answered: {:?}", self.requests.keys());
    }

    /// The stream of a topic, or the place behind the last one.
    fn order(&self, topic: &str) -> usize {
        let topic = tidegate_protocol::Topic::parse(topic).unwrap();
        self.hub.stream_of(&topic).unwrap_or(self.hub.streams().len())
    }

    fn is_refused(&self, order: usize, at: usize) -> bool {
        self.hub.streams().get(order).is_some_and(|stream| stream.lock().refused(at).is_some())
    }
}

impl Shard {
    fn wants(&self, topic: &tidegate_protocol::Topic) -> bool {
        self.filters.iter().any(|text| filter(text).matches(topic))
    }

    /// What it is given: in order, nothing twice, and nothing that it is owed passed over. What it read from a log may
    /// be more than it was owed.
    fn given(&mut self, order: usize, number: u64) {
        assert!(number > self.last[order], "{number} after {}", self.last[order]);
        self.last[order] = number;
        let next = self.owed[order].front();
        assert!(next.is_none_or(|&next| number <= next), "{number} was given before {next:?}");
        if next == Some(&number) {
            self.owed[order].pop_front();
        }
    }
}
