//! The messages of one tick, encoded once for each codec that a subscriber speaks.

use std::{ops::Range, sync::Arc};

use tidegate_protocol::Codec;

use crate::stream::Published;

/// A subscriber that keeps up holds ranges of serials into it; none outlives the flush.
#[derive(Debug, Default)]
pub struct Arena {
    /// The serial of the first message; serials count over the shard's life.
    base: u64,
    messages: Vec<Arc<Published>>,
    /// Where the newest burst begins.
    burst: usize,
    json: Encoded,
    bincode: Encoded,
}

#[derive(Debug, Default)]
struct Encoded {
    bytes: Vec<u8>,
    /// By serial; empty where nobody wanted the message in this codec.
    frames: Vec<Range<u32>>,
}

/// A tick's arena that grew beyond this gives its memory back.
const KEPT_BYTES: usize = 1 << 20;

impl Arena {
    /// Adds a burst of messages; the first one's serial.
    pub fn push<'a>(&mut self, messages: impl IntoIterator<Item = &'a Arc<Published>>) -> u64 {
        self.burst = self.messages.len();
        self.messages.extend(messages.into_iter().cloned());
        self.base + self.burst as u64
    }

    /// The serial the next message will have.
    pub fn next_serial(&self) -> u64 {
        self.base + self.messages.len() as u64
    }

    /// Encodes the newest burst, unless it is already.
    pub fn encode(&mut self, codec: Codec) {
        let encoded = match codec {
            Codec::Json => &mut self.json,
            Codec::Bincode => &mut self.bincode,
        };
        if encoded.frames.len() == self.messages.len() {
            return;
        }
        encoded.frames.resize(self.burst, 0..0);
        for message in &self.messages[self.burst..] {
            let start = encoded.bytes.len() as u32;
            codec.encode_message(&message.message, &mut encoded.bytes);
            encoded.frames.push(start..encoded.bytes.len() as u32);
        }
    }

    pub fn message(&self, serial: u64) -> &Arc<Published> {
        &self.messages[(serial - self.base) as usize]
    }

    /// The frame of a message that was encoded.
    pub fn frame(&self, codec: Codec, serial: u64) -> &[u8] {
        let encoded = self.of(codec);
        let range = &encoded.frames[(serial - self.base) as usize];
        &encoded.bytes[range.start as usize..range.end as usize]
    }

    /// What the frames take, in bytes.
    pub fn bytes(&self) -> usize {
        self.json.bytes.len() + self.bincode.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Ends the tick: no range is left.
    pub fn clear(&mut self) {
        self.base = self.next_serial();
        self.messages.clear();
        self.burst = 0;
        for encoded in [&mut self.json, &mut self.bincode] {
            encoded.frames.clear();
            encoded.bytes.clear();
            encoded.bytes.shrink_to(KEPT_BYTES);
        }
    }

    fn of(&self, codec: Codec) -> &Encoded {
        match codec {
            Codec::Json => &self.json,
            Codec::Bincode => &self.bincode,
        }
    }
}
