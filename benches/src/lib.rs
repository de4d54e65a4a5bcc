//! What Tidegate costs, measured beside the floor of what the kernel allows and beside its peers.
//!
//! - `floor`: a server that does nothing but `send`; every other server is stated as a ratio to it.
//! - `load`: a load generator that costs less than any server it measures, and that refuses to report a run in which
//!   a subscriber missed, doubled or reordered a message.
//! - `compare`: starts servers, pins them, interleaves rounds, and prints medians and ratios.
//! - `micro`: named loops over the broker's parts, for counting instructions.
//!
//! From the wire up: [`poll`] and [`websocket`] move bytes, [`adapter`] knows each server's protocol, [`payload`]
//! stamps what is published, [`tally`] judges what arrives, [`load`] drives a run, [`process`] reads what the
//! server spent, [`probe`] how fast the core is right now, [`report`] says so.

pub mod adapter;
pub mod load;
pub mod payload;
pub mod poll;
pub mod probe;
pub mod process;
pub mod report;
pub mod tally;
pub mod websocket;
