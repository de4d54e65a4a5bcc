//! The client against a real broker of this process, over loopback and over lines that are cut.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tidegate::{config::Config, server::Server};
use tidegate_client::{Client, Codec, Event, From, Options, Overflow, Payload, Subscription};
use tokio::{
    io::{copy_bidirectional, duplex},
    net::TcpStream,
    task::AbortHandle,
    time::timeout,
};

/// No test takes this long unless something is stuck.
const STUCK: Duration = Duration::from_secs(60);

fn broker() -> Server {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    Server::start(config).unwrap()
}

/// A line to a broker that can be cut: what was on its way in either direction is lost.
#[derive(Clone, Default)]
struct Line {
    current: Arc<Mutex<Option<AbortHandle>>>,
}

impl Line {
    fn options(&self, server: &Server) -> Options {
        let (address, current) = (server.address(), self.current.clone());
        Options::new().dial(move || {
            let current = current.clone();
            async move {
                let mut far = TcpStream::connect(address).await?;
                far.set_nodelay(true)?;
                let (ours, mut near) = duplex(16 * 1024);
                let copying = tokio::spawn(async move {
                    // However it ends, both sides see it.
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
                *current.lock().unwrap() = Some(copying.abort_handle());
                Ok(ours)
            }
        })
    }

    fn cut(&self) {
        if let Some(copying) = self.current.lock().unwrap().take() {
            copying.abort();
        }
    }
}

async fn next_text(subscription: &mut Subscription) -> String {
    match timeout(STUCK, subscription.recv()).await.expect("a message comes") {
        Some(Event::Message(message)) => message.payload.as_str().unwrap().to_owned(),
        other => panic!("expected a message, not {other:?}"),
    }
}

#[tokio::test]
async fn what_is_published_in_one_codec_is_read_in_the_other() {
    let server = broker();
    let json = Options::new().codec(Codec::Json).connect(server.url()).await.unwrap();
    let bincode = Options::new().codec(Codec::Bincode).connect(server.url()).await.unwrap();
    let mut in_json = json.subscribe("a.>").await.unwrap();
    let mut in_bincode = bincode.subscribe("a.>").await.unwrap();
    let payloads =
        [Payload::json(br#"{"n":[1,2]}"#).unwrap(), Payload::text("größe"), Payload::binary(vec![0, 255])];
    for (n, payload) in payloads.iter().enumerate() {
        let publisher = if n % 2 == 0 { &json } else { &bincode };
        let ack = publisher.publish("a.b", payload.clone()).await.unwrap();
        for subscription in [&mut in_json, &mut in_bincode] {
            match timeout(STUCK, subscription.recv()).await.unwrap() {
                Some(Event::Message(message)) => {
                    assert_eq!(&message.payload, payload);
                    assert_eq!(message.offset, ack.position.as_ref().map(|position| position.offset));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    json.drain().await.unwrap();
    bincode.drain().await.unwrap();
    server.stop().unwrap();
}

#[tokio::test]
async fn the_newest_n_and_history_come_in_order() {
    let server = broker();
    let client = Client::connect(server.url()).await.unwrap();
    for n in 0..10 {
        client.publish("numbers", n.to_string()).await.unwrap();
    }
    let mut last = client.subscribe("numbers").from(From::Last { n: 3, at: None }).await.unwrap();
    let mut all = client.subscribe("numbers").from(From::Beginning).await.unwrap();
    client.publish("numbers", "10").await.unwrap();
    for expected in ["7", "8", "9", "10"] {
        assert_eq!(next_text(&mut last).await, expected);
    }
    for expected in 0..=10 {
        assert_eq!(next_text(&mut all).await, expected.to_string());
    }
    let newest = client.history("numbers").last(2).await.unwrap();
    assert_eq!(
        newest.iter().map(|message| message.payload.as_str().unwrap()).collect::<Vec<_>>(),
        ["9", "10"]
    );
    let oldest = client.history("numbers").limit(2).await.unwrap();
    assert_eq!(
        oldest.iter().map(|message| message.payload.as_str().unwrap()).collect::<Vec<_>>(),
        ["0", "1"]
    );
    let since = last.position().to_vec();
    drop(last);
    client.publish("numbers", "11").await.unwrap();
    let mut resumed = client.subscribe("numbers").from(From::Positions(since)).await.unwrap();
    assert_eq!(next_text(&mut resumed).await, "11");
    client.drain().await.unwrap();
    server.stop().unwrap();
}

#[tokio::test]
async fn an_unread_subscription_catches_up_whole_once_it_is_read() {
    const COUNT: usize = 5000;
    let server = broker();
    let client = Client::connect(server.url()).await.unwrap();
    let mut unread = client.subscribe("numbers").buffer(16).overflow(Overflow::CatchUp).await.unwrap();
    let mut acks = Vec::new();
    for n in 0..COUNT {
        acks.push(client.enqueue("numbers", n.to_string()).await.unwrap());
    }
    for ack in acks {
        timeout(STUCK, ack).await.unwrap().unwrap();
    }
    assert!(unread.lag() <= 16);
    for n in 0..COUNT {
        assert_eq!(next_text(&mut unread).await, n.to_string());
    }
    assert_eq!(client.stats().books_differ, 0);
    client.drain().await.unwrap();
    server.stop().unwrap();
}

#[tokio::test]
async fn through_cut_lines_every_message_comes_once_and_in_order() {
    const COUNT: usize = 20_000;
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("TIDEGATE_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let server = broker();
    let (publishing, subscribing) = (Line::default(), Line::default());
    let publisher = publishing.options(&server).connect(server.url()).await.unwrap();
    let subscriber = subscribing.options(&server).connect(server.url()).await.unwrap();
    let mut one = subscriber.subscribe("numbers.*").await.unwrap();
    let mut other = subscriber.subscribe("numbers.odd").await.unwrap();

    let cuts: Vec<usize> = (0..4).map(|_| rng.usize(..COUNT)).collect();
    let publish = async {
        let mut acks = Vec::new();
        for n in 0..COUNT {
            let topic = if n % 2 == 0 { "numbers.even" } else { "numbers.odd" };
            acks.push(publisher.enqueue(topic, n.to_string()).await.unwrap());
            if cuts.contains(&n) {
                publishing.cut();
            }
        }
        for ack in acks {
            timeout(STUCK, ack).await.expect("an ack comes").unwrap();
        }
    };
    let cuts: Vec<usize> = (0..4).map(|_| rng.usize(..COUNT)).collect();
    let read = async {
        for n in 0..COUNT {
            assert_eq!(next_number(&mut one).await, n);
            if cuts.contains(&n) {
                subscribing.cut();
            }
        }
        for n in (1..COUNT).step_by(2) {
            assert_eq!(next_number(&mut other).await, n);
        }
    };
    tokio::join!(publish, read);
    let stats = subscriber.stats();
    assert_eq!((stats.books_differ, stats.unreadable, publisher.stats().failed), (0, 0, 0));
    assert!(publisher.stats().connections > 1 && stats.connections > 1, "lines were cut");
    publisher.drain().await.unwrap();
    subscriber.drain().await.unwrap();
    server.stop().unwrap();
}

/// The next message's number. Resumes are told and skipped; a gap would be a loss.
async fn next_number(subscription: &mut Subscription) -> usize {
    loop {
        match timeout(STUCK, subscription.recv()).await.expect("a message comes") {
            Some(Event::Message(message)) => return message.payload.as_str().unwrap().parse().unwrap(),
            Some(Event::Resumed(_)) => {}
            other => panic!("expected a message, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_restarted_broker_is_a_reset_and_goes_on() {
    let server = broker();
    let address = server.address();
    let url = server.url();
    let client = Client::connect(&url).await.unwrap();
    let mut subscription = client.subscribe("a").await.unwrap();
    client.publish("a", "old").await.unwrap();
    assert_eq!(next_text(&mut subscription).await, "old");
    server.stop().unwrap();

    let mut config = Config::default();
    config.server.listen = address;
    let server = Server::start(config).unwrap();
    timeout(STUCK, client.publish("a", "new")).await.expect("it comes back").unwrap();
    let mut resets = 0;
    loop {
        match timeout(STUCK, subscription.recv()).await.expect("the message comes") {
            Some(Event::Reset(_)) => resets += 1,
            Some(Event::Gap(gap)) => assert_eq!(gap.reason, tidegate_client::GapReason::Epoch),
            Some(Event::Message(message)) => break assert_eq!(message.payload.as_str(), Some("new")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(resets, 1);
    client.drain().await.unwrap();
    server.stop().unwrap();
}
