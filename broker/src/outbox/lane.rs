//! The bounded queue of one subscription for one stream. Here, and only here, an overflow policy acts.

use std::sync::Arc;

use tidegate_protocol::frame::{GapReason, Overflow};

use super::{
    loss::Loss,
    queue::{Entry, Queue},
    reading::{LogSource, Reading},
    slots::{Pushed, Slots},
};
use crate::stream::{Published, ReadBudget};

/// The terms a subscription's ack told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub overflow: Overflow,
    /// In messages.
    pub limit: u32,
    /// In bytes; an empty lane takes one message of any allowed size.
    pub limit_bytes: u32,
}

/// What a lane did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It waits.
    Queued,
    /// It waits, and took the place of an older value of its key.
    Merged,
    /// It, or another one in its stead, is lost and will be told.
    Dropped,
    /// It will be read from the log.
    Behind,
    /// It was published before the subscription came.
    Skipped,
    /// The subscription wants the connection closed rather than lose it.
    Disconnect,
}

/// See the module. It exists only while its subscription is not level.
#[derive(Debug)]
pub struct Lane {
    terms: Terms,
    /// Messages up to this offset are not given: the subscription came later, or reads them from the log.
    skip_to: u64,
    /// Goes out next, in order.
    out: Queue,
    /// What came while the lane reads the log up to its ack's `live`; goes out after it.
    waiting: Queue,
    /// The gathering generation of `latest`, while the one before it goes out.
    slots: Option<Box<Slots>>,
    reading: Option<Box<Reading>>,
    /// Whether what is read goes through the slots: `latest` that resumes must not live in the past.
    reads_into_slots: bool,
}

impl Lane {
    /// For a subscription that was level until now. `in_stream` is false for its live-only topics, which have no log
    /// to catch up from.
    pub fn new(terms: Terms, in_stream: bool) -> Self {
        let overflow = match terms.overflow {
            Overflow::CatchUp if !in_stream => Overflow::DropOldest,
            overflow => overflow,
        };
        Self {
            terms: Terms { overflow, ..terms },
            skip_to: 0,
            out: Queue::default(),
            waiting: Queue::default(),
            slots: (overflow == Overflow::Latest).then(Box::default),
            reading: None,
            reads_into_slots: false,
        }
    }

    /// For a subscription that starts with history: after `after`, with `selected` offsets first, up to `live`.
    /// `resumed` from a position, `latest` takes the log through its slots.
    pub fn starting(terms: Terms, after: u64, live: u64, selected: Vec<u64>, resumed: bool) -> Self {
        let mut lane = Self::new(terms, true);
        lane.skip_to = live;
        lane.reads_into_slots = resumed && terms.overflow == Overflow::Latest;
        let moving =
            lane.reads_into_slots || matches!(terms.overflow, Overflow::CatchUp | Overflow::Disconnect);
        lane.reading = Some(Box::new(Reading::from_start(after, live, selected, moving)));
        lane
    }

    /// For a subscription that starts live while messages up to `live` are still on their way through the shard.
    pub fn waiting_for(terms: Terms, live: u64) -> Self {
        Self { skip_to: live, ..Self::new(terms, true) }
    }

    /// The policy that acts here.
    pub fn overflow(&self) -> Overflow {
        self.terms.overflow
    }

    /// Takes a message that is being fanned out. `room` is false while a budget beyond the lane's own is spent.
    pub fn offer(&mut self, message: &Arc<Published>, room: bool) -> Offered {
        if message.offset().is_some_and(|offset| offset <= self.skip_to) {
            return Offered::Skipped;
        }
        if let Some(reading) = self.reading.as_mut().filter(|reading| reading.is_moving()) {
            reading.count(message);
            return Offered::Behind;
        }
        let terms = self.terms;
        if let Some(slots) = &mut self.slots {
            if !room && slots.is_empty() {
                slots.push_loss(Loss::of(message, GapReason::Overflow));
                return Offered::Dropped;
            }
            return match slots.push(message, |messages, bytes| room && terms.fit(messages, bytes)) {
                Pushed::Queued => Offered::Queued,
                Pushed::Merged => Offered::Merged,
                Pushed::Evicted => Offered::Dropped,
            };
        }
        // What was read goes out before what waited behind it, and that before what comes now.
        let behind = self.reading.is_some() || !self.waiting.is_empty();
        let queue = if behind { &mut self.waiting } else { &mut self.out };
        let fits = |queue: &Queue| {
            let bytes = queue.bytes() + u64::from(message.cost);
            room && (queue.messages() == 0 || terms.fit(queue.messages() + 1, bytes))
        };
        if fits(queue) {
            queue.push(message.clone());
            return Offered::Queued;
        }
        match terms.overflow {
            Overflow::DropNewest => {
                queue.push_loss(Loss::of(message, GapReason::Overflow));
                Offered::Dropped
            }
            Overflow::CatchUp => {
                let mut gone = queue.let_go();
                gone.push(message.clone());
                self.reading = Some(Box::new(Reading::after_letting_go(&gone)));
                Offered::Behind
            }
            Overflow::Disconnect => Offered::Disconnect,
            Overflow::DropOldest | Overflow::Latest => {
                while !fits(queue) && queue.messages() > 0 {
                    queue.drop_oldest();
                }
                if fits(queue) {
                    queue.push(message.clone());
                } else {
                    queue.push_loss(Loss::of(message, GapReason::Overflow));
                }
                Offered::Dropped
            }
        }
    }

    /// Says that something is missing before what comes next.
    pub fn lose(&mut self, loss: Loss) {
        match &mut self.slots {
            Some(slots) if self.reads_into_slots || self.reading.is_none() => slots.push_loss(loss),
            _ => self.out.push_loss(loss),
        }
    }

    /// Whether the log is to be read before the lane can go on.
    pub fn wants_log(&self) -> bool {
        self.reading.is_some() && (self.reads_into_slots || self.out.is_empty())
    }

    /// Whether that read waits for no socket: it goes through the slots.
    pub fn reads_unpaced(&self) -> bool {
        self.reading.is_some() && self.reads_into_slots
    }

    /// Reads a part of the log, where [`Lane::wants_log`]. `is_mine` is false for what `echo: false` holds back.
    /// `room` as for [`Lane::offer`]: without it one message is read at a time, or no reader would ever go on. Returns
    /// the bytes read.
    pub fn read_on(
        &mut self,
        cursor: u64,
        budget: ReadBudget,
        room: bool,
        source: &mut impl LogSource,
        is_mine: impl Fn(&Published) -> bool,
    ) -> u64 {
        let Some(mut reading) = self.reading.take() else { return 0 };
        // What is read waits in the lane, so its bound holds; what goes through the slots is bounded there.
        let budget = match self.reads_into_slots {
            true => budget,
            false if room => self.terms.cut(budget),
            false => ReadBudget { messages: 1, ..budget },
        };
        let step = reading.step(cursor, budget, source, is_mine);
        if !step.done {
            self.reading = Some(reading);
        }
        let bytes = step.messages.iter().map(|message| u64::from(message.cost)).sum();
        let terms = self.terms;
        match &mut self.slots {
            Some(slots) if self.reads_into_slots => {
                step.loss.into_iter().for_each(|loss| slots.push_loss(loss));
                for message in &step.messages {
                    slots.push(message, |messages, bytes| room && terms.fit(messages, bytes));
                }
            }
            _ => {
                step.loss.into_iter().for_each(|loss| self.out.push_loss(loss));
                step.messages.into_iter().for_each(|message| self.out.push(message));
            }
        }
        if self.reading.is_none() {
            self.reads_into_slots = false;
        }
        bytes
    }

    /// Whether [`Lane::lose_evicted`] is due.
    pub fn remembers_much(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.is_long())
    }

    /// Tells what the log, which begins at `start`, has let go of before the lane could read it.
    pub fn lose_evicted(&mut self, start: u64, cursor: u64) {
        let Some(reading) = &mut self.reading else { return };
        for loss in reading.lose_evicted(start, cursor) {
            match &mut self.slots {
                Some(slots) if self.reads_into_slots => slots.push_loss(loss),
                _ => self.out.push_loss(loss),
            }
        }
    }

    /// What goes out next. Without `credit` it is as if the socket were full: nothing, or a loss would be told anew with
    /// every message that adds to it.
    pub fn pop(&mut self, credit: bool) -> Option<Entry> {
        if !credit {
            return None;
        }
        if self.out.is_empty() && self.reading.is_none() {
            std::mem::swap(&mut self.out, &mut self.waiting);
            if self.out.is_empty()
                && let Some(slots) = &mut self.slots
            {
                slots.drain_into(&mut self.out);
            }
        }
        self.out.pop()
    }

    /// Takes back what was popped last and not written.
    pub fn unpop(&mut self, entry: Entry) {
        self.out.unpop(entry);
    }

    /// Whether the lane can go: nothing waits, and the shard, which has fanned out up to `cursor`, will give it only
    /// what is its own.
    pub fn is_level(&self, cursor: u64) -> bool {
        self.reading.is_none()
            && self.out.is_empty()
            && self.waiting.is_empty()
            && self.slots.as_ref().is_none_or(|slots| slots.is_empty())
            && self.skip_to <= cursor
    }

    /// How many messages wait.
    pub fn depth(&self) -> u64 {
        let slots = self.slots.as_ref().map_or(0, |slots| slots.len());
        u64::from(self.out.messages()) + u64::from(self.waiting.messages()) + slots as u64
    }

    /// What the lane pins, in bytes.
    pub fn pinned(&self) -> u64 {
        self.out.bytes()
            + self.waiting.bytes()
            + self.slots.as_ref().map_or(0, |slots| slots.bytes())
            + self.reading.as_ref().map_or(0, |reading| reading.bytes())
    }
}

impl Terms {
    fn fit(self, messages: u32, bytes: u64) -> bool {
        messages <= self.limit && bytes <= u64::from(self.limit_bytes)
    }

    fn cut(self, budget: ReadBudget) -> ReadBudget {
        ReadBudget {
            messages: budget.messages.min(self.limit as usize),
            bytes: budget.bytes.min(self.limit_bytes as usize),
        }
    }
}
