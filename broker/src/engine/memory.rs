//! The built-in engine: this process's memory. What it acks is in the log before it returns.

use tidegate_protocol::ErrorCode;

use super::{Accepted, Engine, Request, Submission};
use crate::{
    hub::Hub,
    stream::{
        Published,
        idempotency::{Begin, Keys, Settled as Known},
    },
};

/// See the module.
#[derive(Debug, Default)]
pub struct Memory;

impl Engine for Memory {
    fn submit(&self, submission: Submission, hub: &Hub) -> Result<(), Box<Submission>> {
        match hub.stream_of(&submission.draft.topic) {
            Some(at) => into_stream(submission, at, hub),
            None => past_streams(submission, hub),
        }
    }
}

fn into_stream(submission: Submission, at: usize, hub: &Hub) -> Result<(), Box<Submission>> {
    let Submission { draft, request, now_ms } = submission;
    let mut ordered = hub.streams()[at].lock();
    if let Some(outcome) = known(&mut ordered.keys, &request, now_ms) {
        drop(ordered);
        request.answer(outcome, hub);
        return Ok(());
    }
    match ordered.append(draft, now_ms) {
        Ok(published) => {
            let position = published.offset().map(|offset| ordered.log.position(offset));
            remember(&mut ordered.keys, &request, Some(Known { position: position.clone() }));
            hub.committed(at, &mut ordered, &published, request.tally.as_ref(), request.shard);
            drop(ordered);
            request.answer(Ok(Accepted { position, ..Accepted::default() }), hub);
            Ok(())
        }
        Err(draft) => {
            remember(&mut ordered.keys, &request, None);
            Err(Box::new(Submission { draft, request, now_ms }))
        }
    }
}

fn past_streams(submission: Submission, hub: &Hub) -> Result<(), Box<Submission>> {
    let mut live_only = hub.lock_live_only();
    if !hub.has_room(&mut live_only, &submission.draft.topic) {
        return Err(Box::new(submission));
    }
    let Submission { draft, request, now_ms } = submission;
    if let Some(outcome) = known(&mut live_only.keys, &request, now_ms) {
        drop(live_only);
        request.answer(outcome, hub);
        return Ok(());
    }
    remember(&mut live_only.keys, &request, Some(Known { position: None }));
    let published = Published::live_only(draft, now_ms);
    hub.committed_live_only(&mut live_only, &published, request.tally.as_ref(), request.shard);
    drop(live_only);
    request.answer(Ok(Accepted::default()), hub);
    Ok(())
}

/// What came of an earlier publish with the same key. It was settled before its submit returned, so none is pending.
fn known(keys: &mut Keys, request: &Request, now_ms: u64) -> Option<Result<Accepted, ErrorCode>> {
    let (instance, key) = request.idempotency.as_ref()?;
    match keys.begin(instance, key, 0, now_ms) {
        Begin::New => None,
        Begin::Pending(_) => Some(Err(ErrorCode::OutcomeUnknown)),
        Begin::Done(Known { position }) => Some(Ok(Accepted { position, duplicate: true, report: None })),
    }
}

fn remember(keys: &mut Keys, request: &Request, outcome: Option<Known>) {
    if let Some((instance, key)) = &request.idempotency {
        keys.settle(instance, key, 0, outcome);
    }
}
