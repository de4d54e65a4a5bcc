//! The HTTP front of the one listener: the console page, probes, metrics, and the door to a WebSocket.
//!
//! * [`door`]: the short way in, for a request that becomes a WebSocket and came in one piece. No I/O.
//! * [`origin`]: which web pages, and which names of this host, are welcome. No I/O.
//! * `upgrade`: what a request must say to become a WebSocket (RFC 6455, section 4.2). No I/O.
//! * `pages`: the files of the console.
//! * [`routes`]: the table of everything else that is answered; [`api`]: what is under `/v1`; `cors`: who may read it.
//! * `refusal`: what is not done, and why.
//! * this file: one connection's requests, routed and bounded in time and size.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use fastwebsockets::upgrade::UpgradeFut;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tidegate_protocol::{Codec, frame::Subscribe};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

mod cors;
mod pages;
mod refusal;
mod rewind;
mod upgrade;

pub mod api;
pub mod door;
pub mod origin;
pub mod routes;

pub use self::origin::Origins;
use self::{
    api::{Api, Events, Progress},
    refusal::Refusal,
    rewind::Rewind,
    routes::{At, Does},
};
use crate::admission::Admission;

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
    /// Takes a place for a further connection where it is welcome; else the reason, for a person, and the client gets
    /// 503.
    pub admit: Box<dyn Fn() -> Result<Admission, String>>,
    /// What is under `/v1`; nothing where it is absent.
    pub api: Option<Api>,
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
    /// What its request came to.
    pub admitted: Admitted,
    /// Where it comes from.
    pub peer: SocketAddr,
}

/// What a request came to that becomes a connection of the broker's.
#[derive(Debug)]
pub struct Admitted {
    /// Its place among the connections.
    pub admission: Admission,
    /// How the client wants frames written.
    pub codec: Codec,
    /// What it subscribed to by its URL: as if the client had sent these frames first.
    pub subscribes: Vec<Subscribe>,
}

/// A request's head, or the part of a burst of requests that hyper reads ahead, in bytes; beyond it: 431. Room for a token
/// (`limits::TOKEN_BYTES`) and the head around it.
const HEAD_BYTES: usize = 16 * 1024;

type Answer = Response<Body>;

/// What is known of a connection before it is served.
#[derive(Debug)]
pub struct Begun {
    /// What was read from it already.
    pub bytes: Bytes,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub since: std::time::Instant,
}

impl Begun {
    /// A connection that was accepted just now.
    pub fn now(peer: SocketAddr) -> Self {
        Self { bytes: Bytes::new(), peer, since: std::time::Instant::now() }
    }
}

/// Serves one HTTP/1.1 connection until it ends, or until it has become a WebSocket. `slot` is dropped where it is over,
/// or goes on as a stream of events: that is a connection of the broker's, and counted as such.
///
/// To be run on a current-thread runtime with timers, as a local task; `None` where the connection ended.
pub async fn serve(stream: TcpStream, begun: Begun, site: Rc<Site>, slot: impl Any) -> Option<Upgraded> {
    let Begun { bytes, peer, since } = begun;
    bound_waiting(&stream, &site);
    // A request that is there before the runtime knows that the socket takes anything: hyper 1.12 would close the
    // connection of one whose body it does not read without the answer. Nothing was written yet, so it is no wait.
    stream.writable().await.ok()?;
    let turn = Rc::new(Turn {
        since: Cell::new(Instant::from_std(since)),
        phase: RefCell::new(Phase::Asked),
        slot: RefCell::new(Some(Box::new(slot))),
        upgrade: RefCell::new(None),
    });
    let service = service_fn(|request| {
        let (site, turn) = (Rc::clone(&site), Rc::clone(&turn));
        async move {
            turn.begin();
            let answer = answer(request, &site, &turn).await;
            turn.end(&answer);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(site.handshake_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Rewind::new(stream, bytes)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    loop {
        let deadline = turn.deadline(site.handshake_timeout);
        match timeout_at(deadline, connection.as_mut()).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "http connection ended");
                return None;
            }
            // Another request came meanwhile, or this one moves on, and has its own time.
            Err(_) if turn.deadline(site.handshake_timeout) > deadline => {}
            Err(_) => {
                tracing::debug!(%peer, "http connection closed: nothing moved in time");
                return None;
            }
        }
    }
    let (upgrade, admitted) = turn.upgrade.take()?;
    let websocket = timeout(site.handshake_timeout, upgrade).await.ok()?.ok()?;
    let parts = websocket.into_inner().into_inner().downcast::<TokioIo<Rewind>>().ok()?;
    let (stream, begun) = parts.io.into_inner().into_parts();
    // hyper has room for more than the first read brought, and so has taken all of it; if it had not, this is the order.
    let leftover = if begun.is_empty() { parts.read_buf } else { [parts.read_buf, begun].concat().into() };
    Some(Upgraded { stream: stream.into_std().ok()?, leftover, admitted, peer })
}

/// What one connection's requests leave for the loop around them.
struct Turn {
    /// When the newest request came, or was answered; before the first, when the connection did. Later, by what an
    /// upload may take longer.
    since: Cell<Instant>,
    phase: RefCell<Phase>,
    slot: RefCell<Option<Box<dyn Any>>>,
    upgrade: RefCell<Option<(UpgradeFut, Admitted)>>,
}

/// What the time of a connection goes into.
enum Phase {
    /// The client's part: a request, or taking the answer.
    Asked,
    /// The broker's part: its handlers have their own bounds, which are shorter than [`WORK_TIMEOUT`].
    Working,
    /// A stream of events, which may stand still so long.
    Streaming(Rc<Progress>, Duration),
}

/// No request may take longer than this, whatever goes wrong.
const WORK_TIMEOUT: Duration = Duration::from_secs(30);

/// So many bytes of a body may take a second, either way: who trickles is cut, slow lines are not.
const BYTES_A_SECOND: u64 = 8 << 10;

impl Turn {
    fn begin(&self) {
        self.since.set(Instant::now());
        self.phase.replace(Phase::Asked);
    }

    fn end(&self, answer: &Answer) {
        self.since.set(Instant::now());
        self.allow(hyper::body::Body::size_hint(answer.body()).exact().unwrap_or(0));
        let mut phase = self.phase.borrow_mut();
        if matches!(*phase, Phase::Working) {
            *phase = Phase::Asked;
        }
    }

    /// The client gets as much longer as so many bytes take on a slow line.
    fn allow(&self, bytes: u64) {
        let time = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_A_SECOND);
        self.since.set(self.since.get() + time);
    }

    /// All that the client has to send is there.
    fn work(&self) {
        self.since.set(Instant::now());
        self.phase.replace(Phase::Working);
    }

    /// The answer is a stream of events.
    fn stream(&self, progress: Rc<Progress>, stall_timeout: Duration) {
        self.phase.replace(Phase::Streaming(progress, stall_timeout));
        drop(self.slot.take());
    }

    /// When the connection is to be closed, as things stand.
    fn deadline(&self, handshake_timeout: Duration) -> Instant {
        match &*self.phase.borrow() {
            Phase::Asked => self.since.get() + handshake_timeout,
            Phase::Working => self.since.get() + WORK_TIMEOUT,
            Phase::Streaming(progress, stall_timeout) => {
                progress.stalled_since().unwrap_or_else(Instant::now) + *stall_timeout
            }
        }
    }
}

/// What the kernel may hold unsent of one HTTP connection, in bytes, so that a slow reader of events is noticed.
#[cfg(target_os = "linux")]
const NOTSENT_BYTES: u32 = 16 << 10;

/// An event goes out when it is there, what is not taken is not gathered, and who is gone without a word is noticed: no
/// pong tells over HTTP. Where the kernel knows none of it, the connection works all the same.
fn bound_waiting(stream: &TcpStream, site: &Site) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_notsent_lowat(NOTSENT_BYTES);
        if let Some(api) = &site.api {
            let _ = socket.set_tcp_user_timeout(Some(api.silence_timeout()));
        }
    }
}

async fn answer(request: Request<Incoming>, site: &Site, turn: &Turn) -> Answer {
    let mut response = match check(&request, site) {
        Ok(()) => route(request, site, turn).await,
        Err(refusal) => refusal.response(),
    };
    harden(response.headers_mut());
    response
}

/// What holds for every request.
fn check<B>(request: &Request<B>, site: &Site) -> Result<(), Refusal> {
    let headers = request.headers();
    // hyper lets Transfer-Encoding win over Content-Length, as RFC 9112 has it; a proxy in front may not. It hides that
    // both were there, and closes the connection behind such a request (section 6.3).
    if headers.contains_key(header::TRANSFER_ENCODING) && !request.uri().path().starts_with("/v1/") {
        return Err(Refusal::bad_request("no body is taken here: Transfer-Encoding is refused").closing());
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

async fn route(request: Request<Incoming>, site: &Site, turn: &Turn) -> Answer {
    let path = request.uri().path().to_owned();
    let answered = match &site.api {
        Some(api) if path.starts_with("/v1/") => return answer_api(api, request, &path, site, turn).await,
        _ => answer_page(request, &path, site, turn),
    };
    answered.unwrap_or_else(|refusal| refusal.response())
}

/// Answers what is under `/v1`, and lets the pages of welcome origins read it.
async fn answer_api(api: &Api, request: Request<Incoming>, path: &str, site: &Site, turn: &Turn) -> Answer {
    let origin = match cors::admit(request.headers(), &site.origins) {
        Ok(origin) => origin,
        Err(refusal) => return refusal.response(),
    };
    let answered = match At::find(path) {
        None => Err(nothing_at(path)),
        Some(at) if *request.method() == Method::OPTIONS => {
            Ok(cors::preflight(request.headers(), &at.methods()))
        }
        Some(at) => match at.does(request.method()) {
            Some(Does::Api(handler)) => api.handle(handler, request, at.parameter, site, turn).await,
            _ => Err(Refusal::method(&at.methods())),
        },
    };
    let mut response = answered.unwrap_or_else(|refusal| refusal.response());
    cors::allow(response.headers_mut(), origin);
    response
}

fn answer_page(
    mut request: Request<Incoming>,
    path: &str,
    site: &Site,
    turn: &Turn,
) -> Result<Answer, Refusal> {
    let page = pages::find(path, site.demo);
    let at = At::find(path).filter(|_| !path.starts_with("/v1/"));
    let Some(methods) = page.map(|_| "GET, HEAD".to_owned()).or_else(|| at.as_ref().map(At::methods)) else {
        return Err(nothing_at(path));
    };
    // hyper leaves the body out of the answer to a HEAD.
    let does = match page {
        Some(page) if matches!(*request.method(), Method::GET | Method::HEAD) => {
            let mut response = respond(StatusCode::OK, page.content_type, page.bytes);
            if page.is_for_all() {
                let any = HeaderValue::from_static("*");
                response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
            }
            return Ok(response);
        }
        _ => at.and_then(|at| at.does(request.method())),
    };
    const TEXT: &str = "text/plain; charset=utf-8";
    match does {
        Some(Does::WebSocket) => open_websocket(&mut request, site, turn),
        Some(Does::Metrics) => {
            Ok(respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", (site.metrics)()))
        }
        Some(Does::Ready) if (site.ready)() => Ok(respond(StatusCode::OK, TEXT, "ready\n")),
        Some(Does::Ready) => Ok(respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n")),
        Some(Does::Live) => Ok(respond(StatusCode::OK, TEXT, "live\n")),
        Some(Does::Api(_)) | None => Err(Refusal::method(&methods)),
    }
}

fn nothing_at(path: &str) -> Refusal {
    let path: String = path.chars().take(256).collect();
    Refusal::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {path}"))
}

fn open_websocket(request: &mut Request<Incoming>, site: &Site, turn: &Turn) -> Result<Answer, Refusal> {
    let asked = upgrade::check(request, &site.origins)?;
    let admission = (site.admit)().map_err(Refusal::unavailable)?;
    let (response, upgrade) = fastwebsockets::upgrade::upgrade(request)
        .map_err(|_| Refusal::bad_request("not a WebSocket handshake"))?;
    let mut response = response.map(|_| Body::default());
    if let Some(codec) = asked.codec {
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(codec.subprotocol()));
    }
    turn.upgrade.replace(Some((upgrade, asked.admitted(admission))));
    Ok(response)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Body::Whole(Full::new(body.into())));
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

/// What an answer carries: something whole, or events as they come.
enum Body {
    Whole(Full<Bytes>),
    Events(Box<Events>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Events(events) => Pin::new(&mut **events).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(events) => events.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(events) => events.size_hint(),
        }
    }
}
