//! A message before it has a place, and after.

use std::{mem::size_of, sync::Arc};

use tidegate_protocol::{Message, Payload, Topic, frame::Headers};

/// What a publisher gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// Where to.
    pub topic: Topic,
    /// What.
    pub payload: Payload,
    /// What `latest` tells values of one topic apart by.
    pub key: Option<Arc<str>>,
    /// Names and values beside the payload.
    pub headers: Headers,
    /// The publisher's instance, for subscriptions with `echo: false`.
    pub origin: Option<Arc<str>>,
}

/// A message that was accepted, shared by the log, the shards and the lanes.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The message. Its `sub` is absent: which subscription it is for is not the message's business.
    pub message: Message,
    /// The first offset of the log's segment that holds it; segments are evicted whole. 0 for a live-only message.
    pub segment: u64,
    /// The publisher's instance.
    pub origin: Option<Arc<str>>,
    /// The memory it pins, in bytes: content, topic, key, headers and what keeping them costs. (In a log, messages of one
    /// topic share its text, and the log counts that once.)
    pub cost: u32,
}

/// What one heap block costs beyond its content, in bytes: the allocator's own word and its rounding up to 16.
const BLOCK: usize = 16;
/// The two counts in front of an `Arc`'s content, in bytes.
const ARC_COUNTS: usize = 2 * size_of::<usize>();
/// `Bytes` that were cloned point to a shared block of three words besides the content.
const SHARED_BYTES: usize = 3 * size_of::<usize>() + BLOCK;

impl Published {
    /// A message of a topic that is in no stream.
    pub fn live_only(draft: Draft, now_ms: u64) -> Arc<Self> {
        let cost = draft.cost();
        let message = Message {
            topic: draft.topic,
            stream: None,
            offset: None,
            prev: None,
            time: now_ms,
            payload: draft.payload,
            key: draft.key,
            headers: draft.headers,
            sub: None,
        };
        Arc::new(Self { message, segment: 0, origin: draft.origin, cost })
    }

    /// Its place in its stream; absent for a live-only message.
    pub fn offset(&self) -> Option<u64> {
        self.message.offset
    }

    /// Its topic.
    pub fn topic(&self) -> &Topic {
        &self.message.topic
    }

    /// Its cost, in bytes, to one who pays for its topic's text already.
    pub(super) fn own_cost(&self) -> u64 {
        (self.cost as usize).saturating_sub(shared_str_cost(self.topic().as_str())) as u64
    }
}

impl Draft {
    /// What the message will pin; see [`Published::cost`]. The origin is shared by all that its instance publishes
    /// and is charged there.
    pub fn cost(&self) -> u32 {
        let mut bytes = ARC_COUNTS + size_of::<Published>() + BLOCK;
        bytes += shared_str_cost(self.topic.as_str());
        bytes += self.payload.len() + BLOCK + SHARED_BYTES;
        bytes += self.key.as_deref().map_or(0, shared_str_cost);
        if !self.headers.is_empty() {
            bytes += BLOCK + self.headers.capacity() * size_of::<(Box<str>, Box<str>)>();
        }
        bytes += self.headers.iter().map(|(name, value)| name.len() + value.len() + 2 * BLOCK).sum::<usize>();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

/// What a text behind an `Arc` costs, in bytes.
pub(super) fn shared_str_cost(text: &str) -> usize {
    ARC_COUNTS + text.len() + BLOCK
}
