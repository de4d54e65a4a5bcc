//! Named loops over the broker's parts, without sockets. `time` gives nanoseconds; `count` gives instructions, which
//! a busy machine does not change: the difference between a run of 2N and one of N iterations, so that building the
//! state costs nothing.

use std::{
    hint::black_box,
    io,
    ops::ControlFlow,
    process::{Command, ExitCode},
    sync::Arc,
    time::Instant,
};

use clap::{Parser, Subcommand};
use tidegate::{
    outbox::{Lane, Terms},
    shard::{
        arena::Arena,
        cork::Cork,
        index::{CacheLimits, Index},
    },
    stream::{Draft, Log, LogLimits, Published, Read, ReadBudget},
    websocket::{Event, FrameReader, ReaderLimits},
};
use tidegate_benches::{payload::Shape, websocket};
use tidegate_protocol::{
    ClientFrame, Codec, Epoch, Filter, Message, Payload, Topic,
    frame::{Overflow, Publish},
};

/// Micro-benchmarks of the broker's parts.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists the loops.
    List,
    /// Runs one loop and prints nothing: for a profiler.
    Run {
        /// Which.
        name: String,
        /// How often.
        iterations: u64,
    },
    /// Prints nanoseconds an iteration: the median and the range of 9 samples.
    Time {
        /// Only loops whose name contains this.
        #[arg(default_value = "")]
        only: String,
    },
    /// Prints user instructions an iteration: by `perf stat` where it can count them, else by valgrind's callgrind.
    Count {
        /// Only loops whose name contains this.
        #[arg(default_value = "")]
        only: String,
    },
}

/// A loop: what builds its state, and gives one iteration.
struct Loop {
    name: &'static str,
    what: &'static str,
    build: fn() -> Box<dyn FnMut()>,
}

const LOOPS: &[Loop] = &[
    Loop {
        name: "codec/encode-message-bincode",
        what: "a message frame, 26-byte topic, 128-byte JSON payload, offset and prev",
        build: || encode_message(Codec::Bincode),
    },
    Loop { name: "codec/encode-message-json", what: "the same", build: || encode_message(Codec::Json) },
    Loop {
        name: "codec/decode-publish-bincode",
        what: "a publish frame with the same topic and payload; the payload is checked",
        build: || decode_publish(Codec::Bincode),
    },
    Loop { name: "codec/decode-publish-json", what: "the same", build: || decode_publish(Codec::Json) },
    Loop {
        name: "codec/decode-message-bincode",
        what: "what the SDK does with a message frame",
        build: || decode_message(Codec::Bincode),
    },
    Loop { name: "codec/decode-message-json", what: "the same", build: || decode_message(Codec::Json) },
    Loop {
        name: "websocket/read-1",
        what: "a client's WebSocket message of 165 bytes: copied in, unmasked, given",
        build: || read_frames(1),
    },
    Loop { name: "websocket/read-16", what: "16 of them in one read", build: || read_frames(16) },
    Loop { name: "index/exact", what: "a topic among 100,000 exact filters", build: index_exact },
    Loop {
        name: "index/wild-cached",
        what: "a topic under 1,000 wildcard filters beside 100,000 exact ones; the answer is kept",
        build: || index_wild(CacheLimits::default()),
    },
    Loop {
        name: "index/wild-miss",
        what: "the same; the answer is found anew",
        build: || index_wild(CacheLimits { topics: 1, keys: 1 }),
    },
    Loop { name: "index/insert-remove", what: "an exact filter comes and goes", build: index_insert_remove },
    Loop { name: "log/append", what: "to one topic; the log is full, so it evicts", build: || log_append(1) },
    Loop {
        name: "log/append-1000-topics",
        what: "the same to 1,000 topics in turn",
        build: || log_append(1000),
    },
    Loop { name: "log/read-topic", what: "100 messages of one topic among 1,000", build: log_read },
    Loop {
        name: "outbox/offer-pop",
        what: "a message into a lane with room, and out of it",
        build: outbox_offer_pop,
    },
    Loop {
        name: "outbox/drop-oldest-full",
        what: "a message into a full lane",
        build: || outbox_full(Overflow::DropOldest),
    },
    Loop { name: "outbox/drop-newest-full", what: "the same", build: || outbox_full(Overflow::DropNewest) },
    Loop {
        name: "outbox/latest-64-keys",
        what: "a newer value of one of 64 waiting keys",
        build: || outbox_full(Overflow::Latest),
    },
    Loop {
        name: "outbox/catch-up-behind",
        what: "a message for a lane that reads the log",
        build: outbox_behind,
    },
    Loop {
        name: "tick/encode-16",
        what: "16 messages into the arena, encoded once for all",
        build: || encode(16),
    },
    Loop { name: "tick/gather-1", what: "a frame gathered for one subscriber's write", build: || gather(1) },
    Loop {
        name: "tick/gather-16",
        what: "16 frames gathered for one subscriber's write",
        build: || gather(16),
    },
    Loop { name: "tick/gather-128", what: "128 of them", build: || gather(128) },
];

fn main() -> ExitCode {
    match Options::parse().command {
        Action::List => LOOPS.iter().for_each(|l| println!("{:<26} {}", l.name, l.what)),
        Action::Run { name, iterations } => {
            let Some(found) = LOOPS.iter().find(|l| l.name == name) else {
                eprintln!("no loop {name:?}; see `micro list`");
                return ExitCode::FAILURE;
            };
            run((found.build)(), iterations);
        }
        Action::Time { only } => {
            for found in LOOPS.iter().filter(|l| l.name.contains(&only)) {
                let [min, median, max] = nanoseconds(found);
                println!("{:<26} {median:>10.1} ns [{min:.1}-{max:.1}]", found.name);
            }
        }
        Action::Count { only } => {
            let counter = Counter::available();
            for found in LOOPS.iter().filter(|l| l.name.contains(&only)) {
                match counter.instructions(found.name) {
                    Ok(count) => println!("{:<26} {count:>10.1} instructions", found.name),
                    Err(error) => {
                        eprintln!("{}: {error}", found.name);
                        return ExitCode::FAILURE;
                    }
                }
            }
        }
    }
    ExitCode::SUCCESS
}

/// Not inlined, so that a profiler sees set-up and loop apart.
#[inline(never)]
fn run(mut iteration: Box<dyn FnMut()>, iterations: u64) {
    for _ in 0..iterations {
        iteration();
    }
}

/// The least, the middle and the most of 9 samples of about 20 ms.
fn nanoseconds(found: &Loop) -> [f64; 3] {
    let mut iteration = (found.build)();
    let mut sample = |iterations: u64| {
        let start = Instant::now();
        for _ in 0..iterations {
            iteration();
        }
        start.elapsed().as_nanos() as f64
    };
    let mut iterations = 16;
    while sample(iterations) < 20e6 {
        iterations *= 2;
    }
    let mut samples: Vec<_> = (0..9).map(|_| sample(iterations) / iterations as f64).collect();
    samples.sort_by(f64::total_cmp);
    [samples[0], samples[4], samples[8]]
}

/// What counts user instructions here.
#[derive(Debug, Clone, Copy)]
enum Counter {
    Perf,
    Callgrind,
}

impl Counter {
    fn available() -> Self {
        let perf = Command::new("perf").args(["stat", "-x,", "-e", "instructions:u", "true"]).output();
        match perf {
            Ok(output) if first_number(&output.stderr, "instructions").is_some() => Self::Perf,
            _ => Self::Callgrind,
        }
    }

    /// Of one iteration.
    fn instructions(self, name: &str) -> io::Result<f64> {
        // Under callgrind an iteration is some fifty times slower.
        let iterations = match self {
            Self::Perf => 200_000,
            Self::Callgrind => 20_000,
        };
        let once = self.run(name, iterations)?;
        let twice = self.run(name, 2 * iterations)?;
        Ok((twice - once) / iterations as f64)
    }

    fn run(self, name: &str, iterations: u64) -> io::Result<f64> {
        let (mut command, line) = match self {
            Self::Perf => {
                let mut command = Command::new("perf");
                command.args(["stat", "-x,", "-e", "instructions:u"]);
                (command, "instructions")
            }
            Self::Callgrind => {
                let mut command = Command::new("valgrind");
                command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
                (command, "Collected")
            }
        };
        let output =
            command.arg(std::env::current_exe()?).args(["run", name, &iterations.to_string()]).output()?;
        first_number(&output.stderr, line)
            .ok_or_else(|| io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// The last word of the first field of the first line with `word`: `1234,,instructions:u,…` of perf, where it says
/// `<not supported>,,…` if it cannot count; `==77== Collected : 1234` of callgrind.
fn first_number(output: &[u8], word: &str) -> Option<f64> {
    let output = String::from_utf8_lossy(output);
    let line = output.lines().find(|line| line.contains(word))?;
    line.split(',').next()?.rsplit(' ').next()?.parse().ok()
}

const TOPIC: &str = "fleet.berlin.truck42.gps.x";

fn topic(text: &str) -> Topic {
    Topic::parse(text).expect("a valid topic")
}

fn filter(text: &str) -> Filter {
    Filter::parse(text).expect("a valid filter")
}

fn payload() -> Payload {
    let shape = Shape::new(128).expect("a size that can be had");
    let json = shape.payload(tidegate_benches::payload::Stamp { flow: 0, sequence: 0 });
    Payload::json(&json).expect("valid JSON")
}

fn message() -> Message {
    Message {
        topic: topic(TOPIC),
        stream: None,
        offset: Some(70_000),
        prev: Some(69_990),
        time: 1_790_000_000_123,
        payload: payload(),
        key: None,
        headers: Vec::new(),
        sub: None,
    }
}

fn draft(topic: &Topic, payload: &Payload, key: Option<Arc<str>>) -> Draft {
    Draft { topic: topic.clone(), payload: payload.clone(), key, headers: Vec::new(), origin: None }
}

fn live_only(key: Option<Arc<str>>) -> Arc<Published> {
    Published::live_only(draft(&topic(TOPIC), &payload(), key), 0)
}

fn publish_frame(codec: Codec) -> Vec<u8> {
    let publish = Publish {
        id: None,
        topic: topic(TOPIC),
        payload: payload(),
        key: None,
        headers: Vec::new(),
        idempotency: None,
        report: false,
    };
    let mut bytes = Vec::new();
    codec.encode_client(&ClientFrame::Publish(publish), &mut bytes);
    bytes
}

fn encode_message(codec: Codec) -> Box<dyn FnMut()> {
    let message = message();
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        codec.encode_message(black_box(&message), &mut out);
        black_box(&out);
    })
}

fn decode_publish(codec: Codec) -> Box<dyn FnMut()> {
    let bytes = publish_frame(codec);
    Box::new(move || {
        for frame in codec.decode_client(black_box(&bytes)) {
            black_box(frame.expect("a whole frame"));
        }
    })
}

fn decode_message(codec: Codec) -> Box<dyn FnMut()> {
    let mut bytes = Vec::new();
    codec.encode_message(&message(), &mut bytes);
    Box::new(move || {
        for frame in codec.decode_server(black_box(&bytes)) {
            black_box(frame.expect("a whole frame"));
        }
    })
}

fn read_frames(frames: usize) -> Box<dyn FnMut()> {
    let mut one = Vec::new();
    websocket::write_client(&mut one, websocket::BINARY, &publish_frame(Codec::Bincode));
    let bytes = one.repeat(frames);
    let mut scratch = bytes.clone();
    let mut reader = FrameReader::new();
    let limits = ReaderLimits { max_message_bytes: 128 << 10, max_fragments: 1024 };
    Box::new(move || {
        // Unmasking changes the bytes in place.
        scratch.copy_from_slice(&bytes);
        let mut messages = 0;
        let read = reader.feed(&mut scratch, &limits, &mut |event| {
            messages += usize::from(matches!(event, Event::Message { .. }));
            ControlFlow::Continue(())
        });
        assert_eq!((black_box(read).ok(), messages), (Some(bytes.len()), frames));
    })
}

/// 100,000 subscriptions of one topic each, and some of their topics.
fn filled_index(cache: CacheLimits) -> (Index<u32>, Vec<Topic>) {
    let mut index = Index::with_cache(cache);
    for key in 0..100_000 {
        index.insert(&filter(&format!("room.{}.chat.{key}", key % 1000)), key);
    }
    let topics =
        (0..100_000).step_by(97).map(|key| topic(&format!("room.{}.chat.{key}", key % 1000))).collect();
    (index, topics)
}

fn match_in_turn(mut index: Index<u32>, topics: Vec<Topic>) -> Box<dyn FnMut()> {
    let mut next = 0;
    Box::new(move || {
        let matches = index.matches(&topics[next]);
        assert!(!black_box(matches).is_empty());
        next = (next + 1) % topics.len();
    })
}

fn index_exact() -> Box<dyn FnMut()> {
    let (index, topics) = filled_index(CacheLimits::default());
    match_in_turn(index, topics)
}

fn index_wild(cache: CacheLimits) -> Box<dyn FnMut()> {
    let (mut index, topics) = filled_index(cache);
    for room in 0..1000 {
        let pattern = if room % 2 == 0 { format!("room.{room}.>") } else { format!("room.{room}.*.*") };
        index.insert(&filter(&pattern), 100_000 + room);
    }
    match_in_turn(index, topics)
}

fn index_insert_remove() -> Box<dyn FnMut()> {
    let (mut index, _) = filled_index(CacheLimits::default());
    let filter = filter("room.7.chat.new");
    Box::new(move || {
        assert!(index.insert(black_box(&filter), 100_001));
        assert!(index.remove(black_box(&filter), 100_001));
    })
}

fn log_append(topics: usize) -> Box<dyn FnMut()> {
    let (mut log, topics) = filled_log(topics);
    let (mut next, mut now) = (0, 0);
    let payload = payload();
    Box::new(move || {
        let appended = log.append(draft(&topics[next], &payload, None), now, None);
        assert!(black_box(appended).is_ok());
        next = (next + 1) % topics.len();
        now += 1;
    })
}

/// A log that is full, and its topics.
fn filled_log(topics: usize) -> (Log, Vec<Topic>) {
    let limits = LogLimits { max_age_ms: u64::MAX, max_bytes: 8 << 20, retain_last_bytes: 1 << 20 };
    let mut log = Log::new(None, Epoch(1), limits);
    let topics: Vec<_> = (0..topics).map(|i| topic(&format!("fleet.truck{i:05}"))).collect();
    let payload = payload();
    while log.start() == 1 {
        let at = log.head() as usize % topics.len();
        assert!(log.append(draft(&topics[at], &payload, None), 0, None).is_ok());
    }
    (log, topics)
}

fn log_read() -> Box<dyn FnMut()> {
    let (log, topics) = filled_log(1000);
    let filter = Filter::from(topics[500].clone());
    Box::new(move || {
        let budget = ReadBudget { messages: 100, bytes: usize::MAX };
        let (mut after, mut found) = (log.start() - 1, 0);
        while found < 100 && after < log.head() {
            let (messages, scanned) = match log.read(after, log.head(), black_box(&filter), budget) {
                Read::Batch { messages, scanned } => (messages, scanned),
                Read::Sealed(segment) => segment.read(after, log.head(), &filter, budget),
                Read::Evicted { start } => unreachable!("the log begins at {start}"),
            };
            found += black_box(messages).len();
            after = scanned;
        }
        assert!(found > 0);
    })
}

fn lane(overflow: Overflow) -> Lane {
    Lane::new(Terms { overflow, limit: 256, limit_bytes: 256 << 10 }, overflow == Overflow::CatchUp)
}

fn outbox_offer_pop() -> Box<dyn FnMut()> {
    let message = live_only(None);
    let mut lane = lane(Overflow::DropOldest);
    Box::new(move || {
        black_box(lane.offer(black_box(&message), true));
        assert!(black_box(lane.pop(true)).is_some());
    })
}

fn outbox_full(overflow: Overflow) -> Box<dyn FnMut()> {
    let messages: Vec<_> = (0..64).map(|key| live_only(Some(format!("key{key}").into()))).collect();
    let mut lane = lane(overflow);
    for at in 0..1024 {
        lane.offer(&messages[at % 64], true);
    }
    let mut next = 0;
    Box::new(move || {
        black_box(lane.offer(black_box(&messages[next % 64]), true));
        next += 1;
    })
}

fn outbox_behind() -> Box<dyn FnMut()> {
    let mut message = live_only(None);
    let mut lane = lane(Overflow::CatchUp);
    let mut offset = 0;
    let mut offer = move || {
        offset += 1;
        // A lane that is behind keeps nothing, so the message is ours alone.
        match Arc::get_mut(&mut message) {
            Some(own) => own.message.offset = Some(offset),
            None => message = renumbered(&message, offset),
        }
        black_box(lane.offer(black_box(&message), true));
    };
    for _ in 0..300 {
        offer();
    }
    Box::new(offer)
}

fn renumbered(message: &Published, offset: u64) -> Arc<Published> {
    let mut copy = message.clone();
    copy.message.offset = Some(offset);
    copy.segment = 1;
    Arc::new(copy)
}

fn encode(messages: usize) -> Box<dyn FnMut()> {
    let message = renumbered(&live_only(None), 70_000);
    let mut arena = Arena::default();
    Box::new(move || {
        for _ in 0..messages {
            arena.push(black_box(&message));
            arena.encode(Codec::Bincode);
        }
        black_box(arena.bytes());
        arena.clear();
    })
}

fn gather(messages: u64) -> Box<dyn FnMut()> {
    let message = renumbered(&live_only(None), 70_000);
    let mut arena = Arena::default();
    for _ in 0..messages {
        arena.push(&message);
        arena.encode(Codec::Bincode);
    }
    let mut cork = Cork::default();
    Box::new(move || {
        cork.start(Codec::Bincode);
        for serial in 0..messages {
            cork.push(arena.frame(Codec::Bincode, black_box(serial)));
        }
        cork.finish();
        black_box(cork.bytes());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_runs() {
        for found in LOOPS {
            run((found.build)(), 1000);
        }
    }

    #[test]
    fn counters_are_read_from_what_the_tools_print() {
        assert_eq!(first_number(b"==7== \n==7== Collected : 20481\n", "Collected"), Some(20481.0));
        assert_eq!(first_number(b"12345,,instructions:u,99,100.00,,\n", "instructions"), Some(12345.0));
        assert_eq!(first_number(b"<not supported>,,instructions:u,0,100.00,,\n", "instructions"), None);
    }
}
