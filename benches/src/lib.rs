//! What Tidegate costs, measured beside the floor of what the kernel allows and beside its peers.
//!
//! - `floor`: a server that does nothing but `send`; every other server is stated as a ratio to it.
//! - `load`: a load generator that costs less than any server it measures, and that refuses to report a run in which
//!   a subscriber missed, doubled or reordered a message.
//! - `compare`: starts servers, pins them, interleaves rounds, and prints medians and ratios.
//! - `report`: compares the broker with every peer in every scenario, and writes the page of it.
//! - `micro`: named loops over the broker's parts, for counting instructions.
//!
//! From the wire up: [`poll`] and [`websocket`] move bytes, [`adapter`] knows each server's protocol, [`payload`]
//! stamps what is published, [`tally`] judges what arrives, [`load`] drives a run, [`process`] reads what the
//! server spent, [`instructions`] counts what it executed, [`probe`] how fast the core is right now, [`report`] says so. Above that, [`scenario`] says what is
//! measured, [`server`] starts and ends the measured, [`peers`] lists them, [`contest`] interleaves them, and
//! [`document`] writes it all down, with [`plot`].

pub mod adapter;
pub mod contest;
pub mod document;
pub mod events;
pub mod instructions;
pub mod load;
pub mod payload;
pub mod peers;
pub mod plot;
pub mod poll;
pub mod probe;
pub mod process;
pub mod report;
pub mod scenario;
pub mod server;
pub mod tally;
pub mod websocket;
