//! The handle.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tidegate_protocol::{
    Payload,
    frame::{Headers, Published},
    limits,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    command::{Command, Idempotency, PublishCommand, SubKey},
    driver,
    error::{
        ConnectError, DrainError, DrainErrorKind, PublishError, PublishErrorKind, RefreshError,
        RefreshErrorKind,
    },
    event::{ConnectionEvent, ConnectionEvents, ConnectionState},
    history::HistoryQuery,
    options::Options,
    stats::{Counters, Stats},
    subscription::Subscribe,
    topic::{Encoding, IntoFilter, IntoTopic, TypedTopic},
    window::{NoPlace, Place, Window},
};

/// A handle to one connection. Clones share it; when the last one and the last [`Subscription`](crate::Subscription)
/// are gone, what was published is sent and the connection is closed.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::Client;
///
/// # let here = url;
/// let url = "ws://127.0.0.1:7400";
/// # let url = here;
/// let client = Client::connect(url).await?;
/// let ack = client.publish("orders.eu", r#"{"id":7}"#).await?;
/// println!("stands at {:?}", ack.position);
/// client.drain().await?;
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// The driver's other ends, as clients and subscriptions hold them.
pub(crate) struct Handle {
    /// Bounded: who finds it full waits.
    pub(crate) commands: mpsc::Sender<Command>,
    /// Subscriptions the session shall look at. Holds each at most once ([`Queue`](crate::queue::Queue) sees to it),
    /// so it needs no bound of its own and a drop need not wait.
    pub(crate) attention: mpsc::UnboundedSender<SubKey>,
    pub(crate) window: Arc<Window>,
    pub(crate) events: broadcast::Sender<ConnectionEvent>,
    pub(crate) state: watch::Receiver<ConnectionState>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) keys: AtomicU64,
}

impl Client {
    /// Connects with the default [`Options`]. See [`Options::connect`].
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::{Client, ConnectionState};
    ///
    /// # let here = url;
    /// let url = "ws://127.0.0.1:7400";
    /// # let url = here;
    /// let client = Client::connect(url).await?;
    /// assert_eq!(client.connection_state(), ConnectionState::Connected);
    /// # Ok(()) });
    /// ```
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, ConnectError> {
        Options::new().connect(url).await
    }

    pub(crate) async fn start(options: Options, url: &str) -> Result<Self, ConnectError> {
        Ok(Self { handle: driver::start(options, url).await? })
    }

    /// Publishes, and waits for the ack: then the message is in its stream, at the position the ack carries.
    ///
    /// While the publish window is full this waits for room. While the connection is lost it waits for it to come
    /// back; the message goes again under an idempotency key of its own, so that it is not doubled.
    ///
    /// Dropping the future does not take back what is on its way.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// client.publish("chat.room1", "hi").await?; // text
    /// client.publish("telemetry.1", vec![1u8, 2, 3]).await?; // binary
    ///
    /// let ack = client.publish("chat.room1", "there").await?;
    /// assert_eq!(ack.position.map(|position| position.offset), Some(3)); // the stream's third
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// [`PublishErrorKind`] says whether the topic, the payload or the broker refused, or that the outcome is unknown.
    pub async fn publish(
        &self,
        topic: impl IntoTopic,
        payload: impl Into<Payload>,
    ) -> Result<Published, PublishError> {
        self.publish_with(topic, payload, PublishOptions::new()).await
    }

    /// [`Client::publish`], with a key, headers, a report or an idempotency key of the application's own.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::PublishOptions;
    ///
    /// let options = PublishOptions::new().key("EURUSD").report(true);
    /// let ack = client.publish_with("prices.fx", "1.08", options).await?;
    /// assert_eq!(ack.report.map(|report| report.matched), Some(0)); // nobody listens
    /// # Ok(()) });
    /// ```
    pub async fn publish_with(
        &self,
        topic: impl IntoTopic,
        payload: impl Into<Payload>,
        options: PublishOptions,
    ) -> Result<Published, PublishError> {
        self.enqueue_with(topic, payload, options).await?.await
    }

    /// Publishes without waiting for the ack, only for room in the publish window. Messages leave in the order they
    /// are enqueued; the [`PendingAck`] resolves when this one is acknowledged. Many may be under way, so this is the
    /// way to publish fast.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let mut acks = Vec::new();
    /// for n in 0..100 {
    ///     acks.push(client.enqueue("numbers", n.to_string()).await?);
    /// }
    /// for ack in acks {
    ///     ack.await?;
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn enqueue(
        &self,
        topic: impl IntoTopic,
        payload: impl Into<Payload>,
    ) -> Result<PendingAck, PublishError> {
        self.enqueue_with(topic, payload, PublishOptions::new()).await
    }

    /// [`Client::enqueue`] with options.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::PublishOptions;
    ///
    /// let options = PublishOptions::new().idempotency("order-7");
    /// let first = client.enqueue_with("orders", "7", options.clone()).await?;
    /// let second = client.enqueue_with("orders", "7", options).await?;
    /// assert!(!first.await?.duplicate);
    /// assert!(second.await?.duplicate); // stored once
    /// # Ok(()) });
    /// ```
    pub async fn enqueue_with(
        &self,
        topic: impl IntoTopic,
        payload: impl Into<Payload>,
        options: PublishOptions,
    ) -> Result<PendingAck, PublishError> {
        let publish = Prepared::new(topic, payload.into(), options)?;
        let place = self.handle.window.place(publish.payload.len()).await.map_err(no_place)?;
        let (command, ack) = publish.command(place);
        self.handle.commands.send(command).await.map_err(|_| no_place(NoPlace::Closed))?;
        Ok(ack)
    }

    /// [`Client::enqueue`] that never waits.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::PublishErrorKind;
    ///
    /// match client.try_publish("sensors.1", "21.5") {
    ///     Ok(ack) => drop(ack), // on its way; nobody waits for the ack
    ///     Err(error) if error.kind() == PublishErrorKind::Full => println!("skipped a reading"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// [`PublishErrorKind::Full`] where the window has no room.
    pub fn try_publish(
        &self,
        topic: impl IntoTopic,
        payload: impl Into<Payload>,
    ) -> Result<PendingAck, PublishError> {
        self.try_publish_with(topic, payload, PublishOptions::new())
    }

    /// [`Client::try_publish`] with options.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::PublishOptions;
    ///
    /// let ack = client.try_publish_with("sensors.1", "21.5", PublishOptions::new().key("oven"))?;
    /// ack.await?;
    /// # Ok(()) });
    /// ```
    pub fn try_publish_with(
        &self,
        topic: impl IntoTopic,
        payload: impl Into<Payload>,
        options: PublishOptions,
    ) -> Result<PendingAck, PublishError> {
        let publish = Prepared::new(topic, payload.into(), options)?;
        let place = self.handle.window.try_place(publish.payload.len()).map_err(no_place)?;
        let (command, ack) = publish.command(place);
        self.handle.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => no_place(NoPlace::Full),
            mpsc::error::TrySendError::Closed(_) => no_place(NoPlace::Closed),
        })?;
        Ok(ack)
    }

    /// A subscription to make: set what differs from the defaults, then `.await` it. See [`Subscribe`].
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let mut rooms = client.subscribe("chat.*").await?;
    /// client.publish("chat.room1", "hi").await?;
    /// println!("{:?}", rooms.recv().await);
    /// # Ok(()) });
    /// ```
    pub fn subscribe(&self, filter: impl IntoFilter) -> Subscribe {
        Subscribe::new(self.handle.clone(), filter.into_filter())
    }

    /// A look at one topic's log. See [`HistoryQuery`].
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// client.publish("chat.room1", "hi").await?;
    /// for message in client.history("chat.room1").last(20).await? {
    ///     println!("{:?}", message.payload.as_str());
    /// }
    /// # Ok(()) });
    /// ```
    pub fn history(&self, topic: impl IntoTopic) -> HistoryQuery {
        HistoryQuery::new(self.handle.clone(), topic.into_topic())
    }

    /// The topic `topic` as one of values of type `T`. See [`TypedTopic`].
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Encoding;
    ///
    /// let readings = client.topic::<f64>("sensors.1", Encoding::Json);
    /// readings.publish(&21.5).await?;
    /// # Ok(()) });
    /// ```
    pub fn topic<T>(&self, topic: impl IntoTopic, encoding: Encoding) -> TypedTopic<T> {
        TypedTopic::new(self.clone(), topic.into_topic(), encoding)
    }

    /// Renews the token in place; it is also what the next connection begins with.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// # let new_token = "eyJhbGciOi…";
    /// client.refresh(new_token).await?; // the subscriptions go on
    /// # Ok(()) });
    /// ```
    pub async fn refresh(&self, token: impl Into<String>) -> Result<(), RefreshError> {
        let token = token.into();
        if token.len() > limits::TOKEN_BYTES {
            return Err(RefreshError::new(RefreshErrorKind::TooLong));
        }
        let (reply, done) = oneshot::channel();
        let closed = || RefreshError::new(RefreshErrorKind::Closed);
        self.handle.commands.send(Command::Refresh { token, reply }).await.map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }

    /// Ends in order: sends what is not acknowledged and waits for it, ends the subscriptions, closes the connection.
    /// What was delivered can still be read. Every clone is closed with it.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let ack = client.enqueue("orders", "7").await?;
    /// client.drain().await?;
    /// assert!(ack.await.is_ok()); // it was waited for
    /// assert!(client.publish("orders", "8").await.is_err());
    /// # Ok(()) });
    /// ```
    pub async fn drain(&self) -> Result<(), DrainError> {
        let (reply, done) = oneshot::channel();
        let closed = || DrainError::new(DrainErrorKind::Closed);
        self.handle.commands.send(Command::Drain { reply }).await.map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }

    /// What happens to the connection from now on.
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
    ///     if let ConnectionEvent::Disconnected { reason, .. } = event {
    ///         eprintln!("lost the broker: {reason}");
    ///     }
    /// }
    /// # Ok(()) });
    /// ```
    pub fn events(&self) -> ConnectionEvents {
        ConnectionEvents::new(self.handle.events.subscribe())
    }

    /// Where the connection stands now.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::ConnectionState;
    ///
    /// let ready = client.connection_state() == ConnectionState::Connected;
    /// # assert!(ready);
    /// # Ok(()) });
    /// ```
    pub fn connection_state(&self) -> ConnectionState {
        *self.handle.state.borrow()
    }

    /// Counters since the client was made.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// client.publish("a", "1").await?;
    /// assert_eq!(client.stats().acknowledged, 1);
    /// # Ok(()) });
    /// ```
    pub fn stats(&self) -> Stats {
        self.handle.counters.snapshot()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.connection_state()).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn next_key(&self) -> SubKey {
        self.keys.fetch_add(1, Relaxed)
    }

    pub(crate) fn attend(&self, key: SubKey) {
        // A driver that is gone has ended every subscription.
        let _ = self.attention.send(key);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// What a publish carries beside topic and payload.
///
/// ```
/// use tidegate_client::PublishOptions;
///
/// let options = PublishOptions::new().key("EURUSD").header("source", "desk 4").report(true);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishOptions {
    key: Option<Arc<str>>,
    headers: Headers,
    report: bool,
    idempotency: Idempotency,
}

impl PublishOptions {
    /// Nothing.
    ///
    /// ```
    /// use tidegate_client::PublishOptions;
    ///
    /// assert_eq!(PublishOptions::new(), PublishOptions::default());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// What [`Overflow::Latest`](crate::Overflow::Latest) tells values of one topic apart by; at most 255 bytes.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::PublishOptions;
    ///
    /// client.publish_with("prices.fx", "1.08", PublishOptions::new().key("EURUSD")).await?;
    /// client.publish_with("prices.fx", "0.85", PublishOptions::new().key("EURGBP")).await?;
    /// let newest = client.history("prices.fx").last(1).await?;
    /// assert_eq!(newest[0].key.as_deref(), Some("EURGBP"));
    /// # Ok(()) });
    /// ```
    pub fn key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a name and a value beside the payload; at most 16 of them, and 4096 bytes over all.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::PublishOptions;
    ///
    /// let options = PublishOptions::new().header("source", "desk 4").header("trace", "4bf92f35");
    /// client.publish_with("prices.fx", "1.08", options).await?;
    /// for (name, value) in &client.history("prices.fx").last(1).await?[0].headers {
    ///     println!("{name}: {value}");
    /// }
    /// # Ok(()) });
    /// ```
    pub fn header(mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Whether the ack shall say how the fan-out went.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::PublishOptions;
    ///
    /// let rooms = client.subscribe("chat.*").await?;
    /// let ack = client.publish_with("chat.room1", "hi", PublishOptions::new().report(true)).await?;
    /// assert_eq!(ack.report.map(|report| report.matched), Some(1));
    /// # Ok(()) });
    /// ```
    pub fn report(mut self, report: bool) -> Self {
        self.report = report;
        self
    }

    /// An idempotency key of the application's own, at most 64 bytes: a second publish with it is acknowledged with
    /// the first one's position. Without this the client makes a key, so that its own repeats are not doubled.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::PublishOptions;
    ///
    /// let once = PublishOptions::new().idempotency("order-7");
    /// let first = client.publish_with("orders", "7", once.clone()).await?;
    /// let again = client.publish_with("orders", "7", once).await?;
    /// assert!(again.duplicate);
    /// assert_eq!(again.position, first.position);
    /// # Ok(()) });
    /// ```
    pub fn idempotency(mut self, key: impl Into<Box<str>>) -> Self {
        self.idempotency = Idempotency::Key(key.into());
        self
    }

    /// No idempotency key at all: if the line is cut before the ack, the outcome is unknown.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::{PublishErrorKind, PublishOptions};
    ///
    /// let options = PublishOptions::new().without_idempotency();
    /// match client.publish_with("sensors.1", "21.5", options).await {
    ///     Err(error) if error.kind() == PublishErrorKind::OutcomeUnknown => println!("perhaps lost"),
    ///     outcome => println!("{:?}", outcome?.position),
    /// }
    /// # Ok(()) });
    /// ```
    pub fn without_idempotency(mut self) -> Self {
        self.idempotency = Idempotency::Off;
        self
    }

    fn check(&self) -> Result<(), PublishError> {
        let invalid = |detail| PublishError::with_detail(PublishErrorKind::InvalidAttributes, detail);
        if self.key.as_ref().is_some_and(|key| key.len() > limits::KEY_BYTES) {
            return Err(invalid(format!("the key has more than {} bytes", limits::KEY_BYTES)));
        }
        if self.headers.len() > limits::HEADERS {
            return Err(invalid(format!("more than {} headers", limits::HEADERS)));
        }
        if self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            > limits::HEADER_BYTES
        {
            return Err(invalid(format!("the headers have more than {} bytes", limits::HEADER_BYTES)));
        }
        match &self.idempotency {
            Idempotency::Key(key) if key.len() > limits::IDEMPOTENCY_BYTES => {
                Err(invalid(format!("the idempotency key has more than {} bytes", limits::IDEMPOTENCY_BYTES)))
            }
            _ => Ok(()),
        }
    }
}

/// A publish that is checked and has no place in the window yet.
struct Prepared {
    topic: tidegate_protocol::Topic,
    payload: Payload,
    options: PublishOptions,
}

impl Prepared {
    fn new(topic: impl IntoTopic, payload: Payload, options: PublishOptions) -> Result<Self, PublishError> {
        let topic =
            topic.into_topic().map_err(|e| PublishError::with_source(PublishErrorKind::InvalidTopic, e))?;
        options.check()?;
        Ok(Self { topic, payload, options })
    }

    fn command(self, place: Place) -> (Command, PendingAck) {
        let (reply, ack) = oneshot::channel();
        let PublishOptions { key, headers, report, idempotency } = self.options;
        let command = PublishCommand {
            topic: self.topic,
            payload: self.payload,
            key,
            headers,
            idempotency,
            report,
            place,
            reply,
        };
        (Command::Publish(command), PendingAck { ack })
    }
}

fn no_place(why: NoPlace) -> PublishError {
    PublishError::new(match why {
        NoPlace::Full => PublishErrorKind::Full,
        NoPlace::Closed => PublishErrorKind::Closed,
    })
}

/// The ack of a publish that is on its way: a future. Dropping it does not take the message back.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// let first = client.enqueue("orders", "7").await?; // does not wait for the ack
/// let second = client.enqueue("orders", "8").await?;
/// println!("{:?} {:?}", first.await?.position, second.await?.position);
/// # Ok(()) });
/// ```
#[derive(Debug)]
#[must_use = "only the ack says that the message was published"]
pub struct PendingAck {
    ack: oneshot::Receiver<Result<Published, PublishError>>,
}

impl Future for PendingAck {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A driver that goes without an answer (its runtime ended) leaves the outcome unknown.
        Pin::new(&mut self.ack)
            .poll(cx)
            .map(|ack| ack.unwrap_or_else(|_| Err(PublishError::new(PublishErrorKind::OutcomeUnknown))))
    }
}
