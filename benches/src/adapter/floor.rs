//! The protocol of the server `floor`: the path says who is who, a WebSocket message is a payload and filler.

use super::{Adapter, Fault, Role, Talk};
use crate::{
    payload::Shape,
    websocket::{self, Malformed},
};

/// See the module.
#[derive(Debug)]
pub struct Floor {
    payload: usize,
}

impl Floor {
    /// An adapter for payloads of this shape.
    pub fn new(shape: &Shape) -> Self {
        Self { payload: shape.size() }
    }
}

impl Adapter for Floor {
    type State = ();

    fn upgrade(&self, role: Role<'_>) -> (String, Option<&'static str>) {
        let path = match role {
            Role::Subscriber(topics) | Role::Returning(topics) => format!("/subscribe/{}", topics[0]),
            Role::Publisher(topic) => format!("/publish/{topic}"),
        };
        (path, None)
    }

    fn opcode(&self) -> u8 {
        websocket::BINARY
    }

    fn open(&self, _state: &mut (), role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        if matches!(role, Role::Returning(_)) {
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
        talk.deliver(message.get(..self.payload).ok_or(Malformed("shorter than a payload"))?)
    }
}
