//! Any frame, for property tests. Large strategies are boxed: by value, their trees overflow a test thread's stack.

use std::sync::Arc;

use proptest::{collection::vec, option, prelude::*};
use tidegate_protocol::{
    ClientFrame, Epoch, ErrorCode, Filter, From, Message, Payload, Position, ServerFrame, Topic,
    frame::{
        AckResult, Connect, ErrorFrame, Gap, GapReason, Headers, HistoryPage, HistoryRequest, Mark, Overflow,
        Publish, PublishWindow, Published, Report, StartPosition, SubMark, Subscribe, Subscribed, Welcome,
        WelcomeLimits,
    },
    limits::{self, MAX_INTEGER},
    position::At,
};

/// Both ends of every form an integer has.
pub fn integer() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..=300u64,
        prop::sample::select(vec![250, 251, 65_535, 65_536, (1 << 32) - 1, 1 << 32, MAX_INTEGER]),
        0..=MAX_INTEGER,
    ]
}

pub fn payload() -> BoxedStrategy<Payload> {
    prop_oneof![
        json_text().prop_map(|text| Payload::json(text.as_bytes()).unwrap()),
        any::<String>().prop_map(Payload::text),
        any::<Vec<u8>>().prop_map(Payload::binary),
    ]
    .boxed()
}

/// JSON as a publisher may write it, line breaks between tokens and all.
pub fn json_text() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
    ];
    let space = prop::sample::select(vec!["", " ", "\n", "\r\n", "\t"]);
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            (vec(inner.clone(), 0..4), space.clone())
                .prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(&format!(",{space}")))),
            (vec((any::<String>(), inner), 0..4), space.clone()).prop_map(|(fields, space)| {
                let fields: Vec<_> = (fields.into_iter())
                    .map(|(name, value)| format!("{}{space}:{value}", serde_json::to_string(&name).unwrap()))
                    .collect();
                format!("{{{}{space}}}", fields.join(","))
            }),
        ]
    })
    .boxed()
}

pub fn client_frame() -> BoxedStrategy<ClientFrame> {
    prop_oneof![
        (integer(), option::of(".{0,40}"), option::of(".{0,20}"), option::of("[a-z0-9]{0,128}")).prop_map(
            |(id, token, client, instance)| ClientFrame::Connect(Connect { id, token, client, instance })
        ),
        (
            (integer(), filter(), from(), option::of(overflow())),
            (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u32>()), any::<bool>()),
        )
            .prop_map(|((id, filter, from, overflow), (limit, limit_bytes, credit, echo))| {
                ClientFrame::Subscribe(Subscribe {
                    id,
                    filter,
                    from,
                    overflow,
                    limit,
                    limit_bytes,
                    credit,
                    echo,
                })
            }),
        (integer(), integer()).prop_map(|(id, sub)| ClientFrame::Unsubscribe { id, sub }),
        (
            option::of(integer()),
            topic(),
            payload(),
            key(),
            headers(),
            option::of("[a-z0-9-]{0,64}"),
            any::<bool>()
        )
            .prop_map(|(id, topic, payload, key, headers, idempotency, report)| {
                let idempotency = idempotency.map(String::into_boxed_str);
                ClientFrame::Publish(Publish { id, topic, payload, key, headers, idempotency, report })
            }),
        (integer(), topic(), from(), option::of(any::<u32>())).prop_map(|(id, topic, from, limit)| {
            ClientFrame::History(HistoryRequest { id, topic, from, limit })
        }),
        (integer(), ".{0,40}").prop_map(|(id, token)| ClientFrame::Refresh { id, token }),
        (integer(), any::<u32>()).prop_map(|(sub, add)| ClientFrame::Credit { sub, add }),
        integer().prop_map(|id| ClientFrame::Ping { id }),
    ]
    .boxed()
}

pub fn server_frame() -> BoxedStrategy<ServerFrame> {
    prop_oneof![
        welcome().prop_map(ServerFrame::Welcome),
        (integer(), ack_result()).prop_map(|(id, result)| ServerFrame::Ack { id, result }),
        (option::of(integer()), error_code(), any::<String>())
            .prop_map(|(id, code, message)| ServerFrame::Error(ErrorFrame { id, code, message })),
        (message(), option::of(integer()))
            .prop_map(|(message, sub)| ServerFrame::Message(Message { sub, ..message })),
        gap().prop_map(ServerFrame::Gap),
        (vec(position(), 0..3), vec((integer(), integer(), integer(), any::<bool>()), 0..4)).prop_map(
            |(positions, subs)| {
                let subs = (subs.into_iter())
                    .map(|(sub, messages, gapped, behind)| SubMark { sub, messages, gapped, behind })
                    .collect();
                ServerFrame::Mark(Mark { positions, subs })
            }
        ),
        (integer(), vec(message(), 0..3), option::of(position()), any::<bool>()).prop_map(
            |(id, messages, position, more)| ServerFrame::History(HistoryPage {
                id,
                messages,
                position,
                more
            })
        ),
        (integer(), option::of(error_code())).prop_map(|(sub, code)| ServerFrame::Unsubscribed { sub, code }),
        integer().prop_map(|reconnect_ms| ServerFrame::Drain { reconnect_ms }),
        integer().prop_map(|id| ServerFrame::Pong { id }),
    ]
    .boxed()
}

/// A message for every subscription that takes it.
pub fn message() -> BoxedStrategy<Message> {
    (
        (topic(), stream(), option::of(integer()), option::of(integer())),
        (integer(), payload(), key(), headers()),
    )
        .prop_map(|((topic, stream, offset, prev), (time, payload, key, headers))| Message {
            topic,
            stream,
            offset,
            prev,
            time,
            payload,
            key,
            headers,
            sub: None,
        })
        .boxed()
}

fn welcome() -> BoxedStrategy<Welcome> {
    let limits = (integer(), integer(), integer(), integer(), integer());
    (integer(), ".{0,20}", limits, (integer(), integer()), integer(), (integer(), integer()))
        .prop_map(|(id, connection, limits, window, ping_ms, reconnect_ms)| Welcome {
            id,
            connection,
            limits: WelcomeLimits {
                payload_bytes: limits.0,
                message_bytes: limits.1,
                subscriptions: limits.2,
                limit: limits.3,
                limit_bytes: limits.4,
            },
            publish_window: PublishWindow { messages: window.0, bytes: window.1 },
            ping_ms,
            reconnect_ms,
        })
        .boxed()
}

fn ack_result() -> BoxedStrategy<AckResult> {
    let report = (integer(), integer(), integer(), integer(), integer(), any::<bool>()).prop_map(
        |(matched, queued, merged, dropped, behind, partial)| Report {
            matched,
            queued,
            merged,
            dropped,
            behind,
            partial,
        },
    );
    prop_oneof![
        Just(AckResult::Done),
        (option::of(position()), any::<bool>(), option::of(report)).prop_map(
            |(position, duplicate, report)| {
                AckResult::Published(Published { position, duplicate, report })
            }
        ),
        (vec((position(), integer()), 0..3), overflow(), any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
            |(positions, overflow, limit, limit_bytes, live_only)| {
                let positions = (positions.into_iter())
                    .map(|(Position { stream, epoch, offset }, live)| StartPosition {
                        stream,
                        epoch,
                        offset,
                        live,
                    })
                    .collect();
                AckResult::Subscribed(Subscribed { positions, overflow, limit, limit_bytes, live_only })
            }
        ),
    ]
    .boxed()
}

fn gap() -> BoxedStrategy<Gap> {
    let reason = prop::sample::select(vec![
        GapReason::Overflow,
        GapReason::Merged,
        GapReason::Evicted,
        GapReason::Epoch,
        GapReason::Away,
        GapReason::Books,
    ]);
    let optional = || option::of(integer());
    (
        (integer(), stream(), option::of(topic())),
        (optional(), optional(), optional(), optional(), reason, overflow()),
    )
        .prop_map(|((sub, stream, topic), (count, at_most, from, to, reason, policy))| Gap {
            sub,
            stream,
            topic,
            count,
            at_most,
            from,
            to,
            reason,
            policy,
        })
        .boxed()
}

fn from() -> BoxedStrategy<From> {
    let at = prop_oneof![integer().prop_map(At::Offset), resume().prop_map(At::Positions)];
    prop_oneof![
        Just(From::Live),
        Just(From::Beginning),
        (any::<u32>(), option::of(at)).prop_map(|(n, at)| From::Last { n, at }),
        integer().prop_map(From::Since),
        resume().prop_map(From::Positions),
    ]
    .boxed()
}

/// Positions of streams that differ.
fn resume() -> impl Strategy<Value = Vec<Position>> {
    vec((any::<u64>(), integer()), 0..=limits::POSITIONS).prop_map(|list| {
        (list.into_iter().enumerate())
            .map(|(index, (epoch, offset))| Position {
                stream: (index > 0).then(|| format!("stream{index}").into()),
                epoch: Epoch(epoch),
                offset,
            })
            .collect()
    })
}

fn position() -> impl Strategy<Value = Position> {
    (stream(), any::<u64>(), integer()).prop_map(|(stream, epoch, offset)| Position {
        stream,
        epoch: Epoch(epoch),
        offset,
    })
}

fn stream() -> impl Strategy<Value = Option<Arc<str>>> {
    option::of(
        "[a-zü-]{1,32}".prop_filter("absent on the wire", |name| name != "default").prop_map(Arc::from),
    )
}

fn topic() -> impl Strategy<Value = Topic> {
    vec("[a-zA-Z0-9äß😀$\"\\\\_-]{1,8}", 1..5).prop_map(|tokens| Topic::parse(&tokens.join(".")).unwrap())
}

fn filter() -> impl Strategy<Value = Filter> {
    (vec(prop_oneof![Just("*".to_owned()), "[a-zé]{1,8}"], 1..5), any::<bool>()).prop_map(
        |(mut tokens, tail)| {
            if tail {
                tokens.push(">".into());
            }
            Filter::parse(&tokens.join(".")).unwrap()
        },
    )
}

fn overflow() -> impl Strategy<Value = Overflow> {
    prop::sample::select(vec![
        Overflow::CatchUp,
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Latest,
        Overflow::Disconnect,
    ])
}

fn key() -> impl Strategy<Value = Option<Arc<str>>> {
    option::of(".{0,60}".prop_map(Arc::from))
}

/// Names that differ.
fn headers() -> impl Strategy<Value = Headers> {
    vec((".{0,10}", ".{0,20}"), 0..4).prop_map(|pairs| {
        (pairs.into_iter().enumerate())
            .map(|(index, (name, value))| (format!("{name}{index}").into(), value.into()))
            .collect()
    })
}

fn error_code() -> impl Strategy<Value = ErrorCode> {
    any::<u16>()
        .prop_map(ErrorCode::from_number)
        .boxed()
        .prop_union(prop::sample::select(ErrorCode::ALL.to_vec()).boxed())
}
