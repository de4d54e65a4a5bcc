//! The newest message of each topic, once the log has let go of it.

use std::{collections::VecDeque, mem::size_of, sync::Arc};

use super::published::Published;

/// The newest messages of topics that the log no longer holds, under a cap of their own.
///
/// Which topic a message is the newest of is the log's knowledge; here they are known by offset. They come in the order
/// of their offsets, since the log lets go of them in that order, so a list stays sorted by itself.
#[derive(Debug)]
pub(super) struct Retained {
    max_bytes: u64,
    bytes: u64,
    /// Ascending by offset. The first is not a hole, and at most half are.
    places: VecDeque<Place>,
    holes: usize,
}

#[derive(Debug)]
struct Place {
    offset: u64,
    /// The message and its topic's hash; a hole where its topic has a newer one by now.
    held: Option<Held>,
}

/// A retained message.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) hash: u64,
    pub(super) message: Arc<Published>,
}

/// What the list spends on each message, in bytes: there is up to one hole for each, and the room to grow that
/// `VecDeque` leaves.
const PLACE: u64 = 4 * size_of::<Place>() as u64;

/// What retaining a message costs, in bytes: what it pins, its place, and its topic's place in the log's own table.
pub fn retained_cost(message: &Published) -> u64 {
    message.own_cost() + PLACE + super::log::topic_cost(message.topic())
}

impl Retained {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, bytes: 0, places: VecDeque::new(), holes: 0 }
    }

    /// Whether a message may be kept at all. One that alone is beyond the cap must not push out all the others.
    pub(super) fn takes(&self, message: &Published) -> bool {
        retained_cost(message) <= self.max_bytes
    }

    /// Keeps a message that is now its topic's newest outside the log, and of a larger offset than all before.
    ///
    /// The cap holds again only after [`Retained::pop_excess`].
    pub(super) fn push(&mut self, offset: u64, held: Held) {
        self.bytes += retained_cost(&held.message);
        self.places.push_back(Place { offset, held: Some(held) });
    }

    /// Drops the message with the lowest offset while the cap is exceeded, and returns it.
    pub(super) fn pop_excess(&mut self) -> Option<(u64, Held)> {
        if self.bytes <= self.max_bytes {
            return None;
        }
        let Place { offset, held } = self.places.pop_front()?;
        let held = held?;
        self.bytes -= retained_cost(&held.message);
        self.close_holes();
        Some((offset, held))
    }

    /// Drops a message that is no longer its topic's newest.
    pub(super) fn remove(&mut self, offset: u64) {
        let Some(held) = self.find(offset).and_then(|at| self.places[at].held.take()) else { return };
        self.bytes -= retained_cost(&held.message);
        self.holes += 1;
        self.close_holes();
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Arc<Published>> {
        Some(&self.places[self.find(offset)?].held.as_ref()?.message)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn find(&self, offset: u64) -> Option<usize> {
        self.places.binary_search_by_key(&offset, |place| place.offset).ok()
    }

    fn close_holes(&mut self) {
        while self.places.front().is_some_and(|first| first.held.is_none()) {
            self.places.pop_front();
            self.holes -= 1;
        }
        if self.holes > self.places.len() / 2 {
            self.places.retain(|place| place.held.is_some());
            self.holes = 0;
        }
        if self.places.len() < self.places.capacity() / 8 {
            self.places.shrink_to(2 * self.places.len());
        }
    }
}
