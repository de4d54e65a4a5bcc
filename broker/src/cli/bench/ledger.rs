//! What every subscriber got, held against what was published. No I/O, no clock.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::sync::Semaphore;

/// Which message a payload is: its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) publisher: u32,
    /// Its place among the publisher's messages, from 0.
    pub(super) sequence: u64,
    /// When it was to be published, in nanoseconds since the run began.
    pub(super) due: u64,
}

impl Stamp {
    /// What a payload has at the least.
    pub(super) const BYTES: usize = 20;

    /// A payload of `size` bytes, of which [`Stamp::BYTES`] are this.
    pub(super) fn payload(self, size: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(size.max(Self::BYTES));
        payload.extend_from_slice(&self.publisher.to_be_bytes());
        payload.extend_from_slice(&self.sequence.to_be_bytes());
        payload.extend_from_slice(&self.due.to_be_bytes());
        payload.resize(size.max(Self::BYTES), 0);
        payload
    }

    /// `None` where the payload is not of this run.
    pub(super) fn read(payload: &[u8], size: usize) -> Option<Self> {
        if payload.len() != size.max(Self::BYTES) {
            return None;
        }
        let (publisher, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (due, _) = rest.split_first_chunk()?;
        Some(Self {
            publisher: u32::from_be_bytes(*publisher),
            sequence: u64::from_be_bytes(*sequence),
            due: u64::from_be_bytes(*due),
        })
    }
}

/// One subscriber's books.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Of each publisher: what comes next.
    next: Vec<u64>,
    /// What was passed over and may come late.
    skipped: BTreeSet<(u32, u64)>,
    pub(super) tally: Tally,
}

/// What came, over one subscriber or all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Different messages.
    pub(super) received: u64,
    /// Messages that came again.
    pub(super) doubled: u64,
    /// Messages that came after a later one.
    pub(super) reordered: u64,
    /// Messages that nobody of this run published.
    pub(super) foreign: u64,
}

/// Messages passed over that a subscriber keeps in mind. Beyond it, one that comes late counts as doubled: the run has
/// failed anyway.
const SKIPPED: usize = 4096;

impl Ledger {
    pub(super) fn new(publishers: u32) -> Self {
        Self { next: vec![0; publishers as usize], skipped: BTreeSet::new(), tally: Tally::default() }
    }

    /// Enters a message. Which of its publisher's messages need not be waited for any more.
    pub(super) fn on_message(&mut self, stamp: Stamp) -> Range<u64> {
        let Stamp { publisher, sequence, .. } = stamp;
        let Some(next) = self.next.get_mut(publisher as usize) else {
            self.tally.foreign += 1;
            return 0..0;
        };
        if sequence < *next {
            if self.skipped.remove(&(publisher, sequence)) {
                self.tally.received += 1;
                self.tally.reordered += 1;
            } else {
                self.tally.doubled += 1;
            }
            return 0..0;
        }
        let room = SKIPPED.saturating_sub(self.skipped.len());
        self.skipped.extend((*next..sequence).take(room).map(|skipped| (publisher, skipped)));
        let settled = *next..sequence + 1;
        *next = sequence + 1;
        self.tally.received += 1;
        settled
    }
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.received += other.received;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.foreign += other.foreign;
    }
}

/// How many of one publisher's messages may be on their way: published, and not yet with every subscriber.
#[derive(Debug)]
pub(super) struct Window {
    /// Of each message that is on its way, how many subscribers have it. A power of two.
    arrived: Box<[AtomicU32]>,
    subscribers: u32,
    /// One permit a message.
    pub(super) room: Semaphore,
}

impl Window {
    /// For `size` messages, rounded up to a power of two.
    pub(super) fn new(size: usize, subscribers: u32) -> Self {
        let size = size.next_power_of_two();
        let arrived = (0..size).map(|_| AtomicU32::new(0)).collect();
        Self { arrived, subscribers, room: Semaphore::new(size) }
    }

    /// One subscriber needs no longer wait for these, which a [`Ledger`] gave.
    pub(super) fn on_settled(&self, sequences: Range<u64>) {
        for sequence in sequences {
            let slot = &self.arrived[(sequence % self.arrived.len() as u64) as usize];
            if slot.fetch_add(1, Ordering::AcqRel) + 1 == self.subscribers {
                // The slot's next message waits for the permit.
                slot.store(0, Ordering::Release);
                self.room.add_permits(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u64) -> Stamp {
        Stamp { publisher: 0, sequence, due: 7 }
    }

    fn ledger(sequences: &[u64]) -> Ledger {
        let mut ledger = Ledger::new(1);
        for &sequence in sequences {
            ledger.on_message(stamp(sequence));
        }
        ledger
    }

    #[test]
    fn a_payload_reads_back_and_another_size_is_not_ours() {
        for size in [0, 20, 128] {
            let payload = stamp(42).payload(size);
            assert_eq!(payload.len(), size.max(20));
            assert_eq!(Stamp::read(&payload, size), Some(stamp(42)));
            assert_eq!(Stamp::read(&payload[1..], size), None);
        }
    }

    #[test]
    fn what_comes_in_order_is_received_and_nothing_else() {
        assert_eq!(ledger(&[0, 1, 2]).tally, Tally { received: 3, ..Tally::default() });
    }

    #[test]
    fn a_message_that_comes_again_is_doubled() {
        assert_eq!(ledger(&[0, 1, 1, 0]).tally, Tally { received: 2, doubled: 2, ..Tally::default() });
    }

    #[test]
    fn a_message_that_comes_after_a_later_one_is_reordered_and_not_missing() {
        let all = ledger(&[0, 2, 1, 3]).tally;
        assert_eq!(all, Tally { received: 4, reordered: 1, ..Tally::default() });
        // It comes again: that is a double.
        assert_eq!(ledger(&[0, 2, 1, 1]).tally.doubled, 1);
    }

    #[test]
    fn a_missing_message_is_never_received() {
        assert_eq!(ledger(&[0, 3]).tally.received, 2);
    }

    #[test]
    fn a_message_of_an_unknown_publisher_is_foreign() {
        let mut ledger = Ledger::new(1);
        assert_eq!(ledger.on_message(Stamp { publisher: 1, ..stamp(0) }), 0..0);
        assert_eq!(ledger.tally.foreign, 1);
    }

    #[test]
    fn the_window_has_room_once_every_subscriber_has_the_message_or_will_never_have_it() {
        let window = Window::new(2, 2);
        window.room.try_acquire_many(2).unwrap().forget();
        window.on_settled(0..1);
        assert_eq!(window.room.available_permits(), 0);
        // The other one was not given the first message.
        window.on_settled(0..2);
        assert_eq!(window.room.available_permits(), 1);
        window.on_settled(1..2);
        assert_eq!(window.room.available_permits(), 2);
    }
}
