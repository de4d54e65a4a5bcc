//! What a slow or hostile client of the HTTP API can hold, and for how long.

mod http;

use std::{
    io::{BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    rc::Rc,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use http::{Answer, Api, Events, PATIENCE};
use serde_json::json;
use tidegate::{
    admission::Admissions,
    config::Config,
    engine::memory::Memory,
    http::{self as http_front, Origins, Site, api},
    hub::Hub,
};
use tidegate_protocol::Epoch;

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Everything up to the end of the connection.
fn rest(mut stream: impl Read) -> String {
    let mut all = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn a_body_that_does_not_come_in_time_is_cut() {
    let api = Api::with(|config| config.websocket.handshake_timeout = Duration::from_secs(1));
    for (head, body) in [
        ("POST /v1/topics/a HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 10", "x"),
        (
            "POST /v1/topics/a HTTP/1.1\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked",
            "1\r\nx\r\n",
        ),
        ("POST /v1/sessions HTTP/1.1\r\nContent-Length: 10", "x"),
        ("POST /v1/publish HTTP/1.1\r\nContent-Length: 10", ""),
    ] {
        let mut stream = api.connect();
        let request = format!("{head}\r\nHost: {}\r\n\r\n{body}", api.address);
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(rest(stream), "", "{head}");
    }
    assert_eq!(api.get("/v1/streams").json()["streams"][0]["offset"], 0);
}

#[test]
fn a_body_that_trickles_is_cut_however_long_it_claims_to_be() {
    let api = Api::with(|config| {
        config.websocket.handshake_timeout = Duration::from_secs(1);
        config.limits.batch_bytes = 1 << 30;
    });
    let mut stream = api.connect();
    let head =
        format!("POST /v1/publish HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000000\r\n\r\n", api.address);
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "it may trickle for ever");
        if stream.write_all(b" ").is_err() {
            break;
        }
        match stream.read(&mut [0; 64]) {
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
}

#[test]
fn the_metrics_tell_what_bodies_under_way_hold_and_may() {
    let api = Api::with(|config| config.memory.http_bytes = 3 << 20);
    let figure = |name: &str| -> u64 {
        let metrics = String::from_utf8(api.get("/metrics").body).unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
    };
    let until = |what: &str, is_so: &dyn Fn(u64) -> bool| {
        let start = Instant::now();
        while !is_so(figure("tidegate_http_body_bytes")) {
            assert!(start.elapsed() < PATIENCE, "never {what}");
        }
    };
    assert_eq!(figure("tidegate_http_body_budget_bytes"), 3 << 20);
    assert_eq!(figure("tidegate_http_body_bytes"), 0);
    let mut stream = api.connect();
    let head = "POST /v1/topics/a HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2000";
    stream.write_all(format!("{head}\r\nHost: {}\r\n\r\n", api.address).as_bytes()).unwrap();
    stream.write_all(&[b'x'; 1000]).unwrap();
    until("held", &|held| held >= 1000);
    stream.write_all(&[b'x'; 1000]).unwrap();
    assert_eq!(Answer::read(stream, false).status, 200);
    until("free again", &|held| held == 0);
}

#[test]
fn requests_in_a_row_are_answered_in_order_on_one_connection() {
    let api = Api::start();
    let mut stream = api.connect();
    let mut requests = String::new();
    for n in 0..50 {
        let body = n.to_string();
        requests += &format!(
            "POST /v1/topics/a HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            api.address,
            body.len()
        );
        requests += &format!("GET /v1/topics/none/history HTTP/1.1\r\nHost: {}\r\n\r\n", api.address);
    }
    stream.write_all(requests.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    for n in 1..=50 {
        assert_eq!(Answer::next(&mut reader, false).json()["offset"], n);
        assert_eq!(Answer::next(&mut reader, false).json()["messages"], json!([]));
    }
}

#[test]
fn nothing_a_publisher_sends_ends_an_event_or_forges_one() {
    let api = Api::start();
    let mut events = api.events("GET /v1/subscribe?filter=a", &[], b"");
    events.wait_for_id();
    let forged = "x\n\nevent: close\ndata: {}\n\nid: 1\rdata: y\r\n\u{2028}\0";
    api.ask("POST /v1/topics/a", &[("Content-Type", "text/plain")], forged.as_bytes()).json();
    assert_eq!(events.message()["text"], forged);
    let value = json!({"a\n\nb": forged});
    let pretty = serde_json::to_string_pretty(&value).unwrap().replace('\n', "\r\n");
    api.ask("POST /v1/topics/a", &[JSON], pretty.as_bytes()).json();
    assert_eq!(events.message()["json"], value);
    let headers = [JSON, ("X-Tidegate-Key", "event: close"), ("X-Tidegate-Header-data", "id: 7")];
    api.ask("POST /v1/topics/a", &headers, b"1").json();
    assert_eq!(events.message()["key"], "event: close");
}

#[test]
fn a_stream_that_nobody_reads_is_closed_for_its_stall_and_forgotten() {
    let api = Api::with(|config| {
        config.websocket.stall_timeout = Duration::from_secs(1);
        config.websocket.close_timeout = Duration::from_secs(0);
    });
    let mut events = api.events("GET /v1/subscribe?filter=a&overflow=drop_oldest", &[], b"");
    events.wait_for_id();
    let body = json!({"messages": vec![json!({"topic": "a", "text": "x".repeat(60_000)}); 16]}).to_string();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "it stays");
        api.ask("POST /v1/publish", &[JSON], body.as_bytes()).json();
        let metrics = String::from_utf8(api.get("/metrics").body).unwrap();
        if metrics.lines().any(|line| line == "tidegate_connections 0") {
            break;
        }
    }
    // Its HTTP connection goes as well, though it has still to write.
    let mut socket = events.socket();
    while socket.write_all(b"x").is_ok() {
        assert!(start.elapsed() < PATIENCE, "the socket stays");
        api.get("/live");
    }
}

/// A place among the HTTP connections, of which there are few; it tells when it is free again.
struct Slot(mpsc::SyncSender<()>);

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[test]
fn a_stream_of_events_gives_its_place_among_requests_back() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (free, freed) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let config = Arc::new(Config::default());
        let hub = Hub::new(&config, Box::new([]), Box::new(Memory), || Epoch(1));
        let (orders, mut ordered) = tokio::sync::mpsc::channel(8);
        let shared = Arc::new(api::Shared::new(&config));
        let site = Rc::new(Site {
            origins: Origins::new(&[], true).unwrap(),
            handshake_timeout: PATIENCE,
            ready: Box::new(|| true),
            metrics: Box::new(String::new),
            admit: Box::new(|| Admissions::new(1).admit().ok_or_else(String::new)),
            api: Some(api::Api::new(config, Arc::new(hub), orders, shared)),
            demo: false,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (stream, peer) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let serving = tokio::task::spawn_local(http_front::serve(
                stream,
                http_front::Begun::now(peer),
                site,
                Slot(free),
            ));
            // The shard's end of the pair is held, and nothing is said on it.
            let pair = ordered.recv().await;
            assert!(pair.is_some());
            let _ = serving.await;
        });
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /v1/subscribe?filter=a HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    freed.recv_timeout(PATIENCE).expect("the place is free");
    let events = Events::over(stream);
    assert_eq!(events.answer.status, 200, "and the stream goes on");
}
