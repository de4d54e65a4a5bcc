//! What can go wrong, by operation: a kind to match on, and the cause for the log.

use std::{error, fmt};

use tidegate_protocol::{CloseCode, ErrorCode};

/// An operation that failed: `kind` says what to do about it, the source why.
///
/// Its text is one line for a person and includes the source's.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{Client, ConnectErrorKind};
///
/// // Port 1 of the loopback address has no broker.
/// let error = Client::connect("ws://127.0.0.1:1").await.unwrap_err();
/// assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
/// assert!(std::error::Error::source(&error).is_some());
/// # Ok(()) });
/// ```
pub struct Error<K> {
    kind: K,
    detail: Option<String>,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

impl<K: Copy> Error<K> {
    pub(crate) fn new(kind: K) -> Self {
        Self { kind, detail: None, source: None }
    }

    pub(crate) fn with_detail(kind: K, detail: impl Into<String>) -> Self {
        Self { kind, detail: Some(detail.into()), source: None }
    }

    pub(crate) fn with_source(kind: K, source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self { kind, detail: None, source: Some(source.into()) }
    }

    /// What failed.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::PublishErrorKind;
    ///
    /// let error = client.publish("two words", "hi").await.unwrap_err();
    /// assert_eq!(error.kind(), PublishErrorKind::InvalidTopic);
    /// # Ok(()) });
    /// ```
    pub fn kind(&self) -> K {
        self.kind
    }
}

impl<K: fmt::Display> fmt::Display for Error<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl<K: fmt::Debug> fmt::Debug for Error<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind);
        if let Some(detail) = &self.detail {
            debug.field("detail", detail);
        }
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl<K: fmt::Debug + fmt::Display> error::Error for Error<K> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Why a client could not connect.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{Client, ConnectError};
///
/// async fn first_of(urls: &[&str]) -> Result<Client, ConnectError> {
///     let mut result = Client::connect(urls[0]).await;
///     for url in &urls[1..] {
///         if result.is_err() {
///             result = Client::connect(url).await;
///         }
///     }
///     result
/// }
/// first_of(&["ws://127.0.0.1:1", &url]).await?;
/// # Ok(()) });
/// ```
pub type ConnectError = Error<ConnectErrorKind>;
/// Why a message was not published, or is not known to be.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{Client, PublishError};
///
/// async fn greet(client: &Client) -> Result<(), PublishError> {
///     client.publish("chat.room1", "hello").await?;
///     Ok(())
/// }
/// greet(&client).await?;
/// # Ok(()) });
/// ```
pub type PublishError = Error<PublishErrorKind>;
/// Why a subscription did not start.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::SubscribeError;
///
/// let refused: SubscribeError = client.subscribe("chat..room1").await.unwrap_err();
/// assert_eq!(refused.to_string(), "not a filter: a token is empty");
/// # Ok(()) });
/// ```
pub type SubscribeError = Error<SubscribeErrorKind>;
/// Why a topic's log could not be read.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::HistoryError;
///
/// let refused: HistoryError = client.history("chat.*").await.unwrap_err();
/// assert_eq!(refused.to_string(), "not a topic: '*' may not stand here");
/// # Ok(()) });
/// ```
pub type HistoryError = Error<HistoryErrorKind>;
/// Why a token was not renewed.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::RefreshError;
///
/// let refused: RefreshError = client.refresh("x".repeat(10_000)).await.unwrap_err();
/// assert_eq!(refused.to_string(), "the token is too long");
/// # Ok(()) });
/// ```
pub type RefreshError = Error<RefreshErrorKind>;
/// Why a client did not end in order.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::DrainError;
///
/// client.drain().await?;
/// let refused: DrainError = client.drain().await.unwrap_err();
/// assert_eq!(refused.to_string(), "the client is closed");
/// # Ok(()) });
/// ```
pub type DrainError = Error<DrainErrorKind>;

/// See [`ConnectError`].
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{Client, ConnectErrorKind};
///
/// match Client::connect(url).await.map_err(|error| error.kind()) {
///     Ok(client) => client.drain().await?,
///     Err(ConnectErrorKind::Unreachable | ConnectErrorKind::Timeout) => println!("try again later"),
///     Err(ConnectErrorKind::Refused(code)) => println!("another token, perhaps: {code}"),
///     Err(kind) => println!("{kind}: look at the configuration"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// Not a WebSocket URL.
    InvalidUrl,
    /// An option is longer than the protocol allows.
    InvalidOption,
    /// Nothing answers there.
    Unreachable,
    /// Something answers, but not a broker: the WebSocket handshake failed, with this HTTP status where there was one.
    Handshake(Option<u16>),
    /// The broker refused the client.
    Refused(ErrorCode),
    /// The connection was closed before the broker welcomed the client, with this code where one was given.
    Closed(Option<u16>),
    /// The broker did not answer in time.
    Timeout,
}

impl fmt::Display for ConnectErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidUrl => f.write_str("not a broker's URL"),
            Self::InvalidOption => f.write_str("an option is not valid"),
            Self::Unreachable => f.write_str("cannot reach the broker"),
            Self::Handshake(Some(status)) => write!(f, "no broker there, HTTP status {status}"),
            Self::Handshake(None) => f.write_str("no broker there"),
            Self::Refused(code) => write!(f, "the broker refused the client, error {code}"),
            Self::Closed(code) => write!(f, "closed before it was welcomed{}", ClosedWith(*code)),
            Self::Timeout => f.write_str("the broker did not answer in time"),
        }
    }
}

/// See [`PublishError`].
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::PublishErrorKind;
///
/// match client.publish("pictures.1", vec![0; 100_000]).await.map_err(|error| error.kind()) {
///     Ok(ack) => println!("stands at {:?}", ack.position),
///     Err(PublishErrorKind::TooLarge) => println!("send a link in its place"),
///     Err(kind) if kind.retry() => println!("{kind}: try again later"),
///     Err(kind) => println!("{kind}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishErrorKind {
    /// Not a topic.
    InvalidTopic,
    /// Not a payload of the kind it claims, or not serializable.
    InvalidPayload,
    /// The key, the headers or the idempotency key are longer than the protocol allows.
    InvalidAttributes,
    /// The message is larger than the broker takes. Nothing was sent.
    TooLarge,
    /// The publish window is full: only [`Client::try_publish`](crate::Client::try_publish) says so.
    Full,
    /// The broker refused the message.
    Refused(ErrorCode),
    /// Whether the message was published cannot be learned any more: its ack did not come, and the broker may have
    /// forgotten the idempotency key (2 minutes after it took the message), so that sending it again could double it.
    OutcomeUnknown,
    /// The client was drained, or the broker closed it for good. Nothing was sent.
    Closed,
}

impl PublishErrorKind {
    /// Whether the same publish can succeed later. After [`OutcomeUnknown`](Self::OutcomeUnknown) it can, but may
    /// publish the message a second time.
    ///
    /// ```
    /// use tidegate_client::{ErrorCode, PublishErrorKind};
    ///
    /// assert!(PublishErrorKind::Refused(ErrorCode::RateLimited).retry());
    /// assert!(!PublishErrorKind::InvalidTopic.retry());
    /// ```
    pub fn retry(self) -> bool {
        match self {
            Self::Full | Self::OutcomeUnknown => true,
            Self::Refused(code) => code.retry(),
            Self::InvalidTopic
            | Self::InvalidPayload
            | Self::InvalidAttributes
            | Self::TooLarge
            | Self::Closed => false,
        }
    }
}

impl fmt::Display for PublishErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidTopic => f.write_str("not a topic"),
            Self::InvalidPayload => f.write_str("not a payload"),
            Self::InvalidAttributes => f.write_str("key, headers or idempotency key too long"),
            Self::TooLarge => f.write_str("the message is too large"),
            Self::Full => f.write_str("the publish window is full"),
            Self::Refused(code) => write!(f, "refused with error {code}"),
            Self::OutcomeUnknown => {
                f.write_str("outcome unknown: the connection was lost before the ack came")
            }
            Self::Closed => f.write_str("the client is closed"),
        }
    }
}

/// See [`SubscribeError`].
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::SubscribeErrorKind;
///
/// match client.subscribe("chat.>.x").await.map_err(|error| error.kind()) {
///     Ok(subscription) => println!("{:?}", subscription.terms()),
///     Err(SubscribeErrorKind::InvalidFilter) => println!("`>` stands last or not at all"),
///     Err(SubscribeErrorKind::Refused(code)) if code.retry() => println!("{code}: try again later"),
///     Err(kind) => println!("{kind}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeErrorKind {
    /// Not a filter.
    InvalidFilter,
    /// The broker refused the subscription.
    Refused(ErrorCode),
    /// The client was drained, or the broker closed it for good.
    Closed,
}

impl fmt::Display for SubscribeErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidFilter => f.write_str("not a filter"),
            Self::Refused(code) => write!(f, "refused with error {code}"),
            Self::Closed => f.write_str("the client is closed"),
        }
    }
}

/// See [`HistoryError`].
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{ErrorCode, HistoryErrorKind};
///
/// match client.history("chat.room1").await.map_err(|error| error.kind()) {
///     Ok(messages) => println!("{} messages", messages.len()),
///     Err(HistoryErrorKind::Refused(ErrorCode::NoHistory)) => println!("the topic is in no stream"),
///     Err(kind) => println!("{kind}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HistoryErrorKind {
    /// Not a topic.
    InvalidTopic,
    /// The broker refused the request.
    Refused(ErrorCode),
    /// The client was drained, or the broker closed it for good.
    Closed,
}

impl fmt::Display for HistoryErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidTopic => f.write_str("not a topic"),
            Self::Refused(code) => write!(f, "refused with error {code}"),
            Self::Closed => f.write_str("the client is closed"),
        }
    }
}

/// See [`RefreshError`].
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::RefreshErrorKind;
///
/// # let new_token = "eyJhbGciOi…";
/// match client.refresh(new_token).await.map_err(|error| error.kind()) {
///     Ok(()) => println!("renewed"),
///     Err(RefreshErrorKind::Refused(code)) => println!("{code}: the old one stays in force"),
///     Err(kind) => println!("{kind}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefreshErrorKind {
    /// The token is longer than the protocol allows.
    TooLong,
    /// The broker refused the token. The one before stays in force.
    Refused(ErrorCode),
    /// The client was drained, or the broker closed it for good.
    Closed,
}

impl fmt::Display for RefreshErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("the token is too long"),
            Self::Refused(code) => write!(f, "refused with error {code}"),
            Self::Closed => f.write_str("the client is closed"),
        }
    }
}

/// See [`DrainError`].
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::DrainErrorKind;
///
/// match client.drain().await.map_err(|error| error.kind()) {
///     Ok(()) => println!("everything was acknowledged"),
///     Err(DrainErrorKind::Timeout) => println!("{} acknowledged", client.stats().acknowledged),
///     Err(kind) => println!("{kind}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainErrorKind {
    /// Some publishes were not acknowledged in time; they failed with
    /// [`OutcomeUnknown`](PublishErrorKind::OutcomeUnknown).
    Timeout,
    /// The broker had closed the client for good before.
    Closed,
}

impl fmt::Display for DrainErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("not everything was acknowledged in time"),
            Self::Closed => f.write_str("the client is closed"),
        }
    }
}

/// " with 4008 (slow)", or nothing.
pub(crate) struct ClosedWith(pub(crate) Option<u16>);

impl fmt::Display for ClosedWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(|number| (number, CloseCode::from_number(number))) {
            Some((_, Some(code))) => write!(f, ", code {code}"),
            Some((number, None)) => write!(f, ", code {number}"),
            None => Ok(()),
        }
    }
}
