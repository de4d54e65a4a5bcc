//! What waits to be written to one connection that does not keep up: the lanes of its subscriptions, in turn.
//!
//! No socket, no clock. It exists only while a socket is blocked, a credit is used up, or a lane reads on from a log.

mod lane;
mod loss;
mod queue;
mod reading;
mod slots;

pub use lane::{Lane, Offered, Terms};
pub use loss::Loss;
pub use queue::Entry;
pub use reading::{Batch, Evicted, LogSource};

/// A lane belongs to a subscription and one of its streams; `None` is its live-only topics.
#[derive(Debug)]
pub struct Owned<S> {
    pub sub: S,
    pub stream: Option<usize>,
    pub lane: Lane,
}

/// See the module. `S` names a subscription.
#[derive(Debug)]
pub struct Outbox<S> {
    lanes: Vec<Owned<S>>,
    /// Whose turn it is.
    turn: usize,
}

impl<S> Default for Outbox<S> {
    fn default() -> Self {
        Self { lanes: Vec::new(), turn: 0 }
    }
}

impl<S: Copy + PartialEq> Outbox<S> {
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub fn lanes(&self) -> &[Owned<S>] {
        &self.lanes
    }

    pub fn lanes_mut(&mut self) -> &mut [Owned<S>] {
        &mut self.lanes
    }

    pub fn lane_mut(&mut self, sub: S, stream: Option<usize>) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|o| o.sub == sub && o.stream == stream).map(|o| &mut o.lane)
    }

    pub fn insert(&mut self, sub: S, stream: Option<usize>, lane: Lane) -> &mut Lane {
        self.lanes.push(Owned { sub, stream, lane });
        let last = self.lanes.len() - 1;
        &mut self.lanes[last].lane
    }

    /// Lanes that `keep` is false for go.
    pub fn retain(&mut self, keep: impl FnMut(&Owned<S>) -> bool) {
        self.lanes.retain(keep);
    }

    /// The next entry to write, and its lane's place; lanes take turns, so that a hot subscription cannot starve the
    /// others. `credit` says whether a subscription may be sent one more message.
    pub fn pop(&mut self, mut credit: impl FnMut(S) -> bool) -> Option<(usize, Entry)> {
        for _ in 0..self.lanes.len() {
            let at = self.turn % self.lanes.len();
            self.turn = at + 1;
            let owned = &mut self.lanes[at];
            if let Some(entry) = owned.lane.pop(credit(owned.sub)) {
                return Some((at, entry));
            }
        }
        None
    }

    /// Takes back, in reverse order, what [`Outbox::pop`] gave and was not written.
    pub fn unpop(&mut self, lane: usize, entry: Entry) {
        if let Some(owned) = self.lanes.get_mut(lane) {
            owned.lane.unpop(entry);
        }
    }

    /// What all lanes pin, in bytes.
    pub fn pinned(&self) -> u64 {
        self.lanes.iter().map(|owned| owned.lane.pinned()).sum()
    }
}
