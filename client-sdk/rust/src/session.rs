//! The rules of a client: what it says and when, what it makes of what the broker says. No I/O; time is an argument.
//!
//! The driver hands in what happened (`on_*`), then writes what there is to write ([`Session::write_frame`]), hands
//! out what readers shall have ([`Session::deliver`]), and sleeps no longer than [`Session::next_deadline`]. What is
//! answered goes out over reply ends and queues that never wait.

mod books;
mod history;
mod publishes;
#[cfg(test)]
mod simulation;
mod subscriber;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate_protocol::{
    ClientFrame, CloseCode, Codec, ErrorCode, Filter, Message, ServerFrame, Topic,
    frame::{AckResult, Connect, ErrorFrame, Mark, PublishWindow, Subscribed, Welcome, reconnects},
    position::StreamName,
};
use tokio::sync::{broadcast, oneshot, watch};

use self::{
    history::Histories,
    publishes::Publishes,
    subscriber::{Phase, Subscriber, Verdict},
};
use crate::{
    backoff::{Backoff, LIVED},
    command::{Command, PublishCommand, Reply, SubKey, SubscribeCommand},
    error::{
        ConnectError, ConnectErrorKind, DrainError, DrainErrorKind, PublishError, PublishErrorKind,
        RefreshError, RefreshErrorKind, SubscribeError, SubscribeErrorKind,
    },
    event::{ConnectionEvent, ConnectionState},
    stats::Counters,
    subscription::EndReason,
    window::Window,
};

/// Beyond the broker's ping interval, how long nothing may be heard before the line counts as dead.
const PING_GRACE: Duration = Duration::from_secs(10);

/// From when to when a subscription that was refused for the moment is asked for again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

pub(crate) struct Session {
    codec: Codec,
    connect: Connect,
    connect_timeout: Duration,
    drain_timeout: Duration,
    outlets: Outlets,
    rng: fastrand::Rng,

    link: Link,
    backoff: Backoff,
    /// What the last welcome said.
    reconnect_window: (Duration, Duration),
    /// Told once, when the first attempt has succeeded or failed.
    ready: Option<oneshot::Sender<Result<(), ConnectError>>>,
    ending: Option<Ending>,
    drain: Option<Drain>,

    /// Ids grow over all connections, so that no answer of one can be taken for another's.
    last_id: u64,
    requests: HashMap<u64, Request>,
    /// What goes out before any publish. Written without ids: those are given in the order of writing.
    control: VecDeque<Outgoing>,
    publishes: Publishes,
    histories: Histories,
    subscribers: HashMap<SubKey, Subscriber>,
    routes: Routes,
    /// Subscribers with something staged.
    staged: Vec<SubKey>,
    /// Subscribers that ask again at a time.
    retries: Vec<(Instant, SubKey)>,
    targets: Vec<SubKey>,
}

/// Where the session tells what is not an answer.
pub(crate) struct Outlets {
    pub(crate) events: broadcast::Sender<ConnectionEvent>,
    pub(crate) state: watch::Sender<ConnectionState>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) window: Arc<Window>,
}

/// What the options say about the session.
pub(crate) struct Settings {
    pub(crate) codec: Codec,
    pub(crate) client_name: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) instance: String,
    /// Tells this process's idempotency keys from those of one before it with the same instance.
    pub(crate) key_prefix: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) seed: u64,
}

#[derive(Debug)]
enum Link {
    Down,
    /// The WebSocket is open, the welcome has not come.
    Greeting {
        until: Instant,
        refused: Option<(ErrorCode, String)>,
    },
    Up(Up),
}

#[derive(Debug)]
struct Up {
    window: PublishWindow,
    payload_bytes: u64,
    message_bytes: usize,
    since: Instant,
    heard: Instant,
    /// How long nothing may be heard.
    patience: Duration,
    /// The broker is going: when to come back, counted from the close.
    leave: Option<Duration>,
}

/// What the driver shall do to the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Write what is to be written, then close with this code.
    Close(u16),
    /// Drop the socket: nobody is there.
    Cut(&'static str),
}

/// What comes after a connection, or an attempt at one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Reconnect(Duration),
    Stop,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) code: Option<u16>,
    pub(crate) reason: String,
}

#[derive(Debug)]
struct Drain {
    until: Instant,
    replies: Vec<Reply<(), DrainError>>,
    /// Subscriptions were told to end.
    unsubscribed: bool,
    /// It took too long.
    over: bool,
    /// And publishes were left.
    timed_out: bool,
}

/// A frame to write, without its id.
#[derive(Debug)]
enum Outgoing {
    Connect,
    Subscribe(SubKey),
    Unsubscribe { sub: u64, reply: Option<oneshot::Sender<()>> },
    Credit(SubKey),
    History,
    Refresh { token: String, reply: Reply<(), RefreshError> },
}

/// What an id in flight was asked for.
#[derive(Debug)]
enum Request {
    Connect,
    Subscribe(SubKey),
    Unsubscribe(Option<oneshot::Sender<()>>),
    Refresh { token: String, reply: Reply<(), RefreshError> },
}

/// Which subscribers a message goes to. Only acknowledged subscriptions of this connection are here.
#[derive(Debug, Default)]
struct Routes {
    by_id: HashMap<u64, SubKey>,
    exact: HashMap<Topic, Vec<SubKey>>,
    wildcard: Vec<(Filter, SubKey)>,
}

impl Session {
    pub(crate) fn new(
        settings: Settings,
        outlets: Outlets,
        ready: oneshot::Sender<Result<(), ConnectError>>,
    ) -> Self {
        let connect = Connect {
            id: 0,
            token: settings.token,
            client: settings.client_name,
            instance: Some(settings.instance),
        };
        Self {
            codec: settings.codec,
            connect,
            connect_timeout: settings.connect_timeout,
            drain_timeout: settings.drain_timeout,
            outlets,
            rng: fastrand::Rng::with_seed(settings.seed),
            link: Link::Down,
            backoff: Backoff::default(),
            reconnect_window: (Duration::ZERO, Duration::from_secs(5)),
            ready: Some(ready),
            ending: None,
            drain: None,
            last_id: 0,
            requests: HashMap::new(),
            control: VecDeque::new(),
            publishes: Publishes::new(settings.key_prefix),
            histories: Histories::default(),
            subscribers: HashMap::new(),
            routes: Routes::default(),
            staged: Vec::new(),
            retries: Vec::new(),
            targets: Vec::new(),
        }
    }

    // What happens to the connection.

    /// The WebSocket is open.
    pub(crate) fn on_open(&mut self, now: Instant) {
        self.link = Link::Greeting { until: now + self.connect_timeout, refused: None };
        self.control.push_back(Outgoing::Connect);
    }

    /// Bytes came, be they a frame or a ping.
    pub(crate) fn on_heard(&mut self, now: Instant) {
        if let Link::Up(up) = &mut self.link {
            up.heard = now;
        }
    }

    /// The WebSocket is gone.
    pub(crate) fn on_closed(&mut self, closed: Closed, now: Instant) -> Next {
        let link = std::mem::replace(&mut self.link, Link::Down);
        let ending = self.ending.take();
        self.forget_connection(now);
        match link {
            Link::Up(up) => {
                if now.saturating_duration_since(up.since) >= LIVED {
                    self.backoff.reset();
                }
                if self.is_drained() {
                    return self.stop(None);
                }
                self.tell(ConnectionEvent::Disconnected { code: closed.code, reason: closed.reason.clone() });
                if let Some(delay) = up.leave {
                    self.backoff.skip_first();
                    return self.reconnect(Some(delay));
                }
                // What the session itself closed says nothing about the broker's wishes.
                if ending.is_none() && !closed.code.is_none_or(reconnects) {
                    return self.stop(Some(closed));
                }
                if closed
                    .code
                    .and_then(CloseCode::from_number)
                    .is_some_and(|code| matches!(code, CloseCode::Slow | CloseCode::Stalled))
                {
                    self.backoff.skip_first();
                }
                self.reconnect(None)
            }
            Link::Greeting { refused, .. } => {
                let (kind, detail, is_final) = match refused {
                    Some((code, message)) => (ConnectErrorKind::Refused(code), message, !code.retry()),
                    None if matches!(ending, Some(Ending::Cut(_))) => {
                        (ConnectErrorKind::Timeout, "no welcome came".into(), false)
                    }
                    None => (
                        ConnectErrorKind::Closed(closed.code),
                        closed.reason,
                        !closed.code.is_none_or(reconnects),
                    ),
                };
                self.on_failed_attempt(ConnectError::with_detail(kind, detail), closed.code, is_final)
            }
            Link::Down => self.reconnect(None),
        }
    }

    /// There was no WebSocket. `is_final` if another attempt cannot end otherwise.
    pub(crate) fn on_failed_attempt(
        &mut self,
        error: ConnectError,
        code: Option<u16>,
        is_final: bool,
    ) -> Next {
        if let Some(ready) = self.ready.take() {
            // Who asked may have gone.
            let _ = ready.send(Err(error));
            return self.stop(None);
        }
        if is_final {
            return self.stop(Some(Closed { code, reason: error.to_string() }));
        }
        self.tell(ConnectionEvent::Disconnected { code, reason: error.to_string() });
        self.reconnect(None)
    }

    fn reconnect(&mut self, delay: Option<Duration>) -> Next {
        if self.is_drained() {
            return self.stop(None);
        }
        self.outlets.state.send_replace(ConnectionState::Connecting);
        let attempt = self.backoff.attempts();
        let delay = delay.unwrap_or_else(|| self.backoff.next(self.reconnect_window, &mut self.rng));
        self.tell(ConnectionEvent::Reconnecting { attempt, delay });
        Next::Reconnect(delay)
    }

    /// The end, for good: everybody who waits is told.
    fn stop(&mut self, failed: Option<Closed>) -> Next {
        self.outlets.window.close();
        let is_failure = failed.is_some();
        let was_closed = self.outlets.state.send_replace(ConnectionState::Closed) == ConnectionState::Closed;
        if !was_closed {
            self.tell(match failed {
                Some(Closed { code, reason }) => ConnectionEvent::Failed { code, reason },
                None => ConnectionEvent::Closed,
            });
        }
        self.publishes.fail_all(&self.outlets.counters);
        self.histories.fail_all();
        for (_, subscriber) in self.subscribers.drain() {
            subscriber.refuse(SubscribeError::new(SubscribeErrorKind::Closed), EndReason::Closed);
        }
        self.staged.clear();
        self.requests.clear();
        self.control.clear();
        if let Some(drain) = self.drain.take() {
            for reply in drain.replies {
                let _ = reply.send(match (is_failure, drain.timed_out) {
                    (true, _) => Err(DrainError::new(DrainErrorKind::Closed)),
                    (false, true) => Err(DrainError::new(DrainErrorKind::Timeout)),
                    (false, false) => Ok(()),
                });
            }
        }
        Next::Stop
    }

    fn forget_connection(&mut self, now: Instant) {
        self.routes = Routes::default();
        self.retries.clear();
        self.publishes.on_disconnected(&self.outlets.counters);
        self.publishes.expire(now, &self.outlets.counters);
        self.histories.on_disconnected();
        for subscriber in self.subscribers.values_mut() {
            subscriber.on_disconnected();
        }
        let mut refreshes = Vec::new();
        let mut requests: Vec<_> = std::mem::take(&mut self.requests).into_iter().collect();
        requests.sort_unstable_by_key(|&(id, _)| id);
        for (_, request) in requests {
            match request {
                Request::Unsubscribe(Some(reply)) => drop(reply.send(())),
                Request::Refresh { token, reply } => refreshes.push((token, reply)),
                Request::Connect | Request::Subscribe(_) | Request::Unsubscribe(None) => {}
            }
        }
        for outgoing in std::mem::take(&mut self.control) {
            match outgoing {
                Outgoing::Unsubscribe { reply: Some(reply), .. } => drop(reply.send(())),
                Outgoing::Refresh { token, reply } => refreshes.push((token, reply)),
                _ => {}
            }
        }
        // The next connection begins with the newest token; whether it is taken, the welcome says.
        for (token, reply) in refreshes {
            self.connect.token = Some(token);
            let _ = reply.send(Ok(()));
        }
    }

    // What the broker says.

    pub(crate) fn on_frame(&mut self, frame: ServerFrame, now: Instant) {
        match frame {
            ServerFrame::Message(message) => self.on_message(message),
            ServerFrame::Ack { id, result } => self.on_ack(id, result),
            ServerFrame::Error(error) => self.on_error(error, now),
            ServerFrame::Gap(gap) => {
                if let Some(&key) = self.routes.by_id.get(&gap.sub)
                    && let Some(subscriber) = self.subscribers.get_mut(&key)
                {
                    subscriber.on_gap(gap, &self.outlets.counters);
                    self.staged.push(key);
                }
            }
            ServerFrame::Mark(mark) => self.on_mark(&mark),
            ServerFrame::History(page) => {
                if self.histories.on_page(page) {
                    self.control.push_back(Outgoing::History);
                }
            }
            ServerFrame::Unsubscribed { sub, code } => self.on_unsubscribed(sub, code, now),
            ServerFrame::Welcome(welcome) => self.on_welcome(welcome, now),
            ServerFrame::Drain { reconnect_ms } => {
                let delay = Duration::from_millis(reconnect_ms);
                if let Link::Up(up) = &mut self.link {
                    up.leave = Some(delay);
                    self.tell(ConnectionEvent::Draining { delay });
                }
            }
            ServerFrame::Pong { .. } => {}
        }
        self.settle();
    }

    /// A frame could not be read. Under bincode what follows it is lost too, so the connection is not worth keeping.
    pub(crate) fn on_unreadable(&mut self, is_fatal: bool) {
        self.outlets.counters.unreadable.add(1);
        if is_fatal {
            self.end(Ending::Close(CloseCode::ProtocolError.number()));
        }
    }

    fn on_welcome(&mut self, welcome: Welcome, now: Instant) {
        if !matches!(self.link, Link::Greeting { .. }) {
            return;
        }
        self.outlets.window.grow_to(welcome.publish_window);
        let (from, to) = welcome.reconnect_ms;
        self.reconnect_window = (Duration::from_millis(from), Duration::from_millis(to));
        self.link = Link::Up(Up {
            window: welcome.publish_window,
            payload_bytes: welcome.limits.payload_bytes,
            message_bytes: usize::try_from(welcome.limits.message_bytes).unwrap_or(usize::MAX),
            since: now,
            heard: now,
            patience: Duration::from_millis(welcome.ping_ms).saturating_add(PING_GRACE),
            leave: None,
        });
        self.requests.remove(&welcome.id);
        // In the order they were made, and before any publish: an echo finds its subscription.
        let mut keys: Vec<SubKey> = self.subscribers.keys().copied().collect();
        keys.sort_unstable();
        self.control.extend(keys.into_iter().map(Outgoing::Subscribe));
        if self.histories.is_due() {
            self.control.push_back(Outgoing::History);
        }
        self.outlets.counters.connections.add(1);
        self.outlets.state.send_replace(ConnectionState::Connected);
        self.tell(ConnectionEvent::Connected { connection: welcome.connection });
        if let Some(ready) = self.ready.take() {
            // Who asked may have gone: then its handle has too.
            let _ = ready.send(Ok(()));
        }
    }

    fn on_ack(&mut self, id: u64, result: AckResult) {
        match result {
            AckResult::Published(published) => self.publishes.on_ack(id, published, &self.outlets.counters),
            AckResult::Subscribed(terms) => self.on_subscribed(id, terms),
            AckResult::Done => self.on_done(id),
        }
    }

    fn on_subscribed(&mut self, id: u64, terms: Subscribed) {
        let Some(Request::Subscribe(key)) = self.requests.remove(&id) else { return };
        let Some(subscriber) = self.subscribers.get_mut(&key) else { return };
        if subscriber.phase != Phase::Asked(id) {
            return;
        }
        subscriber.on_ack(id, terms, &self.outlets.counters);
        self.routes.add(id, key, subscriber);
        self.staged.push(key);
        if subscriber.wants_credit() {
            self.control.push_back(Outgoing::Credit(key));
        }
    }

    fn on_done(&mut self, id: u64) {
        match self.requests.remove(&id) {
            // Who asked may have gone.
            Some(Request::Unsubscribe(Some(reply))) => drop(reply.send(())),
            Some(Request::Refresh { token, reply }) => {
                self.connect.token = Some(token);
                let _ = reply.send(Ok(()));
            }
            Some(Request::Connect | Request::Subscribe(_) | Request::Unsubscribe(None)) | None => {}
        }
    }

    fn on_error(&mut self, error: ErrorFrame, now: Instant) {
        let ErrorFrame { id: Some(id), code, message } = error else {
            // It answers no request: something this client wrote could not be read.
            tracing::warn!(code = %error.code, message = error.message, "the broker could not read a frame");
            return;
        };
        if self.publishes.on_error(id, code, &message, &self.outlets.counters) {
            return;
        }
        if self.histories.on_error(id, code, &message) {
            if self.histories.is_due() {
                self.control.push_back(Outgoing::History);
            }
            return;
        }
        match self.requests.remove(&id) {
            Some(Request::Connect) => {
                if let Link::Greeting { refused, .. } = &mut self.link {
                    *refused = Some((code, message));
                    self.end(Ending::Close(CloseCode::Normal.number()));
                }
            }
            Some(Request::Subscribe(key)) => self.on_subscribe_refused(key, id, code, message, now),
            Some(Request::Unsubscribe(Some(reply))) => drop(reply.send(())),
            Some(Request::Refresh { reply, .. }) => {
                let _ = reply.send(Err(RefreshError::with_detail(RefreshErrorKind::Refused(code), message)));
            }
            Some(Request::Unsubscribe(None)) | None => {}
        }
    }

    fn on_subscribe_refused(&mut self, key: SubKey, id: u64, code: ErrorCode, message: String, now: Instant) {
        let Some(subscriber) = self.subscribers.get_mut(&key) else { return };
        if subscriber.phase != Phase::Asked(id) {
            return;
        }
        subscriber.phase = Phase::Idle;
        if code == ErrorCode::Draining {
            // The next connection asks again.
            return;
        }
        if code.retry() && !subscriber.is_new() {
            return self.retry_later(key, now);
        }
        if let Some(subscriber) = self.subscribers.remove(&key) {
            let error = SubscribeError::with_detail(SubscribeErrorKind::Refused(code), message.clone());
            subscriber.refuse(error, EndReason::Refused { code, message });
        }
    }

    /// The broker ended a subscription, of itself: what was asked for is not known here any more.
    fn on_unsubscribed(&mut self, sub: u64, code: Option<ErrorCode>, now: Instant) {
        let Some(key) = self.routes.by_id.get(&sub).copied() else { return };
        self.unroute(key);
        match code {
            Some(ErrorCode::Draining) => {}
            Some(code) if code.retry() => self.retry_later(key, now),
            code => {
                if let Some(subscriber) = self.subscribers.remove(&key) {
                    subscriber.end(match code {
                        Some(code) => EndReason::Refused { code, message: String::new() },
                        None if self.drain.is_some() => EndReason::Closed,
                        None => EndReason::Unsubscribed,
                    });
                }
            }
        }
    }

    fn retry_later(&mut self, key: SubKey, now: Instant) {
        if let Some(subscriber) = self.subscribers.get_mut(&key) {
            subscriber.on_disconnected();
            let wait = RETRY.0 + (RETRY.1 - RETRY.0).mul_f64(self.rng.f64());
            self.retries.push((now + wait, key));
        }
    }

    fn on_message(&mut self, message: Message) {
        let mut targets = std::mem::take(&mut self.targets);
        match message.sub {
            Some(sub) => targets.extend(self.routes.by_id.get(&sub)),
            None => self.routes.matching(&message.topic, &mut targets),
        }
        if let Some((&last, others)) = targets.split_last() {
            for &key in others {
                self.hand_over(key, message.clone());
            }
            self.hand_over(last, message);
        }
        targets.clear();
        self.targets = targets;
    }

    fn hand_over(&mut self, key: SubKey, message: Message) {
        let Some(subscriber) = self.subscribers.get_mut(&key) else { return };
        if !subscriber.is_staged() {
            self.staged.push(key);
        }
        if subscriber.on_message(message, &self.outlets.counters).is_err() {
            tracing::warn!(filter = %subscriber.filter, "the broker sends more than it was given credit for");
            self.end(Ending::Close(CloseCode::ProtocolError.number()));
        } else if subscriber.wants_credit() {
            // Only where duplicates used credit up.
            self.control.push_back(Outgoing::Credit(key));
        }
    }

    fn on_mark(&mut self, mark: &Mark) {
        let listed: HashMap<u64, _> = mark.subs.iter().map(|entry| (entry.sub, entry)).collect();
        let mut differ = Vec::new();
        for (&key, subscriber) in &mut self.subscribers {
            let Phase::Active(id) = subscriber.phase else { continue };
            let entry = listed.get(&id).copied();
            if let Verdict::Differs { told, had } =
                subscriber.on_mark(entry, &mark.positions, &self.outlets.counters)
            {
                differ.push((key, id, told, had));
            }
            if subscriber.is_staged() {
                self.staged.push(key);
            }
        }
        for (key, id, told, had) in differ {
            let Some(subscriber) = self.subscribers.get_mut(&key) else { continue };
            self.outlets.counters.books_differ.add(1);
            let filter = subscriber.filter.clone();
            tracing::warn!(%filter, told, had, "a subscription's books differ from the broker's");
            if subscriber.has_log() {
                self.unroute(key);
                if let Some(subscriber) = self.subscribers.get_mut(&key) {
                    subscriber.begin_repair();
                }
                self.control.push_back(Outgoing::Unsubscribe { sub: id, reply: None });
                self.control.push_back(Outgoing::Subscribe(key));
            }
            self.tell(ConnectionEvent::BooksDiffer { filter, told, had });
        }
    }

    // What handles ask for.

    pub(crate) fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Publish(publish) => self.on_publish(publish),
            Command::Subscribe(subscribe) => self.on_subscribe(subscribe),
            Command::Unsubscribe { key, reply } => self.on_unsubscribe(key, Some(reply)),
            Command::History(history) => {
                self.histories.push(history);
                if self.is_up() && self.histories.is_due() {
                    self.control.push_back(Outgoing::History);
                }
            }
            Command::Refresh { token, reply } => {
                if self.is_up() {
                    self.control.push_back(Outgoing::Refresh { token, reply });
                } else {
                    self.connect.token = Some(token);
                    // Whether it is taken, the next welcome says.
                    let _ = reply.send(Ok(()));
                }
            }
            Command::Drain { reply } => self.on_drain(Some(reply), now),
        }
        self.settle();
    }

    fn on_publish(&mut self, publish: PublishCommand) {
        if let Link::Up(up) = &self.link
            && publish.payload.len() as u64 > up.payload_bytes
        {
            self.outlets.counters.failed.add(1);
            let detail = format!("{} bytes, the broker takes {}", publish.payload.len(), up.payload_bytes);
            let _ = publish.reply.send(Err(PublishError::with_detail(PublishErrorKind::TooLarge, detail)));
            return;
        }
        self.publishes.push(publish);
    }

    fn on_subscribe(&mut self, command: SubscribeCommand) {
        let key = command.key;
        let subscriber = Subscriber::new(command);
        if subscriber.is_abandoned() {
            return;
        }
        self.subscribers.insert(key, subscriber);
        if self.is_up() {
            self.control.push_back(Outgoing::Subscribe(key));
        }
    }

    /// A reader has taken messages, or is gone.
    pub(crate) fn on_attention(&mut self, key: SubKey) {
        let Some(subscriber) = self.subscribers.get_mut(&key) else { return };
        if !subscriber.look() {
            self.on_unsubscribe(key, None);
        } else if subscriber.wants_credit() {
            self.control.push_back(Outgoing::Credit(key));
        }
    }

    fn on_unsubscribe(&mut self, key: SubKey, reply: Option<oneshot::Sender<()>>) {
        self.unroute(key);
        let phase = self.subscribers.remove(&key).map(|subscriber| {
            let phase = subscriber.phase;
            subscriber.refuse(SubscribeError::new(SubscribeErrorKind::Closed), EndReason::Unsubscribed);
            phase
        });
        match (phase, reply) {
            (Some(Phase::Asked(sub) | Phase::Active(sub)), reply) => {
                self.control.push_back(Outgoing::Unsubscribe { sub, reply });
            }
            // The broker knows nothing of it.
            (Some(Phase::Idle) | None, Some(reply)) => drop(reply.send(())),
            (Some(Phase::Idle) | None, None) => {}
        }
    }

    /// The last handle is gone: as if the client had been drained, and nobody waits for it.
    pub(crate) fn on_handles_gone(&mut self, now: Instant) {
        self.on_drain(None, now);
        self.settle();
    }

    fn on_drain(&mut self, reply: Option<Reply<(), DrainError>>, now: Instant) {
        // Who publishes from now on is told that it is closed.
        self.outlets.window.close();
        let until = now + self.drain_timeout;
        let drain = self.drain.get_or_insert_with(|| Drain {
            until,
            replies: Vec::new(),
            unsubscribed: false,
            over: false,
            timed_out: false,
        });
        drain.replies.extend(reply);
    }

    /// Takes the next step towards an end that somebody asked for.
    fn settle(&mut self) {
        let idle = self.publishes.is_empty() && self.histories.is_empty();
        if let Some(drain) = &mut self.drain
            && idle
            && self.ending.is_none()
        {
            if !drain.unsubscribed {
                drain.unsubscribed = true;
                let keys: Vec<SubKey> = self.subscribers.keys().copied().collect();
                for key in keys {
                    self.end_subscription(key);
                }
            }
            // The broker's answers come behind everything it had written.
            let asked = |request: &Request| matches!(request, Request::Unsubscribe(_));
            let waiting = |outgoing: &Outgoing| matches!(outgoing, Outgoing::Unsubscribe { .. });
            if !self.requests.values().any(asked) && !self.control.iter().any(waiting) {
                self.end(Ending::Close(CloseCode::Normal.number()));
            }
        }
        if let Link::Up(Up { leave: Some(_), .. }) = &self.link
            && self.publishes.in_flight() == 0
        {
            self.end(Ending::Close(CloseCode::Normal.number()));
        }
    }

    /// Ends a subscription of a client that ends: what comes before the broker's answer is still delivered.
    fn end_subscription(&mut self, key: SubKey) {
        let Some(subscriber) = self.subscribers.get(&key) else { return };
        match subscriber.phase {
            Phase::Active(sub) => self.control.push_back(Outgoing::Unsubscribe { sub, reply: None }),
            Phase::Idle | Phase::Asked(_) => {}
        }
    }

    // Time.

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let link = match &self.link {
            Link::Down => self.publishes.deadline(),
            Link::Greeting { until, .. } => Some(*until),
            Link::Up(up) => Some(up.heard + up.patience),
        };
        let drain = self.drain.as_ref().filter(|drain| !drain.over).map(|drain| drain.until);
        let retry = self.retries.iter().map(|&(at, _)| at).min();
        [link, drain, retry].into_iter().flatten().min()
    }

    /// Bytes that had come by `now` were handed in before this.
    pub(crate) fn on_time(&mut self, now: Instant) {
        match &self.link {
            Link::Down => self.publishes.expire(now, &self.outlets.counters),
            Link::Greeting { until, .. } if now >= *until => self.end(Ending::Cut("no welcome came")),
            Link::Up(up) if now.saturating_duration_since(up.heard) >= up.patience => {
                self.end(Ending::Cut("nothing was heard of the broker"));
            }
            Link::Greeting { .. } | Link::Up(_) => {}
        }
        let due: Vec<SubKey> =
            self.retries.extract_if(.., |(at, _)| *at <= now).map(|(_, key)| key).collect();
        if self.is_up() {
            self.control.extend(due.into_iter().map(Outgoing::Subscribe));
        }
        if let Some(drain) = &mut self.drain
            && now >= drain.until
            && !drain.over
        {
            drain.over = true;
            drain.timed_out = !self.publishes.is_empty();
            self.publishes.fail_all(&self.outlets.counters);
            self.histories.fail_all();
            self.end(Ending::Close(CloseCode::Normal.number()));
        }
        self.settle();
    }

    /// What is to be done to the connection, if it is to end.
    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Whether there is nothing left to do, with or without a connection.
    pub(crate) fn is_drained(&self) -> bool {
        let Some(drain) = &self.drain else { return false };
        (self.publishes.is_empty() && self.histories.is_empty()) || drain.over
    }

    /// A client without a connection, and with nothing left to do, ends.
    pub(crate) fn stop_drained(&mut self) -> Next {
        self.stop(None)
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    // What goes out.

    /// Appends the next frame that may be written to `out`. False if there is none.
    pub(crate) fn write_frame(&mut self, out: &mut Vec<u8>, now: Instant) -> bool {
        while let Some(outgoing) = self.control.pop_front() {
            if let Some(frame) = self.frame(outgoing) {
                self.codec.encode_client(&frame, out);
                return true;
            }
        }
        let Link::Up(up) = &self.link else { return false };
        if up.leave.is_some() {
            return false;
        }
        let (start, id) = (out.len(), self.last_id + 1);
        while let Some(frame) = self.publishes.send_next(id, up.window, now, &self.outlets.counters) {
            self.codec.encode_client(frame, out);
            if out.len() - start <= up.message_bytes {
                self.last_id = id;
                return true;
            }
            out.truncate(start);
            self.publishes.refuse_last(&self.outlets.counters);
        }
        false
    }

    /// A frame with its id; none where what it was for is gone.
    fn frame(&mut self, outgoing: Outgoing) -> Option<ClientFrame> {
        let id = self.last_id + 1;
        let (frame, request) = match outgoing {
            Outgoing::Connect => {
                (ClientFrame::Connect(Connect { id, ..self.connect.clone() }), Some(Request::Connect))
            }
            Outgoing::Subscribe(key) => {
                let subscriber = self.subscribers.get_mut(&key).filter(|s| s.phase == Phase::Idle)?;
                (subscriber.frame(id), Some(Request::Subscribe(key)))
            }
            Outgoing::Unsubscribe { sub, reply } => {
                (ClientFrame::Unsubscribe { id, sub }, Some(Request::Unsubscribe(reply)))
            }
            Outgoing::Credit(key) => return self.subscribers.get_mut(&key)?.ask(),
            Outgoing::History => (self.histories.frame(id)?, None),
            Outgoing::Refresh { token, reply } => {
                (ClientFrame::Refresh { id, token: token.clone() }, Some(Request::Refresh { token, reply }))
            }
        };
        self.last_id = id;
        if let Some(request) = request {
            self.requests.insert(id, request);
        }
        Some(frame)
    }

    /// Hands every reader what has come for it, with one wake each.
    pub(crate) fn deliver(&mut self) {
        for key in self.staged.drain(..) {
            if let Some(subscriber) = self.subscribers.get_mut(&key) {
                subscriber.flush();
            }
        }
    }

    fn unroute(&mut self, key: SubKey) {
        if let Some(subscriber) = self.subscribers.get_mut(&key)
            && let Phase::Active(id) = subscriber.phase
        {
            self.routes.remove(id, key, subscriber);
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    fn tell(&self, event: ConnectionEvent) {
        // Nobody has to listen.
        let _ = self.outlets.events.send(event);
    }
}

impl Routes {
    fn add(&mut self, id: u64, key: SubKey, subscriber: &Subscriber) {
        self.by_id.insert(id, key);
        match subscriber.filter.as_topic() {
            Some(topic) => self.exact.entry(topic).or_default().push(key),
            None => self.wildcard.push((subscriber.filter.clone(), key)),
        }
    }

    fn remove(&mut self, id: u64, key: SubKey, subscriber: &Subscriber) {
        self.by_id.remove(&id);
        let Some(topic) = subscriber.filter.as_topic() else {
            return self.wildcard.retain(|&(_, other)| other != key);
        };
        if let Some(keys) = self.exact.get_mut(&topic) {
            keys.retain(|&other| other != key);
            if keys.is_empty() {
                self.exact.remove(&topic);
            }
        }
    }

    fn matching(&self, topic: &Topic, keys: &mut Vec<SubKey>) {
        if !self.exact.is_empty() {
            keys.extend(self.exact.get(topic).into_iter().flatten());
        }
        keys.extend(self.wildcard.iter().filter(|(filter, _)| filter.matches(topic)).map(|&(_, key)| key));
    }
}
