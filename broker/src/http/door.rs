//! The short way in: a request that came whole in the first read of its socket, and becomes a WebSocket, is answered
//! where it was read. No I/O.
//!
//! The rules are those of every request, the same functions. Whatever is refused, not whole or out of the ordinary is
//! `None` here: it goes to hyper with its bytes, which answers it as it would have anyway.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{
    Method, Request, Uri,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use sha1::{Digest as _, Sha1};

use super::{Admitted, HEAD_BYTES, Site, check, upgrade};

/// A request that has become a WebSocket.
#[derive(Debug)]
pub struct Opened {
    /// What it came to.
    pub admitted: Admitted,
    /// How long the request was, in bytes: behind it the client's frames begin.
    pub head: usize,
}

/// Headers of a request that is answered here. A browser sends 15 or so.
const HEADERS: usize = 32;
/// What a server makes of the client's key (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Appends the answer to the request that `bytes` begin with, where it is one to become a WebSocket, whole and welcome.
pub fn open(bytes: &[u8], site: &Site, answer: &mut Vec<u8>) -> Option<Opened> {
    let (request, head) = parse(bytes)?;
    check(&request, site).ok()?;
    let asked = upgrade::check(&request, &site.origins).ok()?;
    let admission = (site.admit)().ok()?;
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY)?;
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    // Base64 of 20 bytes.
    let mut accept = [0; 28];
    STANDARD.encode_slice(digest, &mut accept).ok()?;
    answer.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ",
    );
    answer.extend_from_slice(&accept);
    if let Some(codec) = asked.codec {
        answer.extend_from_slice(b"\r\nsec-websocket-protocol: ");
        answer.extend_from_slice(codec.subprotocol().as_bytes());
    }
    answer.extend_from_slice(b"\r\n\r\n");
    Some(Opened { admitted: asked.admitted(admission), head })
}

/// A whole `GET /ws` without a body, as hyper would read it, and its length.
fn parse(bytes: &[u8]) -> Option<(Request<()>, usize)> {
    // Most of what is something else shows it at once.
    let target = bytes.strip_prefix(b"GET ")?;
    if !target.starts_with(b"/ws ") && !target.starts_with(b"/ws?") {
        return None;
    }
    // One copy, which all values share.
    let bytes = Bytes::copy_from_slice(&bytes[..bytes.len().min(HEAD_BYTES)]);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = parsed.parse(&bytes) else { return None };
    if parsed.version != Some(1) {
        return None;
    }
    let mut map = HeaderMap::with_capacity(parsed.headers.len());
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        // Nothing with a body is ordinary here.
        if matches!(name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::EXPECT) {
            return None;
        }
        map.append(name, HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?);
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::try_from(parsed.path?).ok()?;
    *request.headers_mut() = map;
    Some((request, head))
}
