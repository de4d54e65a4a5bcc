//! Tidegate: a pub/sub message broker over WebSockets. Every queue is bounded, every subscriber chooses what happens
//! when it falls behind, and no message is lost in silence.
//!
//! # Layout, in the order of a message's path
//!
//! * [`server`]: binds, starts the shards, accepts, drains.
//! * [`http`]: what a connection is before it is a WebSocket, and the pages beside it.
//! * [`connection`]: one upgraded socket, over [`websocket`]: frames, close handshake, no sockets of their own.
//! * [`session`]: what a client may say, and what follows from it.
//! * [`engine`]: gives a publish its place; [`hub`]: what the shards share, and the way to each of them.
//! * [`stream`]: the log, what it retains, which publishes came before.
//! * [`shard`]: the thread that owns connections: reads, fans out, flushes.
//! * [`outbox`]: the lanes of those that do not keep up; here the overflow policies act.
//! * [`metrics`] and [`config`]: figures and options.

pub mod config;
pub mod connection;
pub mod engine;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod outbox;
pub mod server;
pub mod session;
pub mod shard;
pub mod stream;
pub mod websocket;

#[cfg(feature = "cli")]
pub mod cli;
