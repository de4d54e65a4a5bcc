//! Tidegate's frames as JSON lines.

use memchr::{memchr, memmem};

use super::{Adapter, Fault, Role, Talk};
use crate::{
    payload::Shape,
    websocket::{self, Malformed},
};

/// See the module.
#[derive(Debug)]
pub struct TidegateJson {
    payload: usize,
}

/// What stands before a payload.
const BEFORE: &[u8] = b"\"json\":";

impl TidegateJson {
    /// An adapter for payloads of this shape.
    pub fn new(shape: &Shape) -> Self {
        Self { payload: shape.size() }
    }

    /// The payload of a `message` frame.
    #[inline]
    fn payload<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        // Where the message has no key, no headers and no `sub`, the payload stands before the last brace.
        let end = line.len().checked_sub(1)?;
        let start = end.checked_sub(self.payload)?;
        if line[..start].ends_with(BEFORE) {
            return Some(&line[start..end]);
        }
        let start = memmem::find(line, BEFORE)? + BEFORE.len();
        line.get(start..start + self.payload)
    }
}

/// What is remembered of a connection.
#[derive(Debug, Default)]
pub struct State {
    /// Confirmations that are due until it is ready.
    due: usize,
    /// The positions of the last ack, as JSON.
    positions: String,
}

impl State {
    fn confirmed(&mut self, line: &[u8], talk: &mut impl Talk) {
        let ack = serde_json::from_slice::<Ack>(line).unwrap_or_default();
        // Written again with what a `subscribe` may name.
        self.positions = serde_json::to_string(&ack.positions).unwrap_or_default();
        self.due = self.due.saturating_sub(1);
        if self.due == 0 {
            talk.ready();
        }
    }
}

/// Of a subscribe's ack, what a client comes back with.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Ack {
    positions: Vec<Position>,
}

#[derive(Debug, Default, serde::Deserialize, serde::Serialize)]
struct Position {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    epoch: String,
    offset: u64,
}

impl Adapter for TidegateJson {
    type State = State;

    fn upgrade(&self, _role: Role<'_>) -> (String, Option<&'static str>) {
        ("/ws".into(), Some("tidegate.v1.json"))
    }

    fn opcode(&self) -> u8 {
        websocket::TEXT
    }

    fn open(&self, state: &mut State, role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        let (filters, from) = match role {
            Role::Subscriber(filters) => (filters, String::new()),
            Role::Returning(filters) => (filters, format!(r#","from":{}"#, state.positions)),
            // Ready only with the pong: an upgraded socket may still be refused.
            Role::Publisher(_) => {
                talk.send(br#"{"op":"ping","id":1}"#);
                (&[][..], String::new())
            }
        };
        state.due = filters.len().max(1);
        let frames = filters.iter().enumerate().map(|(index, filter)| {
            format!(r#"{{"op":"subscribe","id":{},"filter":"{filter}"{from}}}"#, index + 1)
        });
        // Below the broker's bound on a message.
        for frames in frames.collect::<Vec<_>>().chunks(100) {
            talk.send(frames.join("\n").as_bytes());
        }
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(format!(r#"{{"op":"publish","topic":"{topic}","json":"#).as_bytes());
        out.extend_from_slice(payload);
        out.push(b'}');
    }

    #[inline]
    fn receive(&self, state: &mut State, message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        let mut rest = message;
        while !rest.is_empty() {
            let line;
            (line, rest) = match memchr(b'\n', rest) {
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None => (rest, &[][..]),
            };
            if line.starts_with(br#"{"op":"message""#) {
                talk.deliver(self.payload(line).ok_or(Malformed("a message without its payload"))?)?;
            } else if line.starts_with(br#"{"op":"ack""#) || line.starts_with(br#"{"op":"pong""#) {
                state.confirmed(line, talk);
            } else if !line.starts_with(br#"{"op":"mark""#) {
                return Err(Fault::Told(String::from_utf8_lossy(line).into_owned()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::Codec;

    use super::*;
    use crate::adapter::transcript::{SIZE, Transcript};

    fn adapter() -> TidegateJson {
        TidegateJson { payload: SIZE }
    }

    #[test]
    fn the_walk_finds_what_the_codec_wrote() {
        let mut transcript = Transcript::default();
        let expected = transcript.messages(Codec::Json);
        adapter()
            .receive(&mut State { due: 1, ..State::default() }, &transcript.bytes, &mut transcript.talk)
            .unwrap();
        assert_eq!(transcript.talk.delivered, expected);
        assert_eq!(transcript.talk.ready, 1);
    }

    #[test]
    fn a_gap_or_an_error_ends_the_run() {
        for bytes in Transcript::refusals(Codec::Json) {
            let fault = adapter().receive(
                &mut State { due: 1, ..State::default() },
                &bytes,
                &mut Transcript::default().talk,
            );
            assert!(matches!(fault, Err(Fault::Told(_))), "{fault:?}");
        }
    }
}
