//! Pages of one topic's log.

use std::{future::IntoFuture, pin::Pin, sync::Arc};

use tidegate_protocol::{From, Message, Topic, topic::TopicError};
use tokio::sync::oneshot;

use crate::{
    client::Handle,
    command::{Command, HistoryCommand},
    error::{HistoryError, HistoryErrorKind},
};

/// Messages a query gives unless [`HistoryQuery::limit`] says otherwise.
const DEFAULT_LIMIT: usize = 1000;

/// A look at one topic's log; `.await` it for the messages, oldest first. Pages are followed up to the limit. See
/// [`Client::history`](crate::Client::history).
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// client.publish("chat.room1", "hi").await?;
/// let messages = client.history("chat.room1").await?;
/// assert_eq!(messages[0].payload.as_str(), Some("hi"));
/// # Ok(()) });
/// ```
#[must_use = "a history is asked for when it is awaited"]
#[derive(Debug)]
pub struct HistoryQuery {
    handle: Arc<Handle>,
    topic: Result<Topic, TopicError>,
    from: From,
    limit: usize,
}

impl HistoryQuery {
    pub(crate) fn new(handle: Arc<Handle>, topic: Result<Topic, TopicError>) -> Self {
        Self { handle, topic, from: From::Beginning, limit: DEFAULT_LIMIT }
    }

    /// From where on; the log's beginning if it is not said.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::From;
    ///
    /// client.publish("chat.room1", "hi").await?;
    /// let ack = client.publish("chat.room1", "there").await?;
    /// let since_then = From::Positions(ack.position.into_iter().collect());
    /// assert!(client.history("chat.room1").from(since_then).await?.is_empty());
    /// # Ok(()) });
    /// ```
    pub fn from(mut self, from: From) -> Self {
        self.from = from;
        self
    }

    /// The newest `n`.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// for text in ["one", "two", "three"] {
    ///     client.publish("chat.room1", text).await?;
    /// }
    /// let messages = client.history("chat.room1").last(2).await?;
    /// assert_eq!(messages[0].payload.as_str(), Some("two")); // oldest first
    /// # Ok(()) });
    /// ```
    pub fn last(self, n: u32) -> Self {
        self.from(From::Last { n, at: None })
    }

    /// At most this many messages in all; 1000 if it is not said. They are held in memory together.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// for text in ["one", "two", "three"] {
    ///     client.publish("chat.room1", text).await?;
    /// }
    /// assert_eq!(client.history("chat.room1").limit(2).await?.len(), 2);
    /// # Ok(()) });
    /// ```
    pub fn limit(mut self, messages: usize) -> Self {
        self.limit = messages;
        self
    }

    async fn run(self) -> Result<Vec<Message>, HistoryError> {
        let topic = self.topic.map_err(|e| HistoryError::with_source(HistoryErrorKind::InvalidTopic, e))?;
        if self.limit == 0 {
            return Ok(Vec::new());
        }
        let (reply, messages) = oneshot::channel();
        let command = HistoryCommand { topic, from: self.from, limit: self.limit, reply };
        let closed = || HistoryError::new(HistoryErrorKind::Closed);
        self.handle.commands.send(Command::History(command)).await.map_err(|_| closed())?;
        messages.await.map_err(|_| closed())?
    }
}

impl IntoFuture for HistoryQuery {
    type Output = Result<Vec<Message>, HistoryError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
