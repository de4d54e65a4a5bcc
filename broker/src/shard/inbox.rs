//! What comes to a shard from the others and from itself: messages to fan out, outcomes of its publishers' requests.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use mio::Waker;
use parking_lot::Mutex;

use crate::{
    engine::{Settled, Tally},
    stream::Published,
};

/// A message to fan out.
#[derive(Debug)]
pub struct Item {
    pub published: Arc<Published>,
    /// Its stream; none for a live-only message.
    pub stream: Option<usize>,
    /// Where to tell how it went.
    pub tally: Option<Arc<Tally>>,
    /// Where the shard's index had the topic, if it did, when the message came to its place: see `Index::matches_at`.
    pub place: Option<u32>,
}

/// One shard's bounded inbound queue. It is filled under the streams' locks, so that its order is theirs; nobody ever
/// waits for room in it.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    /// Of the shard's epoll instance; absent until it has one.
    waker: OnceLock<Waker>,
    capacity: usize,
}

/// What waits.
#[derive(Debug, Default)]
pub struct Waiting {
    pub items: VecDeque<Item>,
    /// Bounded by the publish windows of the shard's connections.
    pub settled: Vec<Settled>,
    /// Streams whose push was refused: the shard reads their logs, behind `items`. One that is refused only after this
    /// was taken may have newer items waiting, and is not read before those.
    pub refused: Vec<usize>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.settled.is_empty() && self.refused.is_empty()
    }
}

impl Inbox {
    pub fn new(capacity: usize) -> Self {
        Self { waiting: Mutex::default(), waker: OnceLock::new(), capacity }
    }

    /// Queues `item`; false where there is no room.
    #[must_use]
    pub fn push(&self, item: Item, wake: bool) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.items.len() >= self.capacity {
            return false;
        }
        self.put(&mut waiting, wake, |waiting| waiting.items.push_back(item));
        true
    }

    /// Queues `item`, for which room was asked before.
    pub fn push_anyway(&self, item: Item, wake: bool) {
        self.put(&mut self.waiting.lock(), wake, |waiting| waiting.items.push_back(item));
    }

    pub fn has_room(&self) -> bool {
        self.waiting.lock().items.len() < self.capacity
    }

    pub fn settle(&self, settled: Settled, wake: bool) {
        self.put(&mut self.waiting.lock(), wake, |waiting| waiting.settled.push(settled));
    }

    /// Says that a push of `stream` was refused, once until it is level again.
    pub fn refuse(&self, stream: usize) {
        self.put(&mut self.waiting.lock(), true, |waiting| waiting.refused.push(stream));
    }

    /// Swaps what waits for `empty`.
    pub fn take(&self, empty: &mut Waiting) {
        std::mem::swap(&mut *self.waiting.lock(), empty);
    }

    /// How many messages wait.
    pub fn depth(&self) -> usize {
        self.waiting.lock().items.len()
    }

    /// Whether nothing waits. What a shard gives to its own inbox wakes nobody.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// What ends the shard's wait. It is set once, by the shard.
    pub fn wake_with(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }

    /// Ends the shard's wait, or the next one where it is not waiting.
    pub fn wake(&self) {
        if let Some(Err(error)) = self.waker.get().map(Waker::wake) {
            tracing::error!(%error, "a shard could not be woken");
        }
    }

    /// One wake for all that gathers until the shard takes it.
    fn put(&self, waiting: &mut Waiting, wake: bool, put: impl FnOnce(&mut Waiting)) {
        let first = waiting.is_empty();
        put(waiting);
        if first && wake {
            self.wake();
        }
    }
}
