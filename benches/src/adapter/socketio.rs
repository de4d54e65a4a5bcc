//! Socket.IO 4 (Engine.IO 4, WebSocket transport), as `peers/socketio` speaks it: the event `p` publishes, `m`
//! delivers, `ready` says that the rooms named in `auth` are joined.

use super::{Adapter, Fault, Role, Talk};
use crate::websocket;

/// See the module.
#[derive(Debug)]
pub struct SocketIo;

impl Adapter for SocketIo {
    type State = ();

    fn upgrade(&self, _role: Role<'_>) -> (String, Option<&'static str>) {
        ("/socket.io/?EIO=4&transport=websocket".into(), None)
    }

    fn opcode(&self) -> u8 {
        websocket::TEXT
    }

    fn open(&self, _state: &mut (), role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        match role {
            Role::Subscriber(topics) => talk.send(format!("40{{\"topics\":{topics:?}}}").as_bytes()),
            Role::Publisher(_) => talk.send(b"40"),
            Role::Returning(_) => return Err(Fault::NoResume),
        }
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(format!("42[\"p\",\"{topic}\",").as_bytes());
        out.extend_from_slice(payload);
        out.push(b']');
    }

    #[inline]
    fn receive(&self, _state: &mut (), message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        if let Some(payload) = message.strip_prefix(b"42[\"m\",").and_then(|rest| rest.strip_suffix(b"]")) {
            return talk.deliver(payload);
        }
        match message {
            b"42[\"ready\"]" => talk.ready(),
            b"2" => talk.send(b"3"),
            // The transport is open; the namespace is connected.
            [b'0', ..] | [b'4', b'0', ..] => {}
            _ => return Err(Fault::Told(String::from_utf8_lossy(message).into_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::transcript::Remembering;

    #[test]
    fn a_conversation_ends_ready_with_its_messages_delivered() {
        let mut talk = Remembering::default();
        for message in
            ["0{\"sid\":\"a\"}", "40{\"sid\":\"b\"}", "42[\"ready\"]", "2", "42[\"m\",[1,\"xxx\"]]"]
        {
            SocketIo.receive(&mut (), message.as_bytes(), &mut talk).unwrap();
        }
        assert_eq!((talk.delivered, talk.ready), (vec![b"[1,\"xxx\"]".to_vec()], 1));
        let fault = SocketIo.receive(&mut (), b"44{\"message\":\"no\"}", &mut Remembering::default());
        assert!(matches!(fault, Err(Fault::Told(_))), "{fault:?}");
    }
}
