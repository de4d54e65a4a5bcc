//! One connection's burst: frames gathered into WebSocket messages, contiguous, for one write.

use std::ops::Range;

use tidegate_protocol::{Codec, limits::BURST_BYTES};

use crate::websocket::{Opcode, writer};

/// Several frames share a WebSocket message up to [`BURST_BYTES`]; a larger frame goes alone.
#[derive(Debug, Default)]
pub struct Cork {
    codec: Codec,
    bytes: Vec<u8>,
    frames: usize,
    /// Where each finished WebSocket message ends: in bytes and in frames.
    ends: Vec<(usize, usize)>,
    /// Where the unfinished one's payload begins.
    open: Option<usize>,
}

/// How much of a burst the kernel began.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    /// So many frames went out, or will with the rest.
    pub frames: usize,
    /// What is missing of a message that the kernel took a part of.
    pub rest: Range<usize>,
}

/// A head's length for a payload of at most [`BURST_BYTES`].
const HEAD: usize = 4;

impl Cork {
    /// Begins a burst.
    pub fn start(&mut self, codec: Codec) {
        self.codec = codec;
        self.bytes.clear();
        self.bytes.shrink_to(4 * BURST_BYTES);
        self.ends.clear();
        self.frames = 0;
        self.open = None;
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &[u8]) {
        let separator = self.codec.separator();
        match self.open {
            Some(open) if self.bytes.len() - open + separator.len() + frame.len() <= BURST_BYTES => {
                self.bytes.extend_from_slice(separator);
            }
            _ => {
                self.finish_message();
                if frame.len() > BURST_BYTES {
                    self.frames += 1;
                    let opcode = self.opcode();
                    writer::push_frame(&mut self.bytes, opcode, frame);
                    self.ends.push((self.bytes.len(), self.frames));
                    return;
                }
                self.bytes.extend_from_slice(&[0; HEAD]);
                self.open = Some(self.bytes.len());
            }
        }
        self.bytes.extend_from_slice(frame);
        self.frames += 1;
    }

    /// Ends the burst.
    pub fn finish(&mut self) {
        self.finish_message();
    }

    /// The bytes of a burst that has ended.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What is gathered so far, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// How many frames were gathered.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// What it means that the kernel took the first `taken` bytes.
    pub fn begun(&self, taken: usize) -> Begun {
        let at = self.ends.partition_point(|&(end, _)| end <= taken);
        let (whole, frames) = at.checked_sub(1).map_or((0, 0), |last| self.ends[last]);
        match self.ends.get(at) {
            Some(&(end, frames)) if taken > whole => Begun { frames, rest: taken..end },
            _ => Begun { frames, rest: taken..taken },
        }
    }

    fn finish_message(&mut self) {
        let Some(open) = self.open.take() else { return };
        let length = self.bytes.len() - open;
        let mut head = [0; writer::HEAD_BYTES];
        let used = writer::header(self.opcode(), length, &mut head);
        let start = open - HEAD;
        self.bytes[start..start + used].copy_from_slice(&head[..used]);
        if used < HEAD {
            // A short message has a short head (RFC 6455, section 5.2, wants the shortest).
            self.bytes.copy_within(open.., start + used);
            self.bytes.truncate(start + used + length);
        }
        self.ends.push((self.bytes.len(), self.frames));
    }

    fn opcode(&self) -> Opcode {
        match self.codec {
            Codec::Json => Opcode::Text,
            Codec::Bincode => Opcode::Binary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(frames: &[Vec<u8>]) -> Cork {
        let mut cork = Cork::default();
        cork.start(Codec::Json);
        frames.iter().for_each(|frame| cork.push(frame));
        cork.finish();
        cork
    }

    #[test]
    fn small_frames_share_a_message_and_a_large_one_goes_alone() {
        let cork = burst(&[vec![b'a'; 3], vec![b'b'; 2], vec![b'c'; BURST_BYTES + 1], vec![b'd'; 1]]);
        let mut expected = b"\x81\x06aaa\nbb".to_vec();
        expected.extend_from_slice(&[0x81, 126, 0x40, 0x01]);
        expected.extend_from_slice(&vec![b'c'; BURST_BYTES + 1]);
        expected.extend_from_slice(b"\x81\x01d");
        assert_eq!(cork.bytes(), expected);
    }

    #[test]
    fn a_burst_is_cut_at_sixteen_kibibytes() {
        let cork = burst(&vec![vec![b'x'; 1000]; 40]);
        let lengths: Vec<_> = cork.ends.iter().map(|&(end, frames)| (end, frames)).collect();
        assert_eq!(lengths.iter().map(|&(_, frames)| frames).collect::<Vec<_>>(), [16, 32, 40]);
        assert_eq!(lengths[0].0, 4 + 16 * 1000 + 15);
    }

    #[test]
    fn a_message_the_kernel_took_a_byte_of_must_be_finished_and_the_next_was_not_begun() {
        let cork = burst(&vec![vec![b'x'; 1000]; 40]);
        let first = cork.ends[0].0;
        assert_eq!(cork.begun(0), Begun { frames: 0, rest: 0..0 });
        assert_eq!(cork.begun(1), Begun { frames: 16, rest: 1..first });
        assert_eq!(cork.begun(first), Begun { frames: 16, rest: first..first });
        assert_eq!(cork.begun(first + 1), Begun { frames: 32, rest: first + 1..cork.ends[1].0 });
        let all = cork.bytes().len();
        assert_eq!(cork.begun(all), Begun { frames: 40, rest: all..all });
    }
}
