//! What a lane could not keep: counted where the hole is, told as one gap when the lane drains to it.

use tidegate_protocol::{
    Topic,
    frame::{Gap, GapReason, Overflow},
    position::StreamName,
};

use crate::stream::Published;

/// Messages missing between two that are written, for one reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    pub reason: GapReason,
    count: Count,
    /// First and last offset that may be missing; none for live-only messages.
    span: Option<(u64, u64)>,
    topic: OneTopic,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Count {
    Exactly(u64),
    AtMost(u64),
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
enum OneTopic {
    One(Topic),
    Several,
}

impl Loss {
    /// The loss of one message that was at hand.
    pub fn of(message: &Published, reason: GapReason) -> Self {
        Self {
            reason,
            count: Count::Exactly(1),
            span: message.offset().map(|offset| (offset, offset)),
            topic: OneTopic::One(message.message.topic.clone()),
        }
    }

    /// `count` messages somewhere in a span of the stream.
    pub fn exactly(count: u64, from: u64, to: u64, reason: GapReason) -> Self {
        Self { reason, count: Count::Exactly(count), span: Some((from, to)), topic: OneTopic::Several }
    }

    /// At most `count` messages somewhere in a span of the stream.
    pub fn at_most(count: u64, from: u64, to: u64, reason: GapReason) -> Self {
        Self { reason, count: Count::AtMost(count), span: Some((from, to)), topic: OneTopic::Several }
    }

    /// Messages of a log that is gone: neither how many nor which.
    pub fn of_unknown_epoch() -> Self {
        Self { reason: GapReason::Epoch, count: Count::Unknown, span: None, topic: OneTopic::Several }
    }

    /// Takes in a loss that lies beside this one, with no message between them. Of two reasons the graver one stays.
    pub fn absorb(&mut self, other: Loss) {
        if gravity(other.reason) > gravity(self.reason) {
            self.reason = other.reason;
        }
        self.count = match (self.count, other.count) {
            (Count::Exactly(a), Count::Exactly(b)) => Count::Exactly(a + b),
            (Count::Exactly(a) | Count::AtMost(a), Count::Exactly(b) | Count::AtMost(b)) => {
                Count::AtMost(a + b)
            }
            (Count::Unknown, _) | (_, Count::Unknown) => Count::Unknown,
        };
        self.span = match (self.span, other.span) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (a, b) => a.or(b),
        };
        self.topic = match (std::mem::replace(&mut self.topic, OneTopic::Several), other.topic) {
            (OneTopic::One(a), OneTopic::One(b)) if a == b => OneTopic::One(a),
            _ => OneTopic::Several,
        };
    }

    /// What a mark counts for it: the count, else the bound.
    pub fn told(&self) -> u64 {
        match self.count {
            Count::Exactly(n) | Count::AtMost(n) => n,
            Count::Unknown => 0,
        }
    }

    /// The last offset that may be missing.
    pub fn to(&self) -> Option<u64> {
        self.span.map(|(_, to)| to)
    }

    /// The notice, for one subscription.
    pub fn gap(&self, sub: u64, stream: Option<StreamName>, policy: Overflow) -> Gap {
        let (count, at_most) = match self.count {
            Count::Exactly(n) => (Some(n), None),
            Count::AtMost(n) => (None, Some(n)),
            Count::Unknown => (None, None),
        };
        Gap {
            sub,
            stream,
            topic: match &self.topic {
                OneTopic::One(topic) => Some(topic.clone()),
                OneTopic::Several => None,
            },
            count,
            at_most,
            from: self.span.map(|(from, _)| from),
            to: self.to(),
            reason: self.reason,
            policy,
        }
    }
}

/// What is missing before one message: at most one loss for each reason and kind of count, in the order of their offsets, and none
/// reaches into another. So a client that is cut between two gaps resumes from the first one's `to` and misses nothing
/// that the second would have told.
#[derive(Debug, Default)]
pub struct Losses(Vec<Loss>);

impl Losses {
    pub fn add(&mut self, mut loss: Loss) {
        while let Some(beside) = self.0.iter().position(|present| present.belongs_with(&loss)) {
            loss.absorb(self.0.remove(beside));
        }
        let at = self.0.partition_point(|present| present.span <= loss.span);
        self.0.insert(at, loss);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all, first offsets first.
    pub fn take(&mut self) -> impl Iterator<Item = Loss> + use<> {
        std::mem::take(&mut self.0).into_iter()
    }
}

impl Loss {
    /// Whether both are told alike. A bound and an exact count are not: the one would make the other a bound.
    pub fn is_like(&self, other: &Loss) -> bool {
        self.reason == other.reason && self.is_exact() == other.is_exact()
    }

    /// Whether the number is known.
    pub fn is_exact(&self) -> bool {
        matches!(self.count, Count::Exactly(_))
    }

    fn belongs_with(&self, other: &Loss) -> bool {
        let overlap = match (self.span, other.span) {
            (Some((a, b)), Some((c, d))) => a <= d && c <= b,
            _ => false,
        };
        self.is_like(other) || overlap
    }
}

/// A merge is what `latest` is for; a message that the log no longer has is lost for good.
fn gravity(reason: GapReason) -> u8 {
    match reason {
        GapReason::Merged => 0,
        GapReason::Overflow => 1,
        GapReason::Evicted => 2,
        GapReason::Epoch | GapReason::Away | GapReason::Books => 3,
    }
}
