//! Tidegate's server-sent events. Who publishes has a WebSocket, in JSON.

use memchr::{memchr, memmem};

use super::{Adapter, Fault, Role, Talk, TidegateJson, reassemble};
use crate::{events::Request, payload::Shape};

/// See the module.
#[derive(Debug)]
pub struct TidegateEvents {
    json: TidegateJson,
    /// Whether they are a session's, as the browser's fallback reads them; else those of a bare `EventSource`.
    session: bool,
}

impl TidegateEvents {
    /// `GET /v1/subscribe`, for payloads of this shape.
    pub fn bare(shape: &Shape) -> Self {
        Self { json: TidegateJson::new(shape), session: false }
    }

    /// `POST /v1/sessions`.
    pub fn session(shape: &Shape) -> Self {
        Self { session: true, ..Self::bare(shape) }
    }

    /// Reads an event, without the empty line that ends it.
    #[inline]
    fn event(&self, state: &mut State, event: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        let mut rest = event;
        let mut has_data = false;
        while !rest.is_empty() {
            let line;
            (line, rest) = match memchr(b'\n', rest) {
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None => (rest, &[][..]),
            };
            if let Some(frame) = line.strip_prefix(b"data: ") {
                has_data = true;
                self.json.receive(&mut state.json, frame, talk)?;
            } else if line == b"event: session" {
                return Ok(());
            } else if line.starts_with(b"event: ") {
                return Err(Fault::Told(String::from_utf8_lossy(event).into_owned()));
            }
        }
        // Where a bare subscription begins.
        if !has_data && event.starts_with(b"id: ") {
            talk.ready();
        }
        Ok(())
    }
}

/// What is remembered of a connection.
#[derive(Debug, Default)]
pub struct State {
    json: <TidegateJson as Adapter>::State,
    is_publisher: bool,
    unread: Vec<u8>,
}

impl Adapter for TidegateEvents {
    type State = State;

    fn upgrade(&self, role: Role<'_>) -> (String, Option<&'static str>) {
        self.json.upgrade(role)
    }

    fn events(&self, role: Role<'_>) -> Option<Request> {
        let filter = match role {
            Role::Subscriber(filters) | Role::Returning(filters) => &filters[0],
            Role::Publisher(_) => return None,
        };
        Some(if self.session {
            let body = format!(r#"{{"op":"subscribe","id":1,"filter":"{filter}"}}"#);
            Request { line: "POST /v1/sessions".into(), body }
        } else {
            let line = format!("GET /v1/subscribe?filter={}", filter.replace('>', "%3E"));
            Request { line, body: String::new() }
        })
    }

    fn opcode(&self) -> u8 {
        self.json.opcode()
    }

    fn open(&self, state: &mut State, role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        match role {
            Role::Publisher(_) => {
                state.is_publisher = true;
                self.json.open(&mut state.json, role, talk)
            }
            Role::Returning(_) => Err(Fault::NoResume),
            Role::Subscriber([_]) => Ok(()),
            Role::Subscriber(_) => Err(Fault::Told("this adapter subscribes once a stream".into())),
        }
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        self.json.publish(topic, payload, out);
    }

    #[inline]
    fn receive(&self, state: &mut State, message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        if state.is_publisher {
            return self.json.receive(&mut state.json, message, talk);
        }
        let mut unread = std::mem::take(&mut state.unread);
        let read = reassemble(&mut unread, message, |bytes| {
            let Some(end) = memmem::find(bytes, b"\n\n") else { return Ok(None) };
            self.event(state, &bytes[..end], talk)?;
            Ok(Some(end + 2))
        });
        state.unread = unread;
        read
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::Codec;

    use super::*;
    use crate::adapter::transcript::{Remembering, SIZE, Transcript};

    /// What the broker writes of these frames to a session: one event, a line for each.
    fn event_of(frames: &[u8]) -> Vec<u8> {
        let lines: Vec<_> =
            frames.split(|&byte| byte == b'\n').map(|line| [b"data: ", line].concat()).collect();
        [&lines.join(&b'\n')[..], b"\n\n"].concat()
    }

    fn read(adapter: &TidegateEvents, stream: &[u8], cut: usize) -> Result<Remembering, Fault> {
        let (mut state, mut talk) = (State::default(), Remembering::default());
        for part in [&stream[..cut], &stream[cut..]] {
            adapter.receive(&mut state, part, &mut talk)?;
        }
        Ok(talk)
    }

    #[test]
    fn a_sessions_events_are_read_wherever_the_server_cuts_them() {
        let adapter = TidegateEvents::session(&Shape::new(SIZE).unwrap());
        let mut transcript = Transcript::default();
        let expected = transcript.messages(Codec::Json);
        let opening = b"event: session\ndata: {\"session\":\"5d0c\"}\n\n:\n\n";
        let stream = [&opening[..], &event_of(&transcript.bytes)].concat();
        for cut in 0..=stream.len() {
            let talk = read(&adapter, &stream, cut).unwrap();
            assert_eq!((talk.delivered, talk.ready), (expected.clone(), 1), "cut at {cut}");
        }
    }

    #[test]
    fn a_bare_subscription_is_ready_with_its_first_position() {
        let shape = Shape::new(SIZE).unwrap();
        let adapter = TidegateEvents::bare(&shape);
        let payload = shape.payload(crate::payload::Stamp { flow: 1, sequence: 5 });
        let text = std::str::from_utf8(&payload).unwrap();
        let message = format!(r#"{{"op":"message","topic":"a","offset":6,"time":1,"json":{text}}}"#);
        let before = "retry: 300\n\n";
        let stream = format!("{before}id: 8f3a:5\n\nid: 8f3a:6\ndata: {message}\n\n");
        assert_eq!(read(&adapter, before.as_bytes(), 3).unwrap().ready, 0);
        for cut in 0..=stream.len() {
            let talk = read(&adapter, stream.as_bytes(), cut).unwrap();
            assert_eq!((talk.delivered, talk.ready), (vec![payload.clone()], 1), "cut at {cut}");
        }
    }

    #[test]
    fn a_gap_an_error_or_a_close_ends_the_run() {
        let shape = Shape::new(SIZE).unwrap();
        let mut streams: Vec<_> =
            Transcript::refusals(Codec::Json).iter().map(|frames| event_of(frames)).collect();
        streams.push(b"event: close\ndata: {\"code\":4000,\"reason\":\"drain\"}\n\n".to_vec());
        streams.push(b"id: 8f3a:7\nevent: gap\ndata: {}\n\n".to_vec());
        for stream in streams {
            for adapter in [TidegateEvents::bare(&shape), TidegateEvents::session(&shape)] {
                assert!(
                    matches!(read(&adapter, &stream, 0), Err(Fault::Told(_))),
                    "{}",
                    stream.escape_ascii()
                );
            }
        }
    }
}
