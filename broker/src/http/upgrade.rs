//! What a request must say to become a WebSocket (RFC 6455, section 4.2.1).

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::general_purpose::{GeneralPurpose, PAD},
};
use hyper::{HeaderMap, Method, Request, Version, header};
use tidegate_protocol::{Codec, frame::Subscribe};

use super::{Admitted, Origins, api::subscription, origin::Host, refusal::Refusal};
use crate::admission::Admission;

/// What a request asks for beside the upgrade.
#[derive(Debug)]
pub(super) struct Asked {
    /// Of the first subprotocol it names that we speak; `None` where it names none at all.
    pub(super) codec: Option<Codec>,
    subscribes: Vec<Subscribe>,
}

impl Asked {
    /// What comes of it where there is a place.
    pub(super) fn admitted(self, admission: Admission) -> Admitted {
        let Self { codec, subscribes } = self;
        Admitted { admission, codec: codec.unwrap_or_default(), subscribes }
    }
}

/// Whether the request may become a WebSocket, and what it asks for.
///
/// The request's `Host` is taken to have been checked.
pub(super) fn check<B>(request: &Request<B>, origins: &Origins) -> Result<Asked, Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refusal::method("GET"));
    }
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::bad_request("a WebSocket needs HTTP/1.1"));
    }
    if !fastwebsockets::upgrade::is_upgrade_request(request) {
        let message = "this is a WebSocket: ask with `Connection: upgrade` and `Upgrade: websocket`";
        return Err(Refusal::upgrade_required(message));
    }
    if headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return Err(Refusal::bad_request("a WebSocket handshake has no body").closing());
    }
    if only(headers, header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Refusal::upgrade_required("only version 13 of the WebSocket protocol is spoken here"));
    }
    if !only(headers, header::SEC_WEBSOCKET_KEY).is_some_and(is_key) {
        return Err(Refusal::bad_request("Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    check_origin(headers, origins)?;
    Ok(Asked { codec: subprotocol(headers)?, subscribes: subscription::of_websocket(request.uri().query())? })
}

/// 16 bytes in base64.
fn is_key(key: &str) -> bool {
    // Some clients leave bits of the last character set that belong to no byte: harmless, the key is only echoed.
    const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));
    // Whatever decodes to 16 bytes is as long as this; the decoder wants room for a byte or two more.
    let mut bytes = [0; 18];
    key.len() == 24 && BASE64.decode_slice(key, &mut bytes) == Ok(16)
}

pub(super) fn check_origin(headers: &HeaderMap, origins: &Origins) -> Result<(), Refusal> {
    let mut all = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = all.next() else { return Ok(()) };
    if all.next().is_some() {
        return Err(Refusal::bad_request("more than one Origin"));
    }
    let origin = String::from_utf8_lossy(origin.as_bytes());
    let host = headers.get(header::HOST).and_then(|host| Host::parse(host.to_str().ok()?));
    origins.check_origin(&origin, host.as_ref()).map_err(Refusal::forbidden)
}

fn subprotocol(headers: &HeaderMap) -> Result<Option<Codec>, Refusal> {
    let mut asked = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|list| list.as_bytes().split(|&byte| byte == b','))
        .map(|name| name.trim_ascii())
        .filter(|name| !name.is_empty())
        .peekable();
    if asked.peek().is_none() {
        return Ok(None);
    }
    let known = asked.find_map(|name| Codec::from_subprotocol(std::str::from_utf8(name).ok()?));
    known.map(Some).ok_or_else(|| {
        let spoken = Codec::ALL.map(Codec::subprotocol).join(" and ");
        Refusal::bad_request(format!("none of the subprotocols asked for is spoken here: {spoken} are"))
    })
}

/// A header's value where it stands exactly once.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
