//! The bodies of requests and of large answers, bounded in bytes for each and for all of the process.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::super::{Turn, refusal::Refusal};

/// What the bodies of requests and answers under way hold, and may.
#[derive(Debug)]
pub(crate) struct Bodies {
    held: AtomicU64,
    most: u64,
}

/// A body, and its part of the budget.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    bodies: Arc<Bodies>,
    charged: u64,
}

/// Of a body that is too large, this much more is read and thrown away, so that its sender gets to read why: a socket
/// that is closed over unread bytes is reset.
const DISCARDED_BYTES: u64 = 1 << 20;
/// What is parsed of a body costs about as much again.
const TIMES: u64 = 2;

impl Bodies {
    pub(crate) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { held: AtomicU64::new(0), most })
    }

    /// What is held, and what may be, in bytes.
    pub(super) fn use_and_budget(&self) -> (u64, u64) {
        (self.held.load(Relaxed), self.most)
    }

    /// Takes the body of an answer into the budget.
    pub(super) fn hold(self: &Arc<Self>, bytes: Vec<u8>) -> Result<Held, Refusal> {
        let mut held = Held { bytes: Vec::new(), bodies: self.clone(), charged: 0 };
        held.charge(bytes.capacity() as u64)?;
        held.bytes = bytes;
        Ok(held)
    }

    /// Reads a body of at most `limit` bytes. `too_large` is what its sender is told beyond that.
    pub(super) async fn read(
        self: &Arc<Self>,
        mut body: Incoming,
        limit: usize,
        turn: &Turn,
        too_large: impl FnOnce() -> Refusal,
    ) -> Result<Held, Refusal> {
        let mut held = Held { bytes: Vec::new(), bodies: self.clone(), charged: 0 };
        let announced = body.size_hint().exact();
        let mut refused = false;
        let mut discarded = 0;
        if announced.is_some_and(|bytes| bytes > limit as u64) {
            refused = true;
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::bad_request("the body cannot be read").closing())?;
            let Ok(data) = frame.into_data() else { continue };
            refused |= held.bytes.len() + data.len() > limit;
            if refused {
                held.bytes = Vec::new();
                discarded += data.len() as u64;
                if discarded > DISCARDED_BYTES {
                    break;
                }
                continue;
            }
            turn.allow(data.len() as u64);
            held.charge(data.len() as u64 * TIMES)?;
            held.bytes.extend_from_slice(&data);
        }
        turn.work();
        if refused { Err(too_large().closing()) } else { Ok(held) }
    }
}

/// As what hyper writes: the budget is free again once it is written.
impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Held {
    fn charge(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.charged += bytes;
        let before = self.bodies.held.fetch_add(bytes, Relaxed);
        if before + bytes > self.bodies.most {
            return Err(Refusal::unavailable("memory.http_bytes: the budget is spent").closing());
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bodies.held.fetch_sub(self.charged, Relaxed);
    }
}
