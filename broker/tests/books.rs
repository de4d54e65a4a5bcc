//! Books that balance: a delivery that the broker loses is found by the mark, told, and mended from the log.
//!
//! `cargo test -p tidegate --features faults --test books`

#![cfg(all(feature = "cli", feature = "faults"))]

mod proxy;

use std::time::Duration;

use proxy::Proxy;
use tidegate::{config::Config, server::Server, shard::fault::lose_next};
use tidegate_client::{
    Client, Codec, ConnectionEvent, Event, Filter, Gap, GapReason, Message, Options, Subscription,
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

/// Longer than anything here waits on the slowest machine; reached only when something is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Fewer than a subscription has credit for: every one of them takes the direct way, where the fault is.
const BURST: u64 = 100;

/// The fault is the process's: one test at a time.
static FAULT: Mutex<()> = Mutex::const_new(());

/// A broker that marks often and one client.
struct Scene {
    server: Server,
    client: Client,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    async fn new(codec: Codec) -> Self {
        let turn = FAULT.lock().await;
        let server = Server::start(config()).unwrap();
        let client = Options::new().codec(codec).connect(server.url()).await.unwrap();
        Self { server, client, _turn: turn }
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.websocket.ping_interval = Duration::from_millis(200);
    config
}

/// Publishes a burst whose message at `offset` is lost on its way to the one subscription there is. The log is new.
async fn publish_losing(client: &Client, offset: u64, topic: impl Fn(u64) -> String) {
    lose_next(offset);
    let mut acks = Vec::new();
    for n in 1..=BURST {
        acks.push(client.enqueue(topic(n), n.to_string()).await.unwrap());
    }
    for (ack, n) in acks.into_iter().zip(1..) {
        assert_eq!(timeout(STUCK, ack).await.unwrap().unwrap().position.unwrap().offset, n);
    }
}

async fn next(subscription: &mut Subscription) -> Event {
    timeout(STUCK, subscription.recv()).await.expect("an event comes").expect("the subscription goes on")
}

async fn next_message(subscription: &mut Subscription) -> u64 {
    match next(subscription).await {
        Event::Message(message) => number(&message),
        other => panic!("{other:?}"),
    }
}

/// The number in a message, which is its offset too.
fn number(message: &Message) -> u64 {
    let n = message.payload.as_str().unwrap().parse().unwrap();
    assert_eq!(message.offset, Some(n));
    n
}

/// Waits for the event that says so.
async fn differs(client: &Client, events: &mut tidegate_client::ConnectionEvents) -> (Filter, u64, u64) {
    let differs = async {
        while let Some(event) = events.recv().await {
            if let ConnectionEvent::BooksDiffer { filter, told, had } = event {
                return (filter, told, had);
            }
        }
        panic!("the client is gone: {:?}", client.stats());
    };
    timeout(STUCK, differs).await.expect("a mark tells")
}

#[tokio::test]
async fn a_lost_last_message_is_found_by_the_mark_and_read_from_the_log() {
    for codec in [Codec::Bincode, Codec::Json] {
        let Scene { server, client, _turn } = Scene::new(codec).await;
        let mut events = client.events();
        let mut subscription = client.subscribe("books.one").await.unwrap();
        publish_losing(&client, BURST, |_| "books.one".into()).await;
        for n in 1..=BURST {
            assert_eq!(next_message(&mut subscription).await, n);
        }
        // A mark may have come amid the burst: what it told was one more than came all the same.
        let (filter, told, had) = differs(&client, &mut events).await;
        assert_eq!((filter.as_str(), told - had), ("books.one", 1));
        assert_eq!((client.stats().books_differ, client.stats().gaps), (1, 0));
        assert_eq!(subscription.position()[0].offset, BURST);

        // The subscription is whole again: nothing comes twice, and the next message follows.
        client.publish("books.one", (BURST + 1).to_string()).await.unwrap();
        assert_eq!(next_message(&mut subscription).await, BURST + 1);
        client.drain().await.unwrap();
        assert_eq!(client.stats().books_differ, 1);
        server.stop().unwrap();
    }
}

#[tokio::test]
async fn a_message_lost_amid_a_burst_is_told_as_a_gap() {
    const LOST: u64 = BURST / 2;
    let Scene { server, client, _turn } = Scene::new(Codec::Bincode).await;
    let mut events = client.events();
    let mut subscription = client.subscribe("books.>").await.unwrap();
    publish_losing(&client, LOST, |n| format!("books.t{}", n % 7)).await;
    let (mut came, mut gap) = (Vec::new(), None);
    while gap.is_none() || came.len() as u64 != BURST - 1 {
        match next(&mut subscription).await {
            Event::Message(message) => came.push(number(&message)),
            Event::Gap(told) => assert!(gap.replace(told).is_none(), "told once"),
            other => panic!("{other:?}"),
        }
    }
    assert!(came.iter().copied().eq((1..=BURST).filter(|&n| n != LOST)), "{came:?}");
    let Some(Gap { reason, count, .. }) = gap else { unreachable!() };
    assert_eq!((reason, count), (GapReason::Books, Some(1)));
    let (filter, told, had) = differs(&client, &mut events).await;
    assert_eq!((filter.as_str(), told - had), ("books.>", 1));
    assert_eq!((client.stats().books_differ, client.stats().gapped), (1, 1));

    client.publish("books.t1", (BURST + 1).to_string()).await.unwrap();
    assert_eq!(next_message(&mut subscription).await, BURST + 1);
    client.drain().await.unwrap();
    server.stop().unwrap();
}

#[tokio::test]
async fn a_lost_message_that_the_log_no_longer_has_is_told_as_a_gap() {
    let _turn = FAULT.lock().await;
    let mut config = config();
    config.streams[0].max_bytes = 64 << 10;
    config.streams[0].retain_last_bytes = 0;
    let server = Server::start(config).unwrap();
    // No mark gets to the subscriber until the log has let go of what is missing.
    let proxy = Proxy::start(server.address(), 1).await;
    let publisher = Client::connect(server.url()).await.unwrap();
    let subscriber = Client::connect(proxy.url()).await.unwrap();
    let mut events = subscriber.events();
    let mut subscription = subscriber.subscribe("books.one").await.unwrap();
    proxy.freeze();
    publish_losing(&publisher, BURST, |_| "books.one".into()).await;
    let mut acks = Vec::new();
    for _ in 0..1000 {
        acks.push(publisher.enqueue("other", ".".repeat(1000)).await.unwrap());
    }
    for ack in acks {
        timeout(STUCK, ack).await.unwrap().unwrap();
    }
    let start = publisher.history("other").limit(1).await.unwrap()[0].offset.unwrap();
    assert!(start > BURST, "the log still begins at {start}");
    proxy.thaw();

    for n in 1..BURST {
        assert_eq!(next_message(&mut subscription).await, n);
    }
    // What the broker tells reaches beyond what the books know of, so that it is a bound.
    match next(&mut subscription).await {
        Event::Gap(Gap {
            reason: GapReason::Evicted, count: None, at_most: Some(most), from, to, ..
        }) => {
            assert_eq!((from, to, most), (Some(BURST), Some(start - 1), start - BURST));
        }
        other => panic!("{other:?}"),
    }
    let (_, told, had) = differs(&subscriber, &mut events).await;
    assert_eq!((told, had), (BURST, BURST - 1));
    let ack = publisher.publish("books.one", "end").await.unwrap();
    loop {
        match next(&mut subscription).await {
            Event::Message(message) => break assert_eq!(message.offset, Some(ack.position.unwrap().offset)),
            // Where the mark was written before the log let go of it: whether the gap above has told of it already,
            // nobody knows.
            Event::Gap(Gap { reason: GapReason::Books, count: None, at_most: Some(1), .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    server.stop().unwrap();
}
