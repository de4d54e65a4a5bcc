//! A bounded log: gives offsets, keeps messages by age and bytes, reads them.

use std::sync::Arc;

use tidegate_protocol::{Epoch, Filter, Position, position::StreamName};

use super::{
    published::{Draft, Published},
    segment::{ReadBudget, Segment},
};

/// What a log may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// How long a message stays, in milliseconds.
    pub max_age_ms: u64,
    /// What the log may pin, in bytes.
    pub max_bytes: u64,
    /// What the newest messages of topics that the log no longer holds may pin, in bytes; 0 keeps none.
    pub retain_last_bytes: u64,
}

/// The answer to [`Log::read`].
#[derive(Debug)]
pub enum Read {
    /// Everything of the filter in (`after`, `scanned`] is in `messages`, in order.
    Batch {
        /// The messages.
        messages: Vec<Arc<Published>>,
        /// Where to read on from: `upto`, or less where the budget ended the read.
        scanned: u64,
    },
    /// The filter's next messages may be in a segment that no longer changes: let go of the stream's lock, then call
    /// [`Segment::read`] with the same arguments. Nothing of the filter lies between `after` and the segment.
    Sealed(Arc<Segment>),
    /// The log no longer has (`after`, `start`).
    Evicted {
        /// The first offset the log has; the one after its head where it is empty.
        start: u64,
    },
}

/// The answer to [`Log::last`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Last {
    /// The offsets, ascending. [`Log::get`] gives their messages, as long as they are kept.
    pub offsets: Vec<u64>,
    /// How many more there were than the cap allows; all of them lie below `offsets`.
    pub cut: u64,
    /// The largest offset that was cut; 0 where none was.
    pub cut_to: u64,
}

/// The answer to [`Log::since`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Messages from the time on are those after this offset.
    pub after: u64,
    /// Whether the log still has all of them.
    pub complete: bool,
}

/// One stream's log.
#[derive(Debug)]
pub struct Log {}

impl Log {
    /// An empty log. `name` is the stream's; `None` for the default one, since frames leave it out.
    pub fn new(_name: Option<StreamName>, _epoch: Epoch, _limits: LogLimits) -> Self {
        unimplemented!()
    }

    /// The stream's name; `None` for the default one.
    pub fn name(&self) -> Option<&StreamName> {
        unimplemented!()
    }

    /// The log's incarnation.
    pub fn epoch(&self) -> Epoch {
        unimplemented!()
    }

    /// The last offset given; 0 before the first.
    pub fn head(&self) -> u64 {
        unimplemented!()
    }

    /// The first offset the log holds; `head + 1` where it is empty.
    pub fn start(&self) -> u64 {
        unimplemented!()
    }

    /// `offset` as a position in this log.
    pub fn position(&self, _offset: u64) -> Position {
        unimplemented!()
    }

    /// Gives `draft` the next offset and keeps it, after evicting what the limits ask for.
    ///
    /// No segment with an offset from `hold` on goes: a shard has yet to fan it out. Where there would be no room
    /// without that, the draft comes back and its publish waits.
    pub fn append(
        &mut self,
        _draft: Draft,
        _now_ms: u64,
        _hold: Option<u64>,
    ) -> Result<Arc<Published>, Draft> {
        unimplemented!()
    }

    /// Evicts the segments whose newest message is older than the limit, but none with an offset from `hold` on.
    pub fn expire(&mut self, _now_ms: u64, _hold: Option<u64>) {
        unimplemented!()
    }

    /// The next part of `filter`'s messages in (`after`, `upto`]. Call again, from `scanned` on, until `scanned` is
    /// `upto` (or the head, where that is less).
    pub fn read(&self, _after: u64, _upto: u64, _filter: &Filter, _budget: ReadBudget) -> Read {
        unimplemented!()
    }

    /// The message at `offset`, from the log or retained.
    pub fn get(&self, _offset: u64) -> Option<Arc<Published>> {
        unimplemented!()
    }

    /// The offsets of the newest `n` messages of each topic of `filter` that are not after `at` (the head, where
    /// absent), ascending over all topics, retained ones included; the newest `cap` of them.
    pub fn last(&self, _filter: &Filter, _n: u32, _at: Option<u64>, _cap: usize) -> Last {
        unimplemented!()
    }

    /// Where the messages from `time_ms` on begin.
    pub fn since(&self, _time_ms: u64) -> Since {
        unimplemented!()
    }

    /// What the log pins, in bytes, without what it retains.
    pub fn bytes(&self) -> u64 {
        unimplemented!()
    }

    /// What the retained messages pin, in bytes.
    pub fn retained_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// How many messages the log holds, without the retained ones.
    pub fn messages(&self) -> u64 {
        unimplemented!()
    }
}
