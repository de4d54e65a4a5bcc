//! Publishes that came over HTTP: a request waits for their outcome, no connection.

use std::sync::Arc;

use tidegate_protocol::ErrorCode;
use tokio::sync::oneshot;

use super::dispatch::Dispatch;
use crate::{
    engine::{Accepted, Request, Settled, Submission, Tally, Ticket},
    stream::Draft,
};

/// One publish, and who waits for it.
pub struct Errand {
    pub draft: Draft,
    /// The publisher's instance and its key.
    pub idempotency: Option<(Arc<str>, Box<str>)>,
    /// Whether the answer shall tell how the fan-out went.
    pub report: bool,
    /// Dropped where the shard ends before.
    pub answer: oneshot::Sender<Outcome>,
}

/// What came of it.
pub type Outcome = Result<Accepted, Refused>;

/// Why it is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The engine has no room now. Nothing of it is kept.
    NoRoom,
    /// What the engine said.
    Error(ErrorCode),
}

/// Stands for a connection's token in the tickets of errands: no connection has it.
pub const NO_CONNECTION: usize = usize::MAX;

impl Dispatch {
    /// Gives publishes to the engine, in order: where there is no room for one, those behind it are not tried. `now_ms`
    /// as for [`Dispatch::publish`].
    pub fn run(&mut self, errands: Vec<Errand>, now_ms: u64) {
        let mut full = false;
        for Errand { draft, idempotency, report, answer } in errands {
            // Nobody listens where the request was given up meanwhile.
            if full {
                let _ = answer.send(Err(Refused::NoRoom));
                continue;
            }
            let place = self.errands.insert(answer);
            let ticket =
                Ticket { shard: self.number, connection: NO_CONNECTION, id: place as u64, payload_bytes: 0 };
            let tally = report.then(|| Arc::new(Tally::new(ticket)));
            if let Some(tally) = &tally {
                self.await_report(tally.clone());
            }
            let request = Request { ticket: Some(ticket), idempotency, tally, shard: self.number };
            if self.submit(Submission { draft, request, now_ms }).is_err() {
                full = true;
                let _ = self.errands.remove(place).send(Err(Refused::NoRoom));
            }
        }
    }

    /// Answers an errand.
    pub(super) fn report_back(&mut self, settled: Settled) {
        if let Some(answer) = self.errands.try_remove(settled.ticket.id as usize) {
            let _ = answer.send(settled.outcome.map_err(Refused::Error));
        }
    }
}
