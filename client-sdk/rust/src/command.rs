//! What handles ask of the driver.

use std::sync::Arc;

use tidegate_protocol::{
    Filter, From, Message, Payload, Topic,
    frame::{Headers, Overflow, Published, Subscribed},
};
use tokio::sync::oneshot;

use crate::{
    error::{DrainError, HistoryError, PublishError, RefreshError, SubscribeError},
    queue::Queue,
    window::Place,
};

/// Which subscription of this client; unlike the id on the wire it stays over reconnects.
pub(crate) type SubKey = u64;

pub(crate) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

#[derive(Debug)]
pub(crate) enum Command {
    Publish(PublishCommand),
    Subscribe(SubscribeCommand),
    /// Replied to once the broker has ended it.
    Unsubscribe {
        key: SubKey,
        reply: oneshot::Sender<()>,
    },
    History(HistoryCommand),
    Refresh {
        token: String,
        reply: Reply<(), RefreshError>,
    },
    Drain {
        reply: Reply<(), DrainError>,
    },
}

#[derive(Debug)]
pub(crate) struct PublishCommand {
    pub(crate) topic: Topic,
    pub(crate) payload: Payload,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) headers: Headers,
    pub(crate) idempotency: Idempotency,
    pub(crate) report: bool,
    pub(crate) place: Place,
    pub(crate) reply: Reply<Published, PublishError>,
}

/// How a publish is known again when it comes twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Idempotency {
    /// By a key the session makes.
    #[default]
    Automatic,
    /// By the application's own.
    Key(Box<str>),
    /// Not at all: it is sent once.
    Off,
}

#[derive(Debug)]
pub(crate) struct SubscribeCommand {
    pub(crate) key: SubKey,
    pub(crate) filter: Filter,
    pub(crate) from: From,
    pub(crate) overflow: Option<Overflow>,
    pub(crate) limit: Option<u32>,
    pub(crate) limit_bytes: Option<u32>,
    /// The most messages that wait in `queue`: the credit.
    pub(crate) buffer: u32,
    pub(crate) echo: bool,
    pub(crate) queue: Arc<Queue>,
    pub(crate) reply: Reply<Subscribed, SubscribeError>,
}

#[derive(Debug)]
pub(crate) struct HistoryCommand {
    pub(crate) topic: Topic,
    pub(crate) from: From,
    pub(crate) limit: usize,
    pub(crate) reply: Reply<Vec<Message>, HistoryError>,
}
