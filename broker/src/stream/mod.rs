//! A stream's bounded log, what it keeps beyond the log, and which publishes it has seen before.
//!
//! No runtime, no clock, no lock: time is an argument, in milliseconds since the Unix epoch, and who owns a
//! [`Log`] guards it.
//!
//! # Layout, in the order of a message's path
//!
//! * [`idempotency`]: whether this publish came before.
//! * [`published`]: a message before and after it has its place.
//! * [`log`]: gives places, keeps the messages, reads them.
//! * [`segment`]: the part of a log that is read alone and that goes as a whole.
//! * [`retained`]: the newest message of each topic, once the log has let go of it.

pub mod idempotency;
pub mod log;
pub mod published;
pub mod retained;
pub mod segment;

pub use log::{Last, Listener, Log, LogLimits, Read, Since};
pub use published::{Draft, Published};
pub use segment::{ReadBudget, Segment};
