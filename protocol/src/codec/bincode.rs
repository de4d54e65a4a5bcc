//! Frames as bincode: version 2's standard configuration (little-endian, variable-length integers).
//!
//! The bytes are stated in `docs/protocol.md` and held by `protocol/vectors/`; the structs here only have to agree
//! with them. A frame is its number, as an integer, then the fields of one of these structs in their order. Fields
//! are borrowed and loose here: what a value may be is checked afterwards, so that a bad value in a frame that could
//! be read to its end costs that frame alone and not the connection.

mod direct;

use ::bincode::{
    BorrowDecode, Encode,
    config::{Configuration, Limit, LittleEndian, Varint, standard},
    de::BorrowDecoder,
    enc::Encoder,
    error,
};

use super::{
    DecodeError, Decoded,
    check::{self, bad_field},
};
use crate::{
    error::ErrorCode,
    frame,
    frame::{AckResult, ClientFrame, GapReason, Message, Overflow, ServerFrame},
    limits,
    payload::{ContentKind, Payload},
    position::{self, From},
    topic::Topics,
};

/// Never without a limit: bincode would allocate whatever length a peer claims. Nothing here does, so this is a second
/// line, beyond what a broker can be configured to take (1 GiB; bincode counts every integer as eight bytes).
const LIMIT: usize = 2 << 30;
const CONFIG: Configuration<LittleEndian, Varint, Limit<LIMIT>> = standard().with_limit::<LIMIT>();

/// The numbers of the frames. They never change meaning. A client's and a broker's differ, so that a frame that comes
/// the wrong way is not taken for another.
mod number {
    pub(super) const CONNECT: u64 = 1;
    pub(super) const SUBSCRIBE: u64 = 2;
    pub(super) const UNSUBSCRIBE: u64 = 3;
    pub(super) const PUBLISH: u64 = 4;
    pub(super) const HISTORY: u64 = 5;
    pub(super) const REFRESH: u64 = 6;
    pub(super) const CREDIT: u64 = 7;
    pub(super) const PING: u64 = 8;

    pub(super) const WELCOME: u64 = 16;
    pub(super) const ACK: u64 = 17;
    pub(super) const ERROR: u64 = 18;
    pub(super) const MESSAGE: u64 = 19;
    pub(super) const GAP: u64 = 20;
    pub(super) const MARK: u64 = 21;
    pub(super) const HISTORY_PAGE: u64 = 22;
    pub(super) const UNSUBSCRIBED: u64 = 23;
    pub(super) const DRAIN: u64 = 24;
    pub(super) const PONG: u64 = 25;
}

/// Appends a client's frame to `out`.
pub fn encode_client(frame: &ClientFrame, out: &mut Vec<u8>) {
    match frame {
        ClientFrame::Connect(connect) => write(
            out,
            number::CONNECT,
            Connect {
                id: connect.id,
                token: connect.token.as_deref(),
                client: connect.client.as_deref(),
                instance: connect.instance.as_deref(),
            },
        ),
        ClientFrame::Subscribe(subscribe) => write(
            out,
            number::SUBSCRIBE,
            Subscribe {
                id: subscribe.id,
                filter: subscribe.filter.as_str(),
                from: Start::of(&subscribe.from),
                overflow: subscribe.overflow.map(overflow_number),
                limit: subscribe.limit.map(u64::from),
                limit_bytes: subscribe.limit_bytes.map(u64::from),
                credit: subscribe.credit.map(u64::from),
                echo: subscribe.echo,
            },
        ),
        ClientFrame::Unsubscribe { id, sub } => {
            write(out, number::UNSUBSCRIBE, Unsubscribe { id: *id, sub: *sub })
        }
        ClientFrame::Publish(publish) => write(
            out,
            number::PUBLISH,
            Publish {
                id: publish.id,
                topic: publish.topic.as_str(),
                kind: kind_number(publish.payload.kind()),
                data: publish.payload.data(),
                key: publish.key.as_deref(),
                headers: List::of(&publish.headers, |(name, value)| (&**name, &**value)),
                idempotency: publish.idempotency.as_deref(),
                report: publish.report,
            },
        ),
        ClientFrame::History(history) => write(
            out,
            number::HISTORY,
            History {
                id: history.id,
                topic: history.topic.as_str(),
                from: Start::of(&history.from),
                limit: history.limit.map(u64::from),
            },
        ),
        ClientFrame::Refresh { id, token } => write(out, number::REFRESH, Refresh { id: *id, token }),
        ClientFrame::Credit { sub, add } => {
            write(out, number::CREDIT, Credit { sub: *sub, add: u64::from(*add) })
        }
        ClientFrame::Ping { id } => write(out, number::PING, Ping { id: *id }),
    }
}

/// Appends a broker's frame to `out`.
pub fn encode_server(frame: &ServerFrame, out: &mut Vec<u8>) {
    match frame {
        ServerFrame::Welcome(welcome) => write(
            out,
            number::WELCOME,
            Welcome {
                id: welcome.id,
                connection: &welcome.connection,
                payload_bytes: welcome.limits.payload_bytes,
                message_bytes: welcome.limits.message_bytes,
                subscriptions: welcome.limits.subscriptions,
                limit: welcome.limits.limit,
                limit_bytes: welcome.limits.limit_bytes,
                window_messages: welcome.publish_window.messages,
                window_bytes: welcome.publish_window.bytes,
                ping_ms: welcome.ping_ms,
                reconnect_from_ms: welcome.reconnect_ms.0,
                reconnect_to_ms: welcome.reconnect_ms.1,
            },
        ),
        ServerFrame::Ack { id, result } => write(
            out,
            number::ACK,
            Ack {
                id: *id,
                result: match result {
                    AckResult::Done => Outcome::Done,
                    AckResult::Subscribed(subscribed) => Outcome::Subscribed(Subscribed {
                        positions: List::of(&subscribed.positions, |start| StartPosition {
                            stream: start.stream.as_deref(),
                            epoch: EpochText::Digits(start.epoch),
                            offset: start.offset,
                            live: start.live,
                        }),
                        overflow: overflow_number(subscribed.overflow),
                        limit: u64::from(subscribed.limit),
                        limit_bytes: u64::from(subscribed.limit_bytes),
                        live_only: subscribed.live_only,
                    }),
                    AckResult::Published(published) => Outcome::Published(Published {
                        position: published.position.as_ref().map(Position::of),
                        duplicate: published.duplicate,
                        report: published.report.map(|report| Report {
                            matched: report.matched,
                            queued: report.queued,
                            merged: report.merged,
                            dropped: report.dropped,
                            behind: report.behind,
                            partial: report.partial,
                        }),
                    }),
                },
            },
        ),
        ServerFrame::Error(error) => write(
            out,
            number::ERROR,
            Error {
                id: error.id,
                code: u64::from(error.code.number()),
                name: error.code.name(),
                message: &error.message,
                retry: error.code.retry(),
            },
        ),
        ServerFrame::Message(message) => encode_message(message, out),
        ServerFrame::Gap(gap) => write(
            out,
            number::GAP,
            Gap {
                sub: gap.sub,
                stream: gap.stream.as_deref(),
                topic: gap.topic.as_ref().map(|topic| topic.as_str()),
                count: gap.count,
                at_most: gap.at_most,
                from: gap.from,
                to: gap.to,
                reason: reason_number(gap.reason),
                policy: overflow_number(gap.policy),
            },
        ),
        ServerFrame::Mark(mark) => write(
            out,
            number::MARK,
            Mark {
                positions: List::of(&mark.positions, Position::of),
                subs: List::of(&mark.subs, |sub| SubMark {
                    sub: sub.sub,
                    messages: sub.messages,
                    gapped: sub.gapped,
                    behind: sub.behind,
                }),
            },
        ),
        ServerFrame::History(page) => write(
            out,
            number::HISTORY_PAGE,
            HistoryPage {
                id: page.id,
                messages: List::of(&page.messages, MessageBody::of),
                position: page.position.as_ref().map(Position::of),
                more: page.more,
            },
        ),
        ServerFrame::Unsubscribed { sub, code } => write(
            out,
            number::UNSUBSCRIBED,
            Unsubscribed { sub: *sub, code: code.map(|code| u64::from(code.number())) },
        ),
        ServerFrame::Drain { reconnect_ms } => {
            write(out, number::DRAIN, Drain { reconnect_ms: *reconnect_ms });
        }
        ServerFrame::Pong { id } => write(out, number::PONG, Ping { id: *id }),
    }
}

/// Appends a message's frame to `out`. Allocates nothing but `out`'s growth, and where there are headers.
pub fn encode_message(message: &Message, out: &mut Vec<u8>) {
    direct::message(message, out);
}

/// Puts `sub` at the end of the message frame that `out` ends with: it stands last there, and is absent.
pub fn tag_message(out: &mut Vec<u8>, sub: u64) {
    let absent = out.pop();
    debug_assert_eq!(absent, Some(0), "not the end of a message without `sub`");
    encode(out, Some(sub));
}

/// Reads a client's frame from the start of `bytes`, and says how many of them it took. A publish's topic is looked for in
/// `topics` first.
pub fn decode_client(bytes: &[u8], topics: Option<&mut Topics>) -> Decoded<ClientFrame> {
    match direct::publish(bytes, topics) {
        Some((frame, length)) => (Ok(frame), length),
        None => decode_derived(bytes),
    }
}

fn decode_derived(bytes: &[u8]) -> Decoded<ClientFrame> {
    decode(bytes, |number, body| match number {
        number::CONNECT => body.read(Connect::check),
        number::SUBSCRIBE => body.read(Subscribe::check),
        number::UNSUBSCRIBE => body.read(Unsubscribe::check),
        number::PUBLISH => body.read(Publish::check),
        number::HISTORY => body.read(History::check),
        number::REFRESH => body.read(Refresh::check),
        number::CREDIT => body.read(Credit::check),
        number::PING => body.read(|ping: Ping| Ok(ClientFrame::Ping { id: check::integer("id", ping.id)? })),
        _ => body.unknown(number),
    })
}

/// Reads a broker's frame from the start of `bytes`, and says how many of them it took.
pub fn decode_server(bytes: &[u8]) -> Decoded<ServerFrame> {
    decode(bytes, |number, body| match number {
        number::WELCOME => body.read(Welcome::check),
        number::ACK => body.read(Ack::check),
        number::ERROR => body.read(Error::check),
        number::MESSAGE => body.read(|message: MessageBody<'_>| message.check().map(ServerFrame::Message)),
        number::GAP => body.read(Gap::check),
        number::MARK => body.read(Mark::check),
        number::HISTORY_PAGE => body.read(HistoryPage::check),
        number::UNSUBSCRIBED => body.read(Unsubscribed::check),
        number::DRAIN => body.read(Drain::check),
        number::PONG => body.read(|pong: Ping| Ok(ServerFrame::Pong { id: check::integer("id", pong.id)? })),
        _ => body.unknown(number),
    })
}

fn decode<'a, F>(bytes: &'a [u8], read: impl FnOnce(u64, Body<'a>) -> Decoded<F>) -> Decoded<F> {
    match ::bincode::borrow_decode_from_slice(bytes, CONFIG) {
        Ok((number, start)) => read(number, Body { bytes, start }),
        Err(error) => (Err(malformed(&error)), bytes.len()),
    }
}

/// A frame whose number was read.
struct Body<'a> {
    bytes: &'a [u8],
    /// Where the fields start.
    start: usize,
}

impl<'a> Body<'a> {
    /// Reads the fields, then makes a frame of them.
    fn read<W: Fields<'a>, F>(self, check: impl FnOnce(W) -> Result<F, DecodeError>) -> Decoded<F> {
        let fields = &self.bytes[self.start..];
        match ::bincode::borrow_decode_from_slice::<W, _>(fields, CONFIG) {
            Ok((wire, length)) => {
                let id = wire.id().filter(|&id| id <= limits::MAX_INTEGER);
                (check(wire).map_err(|error| error.of_request(id)), self.start + length)
            }
            Err(error) => {
                let id = W::find_id(fields).filter(|&id| id <= limits::MAX_INTEGER);
                (Err(malformed(&error).of_request(id)), self.bytes.len())
            }
        }
    }

    fn unknown<F>(self, number: u64) -> Decoded<F> {
        let error =
            DecodeError::new(ErrorCode::UnknownOp, format_args!("the frame's number is not known: {number}"));
        (Err(DecodeError { fatal: true, ..error }), self.bytes.len())
    }
}

/// Where a frame ends is lost with it.
fn malformed(error: &error::DecodeError) -> DecodeError {
    let error =
        DecodeError::new(ErrorCode::MalformedFrame, format_args!("the frame cannot be read: {error}"));
    DecodeError { fatal: true, ..error }
}

fn write(out: &mut Vec<u8>, number: u64, fields: impl Encode) {
    encode(out, number);
    encode(out, fields);
}

fn encode(out: &mut Vec<u8>, value: impl Encode) {
    /// Bytes in memory.
    struct Memory<'a>(&'a mut Vec<u8>);

    impl ::bincode::enc::write::Writer for Memory<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), error::EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }

    ::bincode::encode_into_writer(value, Memory(out), CONFIG).expect("plain values can be written to memory");
}

/// The fields of a frame.
trait Fields<'a>: BorrowDecode<'a, ()> {
    /// The request's id.
    fn id(&self) -> Option<u64> {
        None
    }

    /// The request's id in a frame that cannot be read to its end.
    fn find_id(_fields: &'a [u8]) -> Option<u64> {
        None
    }
}

/// Says where a frame has its request's id: in its first field, there if at all, or nowhere.
macro_rules! fields {
    (id: u64; $($frame:ty),*) => {
        $(impl<'a> Fields<'a> for $frame {
            fn id(&self) -> Option<u64> {
                Some(self.id)
            }

            fn find_id(fields: &'a [u8]) -> Option<u64> {
                ::bincode::borrow_decode_from_slice::<u64, _>(fields, CONFIG).ok().map(|(id, _)| id)
            }
        })*
    };
    (id: Option<u64>; $($frame:ty),*) => {
        $(impl<'a> Fields<'a> for $frame {
            fn id(&self) -> Option<u64> {
                self.id
            }

            fn find_id(fields: &'a [u8]) -> Option<u64> {
                ::bincode::borrow_decode_from_slice::<Option<u64>, _>(fields, CONFIG).ok().and_then(|(id, _)| id)
            }
        })*
    };
    (no id; $($frame:ty),*) => { $(impl<'a> Fields<'a> for $frame {})* };
}

fields!(id: u64; Connect<'a>, Subscribe<'a>, Unsubscribe, History<'a>, Refresh<'a>, Ping, Welcome<'a>, Ack<'a>, HistoryPage<'a>);
fields!(id: Option<u64>; Publish<'a>, Error<'a>);
fields!(no id; Credit, MessageBody<'a>, Gap<'a>, Mark<'a>, Unsubscribed, Drain);

#[derive(Encode, BorrowDecode)]
struct Connect<'a> {
    id: u64,
    token: Option<&'a str>,
    client: Option<&'a str>,
    instance: Option<&'a str>,
}

#[derive(Encode, BorrowDecode)]
struct Subscribe<'a> {
    id: u64,
    filter: &'a str,
    from: Start<'a>,
    overflow: Option<u64>,
    limit: Option<u64>,
    limit_bytes: Option<u64>,
    credit: Option<u64>,
    echo: bool,
}

#[derive(Encode, BorrowDecode)]
struct Unsubscribe {
    id: u64,
    sub: u64,
}

#[derive(Encode, BorrowDecode)]
struct Publish<'a> {
    id: Option<u64>,
    topic: &'a str,
    kind: u64,
    data: &'a [u8],
    key: Option<&'a str>,
    headers: List<(&'a str, &'a str), { limits::HEADERS }>,
    idempotency: Option<&'a str>,
    report: bool,
}

#[derive(Encode, BorrowDecode)]
struct History<'a> {
    id: u64,
    topic: &'a str,
    from: Start<'a>,
    limit: Option<u64>,
}

#[derive(Encode, BorrowDecode)]
struct Refresh<'a> {
    id: u64,
    token: &'a str,
}

#[derive(Encode, BorrowDecode)]
struct Credit {
    sub: u64,
    add: u64,
}

/// And its pong.
#[derive(Encode, BorrowDecode)]
struct Ping {
    id: u64,
}

#[derive(Encode, BorrowDecode)]
struct Welcome<'a> {
    id: u64,
    connection: &'a str,
    payload_bytes: u64,
    message_bytes: u64,
    subscriptions: u64,
    limit: u64,
    limit_bytes: u64,
    window_messages: u64,
    window_bytes: u64,
    ping_ms: u64,
    reconnect_from_ms: u64,
    reconnect_to_ms: u64,
}

#[derive(Encode, BorrowDecode)]
struct Ack<'a> {
    id: u64,
    result: Outcome<'a>,
}

#[derive(Encode, BorrowDecode)]
struct Error<'a> {
    id: Option<u64>,
    code: u64,
    name: &'a str,
    message: &'a str,
    retry: bool,
}

#[derive(Encode, BorrowDecode)]
struct MessageBody<'a> {
    topic: &'a str,
    stream: Option<&'a str>,
    offset: Option<u64>,
    prev: Option<u64>,
    time: u64,
    kind: u64,
    data: &'a [u8],
    key: Option<&'a str>,
    headers: List<(&'a str, &'a str), { limits::HEADERS }>,
    sub: Option<u64>,
}

#[derive(Encode, BorrowDecode)]
struct Gap<'a> {
    sub: u64,
    stream: Option<&'a str>,
    topic: Option<&'a str>,
    count: Option<u64>,
    at_most: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    reason: u64,
    policy: u64,
}

#[derive(Encode, BorrowDecode)]
struct Mark<'a> {
    positions: List<Position<'a>>,
    subs: List<SubMark>,
}

#[derive(Encode, BorrowDecode)]
struct HistoryPage<'a> {
    id: u64,
    messages: List<MessageBody<'a>>,
    position: Option<Position<'a>>,
    more: bool,
}

#[derive(Encode, BorrowDecode)]
struct Unsubscribed {
    sub: u64,
    code: Option<u64>,
}

#[derive(Encode, BorrowDecode)]
struct Drain {
    reconnect_ms: u64,
}

#[derive(Encode, BorrowDecode)]
#[repr(u32)]
enum Start<'a> {
    Live = 0,
    Beginning = 1,
    Last { n: u64, at: Option<At<'a>> } = 2,
    Since(u64) = 3,
    Positions(List<Position<'a>, { limits::POSITIONS }>) = 4,
}

#[derive(Encode, BorrowDecode)]
#[repr(u32)]
enum At<'a> {
    Offset(u64) = 0,
    Positions(List<Position<'a>, { limits::POSITIONS }>) = 1,
}

#[derive(Encode, BorrowDecode)]
struct Position<'a> {
    stream: Option<&'a str>,
    epoch: EpochText<'a>,
    offset: u64,
}

#[derive(Encode, BorrowDecode)]
#[repr(u32)]
enum Outcome<'a> {
    Done = 0,
    Subscribed(Subscribed<'a>) = 1,
    Published(Published<'a>) = 2,
}

#[derive(Encode, BorrowDecode)]
struct Subscribed<'a> {
    positions: List<StartPosition<'a>>,
    overflow: u64,
    limit: u64,
    limit_bytes: u64,
    live_only: bool,
}

#[derive(Encode, BorrowDecode)]
struct StartPosition<'a> {
    stream: Option<&'a str>,
    epoch: EpochText<'a>,
    offset: u64,
    live: u64,
}

#[derive(Encode, BorrowDecode)]
struct Published<'a> {
    position: Option<Position<'a>>,
    duplicate: bool,
    report: Option<Report>,
}

#[derive(Encode, BorrowDecode)]
struct Report {
    matched: u64,
    queued: u64,
    merged: u64,
    dropped: u64,
    behind: u64,
    partial: bool,
}

#[derive(Encode, BorrowDecode)]
struct SubMark {
    sub: u64,
    messages: u64,
    gapped: u64,
    behind: bool,
}

impl Connect<'_> {
    fn check(self) -> Result<ClientFrame, DecodeError> {
        Ok(ClientFrame::Connect(frame::Connect {
            id: check::integer("id", self.id)?,
            token: bounded("token", self.token, limits::TOKEN_BYTES)?,
            client: bounded("client", self.client, limits::ID_BYTES)?,
            instance: bounded("instance", self.instance, limits::ID_BYTES)?,
        }))
    }
}

impl Subscribe<'_> {
    fn check(self) -> Result<ClientFrame, DecodeError> {
        Ok(ClientFrame::Subscribe(frame::Subscribe {
            id: check::integer("id", self.id)?,
            filter: check::filter(self.filter)?,
            from: self.from.check()?,
            overflow: self.overflow.map(|number| overflow("overflow", number)).transpose()?,
            limit: small("limit", self.limit)?,
            limit_bytes: small("limit_bytes", self.limit_bytes)?,
            credit: small("credit", self.credit)?,
            echo: self.echo,
        }))
    }
}

impl Unsubscribe {
    fn check(self) -> Result<ClientFrame, DecodeError> {
        Ok(ClientFrame::Unsubscribe {
            id: check::integer("id", self.id)?,
            sub: check::integer("sub", self.sub)?,
        })
    }
}

impl Publish<'_> {
    fn check(self) -> Result<ClientFrame, DecodeError> {
        Ok(ClientFrame::Publish(frame::Publish {
            id: integer("id", self.id)?,
            topic: check::topic(self.topic)?,
            payload: payload(self.kind, self.data)?,
            key: check::key(self.key)?,
            headers: check::headers(self.headers.0)?,
            idempotency: bounded("idempotency", self.idempotency, limits::IDEMPOTENCY_BYTES)?,
            report: self.report,
        }))
    }
}

impl History<'_> {
    fn check(self) -> Result<ClientFrame, DecodeError> {
        Ok(ClientFrame::History(frame::HistoryRequest {
            id: check::integer("id", self.id)?,
            topic: check::topic(self.topic)?,
            from: self.from.check()?,
            limit: small("limit", self.limit)?,
        }))
    }
}

impl Refresh<'_> {
    fn check(self) -> Result<ClientFrame, DecodeError> {
        Ok(ClientFrame::Refresh {
            id: check::integer("id", self.id)?,
            token: check::bounded("token", self.token, limits::TOKEN_BYTES)?.into(),
        })
    }
}

impl Credit {
    fn check(self) -> Result<ClientFrame, DecodeError> {
        Ok(ClientFrame::Credit { sub: check::integer("sub", self.sub)?, add: check::small("add", self.add)? })
    }
}

impl Welcome<'_> {
    fn check(self) -> Result<ServerFrame, DecodeError> {
        Ok(ServerFrame::Welcome(frame::Welcome {
            id: check::integer("id", self.id)?,
            connection: self.connection.into(),
            limits: frame::WelcomeLimits {
                payload_bytes: check::integer("payload_bytes", self.payload_bytes)?,
                message_bytes: check::integer("message_bytes", self.message_bytes)?,
                subscriptions: check::integer("subscriptions", self.subscriptions)?,
                limit: check::integer("limit", self.limit)?,
                limit_bytes: check::integer("limit_bytes", self.limit_bytes)?,
            },
            publish_window: frame::PublishWindow {
                messages: check::integer("publish_window", self.window_messages)?,
                bytes: check::integer("publish_window", self.window_bytes)?,
            },
            ping_ms: check::integer("ping_ms", self.ping_ms)?,
            reconnect_ms: (
                check::integer("reconnect_ms", self.reconnect_from_ms)?,
                check::integer("reconnect_ms", self.reconnect_to_ms)?,
            ),
        }))
    }
}

impl Ack<'_> {
    fn check(self) -> Result<ServerFrame, DecodeError> {
        let result = match self.result {
            Outcome::Done => AckResult::Done,
            Outcome::Subscribed(subscribed) => AckResult::Subscribed(frame::Subscribed {
                positions: check_all(subscribed.positions, StartPosition::check)?,
                overflow: overflow("overflow", subscribed.overflow)?,
                limit: check::small("limit", subscribed.limit)?,
                limit_bytes: check::small("limit_bytes", subscribed.limit_bytes)?,
                live_only: subscribed.live_only,
            }),
            Outcome::Published(published) => AckResult::Published(frame::Published {
                position: published.position.map(Position::check).transpose()?,
                duplicate: published.duplicate,
                report: published.report.map(Report::check).transpose()?,
            }),
        };
        Ok(ServerFrame::Ack { id: check::integer("id", self.id)?, result })
    }
}

impl Error<'_> {
    fn check(self) -> Result<ServerFrame, DecodeError> {
        Ok(ServerFrame::Error(frame::ErrorFrame {
            id: integer("id", self.id)?,
            code: check::code("code", self.code)?,
            message: self.message.into(),
        }))
    }
}

impl<'a> MessageBody<'a> {
    fn of(message: &'a Message) -> Self {
        Self {
            topic: message.topic.as_str(),
            stream: message.stream.as_deref(),
            offset: message.offset,
            prev: message.prev,
            time: message.time,
            kind: kind_number(message.payload.kind()),
            data: message.payload.data(),
            key: message.key.as_deref(),
            headers: List::of(&message.headers, |(name, value)| (&**name, &**value)),
            sub: message.sub,
        }
    }

    fn check(self) -> Result<Message, DecodeError> {
        Ok(Message {
            topic: check::topic(self.topic)?,
            stream: check::stream(self.stream)?,
            offset: integer("offset", self.offset)?,
            prev: integer("prev", self.prev)?,
            time: check::integer("time", self.time)?,
            payload: payload(self.kind, self.data)?,
            key: check::key(self.key)?,
            headers: check::headers(self.headers.0)?,
            sub: integer("sub", self.sub)?,
        })
    }
}

impl Gap<'_> {
    fn check(self) -> Result<ServerFrame, DecodeError> {
        Ok(ServerFrame::Gap(frame::Gap {
            sub: check::integer("sub", self.sub)?,
            stream: check::stream(self.stream)?,
            topic: self.topic.map(check::topic).transpose()?,
            count: integer("count", self.count)?,
            at_most: integer("at_most", self.at_most)?,
            from: integer("from", self.from)?,
            to: integer("to", self.to)?,
            reason: reason(self.reason)?,
            policy: overflow("policy", self.policy)?,
        }))
    }
}

impl Mark<'_> {
    fn check(self) -> Result<ServerFrame, DecodeError> {
        Ok(ServerFrame::Mark(frame::Mark {
            positions: check_all(self.positions, Position::check)?,
            subs: check_all(self.subs, SubMark::check)?,
        }))
    }
}

impl HistoryPage<'_> {
    fn check(self) -> Result<ServerFrame, DecodeError> {
        Ok(ServerFrame::History(frame::HistoryPage {
            id: check::integer("id", self.id)?,
            messages: check_all(self.messages, MessageBody::check)?,
            position: self.position.map(Position::check).transpose()?,
            more: self.more,
        }))
    }
}

impl Unsubscribed {
    fn check(self) -> Result<ServerFrame, DecodeError> {
        Ok(ServerFrame::Unsubscribed {
            sub: check::integer("sub", self.sub)?,
            code: self.code.map(|code| check::code("code", code)).transpose()?,
        })
    }
}

impl Drain {
    fn check(self) -> Result<ServerFrame, DecodeError> {
        Ok(ServerFrame::Drain { reconnect_ms: check::integer("reconnect_ms", self.reconnect_ms)? })
    }
}

impl<'a> Start<'a> {
    fn of(from: &'a From) -> Self {
        match from {
            From::Live => Self::Live,
            From::Beginning => Self::Beginning,
            From::Last { n, at } => Self::Last {
                n: u64::from(*n),
                at: at.as_ref().map(|at| match at {
                    position::At::Offset(offset) => At::Offset(*offset),
                    position::At::Positions(positions) => At::Positions(List::of(positions, Position::of)),
                }),
            },
            From::Since(time) => Self::Since(*time),
            From::Positions(positions) => Self::Positions(List::of(positions, Position::of)),
        }
    }

    fn check(self) -> Result<From, DecodeError> {
        Ok(match self {
            Self::Live => From::Live,
            Self::Beginning => From::Beginning,
            Self::Last { n, at } => {
                From::Last { n: check::small("last", n)?, at: at.map(At::check).transpose()? }
            }
            Self::Since(time) => From::Since(check::integer("since", time)?),
            Self::Positions(positions) => {
                From::Positions(check::resume(check_all(positions, Position::check)?)?)
            }
        })
    }
}

impl At<'_> {
    fn check(self) -> Result<position::At, DecodeError> {
        Ok(match self {
            Self::Offset(offset) => position::At::Offset(check::integer("at", offset)?),
            Self::Positions(positions) => {
                position::At::Positions(check::resume(check_all(positions, Position::check)?)?)
            }
        })
    }
}

impl<'a> Position<'a> {
    fn of(position: &'a position::Position) -> Self {
        Self {
            stream: position.stream.as_deref(),
            epoch: EpochText::Digits(position.epoch),
            offset: position.offset,
        }
    }

    fn check(self) -> Result<position::Position, DecodeError> {
        Ok(position::Position {
            stream: check::stream(self.stream)?,
            epoch: self.epoch.check()?,
            offset: check::integer("offset", self.offset)?,
        })
    }
}

impl StartPosition<'_> {
    fn check(self) -> Result<frame::StartPosition, DecodeError> {
        Ok(frame::StartPosition {
            stream: check::stream(self.stream)?,
            epoch: self.epoch.check()?,
            offset: check::integer("offset", self.offset)?,
            live: check::integer("live", self.live)?,
        })
    }
}

impl Report {
    fn check(self) -> Result<frame::Report, DecodeError> {
        Ok(frame::Report {
            matched: check::integer("matched", self.matched)?,
            queued: check::integer("queued", self.queued)?,
            merged: check::integer("merged", self.merged)?,
            dropped: check::integer("dropped", self.dropped)?,
            behind: check::integer("behind", self.behind)?,
            partial: self.partial,
        })
    }
}

impl SubMark {
    fn check(self) -> Result<frame::SubMark, DecodeError> {
        Ok(frame::SubMark {
            sub: check::integer("sub", self.sub)?,
            messages: check::integer("messages", self.messages)?,
            gapped: check::integer("gapped", self.gapped)?,
            behind: self.behind,
        })
    }
}

fn integer(field: &str, value: Option<u64>) -> Result<Option<u64>, DecodeError> {
    value.map(|value| check::integer(field, value)).transpose()
}

fn small(field: &str, value: Option<u64>) -> Result<Option<u32>, DecodeError> {
    value.map(|value| check::small(field, value)).transpose()
}

fn bounded<'a, T: std::convert::From<&'a str>>(
    field: &str,
    text: Option<&'a str>,
    limit: usize,
) -> Result<Option<T>, DecodeError> {
    text.map(|text| check::bounded(field, text, limit).map(T::from)).transpose()
}

fn check_all<W, T, const KEPT: usize>(
    list: List<W, KEPT>,
    check: impl Fn(W) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    list.0.into_iter().map(check).collect()
}

fn payload(kind: u64, data: &[u8]) -> Result<Payload, DecodeError> {
    let kind = match kind {
        0 => ContentKind::Json,
        1 => ContentKind::Text,
        2 => ContentKind::Binary,
        _ => return Err(bad_field("kind", "is not known")),
    };
    Payload::of_kind(kind, data).map_err(check::payload_error)
}

fn kind_number(kind: ContentKind) -> u64 {
    match kind {
        ContentKind::Json => 0,
        ContentKind::Text => 1,
        ContentKind::Binary => 2,
    }
}

fn overflow(field: &str, number: u64) -> Result<Overflow, DecodeError> {
    Ok(match number {
        0 => Overflow::CatchUp,
        1 => Overflow::DropOldest,
        2 => Overflow::DropNewest,
        3 => Overflow::Latest,
        4 => Overflow::Disconnect,
        _ => return Err(bad_field(field, "is not known")),
    })
}

fn overflow_number(overflow: Overflow) -> u64 {
    match overflow {
        Overflow::CatchUp => 0,
        Overflow::DropOldest => 1,
        Overflow::DropNewest => 2,
        Overflow::Latest => 3,
        Overflow::Disconnect => 4,
    }
}

fn reason(number: u64) -> Result<GapReason, DecodeError> {
    Ok(match number {
        0 => GapReason::Overflow,
        1 => GapReason::Merged,
        2 => GapReason::Evicted,
        3 => GapReason::Epoch,
        4 => GapReason::Away,
        5 => GapReason::Books,
        _ => return Err(bad_field("reason", "is not known")),
    })
}

fn reason_number(reason: GapReason) -> u64 {
    match reason {
        GapReason::Overflow => 0,
        GapReason::Merged => 1,
        GapReason::Evicted => 2,
        GapReason::Epoch => 3,
        GapReason::Away => 4,
        GapReason::Books => 5,
    }
}

/// An epoch's text: as it was read, or its digits to be written.
enum EpochText<'a> {
    Read(&'a str),
    Digits(position::Epoch),
}

impl EpochText<'_> {
    fn check(self) -> Result<position::Epoch, DecodeError> {
        match self {
            Self::Read(text) => check::epoch(text),
            Self::Digits(epoch) => Ok(epoch),
        }
    }
}

impl Encode for EpochText<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), error::EncodeError> {
        match self {
            Self::Read(text) => text.encode(encoder),
            Self::Digits(epoch) => epoch.digits(&mut [0; 16]).encode(encoder),
        }
    }
}

impl<'de, C> BorrowDecode<'de, C> for EpochText<'de> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, error::DecodeError> {
        <&'de str>::borrow_decode(decoder).map(Self::Read)
    }
}

/// A list whose memory grows with the items that were read, never by the count a peer claims. Of more than `KEPT`
/// items it keeps one more: enough to refuse them.
struct List<T, const KEPT: usize = { usize::MAX - 1 }>(Vec<T>);

impl<'a, T, const KEPT: usize> List<T, KEPT> {
    fn of<S>(items: &'a [S], item: impl Fn(&'a S) -> T) -> Self {
        Self(items.iter().map(item).collect())
    }
}

impl<T: Encode, const KEPT: usize> Encode for List<T, KEPT> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), error::EncodeError> {
        self.0.as_slice().encode(encoder)
    }
}

impl<'de, C, T: BorrowDecode<'de, C>, const KEPT: usize> BorrowDecode<'de, C> for List<T, KEPT> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, error::DecodeError> {
        // Every item has a byte at least, so a count that is a lie ends with the input.
        let count = u64::borrow_decode(decoder)?;
        let mut items = Vec::new();
        for _ in 0..count {
            let item = T::borrow_decode(decoder)?;
            if items.len() <= KEPT {
                items.push(item);
            }
        }
        Ok(Self(items))
    }
}
