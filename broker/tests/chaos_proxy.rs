//! The SDK and the broker over lines that are cut all the time: what was promised still holds.

#![cfg(feature = "cli")]

mod fixture;
mod proxy;
mod seeds;

use std::{
    collections::HashMap,
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use fixture::Broker;
use proxy::Proxy;
use seeds::for_each_seed;
use tidegate::{config::Config, server::Server};
use tidegate_client::{
    Client, Codec, Epoch, Event, Filter, From, Gap, GapReason, Message, Options, Overflow, Subscription,
    Topic,
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// Longer than anything here waits on the slowest machine; reached only when something is stuck.
const STUCK: Duration = Duration::from_secs(60);

const PUBLISHERS: usize = 4;

/// How far a line gets at most, in bytes. A publisher that comes back sends its whole window again at once, 1024 messages
/// or some 130 KiB as JSON: lines that never got beyond it would be cut before the first ack, for ever.
const STORM: u64 = 256 << 10;

/// Which message of which publisher. Its payload says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    publisher: usize,
    n: usize,
}

impl Id {
    /// Three topics for each publisher.
    fn topic(self) -> Topic {
        Topic::parse(&format!("chaos.p{}.t{}", self.publisher, self.n % 3)).unwrap()
    }

    fn payload(self, padding: usize) -> String {
        format!("{} {} {:.<padding$}", self.publisher, self.n, "")
    }

    fn of(message: &Message) -> Self {
        let text = message.payload.as_str().unwrap();
        let mut words = text.split(' ').map(|word| word.parse().unwrap_or_else(|_| panic!("{text:?}")));
        let (publisher, n) = (words.next().unwrap(), words.next().unwrap());
        Self { publisher, n }
    }
}

/// What one subscription was given, in its order.
#[derive(Debug)]
enum Told {
    Message { offset: u64, id: Id },
    Gap { from: u64, to: u64, count: Option<u64>, at_most: Option<u64> },
}

/// What the acks say the log holds, in its order.
type Log = Vec<(u64, Id)>;

fn default_config() -> Config {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    // Clients come back soon, so that a run has many cuts.
    config.server.reconnect_window = (Duration::ZERO, Duration::ZERO);
    // The books are held against the broker's all the time.
    config.websocket.ping_interval = Duration::from_millis(50);
    // However slow the machine is, nothing is let go for its age.
    config.streams.iter_mut().for_each(|stream| stream.max_age = Duration::from_secs(3600));
    config
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn connect(url: &str, codec: Codec) -> Client {
    Options::new().codec(codec).connect(url).await.unwrap()
}

async fn publishers(url: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for publisher in 0..PUBLISHERS {
        clients.push(connect(url, if publisher == 0 { Codec::Json } else { Codec::Bincode }).await);
    }
    clients
}

/// Publishes `ns` of each publisher, all at once and each as fast as its window allows. Returns the offsets their
/// acks tell, where the topics are in a stream.
async fn publish(clients: &[Client], ns: std::ops::Range<usize>, padding: usize) -> Log {
    let mut publishing = JoinSet::new();
    for (publisher, client) in clients.iter().cloned().enumerate() {
        let ns = ns.clone();
        publishing.spawn(async move {
            let mut acks = Vec::new();
            for n in ns {
                let id = Id { publisher, n };
                let ack = timeout(STUCK, client.enqueue(id.topic(), id.payload(padding)));
                acks.push((id, ack.await.expect("there is room in time").unwrap()));
            }
            let mut log = Vec::new();
            for (id, ack) in acks {
                let ack = timeout(STUCK, ack).await.expect("an ack comes").unwrap();
                log.push((ack.position.map_or(0, |position| position.offset), id));
            }
            log
        });
    }
    let mut log: Log = publishing.join_all().await.into_iter().flatten().collect();
    log.sort_unstable_by_key(|&(offset, _)| offset);
    log
}

/// Reads until everything that `filter` takes of the log was given or told, once the log is known.
fn read(
    mut subscription: Subscription,
    mut log: watch::Receiver<Arc<Log>>,
) -> JoinHandle<(Filter, Vec<Told>)> {
    tokio::spawn(async move {
        let filter = subscription.filter().clone();
        let (mut told, mut at, mut until) = (Vec::new(), 0, None);
        while until.is_none_or(|until| at < until) {
            let event = tokio::select! {
                event = timeout(STUCK, subscription.recv()) => event.unwrap_or_else(|_| panic!("stuck at {at}")),
                Ok(()) = log.changed() => {
                    until = log.borrow().iter().rfind(|(_, id)| filter.matches(&id.topic())).map(|&(offset, _)| offset);
                    continue;
                }
            };
            match event.expect("the subscription goes on") {
                Event::Message(message) => {
                    at = message.offset.unwrap();
                    told.push(Told::Message { offset: at, id: Id::of(&message) });
                }
                Event::Gap(Gap { from: Some(from), to: Some(to), count, at_most, .. }) => {
                    at = to;
                    told.push(Told::Gap { from, to, count, at_most });
                }
                Event::Resumed(_) => {}
                other => panic!("{other:?}"),
            }
        }
        (filter, told)
    })
}

/// Messages and gaps together are exactly what the log holds for the filter: in its order, nothing twice, nothing
/// missing. Returns how many messages the gaps told of.
fn check(filter: &Filter, told: &[Told], log: &Log) -> usize {
    let mut rest = log.iter().filter(|(_, id)| filter.matches(&id.topic())).peekable();
    let (mut at, mut lost) = (0, 0);
    for told in told {
        match told {
            Told::Message { offset, id } => {
                assert_eq!(rest.next(), Some(&(*offset, *id)), "{filter} after {at}");
                at = *offset;
            }
            Told::Gap { from, to, count, at_most } => {
                assert!(at < *from && from <= to, "{filter}: {told:?} after {at}");
                let mut missing = 0;
                while let Some((offset, _)) = rest.next_if(|(offset, _)| offset <= to) {
                    assert!(offset >= from, "{filter}: {offset} is missing before {told:?}");
                    missing += 1;
                }
                match (count, at_most) {
                    (Some(count), None) => assert_eq!(*count, missing, "{filter}: {told:?}"),
                    (None, Some(most)) => assert!(*most >= missing, "{filter}: {missing} in {told:?}"),
                    _ => panic!("{filter}: {told:?} has no count"),
                }
                (at, lost) = (*to, lost + missing as usize);
            }
        }
    }
    assert_eq!(rest.next(), None, "{filter}: the end is missing");
    lost
}

/// What must be 0 is 0, on every side.
fn check_stats(clients: &[Client]) {
    for client in clients {
        let stats = client.stats();
        assert_eq!((stats.books_differ, stats.unreadable, stats.failed), (0, 0, 0), "{stats:?}");
        assert!(stats.connections > 1, "its line was never cut: {stats:?}");
    }
}

#[test]
fn through_lines_that_are_cut_every_message_comes_once_and_in_order() {
    const EACH: usize = 25_000;
    for_each_seed(2, |rng| {
        let server = Server::start(default_config()).unwrap();
        runtime().block_on(async {
            let proxy = Proxy::start(server.address(), rng.u64(..)).await;
            let publishing = publishers(&proxy.url()).await;
            let (known, all) = watch::channel(Arc::default());

            let json = connect(&proxy.url(), Codec::Json).await;
            let bincode = connect(&proxy.url(), Codec::Bincode).await;
            let mut whole = vec![read(json.subscribe("chaos.>").await.unwrap(), all.clone())];
            // Subscriptions that overlap, on one connection.
            for filter in ["chaos.>", "chaos.p1.*", "chaos.*.t2", "chaos.p3.t0"] {
                let subscribe = bincode.subscribe(filter).overflow(Overflow::CatchUp);
                whole.push(read(subscribe.await.unwrap(), all.clone()));
            }
            // Hung up on whenever it falls behind, it comes back where it was.
            let hasty = connect(&proxy.url(), Codec::Bincode).await;
            let subscribe = hasty.subscribe("chaos.p2.>").overflow(Overflow::Disconnect).limit(64).buffer(64);
            whole.push(read(subscribe.await.unwrap(), all.clone()));
            let dropping = connect(&proxy.url(), Codec::Bincode).await;
            let subscribe =
                dropping.subscribe("chaos.*.t1").overflow(Overflow::DropOldest).limit(16).buffer(16);
            let dropped = read(subscribe.await.unwrap(), all.clone());

            proxy.storm(STORM);
            let mut log = publish(&publishing, 0..EACH / 2, 8).await;
            // Somebody comes late, over a line that may be cut before he is answered.
            let late = json.subscribe("chaos.p0.*").from(From::Beginning).into_future();
            let (more, late) = tokio::join!(publish(&publishing, EACH / 2..EACH, 8), late);
            whole.push(read(late.unwrap(), all.clone()));
            log.extend(more);
            assert_eq!(log.len(), PUBLISHERS * EACH);
            assert!(log.iter().zip(1..).all(|(&(offset, _), n)| offset == n), "a publish went in twice");
            known.send_replace(Arc::new(log.clone()));
            for reading in whole {
                let (filter, told) = reading.await.unwrap();
                assert_eq!(
                    check(&filter, &told, &log),
                    0,
                    "{filter}: a gap, though the log holds everything"
                );
            }
            let (filter, told) = dropped.await.unwrap();
            let lost = check(&filter, &told, &log);
            proxy.calm();

            check_stats(&publishing);
            check_stats(&[json, bincode, hasty, dropping]);
            println!("{} cuts, {lost} dropped", proxy.cuts());
            assert!(proxy.cuts() > 50, "{} cuts", proxy.cuts());
        });
        server.stop().unwrap();
    });
}

#[test]
fn where_the_log_is_too_small_for_the_cuts_messages_and_gaps_are_everything() {
    const EACH: usize = 10_000;
    for_each_seed(3, |rng| {
        let mut config = default_config();
        config.streams[0].max_bytes = 256 << 10;
        config.streams[0].retain_last_bytes = 0;
        let server = Server::start(config).unwrap();
        runtime().block_on(async {
            let proxy = Proxy::start(server.address(), rng.u64(..)).await;
            // Faster than any subscriber comes back, but cut as well, or they would be done before the first one has.
            let theirs = Proxy::start(server.address(), rng.u64(..)).await;
            let publishing = publishers(&theirs.url()).await;
            let (known, log) = watch::channel(Arc::default());
            let mut clients = Vec::new();
            let mut readers = Vec::new();
            for codec in [Codec::Json, Codec::Bincode] {
                let client = connect(&proxy.url(), codec).await;
                for filter in ["chaos.>", "chaos.p2.*"] {
                    readers.push(read(client.subscribe(filter).await.unwrap(), log.clone()));
                }
                let subscribe = client.subscribe("chaos.*.t1").overflow(Overflow::DropOldest).limit(32);
                readers.push(read(subscribe.await.unwrap(), log.clone()));
                clients.push(client);
            }

            // One absence that is surely longer than the log.
            proxy.hold();
            proxy.cut();
            let mut log = publish(&publishing, 0..1000, 200).await;
            proxy.release();
            theirs.storm(2 * STORM);
            proxy.storm(STORM);
            log.extend(publish(&publishing, 1000..EACH, 200).await);
            known.send_replace(Arc::new(log.clone()));
            for reading in readers {
                let (filter, told) = reading.await.unwrap();
                let lost = check(&filter, &told, &log);
                assert!(lost > 0, "{filter}: the log was not too small");
                println!("{filter}: {lost} missing, and told");
            }
            proxy.calm();
            check_stats(&clients);
            println!("{} cuts", proxy.cuts());
        });
        server.stop().unwrap();
    });
}

#[test]
fn live_only_topics_keep_each_publishers_order_and_tell_of_absences() {
    const EACH: usize = 25_000;
    for_each_seed(2, |rng| {
        let mut config = default_config();
        config.streams.clear();
        let server = Server::start(config).unwrap();
        runtime().block_on(async {
            let proxy = Proxy::start(server.address(), rng.u64(..)).await;
            let publishing = publishers(&proxy.url()).await;
            let mut clients = Vec::new();
            let mut readers = JoinSet::new();
            for codec in [Codec::Json, Codec::Bincode] {
                let client = connect(&proxy.url(), codec).await;
                readers.spawn(read_live_only(client.subscribe("chaos.>").await.unwrap()));
                clients.push(client);
            }
            proxy.storm(STORM);
            publish(&publishing, 0..EACH, 8).await;
            proxy.calm();
            // Who is on his way back misses what is published meanwhile: it is said until all have heard it.
            let end = async {
                loop {
                    timeout(STUCK, publishing[0].publish("chaos.end", "end")).await.unwrap().unwrap();
                }
            };
            let absences = tokio::select! {
                absences = readers.join_all() => absences,
                () = end => unreachable!(),
            };
            check_stats(&publishing);
            check_stats(&clients);
            println!("{} cuts, absences told: {absences:?}", proxy.cuts());
            assert!(proxy.cuts() > 50, "{} cuts", proxy.cuts());
        });
        server.stop().unwrap();
    });
}

/// Reads up to the message that ends the test; returns how many absences it was told of.
async fn read_live_only(mut subscription: Subscription) -> usize {
    let mut newest: HashMap<usize, usize> = HashMap::new();
    // Publishers of whom something may be missing, as a gap said.
    let mut excused = [true; PUBLISHERS];
    let mut absences = 0;
    loop {
        match timeout(STUCK, subscription.recv()).await.expect("not stuck").expect("it goes on") {
            Event::Message(message) if message.payload.as_str() == Some("end") => break,
            Event::Message(message) => {
                assert_eq!(message.offset, None);
                let Id { publisher, n } = Id::of(&message);
                let excused = std::mem::take(&mut excused[publisher]);
                match newest.insert(publisher, n) {
                    Some(before) if excused => assert!(n > before, "{publisher}: {n} after {before}"),
                    Some(before) => assert_eq!(n, before + 1, "{publisher}: a hole that nothing told of"),
                    None => assert!(excused),
                }
            }
            Event::Gap(gap) => {
                excused = [true; PUBLISHERS];
                match gap.reason {
                    GapReason::Away => {
                        assert_eq!((gap.count, gap.at_most, gap.from, gap.to), (None, None, None, None));
                        absences += 1;
                    }
                    GapReason::Overflow => assert!(gap.count.is_some() && gap.from.is_none(), "{gap:?}"),
                    _ => panic!("{gap:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(absences > 0, "its line was cut, and nothing told of it");
    absences
}

/// What a subscriber was given of one incarnation of the log.
struct Incarnation {
    epoch: Epoch,
    messages: Vec<Id>,
}

#[test]
fn a_broker_that_is_killed_amid_publishes_is_a_reset_and_only_there_a_loss_or_double() {
    const KILLS: usize = 3;
    const BETWEEN: usize = 3_000;
    runtime().block_on(async {
        let mut broker = Broker::configured("[server]\nreconnect_window = [\"0s\", \"0s\"]\n");
        let subscriber = connect(&broker.url(), Codec::Bincode).await;
        let subscription = subscriber.subscribe("chaos.>").await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let mut publishing = JoinSet::new();
        for publisher in 0..PUBLISHERS {
            publishing.spawn(publish_until(
                connect(&broker.url(), Codec::Bincode).await,
                publisher,
                over.clone(),
            ));
        }

        let (progress, mut seen) = mpsc::channel(1);
        let (known, last) = watch::channel(None);
        let reader = tokio::spawn(read_incarnations(subscription, BETWEEN, progress, last));
        for _ in 0..KILLS {
            timeout(STUCK, seen.recv()).await.expect("messages come").unwrap();
            broker = tokio::task::spawn_blocking(|| broker.restart()).await.unwrap();
        }
        timeout(STUCK, seen.recv()).await.expect("messages come").unwrap();
        over.store(true, Relaxed);
        let mut acks = publishing.join_all().await;
        acks.sort_unstable_by_key(|&(publisher, _)| publisher);
        let newest = acks.iter().filter_map(|(_, acks)| acks.last()).max_by_key(|&&(_, offset)| offset);
        let &(epoch, last_offset) = newest.unwrap();
        known.send_replace(Some((epoch, last_offset)));
        let incarnations = timeout(STUCK, reader).await.expect("it reads to the end").unwrap();

        assert_eq!(incarnations.len(), KILLS + 1, "a reset for every kill");
        let mut place = HashMap::new();
        for (at, incarnation) in incarnations.iter().enumerate() {
            assert!(place.insert(incarnation.epoch, at).is_none(), "an epoch came back");
        }
        for (at, incarnation) in incarnations.iter().enumerate() {
            // What was acknowledged stands where its ack says; beyond what was read there is only what a kill took.
            let is_last = at == KILLS;
            let mut next = HashMap::new();
            for (publisher, acks) in &acks {
                let first = acks.iter().take_while(|(epoch, _)| place[epoch] < at).count();
                next.insert(*publisher, first);
                for (n, (_, offset)) in
                    acks.iter().enumerate().filter(|(_, (epoch, _))| *epoch == incarnation.epoch)
                {
                    match incarnation.messages.get(*offset as usize - 1) {
                        Some(&id) => assert_eq!(id, Id { publisher: *publisher, n }),
                        None => assert!(!is_last, "{publisher} {n} was acknowledged and is lost"),
                    }
                }
            }
            // Each publisher goes on with the first message whose ack it does not have, and leaves none out.
            for &Id { publisher, n } in &incarnation.messages {
                let next = next.get_mut(&publisher).unwrap();
                assert_eq!(n, *next, "publisher {publisher} in incarnation {at}");
                *next += 1;
            }
        }
        assert_eq!(subscriber.stats().books_differ, 0);
    });
}

/// Publishes as fast as the window allows until it is over. Returns where each message stands, as its ack says.
async fn publish_until(
    client: Client,
    publisher: usize,
    over: Arc<AtomicBool>,
) -> (usize, Vec<(Epoch, u64)>) {
    let mut acks = Vec::new();
    while !over.load(Relaxed) {
        let id = Id { publisher, n: acks.len() };
        acks.push(timeout(STUCK, client.enqueue(id.topic(), id.payload(8))).await.expect("room").unwrap());
    }
    let mut positions = Vec::new();
    for ack in acks {
        let ack = timeout(STUCK, ack).await.expect("an ack comes").unwrap();
        let position = ack.position.unwrap();
        positions.push((position.epoch, position.offset));
    }
    (publisher, positions)
}

/// Reads up to the position that `last` tells in the end, and says so whenever it has read `between` messages of
/// another incarnation.
async fn read_incarnations(
    mut subscription: Subscription,
    between: usize,
    progress: mpsc::Sender<()>,
    mut last: watch::Receiver<Option<(Epoch, u64)>>,
) -> Vec<Incarnation> {
    let first = subscription.terms().positions[0].epoch;
    let mut incarnations = vec![Incarnation { epoch: first, messages: Vec::new() }];
    loop {
        let now = incarnations.last_mut().unwrap();
        if *last.borrow() == Some((now.epoch, now.messages.len() as u64)) {
            return incarnations;
        }
        let event = tokio::select! {
            event = timeout(STUCK, subscription.recv()) => event.expect("an event comes").expect("it goes on"),
            Ok(()) = last.changed() => continue,
        };
        match event {
            Event::Message(message) => {
                now.messages.push(Id::of(&message));
                assert_eq!(
                    message.offset,
                    Some(now.messages.len() as u64),
                    "a hole or a double in one epoch"
                );
                if now.messages.len() == between {
                    // Nobody listens only after a failure elsewhere.
                    let _ = progress.send(()).await;
                }
            }
            Event::Reset(reset) => {
                assert_eq!((reset.old, reset.new.offset), (now.epoch, 0));
                incarnations.push(Incarnation { epoch: reset.new.epoch, messages: Vec::new() });
            }
            // The old log's end: nobody knows how much of it there was.
            Event::Gap(gap) => {
                assert_eq!((gap.reason, gap.count, gap.at_most), (GapReason::Epoch, None, None), "{gap:?}");
                assert!(now.messages.is_empty(), "it stands right behind the reset");
            }
            Event::Resumed(_) => {}
        }
    }
}
