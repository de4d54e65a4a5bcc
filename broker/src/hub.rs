//! What the shards share: the streams with their logs, who is interested in what, and the way to each shard.
//!
//! A stream's lock guards its log, the interest in it and the idempotency keys of what is published to it, so that a
//! subscription's start and a publish never cross. A shard's inbox is filled under that lock; its own lock is taken
//! last and held for one push. No lock is held across an await, and none is taken for a delivery.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use tidegate_protocol::{
    Epoch, Filter, Topic,
    position::{DEFAULT_STREAM, StreamName},
};

use crate::{
    config::Config,
    engine::{Engine, Settled, Submission, Tally},
    outbox::{Batch, Evicted},
    shard::{
        inbox::{Inbox, Item},
        index::Index,
    },
    stream::{
        Draft, Listener, Log, LogLimits, Published, Read, ReadBudget,
        idempotency::{KeyLimits, Keys},
    },
};

/// See the module.
pub struct Hub {
    streams: Box<[Stream]>,
    /// Which stream a topic belongs to: named filters do not overlap, and `default` takes the rest.
    routes: Vec<(Filter, usize)>,
    default: Option<usize>,
    live_only: Mutex<LiveOnly>,
    inboxes: Box<[Arc<Inbox>]>,
    engine: Box<dyn Engine>,
}

/// A named log and what stands under its lock.
pub struct Stream {
    /// Absent for the default stream, as in frames.
    pub name: Option<StreamName>,
    pub epoch: Epoch,
    ordered: Mutex<Ordered>,
}

/// What a stream's lock guards.
pub struct Ordered {
    pub log: Log,
    pub keys: Keys,
    /// Who listens to what, by filters with wildcards; by name, [`Log::listeners`] says it.
    wild_interest: Index<usize>,
    /// For each shard whose inbox was full: the first offset it was not given. It reads from the log until it is level.
    refused: Box<[Option<u64>]>,
}

/// What guards the order of topics that are in no stream.
pub struct LiveOnly {
    pub keys: Keys,
    interest: Index<usize>,
}

/// The streams a filter reaches, and whether it reaches topics that are in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub streams: SmallVec<[usize; 1]>,
    pub live_only: bool,
}

/// A topic that a stream holds a message of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownTopic {
    pub topic: Topic,
    pub stream: Option<StreamName>,
    /// The offset of its newest message.
    pub newest: u64,
}

/// How many places of a log's table of topics are looked at under one lock: for less than a millisecond.
const LISTED_PLACES: usize = 4096;
/// How often a table is gone through that changes meanwhile.
const LISTINGS: usize = 3;

impl Hub {
    /// `epochs` gives each stream's log a name that no earlier one had.
    pub fn new(
        config: &Config,
        inboxes: Box<[Arc<Inbox>]>,
        engine: Box<dyn Engine>,
        mut epochs: impl FnMut() -> Epoch,
    ) -> Self {
        let mut routes = Vec::new();
        let mut default = None;
        let limits = KeyLimits {
            window_ms: config.limits.idempotency_window.as_millis() as u64,
            max_instances: config.limits.idempotency_instances,
            per_instance_min: config.limits.publish_window_messages as usize,
            max_bytes: config.memory.idempotency_bytes as usize,
        };
        let streams = config.streams.iter().enumerate().map(|(at, stream)| {
            let is_default = stream.name == DEFAULT_STREAM;
            if is_default {
                default = Some(at);
            }
            routes.extend(stream.filters.iter().map(|filter| (filter.clone(), at)));
            let name = (!is_default).then(|| StreamName::from(stream.name.as_str()));
            let epoch = epochs();
            let log_limits = LogLimits {
                max_age_ms: stream.max_age.as_millis() as u64,
                max_bytes: stream.max_bytes,
                retain_last_bytes: stream.retain_last_bytes,
            };
            Stream {
                name: name.clone(),
                epoch,
                ordered: Mutex::new(Ordered {
                    log: Log::new(name, epoch, log_limits),
                    keys: Keys::new(limits),
                    wild_interest: Index::new(),
                    refused: vec![None; inboxes.len()].into(),
                }),
            }
        });
        Self {
            streams: streams.collect(),
            routes,
            default,
            live_only: Mutex::new(LiveOnly { keys: Keys::new(limits), interest: Index::new() }),
            inboxes,
            engine,
        }
    }

    /// Gives a publish to the engine.
    ///
    /// # Errors
    ///
    /// There is no room now: it comes back.
    pub fn submit(&self, submission: Submission) -> Result<(), Box<Submission>> {
        self.engine.submit(submission, self)
    }

    /// Publishes to `topics` are about to come: see [`Log::fetch`]. Of another stream than the first one's, none is fetched.
    pub fn expect<'a>(&self, topics: impl Iterator<Item = &'a Topic>) {
        let mut topics = topics.peekable();
        let Some(at) = topics.peek().and_then(|topic| self.stream_of(topic)) else { return };
        let ordered = self.streams[at].lock();
        ordered.log.fetch(topics.filter(|topic| self.stream_of(topic) == Some(at)));
    }

    /// Answers a publisher. `from` is the shard that calls, whose own inbox needs no wake.
    pub fn settled(&self, settled: Settled, from: usize) {
        let shard = settled.ticket.shard;
        self.inboxes[shard].settle(settled, shard != from);
    }

    /// The stream a topic belongs to.
    pub fn stream_of(&self, topic: &Topic) -> Option<usize> {
        self.routes.iter().find(|(filter, _)| filter.matches(topic)).map(|&(_, at)| at).or(self.default)
    }

    /// The streams `filter` reaches.
    pub fn reach(&self, filter: &Filter) -> Reach {
        let mut streams = SmallVec::new();
        for (own, at) in &self.routes {
            if own.overlaps(filter) && !streams.contains(at) {
                streams.push(*at);
            }
        }
        let covered = self.routes.iter().any(|(own, _)| own.covers(filter));
        if let Some(default) = self.default.filter(|_| !covered) {
            streams.push(default);
        }
        Reach { streams, live_only: !covered && self.default.is_none() }
    }

    pub fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// The first `limit` topics of `filter` behind `after` by name, of those that have a message in a log. No lock is held
    /// for long, so what comes or goes meanwhile may stand there or not.
    pub fn topics(&self, filter: &Filter, after: &str, limit: usize) -> Vec<KnownTopic> {
        let mut found: BTreeMap<Box<str>, KnownTopic> = BTreeMap::new();
        for stream in self.reach(filter).streams.into_iter().map(|at| &self.streams[at]) {
            for _ in 0..LISTINGS {
                let (mut at, mut seen) = (0, 0);
                let all = loop {
                    let ordered = stream.lock();
                    let more = ordered.log.topics_at(at, LISTED_PLACES, |topic, newest| {
                        seen += 1;
                        let fits = || found.last_key_value().is_none_or(|(last, _)| topic.as_str() < &**last);
                        if topic.as_str() > after && filter.matches(topic) && (found.len() < limit || fits())
                        {
                            let (topic, stream) = (topic.clone(), stream.name.clone());
                            found.insert(Box::from(topic.as_str()), KnownTopic { topic, stream, newest });
                            if found.len() > limit {
                                found.pop_last();
                            }
                        }
                    });
                    if !more {
                        break ordered.log.topics();
                    }
                    at += LISTED_PLACES;
                };
                // A table that grew meanwhile has put them elsewhere.
                if seen >= all {
                    break;
                }
            }
        }
        found.into_values().collect()
    }

    /// Takes the lock of the topics that are in no stream.
    pub fn lock_live_only(&self) -> MutexGuard<'_, LiveOnly> {
        self.live_only.lock()
    }

    /// Gives a message that has its place to every interested shard, under its stream's lock: so each inbox has the
    /// stream's order.
    pub fn committed(
        &self,
        at: usize,
        ordered: &mut Ordered,
        published: &Arc<Published>,
        tally: Option<&Arc<Tally>>,
        from: usize,
    ) {
        let Ordered { log, wild_interest, refused, .. } = ordered;
        let topic = published.topic();
        let wild = if wild_interest.is_empty() { &[] } else { wild_interest.matches(topic).wild };
        let by_name = log.listeners(topic).iter();
        let exact = by_name.map(|listener| (listener.shard as usize, Some(listener.place)));
        each_once(exact, wild, |shard, place| {
            tally.inspect(|tally| tally.expect());
            let item = Item { published: published.clone(), stream: Some(at), tally: tally.cloned(), place };
            let offset = published.offset();
            if refused[shard].is_some() || !self.inboxes[shard].push(item, shard != from) {
                tally.inspect(|tally| tally.give_up());
                if refused[shard].is_none() {
                    refused[shard] = offset;
                    self.inboxes[shard].refuse(at);
                }
            }
        });
    }

    /// Gives a live-only message to every interested shard; false, and to none, where one of them has no room.
    pub fn committed_live_only(
        &self,
        live_only: &mut LiveOnly,
        published: &Arc<Published>,
        tally: Option<&Arc<Tally>>,
        from: usize,
    ) {
        let matches = live_only.interest.matches(&published.message.topic);
        each_once(unplaced(matches.exact), matches.wild, |shard, place| {
            tally.inspect(|tally| tally.expect());
            let item = Item { published: published.clone(), stream: None, tally: tally.cloned(), place };
            // Room was asked for under this lock; a stream's push may have taken it since, so the bound is soft by the
            // number of streams.
            self.inboxes[shard].push_anyway(item, shard != from);
        });
    }

    /// Whether every shard that wants `topic` has room for a live-only message.
    pub fn has_room(&self, live_only: &mut LiveOnly, topic: &Topic) -> bool {
        let matches = live_only.interest.matches(topic);
        let mut room = true;
        each_once(unplaced(matches.exact), matches.wild, |shard, _| room &= self.inboxes[shard].has_room());
        room
    }
}

impl Stream {
    /// Reads what `filter` takes in `(after, upto]` as far as `budget` goes. Segments that no longer change are read
    /// without the lock.
    ///
    /// # Errors
    ///
    /// The log no longer has what follows `after`.
    pub fn read(&self, after: u64, upto: u64, filter: &Filter, budget: ReadBudget) -> Result<Batch, Evicted> {
        let read = self.lock().log.read(after, upto, filter, budget);
        match read {
            Read::Batch { messages, scanned } => Ok((messages, scanned)),
            Read::Sealed(segment) => Ok(segment.read(after, upto, filter, budget)),
            Read::Evicted { start } => Err(Evicted { start }),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Ordered> {
        self.ordered.lock()
    }
}

impl Ordered {
    /// A shard has a subscription with `filter` from now on, and its index may have it at `place`.
    pub fn listen(&mut self, filter: &Filter, shard: usize, place: Option<u32>) {
        match filter.as_topic() {
            Some(topic) => {
                let place = place.unwrap_or(Listener::NO_PLACE);
                self.log.listen(&topic, Listener { shard: shard as u32, place });
            }
            None => {
                self.wild_interest.insert(filter, shard);
            }
        }
    }

    /// A shard has no more subscription with `filter`.
    pub fn unlisten(&mut self, filter: &Filter, shard: usize) {
        match filter.as_topic() {
            Some(topic) => self.log.unlisten(&topic, shard as u32),
            None => {
                self.wild_interest.remove(filter, shard);
            }
        }
    }

    /// Gives a draft its place.
    ///
    /// # Errors
    ///
    /// A segment would have to go that a shard has yet to fan out.
    pub fn append(&mut self, draft: Draft, now_ms: u64) -> Result<Arc<Published>, Draft> {
        let hold = self.hold();
        self.log.append(draft, now_ms, hold)
    }

    /// Lets go of what is too old.
    pub fn expire(&mut self, now_ms: u64) {
        let hold = self.hold();
        self.log.expire(now_ms, hold);
        self.keys.expire(now_ms);
    }

    /// The first offset `shard` was refused and has yet to read from the log.
    pub fn refused(&self, shard: usize) -> Option<u64> {
        self.refused[shard]
    }

    /// `shard` has fanned out everything up to `offset` from the log; where that is the head, its inbox is used again,
    /// and what it is refused from then on it may read only behind what waits there. Whether it is.
    pub fn caught_up(&mut self, shard: usize, offset: u64) -> bool {
        self.refused[shard] = (offset < self.log.head()).then_some(offset + 1);
        self.refused[shard].is_none()
    }

    fn hold(&self) -> Option<u64> {
        self.refused.iter().copied().flatten().min()
    }
}

impl LiveOnly {
    /// See [`Ordered::listen`].
    pub fn listen(&mut self, filter: &Filter, shard: usize) {
        self.interest.insert(filter, shard);
    }

    /// See [`Ordered::unlisten`].
    pub fn unlisten(&mut self, filter: &Filter, shard: usize) {
        self.interest.remove(filter, shard);
    }
}

/// Shards of which nothing tells where their indices have the topic.
fn unplaced(shards: &[usize]) -> impl Iterator<Item = (usize, Option<u32>)> {
    shards.iter().map(|&shard| (shard, None))
}

/// Calls `f` for every shard of two ascending lists, once for one that stands in both or several times, and then with
/// its place.
fn each_once(
    exact: impl Iterator<Item = (usize, Option<u32>)>,
    wild: &[usize],
    mut f: impl FnMut(usize, Option<u32>),
) {
    let (mut exact, mut wild) = (exact.peekable(), unplaced(wild).peekable());
    let mut last = None;
    loop {
        let next = match (exact.peek(), wild.peek()) {
            (Some((a, _)), Some((b, _))) if a <= b => exact.next(),
            (Some(_), None) => exact.next(),
            _ => wild.next(),
        };
        let Some((shard, place)) = next else { return };
        if last.replace(shard) != Some(shard) {
            f(shard, place);
        }
    }
}
