//! Deliveries that a test wants lost: the books must find them, and the log mend them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::stream::Published;

/// The offset whose next delivery is lost, over all shards of the process; 0 is none.
static LOSE: AtomicU64 = AtomicU64::new(0);

/// Makes the broker lose the next delivery of the message with this offset.
pub fn lose_next(offset: u64) {
    LOSE.store(offset, Relaxed);
}

/// What a shard asks.
#[derive(Debug, Default)]
pub struct Faults;

impl Faults {
    /// Whether this delivery is to be lost.
    pub fn loses(&self, published: &Published) -> bool {
        published.offset().is_some_and(|offset| LOSE.compare_exchange(offset, 0, Relaxed, Relaxed).is_ok())
    }
}
