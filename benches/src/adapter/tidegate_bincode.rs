//! Tidegate's frames as bincode.

use tidegate_protocol::{
    Codec, Filter, Payload, Topic,
    frame::{AckResult, ClientFrame, Publish, ServerFrame, Subscribe},
    position::{From, Position},
};

use super::{Adapter, Fault, Role, Talk};
use crate::websocket::{self, Malformed};

/// See the module.
#[derive(Debug)]
pub struct TidegateBincode {
    /// Subscribers name their filters in the URL, and send no frame.
    by_url: bool,
}

impl TidegateBincode {
    /// Subscribers send `subscribe` frames.
    pub fn by_frames() -> Self {
        Self { by_url: false }
    }

    /// Subscribers subscribe by their URL, and are ready with the acks that come all the same.
    pub fn by_url() -> Self {
        Self { by_url: true }
    }
}

/// The tag of a `message` frame (`docs/protocol.md`).
const MESSAGE: u8 = 19;

/// What is remembered of a connection.
#[derive(Debug, Default)]
pub struct State {
    /// Confirmations that are due until it is ready.
    due: usize,
    /// Those of the last ack.
    positions: Vec<Position>,
}

impl State {
    fn confirmed(&mut self, ack: Option<AckResult>, talk: &mut impl Talk) {
        if let Some(AckResult::Subscribed(subscribed)) = ack {
            self.positions = subscribed
                .positions
                .into_iter()
                .map(|start| Position { stream: start.stream, epoch: start.epoch, offset: start.offset })
                .collect();
        }
        self.due = self.due.saturating_sub(1);
        if self.due == 0 {
            talk.ready();
        }
    }
}

impl Adapter for TidegateBincode {
    type State = State;

    fn upgrade(&self, role: Role<'_>) -> (String, Option<&'static str>) {
        let path = match role {
            // Nothing to be encoded but the one wildcard that no URL holds.
            Role::Subscriber(filters) if self.by_url => {
                format!("/ws?subscribe={}", filters.join("&subscribe=").replace('>', "%3E"))
            }
            _ => "/ws".into(),
        };
        (path, Some(Codec::Bincode.subprotocol()))
    }

    fn opcode(&self) -> u8 {
        websocket::BINARY
    }

    fn open(&self, state: &mut State, role: Role<'_>, talk: &mut impl Talk) -> Result<(), Fault> {
        let (filters, from) = match role {
            Role::Subscriber(filters) if self.by_url => {
                state.due = filters.len();
                return Ok(());
            }
            // The positions are not there yet when the URL is made.
            Role::Returning(_) if self.by_url => return Err(Fault::NoResume),
            Role::Subscriber(filters) => (filters, From::Live),
            Role::Returning(filters) => (filters, From::Positions(state.positions.clone())),
            // Ready only with the pong: an upgraded socket may still be refused.
            Role::Publisher(_) => {
                let mut bytes = Vec::new();
                Codec::Bincode.encode_client(&ClientFrame::Ping { id: 1 }, &mut bytes);
                talk.send(&bytes);
                (&[][..], From::Live)
            }
        };
        state.due = filters.len().max(1);
        // Below the broker's bound on a message.
        for (chunk, filters) in filters.chunks(100).enumerate() {
            let mut bytes = Vec::new();
            for (index, filter) in filters.iter().enumerate() {
                let frame = ClientFrame::Subscribe(Subscribe {
                    id: (chunk * 100 + index + 1) as u64,
                    filter: Filter::parse(filter).map_err(|error| Fault::Told(error.to_string()))?,
                    from: from.clone(),
                    overflow: None,
                    limit: None,
                    limit_bytes: None,
                    credit: None,
                    echo: true,
                });
                Codec::Bincode.encode_client(&frame, &mut bytes);
            }
            talk.send(&bytes);
        }
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], out: &mut Vec<u8>) {
        let Ok(topic) = Topic::parse(topic) else { unreachable!("subscribing to {topic:?} had failed") };
        let frame = ClientFrame::Publish(Publish {
            id: None,
            topic,
            payload: Payload::binary(payload.to_vec()),
            key: None,
            headers: Vec::new(),
            idempotency: None,
            report: false,
        });
        Codec::Bincode.encode_client(&frame, out);
    }

    #[inline]
    fn receive(&self, state: &mut State, message: &[u8], talk: &mut impl Talk) -> Result<(), Fault> {
        let mut walk = Walk(message);
        while let Some(&tag) = walk.0.first() {
            if tag == MESSAGE {
                talk.deliver(walk.message().ok_or(Malformed("a message that ends too early"))?)?;
                continue;
            }
            // Control frames are rare enough for the whole decoder.
            let (frame, length) = tidegate_protocol::codec::bincode::decode_server(walk.0);
            match frame.map_err(|error| Fault::Told(format!("unreadable: {error}")))? {
                ServerFrame::Ack { result, .. } => state.confirmed(Some(result), talk),
                ServerFrame::Pong { .. } => state.confirmed(None, talk),
                ServerFrame::Mark(_) => {}
                other => return Err(Fault::Told(format!("{other:?}"))),
            }
            walk.skip(length).ok_or(Malformed("a frame that ends too early"))?;
        }
        Ok(())
    }
}

/// What is left of a WebSocket message.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    /// Steps over a `message` frame and gives its payload: tag, topic, stream?, offset?, prev?, time, kind, payload,
    /// key?, headers, sub?.
    #[inline]
    fn message(&mut self) -> Option<&'a [u8]> {
        self.skip(1)?;
        self.bytes()?;
        self.option(|walk| walk.bytes().map(drop))?;
        self.option(|walk| walk.integer().map(drop))?;
        self.option(|walk| walk.integer().map(drop))?;
        self.integer()?;
        self.integer()?;
        let payload = self.bytes()?;
        self.option(|walk| walk.bytes().map(drop))?;
        for _ in 0..self.integer()? {
            self.bytes()?;
            self.bytes()?;
        }
        self.option(|walk| walk.integer().map(drop))?;
        Some(payload)
    }

    #[inline]
    fn skip(&mut self, length: usize) -> Option<&'a [u8]> {
        let (skipped, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(skipped)
    }

    #[inline]
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.integer()?;
        self.skip(length.try_into().ok()?)
    }

    #[inline]
    fn option(&mut self, read: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        match self.skip(1)? {
            [0] => Some(()),
            _ => read(self),
        }
    }

    /// Up to 250 in the byte itself; 251, 252 and 253 say that 2, 4 or 8 bytes follow, the lowest first.
    #[inline]
    fn integer(&mut self) -> Option<u64> {
        let width = match self.skip(1)? {
            [251] => 2,
            [252] => 4,
            [253] => 8,
            [small @ 0..251] => return Some((*small).into()),
            _ => return None,
        };
        Some(self.skip(width)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::transcript::Transcript;

    #[test]
    fn the_walk_finds_what_the_codec_wrote() {
        let mut transcript = Transcript::default();
        let expected = transcript.messages(Codec::Bincode);
        TidegateBincode::by_frames()
            .receive(&mut State { due: 1, ..State::default() }, &transcript.bytes, &mut transcript.talk)
            .unwrap();
        assert_eq!(transcript.talk.delivered, expected);
        assert_eq!(transcript.talk.ready, 1);
    }

    #[test]
    fn by_url_the_filters_are_in_the_path_and_nothing_is_sent() {
        let filters = ["bench.1".to_owned(), "bench.>".to_owned()];
        let (adapter, role) = (TidegateBincode::by_url(), Role::Subscriber(&filters));
        assert_eq!(adapter.upgrade(role).0, "/ws?subscribe=bench.1&subscribe=bench.%3E");
        let (mut state, mut talk) = (State::default(), Transcript::default().talk);
        adapter.open(&mut state, role, &mut talk).unwrap();
        assert_eq!((state.due, talk.ready), (2, 0), "ready only with the acks");
        assert_eq!(adapter.upgrade(Role::Publisher("bench.1")).0, "/ws");
    }

    #[test]
    fn a_gap_or_an_error_ends_the_run() {
        for bytes in Transcript::refusals(Codec::Bincode) {
            let fault = TidegateBincode::by_frames().receive(
                &mut State { due: 1, ..State::default() },
                &bytes,
                &mut Transcript::default().talk,
            );
            assert!(matches!(fault, Err(Fault::Told(_))), "{fault:?}");
        }
    }

    #[test]
    fn a_message_cut_anywhere_is_a_fault() {
        let mut transcript = Transcript::default();
        transcript.messages(Codec::Bincode);
        let first = transcript.ends[0];
        for cut in 1..first {
            let talk = &mut Transcript::default().talk;
            assert!(
                TidegateBincode::by_frames()
                    .receive(&mut State { due: 1, ..State::default() }, &transcript.bytes[..cut], talk)
                    .is_err(),
                "cut at {cut}"
            );
        }
    }
}
