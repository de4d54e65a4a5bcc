//! The same frames in two codecs.
//!
//! One WebSocket message carries one frame or several: in JSON one a line, in bincode one after the other.

pub mod bincode;
mod check;
pub mod json;

use std::fmt::{self, Write as _};

use crate::{
    error::ErrorCode,
    frame::{ClientFrame, Message, ServerFrame},
    topic::Topics,
};

/// How frames are written, agreed on by WebSocket subprotocol.
///
/// ```
/// use tidegate_protocol::{ClientFrame, Codec};
///
/// let mut bytes = Vec::new();
/// Codec::Json.encode_client(&ClientFrame::Ping { id: 5 }, &mut bytes);
/// assert_eq!(bytes, br#"{"op":"ping","id":5}"#);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// `tidegate.v1.json`, text frames; also where no subprotocol was asked for.
    #[default]
    Json,
    /// `tidegate.v1.bincode`, binary frames.
    Bincode,
}

/// A frame that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct DecodeError {
    /// The request's id, where it could be read.
    pub id: Option<u64>,
    /// What the client is told.
    pub code: ErrorCode,
    /// For a person.
    pub message: String,
    /// Whether where the next frame starts is lost too. Then the iterator ends.
    pub fatal: bool,
}

/// The longest [`DecodeError::message`], in bytes: it may quote what the peer sent, and is sent back.
const MESSAGE_BYTES: usize = 256;

impl DecodeError {
    /// An error whose message ends, cut, at [`MESSAGE_BYTES`].
    fn new(code: ErrorCode, message: impl fmt::Display) -> Self {
        struct Cut(String);

        impl fmt::Write for Cut {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                let room = MESSAGE_BYTES - self.0.len();
                if text.len() <= room {
                    self.0.push_str(text);
                    return Ok(());
                }
                let end = (0..=room).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
                self.0.push_str(&text[..end]);
                Err(fmt::Error)
            }
        }

        let mut text = Cut(String::new());
        // The error of a writer that is full.
        let _ = write!(text, "{message}");
        Self { id: None, code, message: text.0, fatal: false }
    }

    /// The same, of the request `id`.
    fn of_request(self, id: Option<u64>) -> Self {
        Self { id, ..self }
    }
}

impl Codec {
    /// Both, in the order a broker prefers them.
    pub const ALL: [Codec; 2] = [Codec::Bincode, Codec::Json];

    /// The WebSocket subprotocol's name.
    ///
    /// ```
    /// use tidegate_protocol::Codec;
    ///
    /// assert_eq!(Codec::Json.subprotocol(), "tidegate.v1.json");
    /// ```
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "tidegate.v1.json",
            Self::Bincode => "tidegate.v1.bincode",
        }
    }

    /// The codec of a subprotocol.
    ///
    /// ```
    /// use tidegate_protocol::Codec;
    ///
    /// assert_eq!(Codec::from_subprotocol("tidegate.v1.bincode"), Some(Codec::Bincode));
    /// assert_eq!(Codec::from_subprotocol("mqtt"), None);
    /// ```
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.subprotocol() == name)
    }

    /// What stands between two frames of one WebSocket message.
    ///
    /// ```
    /// use tidegate_protocol::Codec;
    ///
    /// assert_eq!(Codec::Json.separator(), b"\n");
    /// assert!(Codec::Bincode.separator().is_empty());
    /// ```
    pub fn separator(self) -> &'static [u8] {
        match self {
            Self::Json => b"\n",
            Self::Bincode => b"",
        }
    }

    /// Appends a client's frame to `out`, without a separator.
    ///
    /// ```
    /// use tidegate_protocol::{ClientFrame, Codec};
    ///
    /// let mut bytes = Vec::new();
    /// Codec::Json.encode_client(&ClientFrame::Credit { sub: 2, add: 100 }, &mut bytes);
    /// assert_eq!(bytes, br#"{"op":"credit","sub":2,"add":100}"#);
    /// ```
    pub fn encode_client(self, frame: &ClientFrame, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::encode_client(frame, out),
            Self::Bincode => bincode::encode_client(frame, out),
        }
    }

    /// Appends a broker's frame to `out`, without a separator.
    ///
    /// ```
    /// use tidegate_protocol::{Codec, ServerFrame};
    ///
    /// let mut bytes = Vec::new();
    /// Codec::Json.encode_server(&ServerFrame::Pong { id: 5 }, &mut bytes);
    /// assert_eq!(bytes, br#"{"op":"pong","id":5}"#);
    /// ```
    pub fn encode_server(self, frame: &ServerFrame, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::encode_server(frame, out),
            Self::Bincode => bincode::encode_server(frame, out),
        }
    }

    /// Appends a message's frame to `out`, without a separator: the same bytes that
    /// [`Codec::encode_server`] gives, without the detour over a [`ServerFrame`].
    ///
    /// ```
    /// use tidegate_protocol::{Codec, ServerFrame};
    ///
    /// let line = br#"{"op":"message","topic":"chat.room1","offset":42,"time":1790000000123,"text":"hi"}"#;
    /// let Some(Ok(ServerFrame::Message(message))) = Codec::Json.decode_server(line).next() else { panic!() };
    /// let mut bytes = Vec::new();
    /// Codec::Json.encode_message(&message, &mut bytes);
    /// assert_eq!(bytes, line);
    /// ```
    pub fn encode_message(self, message: &Message, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::encode_message(message, out),
            Self::Bincode => bincode::encode_message(message, out),
        }
    }

    /// Turns `out`'s end, the encoding of a message without `sub`, into the encoding of the same message for `sub`
    /// alone. `sub` stands last in a message for this.
    ///
    /// ```
    /// use tidegate_protocol::Codec;
    ///
    /// let mut bytes = br#"{"op":"message","topic":"chat.room1","time":1790000000123,"text":"hi"}"#.to_vec();
    /// Codec::Json.tag_message(&mut bytes, 2);
    /// assert!(bytes.ends_with(br#""text":"hi","sub":2}"#));
    /// ```
    pub fn tag_message(self, out: &mut Vec<u8>, sub: u64) {
        match self {
            Self::Json => json::tag_message(out, sub),
            Self::Bincode => bincode::tag_message(out, sub),
        }
    }

    /// Reads the client frames of one WebSocket message, one after the other.
    ///
    /// ```
    /// use tidegate_protocol::{ClientFrame, Codec};
    ///
    /// let mut frames = Codec::Json.decode_client(b"{\"op\":\"ping\",\"id\":5}\n{\"op\":\"ping\",\"id\":6}");
    /// assert_eq!(frames.next(), Some(Ok(ClientFrame::Ping { id: 5 })));
    /// assert_eq!(frames.next(), Some(Ok(ClientFrame::Ping { id: 6 })));
    /// assert_eq!(frames.next(), None);
    /// ```
    pub fn decode_client(self, bytes: &[u8]) -> impl Iterator<Item = Result<ClientFrame, DecodeError>> {
        frames(self, bytes, move |bytes| match self {
            Codec::Json => (json::decode_client(bytes), bytes.len()),
            Codec::Bincode => bincode::decode_client(bytes, None),
        })
    }

    /// The same. A topic that stands in `topics` is neither checked nor copied again, and a new one is put there.
    ///
    /// ```
    /// use tidegate_protocol::{Codec, topic::Topics};
    ///
    /// let mut topics = Topics::new(1024);
    /// let line = br#"{"op":"publish","topic":"chat.room1","text":"hi"}"#;
    /// let mut frames = Codec::Json.decode_client_with(line, &mut topics);
    /// assert!(matches!(frames.next(), Some(Ok(_))));
    /// ```
    pub fn decode_client_with(
        self,
        bytes: &[u8],
        topics: &mut Topics,
    ) -> impl Iterator<Item = Result<ClientFrame, DecodeError>> {
        frames(self, bytes, move |bytes| match self {
            Codec::Json => (json::decode_client_with(bytes, Some(&mut *topics)), bytes.len()),
            Codec::Bincode => bincode::decode_client(bytes, Some(&mut *topics)),
        })
    }

    /// Reads the server frames of one WebSocket message, one after the other.
    ///
    /// ```
    /// use tidegate_protocol::{Codec, ServerFrame};
    ///
    /// let mut frames = Codec::Json.decode_server(br#"{"op":"pong","id":5}"#);
    /// assert_eq!(frames.next(), Some(Ok(ServerFrame::Pong { id: 5 })));
    /// ```
    pub fn decode_server(self, bytes: &[u8]) -> impl Iterator<Item = Result<ServerFrame, DecodeError>> {
        frames(self, bytes, move |bytes| match self {
            Codec::Json => (json::decode_server(bytes), bytes.len()),
            Codec::Bincode => bincode::decode_server(bytes),
        })
    }
}

/// What was read from the start of some bytes, and how many of them it took: all of them where the error is fatal.
type Decoded<F> = (Result<F, DecodeError>, usize);

/// The frames of one WebSocket message. `decode` reads one: a line, or from the start of what is left.
fn frames<F>(
    codec: Codec,
    bytes: &[u8],
    mut decode: impl FnMut(&[u8]) -> Decoded<F>,
) -> impl Iterator<Item = Result<F, DecodeError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            if codec == Codec::Bincode {
                let (frame, length) = decode(rest);
                rest = rest.get(length..).unwrap_or_default();
                return Some(frame);
            }
            // Most have one line, and to look for a byte is faster than to look for its place.
            let end = rest.contains(&b'\n').then(|| rest.iter().position(|&byte| byte == b'\n')).flatten();
            let (line, after) = match end {
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None => (rest, &[][..]),
            };
            rest = after;
            if !line.trim_ascii().is_empty() {
                return Some(decode(line).0);
            }
        }
    })
}
