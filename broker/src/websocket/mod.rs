//! RFC 6455 for the server's side, without sockets and without a clock.
//!
//! * [`reader`]: bytes in, messages and control frames out; every rule about what a client may send.
//! * `utf8`: text checked as it arrives.
//! * [`writer`]: frame heads, control frames, close payloads.
//! * [`close`]: who has said goodbye, and when to let the socket go.
//!
//! `fastwebsockets` answers the upgrade and unmasks; reading is ours, because its reader takes frames that the RFC
//! forbids and cannot be stopped amid a frame.

pub mod close;
pub mod reader;
mod utf8;
pub mod writer;

pub use close::CloseHandshake;
pub use reader::{Event, FrameReader, ReaderLimits, Violation};
pub use writer::Opcode;

/// What a data message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}
