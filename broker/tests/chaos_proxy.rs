//! The SDK and the broker over lines that are cut all the time: what was promised still holds.

#![cfg(feature = "cli")]

mod fixture;
mod proxy;
mod seeds;

use std::{
    collections::HashMap,
    future::IntoFuture,
    iter,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;
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

/// A broker of whose choices some are the seed's: nothing that is promised depends on them.
fn drawn_config(rng: &mut Rng) -> Config {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    // Clients come back soon, so that a run has many cuts.
    config.server.reconnect_window = (Duration::ZERO, Duration::ZERO);
    config.server.shards = rng.usize(1..=3);
    config.memory.shard_queue_messages = [16, 512, 16_384][rng.usize(..3)];
    config.websocket.flush_interval = [Duration::ZERO, Duration::from_millis(1)][rng.usize(..2)];
    config.limits.publish_window_messages = [100, 1024][rng.usize(..2)];
    // The books are held against the broker's all the time.
    config.websocket.ping_interval = Duration::from_millis(50);
    // However slow the machine is, nothing is let go for its age.
    config.streams.iter_mut().for_each(|stream| stream.max_age = Duration::from_secs(3600));
    println!(
        "{} shards, {} messages between them, a window of {}, flush after {:?}",
        config.server.shards,
        config.memory.shard_queue_messages,
        config.limits.publish_window_messages,
        config.websocket.flush_interval
    );
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
/// missing. Returns how many messages the gaps told of, or what is wrong.
fn check(filter: &Filter, told: &[Told], log: &Log) -> Result<usize, String> {
    let mut rest = log.iter().filter(|(_, id)| filter.matches(&id.topic())).peekable();
    let (mut at, mut lost) = (0, 0);
    for told in told {
        let wrong = |what: String| Err(format!("{filter}, after {at}: {told:?}: {what}"));
        match told {
            Told::Message { offset, id } => {
                let expected = rest.next();
                if expected != Some(&(*offset, *id)) {
                    return wrong(format!("{expected:?} was to come"));
                }
                at = *offset;
            }
            Told::Gap { from, to, count, at_most } => {
                if *from <= at || to < from {
                    return wrong("not a gap here".into());
                }
                let missing: Vec<u64> = iter::from_fn(|| rest.next_if(|(offset, _)| offset <= to))
                    .map(|&(offset, _)| offset)
                    .collect();
                let number = missing.len() as u64;
                let is_right = match (count, at_most) {
                    (Some(count), None) => *count == number,
                    (None, Some(most)) => *most >= number,
                    _ => false,
                };
                if !is_right || missing.first().is_some_and(|first| first < from) {
                    return wrong(format!("{number} are missing, from {:?}", missing.first()));
                }
                (at, lost) = (*to, lost + missing.len());
            }
        }
    }
    match rest.next() {
        None => Ok(lost),
        Some(next) => Err(format!("{filter}, after {at}: {next:?} is missing at the end")),
    }
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
        let server = Server::start(drawn_config(rng)).unwrap();
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
            // No line gets away.
            proxy.cut();
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
                assert_eq!(check(&filter, &told, &log), Ok(0), "the log holds everything");
            }
            let (filter, told) = dropped.await.unwrap();
            let lost = check(&filter, &told, &log).unwrap();
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
        let mut config = drawn_config(rng);
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
                let lost = check(&filter, &told, &log).unwrap();
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
        let mut config = drawn_config(rng);
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
            // No line gets away.
            proxy.cut();
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

/// A check that accepts everything proves nothing.
#[test]
fn the_check_itself_finds_what_is_wrong() {
    let id = |n| Id { publisher: 0, n };
    let log: Log = (0..6).map(|n| (n as u64 + 1, id(n))).collect();
    let filter = Filter::parse("chaos.>").unwrap();
    let message = |offset: u64| Told::Message { offset, id: id(offset as usize - 1) };
    let gap = |from, to, count| Told::Gap { from, to, count: Some(count), at_most: None };
    let bound = |from, to, most| Told::Gap { from, to, count: None, at_most: Some(most) };
    let messages = |offsets: std::ops::RangeInclusive<u64>| offsets.map(message).collect::<Vec<_>>();
    let lost = |told: Vec<Told>| check(&filter, &told, &log).ok();

    assert_eq!(lost(messages(1..=6)), Some(0));
    assert_eq!(lost(vec![message(1), gap(2, 5, 4), message(6)]), Some(4));
    assert_eq!(lost(vec![bound(1, 5, 9), message(6)]), Some(5));
    for (what, told) in [
        ("a hole", vec![message(1), message(3)]),
        ("a double", vec![message(1), message(1)]),
        ("the end is missing", messages(1..=5)),
        ("another payload", vec![Told::Message { offset: 1, id: id(3) }]),
        ("a count that is too small", vec![gap(1, 5, 4), message(6)]),
        ("a count that is too large", vec![gap(1, 5, 6), message(6)]),
        ("a bound that is none", vec![bound(1, 5, 4), message(6)]),
        ("a gap that begins late", vec![gap(2, 5, 4), message(6)]),
        ("a gap that reaches back", vec![message(1), gap(1, 5, 5), message(6)]),
        ("a gap over the next message", vec![gap(1, 6, 6), message(6)]),
    ] {
        assert_eq!(lost(told), None, "{what} is let through");
    }
}
