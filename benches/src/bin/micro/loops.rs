//! The loops: one part of the broker each, and the whole path of a message.

use std::{hint::black_box, ops::ControlFlow, sync::Arc};

use tidegate::{
    config::Config,
    engine::{Request, Submission, Ticket, memory::Memory},
    hub::Hub,
    outbox::{Lane, Terms},
    shard::{
        arena::Arena,
        cork::Cork,
        inbox::{Inbox, Waiting},
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

use crate::path;

/// A loop: what builds its state, and gives one iteration.
pub struct Loop {
    /// Its part, and what it does.
    pub name: &'static str,
    /// What an iteration is.
    pub what: &'static str,
    /// How many iterations are worth counting: at the least so many that what is rare (an eviction, a table that grows)
    /// is in them often enough.
    pub iterations: u64,
    /// Builds its state.
    pub build: fn() -> Box<dyn FnMut()>,
}

/// Of loops whose iteration takes less than some 2,000 instructions.
const SHORT: u64 = 20_000;
/// Of the others.
const LONG: u64 = 1_000;

/// Every loop.
pub const LOOPS: &[Loop] = &[
    Loop {
        name: "codec/encode-message-bincode",
        what: "a message frame, 26-byte topic, 128-byte JSON payload, offset and prev",
        iterations: SHORT,
        build: || encode_message(Codec::Bincode),
    },
    Loop {
        name: "codec/encode-message-json",
        what: "the same",
        iterations: SHORT,
        build: || encode_message(Codec::Json),
    },
    Loop {
        name: "codec/decode-publish-bincode",
        what: "a publish frame with the same topic and payload; the payload is checked",
        iterations: SHORT,
        build: || decode_publish(Codec::Bincode),
    },
    Loop {
        name: "codec/decode-publish-json",
        what: "the same",
        iterations: SHORT,
        build: || decode_publish(Codec::Json),
    },
    Loop {
        name: "codec/decode-message-bincode",
        what: "what the SDK does with a message frame",
        iterations: SHORT,
        build: || decode_message(Codec::Bincode),
    },
    Loop {
        name: "codec/decode-message-json",
        what: "the same",
        iterations: SHORT,
        build: || decode_message(Codec::Json),
    },
    Loop {
        name: "websocket/read-1",
        what: "a client's WebSocket message of 165 bytes: copied in, unmasked, given",
        iterations: SHORT,
        build: || read_frames(1),
    },
    Loop {
        name: "websocket/read-16",
        what: "16 of them in one read",
        iterations: SHORT,
        build: || read_frames(16),
    },
    Loop {
        name: "index/exact",
        what: "a topic among 100,000 exact filters",
        iterations: SHORT,
        build: index_exact,
    },
    Loop {
        name: "index/wild-cached",
        what: "a topic under 1,000 wildcard filters beside 100,000 exact ones; the answer is kept",
        iterations: SHORT,
        build: || index_wild(CacheLimits::default()),
    },
    Loop {
        name: "index/wild-miss",
        what: "the same; the answer is found anew",
        iterations: SHORT,
        build: || index_wild(CacheLimits { topics: 1, keys: 1 }),
    },
    Loop {
        name: "index/insert-remove",
        what: "an exact filter comes and goes",
        iterations: SHORT,
        build: index_insert_remove,
    },
    Loop {
        name: "hub/publish-unheard",
        what: "all of a publish behind its frame: key, place, log, nobody to give it to, answer; 1,000 topics in turn",
        iterations: SHORT,
        build: publish_unheard,
    },
    Loop {
        name: "log/append",
        what: "to one topic; the log is full, so it evicts",
        iterations: SHORT,
        build: || log_append(1),
    },
    Loop {
        name: "log/append-1000-topics",
        what: "the same to 1,000 topics in turn",
        iterations: SHORT,
        build: || log_append(1000),
    },
    Loop {
        name: "log/read-topic",
        what: "100 messages of one topic among 1,000",
        iterations: LONG,
        build: log_read,
    },
    Loop {
        name: "outbox/offer-pop",
        what: "a message into a lane with room, and out of it",
        iterations: SHORT,
        build: outbox_offer_pop,
    },
    Loop {
        name: "outbox/drop-oldest-full",
        what: "a message into a full lane",
        iterations: SHORT,
        build: || outbox_full(Overflow::DropOldest),
    },
    Loop {
        name: "outbox/drop-newest-full",
        what: "the same",
        iterations: SHORT,
        build: || outbox_full(Overflow::DropNewest),
    },
    Loop {
        name: "outbox/latest-64-keys",
        what: "a newer value of one of 64 waiting keys",
        iterations: SHORT,
        build: || outbox_full(Overflow::Latest),
    },
    Loop {
        name: "outbox/catch-up-behind",
        what: "a message for a lane that reads the log",
        iterations: SHORT,
        build: outbox_behind,
    },
    Loop {
        name: "tick/encode-16",
        what: "16 messages into the arena, encoded once for all",
        iterations: SHORT,
        build: || encode(16),
    },
    Loop {
        name: "tick/gather-1",
        what: "a frame gathered for one subscriber's write",
        iterations: SHORT,
        build: || gather(1),
    },
    Loop {
        name: "tick/gather-16",
        what: "16 frames gathered for one subscriber's write",
        iterations: SHORT,
        build: || gather(16),
    },
    Loop { name: "tick/gather-128", what: "128 of them", iterations: SHORT, build: || gather(128) },
    Loop {
        name: "path/1-to-1",
        what: "a publish through a shard to one subscriber, from socket to socket",
        iterations: LONG,
        build: || path::deliver(Codec::Bincode, 1, 1),
    },
    Loop {
        name: "path/16-to-100",
        what: "16 publishes of one read to 100 subscribers: 1,600 deliveries",
        iterations: LONG / 4,
        build: || path::deliver(Codec::Bincode, 16, 100),
    },
    Loop {
        name: "path/16-to-100-json",
        what: "the same in JSON",
        iterations: LONG / 4,
        build: || path::deliver(Codec::Json, 16, 100),
    },
];

/// What every message is published to.
pub const TOPIC: &str = "fleet.berlin.truck42.gps.x";

fn topic(text: &str) -> Topic {
    Topic::parse(text).expect("a valid topic")
}

/// A filter that is known to be one.
pub fn filter(text: &str) -> Filter {
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

/// A publish frame.
pub fn publish_frame(codec: Codec) -> Vec<u8> {
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
    // Many, since one may meet others at its place in the table.
    let filters: Vec<_> = (0..1000).map(|room| filter(&format!("room.{room}.chat.new"))).collect();
    let mut next = 0;
    Box::new(move || {
        assert!(index.insert(black_box(&filters[next]), 100_001));
        assert!(index.remove(black_box(&filters[next]), 100_001));
        next = (next + 1) % filters.len();
    })
}

fn publish_unheard() -> Box<dyn FnMut()> {
    let inbox = Arc::new(Inbox::new(16));
    let hub = Hub::new(&Config::default(), [inbox.clone()].into(), Box::new(Memory), || Epoch(1));
    let topics: Vec<_> = (0..1000).map(|i| topic(&format!("fleet.truck{i:05}"))).collect();
    let payload = payload();
    let instance: Arc<str> = "instance".into();
    let (mut id, mut answers) = (0, Waiting::default());
    Box::new(move || {
        id += 1;
        let ticket = Ticket { shard: 0, connection: 0, id, payload_bytes: payload.len() as u32 };
        let idempotency = Some((instance.clone(), id.to_string().into()));
        let request = Request { ticket: Some(ticket), idempotency, tally: None, shard: 0 };
        let draft = draft(&topics[id as usize % topics.len()], &payload, None);
        assert!(hub.submit(black_box(Submission { draft, request, now_ms: id })).is_ok());
        inbox.take(&mut answers);
        assert_eq!(answers.settled.len(), 1);
        answers.settled.clear();
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
    let filters: Vec<_> = topics.into_iter().map(Filter::from).collect();
    let mut next = 0;
    Box::new(move || {
        let filter = &filters[next];
        next = (next + 1) % filters.len();
        let budget = ReadBudget { messages: 100, bytes: usize::MAX };
        let (mut after, mut found) = (log.start() - 1, 0);
        while found < 100 && after < log.head() {
            let (messages, scanned) = match log.read(after, log.head(), black_box(filter), budget) {
                Read::Batch { messages, scanned } => (messages, scanned),
                Read::Sealed(segment) => segment.read(after, log.head(), filter, budget),
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
    let burst = vec![renumbered(&live_only(None), 70_000); messages];
    let mut arena = Arena::default();
    Box::new(move || {
        arena.push(black_box(&burst));
        arena.encode(Codec::Bincode);
        black_box(arena.bytes());
        arena.clear();
    })
}

fn gather(messages: u64) -> Box<dyn FnMut()> {
    let message = renumbered(&live_only(None), 70_000);
    let mut arena = Arena::default();
    for _ in 0..messages {
        arena.push([&message]);
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
