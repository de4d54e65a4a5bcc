//! The HTTP front of the one listener: the console page, probes, metrics, and the door to a WebSocket.
//!
//! * [`origin`]: which web pages, and which names of this host, are welcome. No I/O.
//! * `upgrade`: what a request must say to become a WebSocket (RFC 6455, section 4.2). No I/O.
//! * `pages`: the files of the console.
//! * this file: one connection's requests, routed and bounded in time and size.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use fastwebsockets::upgrade::UpgradeFut;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tidegate_protocol::Codec;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

mod pages;
mod upgrade;

pub mod origin;

pub use self::origin::Origins;

/// What a listener's connections share.
pub struct Site {
    /// Which pages may open a WebSocket, and which `Host` a request may name.
    pub origins: Origins,
    /// From accept, or from a request's head on a kept connection, to that request's answer written and the next one
    /// read. A socket that is not a WebSocket by then, and asks nothing, is closed.
    pub handshake_timeout: Duration,
    /// What `/ready` says: whether to send clients here.
    pub ready: Box<dyn Fn() -> bool>,
    /// The text of `/metrics`, in Prometheus' format.
    pub metrics: Box<dyn Fn() -> String>,
    /// Whether a further WebSocket is welcome; else the reason, for a person, and the client gets 503.
    pub admit: Box<dyn Fn() -> Result<(), String>>,
    /// Whether the pages of `tidegate demo` are served too.
    pub demo: bool,
}

/// A connection that has become a WebSocket: its 101 is written, and nothing was read from it as a frame.
#[derive(Debug)]
pub struct Upgraded {
    /// The socket, non-blocking.
    pub stream: std::net::TcpStream,
    /// What the client sent right behind its request: the beginning of its frames.
    pub leftover: Bytes,
    /// How it wants frames written.
    pub codec: Codec,
    /// Where it comes from.
    pub peer: SocketAddr,
}

/// A request's head, or the part of a burst of requests that hyper reads ahead, in bytes; beyond it: 431. Room for a token
/// (`limits::TOKEN_BYTES`) and the head around it.
const HEAD_BYTES: usize = 16 * 1024;

type Answer = Response<Full<Bytes>>;

/// Serves one HTTP/1.1 connection until it ends, or until it has become a WebSocket.
///
/// To be run on a current-thread runtime with timers; `None` where the connection ended.
pub async fn serve(stream: TcpStream, peer: SocketAddr, site: Rc<Site>) -> Option<Upgraded> {
    let turn = Rc::new(Turn { since: Cell::new(Instant::now()), upgrade: RefCell::new(None) });
    let service = service_fn(|request| {
        let (site, turn) = (Rc::clone(&site), Rc::clone(&turn));
        async move {
            turn.since.set(Instant::now());
            Ok::<_, Infallible>(answer(request, &site, &turn))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(site.handshake_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    loop {
        let deadline = turn.since.get() + site.handshake_timeout;
        match timeout_at(deadline, connection.as_mut()).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "http connection ended");
                return None;
            }
            // Another request came meanwhile, and has its own time.
            Err(_) if turn.since.get() + site.handshake_timeout > deadline => {}
            Err(_) => {
                tracing::debug!(%peer, "http connection closed: no request in time");
                return None;
            }
        }
    }
    let (upgrade, codec) = turn.upgrade.take()?;
    let websocket = timeout(site.handshake_timeout, upgrade).await.ok()?.ok()?;
    let parts = websocket.into_inner().into_inner().downcast::<TokioIo<TcpStream>>().ok()?;
    let stream = parts.io.into_inner().into_std().ok()?;
    Some(Upgraded { stream, leftover: parts.read_buf, codec, peer })
}

/// What one connection's requests leave for the loop around them.
struct Turn {
    /// When the newest request came; before the first, when the connection did.
    since: Cell<Instant>,
    upgrade: RefCell<Option<(UpgradeFut, Codec)>>,
}

fn answer(mut request: Request<Incoming>, site: &Site, turn: &Turn) -> Answer {
    let answered = check(&request, site).and_then(|()| route(&mut request, site, turn));
    let mut response = answered.unwrap_or_else(|refusal| refusal.response());
    harden(response.headers_mut());
    response
}

/// What holds for every request.
fn check<B>(request: &Request<B>, site: &Site) -> Result<(), Refusal> {
    let headers = request.headers();
    // hyper lets Transfer-Encoding win over Content-Length, as RFC 9112 has it; a proxy in front may not.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(
            Refusal::bad_request("no request here has a body: Transfer-Encoding is refused").closing()
        );
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        // HTTP/1.0 knows no Host (RFC 9112, section 3.2), and no browser speaks it.
        (None, _) if request.version() == Version::HTTP_10 => return Ok(()),
        _ => return Err(Refusal::bad_request("exactly one Host is needed").closing()),
    };
    let Some(host) = host.and_then(origin::Host::parse) else {
        return Err(Refusal::bad_request("Host is not a host").closing());
    };
    let target = request.uri().authority().map(|authority| origin::Host::parse(authority.as_str()));
    if target.is_some_and(|target| target.as_ref() != Some(&host)) {
        return Err(Refusal::bad_request("the request's target and its Host differ").closing());
    }
    site.origins.check_host(&host).map_err(Refusal::forbidden)
}

fn route(request: &mut Request<Incoming>, site: &Site, turn: &Turn) -> Result<Answer, Refusal> {
    let path = request.uri().path();
    if path == "/ws" {
        return open_websocket(request, site, turn);
    }
    let page = pages::find(path, site.demo);
    if page.is_none() && !matches!(path, "/metrics" | "/live" | "/ready") {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {path}")));
    }
    // hyper leaves the body out of the answer to a HEAD.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Refusal::method("GET, HEAD"));
    }
    if let Some(page) = page {
        return Ok(respond(StatusCode::OK, page.content_type, page.bytes));
    }
    const TEXT: &str = "text/plain; charset=utf-8";
    Ok(match path {
        "/metrics" => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", (site.metrics)()),
        "/ready" if (site.ready)() => respond(StatusCode::OK, TEXT, "ready\n"),
        "/ready" => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n"),
        _ => respond(StatusCode::OK, TEXT, "live\n"),
    })
}

fn open_websocket(request: &mut Request<Incoming>, site: &Site, turn: &Turn) -> Result<Answer, Refusal> {
    let asked = upgrade::check(request, &site.origins)?;
    (site.admit)().map_err(Refusal::unavailable)?;
    let (response, upgrade) = fastwebsockets::upgrade::upgrade(request)
        .map_err(|_| Refusal::bad_request("not a WebSocket handshake"))?;
    let mut response = response.map(|_| Full::default());
    if let Some(codec) = asked {
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(codec.subprotocol()));
    }
    turn.upgrade.replace(Some((upgrade, asked.unwrap_or_default())));
    Ok(response)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // The console comes with the broker: what a browser has kept may be an older one.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// What every response says to a browser: run and load nothing but our own files, guess no type, frame nothing.
fn harden(headers: &mut HeaderMap) {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                          connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// A request that is not done: its status, and why, for the developer who sent it.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    name: &'static str,
    message: String,
    headers: Vec<(header::HeaderName, &'static str)>,
}

impl Refusal {
    fn new(status: StatusCode, name: &'static str, message: impl Into<String>) -> Self {
        Self { status, name, message: message.into(), headers: Vec::new() }
    }

    fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn forbidden(message: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    fn method(allow: &'static str) -> Self {
        let message = format!("only {allow} here");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).with(header::ALLOW, allow)
    }

    fn upgrade_required(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
            .with(header::CONNECTION, "upgrade")
            .with(header::UPGRADE, "websocket")
            .with(header::SEC_WEBSOCKET_VERSION, "13")
    }

    fn unavailable(message: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).with(header::RETRY_AFTER, "1")
    }

    /// Where the next request begins is in doubt, so there is none.
    fn closing(self) -> Self {
        self.with(header::CONNECTION, "close")
    }

    fn with(mut self, name: header::HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn response(self) -> Answer {
        let error = json!({ "code": self.status.as_u16(), "name": self.name, "message": self.message });
        let body = format!("{}\n", json!({ "error": error }));
        let mut response = respond(self.status, "application/json", body);
        for (name, value) in self.headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
