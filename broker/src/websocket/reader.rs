//! The frame reader: bytes as they came from a client's socket in, whole messages and control frames out.
//!
//! It keeps nothing between messages, copies nothing of a frame that arrived whole, and can be stopped after any byte.
//! Memory grows with what has arrived, never with what a head announces.

use std::ops::ControlFlow;

use tidegate_protocol::CloseCode;

use super::{
    Kind, Opcode,
    utf8::{NotUtf8, Utf8},
    writer::CONTROL_BYTES,
};

/// Bounds on what one client may send in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderLimits {
    /// A message over all its fragments, in bytes; beyond it the connection ends with 1009, as soon as a head announces
    /// it.
    pub max_message_bytes: usize,
    /// The frames of one message, empty ones too; beyond it the connection ends with 1008.
    pub max_fragments: u32,
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole data message. Text is UTF-8. The bytes are the caller's to change.
    Message {
        /// What it holds.
        kind: Kind,
        /// Its payload, over all its fragments.
        data: &'a mut [u8],
    },
    /// A ping, at most 125 bytes, to be answered with a pong of the same bytes.
    Ping(&'a [u8]),
    /// A pong, at most 125 bytes.
    Pong(&'a [u8]),
    /// The client will send nothing more: code and reason, if it gave any. What follows is ignored.
    Close(Option<u16>, &'a str),
}

/// What a client did that its connection does not survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", .code.number())]
pub struct Violation {
    /// 1002, 1007, 1008 or 1009.
    pub code: CloseCode,
    /// Which rule, for the client's developer; at most 123 bytes.
    pub reason: &'static str,
}

/// Reads one client's frames (RFC 6455, section 5).
///
/// Sixteen bytes while no message is under way.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// What has come of a frame or message that is not complete.
    held: Option<Box<Held>>,
    /// A close frame or a violation came: nothing after it means anything.
    finished: bool,
}

/// What has come of a frame or message that is not complete.
#[derive(Debug, Default)]
struct Held {
    /// The beginning of a frame's head.
    head: Pieces<HEAD_BYTES>,
    /// The frame whose head is complete and whose payload is not.
    frame: Option<Frame>,
    /// The payload of a control frame so far.
    control: Pieces<CONTROL_BYTES>,
    /// The data message so far.
    message: Option<Message>,
}

/// A frame amid its payload.
#[derive(Debug, Clone, Copy)]
struct Frame {
    head: Head,
    /// How many bytes of its payload came.
    read: usize,
}

/// A data message amid its bytes or its fragments.
#[derive(Debug)]
struct Message {
    kind: Kind,
    utf8: Utf8,
    /// Frames so far, the one under way too.
    fragments: u32,
    data: Vec<u8>,
}

/// The longest head of a client's frame: two bytes, eight of length, four of mask.
const HEAD_BYTES: usize = 14;

impl FrameReader {
    /// A reader at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they came from the socket, unmasks them in place and calls `on` for each event, in order.
    ///
    /// Returns how many bytes were used: all of them, unless `on` breaks; then those up to the end of that event, and
    /// the rest is untouched, to be fed again later.
    ///
    /// # Errors
    ///
    /// The rule that the client broke. Events before it were given. Whatever is fed from then on is ignored.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        limits: &ReaderLimits,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<usize, Violation> {
        let fed = self.read(input, limits, on);
        if fed.is_err() {
            self.finish();
        }
        fed
    }

    /// The bytes it holds of a message that is not complete, for a budget of memory.
    pub fn buffered(&self) -> usize {
        self.held.as_ref().map_or(0, |held| {
            size_of::<Held>() + held.message.as_ref().map_or(0, |message| message.data.capacity())
        })
    }

    fn read(
        &mut self,
        input: &mut [u8],
        limits: &ReaderLimits,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<usize, Violation> {
        let mut used = 0;
        while used < input.len() && !self.finished {
            let Some(frame) = self.next_frame(&input[used..], &mut used, limits)? else {
                break;
            };
            let wanted = frame.head.len - frame.read;
            let end = used + wanted.min(input.len() - used);
            let payload = &mut input[used..end];
            used = end;
            let flow = if payload.len() == wanted {
                self.end_frame(frame, payload, on)?
            } else {
                self.hold(frame, payload)?;
                ControlFlow::Continue(())
            };
            if flow.is_break() {
                return Ok(used);
            }
        }
        Ok(input.len())
    }

    /// The frame under way, or the next one once its head is complete. Adds the bytes of the head to `used`.
    fn next_frame(
        &mut self,
        rest: &[u8],
        used: &mut usize,
        limits: &ReaderLimits,
    ) -> Result<Option<Frame>, Violation> {
        if let Some(held) = &mut self.held {
            if let Some(frame) = held.frame.take() {
                return Ok(Some(frame));
            }
            if !held.head.is_empty() {
                let before = held.head.len();
                held.head.fill(rest);
                let parsed = Head::parse(held.head.as_slice())?;
                let Some((head, len)) = parsed else {
                    return Ok(None);
                };
                held.head.clear();
                *used += len - before;
                return self.begin_frame(head, limits).map(Some);
            }
        }
        match Head::parse(rest)? {
            Some((head, len)) => {
                *used += len;
                self.begin_frame(head, limits).map(Some)
            }
            None => {
                self.held.get_or_insert_default().head.fill(rest);
                Ok(None)
            }
        }
    }

    /// Whether this frame may come here, before any byte of its payload is taken.
    fn begin_frame(&mut self, head: Head, limits: &ReaderLimits) -> Result<Frame, Violation> {
        let frame = Frame { head, read: 0 };
        if head.opcode.is_control() {
            return Ok(frame);
        }
        let message = self.held.as_mut().and_then(|held| held.message.as_mut());
        let held = match (head.opcode, message) {
            (Opcode::Continuation, None) => return Err(violation("continuation of no message")),
            (Opcode::Continuation, Some(message)) => {
                message.fragments += 1;
                if message.fragments > limits.max_fragments {
                    return Err(Violation { code: CloseCode::PolicyViolation, reason: "too many fragments" });
                }
                message.data.len()
            }
            (_, Some(_)) => return Err(violation("new message amid a fragmented one")),
            (_, None) => 0,
        };
        if limits.max_message_bytes.checked_sub(held).is_none_or(|room| head.len > room) {
            return Err(Violation { code: CloseCode::TooBig, reason: CloseCode::TooBig.reason() });
        }
        Ok(frame)
    }

    /// The rest of the frame's payload is here.
    fn end_frame(
        &mut self,
        frame: Frame,
        payload: &mut [u8],
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Violation> {
        if frame.head.opcode.is_control() {
            return self.end_control(frame, payload, on);
        }
        let begun = self.held.as_ref().is_some_and(|held| held.message.is_some());
        if !begun && frame.head.fin {
            // The path of nearly every message: one frame, whole in the input, handed out where it lies.
            frame.unmask(payload);
            let kind = frame.head.kind();
            if kind == Kind::Text && std::str::from_utf8(payload).is_err() {
                return Err(NotUtf8.into());
            }
            self.held = None;
            return Ok(on(Event::Message { kind, data: payload }));
        }
        self.take_data(frame, payload)?;
        if !frame.head.fin {
            return Ok(ControlFlow::Continue(()));
        }
        let Some(Message { kind, utf8, mut data, .. }) = self.held.take().and_then(|held| held.message)
        else {
            return Ok(ControlFlow::Continue(()));
        };
        utf8.finish()?;
        Ok(on(Event::Message { kind, data: &mut data }))
    }

    /// The rest of a control frame's payload is here. It may stand amid a message, which it leaves alone.
    fn end_control(
        &mut self,
        frame: Frame,
        payload: &mut [u8],
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Violation> {
        frame.unmask(payload);
        let whole;
        let mut payload = &*payload;
        if frame.read > 0
            && let Some(held) = &mut self.held
        {
            held.control.fill(payload);
            whole = std::mem::take(&mut held.control);
            payload = whole.as_slice();
        }
        self.release();
        match frame.head.opcode {
            Opcode::Ping => Ok(on(Event::Ping(payload))),
            Opcode::Pong => Ok(on(Event::Pong(payload))),
            _ => {
                let (code, reason) = close_payload(payload)?;
                self.finish();
                Ok(on(Event::Close(code, reason)))
            }
        }
    }

    /// Keeps a part of a frame's payload, the last there is for now.
    fn hold(&mut self, mut frame: Frame, payload: &mut [u8]) -> Result<(), Violation> {
        if frame.head.opcode.is_control() {
            frame.unmask(payload);
            self.held.get_or_insert_default().control.fill(payload);
        } else {
            self.take_data(frame, payload)?;
        }
        frame.read += payload.len();
        self.held.get_or_insert_default().frame = Some(frame);
        Ok(())
    }

    /// Unmasks, checks and keeps a part of a data message.
    fn take_data(&mut self, frame: Frame, payload: &mut [u8]) -> Result<(), Violation> {
        frame.unmask(payload);
        let message = self.held.get_or_insert_default().message.get_or_insert_with(|| Message {
            kind: frame.head.kind(),
            utf8: Utf8::default(),
            fragments: 1,
            data: Vec::new(),
        });
        if message.kind == Kind::Text {
            message.utf8.push(payload)?;
        }
        let needed = message.data.len() + payload.len();
        if needed > message.data.capacity() {
            // Doubles with what has arrived, but not beyond the message's end where that is known.
            let rest = if frame.head.fin { frame.head.len - frame.read } else { usize::MAX };
            let most = message.data.len().saturating_add(rest);
            let capacity = needed.max(most.min(2 * message.data.capacity()));
            message.data.reserve_exact(capacity - message.data.len());
        }
        message.data.extend_from_slice(payload);
        Ok(())
    }

    /// Lets go of the memory that no message needs any longer.
    fn release(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.message.is_none()) {
            self.held = None;
        }
    }

    fn finish(&mut self) {
        self.held = None;
        self.finished = true;
    }
}

impl Frame {
    /// Unmasks the part of the payload that begins after the `read` bytes before it.
    fn unmask(&self, part: &mut [u8]) {
        let mut mask = self.head.mask;
        mask.rotate_left(self.read % 4);
        fastwebsockets::unmask(part, mask);
    }
}

/// A client frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    opcode: Opcode,
    fin: bool,
    len: usize,
    mask: [u8; 4],
}

impl Head {
    /// The head at the beginning of `bytes` and its length, once it is complete. What no further byte could mend is told
    /// at once.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(violation("reserved bit set, and no extension was agreed on"));
        }
        let fin = first & 0x80 != 0;
        let opcode = match first & 0x0f {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return Err(violation("unknown opcode")),
        };
        if opcode.is_control() && !fin {
            return Err(violation("fragmented control frame"));
        }
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(violation("frame of a client not masked"));
        }
        let short = second & 0x7f;
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES {
            return Err(violation("control frame longer than 125 bytes"));
        }
        let (len, at) = match short {
            126 => match bytes.get(2..).and_then(|rest| rest.first_chunk()) {
                Some(&len) => (u64::from(u16::from_be_bytes(len)), 4),
                None => return Ok(None),
            },
            127 => match bytes.get(2..).and_then(|rest| rest.first_chunk()) {
                Some(&len) => (u64::from_be_bytes(len), 10),
                None => return Ok(None),
            },
            _ => (u64::from(short), 2),
        };
        if (short == 126 && len <= 125) || (short == 127 && len <= u64::from(u16::MAX)) {
            return Err(violation("length not in its shortest form"));
        }
        if len >> 63 != 0 {
            return Err(violation("length with its highest bit set"));
        }
        let Some(&mask) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        // A length that no address space holds is beyond every bound anyway.
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Ok(Some((Self { opcode, fin, len, mask }, at + mask.len())))
    }

    fn kind(self) -> Kind {
        if self.opcode == Opcode::Text { Kind::Text } else { Kind::Binary }
    }
}

/// The code and reason of a close frame (RFC 6455, sections 5.5.1 and 7.4).
fn close_payload(payload: &[u8]) -> Result<(Option<u16>, &str), Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok((None, "")),
            _ => Err(violation("close frame of one byte")),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1011 | 3000..=4999) {
        return Err(violation("close code that may not be sent"));
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ok((Some(code), reason)),
        Err(_) => Err(NotUtf8.into()),
    }
}

fn violation(reason: &'static str) -> Violation {
    Violation { code: CloseCode::ProtocolError, reason }
}

impl From<NotUtf8> for Violation {
    fn from(NotUtf8: NotUtf8) -> Self {
        Self { code: CloseCode::InvalidText, reason: CloseCode::InvalidText.reason() }
    }
}

/// At most `N` bytes that came in pieces.
#[derive(Debug, Clone, Copy)]
struct Pieces<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Pieces<N> {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    fn len(&self) -> usize {
        usize::from(self.len)
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes as much of `from` as there is room for.
    fn fill(&mut self, from: &[u8]) {
        let at = self.len();
        let taken = from.len().min(N - at);
        self.bytes[at..at + taken].copy_from_slice(&from[..taken]);
        self.len += taken as u8;
    }
}

impl<const N: usize> Default for Pieces<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

const _: () = assert!(size_of::<FrameReader>() <= 32, "there is one for each connection");
