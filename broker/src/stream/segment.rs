//! The part of a log that is read alone and that goes as a whole.

use std::sync::Arc;

use tidegate_protocol::Filter;

use super::published::Published;

/// How much one read may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBudget {
    /// At most this many messages.
    pub messages: usize,
    /// At most this many bytes, by [`Published::cost`]; the first message is returned whatever its size.
    pub bytes: usize,
}

/// Consecutive messages of a log.
#[derive(Debug)]
pub struct Segment {}

impl Segment {
    /// The messages of `filter` in (`after`, `scanned`], in order, where `scanned` <= `upto`.
    ///
    /// `scanned` is less than both `upto` and the segment's last offset where the budget ended the read; read on
    /// from there.
    pub fn read(
        &self,
        _after: u64,
        _upto: u64,
        _filter: &Filter,
        _budget: ReadBudget,
    ) -> (Vec<Arc<Published>>, u64) {
        unimplemented!()
    }

    /// Its first offset; the name of the segment in [`Published::segment`].
    pub fn first(&self) -> u64 {
        unimplemented!()
    }

    /// Its last offset.
    pub fn last(&self) -> u64 {
        unimplemented!()
    }
}
