//! The gathering generation of a `latest` lane: one slot for each topic and key, in the order of their newest values.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashMap;
use tidegate_protocol::{Topic, frame::GapReason};

use super::{
    loss::{Loss, Losses},
    queue::Queue,
};
use crate::stream::Published;

/// A value that waits, and what is missing just before it.
#[derive(Debug)]
struct Slot {
    message: Arc<Published>,
    losses: Losses,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Slots {
    /// By arrival, which in a stream is by offset.
    slots: BTreeMap<u64, Slot>,
    by_key: HashMap<(Topic, Option<Arc<str>>), u64>,
    next: u64,
    bytes: u64,
    /// Missing since the newest slot; goes before the next one.
    tail: Losses,
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// It replaced a waiting value.
    Merged,
    /// It pushed out the oldest slot of another key.
    Evicted,
}

/// What a slot and its place in the maps pin beside the message.
const SLOT_OVERHEAD: u64 = 160;

impl Slots {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.tail.is_empty()
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts `message` in its slot. `fits(slots, bytes)` says whether that many may wait.
    pub fn push(&mut self, message: &Arc<Published>, fits: impl Fn(u32, u64) -> bool) -> Pushed {
        let mut pushed = Pushed::Queued;
        let key = (message.message.topic.clone(), message.message.key.clone());
        let order = self.next;
        self.next += 1;
        let slot = Slot { message: message.clone(), losses: std::mem::take(&mut self.tail) };
        self.bytes += u64::from(message.cost) + SLOT_OVERHEAD;
        self.slots.insert(order, slot);
        if let Some(old) = self.by_key.insert(key, order) {
            self.remove(old, GapReason::Merged);
            pushed = Pushed::Merged;
        }
        while self.slots.len() > 1 && !fits(self.slots.len() as u32, self.bytes) {
            let Some((&oldest, slot)) = self.slots.first_key_value() else { break };
            self.by_key.remove(&(slot.message.message.topic.clone(), slot.message.message.key.clone()));
            self.remove(oldest, GapReason::Overflow);
            pushed = Pushed::Evicted;
        }
        pushed
    }

    /// Says that `loss` lies after the newest slot.
    pub fn push_loss(&mut self, loss: Loss) {
        self.tail.add(loss);
    }

    /// The generation goes out: its values in order, each with what is missing before it.
    pub fn drain_into(&mut self, out: &mut Queue) {
        for mut slot in std::mem::take(&mut self.slots).into_values() {
            slot.losses.take().for_each(|loss| out.push_loss(loss));
            out.push(slot.message);
        }
        self.tail.take().for_each(|loss| out.push_loss(loss));
        self.by_key.clear();
        self.bytes = 0;
    }

    /// A slot goes; what it stood for, and what was missing before it, is missing before the next one.
    fn remove(&mut self, order: u64, reason: GapReason) {
        let Some(mut gone) = self.slots.remove(&order) else { return };
        self.bytes -= u64::from(gone.message.cost) + SLOT_OVERHEAD;
        let place = match self.slots.range_mut(order..).next() {
            Some((_, next)) => &mut next.losses,
            None => &mut self.tail,
        };
        gone.losses.take().for_each(|loss| place.add(loss));
        place.add(Loss::of(&gone.message, reason));
    }
}
