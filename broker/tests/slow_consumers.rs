//! Readers that do not read: what they cost, whom they cost it, and what they are told once they read.
//!
//! The broker is the real binary, so that its memory is its own.

#![cfg(feature = "cli")]

mod fixture;
mod raw;

use std::{collections::HashMap, fmt::Write as _, fs, net::SocketAddr, sync::Arc};

use fixture::{Broker, PATIENCE};
use futures_util::StreamExt;
use raw::Raw;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tidegate_protocol::Codec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Barrier,
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

const HEALTHY: usize = 1000;
const MESSAGES: u64 = 3000;
/// Few enough for a socket's buffers: a healthy reader is never behind, however busy the machine is. Enough that the
/// kernel begins a part of what is flushed to a stalled one, and the rest has to go into its lane.
const BATCH: u64 = 100;
const PAYLOAD_BYTES: usize = 1024;
/// More keys than a `latest` lane has room for, so that it evicts as well as merges.
const KEYS: u64 = 400;

const POLICIES: [&str; 5] = ["catch_up", "drop_oldest", "drop_newest", "latest", "disconnect"];
/// Stalled readers of each policy.
const STALLED_EACH: usize = 2;
const STALLED: u64 = (POLICIES.len() * STALLED_EACH) as u64;
/// The bound of a subscription that asks for none.
const LIMIT_BYTES: u64 = 256 << 10;
/// A message with what its place in a lane costs.
const MESSAGE_BYTES: u64 = 2 << 10;
/// What a blocked socket may hold in the process beside its lanes: the rest of a WebSocket message.
const PARTIAL_BYTES: u64 = 256 << 10;
/// What does not grow with messages or readers: arenas, scratch buffers, what the allocator keeps.
const CONSTANT_BYTES: u64 = 8 << 20;

/// The smallest receive buffer the kernel gives.
const RECEIVE_BUFFER: u32 = 2304;

/// Clocks that do not matter here stand still.
const CONFIG: &str = "[websocket]\nping_interval = \"1h\"\nclose_timeout = \"1m\"\n";

/// Subscribes to the one topic there is.
async fn subscribe(raw: &mut Raw, overflow: &str) -> Value {
    raw.say(format!(r#"{{"op":"subscribe","id":1,"filter":"slow.topic","overflow":"{overflow}"}}"#)).await;
    raw.until("ack").await
}

/// Subscribed, with a socket that takes next to nothing, and left unread.
async fn stalled(broker: &Broker, overflow: &str) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    let stream = socket.connect(broker.address()).await.unwrap();
    let mut raw = Raw::over(stream, &broker.url(), Codec::Json).await;
    let ack = subscribe(&mut raw, overflow).await;
    assert_eq!((&ack["overflow"], &ack["limit_bytes"]), (&overflow.into(), &LIMIT_BYTES.into()));
    raw
}

/// Publishes messages `from..=to` with one key after the other, and waits for their acks.
async fn publish(raw: &mut Raw, from: u64, to: u64) {
    let mut lines = String::new();
    for n in from..=to {
        let key = n % KEYS;
        writeln!(
            lines,
            r#"{{"op":"publish","id":{n},"topic":"slow.topic","text":"{n:.<PAYLOAD_BYTES$}","key":"{key}"}}"#
        )
        .unwrap();
    }
    raw.say(lines.trim_end()).await;
    for n in from..=to {
        let ack = raw.until("ack").await;
        assert_eq!((&ack["id"], &ack["offset"]), (&n.into(), &n.into()));
    }
}

/// Reads messages whose offsets follow each other, up to `to`. Parsing each of millions of lines would be the slowest
/// part of the test, and the place of the offset is known.
async fn read_consecutive(raw: &mut Raw, at: &mut u64, to: u64) {
    const PREFIX: &str = r#"{"op":"message","topic":"slow.topic","offset":"#;
    while *at < to {
        let text = match timeout(PATIENCE, raw.socket().next()).await.expect("messages come") {
            Some(Ok(Message::Text(text))) => text,
            other => panic!("after {at}: {other:?}"),
        };
        for line in text.split('\n') {
            let rest = line.strip_prefix(PREFIX).unwrap_or_else(|| panic!("after {at}: {line}"));
            let offset = rest.split(',').next().and_then(|digits| digits.parse().ok());
            assert_eq!(offset, Some(*at + 1));
            *at += 1;
        }
    }
}

/// The figure under this name on the metrics page.
async fn metric(address: SocketAddr, name: &str) -> u64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut page)).await.expect("an answer").unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// What a process has in memory, in bytes.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    kib.unwrap().parse::<u64>().unwrap() << 10
}

/// What a reader that stalled was given and told, once it reads.
#[derive(Debug, Default)]
struct Books {
    messages: u64,
    gapped: u64,
    /// The newest value of each key.
    newest: HashMap<String, u64>,
}

impl Books {
    /// Takes a message or a gap. Where the policy keeps the order of the log, everything follows what came before it.
    fn take(&mut self, frame: &Value, overflow: &str) {
        let at = self.messages + self.gapped;
        match frame["op"].as_str().unwrap() {
            "message" => {
                let offset = frame["offset"].as_u64().unwrap();
                let text = frame["text"].as_str().unwrap();
                assert_eq!(text, format!("{offset:.<PAYLOAD_BYTES$}"));
                let before = self.newest.insert(frame["key"].as_str().unwrap().to_owned(), offset);
                assert!(before.is_none_or(|before| before < offset), "a key went back");
                if overflow != "latest" {
                    assert_eq!(offset, at + 1, "{overflow}: a hole that no gap told of");
                }
                self.messages += 1;
            }
            "gap" => {
                let count = frame["count"].as_u64().unwrap();
                let (from, to) = (frame["from"].as_u64().unwrap(), frame["to"].as_u64().unwrap());
                assert!(count > 0 && from <= to && frame["policy"] == overflow, "{frame}");
                if overflow != "latest" {
                    assert_eq!(
                        (from, to, &frame["reason"]),
                        (at + 1, at + count, &"overflow".into()),
                        "{frame}"
                    );
                }
                self.gapped += count;
            }
            _ => panic!("{frame}"),
        }
    }
}

/// Reads to the end of the connection: what was written to it, and the close frame's code and reason.
async fn read_to_close(raw: &mut Raw, overflow: &str) -> (Books, u16, String) {
    let mut books = Books::default();
    loop {
        match timeout(PATIENCE, raw.socket().next()).await.expect("something comes") {
            Some(Ok(Message::Text(text))) => {
                text.split('\n').for_each(|line| books.take(&fixture::json(line), overflow));
            }
            Some(Ok(Message::Close(Some(close)))) => {
                return (books, close.code.into(), close.reason.as_str().to_owned());
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A socket for each reader, and some; the broker sees to its own.
fn raise_open_files() {
    const FILES: u64 = 2 * HEALTHY as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < FILES) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), ..limit }).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_readers_that_stall_cost_their_bound_and_a_thousand_others_nothing() {
    raise_open_files();
    // So that a batch gathers to one flush of several WebSocket messages.
    let broker = Broker::configured(&format!("{CONFIG}flush_interval = \"5ms\"\nstall_timeout = \"1h\"\n"));
    let (address, url) = (broker.address(), broker.url());

    let mut unread = Vec::new();
    for overflow in POLICIES {
        for _ in 0..STALLED_EACH {
            unread.push((overflow, stalled(&broker, overflow).await));
        }
    }
    let barrier = Arc::new(Barrier::new(HEALTHY + 1));
    let mut healthy = JoinSet::new();
    for _ in 0..HEALTHY {
        let (url, barrier) = (url.clone(), barrier.clone());
        healthy.spawn(async move {
            let mut raw = Raw::json(&url).await;
            subscribe(&mut raw, "catch_up").await;
            let mut at = 0;
            barrier.wait().await;
            for batch in 1..=MESSAGES / BATCH {
                read_consecutive(&mut raw, &mut at, batch * BATCH).await;
                barrier.wait().await;
            }
            raw
        });
    }
    // One that fails never comes to the barrier.
    let all = async |healthy: &mut JoinSet<Raw>| {
        tokio::select! {
            _ = barrier.wait() => {}
            Some(failed) = healthy.join_next() => drop(failed.expect("every healthy reader has all there is")),
        }
    };
    all(&mut healthy).await;
    let mut publisher = Raw::json(&url).await;
    let before = resident(broker.pid());

    let (mut most_pinned, mut most_resident, mut closed) = (0, 0, 0);
    for batch in 0..MESSAGES / BATCH {
        publish(&mut publisher, batch * BATCH + 1, (batch + 1) * BATCH).await;
        all(&mut healthy).await;
        most_pinned = most_pinned.max(metric(address, "tidegate_outbox_bytes").await);
        most_resident = most_resident.max(resident(broker.pid()));
        // Those that would rather be closed are: they read what was written to them, and then why.
        if metric(address, "tidegate_closed_slow_total").await == STALLED_EACH as u64 && closed == 0 {
            for (_, mut raw) in unread.extract_if(.., |(overflow, _)| *overflow == "disconnect") {
                let (books, code, reason) = read_to_close(&mut raw, "disconnect").await;
                assert_eq!((code, books.gapped), (4008, 0));
                assert_eq!(reason, format!("slow: sub 1 sent {} gapped 0", books.messages));
                closed += 1;
            }
        }
    }
    let grown = most_resident.saturating_sub(before);
    let log_bytes = metric(address, "tidegate_log_bytes").await;
    println!("{most_pinned} bytes pinned at most; {grown} bytes grown, of which the log has {log_bytes}");
    assert_eq!(closed, STALLED_EACH, "disconnect");
    assert!(most_pinned <= STALLED * (LIMIT_BYTES + MESSAGE_BYTES), "{most_pinned} bytes pinned");
    let bound = log_bytes + STALLED * (LIMIT_BYTES + PARTIAL_BYTES) + CONSTANT_BYTES;
    assert!(grown <= bound, "{grown} bytes grown, {bound} allowed");

    // At last they read.
    for (overflow, raw) in &mut unread {
        let mut books = Books::default();
        while books.messages + books.gapped < MESSAGES {
            books.take(&raw.frame().await, overflow);
        }
        println!("{overflow}: {} messages, {} told missing", books.messages, books.gapped);
        match *overflow {
            "catch_up" => assert_eq!(books.gapped, 0),
            "latest" => {
                // The newest of every key that was not evicted, and none is newer than the log's.
                let newest = books.newest.values().max();
                assert_eq!(newest, Some(&MESSAGES));
                assert!(books.gapped > 0);
            }
            _ => assert!(books.gapped > 0, "{overflow}: the kernel held it all"),
        }
        // The broker's own books say the same.
        raw.say(r#"{"op":"unsubscribe","id":2,"sub":1}"#).await;
        let mark = raw.until("mark").await;
        let entry = &mark["subs"][0];
        assert_eq!((&entry["messages"], &entry["gapped"]), (&books.messages.into(), &books.gapped.into()));
    }
    assert_eq!(metric(address, "tidegate_outbox_bytes").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_too_long_is_closed_with_4009_and_nobody_else_notices() {
    let broker = Broker::configured(&format!("{CONFIG}stall_timeout = \"1s\"\n"));
    let mut unread = Vec::new();
    for overflow in ["catch_up", "drop_oldest"] {
        unread.push((overflow, stalled(&broker, overflow).await));
    }
    let mut healthy = Raw::json(&broker.url()).await;
    subscribe(&mut healthy, "catch_up").await;
    let mut publisher = Raw::json(&broker.url()).await;
    let mut at = 0;
    while metric(broker.address(), "tidegate_closed_slow_total").await < unread.len() as u64 {
        publish(&mut publisher, at + 1, at + BATCH).await;
        let to = at + BATCH;
        read_consecutive(&mut healthy, &mut at, to).await;
    }
    for (overflow, mut raw) in unread {
        let (books, code, reason) = read_to_close(&mut raw, overflow).await;
        assert_eq!(code, 4009);
        let told = format!("stalled: sent {} gapped {} pinned ", books.messages, books.gapped);
        assert!(reason.starts_with(&told), "{reason:?}, not {told:?}");
    }
    publish(&mut publisher, at + 1, at + BATCH).await;
    let to = at + BATCH;
    read_consecutive(&mut healthy, &mut at, to).await;
}
