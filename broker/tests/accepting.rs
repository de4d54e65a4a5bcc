//! Where connections begin: whatever way a request comes in, whole or in pieces, it has one answer; what waits is bounded
//! in time; shards that accept for themselves share the connections.

use std::{
    cell::Cell,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use tidegate::{
    admission::Admissions,
    config::Config,
    engine::memory::Memory,
    http::{Origins, Site},
    hub::Hub,
    metrics::Metrics,
    server::Server,
    shard::{
        Order, Parts, Shard,
        accept::{Front, Turns},
        inbox::Inbox,
    },
};
use tidegate_protocol::Epoch;
use tokio::{sync::mpsc, task::LocalSet};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// What RFC 6455, section 1.3, makes of that key.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn server(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::default();
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    change(&mut config);
    Server::start(config).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    // Only a bound: no test's outcome hangs on it.
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream
}

/// A response's head, in lower case; what there is of it where the connection ends.
fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "behind {bytes:?}");
                break;
            }
        }
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap().to_ascii_lowercase()
}

/// The status line and the headers that say what becomes of the connection.
fn verdict(head: &str) -> Vec<&str> {
    let told = ["connection", "upgrade", "sec-websocket-", "allow", "retry-after", "content-length"];
    let mut lines: Vec<_> =
        head.lines().skip(1).filter(|line| told.iter().any(|name| line.starts_with(name))).collect();
    lines.sort_unstable();
    lines.insert(0, head.lines().next().unwrap_or(""));
    lines
}

/// A client's text frame.
fn frame(text: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap()];
    bytes.extend(mask);
    bytes.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A server's short text frame.
fn text(stream: &mut TcpStream) -> String {
    let mut start = [0; 2];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(start[0], 0x81, "{start:?}");
    let mut text = vec![0; start[1].into()];
    stream.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_request_has_the_same_answer_whole_in_two_pieces_and_byte_by_byte() {
    let server = server(|_| {});
    let requests = [
        format!("{UPGRADE}\r\n"),
        format!("\r\n{UPGRADE}\r\n"),
        format!("{UPGRADE}Sec-WebSocket-Protocol: tidegate.v1.bincode\r\n\r\n"),
        format!("{UPGRADE}Sec-WebSocket-Protocol: soap\r\n\r\n"),
        format!("{UPGRADE}Origin: http://localhost:5173\r\n\r\n"),
        format!("{UPGRADE}Origin: https://evil.test\r\n\r\n"),
        format!("{UPGRADE}Host: localhost\r\n\r\n"),
        format!("{UPGRADE}Content-Length: 0\r\n\r\n"),
        format!("{UPGRADE}Content-Length: 5\r\n\r\n"),
        format!("{UPGRADE}Transfer-Encoding: chunked\r\n\r\n"),
        format!("{UPGRADE}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"),
        format!("{UPGRADE} folded\r\n\r\n"),
        format!("{UPGRADE}Bad Name: x\r\n\r\n"),
        format!("{UPGRADE}X: {}\r\n\r\n", "x".repeat(8 << 10)),
        format!("{UPGRADE}{}\r\n", "X: y\r\n".repeat(40)),
        UPGRADE.replace("localhost", "evil.test") + "\r\n",
        UPGRADE.replace("13", "12") + "\r\n",
        UPGRADE.replace("ZQ==", "") + "\r\n",
        UPGRADE.replace("HTTP/1.1", "HTTP/1.0") + "\r\n",
        UPGRADE.replace("GET", "POST") + "\r\n",
        UPGRADE.replace("/ws", "/ws?") + "\r\n",
        UPGRADE.replace("/ws", "/ws?x=1") + "\r\n",
        UPGRADE.replace("/ws", "/ws?subscribe=a.*&from=last:1&subscribe=%E2%9C%93") + "\r\n",
        UPGRADE.replace("/ws", "/ws?subscribe=a.>") + "\r\n",
        UPGRADE.replace("/ws", "/ws?subscribe=a..b") + "\r\n",
        UPGRADE.replace("/ws", "/wsx") + "\r\n",
        UPGRADE.replace("/ws", "http://localhost/ws") + "\r\n",
        UPGRADE.replace("/ws", "http://elsewhere/ws") + "\r\n",
        UPGRADE.replace("Connection: Upgrade", "Connection: close") + "\r\n",
        "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ];
    let mut opened = 0;
    for request in requests {
        let ask = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut stream = connect(server.address());
            for piece in pieces {
                // A refusal may come before the last piece, and with it a reset.
                if stream.write_all(piece).is_err() {
                    break;
                }
            }
            head(&mut stream)
        };
        let bytes = request.as_bytes();
        let whole = ask(&mut std::iter::once(bytes));
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let halves = ask(&mut [first, second].into_iter());
        assert_eq!(verdict(&whole), verdict(&halves), "{request:?}");
        if bytes.len() < 1024 {
            assert_eq!(verdict(&whole), verdict(&ask(&mut bytes.chunks(1))), "{request:?}");
        }
        if whole.starts_with("http/1.1 101 ") {
            opened += 1;
            assert!(
                whole.contains(&format!("\r\nsec-websocket-accept: {}\r\n", ACCEPT.to_ascii_lowercase()))
            );
        }
    }
    assert_eq!(opened, 10, "what is welcome is, both ways");
}

#[test]
fn frames_right_behind_the_request_are_carried_out() {
    let server = server(|_| {});
    let mut stream = connect(server.address());
    let mut bytes = format!("{UPGRADE}\r\n").into_bytes();
    bytes.extend(frame(r#"{"op":"ping","id":1}"#));
    let second = frame(r#"{"op":"ping","id":2}"#);
    bytes.extend(&second[..7]);
    stream.write_all(&bytes).unwrap();
    assert!(head(&mut stream).starts_with("http/1.1 101 "));
    assert_eq!(text(&mut stream), r#"{"op":"pong","id":1}"#);
    stream.write_all(&second[7..]).unwrap();
    assert_eq!(text(&mut stream), r#"{"op":"pong","id":2}"#);
}

#[test]
fn a_connection_that_asked_for_a_page_may_become_a_websocket_later() {
    let server = server(|_| {});
    let mut stream = connect(server.address());
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(head(&mut stream).starts_with("http/1.1 200 "));
    let mut body = [0; 5];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"live\n");
    let mut bytes = format!("{UPGRADE}\r\n").into_bytes();
    bytes.extend(frame(r#"{"op":"ping","id":1}"#));
    stream.write_all(&bytes).unwrap();
    assert!(head(&mut stream).starts_with("http/1.1 101 "));
    assert_eq!(text(&mut stream), r#"{"op":"pong","id":1}"#);
}

#[test]
fn whoever_says_nothing_or_half_a_request_is_cut_in_time() {
    let server = server(|config| config.websocket.handshake_timeout = Duration::from_millis(200));
    for begun in ["", "G", "GET /ws HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut stream = connect(server.address());
        stream.write_all(begun.as_bytes()).unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{begun:?}"),
        }
    }
    // And those beside them are served: one of many at least is not held up for so long before it asks.
    let served = (0..100).any(|_| {
        let mut stream = connect(server.address());
        stream.write_all(format!("{UPGRADE}\r\n").as_bytes()).is_ok()
            && head(&mut stream).starts_with("http/1.1 101 ")
    });
    assert!(served);
}

/// The ways in which a request becomes a connection of the broker's, and what it is told where it has.
const WAYS: [(&str, &str); 6] = [
    // At the door, and through hyper: there every request with a Content-Length goes.
    ("GET /ws HTTP/1.1\r\n", "http/1.1 101 "),
    ("GET /ws HTTP/1.1\r\nContent-Length: 0\r\n", "http/1.1 101 "),
    ("GET /ws?subscribe=a HTTP/1.1\r\n", "http/1.1 101 "),
    ("GET /ws?subscribe=a HTTP/1.1\r\nContent-Length: 0\r\n", "http/1.1 101 "),
    ("GET /v1/subscribe?filter=a HTTP/1.1\r\n", "http/1.1 200 "),
    ("POST /v1/sessions HTTP/1.1\r\nContent-Length: 0\r\n", "http/1.1 200 "),
];

impl Way {
    fn all() -> impl Iterator<Item = Way> {
        WAYS.into_iter().map(|(start, welcome)| {
            let request = UPGRADE.replace("GET /ws HTTP/1.1\r\n", start) + "\r\n";
            Way { request, welcome }
        })
    }

    /// The connection where it is welcome; else it is told that there is no room.
    fn enter(&self, address: SocketAddr) -> Option<TcpStream> {
        let mut stream = connect(address);
        stream.write_all(self.request.as_bytes()).unwrap();
        let head = head(&mut stream);
        if head.starts_with(self.welcome) {
            return Some(stream);
        }
        assert!(head.starts_with("http/1.1 503 "), "{head}");
        None
    }

    /// Tries until there is room, which a connection that is gone makes only when the broker knows.
    fn enter_soon(&self, address: SocketAddr) -> TcpStream {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(stream) = self.enter(address) {
                return stream;
            }
            assert!(Instant::now() < deadline, "no room after {:?}", self.request);
            thread::yield_now();
        }
    }
}

/// One of [`WAYS`].
struct Way {
    request: String,
    welcome: &'static str,
}

#[test]
fn no_more_are_welcome_than_the_configuration_says() {
    const ROOM: usize = 10;
    let server = server(|config| (config.server.max_connections, config.server.shards) = (ROOM, 2));
    let address = server.address();
    for way in Way::all() {
        // First while there is room, then each time after the others have made it by going.
        let mut held: Vec<_> = std::iter::repeat_with(|| way.enter_soon(address)).take(ROOM).collect();
        assert!(way.enter(address).is_none(), "one more than there is room for: {:?}", way.request);
        held.pop();
        held.push(way.enter_soon(address));
        assert!(way.enter(address).is_none(), "one more than there is room for: {:?}", way.request);
    }
}

#[test]
fn of_many_at_once_exactly_as_many_are_welcome_as_there_is_room_for() {
    const ROOM: usize = 10;
    const MANY: usize = 64;
    for round in 0..8 {
        let server = server(|config| (config.server.max_connections, config.server.shards) = (ROOM, 2));
        let address = server.address();
        let start = Arc::new(Barrier::new(MANY));
        let ways: Vec<_> = Way::all().collect();
        let threads: Vec<_> = (0..MANY)
            .map(|at| {
                let start = start.clone();
                // One way alone, then all of them side by side.
                let way = if round < ways.len() { &ways[round] } else { &ways[at % ways.len()] };
                let way = Way { request: way.request.clone(), ..*way };
                thread::spawn(move || {
                    start.wait();
                    way.enter(address)
                })
            })
            .collect();
        // None may go before all have come.
        let entered: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(entered.iter().flatten().count(), ROOM, "round {round}");
    }
}

#[test]
fn an_upgrade_that_comes_to_nothing_gives_its_place_back() {
    let server = server(|config| (config.server.max_connections, config.server.shards) = (1, 2));
    for way in Way::all() {
        for _ in 0..20 {
            let mut stream = connect(server.address());
            // Without waiting for the answer, and with a reset: it may be met at any point of the way.
            stream.write_all(way.request.as_bytes()).unwrap();
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(stream);
            drop(way.enter_soon(server.address()));
        }
    }
}

/// Two shards as the server starts them, whose figures can be seen.
struct Shards {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    orders: Vec<mpsc::Sender<Order>>,
    inboxes: Box<[Arc<Inbox>]>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Shards {
    fn start(count: usize) -> Self {
        let config = Arc::new(Config::default());
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let inboxes: Box<[_]> = (0..count).map(|_| Arc::new(Inbox::new(16))).collect();
        let hub = Arc::new(Hub::new(&config, inboxes.clone(), Box::new(Memory), || Epoch(1)));
        let metrics = Arc::new(Metrics::new(count, 1 << 20, 1 << 20));
        let (orders, ordered): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(16)).unzip();
        let turns = Arc::new(Turns::new(orders.iter().cloned().zip(inboxes.iter().cloned())));
        let start = |(number, ordered): (usize, mpsc::Receiver<Order>)| {
            let (config, hub, inbox) = (config.clone(), hub.clone(), inboxes[number].clone());
            let parts = Parts { number, shards: count, config, hub, inbox, metrics: metrics.shard(number) };
            let (listener, turns) = (listener.try_clone().unwrap(), turns.clone());
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                LocalSet::new().block_on(&runtime, async move {
                    let site = Rc::new(Site {
                        origins: Origins::new(&[], true).unwrap(),
                        handshake_timeout: Duration::from_secs(60),
                        ready: Box::new(|| true),
                        metrics: Box::new(String::new),
                        admit: Box::new(|| Admissions::new(1).admit().ok_or_else(String::new)),
                        api: None,
                        demo: false,
                    });
                    let serve = Box::new(|_, _| unreachable!("every request comes whole"));
                    let (serving, tasks) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
                    let mut shard = Shard::new(parts).unwrap();
                    let front = Front { listener, turns, site, serving, max_serving: 64, tasks, serve };
                    shard.listen(front).unwrap();
                    shard.run(ordered).await.unwrap();
                });
            })
        };
        let threads = ordered.into_iter().enumerate().map(start).collect();
        Self { address, metrics, orders, inboxes, threads }
    }

    fn connect(&self) -> TcpStream {
        let mut stream = connect(self.address);
        stream.write_all(format!("{UPGRADE}\r\n").as_bytes()).unwrap();
        assert!(head(&mut stream).starts_with("http/1.1 101 "));
        stream
    }

    /// What the shards have, once that is so many together.
    fn settled(&self, total: u64) -> [u64; 2] {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let each = [0, 1].map(|shard| self.metrics.connections(shard));
            if each.iter().sum::<u64>() == total {
                return each;
            }
            assert!(Instant::now() < deadline, "{each:?} in place of {total}");
            thread::yield_now();
        }
    }

    fn stop(self) {
        for (orders, inbox) in self.orders.iter().zip(&self.inboxes) {
            orders.blocking_send(Order::Drain { deadline: Instant::now() }).unwrap();
            inbox.wake();
        }
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn two_shards_share_the_connections_few_or_many() {
    let shards = Shards::start(2);
    let mut held: Vec<_> = Vec::new();
    for total in [2, 4, 16, 200_u64] {
        while held.len() < total as usize {
            held.push(shards.connect());
        }
        let [one, other] = shards.settled(total);
        assert!(one.abs_diff(other) <= 1 + total / 16, "{one} and {other} of {total}");
    }
    // Wherever they were: those that come next go where room was made.
    held.truncate(40);
    shards.settled(40);
    while held.len() < 120 {
        held.push(shards.connect());
    }
    let [one, other] = shards.settled(120);
    assert!(one.abs_diff(other) <= 1 + 120 / 8, "{one} and {other}");
    shards.stop();
}
