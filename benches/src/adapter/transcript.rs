//! What a broker may write to a subscriber, by the codecs themselves: the adapters' walks are tested against it.

use tidegate_protocol::{
    Codec, ErrorCode, Message, Payload, ServerFrame, Topic,
    frame::{AckResult, ErrorFrame, Gap, GapReason, Mark, Overflow},
};

use super::{Fault, Talk};
use crate::payload::{Shape, Stamp};

/// Bytes of every payload.
pub const SIZE: usize = 64;

/// One WebSocket message, and a talk that remembers.
#[derive(Default)]
pub struct Transcript {
    pub bytes: Vec<u8>,
    /// Where each frame ends.
    pub ends: Vec<usize>,
    pub talk: Remembering,
}

#[derive(Default)]
pub struct Remembering {
    pub delivered: Vec<Vec<u8>>,
    pub ready: usize,
}

impl Talk for Remembering {
    fn deliver(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.delivered.push(payload.to_vec());
        Ok(())
    }

    fn send(&mut self, _message: &[u8]) {}

    fn ready(&mut self) {
        self.ready += 1;
    }
}

impl Transcript {
    /// Writes messages of every form, with an ack and a mark between them, and returns their payloads.
    pub fn messages(&mut self, codec: Codec) -> Vec<Vec<u8>> {
        let shape = Shape::new(SIZE).unwrap();
        let plain = |sequence| Message {
            topic: Topic::parse("bench.load").unwrap(),
            stream: None,
            offset: None,
            prev: None,
            time: 1_790_000_000_123,
            payload: Payload::json(&shape.payload(Stamp { flow: 3, sequence })).unwrap(),
            key: None,
            headers: Vec::new(),
            sub: None,
        };
        let messages = [
            plain(0),
            Message { offset: Some(7), ..plain(1) },
            Message { offset: Some(300), prev: Some(70_000), ..plain(2) },
            Message { stream: Some("orders".into()), offset: Some(1 << 40), prev: Some(250), ..plain(3) },
            Message { key: Some("k".into()), headers: vec![("a".into(), "b".into())], ..plain(4) },
            Message { offset: Some(9), sub: Some(2), ..plain(5) },
        ];
        for message in &messages {
            self.frame(codec, &ServerFrame::Message(message.clone()));
        }
        self.frame(codec, &ServerFrame::Ack { id: 1, result: AckResult::Done });
        self.frame(codec, &ServerFrame::Mark(Mark::default()));
        self.frame(codec, &ServerFrame::Message(plain(6)));
        (0..7).map(|sequence| shape.payload(Stamp { flow: 3, sequence })).collect()
    }

    /// WebSocket messages after which no figure can stand.
    pub fn refusals(codec: Codec) -> Vec<Vec<u8>> {
        let gap = Gap {
            sub: 1,
            stream: None,
            topic: None,
            count: Some(3),
            at_most: None,
            from: Some(5),
            to: Some(7),
            reason: GapReason::Overflow,
            policy: Overflow::DropOldest,
        };
        let error = ErrorFrame { id: Some(1), code: ErrorCode::PayloadTooLarge, message: "too large".into() };
        [ServerFrame::Gap(gap), ServerFrame::Error(error), ServerFrame::Drain { reconnect_ms: 5 }]
            .iter()
            .map(|frame| {
                let mut bytes = Vec::new();
                codec.encode_server(frame, &mut bytes);
                bytes
            })
            .collect()
    }

    fn frame(&mut self, codec: Codec, frame: &ServerFrame) {
        if !self.bytes.is_empty() {
            self.bytes.extend_from_slice(codec.separator());
        }
        codec.encode_server(frame, &mut self.bytes);
        self.ends.push(self.bytes.len());
    }
}
