//! What happens to the connection as a whole.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tidegate_protocol::Filter;
use tokio::sync::broadcast::{self, error::RecvError};

/// Something that happened to the connection. Nothing here needs an answer: the client goes on by itself.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::ConnectionEvent;
///
/// let mut events = client.events();
/// # client.drain().await?;
/// # drop(client);
/// while let Some(event) = events.recv().await {
///     match event {
///         ConnectionEvent::Connected { connection } => println!("connected as {connection}"),
///         ConnectionEvent::Reconnecting { attempt, delay } => println!("attempt {attempt} in {delay:?}"),
///         ConnectionEvent::Failed { reason, .. } => println!("gone for good: {reason}"),
///         other => println!("{other:?}"),
///     }
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The broker welcomed the client, the first time or again.
    Connected {
        /// The connection's id, as the broker's log and metrics have it.
        connection: String,
    },
    /// The connection is gone.
    Disconnected {
        /// The close code, where one was given.
        code: Option<u16>,
        /// For a person.
        reason: String,
    },
    /// The next attempt comes after a delay.
    Reconnecting {
        /// How many attempts have failed since the connection was lost.
        attempt: u32,
        /// How long from now.
        delay: Duration,
    },
    /// The broker is going, and told this client when to come back.
    Draining {
        /// How long from when the connection is closed.
        delay: Duration,
    },
    /// What a subscription has and what the broker wrote to it differ: bytes were lost between them. The client reads
    /// on from its own position, and gives what that does not mend as a gap. This must never happen.
    BooksDiffer {
        /// The subscription's.
        filter: Filter,
        /// Messages the broker says it wrote or told of in gaps, on this connection.
        told: u64,
        /// Messages and gapped messages that came.
        had: u64,
    },
    /// The broker closed the connection for good, or the client was refused: it does not come back.
    Failed {
        /// The close code, where one was given.
        code: Option<u16>,
        /// For a person.
        reason: String,
    },
    /// The client was drained, or its last handle is gone.
    Closed,
    /// The reader of these events was too slow, and this many were passed over.
    Missed(u64),
}

/// Where the connection stands.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::ConnectionState;
///
/// let light = match client.connection_state() {
///     ConnectionState::Connected => "green",
///     ConnectionState::Connecting => "yellow",
///     _ => "red",
/// };
/// # assert_eq!(light, "green");
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// On the way to the broker, the first time or again.
    Connecting,
    /// Welcomed.
    Connected,
    /// For good: drained, refused, or closed with a code that says not to come back.
    Closed,
}

/// The [`ConnectionEvent`]s from when this was made. See [`Client::events`](crate::Client::events).
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use futures_util::StreamExt;
/// use tidegate_client::ConnectionEvent;
///
/// let events = client.events();
/// client.drain().await?;
/// drop(client);
/// // A `Stream` as any other.
/// let events: Vec<ConnectionEvent> = events.collect().await;
/// assert_eq!(events.last(), Some(&ConnectionEvent::Closed));
/// # Ok(()) });
/// ```
pub struct ConnectionEvents {
    inner: Pin<Box<dyn Stream<Item = ConnectionEvent> + Send + Sync>>,
}

/// How many events wait for a slow reader before the oldest are passed over: a few reconnects' worth.
pub(crate) const EVENT_CAPACITY: usize = 64;

impl ConnectionEvents {
    pub(crate) fn new(receiver: broadcast::Receiver<ConnectionEvent>) -> Self {
        let inner = stream::unfold(receiver, async |mut receiver| match receiver.recv().await {
            Ok(event) => Some((event, receiver)),
            Err(RecvError::Lagged(missed)) => Some((ConnectionEvent::Missed(missed), receiver)),
            Err(RecvError::Closed) => None,
        });
        Self { inner: Box::pin(inner) }
    }

    /// The next event; `None` once the client is gone.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::ConnectionEvent;
    ///
    /// let mut events = client.events();
    /// client.drain().await?;
    /// while events.recv().await != Some(ConnectionEvent::Closed) {}
    /// # Ok(()) });
    /// ```
    pub async fn recv(&mut self) -> Option<ConnectionEvent> {
        std::future::poll_fn(|cx| self.inner.as_mut().poll_next(cx)).await
    }
}

impl Stream for ConnectionEvents {
    type Item = ConnectionEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        self.inner.as_mut().poll_next(cx)
    }
}

impl std::fmt::Debug for ConnectionEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionEvents").finish_non_exhaustive()
    }
}
