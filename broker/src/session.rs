//! What a client may say, and what follows from it. No socket, no runtime; the shard carries the actions out.

use std::sync::Arc;

use tidegate_protocol::{
    ClientFrame, CloseCode, ErrorCode, Filter, ServerFrame,
    codec::DecodeError,
    frame::{
        AckResult, Connect, ErrorFrame, HistoryRequest, Overflow, Publish, PublishWindow, Subscribe, Welcome,
        WelcomeLimits,
    },
    limits::{DEFAULT_LIMIT, DEFAULT_LIMIT_BYTES},
};

use crate::{config::Config, outbox::Terms, stream::Draft};

/// The bounds every session holds its client to.
#[derive(Debug, Clone)]
pub struct Rules {
    limits: WelcomeLimits,
    window: PublishWindow,
    ping_ms: u64,
    reconnect_ms: (u64, u64),
    errors: u32,
    topics: Vec<(Filter, u32, u32)>,
}

impl Rules {
    /// The configuration's.
    pub fn new(config: &Config) -> Self {
        let (limits, websocket) = (&config.limits, &config.websocket);
        let millis = |duration: std::time::Duration| duration.as_millis() as u64;
        Self {
            limits: WelcomeLimits {
                payload_bytes: limits.payload_bytes as u64,
                message_bytes: websocket.max_message_bytes as u64,
                subscriptions: limits.subscriptions as u64,
                limit: limits.subscription_limit.into(),
                limit_bytes: limits.subscription_limit_bytes.into(),
            },
            window: PublishWindow {
                messages: limits.publish_window_messages,
                bytes: limits.publish_window_bytes,
            },
            ping_ms: millis(websocket.ping_interval),
            reconnect_ms: (
                millis(config.server.reconnect_window.0),
                millis(config.server.reconnect_window.1),
            ),
            errors: limits.errors,
            topics: config
                .topics
                .iter()
                .map(|rule| {
                    let limit = rule.subscription_limit.unwrap_or(limits.subscription_limit);
                    let bytes = rule.subscription_limit_bytes.unwrap_or(limits.subscription_limit_bytes);
                    (rule.filter.clone(), limit, bytes)
                })
                .collect(),
        }
    }

    /// What is in force for a subscription: what it asks for, cut to what it may.
    fn terms(&self, subscribe: &Subscribe, default: Overflow) -> Terms {
        let (limit, limit_bytes) = self
            .topics
            .iter()
            .find(|(filter, ..)| filter.covers(&subscribe.filter))
            .map_or((self.limits.limit as u32, self.limits.limit_bytes as u32), |&(_, limit, bytes)| {
                (limit, bytes)
            });
        Terms {
            overflow: subscribe.overflow.unwrap_or(default),
            limit: subscribe.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, limit.max(1)),
            limit_bytes: subscribe.limit_bytes.unwrap_or(DEFAULT_LIMIT_BYTES).clamp(1, limit_bytes.max(1)),
        }
    }
}

/// What the shard is to do.
#[derive(Debug)]
pub enum Action {
    Nothing,
    Reply(ServerFrame),
    Publish(PublishAction),
    Subscribe(Box<Subscribe>, Terms),
    Unsubscribe {
        id: u64,
        sub: u64,
        key: u32,
    },
    Credit {
        key: u32,
        add: u32,
    },
    History(Box<HistoryRequest>),
    /// Say this, then close.
    Fail(ServerFrame, CloseCode),
}

/// A publish that may go to the engine.
#[derive(Debug)]
pub struct PublishAction {
    /// The request to ack, if any.
    pub id: Option<u64>,
    pub draft: Draft,
    pub idempotency: Option<Box<str>>,
    pub report: bool,
}

/// One connection's side of the rules.
#[derive(Debug)]
pub struct Session {
    connection: Arc<str>,
    /// What `echo: false` and idempotency keys go by; the connection's id where the client names none.
    instance: Arc<str>,
    /// Requests up to this id were answered, or will be.
    last_id: u64,
    errors: u32,
    spoke: bool,
    /// Publishes whose ack is not yet written.
    unacked_messages: u32,
    unacked_bytes: u64,
    /// Subscriptions by their ids, which only grow.
    subs: Vec<(u64, u32)>,
}

impl Session {
    /// `connection` is an id no other connection has or had.
    pub fn new(connection: Arc<str>) -> Self {
        Self {
            instance: connection.clone(),
            connection,
            last_id: 0,
            errors: 0,
            spoke: false,
            unacked_messages: 0,
            unacked_bytes: 0,
            subs: Vec::new(),
        }
    }

    /// See the field.
    pub fn instance(&self) -> &Arc<str> {
        &self.instance
    }

    /// This connection's id.
    pub fn connection(&self) -> &Arc<str> {
        &self.connection
    }

    /// The subscriptions: their ids and the shard's keys.
    pub fn subs(&self) -> &[(u64, u32)] {
        &self.subs
    }

    /// A frame came, or could not be read. `default_overflow` says which policy a filter has that names none.
    pub fn on_frame(
        &mut self,
        frame: Result<ClientFrame, DecodeError>,
        rules: &Rules,
        default_overflow: impl FnOnce(&Filter) -> Overflow,
    ) -> Action {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return self.on_malformed(error, rules),
        };
        let id = request_id(&frame);
        if let Some(id) = id {
            if id <= self.last_id {
                return refuse(
                    Some(id),
                    ErrorCode::IdNotGrowing,
                    format!("the last id was {}", self.last_id),
                );
            }
            self.last_id = id;
        }
        let first = !std::mem::replace(&mut self.spoke, true);
        match frame {
            ClientFrame::Connect(connect) if first => self.on_connect(connect, rules),
            ClientFrame::Connect(_) => {
                refuse(id, ErrorCode::AlreadyConnected, "connect comes once, before anything else".into())
            }
            ClientFrame::Subscribe(subscribe) => {
                if self.subs.len() as u64 >= rules.limits.subscriptions {
                    let most = rules.limits.subscriptions;
                    return refuse(id, ErrorCode::TooManySubscriptions, format!("{most} is the most"));
                }
                let terms = rules.terms(&subscribe, default_overflow(&subscribe.filter));
                Action::Subscribe(Box::new(subscribe), terms)
            }
            ClientFrame::Unsubscribe { id, sub } => match self.key(sub) {
                Some(key) => Action::Unsubscribe { id, sub, key },
                None => refuse(
                    Some(id),
                    ErrorCode::SubscriptionUnknown,
                    format!("there is no subscription {sub}"),
                ),
            },
            ClientFrame::Publish(publish) => self.on_publish(publish, rules),
            ClientFrame::History(request) => Action::History(Box::new(request)),
            // Anonymous clients have nothing to renew; tokens come with authentication.
            ClientFrame::Refresh { id, .. } => {
                Action::Reply(ServerFrame::Ack { id, result: AckResult::Done })
            }
            // A credit for a subscription that just ended is no mistake of the client's.
            ClientFrame::Credit { sub, add } => {
                self.key(sub).map_or(Action::Nothing, |key| Action::Credit { key, add })
            }
            ClientFrame::Ping { id } => Action::Reply(ServerFrame::Pong { id }),
        }
    }

    /// The shard carried a subscribe out.
    pub fn on_subscribed(&mut self, id: u64, key: u32) {
        self.subs.push((id, key));
    }

    /// A subscription is gone.
    pub fn on_unsubscribed(&mut self, sub: u64) {
        if let Ok(at) = self.subs.binary_search_by_key(&sub, |&(id, _)| id) {
            self.subs.remove(at);
        }
    }

    /// All are gone; which they were.
    pub fn on_all_unsubscribed(&mut self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.subs)
    }

    /// The ack of a publish with so many payload bytes was written.
    pub fn on_ack_written(&mut self, payload_bytes: u32) {
        self.unacked_messages = self.unacked_messages.saturating_sub(1);
        self.unacked_bytes = self.unacked_bytes.saturating_sub(payload_bytes.into());
    }

    /// Whether the client has used up its publish window: it is not read until acks are written.
    pub fn window_is_full(&self, rules: &Rules) -> bool {
        u64::from(self.unacked_messages) > rules.window.messages || self.unacked_bytes > rules.window.bytes
    }

    fn on_connect(&mut self, connect: Connect, rules: &Rules) -> Action {
        if let Some(instance) = connect.instance {
            self.instance = instance.into();
        }
        Action::Reply(ServerFrame::Welcome(Welcome {
            id: connect.id,
            connection: self.connection.to_string(),
            limits: rules.limits,
            publish_window: rules.window,
            ping_ms: rules.ping_ms,
            reconnect_ms: rules.reconnect_ms,
        }))
    }

    fn on_publish(&mut self, publish: Publish, rules: &Rules) -> Action {
        if publish.topic.is_reserved() {
            return refuse(
                publish.id,
                ErrorCode::TopicReserved,
                "tokens that start with $ are the broker's".into(),
            );
        }
        let length = publish.payload.len() as u64;
        if length > rules.limits.payload_bytes {
            let most = rules.limits.payload_bytes;
            return refuse(
                publish.id,
                ErrorCode::PayloadTooLarge,
                format!("{length} bytes, {most} is the most"),
            );
        }
        if publish.id.is_some() {
            self.unacked_messages += 1;
            self.unacked_bytes += length;
        }
        Action::Publish(PublishAction {
            id: publish.id,
            draft: Draft {
                topic: publish.topic,
                payload: publish.payload,
                key: publish.key,
                headers: publish.headers,
                origin: Some(self.instance.clone()),
            },
            idempotency: publish.idempotency,
            report: publish.report,
        })
    }

    fn on_malformed(&mut self, error: DecodeError, rules: &Rules) -> Action {
        self.errors += 1;
        // It is answered under its id, which no later request may have then.
        self.last_id = self.last_id.max(error.id.unwrap_or(0));
        let frame = ServerFrame::Error(ErrorFrame { id: error.id, code: error.code, message: error.message });
        if error.fatal {
            Action::Fail(frame, CloseCode::MalformedFrame)
        } else if self.errors > rules.errors {
            Action::Fail(frame, CloseCode::TooManyErrors)
        } else {
            Action::Reply(frame)
        }
    }

    fn key(&self, sub: u64) -> Option<u32> {
        let at = self.subs.binary_search_by_key(&sub, |&(id, _)| id).ok()?;
        Some(self.subs[at].1)
    }
}

/// The error that answers a request.
pub fn error(id: Option<u64>, code: ErrorCode, message: impl Into<String>) -> ServerFrame {
    ServerFrame::Error(ErrorFrame { id, code, message: message.into() })
}

fn refuse(id: Option<u64>, code: ErrorCode, message: String) -> Action {
    Action::Reply(error(id, code, message))
}

fn request_id(frame: &ClientFrame) -> Option<u64> {
    match frame {
        ClientFrame::Connect(connect) => Some(connect.id),
        ClientFrame::Subscribe(subscribe) => Some(subscribe.id),
        ClientFrame::Unsubscribe { id, .. } | ClientFrame::Refresh { id, .. } | ClientFrame::Ping { id } => {
            Some(*id)
        }
        ClientFrame::Publish(publish) => publish.id,
        ClientFrame::History(request) => Some(request.id),
        ClientFrame::Credit { .. } => None,
    }
}
