//! What waits between the driver and one subscription's reader.
//!
//! Bounded without a capacity of its own: messages by the credit the broker was given, notices by merging those that
//! follow each other. So the driver never waits for a reader.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tidegate_protocol::{Position, frame::Gap};

use crate::subscription::{EndReason, Event, Reset};

/// One thing for a reader, in the order of the subscription's flow.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    Event(Event),
    /// A mark moved the position while no message came.
    Positions(Vec<Position>),
}

/// Shared by a [`Subscription`](crate::Subscription) and the session.
///
/// The lock guards two pointers' worth of work: the driver appends a batch, the reader takes all there is.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    shared: Mutex<Shared>,
    /// Messages the reader has taken, ever, as far as it has told.
    taken: AtomicU64,
    /// Whether the session was told that there is something to see here, and has not looked yet.
    flagged: AtomicBool,
    /// Whether the reader is gone.
    abandoned: AtomicBool,
}

#[derive(Debug, Default)]
struct Shared {
    items: VecDeque<Item>,
    end: Option<EndReason>,
    reader: Option<Waker>,
}

impl Queue {
    /// Appends a batch and wakes the reader once.
    pub(crate) fn push(&self, batch: &mut Vec<Item>) {
        if batch.is_empty() {
            return;
        }
        let mut shared = self.lock();
        for item in batch.drain(..) {
            append(&mut shared.items, item);
        }
        let reader = shared.reader.take();
        drop(shared);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Nothing comes after what is here. The first reason stays.
    pub(crate) fn end(&self, reason: EndReason) {
        let mut shared = self.lock();
        shared.end.get_or_insert(reason);
        let reader = shared.reader.take();
        drop(shared);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Takes all there is into `local`, which is empty. Ready with false at the end.
    pub(crate) fn poll_take(&self, local: &mut VecDeque<Item>, cx: &Context<'_>) -> Poll<bool> {
        let mut shared = self.lock();
        if !shared.items.is_empty() {
            mem::swap(&mut shared.items, local);
            return Poll::Ready(true);
        }
        if shared.end.is_some() {
            return Poll::Ready(false);
        }
        match &mut shared.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Why it ended, once it has.
    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        self.lock().end.clone()
    }

    /// How many messages wait here.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().items.iter().filter(|item| matches!(item, Item::Event(Event::Message(_)))).count()
    }

    /// The reader has taken this many messages, ever. True if the session has to be told.
    pub(crate) fn took(&self, total: u64) -> bool {
        self.taken.store(total, Ordering::Release);
        !self.flagged.swap(true, Ordering::AcqRel)
    }

    /// The reader is gone. True if the session has to be told.
    pub(crate) fn abandon(&self) -> bool {
        self.abandoned.store(true, Ordering::Release);
        !self.flagged.swap(true, Ordering::AcqRel)
    }

    /// The session looks: how many messages were taken, ever.
    pub(crate) fn look(&self) -> u64 {
        self.flagged.store(false, Ordering::SeqCst);
        self.taken.load(Ordering::SeqCst)
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing that holds it can leave it half changed.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends `item`, or merges it with one of the notices that no message has followed yet.
fn append(items: &mut VecDeque<Item>, item: Item) {
    let is_message = |item: &Item| matches!(item, Item::Event(Event::Message(_)));
    if is_message(&item) {
        return items.push_back(item);
    }
    let notices = items.iter().rposition(is_message).map_or(0, |message| message + 1);
    if let Item::Event(Event::Reset(reset)) = item {
        return append_reset(items, notices, reset);
    }
    for waiting in items.range_mut(notices..).rev() {
        match (waiting, &item) {
            // What comes after a reset is of the new log: it must not go before it.
            (Item::Event(Event::Reset(_)), _) => break,
            (Item::Positions(waiting), Item::Positions(new)) => return merge_positions(waiting, new),
            (Item::Event(Event::Resumed(waiting)), Item::Event(Event::Resumed(new))) => {
                return waiting.clone_from(new);
            }
            (Item::Event(Event::Gap(waiting)), Item::Event(Event::Gap(new))) if same_cause(waiting, new) => {
                return merge_gaps(waiting, new);
            }
            _ => {}
        }
    }
    items.push_back(item);
}

/// A reset takes the place of one before it of the same stream: what stood between them is told before both.
fn append_reset(items: &mut VecDeque<Item>, notices: usize, mut reset: Reset) {
    let same_stream =
        |item: &Item| matches!(item, Item::Event(Event::Reset(r)) if r.new.stream == reset.new.stream);
    if let Some(at) = items.range(notices..).position(same_stream) {
        let between = items.split_off(notices + at + 1);
        if let Some(Item::Event(Event::Reset(before))) = items.pop_back() {
            reset.old = before.old;
        }
        for item in between {
            append(items, item);
        }
    }
    items.push_back(Item::Event(Event::Reset(reset)));
}

fn merge_positions(waiting: &mut Vec<Position>, new: &[Position]) {
    for position in new {
        match waiting.iter_mut().find(|waiting| waiting.stream == position.stream) {
            Some(waiting) => waiting.clone_from(position),
            None => waiting.push(position.clone()),
        }
    }
}

fn same_cause(a: &Gap, b: &Gap) -> bool {
    a.stream == b.stream
        && a.reason == b.reason
        && a.policy == b.policy
        && a.from.is_some() == b.from.is_some()
}

/// One gap that says what two say: exact only where both are, bounded only where both are.
fn merge_gaps(waiting: &mut Gap, new: &Gap) {
    if waiting.topic != new.topic {
        waiting.topic = None;
    }
    let bound = |gap: &Gap| gap.count.or(gap.at_most);
    (waiting.count, waiting.at_most) = match (waiting.count, new.count) {
        (Some(a), Some(b)) => (Some(a.saturating_add(b)), None),
        _ => (None, bound(waiting).zip(bound(new)).map(|(a, b)| a.saturating_add(b))),
    };
    waiting.from = waiting.from.min(new.from);
    waiting.to = waiting.to.max(new.to);
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::{
        Epoch, Message, Payload, Topic,
        frame::{GapReason, Overflow},
    };

    use super::*;
    use crate::subscription::Resumed;

    fn message(offset: u64) -> Item {
        Item::Event(Event::Message(Message {
            topic: Topic::parse("a").unwrap(),
            stream: None,
            offset: Some(offset),
            prev: None,
            time: 0,
            payload: Payload::text(""),
            key: None,
            headers: Vec::new(),
            sub: None,
        }))
    }

    fn gap(reason: GapReason, count: Option<u64>, to: u64) -> Item {
        Item::Event(Event::Gap(Gap {
            sub: 1,
            stream: None,
            topic: None,
            count,
            at_most: None,
            from: Some(to - 1),
            to: Some(to),
            reason,
            policy: Overflow::CatchUp,
        }))
    }

    fn reset(old: u64, new: u64) -> Item {
        let new = Position { stream: None, epoch: Epoch(new), offset: 0 };
        Item::Event(Event::Reset(Reset { old: Epoch(old), new }))
    }

    fn resumed(offset: u64) -> Item {
        let position = Position { stream: None, epoch: Epoch(1), offset };
        Item::Event(Event::Resumed(Resumed { positions: vec![position] }))
    }

    fn waiting(items: impl IntoIterator<Item = Item>) -> Vec<Item> {
        let mut queue = VecDeque::new();
        for item in items {
            append(&mut queue, item);
        }
        queue.into()
    }

    #[test]
    fn notices_merge_until_a_message_follows_and_never_across_it() {
        use GapReason::{Evicted, Overflow};
        let merged = waiting([
            gap(Overflow, Some(1), 5),
            gap(Evicted, Some(2), 6),
            gap(Overflow, Some(3), 9),
            message(10),
            gap(Overflow, Some(1), 12),
        ]);
        let Item::Event(Event::Gap(first)) = &merged[0] else { panic!("{merged:?}") };
        assert_eq!((first.count, first.from, first.to), (Some(4), Some(4), Some(9)));
        assert_eq!(merged[1..], [gap(Evicted, Some(2), 6), message(10), gap(Overflow, Some(1), 12)]);
    }

    #[test]
    fn a_merged_gap_is_exact_only_where_both_are() {
        let merged = waiting([gap(GapReason::Overflow, Some(1), 5), gap(GapReason::Overflow, None, 7)]);
        let [Item::Event(Event::Gap(merged))] = &merged[..] else { panic!("{merged:?}") };
        assert_eq!((merged.count, merged.at_most), (None, None), "nobody knows how many");
    }

    #[test]
    fn what_follows_a_reset_stays_behind_it_and_many_resets_are_one() {
        let epoch = |to| gap(GapReason::Epoch, None, to);
        let items = waiting([resumed(5), reset(1, 2), epoch(3), resumed(0), reset(2, 3), epoch(4)]);
        assert_eq!(items, [resumed(0), epoch(3), reset(1, 3), epoch(4)]);
    }

    #[test]
    fn a_reader_that_never_reads_makes_no_queue_grow() {
        let rounds =
            (0..1000u64).flat_map(|n| [resumed(n), reset(n, n + 1), gap(GapReason::Epoch, None, n + 2)]);
        assert!(waiting(rounds).len() <= 4);
    }
}
