//! MQTT 3.1.1 over WebSocket at QoS 0. A packet need not end where a WebSocket message ends (section 6).

use super::{Adapter, Fault, Role, Talk, reassemble};
use crate::websocket::{self, Malformed};

/// See the module.
#[derive(Debug)]
pub struct Mqtt;

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const SUBACK: u8 = 9;

/// What is remembered of a connection.
#[derive(Debug, Default)]
pub struct State {
    unread: Vec<u8>,
    /// Nothing is subscribed to, so the connection is ready once it is accepted.
    publishes: bool,
}

impl Adapter for Mqtt {
    type State = State;

    fn upgrade(&self, _role: Role<'_>) -> (String, Option<&'static str>) {
        ("/mqtt".into(), Some("mqtt"))
    }

    fn opcode(&self) -> u8 {
        websocket::BINARY
    }

    fn open(&self, state: &mut State, role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        // Protocol level 4, a clean session, no keep-alive, and an id of the server's choice.
        let mut bytes = vec![];
        packet(&mut bytes, 0x10, &[&[0, 4], b"MQTT", &[4, 2, 0, 0], &[0, 0]]);
        match role {
            Role::Subscriber(filters) => {
                let mut body = vec![0, 1];
                for filter in filters {
                    string(&mut body, &levels(filter));
                    body.push(0);
                }
                packet(&mut bytes, 0x82, &[&body]);
            }
            Role::Publisher(_) => state.publishes = true,
            Role::Returning(_) => return Err(Fault::NoResume),
        }
        talk.send(&bytes);
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        let mut head = Vec::new();
        string(&mut head, &levels(topic));
        packet(out, PUBLISH << 4, &[&head, payload]);
    }

    #[inline]
    fn receive(&self, state: &mut State, message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        let publishes = state.publishes;
        reassemble(&mut state.unread, message, |bytes| {
            let Some((kind, head, length)) = header(bytes)? else { return Ok(None) };
            let Some(body) = bytes.get(head..head + length) else { return Ok(None) };
            match kind >> 4 {
                PUBLISH => {
                    let (topic, rest) =
                        body.split_first_chunk().ok_or(Malformed("a PUBLISH without a topic"))?;
                    let topic = usize::from(u16::from_be_bytes(*topic));
                    talk.deliver(rest.get(topic..).ok_or(Malformed("a topic that ends too early"))?)?;
                }
                CONNACK if body.get(1) == Some(&0) => {
                    if publishes {
                        talk.ready();
                    }
                }
                SUBACK if body.len() > 2 && body[2..].iter().all(|&code| code == 0) => talk.ready(),
                _ => return Err(Fault::Told(format!("packet {kind:#x} {body:?}"))),
            }
            Ok(Some(head + length))
        })
    }
}

/// A topic or filter with MQTT's separators and wildcards.
fn levels(filter: &str) -> String {
    filter.replace('.', "/").replace('*', "+").replace('>', "#")
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn packet(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    out.push(kind);
    let mut length = parts.iter().map(|part| part.len()).sum::<usize>();
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        out.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if more == 0 {
            break;
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Kind, bytes of the fixed header, bytes after it; `None` where it is not whole.
#[inline]
fn header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, Malformed> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    let mut length = 0;
    for (index, &byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((kind, index + 2, length)));
        }
    }
    if rest.len() >= 4 { Err(Malformed("a remaining length of more than four bytes")) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::transcript::Remembering;

    #[test]
    fn what_is_published_is_read_back_wherever_it_is_cut() {
        let payload = vec![b'x'; 200];
        let mut bytes = vec![0x20, 2, 0, 0, 0x90, 4, 0, 1, 0, 0];
        Mqtt.publish("bench.load", &payload, &mut bytes);
        Mqtt.publish("bench.load", b"short", &mut bytes);
        for cut in 0..bytes.len() {
            let (mut state, mut talk) = (State::default(), Remembering::default());
            for part in [&bytes[..cut], &bytes[cut..]] {
                Mqtt.receive(&mut state, part, &mut talk).unwrap();
            }
            assert_eq!(talk.delivered, [payload.clone(), b"short".to_vec()], "cut at {cut}");
            assert_eq!(talk.ready, 1);
        }
    }

    #[test]
    fn a_refused_subscription_ends_the_run() {
        let refused = [0x90, 3, 0, 1, 0x80];
        let fault = Mqtt.receive(&mut State::default(), &refused, &mut Remembering::default());
        assert!(matches!(fault, Err(Fault::Told(_))), "{fault:?}");
    }
}
