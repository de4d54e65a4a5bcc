//! What the server sends: frame heads (never masked, RFC 6455, section 5.1) and control frames.

use super::Kind;

/// The longest payload of a control frame, in bytes (RFC 6455, section 5.5).
pub const CONTROL_BYTES: usize = 125;
/// The longest reason of a close frame, in bytes: a control frame less two bytes of code.
pub const REASON_BYTES: usize = CONTROL_BYTES - 2;
/// The longest head of a frame that the server sends, in bytes.
pub const HEAD_BYTES: usize = 10;

/// What a frame is (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a data message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The sender will send nothing more.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping, or says unasked that the sender lives.
    Pong = 0xA,
}

impl Opcode {
    /// Whether it is one of the control frames, which may stand amid a fragmented message.
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

impl From<Kind> for Opcode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text,
            Kind::Binary => Self::Binary,
        }
    }
}

/// Writes the head of an unfragmented frame with `len` bytes of payload into `head`; says how long the head is.
pub fn header(opcode: Opcode, len: usize, head: &mut [u8; HEAD_BYTES]) -> usize {
    const FIN: u8 = 0x80;
    head[0] = FIN | opcode as u8;
    if len <= 125 {
        head[1] = len as u8;
        2
    } else if let Ok(short) = u16::try_from(len) {
        head[1] = 126;
        head[2..4].copy_from_slice(&short.to_be_bytes());
        4
    } else {
        head[1] = 127;
        head[2..10].copy_from_slice(&(len as u64).to_be_bytes());
        10
    }
}

/// Appends a whole unfragmented frame. A control frame's payload must be at most [`CONTROL_BYTES`].
pub fn push_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    debug_assert!(!opcode.is_control() || payload.len() <= CONTROL_BYTES);
    let mut head = [0; HEAD_BYTES];
    let used = header(opcode, payload.len(), &mut head);
    out.reserve(used + payload.len());
    out.extend_from_slice(&head[..used]);
    out.extend_from_slice(payload);
}

/// Appends a close frame. A reason longer than [`REASON_BYTES`] is cut where a character ends; without a code there is
/// no reason either.
pub fn push_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let Some(code) = code else {
        return push_frame(out, Opcode::Close, &[]);
    };
    let mut end = reason.len().min(REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    out.extend_from_slice(&[0x80 | Opcode::Close as u8, 2 + reason.len() as u8]);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_their_shortest_form() {
        let head = |len| {
            let mut head = [0; HEAD_BYTES];
            let used = header(Opcode::Binary, len, &mut head);
            head[..used].to_vec()
        };
        assert_eq!(head(0), [0x82, 0]);
        assert_eq!(head(125), [0x82, 125]);
        assert_eq!(head(126), [0x82, 126, 0, 126]);
        assert_eq!(head(65_535), [0x82, 126, 0xff, 0xff]);
        assert_eq!(head(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_long_reason_is_cut_where_a_character_ends() {
        let mut out = Vec::new();
        push_close(&mut out, Some(4009), &"é".repeat(100));
        assert_eq!(out.len(), 2 + 2 + 122);
        assert_eq!(out[..4], [0x88, 124, 0x0f, 0xa9]);
        assert_eq!(std::str::from_utf8(&out[4..]), Ok("é".repeat(61).as_str()));
    }

    #[test]
    fn a_close_without_a_code_has_no_payload() {
        let mut out = Vec::new();
        push_close(&mut out, None, "ignored");
        assert_eq!(out, [0x88, 0]);
    }
}
