//! A client that speaks frames by hand, over an independent WebSocket implementation.
//!
//! # How to use and extend
//!
//! * `Raw::connect(url, codec).await` opens a connection, `Raw::over(stream, url, codec).await` one over a socket of
//!   the test's own making; `say(bytes)` sends one WebSocket message.
//! * `frame().await` is the next frame the broker sent; a JSON connection's as a `serde_json::Value`.
//! * `until(op).await` passes over frames of other kinds.
//! * `closed().await` is the close code the broker ended with.

// Each test binary has its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tidegate_protocol::{Codec, ServerFrame};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

/// Longer than anything here takes on the slowest machine; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Raw {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    codec: Codec,
    lines: VecDeque<String>,
    frames: VecDeque<ServerFrame>,
}

impl Raw {
    pub async fn connect(url: &str, codec: Codec) -> Self {
        let address = url.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).unwrap();
        Self::over(TcpStream::connect(address).await.unwrap(), url, codec).await
    }

    /// Over a socket that is connected already.
    pub async fn over(stream: TcpStream, url: &str, codec: Codec) -> Self {
        let mut request = url.into_client_request().unwrap();
        let subprotocol = HeaderValue::from_static(codec.subprotocol());
        request.headers_mut().insert("Sec-WebSocket-Protocol", subprotocol);
        let (socket, _) = client_async(request, MaybeTlsStream::Plain(stream)).await.unwrap();
        Self { socket, codec, lines: VecDeque::new(), frames: VecDeque::new() }
    }

    pub async fn json(url: &str) -> Self {
        Self::connect(url, Codec::Json).await
    }

    /// One WebSocket message of the codec's kind.
    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let message = match self.codec {
            Codec::Json => Message::text(String::from_utf8(bytes.as_ref().to_vec()).unwrap()),
            Codec::Bincode => Message::binary(bytes.as_ref().to_vec()),
        };
        self.socket.send(message).await.unwrap();
    }

    /// The socket, to be left unread.
    pub fn socket(&mut self) -> &mut WebSocketStream<MaybeTlsStream<TcpStream>> {
        &mut self.socket
    }

    /// The next WebSocket message, as text.
    async fn message(&mut self) -> Result<Vec<u8>, Option<u16>> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("the broker says nothing");
            match message {
                Some(Ok(Message::Text(text))) => return Ok(text.as_bytes().to_vec()),
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes.to_vec()),
                Some(Ok(Message::Close(close))) => return Err(close.map(|close| close.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The next frame of a JSON connection, or the close code.
    pub async fn next(&mut self) -> Result<Value, Option<u16>> {
        assert_eq!(self.codec, Codec::Json);
        while self.lines.is_empty() {
            let message = self.message().await?;
            let text = String::from_utf8(message).expect("text is UTF-8");
            self.lines.extend(text.split('\n').map(str::to_owned));
        }
        let line = self.lines.pop_front().unwrap();
        Ok(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")))
    }

    pub async fn frame(&mut self) -> Value {
        self.next().await.expect("the connection is open")
    }

    /// The next frame of either codec.
    pub async fn decoded(&mut self) -> ServerFrame {
        while self.frames.is_empty() {
            let message = self.message().await.expect("the connection is open");
            self.frames.extend(self.codec.decode_server(&message).map(|frame| frame.unwrap()));
        }
        self.frames.pop_front().unwrap()
    }

    /// The next frame with this `op`.
    pub async fn until(&mut self, op: &str) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["op"] == op {
                return frame;
            }
        }
    }

    /// The close code, past whatever comes before it; `None` where the line was cut.
    pub async fn closed(mut self) -> Option<u16> {
        loop {
            if let Err(code) = self.message().await {
                return code;
            }
        }
    }
}
