//! A lane that is behind: where it reads on in its stream's log, and how much it has yet to read.

use std::{collections::VecDeque, sync::Arc};

use tidegate_protocol::frame::GapReason;

use super::loss::Loss;
use crate::stream::{Published, ReadBudget};

/// Where a lane reads on. The broker's is a stream's lock and the lane's filter; a test's is a plain log.
pub trait LogSource {
    /// The lane's messages in `(after, upto]` as far as `budget` goes, and how far that was.
    fn read(&mut self, after: u64, upto: u64, budget: ReadBudget) -> Result<Batch, Evicted>;
    /// The message at `offset`, retained ones included.
    fn get(&mut self, offset: u64) -> Option<Arc<Published>>;
}

/// Messages in order, and the offset up to which there are no others.
pub type Batch = (Vec<Arc<Published>>, u64);

/// The log no longer has what follows; it begins at `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    pub start: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Reading {
    /// Everything up to here was read, or told as lost.
    after: u64,
    /// Up to here messages were published before the subscription came: they were not counted at fan-out.
    live: u64,
    /// The newest of each topic (`from: last`): these first.
    selected: VecDeque<u64>,
    /// How many messages are yet to be read, for each segment (by its first offset) that was fanned out meanwhile: so
    /// the number is known when a segment goes unread.
    counts: VecDeque<(u64, u64)>,
    /// Whether it goes on beyond `live` until it is level with the shard.
    moving: bool,
}

/// What one step read.
#[derive(Debug, Default)]
pub struct Step {
    /// What is missing before the messages.
    pub loss: Option<Loss>,
    pub messages: Vec<Arc<Published>>,
    /// Whether there is nothing more to read.
    pub done: bool,
}

/// A log has some 64 segments while it is full; a lane that counts more of them looks whether some are gone.
const KEPT_SEGMENTS: usize = 256;

impl Reading {
    /// A subscription's start: everything after `after`, up to `live` or, where `moving`, until it is level.
    pub fn from_start(after: u64, live: u64, selected: Vec<u64>, moving: bool) -> Self {
        Self { after, live, selected: selected.into(), counts: VecDeque::new(), moving }
    }

    /// A lane that lets go of `messages`, oldest first, and reads them again later.
    pub fn after_letting_go(messages: &[Arc<Published>]) -> Self {
        let after = messages.first().and_then(|m| m.offset()).map_or(0, |offset| offset - 1);
        let mut reading = Self { after, live: after, moving: true, ..Self::default() };
        for message in messages {
            reading.count(message);
        }
        reading
    }

    /// Whether messages fanned out now will be read later.
    pub fn is_moving(&self) -> bool {
        self.moving
    }

    /// A message was fanned out that will be read later.
    pub fn count(&mut self, message: &Published) {
        match self.counts.back_mut() {
            Some((segment, count)) if *segment == message.segment => *count += 1,
            _ => self.counts.push_back((message.segment, 1)),
        }
    }

    /// What the list of selected offsets and the counts pin.
    pub fn bytes(&self) -> u64 {
        (self.selected.len() * size_of::<u64>() + self.counts.len() * size_of::<(u64, u64)>()) as u64
    }

    /// Whether it remembers more segments than it need: some may be gone.
    pub fn is_long(&self) -> bool {
        self.counts.len() > KEPT_SEGMENTS
    }

    /// What is lost for good before `start`, where the log begins, so that a lane that waits for long does not remember
    /// every segment that it will never read.
    pub fn lose_evicted(&mut self, start: u64, cursor: u64) -> Vec<Loss> {
        let upto = self.live.max(cursor);
        let mut losses = Vec::new();
        while self.selected.is_empty() && self.moving && self.after + 1 < start && self.after < upto {
            losses.extend(self.evicted(start, upto).loss);
        }
        losses
    }

    /// Reads on. `cursor` is the shard's own: everything up to it is fanned out.
    pub fn step(
        &mut self,
        cursor: u64,
        budget: ReadBudget,
        source: &mut impl LogSource,
        is_mine: impl Fn(&Published) -> bool,
    ) -> Step {
        if !self.selected.is_empty() {
            return self.step_selected(budget, source, is_mine);
        }
        let upto = if self.moving { self.live.max(cursor) } else { self.live };
        if self.after >= upto {
            return Step { done: true, ..Step::default() };
        }
        let (messages, scanned) = match source.read(self.after, upto, budget) {
            Ok(batch) => batch,
            Err(Evicted { start }) => return self.evicted(start, upto),
        };
        let messages: Vec<_> = messages.into_iter().filter(|message| is_mine(message)).collect();
        for message in &messages {
            self.uncount(message);
        }
        self.after = scanned.max(self.after);
        Step { loss: None, messages, done: self.after >= upto }
    }

    fn step_selected(
        &mut self,
        budget: ReadBudget,
        source: &mut impl LogSource,
        is_mine: impl Fn(&Published) -> bool,
    ) -> Step {
        let mut step = Step::default();
        let mut bytes = 0;
        while let Some(&offset) = self.selected.front() {
            match source.get(offset) {
                Some(message) => {
                    bytes += message.cost as usize;
                    let is_over = step.messages.len() >= budget.messages || bytes > budget.bytes;
                    if is_over && !step.messages.is_empty() {
                        return step;
                    }
                    if is_mine(&message) {
                        step.messages.push(message);
                    }
                }
                // A hole stands before the next message: what was read so far goes first.
                None if !step.messages.is_empty() => return step,
                None => {
                    // A bound: it may have been what `echo: false` holds back.
                    let loss = Loss::at_most(1, offset, offset, GapReason::Evicted);
                    match &mut step.loss {
                        Some(present) => present.absorb(loss),
                        None => step.loss = Some(loss),
                    }
                }
            }
            self.selected.pop_front();
        }
        step
    }

    /// The log begins only at `start`: what lay between is lost.
    fn evicted(&mut self, start: u64, upto: u64) -> Step {
        // Beyond `upto` nothing was counted yet: that part is lost when it is fanned out.
        let to = (start - 1).min(upto);
        let from = self.after + 1;
        // What was published before the subscription came was not counted. It is told by itself, so that the rest is
        // told exactly: by the next step.
        if self.after < self.live {
            let to = to.min(self.live);
            self.after = to;
            let loss = Loss::at_most(to + 1 - from, from, to, GapReason::Evicted);
            return Step { loss: Some(loss), messages: Vec::new(), done: self.after >= upto };
        }
        let mut exact = 0;
        while let Some(&(segment, count)) = self.counts.front()
            && segment < start
        {
            exact += count;
            self.counts.pop_front();
        }
        self.after = to;
        let loss = (exact > 0).then(|| Loss::exactly(exact, from, to, GapReason::Evicted));
        Step { loss, messages: Vec::new(), done: self.after >= upto }
    }

    fn uncount(&mut self, message: &Published) {
        if message.offset().is_none_or(|offset| offset <= self.live) {
            return;
        }
        // Segments before the message's were read to their ends.
        while let Some((segment, count)) = self.counts.front_mut() {
            if *segment == message.segment {
                *count -= 1;
                if *count == 0 {
                    self.counts.pop_front();
                }
                return;
            }
            debug_assert_eq!(*count, 0, "a segment was passed with messages unread");
            self.counts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Draft, Log, LogLimits};
    use tidegate_protocol::Epoch;

    #[test]
    fn a_lane_that_waits_for_long_remembers_no_segment_that_is_gone_and_tells_them_exactly() {
        let mut log = Log::new(
            None,
            Epoch(1),
            LogLimits { max_age_ms: 1_000, max_bytes: 1 << 20, retain_last_bytes: 0 },
        );
        let mut reading: Option<Reading> = None;
        let (mut told, mut most) = (0, 0);
        for n in 0..40_000u64 {
            let draft = Draft {
                topic: tidegate_protocol::Topic::parse("a").unwrap(),
                payload: tidegate_protocol::Payload::text("x".repeat(200)),
                key: None,
                headers: Vec::new(),
                origin: None,
            };
            // Slow enough that age ends a segment every other message.
            let published = log.append(draft, n * 40, None).unwrap();
            match &mut reading {
                None => reading = Some(Reading::after_letting_go(&[published])),
                Some(reading) => {
                    reading.count(&published);
                    if reading.is_long() {
                        let lost = reading.lose_evicted(log.start(), log.head());
                        told +=
                            lost.iter().inspect(|loss| assert!(loss.is_exact())).map(Loss::told).sum::<u64>();
                    }
                    most = most.max(reading.counts.len());
                }
            }
        }
        let left: u64 = reading.unwrap().counts.iter().map(|(_, count)| count).sum();
        assert_eq!(told + left, 40_000);
        assert!(most <= KEPT_SEGMENTS + 1, "{most} segments were remembered");
    }
}
