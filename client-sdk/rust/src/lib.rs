//! Publish to and subscribe from a Tidegate broker.
//!
//! ```
//! # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
//! # broker::run(async |client, url| {
//! use tidegate_client::{Client, Event};
//!
//! # let here = url;
//! let url = "ws://127.0.0.1:7400";
//! # let url = here;
//! let client = Client::connect(url).await?;
//! let mut chat = client.subscribe("chat.>").await?;
//! client.publish("chat.room1", "hello").await?; // acknowledged, or an error: never lost in silence
//! while let Some(event) = chat.recv().await {
//!     match event {
//!         Event::Message(message) => println!("{}: {:?}", message.topic, message.payload.as_str()),
//!         Event::Gap(gap) => println!("{:?} messages are missing: {:?}", gap.count, gap.reason),
//!         Event::Resumed(_) | Event::Reset(_) => {}
//!     }
//!     # break;
//! }
//! # Ok(()) });
//! ```
//!
//! A [`Client`] is a handle: clone it freely. One task owns the connection, reconnects for ever by itself, resumes
//! every subscription from the position it holds, and sends again, in order and under its own idempotency key, what
//! was not acknowledged when the line was cut.
//!
//! # Layout, in the order of a publish's path
//!
//! * [`Options`] (`options`): how to connect.
//! * [`Client`] (`client`): the handle. It talks to the driver over bounded channels.
//! * `window`: how much may be published whose ack has not come yet.
//! * `driver`: the one task that owns the connection and moves what the session says.
//! * `session`: the rules. No I/O; time is an argument. `publishes`: window, order, what goes again. `subscriber`:
//!   positions, credit, resume. `books`: what came, held against the broker's marks. `history`: pages.
//! * `backoff`: how long to wait before the next attempt.
//! * `transport`: bytes of a WebSocket.
//! * [`Subscription`] (`subscription`) and `queue`: the stream of one filter's events, bounded by credit.
//! * [`HistoryQuery`] (`history`), [`TypedTopic`] (`topic`): pages of a topic's log; topics of one Rust type.
//! * [`ConnectionEvent`] (`event`), [`Stats`] (`stats`), [`Error`] (`error`): what happened.

#![forbid(unsafe_code)]

mod backoff;
mod client;
mod command;
mod driver;
mod error;
mod event;
mod history;
mod options;
mod queue;
mod session;
mod stats;
mod subscription;
mod topic;
mod transport;
mod window;

pub use client::{Client, PendingAck, PublishOptions};
pub use error::{
    ConnectError, ConnectErrorKind, DrainError, DrainErrorKind, Error, HistoryError, HistoryErrorKind,
    PublishError, PublishErrorKind, RefreshError, RefreshErrorKind, SubscribeError, SubscribeErrorKind,
};
pub use event::{ConnectionEvent, ConnectionEvents, ConnectionState};
pub use history::HistoryQuery;
pub use options::{Io, Options};
pub use stats::Stats;
pub use subscription::{EndReason, Event, Reset, Resumed, Subscribe, Subscription};
pub use topic::{
    DecodeError, Encoding, IntoFilter, IntoTopic, TypedEvent, TypedMessage, TypedSubscription, TypedTopic,
};

pub use tidegate_protocol::{
    Codec, ContentKind, Epoch, ErrorCode, Filter, From, Message, Payload, Position, Topic,
    frame::{Gap, GapReason, Overflow, Published as Ack, Report, StartPosition, Subscribed as Terms},
    payload::PayloadError,
    topic::TopicError,
};
