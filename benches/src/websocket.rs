//! As much of RFC 6455 as a load generator and a bare server need, without sockets.

use base64::Engine as _;
use sha1::{Digest, Sha1};

/// A continuation of a fragmented message.
pub const CONTINUATION: u8 = 0;
/// A text message.
pub const TEXT: u8 = 1;
/// A binary message.
pub const BINARY: u8 = 2;
/// The close frame.
pub const CLOSE: u8 = 8;
/// A ping, to be answered with a pong of the same payload.
pub const PING: u8 = 9;
/// A pong.
pub const PONG: u8 = 10;

/// The key of every upgrade request: the sample of RFC 6455 section 1.3, so that a client knows the answer.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The mask of every client frame. Not zero, so that no server can skip the unmasking.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// An upgrade's head is refused beyond this, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;
/// A frame's payload is refused beyond this, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// Bytes that are not what RFC 6455 allows, or that pass a bound of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the message ends with this frame.
    pub fin: bool,
    /// What it is.
    pub opcode: u8,
    /// How the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// Bytes before the payload.
    pub head: usize,
    /// Bytes of the payload.
    pub length: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` until it is whole.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Malformed("reserved bits are set and no extension was asked for"));
        }
        let (extended, length) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (2, u64::from(u16::from_be_bytes([*a, *b]))),
            (127, rest) => match rest.first_chunk() {
                Some(bytes) => (8, u64::from_be_bytes(*bytes)),
                None => return Ok(None),
            },
            (126, _) => return Ok(None),
            (short, _) => (0, u64::from(short)),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(Malformed("a frame is too large"));
        }
        let mask = if second & 0x80 == 0 {
            None
        } else {
            match rest[extended..].first_chunk() {
                Some(mask) => Some(*mask),
                None => return Ok(None),
            }
        };
        let head = 2 + extended + if mask.is_some() { 4 } else { 0 };
        Ok(Some(Self { fin: first & 0x80 != 0, opcode: first & 0x0f, mask, head, length }))
    }

    /// Bytes of the whole frame.
    pub fn total(&self) -> usize {
        self.head + self.length
    }

    /// Appends the header to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        out.push(if self.fin { 0x80 } else { 0 } | self.opcode);
        match self.length {
            0..126 => out.push(masked | self.length as u8),
            126..=0xffff => {
                out.push(masked | 126);
                out.extend_from_slice(&(self.length as u16).to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend_from_slice(&(self.length as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[], |mask| &mask[..]));
    }
}

/// Appends a whole client message in one frame, masked with [`MASK`].
pub fn write_client(out: &mut Vec<u8>, opcode: u8, message: &[u8]) {
    Header { fin: true, opcode, mask: Some(MASK), head: 0, length: message.len() }.write(out);
    out.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends a whole server message in one frame.
pub fn write_server(out: &mut Vec<u8>, opcode: u8, message: &[u8]) {
    Header { fin: true, opcode, mask: None, head: 0, length: message.len() }.write(out);
    out.extend_from_slice(message);
}

/// Takes the mask off `payload`, or puts it on.
pub fn mask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A client's request to upgrade `path`.
pub fn upgrade_request(host: &str, path: &str, subprotocol: Option<&str>) -> String {
    let subprotocol =
        subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{subprotocol}\r\n"
    )
}

/// A server's answer to the key of a request.
pub fn upgrade_response(key: &str) -> String {
    let digest =
        Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// Splits an HTTP head, with its empty line, from what comes after it; `None` until it is whole.
pub fn split_head(bytes: &[u8]) -> Result<Option<(&str, &[u8])>, Malformed> {
    match memchr::memmem::find(bytes, b"\r\n\r\n") {
        Some(end) => {
            let (head, rest) = bytes.split_at(end + 4);
            Ok(Some((std::str::from_utf8(head).map_err(|_| Malformed("a head is not UTF-8"))?, rest)))
        }
        None if bytes.len() > MAX_HEAD => Err(Malformed("a head is too large")),
        None => Ok(None),
    }
}

/// The value of a header in an HTTP head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_key_has_the_answer_of_the_rfc() {
        assert_eq!(header(&upgrade_response(KEY), "sec-websocket-accept"), Some(ACCEPT));
    }

    #[test]
    fn a_header_reads_back_as_it_was_written_and_waits_until_it_is_whole() {
        for length in [0, 125, 126, 65_535, 65_536, MAX_FRAME] {
            for mask in [None, Some(MASK)] {
                let mut bytes = Vec::new();
                Header { fin: true, opcode: BINARY, mask, head: 0, length }.write(&mut bytes);
                for part in 0..bytes.len() {
                    assert_eq!(
                        Header::read(&bytes[..part]),
                        Ok(None),
                        "{part} bytes of a header of {length}"
                    );
                }
                let expected = Header { fin: true, opcode: BINARY, mask, head: bytes.len(), length };
                assert_eq!(Header::read(&bytes), Ok(Some(expected)));
            }
        }
    }

    #[test]
    fn a_frame_beyond_the_bound_is_refused() {
        let mut bytes = Vec::new();
        Header { fin: true, opcode: BINARY, mask: None, head: 0, length: MAX_FRAME + 1 }.write(&mut bytes);
        assert!(Header::read(&bytes).is_err());
    }

    #[test]
    fn a_client_message_unmasks_to_itself() {
        let mut bytes = Vec::new();
        write_client(&mut bytes, TEXT, b"hello, tide");
        let header = Header::read(&bytes).unwrap().unwrap();
        let mut payload = bytes[header.head..].to_vec();
        mask(&mut payload, header.mask.unwrap());
        assert_eq!(payload, b"hello, tide");
    }
}
