//! Topics of one Rust type.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use serde::{Serialize, de::DeserializeOwned};
use tidegate_protocol::{
    ContentKind, Filter, Message, Payload, Topic,
    frame::{Gap, Published},
    topic::TopicError,
};

use crate::{
    client::{Client, PublishOptions},
    error::{PublishError, PublishErrorKind, SubscribeError, SubscribeErrorKind},
    subscription::{Event, Reset, Resumed, Subscribe, Subscription},
};

/// What can stand for a topic. Text is checked on every call; a [`Topic`] is checked once.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::Topic;
///
/// client.publish("chat.room1", "checked on every call").await?;
///
/// let topic = Topic::parse("chat.room1")?; // checked once
/// for n in 0..10 {
///     client.publish(&topic, n.to_string()).await?;
/// }
/// # Ok(()) });
/// ```
pub trait IntoTopic {
    /// The topic, or why it is none.
    ///
    /// ```
    /// use tidegate_client::{IntoTopic, TopicError};
    ///
    /// assert_eq!("chat.room1".into_topic()?.as_str(), "chat.room1");
    /// assert_eq!("chat.".into_topic(), Err(TopicError::EmptyToken));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn into_topic(self) -> Result<Topic, TopicError>;
}

impl IntoTopic for Topic {
    fn into_topic(self) -> Result<Topic, TopicError> {
        Ok(self)
    }
}

impl IntoTopic for &Topic {
    fn into_topic(self) -> Result<Topic, TopicError> {
        Ok(self.clone())
    }
}

impl IntoTopic for &str {
    fn into_topic(self) -> Result<Topic, TopicError> {
        Topic::parse(self)
    }
}

impl IntoTopic for String {
    fn into_topic(self) -> Result<Topic, TopicError> {
        Topic::parse(&self)
    }
}

impl IntoTopic for &String {
    fn into_topic(self) -> Result<Topic, TopicError> {
        Topic::parse(self)
    }
}

/// What can stand for a filter.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::Filter;
///
/// client.subscribe("chat.*").await?;
/// client.subscribe(Filter::parse("chat.>")?).await?;
/// # Ok(()) });
/// ```
pub trait IntoFilter {
    /// The filter, or why it is none.
    ///
    /// ```
    /// use tidegate_client::{IntoFilter, Topic};
    ///
    /// assert!("chat.*".into_filter()?.matches(&Topic::parse("chat.room1")?));
    /// assert!("chat*".into_filter().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn into_filter(self) -> Result<Filter, TopicError>;
}

impl IntoFilter for Filter {
    fn into_filter(self) -> Result<Filter, TopicError> {
        Ok(self)
    }
}

impl IntoFilter for &Filter {
    fn into_filter(self) -> Result<Filter, TopicError> {
        Ok(self.clone())
    }
}

impl IntoFilter for Topic {
    fn into_filter(self) -> Result<Filter, TopicError> {
        Ok(self.into())
    }
}

impl IntoFilter for &str {
    fn into_filter(self) -> Result<Filter, TopicError> {
        Filter::parse(self)
    }
}

impl IntoFilter for String {
    fn into_filter(self) -> Result<Filter, TopicError> {
        Filter::parse(&self)
    }
}

impl IntoFilter for &String {
    fn into_filter(self) -> Result<Filter, TopicError> {
        Filter::parse(self)
    }
}

/// How values of a [`TypedTopic`] are written.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{ContentKind, Encoding};
///
/// client.topic("sensors.1", Encoding::Json).publish(&21.5).await?;
/// client.topic("sensors.2", Encoding::Bincode).publish(&21.5).await?;
/// let kind = client.history("sensors.2").await?[0].payload.kind();
/// assert_eq!(kind, ContentKind::Binary);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// As JSON, which every subscriber can read.
    #[default]
    Json,
    /// As bincode 2, standard configuration: smaller and faster, between Rust programs that share the type.
    Bincode,
}

/// The largest value read from bincode, in bytes. Its length prefixes are a stranger's: without a bound a few bytes
/// could ask for any amount of memory.
const BINCODE_LIMIT: usize = 16 << 20;

/// A payload that is no value of the topic's type.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{DecodeError, Encoding, TypedEvent};
///
/// let mut readings = client.topic::<f64>("sensors.1", Encoding::Json).subscribe().await?;
/// client.publish("sensors.1", "warm").await?;
/// if let Some(TypedEvent::Message(message)) = readings.recv().await {
///     match message.value {
///         Ok(celsius) => println!("{celsius} °C"),
///         Err(DecodeError::Kind(kind)) => println!("a publisher sends {kind:?}"),
///         Err(error) => println!("{:?} is no number: {error}", message.message.payload.as_str()),
///     }
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Published as another kind than the encoding's: JSON is published as JSON or text, bincode as binary.
    #[error("the payload is {0:?}, not of the topic's encoding")]
    Kind(ContentKind),
    /// Not a value of the type, in JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Not a value of the type, in bincode.
    #[error(transparent)]
    Bincode(#[from] bincode::error::DecodeError),
    /// A value of the type, and then something else.
    #[error("{0} bytes are left over after the value")]
    Trailing(usize),
}

impl Encoding {
    /// Writes a value.
    fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Payload, PublishError> {
        match self {
            Self::Json => {
                let invalid = |e: tidegate_protocol::payload::PayloadError| {
                    PublishError::with_source(PublishErrorKind::InvalidPayload, e)
                };
                Payload::to_json(value).map_err(invalid)
            }
            Self::Bincode => bincode::serde::encode_to_vec(value, bincode::config::standard())
                .map(Payload::binary)
                .map_err(|e| PublishError::with_source(PublishErrorKind::InvalidPayload, e)),
        }
    }

    /// Reads a value.
    fn decode<T: DeserializeOwned>(self, payload: &Payload) -> Result<T, DecodeError> {
        match (self, payload.kind()) {
            (Self::Json, ContentKind::Json | ContentKind::Text) => {
                Ok(serde_json::from_slice(payload.data())?)
            }
            (Self::Bincode, ContentKind::Binary) => {
                let config = bincode::config::standard().with_limit::<BINCODE_LIMIT>();
                let (value, read) = bincode::serde::decode_from_slice(payload.data(), config)?;
                match payload.len() - read {
                    0 => Ok(value),
                    left => Err(DecodeError::Trailing(left)),
                }
            }
            (_, kind) => Err(DecodeError::Kind(kind)),
        }
    }
}

/// A topic of values of type `T`. See [`Client::topic`].
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{Encoding, TypedEvent};
///
/// #[derive(Debug, serde::Serialize, serde::Deserialize)]
/// struct Price {
///     bid: f64,
///     ask: f64,
/// }
///
/// let euro = client.topic::<Price>("prices.eur", Encoding::Json);
/// let mut prices = euro.subscribe().await?;
/// euro.publish(&Price { bid: 1.08, ask: 1.09 }).await?;
/// while let Some(event) = prices.recv().await {
///     if let TypedEvent::Message(message) = event {
///         println!("{:?}", message.value?);
///     }
///     # break;
/// }
/// # Ok(()) });
/// ```
pub struct TypedTopic<T> {
    client: Client,
    /// A mistake here is told by the first use, which can fail anyway.
    topic: Result<Topic, TopicError>,
    encoding: Encoding,
    value: PhantomData<fn(T) -> T>,
}

impl<T> TypedTopic<T> {
    pub(crate) fn new(client: Client, topic: Result<Topic, TopicError>, encoding: Encoding) -> Self {
        Self { client, topic, encoding, value: PhantomData }
    }
}

impl<T: Serialize> TypedTopic<T> {
    /// Publishes a value. See [`Client::publish`].
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Encoding;
    ///
    /// let readings = client.topic::<f64>("sensors.1", Encoding::Json);
    /// let ack = readings.publish(&21.5).await?;
    /// assert!(ack.position.is_some());
    /// # Ok(()) });
    /// ```
    pub async fn publish(&self, value: &T) -> Result<Published, PublishError> {
        self.publish_with(value, PublishOptions::new()).await
    }

    /// [`TypedTopic::publish`] with options.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::{Encoding, PublishOptions};
    ///
    /// let readings = client.topic::<f64>("sensors.1", Encoding::Json);
    /// readings.publish_with(&21.5, PublishOptions::new().header("unit", "°C")).await?;
    /// # Ok(()) });
    /// ```
    pub async fn publish_with(&self, value: &T, options: PublishOptions) -> Result<Published, PublishError> {
        let topic =
            self.topic.clone().map_err(|e| PublishError::with_source(PublishErrorKind::InvalidTopic, e))?;
        self.client.publish_with(topic, self.encoding.encode(value)?, options).await
    }
}

impl<T: DeserializeOwned> TypedTopic<T> {
    /// Subscribes with the defaults, from now on.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::{Encoding, TypedEvent};
    ///
    /// let topic = client.topic::<f64>("sensors.1", Encoding::Json);
    /// let mut readings = topic.subscribe().await?;
    /// topic.publish(&21.5).await?;
    /// let Some(TypedEvent::Message(message)) = readings.recv().await else { panic!("the first event") };
    /// assert_eq!(message.value?, 21.5);
    /// # Ok(()) });
    /// ```
    pub async fn subscribe(&self) -> Result<TypedSubscription<T>, SubscribeError> {
        self.subscribe_with(|subscribe| subscribe).await
    }

    /// Subscribes with what `set` sets.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::{Encoding, From};
    ///
    /// let topic = client.topic::<f64>("sensors.1", Encoding::Json);
    /// let newest = topic.subscribe_with(|s| s.from(From::Last { n: 1, at: None })).await?;
    /// # Ok(()) });
    /// ```
    pub async fn subscribe_with(
        &self,
        set: impl FnOnce(Subscribe) -> Subscribe,
    ) -> Result<TypedSubscription<T>, SubscribeError> {
        let topic = self.topic.clone();
        let topic = topic.map_err(|e| SubscribeError::with_source(SubscribeErrorKind::InvalidFilter, e))?;
        let inner = set(self.client.subscribe(topic)).await?;
        Ok(TypedSubscription { inner, encoding: self.encoding, value: PhantomData })
    }
}

impl<T> Clone for TypedTopic<T> {
    fn clone(&self) -> Self {
        Self::new(self.client.clone(), self.topic.clone(), self.encoding)
    }
}

impl<T> fmt::Debug for TypedTopic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedTopic").field("topic", &self.topic).field("encoding", &self.encoding).finish()
    }
}

/// [`Event`], with messages read as `T`.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{Encoding, TypedEvent};
///
/// let topic = client.topic::<f64>("sensors.1", Encoding::Bincode);
/// let mut readings = topic.subscribe().await?;
/// # topic.publish(&21.5).await?;
/// while let Some(event) = readings.recv().await {
///     match event {
///         TypedEvent::Message(message) => println!("{:?}", message.value),
///         TypedEvent::Gap(gap) => println!("{:?} readings are missing", gap.count),
///         TypedEvent::Resumed(_) | TypedEvent::Reset(_) => {}
///     }
///     # break;
/// }
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub enum TypedEvent<T> {
    /// A message.
    Message(TypedMessage<T>),
    /// See [`Event::Gap`].
    Gap(Gap),
    /// See [`Event::Resumed`].
    Resumed(Resumed),
    /// See [`Event::Reset`].
    Reset(Reset),
}

/// A message and the value in it.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{Encoding, TypedEvent};
///
/// let topic = client.topic::<f64>("sensors.1", Encoding::Json);
/// let mut readings = topic.subscribe().await?;
/// topic.publish(&21.5).await?;
/// if let Some(TypedEvent::Message(message)) = readings.recv().await {
///     println!("{} at {} ms", message.value?, message.message.time);
/// }
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct TypedMessage<T> {
    /// The value, or why the payload is none: one publisher's mistake does not end the subscription.
    pub value: Result<T, DecodeError>,
    /// The message as it came.
    pub message: Message,
}

/// A subscription to a [`TypedTopic`]: a stream of [`TypedEvent`]s.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use futures_util::StreamExt;
/// use tidegate_client::Encoding;
///
/// let topic = client.topic::<u64>("numbers", Encoding::Bincode);
/// let numbers = topic.subscribe().await?;
/// for n in 1..=3 {
///     topic.publish(&n).await?;
/// }
/// // A `Stream` as any other.
/// let three: Vec<_> = numbers.take(3).collect().await;
/// # assert_eq!(three.len(), 3);
/// # Ok(()) });
/// ```
pub struct TypedSubscription<T> {
    inner: Subscription,
    encoding: Encoding,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> TypedSubscription<T> {
    /// The next event; `None` at the end. Cancel-safe.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::{Encoding, TypedEvent};
    ///
    /// let topic = client.topic::<String>("names", Encoding::Json);
    /// let mut names = topic.subscribe().await?;
    /// topic.publish(&"Ada".to_owned()).await?;
    /// if let Some(TypedEvent::Message(message)) = names.recv().await {
    ///     assert_eq!(message.value?, "Ada");
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn recv(&mut self) -> Option<TypedEvent<T>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<T> TypedSubscription<T> {
    /// The subscription beneath, for its terms and position.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Encoding;
    ///
    /// let readings = client.topic::<f64>("sensors.1", Encoding::Json).subscribe().await?;
    /// println!("at {:?}", readings.subscription().position());
    /// # Ok(()) });
    /// ```
    pub fn subscription(&self) -> &Subscription {
        &self.inner
    }

    /// The subscription beneath, to read on untyped or to unsubscribe.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Encoding;
    ///
    /// let readings = client.topic::<f64>("sensors.1", Encoding::Json).subscribe().await?;
    /// readings.into_subscription().unsubscribe().await;
    /// # Ok(()) });
    /// ```
    pub fn into_subscription(self) -> Subscription {
        self.inner
    }
}

impl<T: DeserializeOwned> Stream for TypedSubscription<T> {
    type Item = TypedEvent<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TypedEvent<T>>> {
        let encoding = self.encoding;
        Pin::new(&mut self.inner).poll_next(cx).map(|event| {
            event.map(|event| match event {
                Event::Message(message) => {
                    TypedEvent::Message(TypedMessage { value: encoding.decode(&message.payload), message })
                }
                Event::Gap(gap) => TypedEvent::Gap(gap),
                Event::Resumed(resumed) => TypedEvent::Resumed(resumed),
                Event::Reset(reset) => TypedEvent::Reset(reset),
            })
        })
    }
}

impl<T> fmt::Debug for TypedSubscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedSubscription").field("inner", &self.inner).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Price {
        bid: f64,
        venue: String,
    }

    fn price() -> Price {
        Price { bid: 1.08, venue: "größe\n".into() }
    }

    #[test]
    fn values_read_back_in_both_encodings() {
        for encoding in [Encoding::Json, Encoding::Bincode] {
            let payload = encoding.encode(&price()).unwrap();
            assert_eq!(encoding.decode::<Price>(&payload).unwrap(), price());
        }
    }

    #[test]
    fn what_is_no_value_of_the_type_says_why() {
        let decode = |encoding: Encoding, payload: Payload| encoding.decode::<Price>(&payload).unwrap_err();
        assert!(matches!(decode(Encoding::Json, Payload::text("{}")), DecodeError::Json(_)));
        assert!(matches!(
            decode(Encoding::Json, Payload::binary(vec![1])),
            DecodeError::Kind(ContentKind::Binary)
        ));
        assert!(matches!(
            decode(Encoding::Bincode, Payload::text("x")),
            DecodeError::Kind(ContentKind::Text)
        ));
        assert!(matches!(decode(Encoding::Bincode, Payload::binary(vec![1])), DecodeError::Bincode(_)));

        let mut bytes = Encoding::Bincode.encode(&price()).unwrap().data().to_vec();
        bytes.push(0);
        assert!(matches!(decode(Encoding::Bincode, Payload::binary(bytes)), DecodeError::Trailing(1)));
    }

    #[test]
    fn a_length_prefix_cannot_ask_for_more_memory_than_the_limit() {
        // 253 announces a u64: a string of 2^40 bytes.
        let mut bytes = vec![0; 8];
        bytes.push(253);
        bytes.extend((1u64 << 40).to_le_bytes());
        let error = Encoding::Bincode.decode::<Price>(&Payload::binary(bytes)).unwrap_err();
        assert!(
            matches!(error, DecodeError::Bincode(bincode::error::DecodeError::LimitExceeded)),
            "{error:?}"
        );
    }
}
