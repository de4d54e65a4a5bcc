//! The control lane: replies and notices, in order, never dropped, ahead of all data.

use std::collections::VecDeque;

use tidegate_protocol::{Codec, ServerFrame};

/// Encoded frames that wait. It exists only while there are any.
#[derive(Debug, Default)]
pub struct Control {
    bytes: Vec<u8>,
    frames: VecDeque<Frame>,
}

#[derive(Debug)]
struct Frame {
    length: u32,
    what: What,
}

/// What a control frame is, as far as its writing matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The ack of a publish with so many payload bytes: its writing makes room in the publish window.
    PublishAck(u32),
    /// At most one waits.
    Mark,
    Other,
}

impl Control {
    pub fn push(&mut self, codec: Codec, frame: &ServerFrame, what: What) {
        let start = self.bytes.len();
        codec.encode_server(frame, &mut self.bytes);
        self.frames.push_back(Frame { length: (self.bytes.len() - start) as u32, what });
    }

    pub fn has_mark(&self) -> bool {
        self.frames.iter().any(|frame| frame.what == What::Mark)
    }

    /// What waits, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// The waiting frames, in order.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.frames.iter().map(move |frame| {
            let end = start + frame.length as usize;
            let bytes = &self.bytes[start..end];
            start = end;
            bytes
        })
    }

    /// The first `count` frames were written.
    pub fn written(&mut self, count: usize, mut each: impl FnMut(What)) {
        let mut length = 0;
        for frame in self.frames.drain(..count) {
            length += frame.length as usize;
            each(frame.what);
        }
        self.bytes.drain(..length);
    }
}
