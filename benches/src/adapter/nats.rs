//! The NATS client protocol over WebSocket. The server may cut its text anywhere into WebSocket messages.

use memchr::memchr;

use super::{Adapter, Fault, Role, Talk, reassemble};
use crate::websocket::{self, Malformed};

/// See the module.
#[derive(Debug)]
pub struct Nats;

impl Adapter for Nats {
    /// What is not whole yet.
    type State = Vec<u8>;

    fn upgrade(&self, _role: Role<'_>) -> (String, Option<&'static str>) {
        ("/".into(), None)
    }

    fn opcode(&self) -> u8 {
        websocket::BINARY
    }

    fn open(&self, _state: &mut Vec<u8>, role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        let mut text = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"lang\":\"bench\",\
                        \"version\":\"1\"}\r\n"
            .to_owned();
        match role {
            Role::Subscriber(filters) => {
                for (id, filter) in filters.iter().enumerate() {
                    text += &format!("SUB {filter} {}\r\n", id + 1);
                }
            }
            Role::Publisher(_) => {}
            Role::Returning(_) => return Err(Fault::NoResume),
        }
        // Its pong says that all before it was taken in.
        text += "PING\r\n";
        talk.send(text.as_bytes());
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(format!("PUB {topic} {}\r\n", payload.len()).as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn receive(&self, state: &mut Vec<u8>, message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        reassemble(state, message, |bytes| take(bytes, talk))
    }
}

/// Takes one whole operation off the start of `bytes` and returns its length; `None` where it is not whole.
#[inline]
fn take(bytes: &[u8], talk: &mut impl Talk) -> Result<Option<usize>, Fault> {
    let Some(end) = memchr(b'\n', bytes) else { return Ok(None) };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Malformed("a line without CR"))?;
    let after = end + 1;
    if line.starts_with(b"MSG ") {
        let length = line.iter().rev().take_while(|byte| byte.is_ascii_digit());
        let length = length
            .zip(std::iter::successors(Some(1_usize), |place| place.checked_mul(10)))
            .map(|(digit, place)| usize::from(digit - b'0').saturating_mul(place))
            .fold(0_usize, usize::saturating_add);
        let Some(payload) = bytes.get(after..after.saturating_add(length)) else { return Ok(None) };
        let total = after + length + 2;
        if bytes.len() < total {
            return Ok(None);
        }
        talk.deliver(payload)?;
        return Ok(Some(total));
    }
    match line {
        b"PONG" => talk.ready(),
        b"PING" => talk.send(b"PONG\r\n"),
        _ if line.starts_with(b"INFO ") || line == b"+OK" => {}
        _ => return Err(Fault::Told(String::from_utf8_lossy(line).into_owned())),
    }
    Ok(Some(after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::transcript::Remembering;

    #[test]
    fn messages_are_found_wherever_the_server_cuts_them() {
        let bytes =
            b"INFO {}\r\nPONG\r\nMSG bench.load 1 5\r\nhello\r\nMSG bench.load 1 11\r\nwith\r\nbreak\r\n";
        for cut in 0..bytes.len() {
            let (mut state, mut talk) = (Vec::new(), Remembering::default());
            for part in [&bytes[..cut], &bytes[cut..]] {
                Nats.receive(&mut state, part, &mut talk).unwrap();
            }
            assert_eq!(talk.delivered, [b"hello".to_vec(), b"with\r\nbreak".to_vec()], "cut at {cut}");
            assert_eq!((talk.ready, state.len()), (1, 0));
        }
    }

    #[test]
    fn an_error_ends_the_run() {
        let fault = Nats.receive(&mut Vec::new(), b"-ERR 'Slow Consumer'\r\n", &mut Remembering::default());
        assert!(matches!(fault, Err(Fault::Told(_))), "{fault:?}");
    }
}
