//! Pusher's channels, protocol 7, as Sockudo serves them. Publishing over the WebSocket is a *client event*: on a
//! private channel, by a connection that subscribes to it too and does not get its own.

use memchr::memmem;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Adapter, Fault, Role, Talk};
use crate::{
    payload::Shape,
    websocket::{self, Malformed},
};

/// See the module.
#[derive(Debug)]
pub struct Pusher {
    payload: usize,
}

/// The app of `peers/sockudo`.
const KEY: &str = "bench-key";
const SECRET: &[u8] = b"bench-secret";
const DATA: &[u8] = b"\"data\":";

impl Pusher {
    /// An adapter for payloads of this shape.
    pub fn new(shape: &Shape) -> Self {
        Self { payload: shape.size() }
    }
}

/// What is remembered of a connection.
#[derive(Debug, Default)]
pub struct State {
    /// To be subscribed to once the server has named the connection, which the signature needs.
    channels: Vec<String>,
    /// Confirmations that are due until it is ready.
    due: usize,
}

#[derive(Deserialize)]
struct Event {
    event: String,
    #[serde(default)]
    data: serde_json::Value,
}

#[derive(Deserialize)]
struct Established {
    socket_id: String,
}

impl Adapter for Pusher {
    type State = State;

    fn upgrade(&self, _role: Role<'_>) -> (String, Option<&'static str>) {
        (format!("/app/{KEY}?protocol=7&client=bench&version=1"), None)
    }

    fn opcode(&self) -> u8 {
        websocket::TEXT
    }

    fn open(&self, state: &mut State, role: Role<'_>, _talk: &mut impl Talk) -> Result<(), Fault> {
        state.channels = match role {
            Role::Subscriber(topics) => topics.to_vec(),
            Role::Publisher(topic) => vec![topic.to_owned()],
            Role::Returning(_) => return Err(Fault::NoResume),
        };
        state.due = state.channels.len();
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        let head = format!(r#"{{"event":"client-m","channel":"private-{topic}","data":"#);
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(payload);
        out.push(b'}');
    }

    #[inline]
    fn receive(&self, state: &mut State, message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        if memmem::find(&message[..message.len().min(64)], br#""pusher"#).is_none() {
            let start = memmem::find(message, DATA).ok_or(Malformed("an event without data"))? + DATA.len();
            let payload = message.get(start..start + self.payload);
            return talk.deliver(payload.ok_or(Malformed("an event without its payload"))?);
        }
        let told = || Fault::Told(String::from_utf8_lossy(message).into_owned());
        let event: Event = serde_json::from_slice(message).map_err(|_| told())?;
        match event.event.as_str() {
            "pusher:connection_established" => {
                let data = event.data.as_str().ok_or_else(told)?;
                let Established { socket_id } = serde_json::from_str(data).map_err(|_| told())?;
                for channel in std::mem::take(&mut state.channels) {
                    let signed = signature(SECRET, &format!("{socket_id}:private-{channel}"));
                    let frame = format!(
                        r#"{{"event":"pusher:subscribe","data":{{"channel":"private-{channel}","auth":"{KEY}:{signed}"}}}}"#
                    );
                    talk.send(frame.as_bytes());
                }
            }
            "pusher_internal:subscription_succeeded" => {
                state.due = state.due.saturating_sub(1);
                if state.due == 0 {
                    talk.ready();
                }
            }
            "pusher:ping" => talk.send(br#"{"event":"pusher:pong","data":{}}"#),
            "pusher:pong" => {}
            _ => return Err(told()),
        }
        Ok(())
    }
}

/// HMAC-SHA-256 (RFC 2104) in hexadecimal, for keys of at most a block (64 bytes).
fn signature(key: &[u8], text: &str) -> String {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::transcript::Remembering;

    #[test]
    fn the_signature_is_that_of_the_rfc_4231_test_case_2() {
        assert_eq!(
            signature(b"Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_conversation_ends_ready_with_its_messages_delivered() {
        let adapter = Pusher { payload: 9 };
        let (mut state, mut talk) = (State { channels: vec!["t".into()], due: 1 }, Remembering::default());
        for message in [
            r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":120}"}"#,
            r#"{"event":"pusher_internal:subscription_succeeded","channel":"private-t","data":"{}"}"#,
            r#"{"event":"client-m","channel":"private-t","data":[1,"xxx"]}"#,
        ] {
            adapter.receive(&mut state, message.as_bytes(), &mut talk).unwrap();
        }
        assert_eq!((talk.delivered, talk.ready), (vec![b"[1,\"xxx\"]".to_vec()], 1));
        let error = br#"{"event":"pusher:error","data":{"code":4301,"message":"rate limit"}}"#;
        let fault = adapter.receive(&mut state, error, &mut Remembering::default());
        assert!(matches!(fault, Err(Fault::Told(_))), "{fault:?}");
    }
}
