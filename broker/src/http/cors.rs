//! Which pages may read what `/v1` answers (the Fetch Standard's CORS protocol), by the rules that a WebSocket's `Origin`
//! goes by.

use hyper::{
    HeaderMap, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

use super::{Answer, Origins, refusal::Refusal, respond, upgrade};

/// How long a browser need not ask again, in seconds.
const MAX_AGE: &str = "600";
/// Headers of a request that a page may set; besides them those of [`MESSAGE_HEADERS`].
const ALLOWED: &[&str] = &[
    "accept",
    "authorization",
    "cache-control",
    "content-type",
    "idempotency-key",
    "last-event-id",
    "x-tidegate-instance",
    "x-tidegate-key",
];
/// Names of message headers begin with this.
pub(super) const MESSAGE_HEADERS: &str = "x-tidegate-header-";

/// Lets in whom the origin rules let in; the origin that is to be named in the answer, where there is one.
///
/// # Errors
///
/// The page is not welcome. It may read so much, and what its developer can do about it.
pub(super) fn admit(headers: &HeaderMap, origins: &Origins) -> Result<Option<HeaderValue>, Refusal> {
    let origin = headers.get(header::ORIGIN).cloned();
    match (upgrade::check_origin(headers, origins), origin) {
        (Ok(()), origin) => Ok(origin),
        (Err(refusal), Some(origin)) => {
            Err(refusal.with_value(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin).with(header::VARY, "origin"))
        }
        (Err(refusal), None) => Err(refusal),
    }
}

/// Lets the page of a welcome origin read an answer.
pub(super) fn allow(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("allow, retry-after"));
    }
}

/// Answers a browser that asks what it may send. `methods` lists the methods there are.
pub(super) fn preflight(asked: &HeaderMap, methods: &str) -> Answer {
    let mut response = respond(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", "");
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    let methods = HeaderValue::from_str(methods).unwrap_or(HeaderValue::from_static("GET"));
    headers.insert(header::ALLOW, methods.clone());
    if !asked.contains_key(header::ORIGIN) {
        return response;
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).and_then(|names| names.to_str().ok());
    let may = |name: &str| {
        let name = name.to_ascii_lowercase();
        ALLOWED.contains(&&*name) || name.starts_with(MESSAGE_HEADERS)
    };
    let allowed: Vec<_> =
        wanted.unwrap_or_default().split(',').map(str::trim).filter(|name| may(name)).collect();
    if let Ok(allowed) = HeaderValue::from_str(&allowed.join(", ")) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    // A page of the network asks a broker on this machine: https://wicg.github.io/private-network-access/
    if asked.contains_key("access-control-request-private-network") {
        let name = HeaderName::from_static("access-control-allow-private-network");
        headers.insert(name, HeaderValue::from_static("true"));
    }
    response
}
