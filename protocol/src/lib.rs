//! What Tidegate's brokers and clients say to each other.
//!
//! No runtime, no clock, no socket: bytes and values in, values and bytes out.
//!
//! # Layout, in the order of a message's path
//!
//! * [`topic`] and [`filter`]: where a message goes, and who wants it.
//! * [`payload`]: opaque bytes and their kind; the one door through which a publisher's bytes come in.
//! * [`position`]: epochs, positions in a stream, where a subscription starts.
//! * [`frame`]: everything either side can say.
//! * [`codec`]: the same frames as JSON or as bincode.
//! * [`error`] and [`close`]: the numbered tables.
//! * [`limits`]: the bounds that both sides know.

pub mod close;
pub mod codec;
pub mod error;
pub mod filter;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
pub mod limits;
pub mod payload;
pub mod position;
pub mod topic;

pub use close::CloseCode;
pub use codec::Codec;
pub use error::ErrorCode;
pub use filter::Filter;
pub use frame::{ClientFrame, Message, ServerFrame};
pub use payload::{ContentKind, Payload};
pub use position::{Epoch, From, Position};
pub use topic::Topic;
