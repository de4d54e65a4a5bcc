//! What a subscription was given, held against what the broker says it wrote.

use tidegate_protocol::{Position, frame::SubMark, position::StreamName};

/// Counts since the subscription's ack on this connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Books {
    /// Message frames.
    pub(super) messages: u64,
    /// Messages told missing by gap frames: exact counts, else upper bounds.
    pub(super) gapped: u64,
}

impl Books {
    pub(super) fn of(mark: &SubMark) -> Self {
        Self { messages: mark.messages, gapped: mark.gapped }
    }

    pub(super) fn total(self) -> u64 {
        self.messages.saturating_add(self.gapped)
    }

    /// How much of `told` did not come.
    pub(super) fn shortfall(self, told: Self) -> u64 {
        told.messages.saturating_sub(self.messages).saturating_add(told.gapped.saturating_sub(self.gapped))
    }
}

/// Books that did not agree, while the log is read on from the subscription's own position: what comes up to the
/// mark's positions is what was missing at the end. The rest was lost in the middle, and becomes a gap.
#[derive(Debug)]
pub(super) struct Repair {
    shortfall: u64,
    mended: u64,
    /// The mark's positions that are still ahead.
    ahead: Vec<Position>,
    /// Whether the mark told up to where; not where the subscription was behind.
    exact: bool,
}

impl Repair {
    /// `targets` are the mark's positions, or none where they do not hold.
    pub(super) fn new(shortfall: u64, targets: Option<Vec<Position>>) -> Self {
        let exact = targets.is_some();
        Self { shortfall, mended: 0, ahead: targets.unwrap_or_default(), exact }
    }

    /// It may be about messages that `lost` stands for too, since what is read again can be lost again.
    pub(super) fn adding(mut self, lost: u64) -> Self {
        self.shortfall = self.shortfall.saturating_add(lost);
        self.exact = false;
        self
    }

    /// What is missing for good, as far as is known.
    pub(super) fn lost(&self) -> u64 {
        self.shortfall.saturating_sub(self.mended)
    }

    pub(super) fn is_exact(&self) -> bool {
        self.exact
    }

    /// A message came.
    pub(super) fn on_message(&mut self, stream: &Option<StreamName>, offset: u64) {
        if self.target(stream).is_some_and(|target| offset <= target) {
            self.mended += 1;
        }
    }

    /// A gap came that stands for so many messages, up to `to`.
    pub(super) fn on_gap(&mut self, stream: &Option<StreamName>, from: Option<u64>, to: u64, messages: u64) {
        let Some(target) = self.target(stream) else { return };
        if to <= target {
            self.mended = self.mended.saturating_add(messages);
        } else if from.is_none_or(|from| from <= target) {
            // Some of its messages are of those that are missed, and nobody says how many.
            self.exact = false;
        }
    }

    fn target(&self, stream: &Option<StreamName>) -> Option<u64> {
        self.ahead.iter().find(|target| target.stream == *stream).map(|target| target.offset)
    }

    /// The subscription stands at these positions. True once no target is ahead.
    pub(super) fn is_over(&mut self, positions: impl Fn(&Position) -> bool) -> bool {
        self.ahead.retain(positions);
        self.ahead.is_empty()
    }

    /// The log that could mend it is gone, and with it the count of what it mended.
    pub(super) fn give_up(&mut self) {
        self.ahead.clear();
        self.exact = false;
    }
}
