//! Where a publish gets its place: the one thing that orders messages.
//!
//! An engine never answers at once. It takes a [`Submission`]; in its own time it feeds fan-out through
//! [`Hub::committed`], in stream order, and answers the publisher through [`Request::answer`]. `memory` does both before
//! it returns; a disk would after its sync, a cluster when the quorum's own copy comes back.

pub mod memory;

use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_protocol::{ErrorCode, Position, frame::Report};

use crate::{hub::Hub, stream::Draft};

/// See the module.
pub trait Engine: Send + Sync {
    /// Takes a publish. Never waits.
    ///
    /// # Errors
    ///
    /// There is no room: the submission comes back, and its publisher is not read until it was taken.
    fn submit(&self, submission: Submission, hub: &Hub) -> Result<(), Box<Submission>>;
}

/// A publish on its way to a place.
#[derive(Debug)]
pub struct Submission {
    pub draft: Draft,
    pub request: Request,
    /// The broker's clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// Who published, and what he wants to know.
#[derive(Debug)]
pub struct Request {
    /// Whom to answer; none where no ack is asked for.
    pub ticket: Option<Ticket>,
    /// The publisher's instance and its key.
    pub idempotency: Option<(Arc<str>, Box<str>)>,
    /// Where the ack shall tell how the fan-out went.
    pub tally: Option<Arc<Tally>>,
    /// The shard that submits: its own inbox needs no wake.
    pub shard: usize,
}

/// Who waits for a publish's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub shard: usize,
    /// The connection's token in its shard.
    pub connection: usize,
    /// The request's id.
    pub id: u64,
    /// What the publish counts for in its connection's window.
    pub payload_bytes: u32,
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    pub ticket: Ticket,
    pub outcome: Result<Accepted, ErrorCode>,
}

/// An accepted publish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// Its place; none for a topic in no stream.
    pub position: Option<Position>,
    /// Whether it was a repeat.
    pub duplicate: bool,
    /// How the fan-out went, where asked for.
    pub report: Option<Report>,
}

impl Request {
    /// Tells the publisher; where a report is wanted, once the shards have answered.
    pub fn answer(self, outcome: Result<Accepted, ErrorCode>, hub: &Hub) {
        let Some(ticket) = self.ticket else { return };
        let settled = match self.tally {
            Some(tally) => tally.settle(outcome),
            None => Some(Settled { ticket, outcome }),
        };
        if let Some(settled) = settled {
            hub.settled(settled, self.shard);
        }
    }
}

/// Gathers one publish's fan-out report from the shards.
#[derive(Debug)]
pub struct Tally {
    ticket: Ticket,
    state: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    report: Report,
    /// Shards that have yet to answer.
    waiting: usize,
    outcome: Option<Result<Accepted, ErrorCode>>,
    answered: bool,
}

impl Tally {
    pub fn new(ticket: Ticket) -> Self {
        Self { ticket, state: Mutex::default() }
    }

    /// One more shard will answer.
    pub fn expect(&self) {
        self.state.lock().waiting += 1;
    }

    /// A shard that was expected reads the message from the log later: the report will not wait for it.
    pub fn give_up(&self) {
        let mut state = self.state.lock();
        state.waiting -= 1;
        state.report.partial = true;
    }

    /// A shard answers.
    pub fn add(&self, report: Report) -> Option<Settled> {
        let mut state = self.state.lock();
        // The time for it may be over: then none is waited for.
        state.waiting = state.waiting.saturating_sub(1);
        let sum = &mut state.report;
        sum.matched += report.matched;
        sum.queued += report.queued;
        sum.merged += report.merged;
        sum.dropped += report.dropped;
        sum.behind += report.behind;
        self.ready(&mut state)
    }

    /// The engine's answer is there.
    pub fn settle(&self, outcome: Result<Accepted, ErrorCode>) -> Option<Settled> {
        let mut state = self.state.lock();
        state.outcome = Some(outcome);
        self.ready(&mut state)
    }

    /// The time for shards to answer is over.
    pub fn expire(&self) -> Option<Settled> {
        let mut state = self.state.lock();
        state.report.partial |= state.waiting > 0;
        state.waiting = 0;
        self.ready(&mut state)
    }

    fn ready(&self, state: &mut Count) -> Option<Settled> {
        if state.waiting > 0 || state.answered {
            return None;
        }
        let mut outcome = state.outcome.clone()?;
        state.answered = true;
        if let Ok(accepted) = &mut outcome
            && !accepted.duplicate
        {
            accepted.report = Some(state.report);
        }
        Some(Settled { ticket: self.ticket, outcome })
    }
}
