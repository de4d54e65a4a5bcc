//! As much of chunked transfer coding (RFC 9112, section 7.1) and of event streams as a load generator needs, without
//! sockets.

use memchr::memmem;

use crate::websocket::{self, Malformed};

/// A chunk is refused beyond this, in bytes.
const MAX_CHUNK: usize = 1 << 20;

/// What asks for an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Method and target.
    pub line: String,
    /// Nothing for a GET.
    pub body: String,
}

impl Request {
    /// The request as it is sent.
    pub fn write(&self, host: &str) -> String {
        let Self { line, body } = self;
        format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }
}

/// What comes after the head of the answer; `None` until it is whole.
///
/// # Errors
/// It is not 200 with a chunked event stream.
pub fn check_answer(bytes: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some((head, rest)) = websocket::split_head(bytes)? else { return Ok(None) };
    let says = |name, value: &str| websocket::header(head, name).is_some_and(|said| said.starts_with(value));
    if !head.starts_with("HTTP/1.1 200 ") || !says("content-type", "text/event-stream") {
        return Err(Malformed("the answer is no event stream"));
    }
    if !says("transfer-encoding", "chunked") {
        return Err(Malformed("the answer is not chunked"));
    }
    Ok(Some(rest))
}

/// A chunk's data, and what comes after it.
pub type Chunk<'a> = (&'a [u8], &'a [u8]);

/// Splits a chunk's data from what comes after it; `None` until it is whole. The last chunk is empty.
///
/// # Errors
/// It is no chunk, or too large.
#[inline]
pub fn split_chunk(bytes: &[u8]) -> Result<Option<Chunk<'_>>, Malformed> {
    const NONE: Malformed = Malformed("not a chunk");
    let Some(head) = memmem::find(&bytes[..bytes.len().min(16)], b"\r\n") else {
        return if bytes.len() < 16 { Ok(None) } else { Err(NONE) };
    };
    let digits = std::str::from_utf8(&bytes[..head]).map_err(|_| NONE)?;
    let length = usize::from_str_radix(digits, 16).map_err(|_| NONE)?;
    if length > MAX_CHUNK {
        return Err(Malformed("a chunk is too large"));
    }
    let Some((data, rest)) = bytes[head + 2..].split_at_checked(length) else { return Ok(None) };
    match rest {
        [b'\r', b'\n', rest @ ..] => Ok(Some((data, rest))),
        [] | [b'\r'] => Ok(None),
        _ => Err(NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_waits_until_it_is_whole() {
        let bytes = b"1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
        let end = bytes.len() - 5;
        for part in 0..end {
            assert_eq!(split_chunk(&bytes[..part]), Ok(None), "{part}");
        }
        let (data, rest) = split_chunk(bytes).unwrap().unwrap();
        assert_eq!(data, b"abcdefghijklmnopqrstuvwxyz");
        assert_eq!(split_chunk(rest), Ok(Some((&b""[..], &b""[..]))));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for bytes in [&b"x\r\n"[..], b"\r\n", b"1\r\nab\r\n", b"fffffff\r\n", b"0123456789012345"] {
            assert!(split_chunk(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn only_a_chunked_event_stream_will_do() {
        let answer = |status, kind, coding| {
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nTransfer-Encoding: {coding}\r\n\r\n5")
        };
        let right = answer("200 OK", "text/event-stream", "chunked");
        assert_eq!(check_answer(right.as_bytes()), Ok(Some(&b"5"[..])));
        assert_eq!(check_answer(&right.as_bytes()[..40]), Ok(None));
        for wrong in [
            answer("503 Service Unavailable", "text/event-stream", "chunked"),
            answer("200 OK", "application/json", "chunked"),
            answer("200 OK", "text/event-stream", "gzip"),
        ] {
            assert!(check_answer(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
