//! The API under `/v1`, for back ends in any language and for networks that let no WebSocket through.
//!
//! * `publish`: one message or a batch; the shard gives them to the engine.
//! * `read`: history, topics and streams, straight from the logs.
//! * `events`: server-sent events, over a `bridge` to a connection of the shard's; `session`: the SDK's own, both ways.
//! * `subscription`: what a query subscribes to.
//! * `query`, `position`, `body`: how a request's parts are read, and bounded.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap, Request, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use serde_json::{Value, json};
use tidegate_protocol::{Codec, ErrorCode, From, frame::Subscribe};
use tokio::sync::mpsc;

use self::{
    bridge::{Listener, Speaker},
    events::{Follow, Form},
    position::integer,
    query::Query,
    subscription::Terms,
};
use super::{Admitted, Answer, Body, Site, Turn, refusal::Refusal, respond};
use crate::{config::Config, hub::Hub, shard::Order};

mod body;
mod bridge;
mod events;
mod position;
mod publish;
mod query;
mod read;
mod session;
pub(super) mod subscription;

pub(super) use self::events::{Events, Progress};
pub(crate) use self::{body::Bodies, session::Sessions};

/// What the API is about: the shard on whose thread it runs, and what all shards share.
pub struct Api {
    config: Arc<Config>,
    hub: Arc<Hub>,
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
}

/// What the APIs of all shards share.
#[derive(Debug)]
pub struct Shared {
    sessions: Arc<Sessions>,
    bodies: Arc<Bodies>,
}

impl Shared {
    /// With no session, and the budget of bodies that the configuration sets.
    pub fn new(config: &Config) -> Self {
        Self { sessions: Arc::default(), bodies: Bodies::new(config.memory.http_bytes) }
    }

    /// What bodies of requests and answers hold now, and may hold, in bytes.
    pub fn bodies(&self) -> (u64, u64) {
        self.bodies.use_and_budget()
    }
}

/// What a handler is asked.
pub(super) struct Asked<'a> {
    pub(super) headers: &'a HeaderMap,
    /// What stands in the path where the route has a parameter, still percent-encoded.
    pub(super) parameter: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) body: Incoming,
    pub(super) turn: &'a Turn,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// `POST /v1/topics/{topic}`
    PublishOne,
    /// `POST /v1/publish`
    PublishBatch,
    /// `GET /v1/topics/{topic}/history`
    History,
    /// `GET /v1/topics`
    Topics,
    /// `GET /v1/streams`
    Streams,
    /// `GET /v1/subscribe`
    Subscribe,
    /// `POST /v1/sessions`
    OpenSession,
    /// `POST /v1/sessions/{session}/frames`
    BringFrames,
    /// `GET /v1/openapi.json`
    Description,
}

/// The type of an answer in JSON.
const JSON: &str = "application/json";
/// Of an event stream.
const EVENT_STREAM: &str = "text/event-stream";
/// The least delay before an `EventSource` comes back, in milliseconds: it knows no backoff, and would ask a broker that
/// is gone again and again.
const MIN_RETRY_MS: u64 = 200;

const OPENAPI: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json"));

impl Api {
    /// For the HTTP connections of one shard's thread.
    pub fn new(config: Arc<Config>, hub: Arc<Hub>, orders: mpsc::Sender<Order>, shared: Arc<Shared>) -> Self {
        Self { config, hub, orders, shared }
    }

    /// How long a stream of events may stand still.
    pub(super) fn stall_timeout(&self) -> Duration {
        // The connection behind it is closed for its stall first.
        self.config.websocket.stall_timeout + self.config.websocket.close_timeout + Duration::from_secs(1)
    }

    /// How long what was sent may go without the kernel of the other side saying a word: as long as a WebSocket without
    /// a pong.
    pub(super) fn silence_timeout(&self) -> Duration {
        let websocket = &self.config.websocket;
        self.stall_timeout().max(websocket.ping_interval + websocket.pong_timeout)
    }

    pub(super) async fn handle(
        &self,
        handler: Handler,
        request: Request<Incoming>,
        parameter: &str,
        site: &Site,
        turn: &Turn,
    ) -> Result<Answer, Refusal> {
        let (parts, body) = request.into_parts();
        let asked = Asked { headers: &parts.headers, parameter, query: parts.uri.query(), body, turn };
        match handler {
            Handler::PublishOne | Handler::PublishBatch if !(site.ready)() => {
                Err(Refusal::error(ErrorCode::Draining, "the broker is going"))
            }
            Handler::PublishOne => publish::one(self, asked).await,
            Handler::PublishBatch => publish::batch(self, asked).await,
            Handler::History => read::history(self, &asked),
            Handler::Topics => read::topics(self, &asked),
            Handler::Streams => read::streams(self, &asked),
            Handler::Subscribe => self.subscribe(&asked, site).await,
            Handler::OpenSession => self.open_session(asked, site).await,
            Handler::BringFrames => self.bring_frames(asked).await,
            Handler::Description => Ok(respond(StatusCode::OK, JSON, OPENAPI)),
        }
    }

    async fn subscribe(&self, asked: &Asked<'_>, site: &Site) -> Result<Answer, Refusal> {
        let mut query = Query::parse(asked.query)?;
        let filter = query.take("filter").ok_or_else(|| bad_field("`filter` is missing"))?;
        let mut terms = Terms::read(query)?;
        let had = match asked.headers.get("last-event-id").filter(|id| !id.is_empty()) {
            None => Vec::new(),
            Some(id) => position::read(id.to_str().map_err(|_| bad_field("Last-Event-ID is not text"))?)?,
        };
        if !had.is_empty() {
            terms.from = position::resume(&had, terms.from);
        }
        let last = matches!(terms.from, From::Last { .. });
        let again = if last { had } else { Vec::new() };
        let subscribe = terms.subscribe(1, &filter)?;
        let (listener, _) = self.connect(site, vec![subscribe]).await?;
        let (from, to) = self.config.server.reconnect_window;
        let retry = from + to.saturating_sub(from).mul_f64(fastrand::f64());
        let opening = format!("retry: {}\n\n", (retry.as_millis() as u64).max(MIN_RETRY_MS));
        let form = Form::Subscription(Follow::new(last, again));
        Ok(stream(asked.turn, self, Events::new(listener, form, opening.into())))
    }

    async fn open_session(&self, asked: Asked<'_>, site: &Site) -> Result<Answer, Refusal> {
        let body = self.read_frames(asked.body, asked.turn).await?;
        Query::parse(asked.query)?.end()?;
        let (listener, speaker) = self.connect(site, Vec::new()).await?;
        if !body.bytes.trim_ascii().is_empty() {
            speaker.say(&body.bytes);
        }
        let (session, secret) = self.shared.sessions.open(speaker)?;
        let opening = format!("event: session\ndata: {}\n\n", json!({ "session": secret }));
        let form = Form::Session { _session: session };
        Ok(stream(asked.turn, self, Events::new(listener, form, opening.into())))
    }

    async fn bring_frames(&self, asked: Asked<'_>) -> Result<Answer, Refusal> {
        let unknown = || {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "session_unknown",
                "there is no such session, or no more: open another",
            )
        };
        let body = self.read_frames(asked.body, asked.turn).await?;
        let mut query = Query::parse(asked.query)?;
        let seq = query.take("seq").as_deref().and_then(integer).filter(|&seq| seq > 0);
        query.end()?;
        let seq = seq.ok_or_else(|| bad_field("`seq` is the request's number in the session, from 1"))?;
        let session = self.shared.sessions.find(asked.parameter).ok_or_else(unknown)?;
        session.bring(seq, &body.bytes).await?;
        let mut response = respond(StatusCode::NO_CONTENT, JSON, Bytes::new());
        response.headers_mut().remove(header::CONTENT_TYPE);
        Ok(response)
    }

    /// A body of frames, one a line: as large as a WebSocket message may be.
    async fn read_frames(&self, body: Incoming, turn: &Turn) -> Result<body::Held, Refusal> {
        let limit = self.config.websocket.max_message_bytes;
        let too_large = || {
            let message = format!("websocket.max_message_bytes: {limit} is the most at once");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        };
        let body = self.shared.bodies.read(body, limit, turn, too_large).await?;
        match std::str::from_utf8(&body.bytes) {
            Ok(_) => Ok(body),
            Err(_) => Err(Refusal::error(ErrorCode::MalformedFrame, "frames are UTF-8")),
        }
    }

    /// A new connection of the shard's, with these subscriptions.
    async fn connect(
        &self,
        site: &Site,
        subscribes: Vec<Subscribe>,
    ) -> Result<(Listener, Arc<Speaker>), Refusal> {
        let admission = (site.admit)().map_err(Refusal::unavailable)?;
        let (theirs, listener, speaker) =
            bridge::open().map_err(|error| Refusal::unavailable(error.to_string()))?;
        let gone = |_| Refusal::error(ErrorCode::Draining, "the broker is going");
        let admitted = Admitted { admission, codec: Codec::Json, subscribes };
        self.orders.send(Order::AdoptPair(theirs, admitted)).await.map_err(gone)?;
        Ok((listener, speaker))
    }
}

/// An answer that goes on. The HTTP connection is for nothing else from now on.
fn stream(turn: &Turn, api: &Api, events: Events) -> Answer {
    turn.stream(events.progress(), api.stall_timeout());
    let mut response =
        respond(StatusCode::OK, EVENT_STREAM, Bytes::new()).map(|_| Body::Events(Box::new(events)));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    // Or a proxy like nginx gathers events until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn json_answer(value: &Value) -> Answer {
    respond(StatusCode::OK, JSON, format!("{value}\n"))
}

fn bad_field(message: &str) -> Refusal {
    Refusal::error(ErrorCode::BadField, message)
}
