//! The newest message of each topic, once the log has let go of it.

use std::{collections::BTreeMap, mem::size_of, sync::Arc};

use super::published::Published;

/// The newest messages of topics that the log no longer holds, under a cap of their own.
///
/// Which topic a message is the newest of is the log's knowledge; here they are known by offset.
#[derive(Debug)]
pub(super) struct Retained {
    max_bytes: u64,
    bytes: u64,
    /// With their topics' hashes.
    messages: BTreeMap<u64, (u64, Arc<Published>)>,
}

/// What the tree spends on each message, in bytes: two thirds of a node's places are in use on average, half at worst.
const PLACE: u64 = 2 * size_of::<(u64, u64, Arc<Published>)>() as u64;

/// What retaining a message costs, in bytes: what it pins, its place, and its topic's place in the log's own table.
pub fn retained_cost(message: &Published) -> u64 {
    message.own_cost() + PLACE + super::log::topic_cost(message.topic())
}

impl Retained {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, bytes: 0, messages: BTreeMap::new() }
    }

    /// Keeps the message that is now its topic's newest outside the log. False where it alone is beyond the cap: it
    /// must not push out all the others.
    ///
    /// The cap holds again only after [`Retained::pop_excess`].
    pub(super) fn insert(&mut self, offset: u64, hash: u64, message: Arc<Published>) -> bool {
        let cost = retained_cost(&message);
        if cost > self.max_bytes {
            return false;
        }
        self.bytes += cost;
        self.messages.insert(offset, (hash, message));
        true
    }

    /// Drops the message with the lowest offset while the cap is exceeded; returns that offset and its topic's hash.
    pub(super) fn pop_excess(&mut self) -> Option<(u64, u64)> {
        if self.bytes <= self.max_bytes {
            return None;
        }
        let (offset, (hash, message)) = self.messages.pop_first()?;
        self.bytes -= retained_cost(&message);
        Some((offset, hash))
    }

    /// Drops a message that is no longer its topic's newest.
    pub(super) fn remove(&mut self, offset: u64) {
        if let Some((_, message)) = self.messages.remove(&offset) {
            self.bytes -= retained_cost(&message);
        }
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Arc<Published>> {
        self.messages.get(&offset).map(|(_, message)| message)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
