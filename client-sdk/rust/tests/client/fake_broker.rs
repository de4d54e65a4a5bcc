//! A broker that says what a test tells it to.
//!
//! How to script one, from the most common to the least:
//! * A connected pair: `let (client, broker, mut peer) = connected().await;`
//! * What the client says next: `peer.subscribe().await`, `peer.publish().await`, or any frame with `peer.recv().await`.
//! * What the broker says: `peer.send([frame, frame])` (one WebSocket message), made with `message(…)`, `ack(…)`,
//!   `subscribed(…)`, `mark(…)`, `gap(…)`.
//! * A cut line: `drop(peer)`. A close: `peer.close(4008).await`. The next connection: `broker.accept().await`, or
//!   `broker.welcome().await` with the greeting done.
//! * A welcome of its own: change `broker.welcome` before. Options of its own: `connected_with(options)`.
//! * A broker that does not answer: keep the peer and do nothing with it.

use std::{collections::VecDeque, io};

use futures_util::{SinkExt, StreamExt};
use tidegate_client::{
    Ack, Client, Codec, Epoch, GapReason, Message, Options, Overflow, Payload, Position, StartPosition,
    Terms, Topic,
};
use tidegate_protocol::{
    ClientFrame, ServerFrame,
    frame::{self, AckResult, Gap, Mark, Publish, PublishWindow, SubMark, Subscribe, Welcome, WelcomeLimits},
};
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        self,
        handshake::server::{Request, Response},
        protocol::CloseFrame,
    },
};

/// The log's incarnation, unless a test says otherwise.
pub const EPOCH: Epoch = Epoch(0xe1);

/// What one direction of a connection holds before it blocks, in bytes.
const PIPE_BYTES: usize = 64 * 1024;

pub struct FakeBroker {
    dialled: mpsc::Receiver<DuplexStream>,
    codec: Codec,
    pub welcome: Welcome,
}

/// The broker's side of one connection.
pub struct Peer {
    socket: WebSocketStream<DuplexStream>,
    codec: Codec,
    received: VecDeque<ClientFrame>,
    /// How the client closed, once it has.
    pub closed_with: Option<u16>,
}

/// Connects a client with default options.
pub async fn connected() -> (Client, FakeBroker, Peer) {
    connected_with(Options::new()).await
}

pub async fn connected_with(options: Options) -> (Client, FakeBroker, Peer) {
    connected_to(options, |_| {}).await
}

/// Connects a client to a broker whose welcome `set` has changed.
pub async fn connected_to(options: Options, set: impl FnOnce(&mut Welcome)) -> (Client, FakeBroker, Peer) {
    let (mut broker, options) = FakeBroker::new(options, Codec::Bincode);
    set(&mut broker.welcome);
    let (client, peer) = tokio::join!(options.connect("ws://fake"), broker.welcome());
    (client.unwrap(), broker, peer)
}

impl FakeBroker {
    /// A broker, and options that dial it.
    pub fn new(options: Options, codec: Codec) -> (Self, Options) {
        let (dial, dialled) = mpsc::channel(16);
        let options = options.codec(codec).dial(move || {
            let (ours, theirs) = duplex(PIPE_BYTES);
            let refused =
                dial.try_send(theirs).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused));
            async move { refused.map(|()| ours) }
        });
        let welcome = Welcome {
            id: 0,
            connection: "c1".into(),
            limits: WelcomeLimits {
                payload_bytes: 64 * 1024,
                message_bytes: 128 * 1024,
                subscriptions: 100,
                limit: 16_384,
                limit_bytes: 8 << 20,
            },
            publish_window: PublishWindow { messages: 1024, bytes: 1 << 20 },
            ping_ms: 25_000,
            reconnect_ms: (0, 5000),
        };
        (Self { dialled, codec, welcome }, options)
    }

    /// The next connection, up to the WebSocket handshake.
    pub async fn accept(&mut self) -> Peer {
        let stream = self.dialled.recv().await.expect("the client dials");
        let codec = self.codec;
        #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let subprotocol = |request: &Request, mut response: Response| {
            assert_eq!(request.headers()["sec-websocket-protocol"], codec.subprotocol());
            assert_eq!(request.uri().path(), "/ws");
            response.headers_mut().insert("sec-websocket-protocol", codec.subprotocol().parse().unwrap());
            Ok(response)
        };
        let socket = accept_hdr_async(stream, subprotocol).await.expect("the client shakes hands");
        Peer { socket, codec, received: VecDeque::new(), closed_with: None }
    }

    /// The next connection, welcomed.
    pub async fn welcome(&mut self) -> Peer {
        let mut peer = self.accept().await;
        let connect = match peer.recv().await {
            Some(ClientFrame::Connect(connect)) => connect,
            other => panic!("connect comes first, not {other:?}"),
        };
        assert!(connect.instance.is_some_and(|instance| !instance.is_empty()));
        peer.send([ServerFrame::Welcome(Welcome { id: connect.id, ..self.welcome.clone() })]).await;
        peer
    }
}

impl Peer {
    /// The client's next frame; none once it has closed.
    pub async fn recv(&mut self) -> Option<ClientFrame> {
        while self.received.is_empty() {
            let bytes = match self.socket.next().await? {
                Ok(tungstenite::Message::Binary(bytes)) => bytes,
                Ok(tungstenite::Message::Text(text)) => text.into(),
                Ok(tungstenite::Message::Close(frame)) => {
                    self.closed_with = frame.map(|frame| frame.code.into());
                    continue;
                }
                Ok(_) => continue,
                Err(_) => return None,
            };
            let frames: Result<Vec<_>, _> = self.codec.decode_client(&bytes).collect();
            self.received.extend(frames.expect("the client writes frames that can be read"));
        }
        self.received.pop_front()
    }

    /// The client's next frame, which is a subscribe.
    pub async fn subscribe(&mut self) -> Subscribe {
        match self.recv().await {
            Some(ClientFrame::Subscribe(subscribe)) => subscribe,
            other => panic!("expected a subscribe, not {other:?}"),
        }
    }

    /// The client's next frame, which is a publish.
    pub async fn publish(&mut self) -> Publish {
        match self.recv().await {
            Some(ClientFrame::Publish(publish)) => publish,
            other => panic!("expected a publish, not {other:?}"),
        }
    }

    /// The client's next frame, which is an unsubscribe: its id, and of which subscription.
    pub async fn unsubscribe(&mut self) -> (u64, u64) {
        match self.recv().await {
            Some(ClientFrame::Unsubscribe { id, sub }) => (id, sub),
            other => panic!("expected an unsubscribe, not {other:?}"),
        }
    }

    /// Says all of it in one WebSocket message.
    pub async fn send(&mut self, frames: impl IntoIterator<Item = ServerFrame>) {
        let mut bytes = Vec::new();
        for frame in frames {
            if !bytes.is_empty() {
                bytes.extend_from_slice(self.codec.separator());
            }
            self.codec.encode_server(&frame, &mut bytes);
        }
        let message = match self.codec {
            Codec::Bincode => tungstenite::Message::binary(bytes),
            Codec::Json => tungstenite::Message::text(String::from_utf8(bytes).unwrap()),
        };
        self.socket.send(message).await.expect("the client is there");
    }

    /// Answers the next subscribe: it stands at `offset`, which is the log's head. Gives its id.
    pub async fn accept_subscribe(&mut self, offset: u64) -> u64 {
        let id = self.subscribe().await.id;
        self.send([subscribed(id, offset, offset)]).await;
        id
    }

    /// Closes, and waits for the client's answer.
    pub async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "as scripted".into() };
        self.socket.send(tungstenite::Message::Close(Some(frame))).await.expect("the client is there");
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// A WebSocket ping.
    pub async fn ping(&mut self) {
        self.socket.send(tungstenite::Message::Ping("x".into())).await.expect("the client is there");
    }

    /// Nothing is left to be read of the client until it is told something new.
    pub async fn is_quiet(&mut self) -> bool {
        use futures_util::FutureExt;
        // Every task that can run has run once this one has yielded often enough.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.received.is_empty() && self.socket.next().now_or_never().is_none()
    }
}

pub fn position(offset: u64) -> Position {
    Position { stream: None, epoch: EPOCH, offset }
}

pub fn terms(epoch: Epoch, offset: u64, live: u64) -> Terms {
    Terms {
        positions: vec![StartPosition { stream: None, epoch, offset, live }],
        overflow: Overflow::CatchUp,
        limit: 256,
        limit_bytes: 262_144,
        live_only: false,
    }
}

pub fn subscribed(id: u64, offset: u64, live: u64) -> ServerFrame {
    subscribed_with(id, terms(EPOCH, offset, live))
}

pub fn subscribed_with(id: u64, terms: Terms) -> ServerFrame {
    ServerFrame::Ack { id, result: AckResult::Subscribed(terms) }
}

pub fn done(id: u64) -> ServerFrame {
    ServerFrame::Ack { id, result: AckResult::Done }
}

/// The ack of a publish.
pub fn ack(id: u64, offset: u64) -> ServerFrame {
    let published = Ack { position: Some(position(offset)), duplicate: false, report: None };
    ServerFrame::Ack { id, result: AckResult::Published(published) }
}

/// A message for every subscription that takes it.
pub fn message(topic: &str, offset: u64) -> ServerFrame {
    ServerFrame::Message(message_at(topic, Some(offset), None))
}

/// A message for one subscription.
pub fn message_for(sub: u64, topic: &str, offset: u64) -> ServerFrame {
    ServerFrame::Message(message_at(topic, Some(offset), Some(sub)))
}

pub fn message_at(topic: &str, offset: Option<u64>, sub: Option<u64>) -> Message {
    Message {
        topic: Topic::parse(topic).unwrap(),
        stream: None,
        offset,
        prev: None,
        time: 1_790_000_000_000,
        payload: Payload::text(format!("{topic} {offset:?}")),
        key: None,
        headers: Vec::new(),
        sub,
    }
}

pub fn gap(sub: u64, count: u64, from: u64, to: u64) -> ServerFrame {
    ServerFrame::Gap(Gap {
        sub,
        stream: None,
        topic: None,
        count: Some(count),
        at_most: None,
        from: Some(from),
        to: Some(to),
        reason: GapReason::Overflow,
        policy: Overflow::DropOldest,
    })
}

/// A mark at `offset` for subscriptions with `(sub, messages, gapped)`.
pub fn mark(offset: u64, subs: &[(u64, u64, u64)]) -> ServerFrame {
    let sub = |&(sub, messages, gapped): &(u64, u64, u64)| SubMark { sub, messages, gapped, behind: false };
    ServerFrame::Mark(Mark { positions: vec![position(offset)], subs: subs.iter().map(sub).collect() })
}

pub fn error(id: u64, code: tidegate_client::ErrorCode) -> ServerFrame {
    ServerFrame::Error(frame::ErrorFrame { id: Some(id), code, message: "as scripted".into() })
}
