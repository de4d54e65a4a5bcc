//! Which publishes came before: idempotency keys, for a while.

use tidegate_protocol::Position;

/// What came of the first publish with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Its place; absent for a topic that is in no stream.
    pub position: Option<Position>,
}

/// Whether a publish came before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// No. It is remembered as pending from now on: [`Keys::settle`] must follow.
    New,
    /// Yes, and what came of it is not known yet: wait for this ticket, the first publish's.
    Pending(u64),
    /// Yes, and this came of it.
    Done(Settled),
}

/// The bounds of [`Keys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLimits {
    /// How long a key is remembered, in milliseconds.
    pub window_ms: u64,
    /// How many instances have their keys remembered; beyond it the longest idle one goes.
    pub max_instances: usize,
    /// How many of its newest keys each instance keeps, whatever the others do: its publish window.
    pub per_instance_min: usize,
    /// What all keys may pin, in bytes. At it, keys beyond `per_instance_min` go first, then the longest idle instance.
    pub max_bytes: usize,
}

/// The keys of all instances.
#[derive(Debug)]
pub struct Keys {}

impl Keys {
    /// Remembers nothing yet.
    pub fn new(_limits: KeyLimits) -> Self {
        unimplemented!()
    }

    /// Whether `instance` published with `key` before; if not, `ticket` is now what that key waits for.
    pub fn begin(&mut self, _instance: &str, _key: &str, _ticket: u64, _now_ms: u64) -> Begin {
        unimplemented!()
    }

    /// What came of the publish that [`Keys::begin`] took as new with `ticket`; `None` frees the key, so that a retry
    /// is new. A key that was forgotten meanwhile stays so.
    pub fn settle(&mut self, _instance: &str, _key: &str, _ticket: u64, _outcome: Option<Settled>) {
        unimplemented!()
    }

    /// Forgets what is older than the window. Each `begin` does a part of it; this is for quiet times.
    pub fn expire(&mut self, _now_ms: u64) {
        unimplemented!()
    }

    /// What is pinned, in bytes.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }

    /// How many instances are remembered.
    pub fn instances(&self) -> usize {
        unimplemented!()
    }
}
