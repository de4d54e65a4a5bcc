//! Subscribing by the WebSocket's URL: exactly as if the first frames were `subscribe` frames with ids from 1, and in one
//! write with the answer to the request.

mod raw;
mod seeds;

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use raw::Raw;
use serde_json::{Value, json};
use tidegate::{
    config::{Config, Stream},
    server::Server,
};
use tidegate_protocol::{Codec, ServerFrame, frame::AckResult};

fn start(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.server.shards = 2;
    change(&mut config);
    Server::start(config).unwrap()
}

fn with(server: &Server, query: &str) -> String {
    format!("{}?{query}", server.url())
}

async fn publish(client: &mut Raw, id: u64, topic: &str) {
    client.say(json!({"op": "publish", "id": id, "topic": topic, "text": id.to_string()}).to_string()).await;
    client.until("ack").await;
}

/// A broker with 1 to 5 in `chat.a` and 6 in `chat.b`, and who published them.
async fn history() -> (Server, Raw) {
    let server = start(|_| {});
    let mut publisher = Raw::json(&server.url()).await;
    for n in 1..=6 {
        publish(&mut publisher, n, if n < 6 { "chat.a" } else { "chat.b" }).await;
    }
    (server, publisher)
}

async fn texts(client: &mut Raw, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        let frame = client.frame().await;
        assert_eq!(frame["op"], "message", "{frame}");
        texts.push(frame["text"].as_str().unwrap().to_owned());
    }
    texts
}

/// An upgrade request for `target`, with more header lines.
fn request(target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A request with this goes to hyper, every other that is whole is answered at the door.
const OVER_HYPER: &str = "Content-Length: 0\r\n";

fn ask(server: &Server, target: &str, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(raw::PATIENCE)).unwrap();
    stream.write_all(request(target, more).as_bytes()).unwrap();
    stream
}

/// What a server says of frames: those of the WebSocket messages in `bytes`, unfragmented, up to 64 KiB.
fn frames(mut bytes: &[u8]) -> Vec<Value> {
    let mut frames = Vec::new();
    while let [first, length, ..] = *bytes {
        assert_eq!(first, 0x81);
        let (head, length) = match length {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            short => (2, usize::from(short)),
        };
        let text = std::str::from_utf8(&bytes[head..head + length]).unwrap();
        frames.extend(text.split('\n').map(|line| serde_json::from_str::<Value>(line).unwrap()));
        bytes = &bytes[head + length..];
    }
    frames
}

/// A client's text frame, masked with zeros.
fn client_frame(text: &str) -> Vec<u8> {
    let mut frame = match text.len() {
        short @ 0..126 => vec![0x81, 0x80 | short as u8],
        long => [[0x81, 0xfe], (long as u16).to_be_bytes()].concat(),
    };
    frame.extend([0; 4]);
    frame.extend(text.bytes());
    frame
}

#[test]
fn the_acks_come_in_one_read_with_the_answer() {
    let server = start(|_| {});
    let mut stream = ask(&server, "/ws?subscribe=chat.*&subscribe=a", "");
    let mut bytes = vec![0; 4096];
    let read = stream.read(&mut bytes).unwrap();
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(bytes.starts_with(b"HTTP/1.1 101 "));
    let acks = frames(&bytes[head..read]);
    let told: Vec<_> = acks.iter().map(|ack| (&ack["op"], &ack["id"])).collect();
    assert_eq!(told, [(&json!("ack"), &json!(1)), (&json!("ack"), &json!(2))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_live_follow_the_ack_without_a_hole_in_either_codec() {
    let (server, mut publisher) = history().await;
    let mut client = Raw::json(&with(&server, "subscribe=chat.%3E&from=beginning")).await;
    let ack = client.frame().await;
    assert_eq!((&ack["op"], &ack["id"]), (&json!("ack"), &json!(1)));
    let epoch = ack["positions"][0]["epoch"].as_str().unwrap().to_owned();
    assert_eq!((&ack["positions"][0]["offset"], &ack["positions"][0]["live"]), (&json!(0), &json!(6)));
    publish(&mut publisher, 7, "chat.a").await;
    assert_eq!(texts(&mut client, 7).await, ["1", "2", "3", "4", "5", "6", "7"]);

    for (from, want) in [
        (format!("{epoch}:4"), &["5", "6", "7"][..]),
        ("last:1".into(), &["6", "7"]),
        ("last%3A2".into(), &["5", "6", "7"]),
    ] {
        let mut client = Raw::json(&with(&server, &format!("subscribe=chat.*&from={from}"))).await;
        assert_eq!(client.frame().await["op"], "ack", "{from}");
        assert_eq!(texts(&mut client, want.len()).await, want, "{from}");
    }

    let mut client = Raw::connect(&with(&server, "subscribe=chat.b&from=last:1"), Codec::Bincode).await;
    let first = client.decoded().await;
    assert!(matches!(first, ServerFrame::Ack { id: 1, result: AckResult::Subscribed(_) }), "{first:?}");
    let second = client.decoded().await;
    assert!(
        matches!(&second, ServerFrame::Message(message) if message.topic.as_str() == "chat.b"),
        "{second:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_position_is_told_as_a_gap_behind_the_ack() {
    let (server, _publisher) = history().await;
    let mut client = Raw::json(&with(&server, "subscribe=chat.a&from=00000000000000ff:3")).await;
    assert_eq!(client.frame().await["op"], "ack");
    let gap = client.frame().await;
    assert_eq!((&gap["op"], &gap["reason"], &gap["sub"]), (&json!("gap"), &json!("epoch"), &json!(1)));
    assert_eq!(texts(&mut client, 5).await, ["1", "2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_come_through_percent_encoding_and_one_that_stands_twice_is_two_subscriptions() {
    let server = start(|_| {});
    let mut publisher = Raw::json(&server.url()).await;
    let query =
        "subscribe=gr%C3%B6%C3%9Fe.%2A&subscribe=%e2%9c%93.%3e&subscribe=a*b.c&subscribe=gr%C3%B6%C3%9Fe.*";
    // A token may hold no wildcard among other characters.
    let mut refused = ask(&server, &format!("/ws?{query}"), "");
    let mut start = [0; 12];
    refused.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 400");
    let mut client = Raw::json(&with(&server, &query.replace("&subscribe=a*b.c", ""))).await;
    for id in 1..=3 {
        assert_eq!(client.frame().await["id"], id);
    }
    publish(&mut publisher, 1, "größe.xl").await;
    publish(&mut publisher, 2, "✓.a.b").await;
    publish(&mut publisher, 3, "sonst").await;
    publish(&mut publisher, 4, "größe.s").await;
    // Each once, though two subscriptions take the first and the last.
    assert_eq!(texts(&mut client, 3).await, ["1", "2", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_says_next_is_behind_the_urls_frames() {
    let server = start(|_| {});
    let mut client = Raw::json(&with(&server, "subscribe=a&subscribe=b")).await;
    client.say(r#"{"op":"subscribe","id":2,"filter":"c"}"#).await;
    client.say(r#"{"op":"connect","id":3}"#).await;
    client.say(r#"{"op":"unsubscribe","id":4,"sub":1}"#).await;
    assert_eq!(
        (client.frame().await["id"].clone(), client.frame().await["id"].clone()),
        (json!(1), json!(2))
    );
    assert_eq!(client.frame().await["name"], "id_not_growing");
    assert_eq!(client.frame().await["name"], "already_connected");
    assert_eq!(client.until("unsubscribed").await["sub"], 1);
    assert_eq!(client.frame().await, json!({"op": "ack", "id": 4}));
    // And what lies right behind the request, too.
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(raw::PATIENCE)).unwrap();
    let mut bytes = request("/ws?subscribe=a", "").into_bytes();
    bytes.extend(client_frame(r#"{"op":"ping","id":2}"#));
    stream.write_all(&bytes).unwrap();
    let mut said = Vec::new();
    while !said.ends_with(br#"{"op":"pong","id":2}"#) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    let head = said.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(frames(&said[head..]).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_s_bound_on_subscriptions_is_told_as_it_is_to_a_frame() {
    let server = start(|config| config.limits.subscriptions = 2);
    let mut client = Raw::json(&with(&server, "subscribe=a&subscribe=b&subscribe=c")).await;
    assert_eq!(client.frame().await["op"], "ack");
    assert_eq!(client.frame().await["op"], "ack");
    let error = client.frame().await;
    assert_eq!((&error["id"], &error["name"]), (&json!(3), &json!("too_many_subscriptions")));
}

#[test]
fn a_query_that_cannot_be_meant_is_refused_before_the_upgrade_alike_both_ways() {
    let server = start(|_| {});
    let many = vec!["subscribe=a"; 65].join("&");
    for (query, code, name) in [
        (&*many, 1003, "bad_field"),
        ("subscribe=a&x=1", 1003, "bad_field"),
        ("x=1", 1003, "bad_field"),
        ("from=beginning", 1003, "bad_field"),
        ("subscribe=a&from=soon", 1003, "bad_field"),
        ("subscribe=a&overflow=spill", 1003, "bad_field"),
        ("subscribe=a&limit=-1", 1003, "bad_field"),
        ("subscribe=a..b", 1201, "filter_invalid"),
        ("subscribe=", 1201, "filter_invalid"),
        ("subscribe=%zz", 400, "bad_request"),
    ] {
        let answers = ["", OVER_HYPER].map(|more| {
            let mut stream = ask(&server, &format!("/ws?{query}"), &format!("Connection: close\r\n{more}"));
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 400 "), "{query}: {head}");
            serde_json::from_str::<Value>(body).unwrap()["error"].clone()
        });
        assert_eq!(answers[0], answers[1], "{query}");
        assert_eq!((&answers[0]["code"], &answers[0]["name"]), (&json!(code), &json!(name)), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_the_books_of_a_urls_subscription() {
    let (server, _publisher) = history().await;
    let mut client = Raw::json(&with(&server, "subscribe=chat.*&from=beginning")).await;
    assert_eq!(client.frame().await["op"], "ack");
    texts(&mut client, 6).await;
    let stopping = std::thread::spawn(move || server.stop());
    let mark = client.until("mark").await;
    assert_eq!((&mark["subs"][0]["sub"], &mark["subs"][0]["messages"]), (&json!(1), &json!(6)));
    client.until("drain").await;
    assert_eq!(client.closed().await, Some(4000));
    stopping.join().unwrap().unwrap();
}

/// Whatever is asked for: the same frames come back as for frames, at the door and over hyper.
#[test]
fn a_url_is_answered_as_the_frames_it_stands_for() {
    const FILTERS: [&str; 6] = ["chat.a", "chat.*", ">", "live.x", "*.b", "größe"];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = start(|config| {
        let narrow = Stream { filters: vec!["chat.>".parse().unwrap()], ..config.streams[0].clone() };
        config.streams = vec![Stream { name: "chat".into(), ..narrow }];
    });
    runtime.block_on(async {
        let mut publisher = Raw::json(&server.url()).await;
        for n in 1..=9 {
            publish(&mut publisher, n, ["chat.a", "chat.b", "live.x"][n as usize % 3]).await;
        }
    });
    seeds::for_each_seed(40, |rng| {
        let (mut query, mut asked, mut options) = (Vec::new(), Vec::new(), json!({"op": "subscribe"}));
        let mut option = |name: &str, text: String, value: Value| {
            query.push(format!("{name}={text}"));
            options[name] = value;
        };
        if rng.bool() {
            let policy = ["catch_up", "drop_oldest", "drop_newest", "latest", "disconnect"][rng.usize(..5)];
            option("overflow", policy.into(), json!(policy));
        }
        if rng.bool() {
            let (limit, bytes) = (rng.u32(0..100_000), rng.u32(0..100_000_000));
            option("limit", limit.to_string(), json!(limit));
            option("limit_bytes", bytes.to_string(), json!(bytes));
        }
        match rng.u8(..4) {
            0 => option("from", "beginning".into(), json!("beginning")),
            1 => option("from", "last:2".into(), json!({"last": 2})),
            2 => option("from", "since:5".into(), json!({"since": 5})),
            _ => {}
        }
        for id in 1..=rng.usize(1..8) {
            let filter = FILTERS[rng.usize(..FILTERS.len())];
            query.insert(rng.usize(..=query.len()), String::new());
            query.push(format!(
                "subscribe={}",
                filter.replace('>', "%3E").replace('ö', "%C3%B6").replace('ß', "%c3%9f")
            ));
            let mut frame = options.clone();
            (frame["id"], frame["filter"]) = (json!(id), json!(filter));
            asked.push(frame.to_string());
        }
        let (query, last) = (query.join("&"), json!({"op": "ping", "id": 99}).to_string());
        let heard = |bytes: Vec<u8>| {
            let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            frames(&bytes[head..])
        };
        let listen = |target: &str, more: &str, first: &str| {
            let mut stream = ask(&server, target, more);
            let mut say = |text: &str| stream.write_all(&client_frame(text)).unwrap();
            if !first.is_empty() {
                say(first);
            }
            say(&last);
            let mut said = Vec::new();
            // Its answer may overtake what is read from a log, and nothing else: acks come before it.
            while !said.ends_with(br#"{"op":"pong","id":99}"#) {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                said.push(byte[0]);
            }
            let acks = heard(said).into_iter().filter(|frame| frame["op"] != "message");
            acks.collect::<Vec<_>>()
        };
        let by_frames = listen("/ws", "", &asked.join("\n"));
        let target = format!("/ws?{query}");
        assert_eq!(listen(&target, "", ""), by_frames, "{query}");
        assert_eq!(listen(&target, OVER_HYPER, ""), by_frames, "{query}");
    });
}
