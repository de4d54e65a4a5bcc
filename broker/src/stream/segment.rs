//! The part of a log that is read alone and that goes as a whole.

use std::{hash::BuildHasher, mem::size_of, sync::Arc};

use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;
use tidegate_protocol::Filter;

use super::published::Published;

/// How much one read may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBudget {
    /// At most this many messages.
    pub messages: usize,
    /// At most this many bytes, by [`Published::cost`]; the first message is returned whatever its size.
    pub bytes: usize,
}

/// Consecutive messages of a log, and where in it each topic's are.
///
/// It knows its messages by topic, so reading one topic costs by what is returned. It needs nothing of the log, so
/// that a sealed one is read without the stream's lock.
#[derive(Debug)]
pub struct Segment {
    first: u64,
    messages: Vec<Arc<Published>>,
    /// One for each topic in the segment; its place here is the topic's slot.
    topics: Vec<TopicMessages>,
    /// Slots by topic.
    slots: HashTable<u32>,
    /// The log's own, so that a topic is hashed once for both.
    hasher: DefaultHashBuilder,
    oldest_time: u64,
    newest_time: u64,
    bytes: u64,
}

/// Where in a segment a topic's messages are.
#[derive(Debug)]
pub(super) struct TopicMessages {
    /// The topic's, by the log's hasher.
    pub(super) hash: u64,
    /// Indices of messages, ascending; never empty.
    at: SmallVec<[u32; 4]>,
}

/// How many messages one wildcard read looks at, at most. It bounds how long a reader whose filter takes little holds
/// the stream's lock or its shard: about 0.1 ms.
const SCAN: usize = 1024;

/// What a segment spends on each message besides the message itself, in bytes: its place in the list and in its
/// topic's, each with the room to grow that `Vec` leaves.
const MESSAGE_INDEX: u64 = 2 * (size_of::<Arc<Published>>() + size_of::<u32>()) as u64;
/// What a segment spends on each topic in it, in bytes: the list and the slot, each with the room to grow that the
/// table leaves.
const TOPIC_INDEX: u64 = 2 * (size_of::<TopicMessages>() + size_of::<u32>() + 1) as u64;

impl Segment {
    /// The messages of `filter` in (`after`, `scanned`], in order, where `scanned` <= `upto`.
    ///
    /// `scanned` is less than both `upto` and the segment's last offset where the budget ended the read, or where a
    /// wildcard read has looked at 1,024 messages; read on from there. It is `after` where the segment has nothing
    /// beyond that.
    pub fn read(
        &self,
        after: u64,
        upto: u64,
        filter: &Filter,
        budget: ReadBudget,
    ) -> (Vec<Arc<Published>>, u64) {
        let upto = upto.min(self.last());
        if after >= upto {
            return (Vec::new(), after);
        }
        let mut batch = Batch { messages: Vec::new(), left: budget };
        let scanned = if filter.is_wildcard() {
            self.scan(after, upto, filter, &mut batch)
        } else {
            self.read_topic(after, upto, filter.as_str(), &mut batch)
        };
        (batch.messages, scanned)
    }

    /// Its first offset: the segment's name in [`Published::segment`].
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Its last offset; `first - 1` where it is empty.
    pub fn last(&self) -> u64 {
        self.first + self.messages.len() as u64 - 1
    }

    fn read_topic(&self, after: u64, upto: u64, topic: &str, batch: &mut Batch) -> u64 {
        let hash = self.hasher.hash_one(topic);
        for &index in self.topic_after(hash, topic, after) {
            let offset = self.offset(index);
            if offset > upto {
                break;
            }
            if !batch.push(&self.messages[index as usize]) {
                return offset - 1;
            }
        }
        upto
    }

    fn scan(&self, after: u64, upto: u64, filter: &Filter, batch: &mut Batch) -> u64 {
        let from = (after + 1).max(self.first);
        let to = upto.min(from + SCAN as u64 - 1);
        let range = (from - self.first) as usize..=(to - self.first) as usize;
        for (offset, message) in (from..).zip(&self.messages[range]) {
            if filter.matches(message.topic()) && !batch.push(message) {
                return offset - 1;
            }
        }
        to
    }
}

/// What the log needs of its segments.
impl Segment {
    /// An empty segment with room for as much as `like`, its predecessor, so that it seldom has to grow.
    pub(super) fn after(like: &Self) -> Self {
        Self {
            messages: Vec::with_capacity(like.messages.len()),
            topics: Vec::with_capacity(like.topics.len()),
            slots: HashTable::with_capacity(like.topics.len()),
            ..Self::new(like.last() + 1, like.hasher.clone())
        }
    }

    pub(super) fn new(first: u64, hasher: DefaultHashBuilder) -> Self {
        Self {
            first,
            messages: Vec::new(),
            topics: Vec::new(),
            slots: HashTable::new(),
            hasher,
            oldest_time: 0,
            newest_time: 0,
            bytes: 0,
        }
    }

    /// Appends a message of a topic that has none in this segment, and returns the topic's slot.
    pub(super) fn push_topic(&mut self, hash: u64, message: Arc<Published>) -> u32 {
        let slot = self.topics.len() as u32;
        self.topics.push(TopicMessages { hash, at: SmallVec::new() });
        let topics = &self.topics;
        self.slots.insert_unique(hash, slot, |&slot| topics[slot as usize].hash);
        self.bytes += TOPIC_INDEX;
        self.push(slot, message);
        slot
    }

    /// Appends a message of the topic at `slot`.
    pub(super) fn push(&mut self, slot: u32, message: Arc<Published>) {
        if self.messages.is_empty() {
            self.oldest_time = message.message.time;
        }
        self.newest_time = message.message.time;
        self.bytes += Self::message_bytes(&message);
        self.topics[slot as usize].at.push(self.messages.len() as u32);
        self.messages.push(message);
    }

    /// Gives the room to grow back: from now on it does not change.
    pub(super) fn seal(mut self) -> Arc<Self> {
        self.messages.shrink_to_fit();
        self.topics.shrink_to_fit();
        Arc::new(self)
    }

    /// Its messages, and what they pin in bytes: [`Segment::message_bytes`] of each.
    pub(super) fn into_messages(self) -> (Vec<Arc<Published>>, u64) {
        let bytes = self.bytes - self.topics.len() as u64 * TOPIC_INDEX;
        (self.messages, bytes)
    }

    /// What a message adds to [`Segment::bytes`].
    pub(super) fn message_bytes(message: &Published) -> u64 {
        message.own_cost() + MESSAGE_INDEX
    }

    /// The most that appending a message of this cost can add to [`Segment::bytes`].
    pub(super) fn room_for(cost: u32) -> u64 {
        u64::from(cost) + MESSAGE_INDEX + TOPIC_INDEX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// What it pins.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn oldest_time(&self) -> u64 {
        self.oldest_time
    }

    pub(super) fn newest_time(&self) -> u64 {
        self.newest_time
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Arc<Published>> {
        self.messages.get(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }

    /// Each topic's hash and newest message in this segment.
    pub(super) fn newest_of_topics(&self) -> impl Iterator<Item = (u64, &Arc<Published>)> {
        self.topics.iter().filter_map(|topic| Some((topic.hash, &self.messages[*topic.at.last()? as usize])))
    }

    /// Whether it has a message of `topic` in (`after`, `upto`].
    pub(super) fn has_topic(&self, hash: u64, topic: &str, after: u64, upto: u64) -> bool {
        self.topic_after(hash, topic, after).first().is_some_and(|&index| self.offset(index) <= upto)
    }

    /// The newest message of `topic` that is not after `offset`; where there is none, its oldest.
    pub(super) fn newest_not_after(&self, hash: u64, topic: &str, offset: u64) -> Option<&Arc<Published>> {
        let all = self.topic(hash, topic);
        let later = all.partition_point(|&index| self.offset(index) <= offset);
        all.get(later.saturating_sub(1)).map(|&index| &self.messages[index as usize])
    }

    /// The offset before the first message from `time` on.
    pub(super) fn before_time(&self, time: u64) -> u64 {
        self.first + self.messages.partition_point(|message| message.message.time < time) as u64 - 1
    }

    fn topic_after(&self, hash: u64, topic: &str, after: u64) -> &[u32] {
        let all = self.topic(hash, topic);
        &all[all.partition_point(|&index| self.offset(index) <= after)..]
    }

    fn topic(&self, hash: u64, topic: &str) -> &[u32] {
        let is_it = |&slot: &u32| {
            let candidate = &self.topics[slot as usize];
            candidate.hash == hash && self.messages[candidate.at[0] as usize].topic().as_str() == topic
        };
        self.slots.find(hash, is_it).map_or(&[], |&slot| &self.topics[slot as usize].at)
    }

    fn offset(&self, index: u32) -> u64 {
        self.first + u64::from(index)
    }
}

/// What a read has gathered, and what it may still gather.
struct Batch {
    messages: Vec<Arc<Published>>,
    left: ReadBudget,
}

impl Batch {
    /// Takes the message, unless the budget is used up.
    fn push(&mut self, message: &Arc<Published>) -> bool {
        let cost = message.cost as usize;
        if self.left.messages == 0 || (cost > self.left.bytes && !self.messages.is_empty()) {
            return false;
        }
        self.left.messages -= 1;
        self.left.bytes = self.left.bytes.saturating_sub(cost);
        self.messages.push(message.clone());
        true
    }
}
