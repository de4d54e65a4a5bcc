//! Centrifugo's protocol as JSON lines.

use memchr::{memchr, memmem};

use super::{Adapter, Fault, Role, Talk};
use crate::{
    payload::Shape,
    websocket::{self, Malformed},
};

/// See the module.
#[derive(Debug)]
pub struct CentrifugeJson {
    payload: usize,
}

impl CentrifugeJson {
    /// An adapter for payloads of this shape.
    pub fn new(shape: &Shape) -> Self {
        Self { payload: shape.size() }
    }

    #[inline]
    fn publications(&self, line: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        for at in memmem::find_iter(line, DATA) {
            let start = at + DATA.len();
            let payload = line.get(start..start + self.payload);
            talk.deliver(payload.ok_or(Malformed("a publication without its payload"))?)?;
        }
        Ok(())
    }
}

const DATA: &[u8] = b"\"data\":";
/// The id of every publish: the replies say nothing that is needed.
const PUBLISH: &str = "4294967295";

impl Adapter for CentrifugeJson {
    /// Replies that are due until it is ready.
    type State = usize;

    fn upgrade(&self, _role: Role<'_>) -> (String, Option<&'static str>) {
        ("/connection/websocket".into(), Some("centrifuge-json"))
    }

    fn opcode(&self) -> u8 {
        websocket::TEXT
    }

    fn open(&self, due: &mut usize, role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        let mut text = r#"{"id":1,"connect":{}}"#.to_owned();
        let (channels, recover) = match role {
            // An empty epoch stands for any.
            Role::Returning(channels) => (channels, r#","recover":true"#),
            Role::Subscriber(channels) => (channels, ""),
            Role::Publisher(_) => (&[][..], ""),
        };
        for (index, channel) in channels.iter().enumerate() {
            text +=
                &format!("\n{{\"id\":{},\"subscribe\":{{\"channel\":\"{channel}\"{recover}}}}}", index + 2);
        }
        *due = 1 + channels.len();
        talk.send(text.as_bytes());
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        let head = format!(r#"{{"id":{PUBLISH},"publish":{{"channel":"{topic}","data":"#);
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"}}");
    }

    #[inline]
    fn receive(&self, due: &mut usize, message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        let mut rest = message;
        while !rest.is_empty() {
            let line;
            (line, rest) = match memchr(b'\n', rest) {
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None => (rest, &[][..]),
            };
            if line.starts_with(br#"{"push":"#) && memmem::find(line, br#""pub":"#).is_some() {
                self.publications(line, talk)?;
            } else if line == b"{}" {
                talk.send(b"{}");
            } else if line.starts_with(br#"{"id":"#) && memmem::find(line, br#""error":"#).is_none() {
                if line[6..].starts_with(PUBLISH.as_bytes()) {
                    continue;
                }
                // Where it was asked to recover: what it missed, or that it cannot have it.
                if memmem::find(line, br#""was_recovering":true"#).is_some()
                    && memmem::find(line, br#""recovered":true"#).is_none()
                {
                    return Err(Fault::Told(String::from_utf8_lossy(line).into_owned()));
                }
                self.publications(line, talk)?;
                *due = due.saturating_sub(1);
                if *due == 0 {
                    talk.ready();
                }
            } else {
                return Err(Fault::Told(String::from_utf8_lossy(line).into_owned()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::transcript::Remembering;

    #[test]
    fn pushes_and_recovered_publications_are_delivered_in_order() {
        let adapter = CentrifugeJson { payload: 5 };
        let (mut due, mut talk) = (2, Remembering::default());
        let text = concat!(
            r#"{"id":1,"connect":{"client":"c","ping":25,"pong":true}}"#,
            "\n",
            r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"x","publications":[{"data":[1,2],"offset":1},"#,
            r#"{"data":[2,3],"offset":2}],"recovered":true,"offset":2,"positioned":true,"was_recovering":true}}"#,
            "\n{}\n",
            r#"{"push":{"channel":"bench.load","pub":{"data":[3,4],"offset":3}}}"#,
        );
        adapter.receive(&mut due, text.as_bytes(), &mut talk).unwrap();
        assert_eq!(talk.delivered, [b"[1,2]", b"[2,3]", b"[3,4]"]);
        assert_eq!(talk.ready, 1);
    }

    #[test]
    fn an_error_a_disconnect_and_a_failed_recovery_end_the_run() {
        for line in [
            r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#,
            r#"{"push":{"disconnect":{"code":3008,"reason":"slow"}}}"#,
            r#"{"id":2,"subscribe":{"was_recovering":true}}"#,
        ] {
            let adapter = CentrifugeJson { payload: 5 };
            let fault = adapter.receive(&mut 2, line.as_bytes(), &mut Remembering::default());
            assert!(matches!(fault, Err(Fault::Told(_))), "{fault:?}");
        }
    }
}
