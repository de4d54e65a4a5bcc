//! A bounded log: gives offsets, keeps messages by age and bytes, reads them.

use std::{
    collections::VecDeque,
    hash::BuildHasher,
    hint::black_box,
    mem::{self, size_of},
    sync::Arc,
    vec,
};

use hashbrown::{
    DefaultHashBuilder, HashTable,
    hash_table::{Entry, OccupiedEntry},
};
use smallvec::SmallVec;
use tidegate_protocol::{Epoch, Filter, Message, Position, Topic, position::StreamName};

use super::{
    published::{Draft, Published, shared_str_cost},
    retained::{Held, Retained},
    segment::{ReadBudget, Segment},
};

/// What a log may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// How long a message stays, in milliseconds.
    pub max_age_ms: u64,
    /// What the log may pin, in bytes.
    pub max_bytes: u64,
    /// What the newest messages of topics that the log no longer holds may pin, in bytes; 0 keeps none.
    pub retain_last_bytes: u64,
}

/// The answer to [`Log::read`].
#[derive(Debug)]
pub enum Read {
    /// Everything of the filter in (`after`, `scanned`] is in `messages`, in order.
    Batch {
        /// The messages.
        messages: Vec<Arc<Published>>,
        /// Where to read on from: `upto`, or less where the budget ended the read.
        scanned: u64,
    },
    /// The filter's next messages may be in a segment that no longer changes: let go of the stream's lock, then call
    /// [`Segment::read`] with the same arguments. Nothing of the filter lies between `after` and the segment.
    Sealed(Arc<Segment>),
    /// The log no longer has (`after`, `start`).
    Evicted {
        /// The first offset the log has; the one after its head where it is empty.
        start: u64,
    },
}

/// The answer to [`Log::last`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Last {
    /// The offsets, ascending. [`Log::get`] gives their messages, as long as they are kept.
    pub offsets: Vec<u64>,
    /// How many more there were than the cap allows; all of them lie below `offsets`.
    pub cut: u64,
    /// The largest offset that was cut; 0 where none was.
    pub cut_to: u64,
}

/// The answer to [`Log::since`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Messages from the time on are those after this offset.
    pub after: u64,
    /// Whether the log still has all of them.
    pub complete: bool,
}

/// One stream's log.
///
/// Messages stand in segments, of which the last one grows. What the limits no longer allow goes segment by segment
/// from the front; a topic's newest message then moves to a store of its own. So appending costs one look-up, whatever
/// the number of topics.
#[derive(Debug)]
pub struct Log {
    name: Option<StreamName>,
    epoch: Epoch,
    limits: LogLimits,
    sealed: VecDeque<Arc<Segment>>,
    active: Segment,
    /// The topics that have a message in the log or a retained one, and those that a shard listens to by name.
    topics: HashTable<TopicState>,
    /// How many of `topics` have a message.
    known: usize,
    /// The bucket of the newest message's topic, as long as the table stays as it is.
    newest_bucket: usize,
    retained: Retained,
    hasher: DefaultHashBuilder,
    /// Of the segments, and of the topics that are in them.
    bytes: u64,
    spare: Spare,
    /// The last message's.
    newest_time: u64,
    /// The last evicted message's.
    evicted_time: Option<u64>,
}

/// A shard that listens to a topic by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Which.
    pub shard: u32,
    /// Where its index has the topic, as far as anybody knows: see `Index::matches_at`.
    pub place: u32,
}

impl Listener {
    /// Where no index has anything.
    pub const NO_PLACE: u32 = u32::MAX;
}

/// What a publish has to know of its topic, in one cache line: among many topics it is the miss that costs.
#[derive(Debug)]
#[repr(align(64))]
struct TopicState {
    topic: Topic,
    hash: u64,
    /// The offset of the topic's newest message, 0 where there is none. Below the log's start, that one is retained.
    newest: u64,
    /// The topic's slot in the segment that holds `newest`.
    slot: u32,
    /// Ascending by shard. What they are given is the hub's business; here they cost no second look-up.
    listeners: SmallVec<[Listener; 2]>,
}

const _: () = assert!(size_of::<TopicState>() == 64);

/// A log has about this many segments: so much of it goes at once, 1.6 % of its bytes.
const SEGMENTS_BY_BYTES: u64 = 64;
/// Segments are not made smaller than this by the above, in bytes: each has an index to pay for.
const MIN_SEGMENT_BYTES: u64 = 64 << 10;
/// In a log too small for that, a segment is this part of it, or it would lose half of itself at once.
const MIN_SEGMENTS: u64 = 8;
/// A message stays up to this part longer than the age limit, until its whole segment may go.
const SEGMENTS_BY_AGE: u64 = 16;
/// The most messages of a segment. An eviction holds the stream's lock for some 0.2 µs a message, so for less than 1 ms.
const SEGMENT_MESSAGES: usize = 4096;
/// How many segments one read of one topic passes over, at most, at some 50 ns each under the stream's lock.
const SKIP: usize = 256;
/// Below this many places, the table of topics is not worth shrinking.
const MIN_TOPICS_CAPACITY: usize = 1024;

/// What knowing a topic costs, in bytes: its name and its state, with the room to grow that the table leaves.
pub(super) fn topic_cost(topic: &Topic) -> u64 {
    (shared_str_cost(topic.as_str()) + 2 * (size_of::<TopicState>() + 1)) as u64
}

impl Log {
    /// An empty log. `name` is the stream's; `None` for the default one, since frames leave it out.
    pub fn new(name: Option<StreamName>, epoch: Epoch, limits: LogLimits) -> Self {
        let hasher = DefaultHashBuilder::default();
        Self {
            name,
            epoch,
            limits,
            sealed: VecDeque::new(),
            active: Segment::new(1, hasher.clone()),
            topics: HashTable::new(),
            known: 0,
            newest_bucket: 0,
            retained: Retained::new(limits.retain_last_bytes),
            hasher,
            bytes: 0,
            spare: Spare::default(),
            newest_time: 0,
            evicted_time: None,
        }
    }

    /// The stream's name; `None` for the default one.
    pub fn name(&self) -> Option<&StreamName> {
        self.name.as_ref()
    }

    /// The log's incarnation.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last offset given; 0 before the first.
    pub fn head(&self) -> u64 {
        self.active.last()
    }

    /// The first offset the log holds; `head + 1` where it is empty.
    pub fn start(&self) -> u64 {
        self.sealed.front().map_or(self.active.first(), |segment| segment.first())
    }

    /// `offset` as a position in this log.
    pub fn position(&self, offset: u64) -> Position {
        Position { stream: self.name.clone(), epoch: self.epoch, offset }
    }

    /// Gives `draft` the next offset and keeps it, after evicting what the limits ask for.
    ///
    /// Its time is `now_ms`, or the last message's where the clock went back. Its `prev` is the topic's message before
    /// it, if the log (retained does not count) still holds that.
    ///
    /// No segment with an offset from `hold` on is evicted: a shard has yet to fan it out. Where there would be no room
    /// without that, the draft comes back and its publish waits. A message that is larger than the whole limit is
    /// taken, alone.
    pub fn append(&mut self, draft: Draft, now_ms: u64, hold: Option<u64>) -> Result<Arc<Published>, Draft> {
        let time = now_ms.max(self.newest_time);
        let cost = draft.cost();
        self.expire(time, hold);
        let room = Segment::room_for(cost) + topic_cost(&draft.topic);
        let mut gone = None;
        while self.bytes + self.spare.bytes + room > self.limits.max_bytes {
            gone = self.spare.pop();
            if gone.is_none() && (self.is_empty() || !self.evict_oldest(hold)) {
                break;
            }
        }
        if self.bytes + room > self.limits.max_bytes && !self.is_empty() {
            return Err(draft);
        }
        if self.active_is_full(cost, time) {
            self.seal();
        }
        let block = gone.or_else(|| self.spare.pop());
        Ok(self.place(draft, cost, time, block))
    }

    /// Evicts the segments whose newest message is older than the limit, but none with an offset from `hold` on.
    pub fn expire(&mut self, now_ms: u64, hold: Option<u64>) {
        let now = now_ms.max(self.newest_time);
        while !self.is_empty() && now - self.oldest().newest_time() > self.limits.max_age_ms {
            if !self.evict_oldest(hold) {
                return;
            }
            self.spare = Spare::default();
        }
    }

    /// The next part of `filter`'s messages in (`after`, `upto`]. Call again, from `scanned` on, until `scanned` is
    /// `upto` (or the head, where that is less).
    ///
    /// One topic costs by what is returned. A wildcard looks at the messages one by one.
    pub fn read(&self, after: u64, upto: u64, filter: &Filter, budget: ReadBudget) -> Read {
        let nothing = |scanned| Read::Batch { messages: Vec::new(), scanned };
        let upto = upto.min(self.head());
        if after >= upto {
            return nothing(after);
        }
        if after + 1 < self.start() {
            return Read::Evicted { start: self.start() };
        }
        let topic = match self.known(filter) {
            Known::Wildcard => None,
            Known::Topic(topic) if topic.newest > after => Some(topic),
            Known::Topic(_) | Known::Nothing => return nothing(upto),
        };
        let next = self.sealed.partition_point(|segment| segment.last() <= after);
        for (passed, segment) in self.sealed.range(next..).enumerate() {
            if segment.first() > upto || passed == SKIP {
                return nothing(upto.min(segment.first() - 1));
            }
            if topic.is_none_or(|t| segment.has_topic(t.hash, t.topic.as_str(), after, upto)) {
                return Read::Sealed(segment.clone());
            }
        }
        if self.active.first() > upto {
            return nothing(upto);
        }
        let (messages, scanned) = self.active.read(after, upto, filter, budget);
        Read::Batch { messages, scanned }
    }

    /// The message at `offset`, from the log or retained.
    pub fn get(&self, offset: u64) -> Option<Arc<Published>> {
        if offset < self.start() { self.retained.get(offset) } else { self.segment_of(offset).get(offset) }
            .cloned()
    }

    /// The offsets of the newest `n` messages of each topic of `filter` that are not after `at` (the head, where
    /// absent), ascending over all topics, retained ones included; the newest `cap` of them.
    ///
    /// A wildcard looks at all topics the log knows. What stood there at `at` but has been evicted since is not counted.
    pub fn last(&self, filter: &Filter, n: u32, at: Option<u64>, cap: usize) -> Last {
        let mut newest = Newest { cap, last: Last::default() };
        let mut take_topic = |topic: &TopicState| {
            for offset in self.newest_first(topic, at.unwrap_or(u64::MAX)).take(n as usize) {
                newest.push(offset);
            }
        };
        match self.known(filter) {
            Known::Nothing => {}
            Known::Topic(topic) => take_topic(topic),
            Known::Wildcard => {
                let known = self.topics.iter().filter(|state| state.newest > 0);
                known.filter(|state| filter.matches(&state.topic)).for_each(take_topic);
            }
        }
        newest.finish()
    }

    /// Where the messages from `time_ms` on begin.
    pub fn since(&self, time_ms: u64) -> Since {
        let next = self.sealed.partition_point(|segment| segment.newest_time() < time_ms);
        let segment = self.sealed.get(next).map_or(&self.active, |sealed| sealed);
        Since {
            after: segment.before_time(time_ms),
            complete: self.evicted_time.is_none_or(|evicted| evicted < time_ms),
        }
    }

    /// What the log pins, in bytes, without what it retains. At most [`LogLimits::max_bytes`], unless one message alone
    /// is larger.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the retained messages pin, in bytes. At most [`LogLimits::retain_last_bytes`].
    pub fn retained_bytes(&self) -> u64 {
        self.retained.bytes()
    }

    /// How many messages the log holds, without the retained ones.
    pub fn messages(&self) -> u64 {
        self.head() + 1 - self.start()
    }

    /// How many topics have a message in the log or a retained one.
    pub fn topics(&self) -> usize {
        self.known
    }

    /// Gives topics and the offsets of their newest messages to `each`, in no order: those in `count` places of the log's
    /// table from `at` on. Whether there are more places behind. Places move while the log changes.
    pub fn topics_at(&self, at: usize, count: usize, mut each: impl FnMut(&Topic, u64)) -> bool {
        let (end, all) = (at.saturating_add(count), self.topics.num_buckets());
        for state in (at..end.min(all)).filter_map(|place| self.topics.get_bucket(place)) {
            if state.newest > 0 {
                each(&state.topic, state.newest);
            }
        }
        end < all
    }
}

/// Who listens to which topic by name.
impl Log {
    /// A shard listens from now on.
    pub fn listen(&mut self, topic: &Topic, listener: Listener) {
        let hash = self.hasher.hash_one(topic.as_str());
        let new =
            || TopicState { topic: topic.clone(), hash, newest: 0, slot: 0, listeners: SmallVec::new() };
        let entry = self.topics.entry(hash, |state| state.topic == *topic, |state| state.hash);
        let listeners = &mut entry.or_insert_with(new).into_mut().listeners;
        match listeners.binary_search_by_key(&listener.shard, |known| known.shard) {
            Ok(at) => listeners[at] = listener,
            Err(at) => listeners.insert(at, listener),
        }
    }

    /// A shard listens no more.
    pub fn unlisten(&mut self, topic: &Topic, shard: u32) {
        let hash = self.hasher.hash_one(topic.as_str());
        let Ok(mut state) = self.topics.find_entry(hash, |state| state.topic == *topic) else { return };
        state.get_mut().listeners.retain(|listener| listener.shard != shard);
        if state.get().is_idle() {
            state.remove();
            self.shrink_topics();
        }
    }

    /// The shards that listen to `topic`, ascending. It is at hand where the newest message is of this topic.
    pub fn listeners(&self, topic: &Topic) -> &[Listener] {
        let newest = self.topics.get_bucket(self.newest_bucket);
        let state = newest.filter(|state| state.topic.is_copy_of(topic)).or_else(|| {
            let hash = self.hasher.hash_one(topic.as_str());
            self.topics.find(hash, |state| state.topic == *topic)
        });
        state.map_or(&[], |state| &state.listeners)
    }
}

/// How many topics are fetched at a time: what they touch stays in the nearest caches until it is used.
const FETCHED: usize = 64;

impl Log {
    /// Brings what is known of topics that are about to be published to into the caches. Among very many topics each look-up
    /// misses them, and misses that do not wait for each other cost hardly more than one.
    pub fn fetch<'a>(&self, topics: impl Iterator<Item = &'a Topic>) {
        let mut buckets = SmallVec::<[usize; FETCHED]>::new();
        for topic in topics.take(FETCHED) {
            let hash = self.hasher.hash_one(topic.as_str());
            buckets.extend(self.topics.find_bucket_index(hash, |state| state.hash == hash));
        }
        for state in buckets.into_iter().filter_map(|bucket| self.topics.get_bucket(bucket)) {
            black_box(state.topic.as_str().as_bytes().first().copied());
        }
    }
}

impl TopicState {
    /// Whether nothing is to be known of it any more.
    fn is_idle(&self) -> bool {
        self.newest == 0 && self.listeners.is_empty()
    }
}

/// Appending and evicting.
impl Log {
    fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.active.is_empty()
    }

    fn oldest(&self) -> &Segment {
        self.sealed.front().map_or(&self.active, |sealed| sealed)
    }

    fn active_is_full(&self, cost: u32, time: u64) -> bool {
        let LogLimits { max_age_ms, max_bytes, .. } = self.limits;
        let most = (max_bytes / SEGMENTS_BY_BYTES).max(MIN_SEGMENT_BYTES.min(max_bytes / MIN_SEGMENTS));
        !self.active.is_empty()
            && (self.active.bytes() + u64::from(cost) > most
                || self.active.len() >= SEGMENT_MESSAGES
                || time - self.active.oldest_time() > max_age_ms / SEGMENTS_BY_AGE)
    }

    fn seal(&mut self) {
        let next = Segment::after(&self.active);
        self.sealed.push_back(mem::replace(&mut self.active, next).seal());
    }

    /// Appends the draft, in an evicted message's `block` where nobody holds that any more.
    fn place(&mut self, draft: Draft, cost: u32, time: u64, block: Option<Arc<Published>>) -> Arc<Published> {
        let (start, offset) = (self.start(), self.head() + 1);
        let hash = self.hasher.hash_one(draft.topic.as_str());
        let entry = self.topics.entry(hash, |state| state.topic == draft.topic, |state| state.hash);
        // The messages of a topic share its text, which is paid for once.
        let (topic, newest) = match &entry {
            Entry::Occupied(state) if state.get().topic.is_copy_of(&draft.topic) => {
                (draft.topic, state.get().newest)
            }
            Entry::Occupied(state) => (state.get().topic.clone(), state.get().newest),
            Entry::Vacant(_) => (draft.topic, 0),
        };
        let prev = (newest >= start).then_some(newest);
        if prev.is_none() {
            self.bytes += topic_cost(&topic);
            match newest {
                0 => self.known += 1,
                newest => self.retained.remove(newest),
            }
        }
        let message = Message {
            topic,
            stream: self.name.clone(),
            offset: Some(offset),
            prev,
            time,
            payload: draft.payload,
            key: draft.key,
            headers: draft.headers,
            sub: None,
        };
        let published = Published { message, segment: self.active.first(), origin: draft.origin, cost };
        let published = match block {
            Some(mut block) => match Arc::get_mut(&mut block) {
                Some(place) => {
                    *place = published;
                    block
                }
                None => Arc::new(published),
            },
            None => Arc::new(published),
        };

        let before = self.active.bytes();
        match entry {
            Entry::Occupied(mut state) => {
                self.newest_bucket = state.bucket_index();
                let state = state.get_mut();
                if state.newest >= self.active.first() {
                    self.active.push(state.slot, published.clone());
                } else {
                    state.slot = self.active.push_topic(hash, published.clone());
                }
                state.newest = offset;
            }
            Entry::Vacant(place) => {
                let slot = self.active.push_topic(hash, published.clone());
                let (topic, listeners) = (published.topic().clone(), SmallVec::new());
                let state = place.insert(TopicState { topic, hash, newest: offset, slot, listeners });
                self.newest_bucket = state.bucket_index();
            }
        }
        self.bytes += self.active.bytes() - before;
        self.newest_time = time;
        published
    }

    /// Evicts the oldest segment, unless it has an offset from `hold` on. There must be one.
    fn evict_oldest(&mut self, hold: Option<u64>) -> bool {
        if hold.is_some_and(|hold| self.oldest().last() >= hold) {
            return false;
        }
        if self.sealed.is_empty() {
            self.seal();
        }
        let Some(segment) = self.sealed.pop_front() else {
            return false;
        };
        self.bytes -= segment.bytes();
        self.evicted_time = Some(segment.newest_time());
        let (mut leaving, mut texts) = (Vec::new(), 0);
        for (hash, message) in segment.newest_of_topics() {
            texts += shared_str_cost(message.topic().as_str()) as u64;
            let Some(offset) = message.offset() else { continue };
            // Only the topic's newest message is remembered by its offset, so a match is this topic and it leaves the log.
            let Ok(state) = self.topics.find_entry(hash, |state| state.newest == offset) else { continue };
            self.bytes -= topic_cost(message.topic());
            if self.retained.takes(message) {
                leaving.push((offset, Held { hash, message: message.clone() }));
            } else {
                self.known -= 1;
                forget_newest(state);
            }
        }
        leaving.sort_unstable_by_key(|&(offset, _)| offset);
        for (offset, held) in leaving {
            self.retained.push(offset, held);
        }
        while let Some((offset, Held { hash, .. })) = self.retained.pop_excess() {
            if let Ok(state) = self.topics.find_entry(hash, |state| state.newest == offset) {
                self.known -= 1;
                forget_newest(state);
            }
        }
        self.shrink_topics();
        self.spare = Spare::of(segment, texts);
        true
    }

    fn shrink_topics(&mut self) {
        if self.topics.len() < self.topics.capacity() / 8 && self.topics.capacity() > MIN_TOPICS_CAPACITY {
            self.topics.shrink_to(2 * self.topics.len(), |state| state.hash);
        }
    }
}

/// A topic has no message left.
fn forget_newest(mut state: OccupiedEntry<'_, TopicState>) {
    state.get_mut().newest = 0;
    if state.get().is_idle() {
        state.remove();
    }
}

/// The messages of the segment that was evicted last. They are let go one by one as their room is needed, and the next
/// messages take their blocks: so a full log neither allocates nor frees one for each publish, and an eviction holds the
/// stream's lock for less.
#[derive(Debug, Default)]
struct Spare {
    messages: vec::IntoIter<Arc<Published>>,
    /// Counts towards the log's limit: of the messages, and of the texts of their topics for as long as there is one.
    bytes: u64,
}

impl Spare {
    /// None of a segment that somebody still reads. `texts` is what the segment's topics pin, in bytes.
    fn of(segment: Arc<Segment>, texts: u64) -> Self {
        let Some(segment) = Arc::into_inner(segment) else { return Self::default() };
        let (messages, bytes) = segment.into_messages();
        Self { messages: messages.into_iter(), bytes: bytes + texts }
    }

    fn pop(&mut self) -> Option<Arc<Published>> {
        let message = self.messages.next();
        match &message {
            Some(message) => self.bytes -= Segment::message_bytes(message),
            None => self.bytes = 0,
        }
        message
    }
}

/// What the log has of a filter's topics.
enum Known<'a> {
    /// There is no message of the one topic.
    Nothing,
    /// The one topic.
    Topic(&'a TopicState),
    /// Only a look at all of them tells.
    Wildcard,
}

/// Finding messages.
impl Log {
    fn known(&self, filter: &Filter) -> Known<'_> {
        if filter.is_wildcard() {
            return Known::Wildcard;
        }
        let hash = self.hasher.hash_one(filter.as_str());
        let topic = self.topics.find(hash, |state| state.topic.as_str() == filter.as_str());
        topic.filter(|topic| topic.newest > 0).map_or(Known::Nothing, Known::Topic)
    }

    /// The segment that holds `offset`, if any does.
    fn segment_of(&self, offset: u64) -> &Segment {
        let next = self.sealed.partition_point(|segment| segment.last() < offset);
        self.sealed.get(next).map_or(&self.active, |sealed| sealed)
    }

    /// The offsets of a topic's messages that are not after `at`, newest first.
    fn newest_first(&self, topic: &TopicState, at: u64) -> impl Iterator<Item = u64> {
        let held_prev = move |offset: u64| {
            let prev = self.segment_of(offset).get(offset)?.message.prev?;
            (prev >= self.start()).then_some(prev)
        };
        let mut newest = Some(topic.newest);
        while let Some(later) = newest.filter(|&offset| offset > at) {
            // One step for each segment that has the topic and lies after `at`.
            let in_segment = self.segment_of(later).newest_not_after(topic.hash, topic.topic.as_str(), at);
            newest = in_segment.and_then(|message| message.offset());
            if newest.is_some_and(|offset| offset > at) {
                newest = newest.and_then(held_prev);
            }
        }
        std::iter::successors(newest, move |&offset| held_prev(offset))
    }
}

/// Gathers offsets and keeps the largest.
struct Newest {
    cap: usize,
    last: Last,
}

impl Newest {
    fn push(&mut self, offset: u64) {
        self.last.offsets.push(offset);
        if self.last.offsets.len() >= 2 * self.cap.max(512) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let Last { offsets, cut, cut_to } = &mut self.last;
        let excess = offsets.len().saturating_sub(self.cap);
        if excess == 0 {
            return;
        }
        let (_, &mut largest, _) = offsets.select_nth_unstable(excess - 1);
        offsets.drain(..excess);
        *cut += excess as u64;
        *cut_to = largest.max(*cut_to);
    }

    fn finish(mut self) -> Last {
        self.cut();
        self.last.offsets.sort_unstable();
        self.last
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::Payload;

    use super::*;

    const UNLIMITED: LogLimits =
        LogLimits { max_age_ms: u64::MAX, max_bytes: u64::MAX, retain_last_bytes: u64::MAX };
    const EVERYTHING: ReadBudget = ReadBudget { messages: usize::MAX, bytes: usize::MAX };

    fn log(limits: LogLimits) -> Log {
        Log::new(None, Epoch(1), limits)
    }

    fn draft(topic: &str, payload: usize) -> Draft {
        Draft {
            topic: Topic::parse(topic).unwrap(),
            payload: Payload::binary(vec![b'x'; payload]),
            key: None,
            headers: Vec::new(),
            origin: None,
        }
    }

    fn offsets(messages: &[Arc<Published>]) -> Vec<u64> {
        messages.iter().filter_map(|message| message.offset()).collect()
    }

    #[test]
    fn the_last_value_of_a_quiet_topic_outlives_a_flood_of_another() {
        let mut log = log(LogLimits { max_bytes: 20_000, retain_last_bytes: 2_000, ..UNLIMITED });
        log.append(draft("quiet", 10), 0, None).unwrap();
        for time in 0..1_000 {
            log.append(draft("flood", 100), time, None).unwrap();
        }
        assert!(log.start() > 1 && log.bytes() <= 20_000);
        let last = log.last(&Filter::parse(">").unwrap(), 1, None, 10);
        assert_eq!(last.offsets, [1, 1_001]);
        assert_eq!(*log.get(1).unwrap().topic(), Topic::parse("quiet").unwrap());
        assert_eq!(log.append(draft("quiet", 10), 1_000, None).unwrap().message.prev, None);
        assert_eq!(log.get(1), None, "its next value is the newest now");
    }

    #[test]
    fn who_listens_stands_beside_a_topics_messages_and_outlives_them() {
        let mut log = log(LogLimits { max_bytes: 20_000, retain_last_bytes: 0, ..UNLIMITED });
        let (heard, listener) = (Topic::parse("heard").unwrap(), |shard| Listener { shard, place: 7 });
        log.listen(&heard, listener(1));
        log.listen(&heard, listener(0));
        assert_eq!((log.topics(), log.last(&Filter::parse(">").unwrap(), 1, None, 10)), (0, Last::default()));
        let first = log.append(draft("heard", 10), 0, None).unwrap();
        assert_eq!((log.topics(), first.message.prev), (1, None));
        assert_eq!(log.listeners(&heard), [listener(0), listener(1)]);
        for time in 0..1_000 {
            log.append(draft("flood", 100), time, None).unwrap();
        }
        assert_eq!((log.topics(), log.get(1)), (1, None), "its message is gone");
        assert_eq!(log.listeners(&heard), [listener(0), listener(1)]);
        log.unlisten(&heard, 0);
        assert_eq!(log.listeners(&heard), [listener(1)]);
        log.unlisten(&heard, 1);
        assert_eq!(log.listeners(&heard), []);
        assert_eq!(log.topics.len(), 1, "nothing is kept of a topic without a message and a listener");
    }

    #[test]
    fn an_evicted_message_that_somebody_holds_stays_as_it_is() {
        let mut log = log(LogLimits { max_bytes: 100_000, ..UNLIMITED });
        let held: Vec<_> =
            (0..50).map(|n| log.append(draft(&format!("t{n}"), n as usize), n, None).unwrap()).collect();
        let before: Vec<Published> = held.iter().map(|message| Published::clone(message)).collect();
        for time in 50..5_000 {
            log.append(draft("flood", 100), time, None).unwrap();
        }
        assert!(log.start() > 50);
        assert!(held.iter().map(|message| &**message).eq(&before));
    }

    #[test]
    fn what_was_evicted_counts_until_it_is_let_go() {
        let mut log = log(LogLimits { max_bytes: 100_000, max_age_ms: 10_000, retain_last_bytes: 0 });
        let mut alive = VecDeque::new();
        for time in 0..5_000 {
            alive
                .push_back(Arc::downgrade(&log.append(draft("a", time as usize % 300), time, None).unwrap()));
            alive.retain(|message| message.strong_count() > 0);
            let pinned: u64 = alive.iter().filter_map(|weak| weak.upgrade()).map(|m| m.own_cost()).sum();
            assert!(pinned <= 100_000, "{pinned} bytes");
        }
        log.expire(20_000, None);
        assert!(alive.iter().all(|message| message.strong_count() == 0), "what is too old goes at once");
    }

    #[test]
    fn topics_that_came_once_are_forgotten() {
        let mut log = log(LogLimits { max_bytes: 100_000, retain_last_bytes: 10_000, ..UNLIMITED });
        for number in 0..50_000 {
            log.append(draft(&format!("once.t{number}"), 10), number, None).unwrap();
        }
        let kept = log.topics();
        assert!(kept < 600, "{kept} topics known");
        log.expire(u64::MAX, None);
        assert_eq!(log.topics(), kept, "nothing is older than for ever");
        let mut all_at_once = self::log(LogLimits { retain_last_bytes: 0, max_age_ms: 1_000, ..UNLIMITED });
        for number in 0..50_000 {
            all_at_once.append(draft(&format!("once.t{number}"), 10), 0, None).unwrap();
        }
        all_at_once.expire(1_001, None);
        assert_eq!((all_at_once.topics(), all_at_once.bytes(), all_at_once.messages()), (0, 0, 0));
        assert!(all_at_once.topics.capacity() <= MIN_TOPICS_CAPACITY, "the table gives its room back");
    }

    #[test]
    fn a_message_larger_than_the_limit_is_taken_alone() {
        let mut log = log(LogLimits { max_bytes: 1_000, ..UNLIMITED });
        log.append(draft("a", 10), 0, None).unwrap();
        assert_eq!(log.append(draft("a", 5_000), 0, None).unwrap().offset(), Some(2));
        assert_eq!((log.start(), log.messages()), (2, 1));
    }

    #[test]
    fn a_publish_waits_where_room_would_cost_what_a_shard_has_yet_to_fan_out() {
        let mut log = log(LogLimits { max_bytes: 10_000, ..UNLIMITED });
        while log.append(draft("a", 100), 0, Some(1)).is_ok() {}
        assert_eq!(log.start(), 1);
        let head = log.head();
        assert_eq!(log.append(draft("b", 100), 0, Some(1)), Err(draft("b", 100)));
        assert_eq!(log.append(draft("b", 100), 0, Some(head)).unwrap().offset(), Some(head + 1));
        assert!(log.start() > 1);
    }

    #[test]
    fn one_read_of_one_topic_passes_over_a_bounded_number_of_segments() {
        let mut log = log(LogLimits { max_age_ms: SEGMENTS_BY_AGE, ..UNLIMITED });
        let rare = Filter::parse("rare").unwrap();
        for time in 0..1_000 {
            // The hold keeps what is too old; so each message has its own segment.
            log.append(draft("often", 0), 10 * time, Some(1)).unwrap();
        }
        log.append(draft("rare", 0), 10_000, Some(1)).unwrap();
        assert_eq!(log.sealed.len(), 1_000);
        let mut after = 0;
        for reads in 1.. {
            let Read::Batch { messages, scanned } = log.read(after, u64::MAX, &rare, EVERYTHING) else {
                panic!("no sealed segment has the topic")
            };
            assert!(scanned - after <= SKIP as u64 + 1);
            after = scanned;
            if after == log.head() {
                assert_eq!((reads, offsets(&messages)), (4, vec![1_001]));
                break;
            }
        }
    }

    #[test]
    fn one_wildcard_read_looks_at_a_bounded_number_of_messages() {
        let mut log = log(UNLIMITED);
        for _ in 0..1_500 {
            log.append(draft("often", 0), 0, None).unwrap();
        }
        let rare = Filter::parse("rare.*").unwrap();
        for (after, expected) in [(0, 1_024), (1_024, 1_500), (1_500, 1_500)] {
            let Read::Batch { messages, scanned } = log.read(after, u64::MAX, &rare, EVERYTHING) else {
                panic!("nothing is sealed")
            };
            assert_eq!((messages.len(), scanned), (0, expected));
        }
    }

    #[test]
    fn a_segment_ends_by_bytes_by_messages_and_by_age() {
        let segments = |limits, count: u64, payload| {
            let mut log = log(limits);
            for time in 0..count {
                log.append(draft("a", payload), time, None).unwrap();
            }
            log.sealed.len() + 1
        };
        assert_eq!(segments(UNLIMITED, 10_000, 0), 3);
        assert_eq!(segments(LogLimits { max_age_ms: 16_000, ..UNLIMITED }, 10_000, 0), 10);
        assert_eq!(segments(LogLimits { max_bytes: 64 << 20, ..UNLIMITED }, 100, 100_000), 10);
    }

    #[test]
    fn last_as_it_stood_then_is_found_behind_what_came_since() {
        let mut log = log(LogLimits { max_bytes: 1 << 20, ..UNLIMITED });
        for time in 0..1_000 {
            log.append(draft("a", 200), time, None).unwrap();
        }
        assert!(log.sealed.len() > 3);
        let last = log.last(&Filter::parse("a").unwrap(), 3, Some(57), 10);
        assert_eq!(last.offsets, [55, 56, 57]);
        let cut = log.last(&Filter::parse("*").unwrap(), 900, None, 400);
        assert_eq!((cut.offsets.len(), cut.cut, cut.cut_to), (400, 500, 600));
    }
}
