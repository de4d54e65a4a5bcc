//! `tidegate demo`, by the real binary: its pages, its publishers' messages, how it ends.
#![cfg(feature = "cli")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use fixture::{PATIENCE, Running, tidegate};
use rustix::process::Signal;
use serde_json::Value;
use tidegate_client::{Client, ContentKind, Event, From, Message, Overflow, Subscription};
use tokio::time::timeout;

mod fixture;

/// A running demo.
struct Demo {
    process: Running,
    address: SocketAddr,
}

impl Demo {
    fn start() -> Self {
        let mut process = Running::start(&["demo", "--port", "0"]);
        let line = process.stderr.expect("open http://127.0.0.1:");
        let address = line
            .split_once("http://")
            .and_then(|(_, rest)| rest.split_once("/demo/"))
            .and_then(|(address, _)| address.parse().ok())
            .unwrap_or_else(|| panic!("no address in {line:?}"));
        Self { process, address }
    }

    async fn client(&self) -> Client {
        Client::connect(format!("ws://{}/ws", self.address)).await.unwrap()
    }

    /// Status and body of a GET.
    fn get(&self, path: &str) -> (u16, String) {
        let answer = self.answer(path);
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status.unwrap_or_else(|| panic!("{path}: {answer}")), body.to_owned())
    }

    /// Everything that a GET is answered with.
    fn answer(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// The next message; gaps are passed over.
async fn next(subscription: &mut Subscription) -> Message {
    loop {
        match timeout(PATIENCE, subscription.recv()).await {
            Ok(Some(Event::Message(message))) => return message,
            Ok(Some(_)) => {}
            other => panic!("{}: {other:?}", subscription.filter()),
        }
    }
}

/// Whatever `src` and `href` of this site a page names.
fn links(html: &str) -> impl Iterator<Item = &str> {
    html.split("=\"/").skip(1).filter_map(|rest| rest.split_once('"')).map(|(path, _)| path)
}

#[test]
fn every_page_is_there_with_all_that_it_links_to() {
    let demo = Demo::start();
    let mut seen = 0;
    for page in ["/demo", "/demo/", "/demo/chat/", "/demo/dashboard/", "/demo/telemetry/", "/demo/game/"] {
        let (status, html) = demo.get(page);
        assert_eq!(status, 200, "{page}");
        for link in links(&html) {
            let (status, text) = demo.get(&format!("/{link}"));
            assert_eq!(status, 200, "{page} links to /{link}");
            for import in text.split(" from \"").skip(1).filter_map(|rest| rest.split_once('"')) {
                assert_eq!(demo.get(import.0).0, 200, "/{link} imports {}", import.0);
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} links");
    // The SDK is for pages of any origin.
    let sdk = demo.answer("/client.js");
    assert!(sdk.contains("\r\naccess-control-allow-origin: *\r\n"), "{sdk}");
}

#[test]
fn no_other_broker_serves_them() {
    let broker = fixture::Broker::start();
    let mut stream = TcpStream::connect(broker.address()).unwrap();
    write!(stream, "GET /demo/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", broker.address()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn the_rooms_have_a_history_and_bots_answer_whoever_they_hear() {
    let demo = Demo::start();
    let client = demo.client().await;
    let mut gauge = client.subscribe("chat.brief.gauge").await.unwrap();
    assert_eq!(next(&mut gauge).await.topic.as_str(), "chat.brief.gauge");
    // The gauge speaks once the rooms are filled.
    assert_eq!(client.history("chat.room.kitchen").last(50).await.unwrap().len(), 50);
    let mut harbour = client.subscribe("chat.room.harbour").from(From::Live).await.unwrap();
    let line = tidegate_client::Payload::json(br#"{"from":"Rosa","text":"Ahoy."}"#).unwrap();
    client.publish("chat.room.harbour", line).await.unwrap();
    loop {
        let said: Value = serde_json::from_slice(next(&mut harbour).await.payload.data()).unwrap();
        if said["from"] != "Rosa" && said["text"].as_str().unwrap().contains("Rosa") {
            break;
        }
    }
}

#[tokio::test]
async fn prices_flow_while_somebody_watches_each_under_its_key() {
    let demo = Demo::start();
    let client = demo.client().await;
    let mut prices =
        client.subscribe("dashboard.prices").overflow(Overflow::Latest).limit(512).await.unwrap();
    let mut progress = client.subscribe("demo.dashboard").await.unwrap();
    let mut keys = std::collections::BTreeSet::new();
    while keys.len() < 400 {
        let message = next(&mut prices).await;
        assert!(serde_json::from_slice::<Value>(message.payload.data()).unwrap()["price"].is_f64());
        keys.insert(message.key.unwrap());
    }
    let published = |message: Message| {
        serde_json::from_slice::<Value>(message.payload.data()).unwrap()["published"].as_u64().unwrap()
    };
    let first = published(next(&mut progress).await);
    while published(next(&mut progress).await) <= first {}
}

#[tokio::test]
async fn every_device_has_a_last_value_however_the_flood_goes() {
    let demo = Demo::start();
    let client = demo.client().await;
    // Who is subscribed to this has the page open: the flood begins.
    let mut progress = client.subscribe("demo.telemetry").await.unwrap();
    loop {
        let data: Value = serde_json::from_slice(next(&mut progress).await.payload.data()).unwrap();
        // More than the log holds.
        if data["flooded"].as_u64().unwrap() > 5000 {
            break;
        }
    }
    let mut silent = client.subscribe("fleet.*.d07.*").from(From::Last { n: 1, at: None }).await.unwrap();
    for _ in 0..8 * 3 {
        next(&mut silent).await;
    }
    let logged = client.history("fleet.berlin.d07.battery").from(From::Beginning).await.unwrap();
    assert!(logged.is_empty(), "the log has let go of it: {logged:?}");
}

#[tokio::test]
async fn boats_say_where_they_are_in_bincode_and_the_world_is_kept() {
    let demo = Demo::start();
    let client = demo.client().await;
    let mut boats = client.subscribe("game.boats").overflow(Overflow::Latest).await.unwrap();
    let mut keys = std::collections::BTreeSet::new();
    while keys.len() < 5 {
        let message = next(&mut boats).await;
        assert_eq!(message.payload.kind(), ContentKind::Binary);
        // A name with its length before it, a hue, four f32: what the page decodes.
        let bytes = message.payload.data();
        assert_eq!(bytes.len(), 1 + usize::from(bytes[0]) + 1 + 16);
        keys.insert(message.key.unwrap());
    }
    let mut world = client.subscribe("game.world.*").from(From::Last { n: 1, at: None }).await.unwrap();
    let mut topics = std::collections::BTreeSet::new();
    while topics.len() < 2 {
        topics.insert(next(&mut world).await.topic.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_with_clients_connected() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut demo = Demo::start();
        let client = demo.client().await;
        let mut prices = client.subscribe("dashboard.prices").await.unwrap();
        let _progress = client.subscribe("demo.dashboard").await.unwrap();
        next(&mut prices).await;
        demo.process.signal(signal);
        assert_eq!(demo.process.wait().code(), Some(0), "{signal:?}");
    }
}

#[test]
fn a_port_in_use_is_one_line_and_exit_code_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = tidegate(&["demo", "--port", &port]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{said}");
}
