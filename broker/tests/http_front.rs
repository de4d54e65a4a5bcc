//! The HTTP front, spoken to in raw bytes over real sockets: what becomes a WebSocket, what is refused and how, and what
//! a slow or hostile client can hold.

use std::{
    cell::Cell,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::mpsc,
    thread,
    time::Duration,
};

use tidegate::{
    admission::Admissions,
    http::{self, Origins, Site, Upgraded},
};
use tidegate_protocol::Codec;

/// The listener under test, on a thread of its own until the process ends.
struct Front {
    address: SocketAddr,
    upgraded: mpsc::Receiver<Upgraded>,
}

/// What a test changes about the site.
#[derive(Clone)]
struct Options {
    allowed_origins: Vec<String>,
    loopback: bool,
    handshake_timeout: Duration,
    ready: bool,
    full: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allowed_origins: Vec::new(),
            loopback: true,
            // Far beyond what any test takes, but the one about time.
            handshake_timeout: Duration::from_secs(60),
            ready: true,
            full: false,
        }
    }
}

impl Front {
    fn start() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (upgrades, upgraded) = mpsc::sync_channel(64);
        thread::spawn(move || {
            let scrapes = Cell::new(0);
            let site = Rc::new(Site {
                origins: Origins::new(&options.allowed_origins, options.loopback).expect("origins"),
                handshake_timeout: options.handshake_timeout,
                ready: Box::new(move || options.ready),
                metrics: Box::new(move || {
                    scrapes.set(scrapes.get() + 1);
                    format!("# TYPE scrapes counter\nscrapes {}\n", scrapes.get())
                }),
                admit: Box::new(move || {
                    let admissions = Admissions::new(usize::from(!options.full));
                    admissions.admit().ok_or_else(|| "all connections are taken".into())
                }),
                api: None,
                demo: false,
            });
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            tokio::task::LocalSet::new().block_on(&runtime, async {
                listener.set_nonblocking(true).expect("a listener");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, peer)) = listener.accept().await {
                    let (site, upgrades) = (Rc::clone(&site), upgrades.clone());
                    tokio::task::spawn_local(async move {
                        if let Some(upgraded) = http::serve(stream, http::Begun::now(peer), site, ()).await {
                            let _ = upgrades.send(upgraded);
                        }
                    });
                }
            });
        });
        Self { address, upgraded }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("it listens");
        // Only a bound: no test's outcome hangs on it.
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket");
        Client { stream, address: self.address }
    }

    /// The answer to one request on a connection of its own.
    fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }
}

struct Client {
    stream: TcpStream,
    address: SocketAddr,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// A header's value, if it stands there once.
    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().skip(1).filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        let value = values.next();
        assert!(values.next().is_none(), "{name} stands twice: {}", self.head);
        value
    }

    /// The message of a refusal, and that it is one.
    fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("a JSON body");
        assert_eq!(body["error"]["code"], status);
        assert!(body["error"]["name"].is_string());
        body["error"]["message"].as_str().expect("a message").to_owned()
    }
}

impl Client {
    /// Sends a request; `$HOST` stands for the listener's address.
    fn send(&mut self, request: &str) {
        let request = request.replace("$HOST", &self.address.to_string());
        self.stream.write_all(request.as_bytes()).expect("it reads");
    }

    fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("a head is text");
        let status = head[9..12].parse().expect("a status");
        let mut answer = Answer { status, head, body: String::new() };
        let len = answer.header("content-length").map_or(0, |len| len.parse().expect("a length"));
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).expect("a body");
        answer.body = String::from_utf8(body).expect("our bodies are text");
        answer
    }

    /// Reads on until the server ends the stream, and says what came.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("not ended: {error}"),
            _ => rest,
        }
    }
}

/// A handshake as every browser sends it, less the lines that begin with one of `without`, and with these added.
fn handshake(without: &[&str], with: &str) -> String {
    let lines = [
        "Host: $HOST",
        "Connection: keep-alive, Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let kept = lines.iter().filter(|line| !without.iter().any(|name| line.starts_with(name)));
    let kept: String = kept.map(|line| format!("{line}\r\n")).collect();
    let with = with.lines().map(|line| format!("{line}\r\n")).collect::<String>();
    format!("GET /ws HTTP/1.1\r\n{kept}{with}\r\n")
}

#[test]
fn a_handshake_becomes_a_websocket_with_the_accept_of_its_key() {
    let front = Front::start();
    let mut client = front.connect();
    client.send(&handshake(&[], ""));
    let answer = client.answer();
    assert_eq!(answer.status, 101);
    // The key and its answer are those of RFC 6455, section 1.3.
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection"), Some("upgrade"));
    assert_eq!(answer.header("sec-websocket-protocol"), None, "none was asked for");
    assert_eq!(answer.header("sec-websocket-extensions"), None);
    let upgraded = front.upgraded.recv().expect("it is handed over");
    assert_eq!(upgraded.admitted.codec, Codec::Json);
    assert_eq!(upgraded.leftover.len(), 0);
    assert_eq!(upgraded.peer, client.stream.local_addr().unwrap());

    // The socket is the client's own, and does not block.
    upgraded.stream.set_nonblocking(false).unwrap();
    (&upgraded.stream).write_all(b"down").unwrap();
    client.stream.write_all(b"up").unwrap();
    let (mut down, mut up) = ([0; 4], [0; 2]);
    client.stream.read_exact(&mut down).unwrap();
    (&upgraded.stream).read_exact(&mut up).unwrap();
    assert_eq!((&down, &up), (b"down", b"up"));
}

#[test]
fn what_stands_behind_the_request_is_handed_over_untouched() {
    let front = Front::start();
    for behind in ["\u{1}\u{2} frames, in the client's hurry", &"x".repeat(5000)] {
        let mut client = front.connect();
        client.send(&(handshake(&[], "") + behind));
        assert_eq!(client.answer().status, 101);
        let upgraded = front.upgraded.recv().expect("it is handed over");
        // What of it had not arrived with the request is still in the socket.
        let mut got = upgraded.leftover.to_vec();
        upgraded.stream.set_nonblocking(false).unwrap();
        let mut rest = vec![0; behind.len() - got.len()];
        (&upgraded.stream).read_exact(&mut rest).unwrap();
        got.extend(rest);
        assert_eq!(got, behind.as_bytes());
    }
}

#[test]
fn a_handshake_in_pieces_of_one_byte_is_a_handshake() {
    let front = Front::start();
    let mut client = front.connect();
    client.stream.set_nodelay(true).unwrap();
    for byte in handshake(&[], "").replace("$HOST", &front.address.to_string()).bytes() {
        client.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.answer().status, 101);
}

#[test]
fn a_page_that_was_loaded_can_open_its_websocket_on_the_same_connection() {
    let front = Front::start();
    let mut client = front.connect();
    client.send("GET / HTTP/1.1\r\nHost: $HOST\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.send(&handshake(&[], "Origin: http://$HOST"));
    assert_eq!(client.answer().status, 101);
    front.upgraded.recv().expect("it is handed over");
}

#[test]
fn the_first_subprotocol_that_is_spoken_here_is_taken() {
    let front = Front::start();
    let cases = [
        ("tidegate.v1.json", Codec::Json),
        ("tidegate.v1.bincode", Codec::Bincode),
        ("tidegate.v1.bincode, tidegate.v1.json", Codec::Bincode),
        ("tidegate.v1.json,tidegate.v1.bincode", Codec::Json),
        ("graphql-ws, tidegate.v9.json , tidegate.v1.bincode", Codec::Bincode),
        ("mqtt\r\nSec-WebSocket-Protocol: tidegate.v1.json", Codec::Json),
    ];
    for (asked, codec) in cases {
        let answer = front.ask(&handshake(&[], &format!("Sec-WebSocket-Protocol: {asked}")));
        assert_eq!(answer.status, 101, "{asked}");
        assert_eq!(answer.header("sec-websocket-protocol"), Some(codec.subprotocol()), "{asked}");
        assert_eq!(front.upgraded.recv().expect("it is handed over").admitted.codec, codec, "{asked}");
    }
    for asked in ["mqtt", "tidegate.v2.json", "TIDEGATE.V1.JSON", "graphql-ws, mqtt"] {
        let message = front.ask(&handshake(&[], &format!("Sec-WebSocket-Protocol: {asked}"))).refused(400);
        for codec in Codec::ALL {
            assert!(message.contains(codec.subprotocol()), "{message}");
        }
    }
}

#[test]
fn what_is_no_handshake_is_refused_and_told_why() {
    let front = Front::start();
    let whole = handshake(&[], "");
    let cases = [
        ("POST", whole.replacen("GET", "POST", 1), 405),
        ("PUT", whole.replacen("GET", "PUT", 1), 405),
        ("HTTP/1.0", whole.replacen("HTTP/1.1", "HTTP/1.0", 1), 400),
        ("no Host", handshake(&["Host"], ""), 400),
        ("two Hosts", handshake(&[], "Host: $HOST"), 400),
        ("a Host that is none", handshake(&["Host"], "Host: a b"), 400),
        ("a Host with a user", handshake(&["Host"], "Host: me@localhost"), 400),
        ("an empty Host", handshake(&["Host"], "Host:"), 400),
        ("a target that is not its Host", whole.replacen("/ws", "http://localhost:1/ws", 1), 400),
        ("no Connection", handshake(&["Connection"], ""), 426),
        ("Connection: close", handshake(&["Connection"], "Connection: close"), 426),
        ("no Upgrade", handshake(&["Upgrade"], ""), 426),
        ("Upgrade: h2c", handshake(&["Upgrade"], "Upgrade: h2c"), 426),
        ("neither", handshake(&["Upgrade", "Connection"], ""), 426),
        ("no version", handshake(&["Sec-WebSocket-Version"], ""), 426),
        ("version 8", handshake(&["Sec-WebSocket-Version"], "Sec-WebSocket-Version: 8"), 426),
        ("version 14", handshake(&["Sec-WebSocket-Version"], "Sec-WebSocket-Version: 14"), 426),
        ("two versions", handshake(&[], "Sec-WebSocket-Version: 8"), 426),
        ("no key", handshake(&["Sec-WebSocket-Key"], ""), 400),
        ("an empty key", handshake(&["Sec-WebSocket-Key"], "Sec-WebSocket-Key:"), 400),
        ("a key that is not base64", handshake(&["Sec-WebSocket-Key"], "Sec-WebSocket-Key: !!!!"), 400),
        (
            "a key of 15 bytes",
            handshake(&["Sec-WebSocket-Key"], "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"),
            400,
        ),
        (
            "a key of 18 bytes",
            handshake(&["Sec-WebSocket-Key"], "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA"),
            400,
        ),
        ("two keys", handshake(&[], "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        ("a body", handshake(&[], "Content-Length: 4") + "body", 400),
        ("a chunked body", handshake(&[], "Transfer-Encoding: chunked") + "0\r\n\r\n", 400),
        (
            "two lengths of a body",
            handshake(&[], "Content-Length: 4\nTransfer-Encoding: chunked") + "0\r\n\r\n",
            400,
        ),
        (
            "the same the other way round",
            handshake(&[], "Transfer-Encoding: chunked\nContent-Length: 4") + "0\r\n\r\n",
            400,
        ),
        ("two origins", handshake(&[], "Origin: http://localhost\nOrigin: http://localhost"), 400),
        ("a foreign origin", handshake(&[], "Origin: https://evil.test"), 403),
        ("an opaque origin", handshake(&[], "Origin: null"), 403),
        ("a name that was made to resolve here", handshake(&["Host"], "Host: evil.test"), 403),
        (
            "the same from its own page",
            handshake(&["Host"], "Host: evil.test:7400\nOrigin: http://evil.test:7400"),
            403,
        ),
    ];
    for (name, request, status) in cases {
        let answer = front.ask(&request);
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert!(!answer.refused(status).is_empty(), "{name}");
        match status {
            405 => assert_eq!(answer.header("allow"), Some("GET"), "{name}"),
            426 => {
                assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{name}");
                assert_eq!(answer.header("upgrade"), Some("websocket"), "{name}");
            }
            _ => {}
        }
    }
    assert!(front.upgraded.try_recv().is_err(), "none of them was handed over");
}

#[test]
fn a_request_whose_end_is_in_doubt_is_the_last_on_its_connection() {
    let front = Front::start();
    // What a proxy that believes Content-Length takes for a body would be a second request here.
    let smuggled = "GET /metrics HTTP/1.1\r\nHost: $HOST\r\n\r\n";
    for head in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let mut client = front.connect();
        client.send(&format!("GET /live HTTP/1.1\r\nHost: $HOST\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}"));
        client.answer().refused(400);
        assert_eq!(String::from_utf8_lossy(&client.rest()), "", "{head}");
    }
}

#[test]
fn an_origin_that_is_welcome_gets_in_and_one_that_is_not_is_told_the_option() {
    let allowed_origins = vec!["https://shop.example".to_owned()];
    let front = Front::with(Options { allowed_origins, ..Options::default() });
    for origin in ["https://shop.example", "http://localhost:5173", "http://127.0.0.1:3000", "http://$HOST"] {
        assert_eq!(front.ask(&handshake(&[], &format!("Origin: {origin}"))).status, 101, "{origin}");
    }
    for origin in ["https://shop.example.evil.test", "http://shop.example", "null", "https://\"quoted\".test"]
    {
        let message = front.ask(&handshake(&[], &format!("Origin: {origin}"))).refused(403);
        assert!(message.contains("server.allowed_origins"), "{message}");
    }
}

#[test]
fn beyond_loopback_any_host_is_served_and_no_loopback_page_gets_in() {
    let front = Front::with(Options { loopback: false, ..Options::default() });
    let asked =
        |origin: &str| front.ask(&handshake(&["Host"], &format!("Host: tide.example\nOrigin: {origin}")));
    assert_eq!(asked("https://tide.example").status, 101);
    asked("http://localhost:5173").refused(403);
}

#[test]
fn at_its_limit_it_answers_503_and_still_serves_probes() {
    let front = Front::with(Options { full: true, ..Options::default() });
    let answer = front.ask(&handshake(&[], ""));
    assert_eq!(answer.refused(503), "all connections are taken");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(front.ask("GET /live HTTP/1.1\r\nHost: $HOST\r\n\r\n").status, 200);
}

#[test]
fn every_route_answers_with_its_type() {
    let front = Front::start();
    let cases = [
        ("/", 200, "text/html; charset=utf-8", "<!doctype html>"),
        ("/console.js", 200, "text/javascript; charset=utf-8", ""),
        ("/console.css", 200, "text/css; charset=utf-8", ""),
        ("/favicon.ico", 200, "image/svg+xml", "<svg"),
        ("/favicon.svg?v=1", 200, "image/svg+xml", "<svg"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", "# TYPE scrapes counter\nscrapes 1\n"),
        ("/live", 200, "text/plain; charset=utf-8", "live\n"),
        ("/ready", 200, "text/plain; charset=utf-8", "ready\n"),
        ("/nothing", 404, "application/json", "{\"error\""),
        ("/ws/", 404, "application/json", "{\"error\""),
        ("/../Cargo.toml", 404, "application/json", "{\"error\""),
        ("/ws", 426, "application/json", "{\"error\""),
    ];
    for (path, status, content_type, begins) in cases {
        let answer = front.ask(&format!("GET {path} HTTP/1.1\r\nHost: $HOST\r\n\r\n"));
        assert_eq!((answer.status, answer.header("content-type")), (status, Some(content_type)), "{path}");
        assert!(answer.body.starts_with(begins), "{path}: {}", answer.body);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}

#[test]
fn a_broker_that_is_not_ready_says_so_and_is_alive() {
    let front = Front::with(Options { ready: false, ..Options::default() });
    assert_eq!(front.ask("GET /ready HTTP/1.1\r\nHost: $HOST\r\n\r\n").status, 503);
    assert_eq!(front.ask("GET /live HTTP/1.1\r\nHost: $HOST\r\n\r\n").status, 200);
    // A probe of the oldest kind, which names no host.
    assert_eq!(front.ask("GET /live HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn a_head_is_the_head_of_the_get_and_other_methods_are_refused() {
    let front = Front::start();
    let mut client = front.connect();
    client.send(&handshake(&[], "").replacen("GET", "HEAD", 1).replacen("keep-alive, Upgrade", "close", 1));
    assert!(client.rest().starts_with(b"HTTP/1.1 405 "), "a WebSocket has no HEAD");
    for path in ["/", "/console.js", "/live"] {
        let get = front.ask(&format!("GET {path} HTTP/1.1\r\nHost: $HOST\r\n\r\n"));
        let mut client = front.connect();
        client.send(&format!("HEAD {path} HTTP/1.1\r\nHost: $HOST\r\nConnection: close\r\n\r\n"));
        let head = String::from_utf8(client.rest()).expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        let length = format!("content-length: {}\r\n", get.body.len());
        assert!(head.to_lowercase().contains(&length), "{path}: {head}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
            let answer = front.ask(&format!("{method} {path} HTTP/1.1\r\nHost: $HOST\r\n\r\n"));
            answer.refused(405);
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        }
    }
}

#[test]
fn a_head_beyond_its_bound_is_refused_and_a_token_fits() {
    let front = Front::start();
    let with = |len: usize| handshake(&[], &format!("Authorization: Bearer {}", "t".repeat(len)));
    assert_eq!(front.ask(&with(tidegate_protocol::limits::TOKEN_BYTES)).status, 101);
    let mut client = front.connect();
    let _ = client.stream.write_all(with(64 * 1024).replace("$HOST", &front.address.to_string()).as_bytes());
    let answer = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..200).map(|index| format!("X-{index}: 1\r\n")).collect();
    let answer = front.ask(&format!("GET /live HTTP/1.1\r\nHost: $HOST\r\n{many}\r\n"));
    assert_eq!(answer.status, 431);
}

#[test]
fn what_is_not_http_is_turned_away() {
    let front = Front::start();
    for rubbish in [
        "\u{16}\u{3}\u{1}\u{2}\u{0}",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "hello\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut client = front.connect();
        client.send(rubbish);
        let answer = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{rubbish:?}: {answer}");
    }
    assert_eq!(front.ask("GET /live HTTP/1.1\r\nHost: $HOST\r\n\r\n").status, 200, "and it serves on");
}

#[test]
fn whoever_does_not_become_a_websocket_in_time_is_closed() {
    let front = Front::with(Options { handshake_timeout: Duration::from_millis(200), ..Options::default() });
    let whole = handshake(&[], "").replace("$HOST", &front.address.to_string());

    // Says nothing.
    assert!(front.connect().rest().is_empty());
    // Stops amid its head.
    let mut client = front.connect();
    client.send(&whole[..40]);
    client.rest();
    // Is through with its request and stays.
    let mut client = front.connect();
    client.send("GET /live HTTP/1.1\r\nHost: $HOST\r\n\r\n");
    client.rest();
    // Sends a byte now and then, so that it never quite stops, for as long as it is let.
    let mut client = front.connect();
    client.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let mut dribbled = whole.bytes().cycle();
    loop {
        if client.stream.write_all(&[dribbled.next().unwrap().max(b' ')]).is_err() {
            break;
        }
        match client.stream.read(&mut [0; 100]) {
            Ok(0) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            _ => {}
        }
    }
    // Asks and does not take the answers.
    let mut client = front.connect();
    let ask = "GET / HTTP/1.1\r\nHost: $HOST\r\n\r\n".replace("$HOST", &front.address.to_string());
    while client.stream.write_all(ask.as_bytes()).is_ok() {}
}
