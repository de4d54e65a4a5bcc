//! Bytes of one WebSocket. It knows no frames.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tidegate_protocol::{Codec, limits::BURST_BYTES};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error as WsError, Message, Utf8Bytes,
        client::IntoClientRequest,
        error::ProtocolError,
        handshake::client::Request,
        http::{HeaderValue, Uri, header::SEC_WEBSOCKET_PROTOCOL, uri},
        protocol::{CloseFrame, WebSocketConfig},
    },
};

use crate::{
    error::{ConnectError, ConnectErrorKind},
    options::{Dial, Io},
    session::Closed,
};

/// The port of a `ws` URL that names none (RFC 6455, section 3).
const DEFAULT_PORT: u16 = 80;

/// The path of a URL that names none.
const DEFAULT_PATH: &str = "/ws";

/// How much may wait to be written. A batch of bursts goes in one system call; beyond it nothing more is encoded.
const WRITE_BUFFER_BYTES: usize = 8 * BURST_BYTES;

/// Where to connect, and what to ask for there.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    uri: Uri,
    codec: Codec,
    max_message_bytes: usize,
}

/// An open WebSocket.
pub(crate) struct Transport {
    stream: WebSocketStream<Box<dyn Io>>,
    codec: Codec,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Frames.
    Data(Bytes),
    /// A ping or a pong: somebody is there.
    Sign,
    /// Nothing comes any more.
    Closed(Closed),
}

impl Target {
    pub(crate) fn parse(url: &str, codec: Codec, max_message_bytes: usize) -> Result<Self, ConnectError> {
        let invalid = |detail: String| ConnectError::with_detail(ConnectErrorKind::InvalidUrl, detail);
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("ws://{url}") };
        let parsed: Uri = with_scheme.parse().map_err(|e| invalid(format!("{url:?}: {e}")))?;
        if parsed.scheme_str() != Some("ws") {
            return Err(invalid(format!("{url:?}: the scheme must be ws (for TLS, see Options::dial)")));
        }
        if parsed.host().is_none_or(str::is_empty) {
            return Err(invalid(format!("{url:?}: no host")));
        }
        let path = match parsed.path() {
            "" | "/" => DEFAULT_PATH.to_owned(),
            path => path.to_owned(),
        };
        let mut parts = parsed.into_parts();
        parts.path_and_query = path.parse::<uri::PathAndQuery>().ok();
        let uri = Uri::from_parts(parts).map_err(|e| invalid(format!("{url:?}: {e}")))?;
        Ok(Self { uri, codec, max_message_bytes })
    }

    fn request(&self) -> Result<Request, WsError> {
        let mut request = self.uri.clone().into_client_request()?;
        let subprotocol = HeaderValue::from_static(self.codec.subprotocol());
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        Ok(request)
    }

    async fn dial(&self, dial: Option<Dial>) -> io::Result<Box<dyn Io>> {
        if let Some(dial) = dial {
            return dial().await;
        }
        let host = self.uri.host().unwrap_or_default();
        // An IPv6 address stands in brackets in a URL, and without them for the resolver.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let stream = TcpStream::connect((host, self.uri.port_u16().unwrap_or(DEFAULT_PORT))).await?;
        // Frames are batched here already.
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    /// Opens a WebSocket.
    pub(crate) async fn open(self, dial: Option<Dial>) -> Result<Transport, ConnectError> {
        let stream = self.dial(dial).await.map_err(|e| {
            let place = self.uri.authority().map(uri::Authority::as_str).unwrap_or_default();
            ConnectError::with_source(
                ConnectErrorKind::Unreachable,
                Unreachable { place: place.into(), source: e },
            )
        })?;
        let config = WebSocketConfig::default()
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(self.max_message_bytes))
            .max_frame_size(Some(self.max_message_bytes));
        let handshake = |e: WsError| match e {
            WsError::Http(response) => {
                let status = response.status().as_u16();
                let body = response.body().as_deref().unwrap_or_default();
                // A broker says why in a line; what else may stand there says so at length.
                let line: String = String::from_utf8_lossy(body)
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(200)
                    .collect();
                match line.is_empty() {
                    true => ConnectError::new(ConnectErrorKind::Handshake(Some(status))),
                    false => ConnectError::with_detail(ConnectErrorKind::Handshake(Some(status)), line),
                }
            }
            WsError::Io(e) => ConnectError::with_source(ConnectErrorKind::Handshake(None), e),
            e => ConnectError::with_source(ConnectErrorKind::Handshake(None), e),
        };
        let request = self.request().map_err(handshake)?;
        let (stream, _) = client_async_with_config(request, stream, Some(config)).await.map_err(handshake)?;
        Ok(Transport { stream, codec: self.codec })
    }
}

/// Which address did not answer: the system's own message leaves it out.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {source}")]
struct Unreachable {
    place: String,
    source: io::Error,
}

impl Transport {
    /// What comes next. Pings are answered on the way, and reading goes on while writing is blocked.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        Poll::Ready(match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            Some(Ok(Message::Binary(bytes))) => Incoming::Data(bytes),
            Some(Ok(Message::Text(text))) => Incoming::Data(text.into()),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Incoming::Sign,
            Some(Ok(Message::Close(frame))) => Incoming::Closed(match frame {
                Some(frame) => {
                    Closed { code: Some(frame.code.into()), reason: frame.reason.as_str().to_owned() }
                }
                None => Closed { code: None, reason: "closed without a code".into() },
            }),
            Some(Err(error)) => Incoming::Closed(lost(error)),
            None => Incoming::Closed(Closed { code: None, reason: "closed".into() }),
        })
    }

    /// Ready once what is waiting to be written leaves room for more.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        Pin::new(&mut self.stream).poll_ready(cx).map_err(lost)
    }

    /// Queues one WebSocket message of encoded frames.
    pub(crate) fn send(&mut self, frames: Vec<u8>) -> Result<(), Closed> {
        let message = match self.codec {
            Codec::Bincode => Message::Binary(frames.into()),
            // The codec writes UTF-8; the check is tungstenite's price for not using unsafe code.
            Codec::Json => Message::Text(
                Utf8Bytes::try_from(Bytes::from(frames)).map_err(|e| lost(WsError::Utf8(e.to_string())))?,
            ),
        };
        Pin::new(&mut self.stream).start_send(message).map_err(lost)
    }

    /// Ready once everything is written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        Pin::new(&mut self.stream).poll_flush(cx).map_err(lost)
    }

    /// Queues a close frame. What comes until the broker's own is still to be read.
    pub(crate) fn send_close(&mut self, code: u16) -> Result<(), Closed> {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::default() };
        Pin::new(&mut self.stream).start_send(Message::Close(Some(frame))).map_err(lost)
    }
}

fn lost(error: WsError) -> Closed {
    let reason = match error {
        WsError::Io(error) => error.to_string(),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => "the connection was cut".into(),
        error => error.to_string(),
    };
    Closed { code: None, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(url: &str) -> Result<String, ConnectErrorKind> {
        Target::parse(url, Codec::Json, 1).map(|target| target.uri.to_string()).map_err(|error| error.kind())
    }

    #[test]
    fn scheme_and_path_may_be_left_out() {
        for url in ["127.0.0.1:7400", "ws://127.0.0.1:7400", "ws://127.0.0.1:7400/", "ws://127.0.0.1:7400/ws"]
        {
            assert_eq!(uri(url).unwrap(), "ws://127.0.0.1:7400/ws", "{url}");
        }
        assert_eq!(uri("ws://[::1]:7400").unwrap(), "ws://[::1]:7400/ws");
        assert_eq!(uri("ws://broker/events/ws").unwrap(), "ws://broker/events/ws");
    }

    #[test]
    fn what_is_no_broker_s_url_is_refused_before_anything_is_dialled() {
        for url in ["", "http://127.0.0.1", "ws://", "ws://:80", "ws://a b", "wss://broker"] {
            assert_eq!(uri(url), Err(ConnectErrorKind::InvalidUrl), "{url:?}");
        }
    }
}
