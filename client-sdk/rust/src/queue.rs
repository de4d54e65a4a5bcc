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
    if matches!(item, Item::Event(Event::Message(_))) {
        return items.push_back(item);
    }
    let trailing = items.iter_mut().rev().take_while(|item| !matches!(item, Item::Event(Event::Message(_))));
    for waiting in trailing {
        match (waiting, &item) {
            (Item::Positions(waiting), Item::Positions(new)) => return merge_positions(waiting, new),
            (Item::Event(Event::Resumed(waiting)), Item::Event(Event::Resumed(new))) => {
                return waiting.clone_from(new);
            }
            (Item::Event(Event::Reset(waiting)), Item::Event(Event::Reset(new)))
                if same_log(waiting, new) =>
            {
                return waiting.new.clone_from(&new.new);
            }
            (Item::Event(Event::Gap(waiting)), Item::Event(Event::Gap(new))) if same_cause(waiting, new) => {
                return merge_gaps(waiting, new);
            }
            // A gap's offsets are of the log the reset begins: it must not go to one before it.
            (Item::Event(Event::Reset(_)), Item::Event(Event::Gap(_))) => break,
            _ => {}
        }
    }
    items.push_back(item);
}

fn merge_positions(waiting: &mut Vec<Position>, new: &[Position]) {
    for position in new {
        match waiting.iter_mut().find(|waiting| waiting.stream == position.stream) {
            Some(waiting) => waiting.clone_from(position),
            None => waiting.push(position.clone()),
        }
    }
}

fn same_log(waiting: &Reset, new: &Reset) -> bool {
    waiting.new.stream == new.new.stream
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
