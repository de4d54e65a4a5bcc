//! A lane's first-in first-out queue: messages, and losses in the places where they happened.

use std::{collections::VecDeque, sync::Arc};

use tidegate_protocol::frame::GapReason;

use super::loss::Loss;
use crate::stream::Published;

/// What stands in a lane.
#[derive(Debug, Clone)]
pub enum Entry {
    Message(Arc<Published>),
    Loss(Box<Loss>),
}

/// Messages count against a lane's bound; losses stand in reserved slots, of which there are few between
/// two messages: neighbours with the same reason are one.
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Entry>,
    messages: u32,
    bytes: u64,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// What the waiting messages pin.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn push(&mut self, message: Arc<Published>) {
        self.messages += 1;
        self.bytes += u64::from(message.cost);
        self.entries.push_back(Entry::Message(message));
    }

    /// Says that `loss` follows whatever waits.
    pub fn push_loss(&mut self, loss: Loss) {
        match self.entries.back_mut() {
            Some(Entry::Loss(last)) if last.is_like(&loss) => last.absorb(loss),
            _ => self.entries.push_back(Entry::Loss(Box::new(loss))),
        }
    }

    pub fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        if let Entry::Message(message) = &entry {
            self.messages -= 1;
            self.bytes -= u64::from(message.cost);
        }
        Some(entry)
    }

    /// Puts back what was popped last.
    pub fn unpop(&mut self, entry: Entry) {
        if let Entry::Message(message) = &entry {
            self.messages += 1;
            self.bytes += u64::from(message.cost);
        }
        self.entries.push_front(entry);
    }

    /// The oldest waiting message becomes a loss in its own place. Nothing happens where none waits.
    pub fn drop_oldest(&mut self) {
        let Some(at) = self.entries.iter().position(|entry| matches!(entry, Entry::Message(_))) else {
            return;
        };
        let Some(Entry::Message(message)) = self.entries.get(at).cloned() else { return };
        self.messages -= 1;
        self.bytes -= u64::from(message.cost);
        let loss = Loss::of(&message, GapReason::Overflow);
        let before = at.checked_sub(1).filter(|&i| self.is_overflow(i));
        match before {
            Some(before) => {
                self.entries.remove(at);
                self.absorb_at(before, loss);
                // The loss behind the message now lies beside the one before it.
                if self.is_overflow(before + 1)
                    && let Some(Entry::Loss(next)) = self.entries.remove(before + 1)
                {
                    self.absorb_at(before, *next);
                }
            }
            None if self.is_overflow(at + 1) => {
                self.entries.remove(at);
                self.absorb_at(at, loss);
            }
            None => self.entries[at] = Entry::Loss(Box::new(loss)),
        }
    }

    /// Takes every waiting message out, oldest first; the losses before the first stay.
    pub fn let_go(&mut self) -> Vec<Arc<Published>> {
        let first = self.entries.iter().position(|entry| matches!(entry, Entry::Message(_)));
        let gone = self.entries.split_off(first.unwrap_or(self.entries.len()));
        (self.messages, self.bytes) = (0, 0);
        gone.into_iter()
            .filter_map(|entry| match entry {
                Entry::Message(message) => Some(message),
                Entry::Loss(_) => None,
            })
            .collect()
    }

    fn is_overflow(&self, at: usize) -> bool {
        matches!(self.entries.get(at), Some(Entry::Loss(loss)) if loss.reason == GapReason::Overflow && loss.is_exact())
    }

    fn absorb_at(&mut self, at: usize, loss: Loss) {
        if let Some(Entry::Loss(present)) = self.entries.get_mut(at) {
            present.absorb(loss);
        }
    }
}
