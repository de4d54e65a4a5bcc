//! Centrifugo's protocol as Protobuf messages, each after its length (`client.proto` of its module `protocol`).

use super::{Adapter, Fault, Role, Talk};
use crate::websocket::{self, Malformed};

/// See the module.
#[derive(Debug)]
pub struct CentrifugeProtobuf;

/// The id of every publish: the replies say nothing that is needed.
const PUBLISH: u64 = u32::MAX as u64;

impl Adapter for CentrifugeProtobuf {
    /// Replies that are due until it is ready.
    type State = usize;

    fn upgrade(&self, _role: Role<'_>) -> (String, Option<&'static str>) {
        ("/connection/websocket".into(), Some("centrifuge-protobuf"))
    }

    fn opcode(&self) -> u8 {
        websocket::BINARY
    }

    fn open(&self, due: &mut usize, role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        let mut out = Vec::new();
        command(&mut out, 1, 4, &[]);
        let (channels, returning) = match role {
            Role::Subscriber(channels) => (channels, false),
            Role::Returning(channels) => (channels, true),
            Role::Publisher(_) => (&[][..], false),
        };
        for (index, channel) in channels.iter().enumerate() {
            let mut subscribe = Vec::new();
            bytes(&mut subscribe, 1, channel.as_bytes());
            if returning {
                // `recover`. An empty epoch stands for any.
                subscribe.extend_from_slice(&[3 << 3, 1]);
            }
            command(&mut out, index as u64 + 2, 5, &subscribe);
        }
        *due = 1 + channels.len();
        talk.send(&out);
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        let mut publish = Vec::new();
        bytes(&mut publish, 1, topic.as_bytes());
        bytes(&mut publish, 2, payload);
        command(out, PUBLISH, 7, &publish);
    }

    #[inline]
    fn receive(&self, due: &mut usize, message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        let mut walk = Walk(message);
        while !walk.0.is_empty() {
            let reply = walk.bytes()?;
            if reply.is_empty() {
                // A ping; its pong is an empty command.
                talk.send(&[0]);
                continue;
            }
            self.reply(due, reply, talk)?;
        }
        Ok(())
    }
}

impl CentrifugeProtobuf {
    #[inline]
    fn reply(&self, due: &mut usize, reply: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        let mut id = 0;
        let mut walk = Walk(reply);
        while let Some((number, field)) = walk.field()? {
            match (number, field) {
                (1, Field::Integer(value)) => id = value,
                // A push: its publication's data.
                (4, Field::Bytes(push)) => publications(push, 4, talk)?,
                (6, Field::Bytes(subscribed)) => publications(subscribed, 7, talk)?,
                (5 | 8, _) => {}
                _ => return Err(Fault::Told(format!("field {number} of a reply: {reply:?}"))),
            }
        }
        if id != 0 && id != PUBLISH {
            *due = due.saturating_sub(1);
            if *due == 0 {
                talk.ready();
            }
        }
        Ok(())
    }
}

/// Hands over the data (field 4) of each publication that stands in field `number`.
#[inline]
fn publications(bytes: &[u8], number: u64, talk: &mut impl Talk) -> Result<(), Fault> {
    let mut walk = Walk(bytes);
    while let Some((found, field)) = walk.field()? {
        match field {
            Field::Bytes(publication) if found == number => {
                let mut walk = Walk(publication);
                while let Some((found, field)) = walk.field()? {
                    if let (4, Field::Bytes(data)) = (found, field) {
                        talk.deliver(data)?;
                    }
                }
            }
            // Of a push: a channel may be left, or the connection ended.
            _ if number == 4 && found != 2 => {
                return Err(Fault::Told(format!("a push with field {found}: {bytes:?}")));
            }
            _ => {}
        }
    }
    Ok(())
}

fn integer(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    out.push(number << 3 | 2);
    integer(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn command(out: &mut Vec<u8>, id: u64, number: u8, request: &[u8]) {
    let mut body = vec![1 << 3];
    integer(&mut body, id);
    bytes(&mut body, number, request);
    integer(out, body.len() as u64);
    out.extend_from_slice(&body);
}

enum Field<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
}

struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    #[inline]
    fn field(&mut self) -> Result<Option<(u64, Field<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.integer()?;
        let field = match tag & 7 {
            0 => Field::Integer(self.integer()?),
            2 => Field::Bytes(self.bytes()?),
            _ => return Err(Malformed("a Protobuf field of a kind that is not in use")),
        };
        Ok(Some((tag >> 3, field)))
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.integer()?).unwrap_or(usize::MAX);
        let (bytes, rest) =
            self.0.split_at_checked(length).ok_or(Malformed("a Protobuf field that ends too early"))?;
        self.0 = rest;
        Ok(bytes)
    }

    #[inline]
    fn integer(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed("an integer that ends too early"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("an integer of more than ten bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::transcript::Remembering;

    fn reply(fields: &[(u8, &[u8])], id: u8) -> Vec<u8> {
        let mut body = if id == 0 { vec![] } else { vec![1 << 3, id] };
        fields.iter().for_each(|(number, value)| bytes(&mut body, *number, value));
        let mut out = vec![];
        integer(&mut out, body.len() as u64);
        out.extend(body);
        out
    }

    fn publication(data: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        bytes(&mut out, 4, data);
        out.extend([6 << 3, 9]);
        out
    }

    #[test]
    fn pushes_and_recovered_publications_are_delivered_in_order() {
        let mut recovered = vec![];
        bytes(&mut recovered, 7, &publication(b"one"));
        bytes(&mut recovered, 7, &publication(b"two"));
        let mut push = vec![];
        bytes(&mut push, 2, b"bench.load");
        bytes(&mut push, 4, &publication(&[b'x'; 300]));
        let message =
            [reply(&[(5, b"")], 1), reply(&[(6, &recovered)], 2), vec![0], reply(&[(4, &push)], 0)].concat();
        let (mut due, mut talk) = (2, Remembering::default());
        CentrifugeProtobuf.receive(&mut due, &message, &mut talk).unwrap();
        assert_eq!(talk.delivered, [b"one".to_vec(), b"two".to_vec(), vec![b'x'; 300]]);
        assert_eq!(talk.ready, 1);
    }

    #[test]
    fn an_error_and_a_disconnect_end_the_run() {
        let mut disconnect = vec![];
        bytes(&mut disconnect, 11, &[]);
        for message in [reply(&[(2, b"")], 2), reply(&[(4, &disconnect)], 0)] {
            let fault = CentrifugeProtobuf.receive(&mut 2, &message, &mut Remembering::default());
            assert!(matches!(fault, Err(Fault::Told(_))), "{fault:?}");
        }
    }

    #[test]
    fn a_reply_cut_anywhere_is_a_fault() {
        let mut push = vec![];
        bytes(&mut push, 4, &publication(b"data"));
        let whole = reply(&[(4, &push)], 0);
        for cut in 1..whole.len() {
            let talk = &mut Remembering::default();
            assert!(CentrifugeProtobuf.receive(&mut 0, &whole[..cut], talk).is_err(), "cut at {cut}");
        }
    }
}
