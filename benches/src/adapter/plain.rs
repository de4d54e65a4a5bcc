//! The protocol of the servers in `peers/bun` and `peers/ws`, and of nginx with nchan: bare payloads. [`Plain`] names
//! its one topic in the path, which costs a server least; [`PlainTopics`] names topics in messages.

use super::{Adapter, Fault, Role, Talk};
use crate::websocket;

/// See the module.
#[derive(Debug)]
pub struct Plain {
    /// What a subscriber's path begins with that wants what the server has kept.
    returning: Option<&'static str>,
}

impl Plain {
    /// A server that keeps nothing.
    pub fn live() -> Self {
        Self { returning: None }
    }

    /// nchan's buffers, as `peers/nchan/run` sets them up.
    pub fn nchan() -> Self {
        Self { returning: Some("beginning") }
    }
}

impl Adapter for Plain {
    type State = ();

    fn upgrade(&self, role: Role<'_>) -> (String, Option<&'static str>) {
        let path = match role {
            Role::Subscriber(topics) => format!("/subscribe/{}", topics[0]),
            Role::Returning(topics) => {
                format!("/{}/{}", self.returning.unwrap_or("subscribe"), topics[0])
            }
            Role::Publisher(topic) => format!("/publish/{topic}"),
        };
        (path, None)
    }

    fn opcode(&self) -> u8 {
        websocket::TEXT
    }

    fn open(&self, _state: &mut (), role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        if matches!(role, Role::Returning(_)) && self.returning.is_none() {
            return Err(Fault::NoResume);
        }
        talk.ready();
        Ok(())
    }

    fn publish(&self, _topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(payload);
    }

    #[inline]
    fn receive(&self, _state: &mut (), message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        // What nchan answers a publisher: how many subscribers there are.
        if message.starts_with(b"queued messages: ") { Ok(()) } else { talk.deliver(message) }
    }
}

/// See the module.
#[derive(Debug)]
pub struct PlainTopics;

impl Adapter for PlainTopics {
    type State = ();

    fn upgrade(&self, _role: Role<'_>) -> (String, Option<&'static str>) {
        ("/many".into(), None)
    }

    fn opcode(&self) -> u8 {
        websocket::TEXT
    }

    fn open(&self, _state: &mut (), role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        match role {
            Role::Subscriber(topics) => talk.send(topics.join(",").as_bytes()),
            Role::Publisher(_) => talk.ready(),
            Role::Returning(_) => return Err(Fault::NoResume),
        }
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(topic.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(payload);
    }

    #[inline]
    fn receive(&self, _state: &mut (), message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        if message == b"ready" {
            talk.ready();
            return Ok(());
        }
        talk.deliver(message)
    }
}
