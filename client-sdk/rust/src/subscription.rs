//! One filter's messages, as a stream that outlives reconnects.

use std::{
    collections::VecDeque,
    fmt,
    future::{IntoFuture, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use tidegate_protocol::{
    Epoch, ErrorCode, Filter, From, Message, Position,
    frame::{Gap, Overflow, Subscribed},
    topic::TopicError,
};
use tokio::sync::oneshot;

use crate::{
    client::Handle,
    command::{Command, SubKey, SubscribeCommand},
    error::{SubscribeError, SubscribeErrorKind},
    queue::{Item, Queue},
};

/// Messages that wait for a reader unless [`Subscribe::buffer`] says otherwise. As many as a lane of the broker
/// holds by default: enough that credit comes back before it is used up.
const DEFAULT_BUFFER: u32 = 256;

/// One thing in a subscription's flow, at its place in it.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::Event;
///
/// let mut chat = client.subscribe("chat.>").await?;
/// # client.publish("chat.room1", "hi").await?;
/// while let Some(event) = chat.recv().await {
///     match event {
///         Event::Message(message) => println!("{}: {:?}", message.topic, message.payload.as_str()),
///         Event::Gap(gap) => println!("{:?} messages are missing: {:?}", gap.count, gap.reason),
///         Event::Resumed(_) => println!("back"),
///         Event::Reset(_) => println!("the broker began a new log"),
///     }
///     # break;
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A message.
    Message(Message),
    /// Messages were not delivered: how many, from and to which offset, and why.
    Gap(Gap),
    /// The connection was lost and is back. The position was kept: what was published meanwhile follows, or a gap.
    Resumed(Resumed),
    /// A stream's log is another incarnation, since the broker was restarted with a log in memory. What stood in the
    /// old one and was not delivered is lost, and what follows may be there a second time.
    Reset(Reset),
}

/// See [`Event::Resumed`].
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::Event;
///
/// let mut chat = client.subscribe("chat.>").await?;
/// # client.publish("chat.room1", "hi").await?;
/// if let Some(Event::Resumed(resumed)) = chat.recv().await {
///     for position in resumed.positions {
///         println!("goes on after {} of {:?}", position.offset, position.stream);
///     }
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumed {
    /// Where it goes on: after these.
    pub positions: Vec<Position>,
}

/// See [`Event::Reset`].
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::Event;
///
/// let mut chat = client.subscribe("chat.>").await?;
/// # client.publish("chat.room1", "hi").await?;
/// if let Some(Event::Reset(reset)) = chat.recv().await {
///     println!("log {} is gone; now at {} of {}", reset.old, reset.new.offset, reset.new.epoch);
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reset {
    /// The incarnation that is gone.
    pub old: Epoch,
    /// Where the subscription stands now, in the new one.
    pub new: Position,
}

/// Why a subscription ended.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::EndReason;
///
/// let mut chat = client.subscribe("chat.>").await?;
/// # client.drain().await?;
/// while let Some(event) = chat.recv().await {
///     println!("{event:?}");
/// }
/// match chat.end_reason() {
///     Some(EndReason::Refused { code, message }) => println!("ended by the broker: {code}, {message}"),
///     Some(reason) => println!("{reason}"),
///     None => unreachable!("it has ended"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// [`Subscription::unsubscribe`] was called.
    Unsubscribed,
    /// The broker ended it, or refused to resume it.
    Refused {
        /// The error.
        code: ErrorCode,
        /// For a person.
        message: String,
    },
    /// The client was drained, or the broker closed it for good.
    Closed,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsubscribed => f.write_str("unsubscribed"),
            Self::Refused { code, message } if message.is_empty() => {
                write!(f, "ended by the broker, error {code}")
            }
            Self::Refused { code, message } => write!(f, "ended by the broker, error {code}: {message}"),
            Self::Closed => f.write_str("the client is closed"),
        }
    }
}

/// A subscription about to be made; `.await` it. See [`Client::subscribe`](crate::Client::subscribe).
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use tidegate_client::{From, Overflow};
///
/// let prices = client
///     .subscribe("prices.*")
///     .from(From::Last { n: 1, at: None }) // the last known value of each
///     .overflow(Overflow::Latest)
///     .await?;
/// # Ok(()) });
/// ```
#[must_use = "a subscription starts when it is awaited"]
#[derive(Debug)]
pub struct Subscribe {
    handle: Arc<Handle>,
    filter: Result<Filter, TopicError>,
    from: From,
    overflow: Option<Overflow>,
    limit: Option<u32>,
    limit_bytes: Option<u32>,
    buffer: u32,
    echo: bool,
}

impl Subscribe {
    pub(crate) fn new(handle: Arc<Handle>, filter: Result<Filter, TopicError>) -> Self {
        Self {
            handle,
            filter,
            from: From::Live,
            overflow: None,
            limit: None,
            limit_bytes: None,
            buffer: DEFAULT_BUFFER,
            echo: true,
        }
    }

    /// Where to start; live if it is not said.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::{Event, From};
    ///
    /// client.publish("chat.room1", "published before").await?;
    /// let mut chat = client.subscribe("chat.*").from(From::Beginning).await?;
    /// assert!(matches!(chat.recv().await, Some(Event::Message(_))));
    /// # Ok(()) });
    /// ```
    pub fn from(mut self, from: From) -> Self {
        self.from = from;
        self
    }

    /// What happens to messages while this subscription is behind; the broker's default if it is not said.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Overflow;
    ///
    /// let prices = client.subscribe("prices.*").overflow(Overflow::Latest).await?;
    /// assert_eq!(prices.terms().overflow, Overflow::Latest);
    /// # Ok(()) });
    /// ```
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = Some(overflow);
        self
    }

    /// How many messages may wait for it at the broker. [`Subscription::terms`] says what is in force.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let chat = client.subscribe("chat.*").limit(1000).await?;
    /// assert_eq!(chat.terms().limit, 1000);
    /// # Ok(()) });
    /// ```
    pub fn limit(mut self, messages: u32) -> Self {
        self.limit = Some(messages);
        self
    }

    /// How many bytes may wait for it at the broker. [`Subscription::terms`] says what is in force.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let chat = client.subscribe("chat.*").limit_bytes(1 << 20).await?;
    /// assert_eq!(chat.terms().limit_bytes, 1 << 20);
    /// # Ok(()) });
    /// ```
    pub fn limit_bytes(mut self, bytes: u32) -> Self {
        self.limit_bytes = Some(bytes);
        self
    }

    /// How many messages may wait in this process, at least 1; 256 if it is not said. Beyond it they wait at the
    /// broker, under the overflow policy: this is the credit.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let mut jobs = client.subscribe("jobs.*").buffer(1).await?; // one at a time
    /// # client.publish("jobs.print", "1").await?;
    /// let job = jobs.recv().await;
    /// # Ok(()) });
    /// ```
    pub fn buffer(mut self, messages: u32) -> Self {
        self.buffer = messages.max(1);
        self
    }

    /// Whether it is sent what this client published itself; true if it is not said.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let mut cursors = client.subscribe("cursors.*").echo(false).await?; // only the others'
    /// client.publish("cursors.me", "10,20").await?;
    /// # client.drain().await?;
    /// # assert_eq!(cursors.recv().await, None);
    /// # Ok(()) });
    /// ```
    pub fn echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    async fn start(self) -> Result<Subscription, SubscribeError> {
        let filter =
            self.filter.map_err(|e| SubscribeError::with_source(SubscribeErrorKind::InvalidFilter, e))?;
        let (reply, terms) = oneshot::channel();
        let key = self.handle.next_key();
        let queue = Arc::new(Queue::default());
        // Made before it is asked for: dropping this future unsubscribes.
        let mut subscription = Subscription {
            handle: self.handle,
            key,
            filter: filter.clone(),
            queue: queue.clone(),
            local: VecDeque::new(),
            positions: Vec::new(),
            terms: None,
            report_every: u64::from(self.buffer / 2).max(1),
            taken: 0,
            reported: 0,
        };
        let command = Command::Subscribe(SubscribeCommand {
            key,
            filter,
            from: self.from,
            overflow: self.overflow,
            limit: self.limit,
            limit_bytes: self.limit_bytes,
            buffer: self.buffer,
            echo: self.echo,
            queue,
            reply,
        });
        let closed = || SubscribeError::new(SubscribeErrorKind::Closed);
        subscription.handle.commands.send(command).await.map_err(|_| closed())?;
        let terms = terms.await.map_err(|_| closed())??;
        subscription.positions = terms
            .positions
            .iter()
            .map(|start| Position { stream: start.stream.clone(), epoch: start.epoch, offset: start.offset })
            .collect();
        subscription.terms = Some(terms);
        Ok(subscription)
    }
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

/// A running subscription: a stream of [`Event`]s. Dropping it unsubscribes.
///
/// It may be left unread without harm to anything else of the client: at most [`Subscribe::buffer`] messages wait
/// here, the others at the broker, under the overflow policy.
///
/// ```
/// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
/// # broker::run(async |client, url| {
/// use futures_util::StreamExt;
/// use tidegate_client::Event;
///
/// let numbers = client.subscribe("numbers").await?;
/// for n in 1..=3 {
///     client.publish("numbers", n.to_string()).await?;
/// }
/// // A `Stream` as any other.
/// let three: Vec<Event> = numbers.take(3).collect().await;
/// # assert_eq!(three.len(), 3);
/// # Ok(()) });
/// ```
pub struct Subscription {
    handle: Arc<Handle>,
    key: SubKey,
    filter: Filter,
    queue: Arc<Queue>,
    /// Taken from the queue in one go, not yet read.
    local: VecDeque<Item>,
    /// Where the reader is, in each stream.
    positions: Vec<Position>,
    /// Always there once the subscription is in the application's hands.
    terms: Option<Subscribed>,
    /// How many messages are read before the driver is told, so that it can ask for more.
    report_every: u64,
    taken: u64,
    reported: u64,
}

impl Subscription {
    /// The next event; `None` at the end, when [`Subscription::end_reason`] says why. Cancel-safe.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::Event;
    ///
    /// let mut chat = client.subscribe("chat.*").await?;
    /// # client.publish("chat.room1", "hi").await?;
    /// while let Some(event) = chat.recv().await {
    ///     if let Event::Message(message) = event {
    ///         println!("{}: {:?}", message.topic, message.payload.as_str());
    ///     }
    ///     # break;
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn recv(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next event if one waits in this process.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let mut chat = client.subscribe("chat.*").await?;
    /// while let Some(event) = chat.try_recv() {
    ///     println!("{event:?}");
    /// }
    /// // Nothing waits any more, or it has ended.
    /// assert!(chat.end_reason().is_none());
    /// # Ok(()) });
    /// ```
    pub fn try_recv(&mut self) -> Option<Event> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll_recv(&mut cx) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        }
    }

    /// The filter.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let chat = client.subscribe("chat.*").await?;
    /// assert_eq!(chat.filter().as_str(), "chat.*");
    /// # Ok(()) });
    /// ```
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// What the broker's first ack said: start positions, policy and bounds in force.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let chat = client.subscribe("chat.*").await?;
    /// let terms = chat.terms();
    /// println!("{:?}, at most {} messages wait", terms.overflow, terms.limit);
    /// # Ok(()) });
    /// ```
    pub fn terms(&self) -> &Subscribed {
        self.terms.as_ref().expect("a subscription is handed out with its terms")
    }

    /// Where this reader is, in each stream: after the events it has taken. Given to [`Subscribe::from`] as
    /// [`From::Positions`], it makes another process go on exactly here.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::From;
    ///
    /// let mut orders = client.subscribe("orders.*").await?;
    /// client.publish("orders.eu", "7").await?;
    /// orders.recv().await;
    /// let done = orders.position().to_vec(); // keep it, for instance in your database
    /// drop(orders);
    ///
    /// let orders = client.subscribe("orders.*").from(From::Positions(done.clone())).await?;
    /// assert_eq!(orders.position(), done);
    /// # Ok(()) });
    /// ```
    pub fn position(&self) -> &[Position] {
        &self.positions
    }

    /// How many messages wait in this process.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let chat = client.subscribe("chat.*").await?;
    /// assert_eq!(chat.lag(), 0);
    /// # Ok(()) });
    /// ```
    pub fn lag(&self) -> usize {
        let local = self.local.iter().filter(|item| matches!(item, Item::Event(Event::Message(_)))).count();
        local + self.queue.waiting()
    }

    /// Why it ended, once it has. What waits can still be read.
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// use tidegate_client::EndReason;
    ///
    /// let chat = client.subscribe("chat.*").await?;
    /// assert_eq!(chat.end_reason(), None);
    /// client.drain().await?;
    /// assert_eq!(chat.end_reason(), Some(EndReason::Closed));
    /// # Ok(()) });
    /// ```
    pub fn end_reason(&self) -> Option<EndReason> {
        self.queue.end_reason()
    }

    /// Ends it, and waits until the broker has taken note (at once while there is no connection).
    ///
    /// ```
    /// # mod broker { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/broker.rs")); }
    /// # broker::run(async |client, url| {
    /// let chat = client.subscribe("chat.*").await?;
    /// chat.unsubscribe().await;
    /// # Ok(()) });
    /// ```
    pub async fn unsubscribe(self) {
        let (reply, done) = oneshot::channel();
        if self.handle.commands.send(Command::Unsubscribe { key: self.key, reply }).await.is_ok() {
            // An error means the client is closed, and with it the subscription.
            let _ = done.await;
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            while let Some(item) = self.local.pop_front() {
                self.advance(&item);
                if let Item::Event(event) = item {
                    return Poll::Ready(Some(event));
                }
            }
            if !ready!(self.queue.poll_take(&mut self.local, cx)) {
                return Poll::Ready(None);
            }
        }
    }

    /// Moves the position, and tells the driver when enough messages were taken to ask for more.
    fn advance(&mut self, item: &Item) {
        match item {
            Item::Event(Event::Message(message)) => {
                if let Some(offset) = message.offset {
                    move_to(&mut self.positions, &message.stream, offset);
                }
                self.taken += 1;
                if self.taken - self.reported >= self.report_every {
                    self.reported = self.taken;
                    if self.queue.took(self.taken) {
                        self.handle.attend(self.key);
                    }
                }
            }
            Item::Event(Event::Gap(gap)) => {
                if let Some(to) = gap.to {
                    move_to(&mut self.positions, &gap.stream, to);
                }
            }
            Item::Event(Event::Reset(reset)) => {
                match self.positions.iter_mut().find(|position| position.stream == reset.new.stream) {
                    Some(position) => position.clone_from(&reset.new),
                    None => self.positions.push(reset.new.clone()),
                }
            }
            Item::Event(Event::Resumed(_)) => {}
            Item::Positions(positions) => {
                for new in positions {
                    match self.positions.iter_mut().find(|position| position.stream == new.stream) {
                        Some(position) if position.epoch == new.epoch => {
                            position.offset = position.offset.max(new.offset);
                        }
                        Some(position) => position.clone_from(new),
                        None => self.positions.push(new.clone()),
                    }
                }
            }
        }
    }
}

fn move_to(
    positions: &mut [Position],
    stream: &Option<tidegate_protocol::position::StreamName>,
    offset: u64,
) {
    if let Some(position) = positions.iter_mut().find(|position| position.stream == *stream) {
        position.offset = position.offset.max(offset);
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_recv(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.queue.abandon() {
            self.handle.attend(self.key);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("filter", &self.filter)
            .field("positions", &self.positions)
            .finish_non_exhaustive()
    }
}
