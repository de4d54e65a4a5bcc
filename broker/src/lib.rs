//! Tidegate: a pub/sub message broker over WebSockets. Every queue is bounded, every subscriber chooses what happens
//! when it falls behind, and no message is lost in silence.
//!
//! # Layout, in the order of a message's path
//!
//! * [`server`]: binds, starts the shards, accepts, drains.
//! * [`http`]: what a connection is before it is a WebSocket, and the pages beside it.
//! * [`admission`]: how many connections there may be.
//! * [`connection`]: one upgraded socket, over [`websocket`]: frames, close handshake, no sockets of their own.
//! * [`session`]: what a client may say, and what follows from it.
//! * [`engine`]: gives a publish its place; [`hub`]: what the shards share, and the way to each of them.
//! * [`stream`]: the log, what it retains, which publishes came before.
//! * [`shard`]: the thread that owns connections: reads, fans out, flushes.
//! * [`outbox`]: the lanes of those that do not keep up; here the overflow policies act.
//! * [`metrics`] and [`config`]: figures and options.

pub mod config;
pub mod server;

#[cfg(feature = "cli")]
pub mod cli;

// The path of a message. No part of the crate's interface: public for the benches, the model tests and the conformance
// program.
#[doc(hidden)]
pub mod admission;
#[doc(hidden)]
pub mod connection;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod hub;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod outbox;
#[doc(hidden)]
pub mod session;
#[doc(hidden)]
pub mod shard;
#[doc(hidden)]
pub mod stream;
#[doc(hidden)]
pub mod websocket;
