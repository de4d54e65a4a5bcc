//! Frames as JSON, one a line.
//!
//! Decoding fills one flat struct of borrowed fields for each direction and then matches on `op`: serde's tagged enums
//! would buffer every frame in a tree first. No parser here recurses into what a peer sent, so depth is a rule
//! (error 1204) and not a danger.

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    DecodeError,
    check::{self, bad_field},
};
use crate::{
    error::ErrorCode,
    frame::{
        AckResult, ClientFrame, Connect, ErrorFrame, Gap, GapReason, Headers, HistoryPage, HistoryRequest,
        Mark, Message, Overflow, Publish, PublishWindow, Published, Report, ServerFrame, StartPosition,
        SubMark, Subscribe, Subscribed, Welcome, WelcomeLimits,
    },
    limits,
    payload::{ContentKind, Payload, json_depth_exceeds},
    position::{At, From, Position},
    topic::Topics,
};

/// Appends a client's frame to `out`.
pub fn encode_client(frame: &ClientFrame, out: &mut Vec<u8>) {
    match frame {
        ClientFrame::Connect(Connect { id, token, client, instance }) => {
            let mut object = Object::frame(out, "connect");
            object.number("id", *id);
            object.optional("token", token.as_ref());
            object.optional("client", client.as_ref());
            object.optional("instance", instance.as_ref());
            object.end();
        }
        ClientFrame::Subscribe(subscribe) => {
            let mut object = Object::frame(out, "subscribe");
            object.number("id", subscribe.id);
            object.text("filter", subscribe.filter.as_str());
            if subscribe.from != From::Live {
                write_from(object.name("from"), &subscribe.from);
            }
            object.optional("overflow", subscribe.overflow.as_ref());
            object.optional("limit", subscribe.limit.as_ref());
            object.optional("limit_bytes", subscribe.limit_bytes.as_ref());
            object.optional("credit", subscribe.credit.as_ref());
            if !subscribe.echo {
                object.value("echo", &false);
            }
            object.end();
        }
        ClientFrame::Unsubscribe { id, sub } => {
            let mut object = Object::frame(out, "unsubscribe");
            object.number("id", *id);
            object.number("sub", *sub);
            object.end();
        }
        ClientFrame::Publish(publish) => {
            let mut object = Object::frame(out, "publish");
            object.optional("id", publish.id.as_ref());
            object.text("topic", publish.topic.as_str());
            object.payload(&publish.payload);
            object.optional("key", publish.key.as_ref());
            object.headers(&publish.headers);
            object.optional("idempotency", publish.idempotency.as_ref());
            object.flag("report", publish.report);
            object.end();
        }
        ClientFrame::History(history) => {
            let mut object = Object::frame(out, "history");
            object.number("id", history.id);
            object.text("topic", history.topic.as_str());
            if history.from != From::Live {
                write_from(object.name("from"), &history.from);
            }
            object.optional("limit", history.limit.as_ref());
            object.end();
        }
        ClientFrame::Refresh { id, token } => {
            let mut object = Object::frame(out, "refresh");
            object.number("id", *id);
            object.text("token", token);
            object.end();
        }
        ClientFrame::Credit { sub, add } => {
            let mut object = Object::frame(out, "credit");
            object.number("sub", *sub);
            object.number("add", u64::from(*add));
            object.end();
        }
        ClientFrame::Ping { id } => {
            let mut object = Object::frame(out, "ping");
            object.number("id", *id);
            object.end();
        }
    }
}

/// Appends a broker's frame to `out`.
pub fn encode_server(frame: &ServerFrame, out: &mut Vec<u8>) {
    match frame {
        ServerFrame::Welcome(welcome) => {
            let mut object = Object::frame(out, "welcome");
            object.number("id", welcome.id);
            object.text("connection", &welcome.connection);
            object.value("limits", &welcome.limits);
            object.value("publish_window", &welcome.publish_window);
            object.number("ping_ms", welcome.ping_ms);
            object.value("reconnect_ms", &welcome.reconnect_ms);
            object.end();
        }
        ServerFrame::Ack { id, result } => {
            let mut object = Object::frame(out, "ack");
            object.number("id", *id);
            match result {
                AckResult::Subscribed(subscribed) => object.subscribed(subscribed),
                AckResult::Published(published) => object.published(published),
                AckResult::Done => {}
            }
            object.end();
        }
        ServerFrame::Error(ErrorFrame { id, code, message }) => {
            let mut object = Object::frame(out, "error");
            object.optional("id", id.as_ref());
            object.number("code", u64::from(code.number()));
            object.text("name", code.name());
            object.text("message", message);
            object.value("retry", &code.retry());
            object.end();
        }
        ServerFrame::Message(message) => encode_message(message, out),
        ServerFrame::Gap(gap) => {
            let mut object = Object::frame(out, "gap");
            object.number("sub", gap.sub);
            object.optional("stream", gap.stream.as_ref());
            object.optional("topic", gap.topic.as_ref().map(|topic| topic.as_str()));
            object.optional("count", gap.count.as_ref());
            object.optional("at_most", gap.at_most.as_ref());
            object.optional("from", gap.from.as_ref());
            object.optional("to", gap.to.as_ref());
            object.value("reason", &gap.reason);
            object.value("policy", &gap.policy);
            object.end();
        }
        ServerFrame::Mark(Mark { positions, subs }) => {
            let mut object = Object::frame(out, "mark");
            write_list(object.name("positions"), positions, write_position);
            write_list(object.name("subs"), subs, |out, sub| {
                let mut object = Object::begin(out);
                object.number("sub", sub.sub);
                object.number("messages", sub.messages);
                object.number("gapped", sub.gapped);
                object.flag("behind", sub.behind);
                object.end();
            });
            object.end();
        }
        ServerFrame::History(page) => {
            let mut object = Object::frame(out, "history");
            object.number("id", page.id);
            write_list(object.name("messages"), &page.messages, |out, message| {
                let mut object = Object::begin(out);
                object.message(message);
                object.end();
            });
            if let Some(position) = &page.position {
                write_position(object.name("position"), position);
            }
            object.flag("more", page.more);
            object.end();
        }
        ServerFrame::Unsubscribed { sub, code } => {
            let mut object = Object::frame(out, "unsubscribed");
            object.number("sub", *sub);
            object.optional("code", code.map(ErrorCode::number).as_ref());
            object.end();
        }
        ServerFrame::Drain { reconnect_ms } => {
            let mut object = Object::frame(out, "drain");
            object.number("reconnect_ms", *reconnect_ms);
            object.end();
        }
        ServerFrame::Pong { id } => {
            let mut object = Object::frame(out, "pong");
            object.number("id", *id);
            object.end();
        }
    }
}

/// Appends a message's frame to `out`. Allocates nothing but `out`'s growth.
pub fn encode_message(message: &Message, out: &mut Vec<u8>) {
    let mut object = Object::frame(out, "message");
    object.message(message);
    object.end();
}

/// Puts `sub` at the end of the message frame that `out` ends with.
pub fn tag_message(out: &mut Vec<u8>, sub: u64) {
    let brace = out.pop();
    debug_assert_eq!(brace, Some(b'}'), "not the end of a frame");
    let mut object = Object { out, comma: true };
    object.number("sub", sub);
    object.end();
}

/// Reads a client's frame from one line. A field the frame does not have is refused.
pub fn decode_client(line: &[u8]) -> Result<ClientFrame, DecodeError> {
    decode_client_with(line, None)
}

/// The same; a publish's topic is looked for in `topics` first.
pub(super) fn decode_client_with(
    line: &[u8],
    topics: Option<&mut Topics>,
) -> Result<ClientFrame, DecodeError> {
    let mut fields: ClientFields<'_> = parse(line)?;
    let id = fields.id;
    client_frame(&mut fields, topics).map_err(|error| deepen(error, line).of_request(readable(id)))
}

/// Reads a broker's frame from one line. A field that is not known is passed over: the broker may be newer.
pub fn decode_server(line: &[u8]) -> Result<ServerFrame, DecodeError> {
    let mut fields: ServerFields<'_> = parse(line)?;
    let id = fields.id;
    server_frame(&mut fields).map_err(|error| deepen(error, line).of_request(readable(id)))
}

fn client_frame(
    fields: &mut ClientFields<'_>,
    topics: Option<&mut Topics>,
) -> Result<ClientFrame, DecodeError> {
    let op = fields.op.take().ok_or_else(|| missing("op"))?.0;
    let frame = match &*op {
        "connect" => ClientFrame::Connect(Connect {
            id: fields.id()?,
            token: bounded("token", fields.token.take(), limits::TOKEN_BYTES)?,
            client: bounded("client", fields.client.take(), limits::ID_BYTES)?,
            instance: bounded("instance", fields.instance.take(), limits::ID_BYTES)?,
        }),
        "subscribe" => ClientFrame::Subscribe(Subscribe {
            id: fields.id()?,
            filter: check::filter(&fields.filter.take().ok_or_else(|| missing("filter"))?.0)?,
            from: read_from(fields.from.take())?,
            overflow: fields.overflow.take(),
            limit: small("limit", fields.limit.take())?,
            limit_bytes: small("limit_bytes", fields.limit_bytes.take())?,
            credit: small("credit", fields.credit.take())?,
            echo: fields.echo.take().unwrap_or(true),
        }),
        "unsubscribe" => {
            ClientFrame::Unsubscribe { id: fields.id()?, sub: integer("sub", fields.sub.take())? }
        }
        "publish" => ClientFrame::Publish(Publish {
            id: optional_integer("id", fields.id.take())?,
            topic: check::known_topic(&fields.topic.take().ok_or_else(|| missing("topic"))?.0, topics)?,
            payload: read_payload(fields.json.take(), fields.text.take(), fields.binary.take())?,
            key: check::key(text(&fields.key.take()))?,
            headers: read_headers(fields.headers.take())?,
            idempotency: bounded("idempotency", fields.idempotency.take(), limits::IDEMPOTENCY_BYTES)?,
            report: fields.report.take().unwrap_or(false),
        }),
        "history" => ClientFrame::History(HistoryRequest {
            id: fields.id()?,
            topic: check::topic(&fields.topic.take().ok_or_else(|| missing("topic"))?.0)?,
            from: read_from(fields.from.take())?,
            limit: small("limit", fields.limit.take())?,
        }),
        "refresh" => ClientFrame::Refresh {
            id: fields.id()?,
            token: bounded("token", fields.token.take(), limits::TOKEN_BYTES)?
                .ok_or_else(|| missing("token"))?,
        },
        "credit" => ClientFrame::Credit {
            sub: integer("sub", fields.sub.take())?,
            add: check::small("add", fields.add.take().ok_or_else(|| missing("add"))?)?,
        },
        "ping" => ClientFrame::Ping { id: fields.id()? },
        _ => return Err(unknown_op(&op)),
    };
    fields.nothing_left(&op)?;
    Ok(frame)
}

impl ClientFields<'_> {
    fn id(&mut self) -> Result<u64, DecodeError> {
        integer("id", self.id.take())
    }
}

fn server_frame(fields: &mut ServerFields<'_>) -> Result<ServerFrame, DecodeError> {
    let op = fields.op.take().ok_or_else(|| missing("op"))?.0;
    Ok(match &*op {
        "welcome" => ServerFrame::Welcome(read_welcome(fields)?),
        "ack" => ServerFrame::Ack { id: integer("id", fields.id)?, result: read_ack(fields)? },
        "error" => ServerFrame::Error(ErrorFrame {
            id: optional_integer("id", fields.id)?,
            code: check::code("code", fields.code.ok_or_else(|| missing("code"))?)?,
            message: fields.message.take().ok_or_else(|| missing("message"))?.0.into_owned(),
        }),
        "message" => ServerFrame::Message(
            MessageFields {
                topic: fields.topic.take(),
                stream: fields.stream.take(),
                offset: fields.offset,
                prev: fields.prev,
                time: fields.time,
                json: fields.json,
                text: fields.text.take(),
                binary: fields.binary.take(),
                key: fields.key.take(),
                headers: fields.headers,
                sub: fields.sub,
                ..MessageFields::default()
            }
            .message()?,
        ),
        "gap" => ServerFrame::Gap(Gap {
            sub: integer("sub", fields.sub)?,
            stream: check::stream(text(&fields.stream))?,
            topic: fields.topic.take().map(|topic| check::topic(&topic.0)).transpose()?,
            count: optional_integer("count", fields.count)?,
            at_most: optional_integer("at_most", fields.at_most)?,
            from: optional_integer("from", fields.from)?,
            to: optional_integer("to", fields.to)?,
            reason: fields.reason.ok_or_else(|| missing("reason"))?,
            policy: fields.policy.ok_or_else(|| missing("policy"))?,
        }),
        "mark" => ServerFrame::Mark(Mark {
            positions: (fields.positions.take().ok_or_else(|| missing("positions"))?.iter())
                .map(PositionFields::position)
                .collect::<Result<_, _>>()?,
            subs: (fields.subs.take().ok_or_else(|| missing("subs"))?.iter())
                .map(SubMarkFields::sub_mark)
                .collect::<Result<_, _>>()?,
        }),
        "history" => ServerFrame::History(HistoryPage {
            id: integer("id", fields.id)?,
            messages: (fields.messages.take().ok_or_else(|| missing("messages"))?.into_iter())
                .map(MessageFields::message)
                .collect::<Result<_, _>>()?,
            position: fields.position.as_ref().map(PositionFields::position).transpose()?,
            more: fields.more.unwrap_or(false),
        }),
        "unsubscribed" => ServerFrame::Unsubscribed {
            sub: integer("sub", fields.sub)?,
            code: fields.code.map(|code| check::code("code", code)).transpose()?,
        },
        "drain" => ServerFrame::Drain {
            reconnect_ms: match fields.reconnect_ms {
                Some(ReconnectMs::Delay(delay)) => check::integer("reconnect_ms", delay)?,
                Some(ReconnectMs::Window(..)) => return Err(bad_field("reconnect_ms", "is not a number")),
                None => return Err(missing("reconnect_ms")),
            },
        },
        "pong" => ServerFrame::Pong { id: integer("id", fields.id)? },
        _ => return Err(unknown_op(&op)),
    })
}

fn read_welcome(fields: &mut ServerFields<'_>) -> Result<Welcome, DecodeError> {
    let limits = fields.limits.ok_or_else(|| missing("limits"))?;
    for value in
        [limits.payload_bytes, limits.message_bytes, limits.subscriptions, limits.limit, limits.limit_bytes]
    {
        check::integer("limits", value)?;
    }
    let publish_window = fields.publish_window.ok_or_else(|| missing("publish_window"))?;
    check::integer("publish_window", publish_window.messages)?;
    check::integer("publish_window", publish_window.bytes)?;
    let reconnect_ms = match fields.reconnect_ms {
        Some(ReconnectMs::Window(from, to)) => {
            (check::integer("reconnect_ms", from)?, check::integer("reconnect_ms", to)?)
        }
        Some(ReconnectMs::Delay(_)) => return Err(bad_field("reconnect_ms", "is not a window")),
        None => return Err(missing("reconnect_ms")),
    };
    Ok(Welcome {
        id: integer("id", fields.id)?,
        connection: fields.connection.take().ok_or_else(|| missing("connection"))?.0.into_owned(),
        limits,
        publish_window,
        ping_ms: integer("ping_ms", fields.ping_ms)?,
        reconnect_ms,
    })
}

/// `positions` tell a subscribe's ack; a publish's has an epoch and an offset, or says that it is live only.
fn read_ack(fields: &mut ServerFields<'_>) -> Result<AckResult, DecodeError> {
    let live_only = fields.live_only.unwrap_or(false);
    if let Some(positions) = fields.positions.take() {
        return Ok(AckResult::Subscribed(Subscribed {
            positions: positions.iter().map(PositionFields::start_position).collect::<Result<_, _>>()?,
            overflow: fields.overflow.ok_or_else(|| missing("overflow"))?,
            limit: check::small("limit", fields.limit.ok_or_else(|| missing("limit"))?)?,
            limit_bytes: check::small(
                "limit_bytes",
                fields.limit_bytes.ok_or_else(|| missing("limit_bytes"))?,
            )?,
            live_only,
        }));
    }
    let position = match (&fields.epoch, fields.offset) {
        (Some(epoch), Some(offset)) => Some(check::position(text(&fields.stream), &epoch.0, offset)?),
        (None, None) if live_only => None,
        (None, None) => return Ok(AckResult::Done),
        (Some(_), None) => return Err(missing("offset")),
        (None, Some(_)) => return Err(missing("epoch")),
    };
    Ok(AckResult::Published(Published {
        position,
        duplicate: fields.duplicate.unwrap_or(false),
        report: fields.report.map(check_report).transpose()?,
    }))
}

fn check_report(report: Report) -> Result<Report, DecodeError> {
    for value in [report.matched, report.queued, report.merged, report.dropped, report.behind] {
        check::integer("report", value)?;
    }
    Ok(report)
}

/// Exactly one of the three.
fn read_payload(
    json: Option<&RawValue>,
    text: Option<Text<'_>>,
    binary: Option<Text<'_>>,
) -> Result<Payload, DecodeError> {
    match (json, text, binary) {
        (Some(json), None, None) => Payload::json(json.get().as_bytes()).map_err(check::payload_error),
        (None, Some(text), None) => Ok(Payload::text(text.0)),
        (None, None, Some(binary)) => STANDARD.decode(&*binary.0).map(Payload::binary).map_err(|e| {
            DecodeError::new(ErrorCode::PayloadInvalid, format_args!("`binary` is not base64: {e}"))
        }),
        (None, None, None) => Err(DecodeError::new(
            ErrorCode::BadField,
            "the payload is missing: one of `json`, `text`, `binary`",
        )),
        _ => Err(DecodeError::new(
            ErrorCode::BadField,
            "more than one payload: exactly one of `json`, `text`, `binary` may stand",
        )),
    }
}

fn read_headers(raw: Option<&RawValue>) -> Result<Headers, DecodeError> {
    let Some(raw) = raw else { return Ok(Headers::new()) };
    let Pairs(pairs) =
        serde_json::from_str(raw.get()).map_err(|_| bad_field("headers", "is not an object of texts"))?;
    check::headers(pairs)
}

fn read_from(raw: Option<&RawValue>) -> Result<From, DecodeError> {
    let Some(raw) = raw else { return Ok(From::Live) };
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<Text<'_>>(text) {
            Ok(Text(name)) if name == "live" => Ok(From::Live),
            Ok(Text(name)) if name == "beginning" => Ok(From::Beginning),
            _ => Err(bad_field("from", "is neither \"live\" nor \"beginning\"")),
        },
        Some(b'[') => read_positions("from", text).map(From::Positions),
        Some(b'{') => {
            let mut fields: FromFields<'_> = serde_json::from_str(text)
                .map_err(|e| bad_field("from", format_args!("cannot be read: {e}")))?;
            let from = if let Some(n) = fields.last.take() {
                From::Last { n: check::small("last", n)?, at: fields.at.take().map(read_at).transpose()? }
            } else if let Some(time) = fields.since.take() {
                From::Since(check::integer("since", time)?)
            } else {
                let epoch = fields.epoch.take().ok_or_else(|| {
                    bad_field("from", "is an object with none of `last`, `since`, and `epoch` with `offset`")
                })?;
                let offset = fields.offset.take().ok_or_else(|| missing("offset"))?;
                From::Positions(vec![check::position(self::text(&fields.stream.take()), &epoch.0, offset)?])
            };
            fields.nothing_left("from")?;
            Ok(from)
        }
        _ => Err(bad_field("from", "is neither text, nor object, nor list")),
    }
}

fn read_at(raw: &RawValue) -> Result<At, DecodeError> {
    if raw.get().starts_with('[') {
        return read_positions("at", raw.get()).map(At::Positions);
    }
    let offset = serde_json::from_str(raw.get())
        .map_err(|_| bad_field("at", "is neither an offset nor a list of positions"))?;
    check::integer("at", offset).map(At::Offset)
}

fn read_positions(field: &str, text: &str) -> Result<Vec<Position>, DecodeError> {
    let First(list) = serde_json::from_str::<First<PositionFields<'_>>>(text)
        .map_err(|e| bad_field(field, format_args!("is not a list of positions: {e}")))?;
    let positions = (list.into_iter())
        .map(|mut fields| {
            let position = fields.position()?;
            (fields.stream, fields.epoch, fields.offset) = (None, None, None);
            fields.nothing_left(field)?;
            Ok(position)
        })
        .collect::<Result<_, DecodeError>>()?;
    check::resume(positions)
}

fn write_from(out: &mut Vec<u8>, from: &From) {
    match from {
        From::Live => out.extend_from_slice(b"\"live\""),
        From::Beginning => out.extend_from_slice(b"\"beginning\""),
        From::Last { n, at } => {
            let mut object = Object::begin(out);
            object.number("last", u64::from(*n));
            match at {
                None => {}
                Some(At::Offset(offset)) => object.number("at", *offset),
                Some(At::Positions(positions)) => write_list(object.name("at"), positions, write_position),
            }
            object.end();
        }
        From::Since(time) => {
            let mut object = Object::begin(out);
            object.number("since", *time);
            object.end();
        }
        From::Positions(positions) => match &positions[..] {
            [one] => write_position(out, one),
            list => write_list(out, list, write_position),
        },
    }
}

fn write_position(out: &mut Vec<u8>, position: &Position) {
    let mut object = Object::begin(out);
    object.position(position);
    object.end();
}

fn write_list<T>(out: &mut Vec<u8>, list: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn write_value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("numbers, texts and plain structs can be written to memory");
}

/// An object that is being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    /// Whether a field stands before the next.
    comma: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, comma: false }
    }

    fn frame(out: &'a mut Vec<u8>, op: &str) -> Self {
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(op.as_bytes());
        out.push(b'"');
        Self { out, comma: true }
    }

    fn end(self) {
        self.out.push(b'}');
    }

    /// Writes a field's name; its value is the caller's to write.
    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.extend_from_slice(if self.comma { b",\"" } else { b"\"" });
        self.comma = true;
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn value<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        write_value(self.name(name), value);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.value(name, &value);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.value(name, value);
    }

    fn optional<T: Serialize>(&mut self, name: &str, value: Option<T>) {
        if let Some(value) = value {
            self.value(name, &value);
        }
    }

    /// Leaves out what is false.
    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.value(name, &true);
        }
    }

    fn position(&mut self, position: &Position) {
        self.optional("stream", position.stream.as_ref());
        self.text("epoch", position.epoch.digits(&mut [0; 16]));
        self.number("offset", position.offset);
    }

    fn subscribed(&mut self, subscribed: &Subscribed) {
        write_list(self.name("positions"), &subscribed.positions, |out, start| {
            let mut object = Object::begin(out);
            object.optional("stream", start.stream.as_ref());
            object.text("epoch", start.epoch.digits(&mut [0; 16]));
            object.number("offset", start.offset);
            object.number("live", start.live);
            object.end();
        });
        self.value("overflow", &subscribed.overflow);
        self.number("limit", u64::from(subscribed.limit));
        self.number("limit_bytes", u64::from(subscribed.limit_bytes));
        self.flag("live_only", subscribed.live_only);
    }

    fn published(&mut self, published: &Published) {
        match &published.position {
            Some(position) => self.position(position),
            None => self.flag("live_only", true),
        }
        self.flag("duplicate", published.duplicate);
        self.optional("report", published.report.as_ref());
    }

    fn message(&mut self, message: &Message) {
        self.text("topic", message.topic.as_str());
        self.optional("stream", message.stream.as_ref());
        self.optional("offset", message.offset);
        self.optional("prev", message.prev);
        self.number("time", message.time);
        self.payload(&message.payload);
        self.optional("key", message.key.as_ref());
        self.headers(&message.headers);
        self.optional("sub", message.sub);
    }

    fn payload(&mut self, payload: &Payload) {
        let data = payload.data();
        match payload.kind() {
            ContentKind::Json => self.name("json").extend_from_slice(data),
            ContentKind::Text => self.text("text", payload.as_str().unwrap_or_default()),
            ContentKind::Binary => {
                let out = self.name("binary");
                out.push(b'"');
                let start = out.len();
                out.resize(start + data.len().div_ceil(3) * 4, 0);
                STANDARD.encode_slice(data, &mut out[start..]).expect("the room for it was just made");
                out.push(b'"');
            }
        }
    }

    fn headers(&mut self, headers: &Headers) {
        if headers.is_empty() {
            return;
        }
        let mut object = Object::begin(self.name("headers"));
        for (name, value) in headers {
            if object.comma {
                object.out.push(b',');
            }
            object.comma = true;
            write_value(object.out, name);
            object.out.push(b':');
            write_value(object.out, value);
        }
        object.end();
    }
}

/// Declares a flat struct of optional fields and reads it from a JSON object whose fields may come in any order.
/// A field may stand once; `null` is no value. The first field that is not known is remembered for who cares.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident<$lt:lifetime> { $($field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Default)]
        struct $name<$lt> {
            $($field: Option<$kind>,)*
            unknown: Option<Cow<$lt, str>>,
            /// The field whose value was being read when an error came.
            reading: Option<&'static str>,
        }

        impl<$lt> $name<$lt> {
            /// Fails where a field is left that was not taken: `of` does not have it.
            #[allow(dead_code, reason = "only what a client sends is read this strictly")]
            fn nothing_left(&self, of: &str) -> Result<(), DecodeError> {
                if let Some(unknown) = &self.unknown {
                    return Err(bad_field(of, format_args!("has a field that is not known: {unknown:?}")));
                }
                $(if self.$field.is_some() {
                    return Err(bad_field(of, concat!("has no field `", stringify!($field), "`")));
                })*
                Ok(())
            }
        }

        impl<$lt> Visitor<$lt> for Fill<'_, $name<$lt>> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<$lt>>(self, mut map: A) -> Result<(), A::Error> {
                let fields = self.0;
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        $(stringify!($field) => {
                            if fields.$field.is_some() {
                                return Err(A::Error::custom(concat!("`", stringify!($field), "` stands twice")));
                            }
                            fields.reading = Some(stringify!($field));
                            fields.$field = Some(map.next_value()?);
                            fields.reading = None;
                        })*
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            fields.unknown.get_or_insert(key);
                        }
                    }
                }
                Ok(())
            }
        }

        impl<$lt> Deserialize<$lt> for $name<$lt> {
            fn deserialize<D: Deserializer<$lt>>(deserializer: D) -> Result<Self, D::Error> {
                let mut fields = Self::default();
                deserializer.deserialize_map(Fill(&mut fields))?;
                Ok(fields)
            }
        }

        impl<$lt> Fields<$lt> for $name<$lt> {
            fn reading(&self) -> Option<&'static str> {
                self.reading
            }

            fn fill(&mut self, deserializer: &mut serde_json::Deserializer<serde_json::de::StrRead<$lt>>)
                -> serde_json::Result<()>
            {
                deserializer.deserialize_map(Fill(self))
            }
        }
    };
}

/// Fills a struct that outlives a failure, so that what was read before it is not lost.
struct Fill<'f, F>(&'f mut F);

trait Fields<'a>: Default {
    fn reading(&self) -> Option<&'static str>;
    fn fill(
        &mut self,
        deserializer: &mut serde_json::Deserializer<serde_json::de::StrRead<'a>>,
    ) -> serde_json::Result<()>;
}

fields! {
    /// Every field of every client frame.
    ClientFields<'a> {
        op: Text<'a>,
        id: u64,
        token: Text<'a>,
        client: Text<'a>,
        instance: Text<'a>,
        filter: Text<'a>,
        from: &'a RawValue,
        overflow: Overflow,
        limit: u64,
        limit_bytes: u64,
        credit: u64,
        echo: bool,
        topic: Text<'a>,
        json: &'a RawValue,
        text: Text<'a>,
        binary: Text<'a>,
        key: Text<'a>,
        headers: &'a RawValue,
        idempotency: Text<'a>,
        report: bool,
        sub: u64,
        add: u64,
    }
}

fields! {
    /// Every field of every server frame.
    ServerFields<'a> {
        op: Text<'a>,
        id: u64,
        connection: Text<'a>,
        limits: WelcomeLimits,
        publish_window: PublishWindow,
        ping_ms: u64,
        reconnect_ms: ReconnectMs,
        positions: Vec<PositionFields<'a>>,
        overflow: Overflow,
        limit: u64,
        limit_bytes: u64,
        live_only: bool,
        stream: Text<'a>,
        epoch: Text<'a>,
        offset: u64,
        duplicate: bool,
        report: Report,
        code: u64,
        message: Text<'a>,
        topic: Text<'a>,
        prev: u64,
        time: u64,
        json: &'a RawValue,
        text: Text<'a>,
        binary: Text<'a>,
        key: Text<'a>,
        headers: &'a RawValue,
        sub: u64,
        count: u64,
        at_most: u64,
        from: u64,
        to: u64,
        reason: GapReason,
        policy: Overflow,
        subs: Vec<SubMarkFields<'a>>,
        messages: Vec<MessageFields<'a>>,
        position: PositionFields<'a>,
        more: bool,
    }
}

fields! {
    /// A message within a page.
    MessageFields<'a> {
        topic: Text<'a>,
        stream: Text<'a>,
        offset: u64,
        prev: u64,
        time: u64,
        json: &'a RawValue,
        text: Text<'a>,
        binary: Text<'a>,
        key: Text<'a>,
        headers: &'a RawValue,
        sub: u64,
    }
}

fields! {
    FromFields<'a> {
        last: u64,
        at: &'a RawValue,
        since: u64,
        stream: Text<'a>,
        epoch: Text<'a>,
        offset: u64,
    }
}

fields! {
    PositionFields<'a> {
        stream: Text<'a>,
        epoch: Text<'a>,
        offset: u64,
        live: u64,
    }
}

fields! {
    SubMarkFields<'a> {
        sub: u64,
        messages: u64,
        gapped: u64,
        behind: bool,
    }
}

fields! {
    /// What is read of a frame that failed, for its error.
    IdFields<'a> {
        id: u64,
    }
}

impl PositionFields<'_> {
    fn position(&self) -> Result<Position, DecodeError> {
        let epoch = self.epoch.as_ref().ok_or_else(|| missing("epoch"))?;
        check::position(text(&self.stream), &epoch.0, self.offset.ok_or_else(|| missing("offset"))?)
    }

    fn start_position(&self) -> Result<StartPosition, DecodeError> {
        let Position { stream, epoch, offset } = self.position()?;
        Ok(StartPosition { stream, epoch, offset, live: integer("live", self.live)? })
    }
}

impl SubMarkFields<'_> {
    fn sub_mark(&self) -> Result<SubMark, DecodeError> {
        Ok(SubMark {
            sub: integer("sub", self.sub)?,
            messages: integer("messages", self.messages)?,
            gapped: integer("gapped", self.gapped)?,
            behind: self.behind.unwrap_or(false),
        })
    }
}

impl MessageFields<'_> {
    fn message(self) -> Result<Message, DecodeError> {
        Ok(Message {
            topic: check::topic(&self.topic.ok_or_else(|| missing("topic"))?.0)?,
            stream: check::stream(text(&self.stream))?,
            offset: optional_integer("offset", self.offset)?,
            prev: optional_integer("prev", self.prev)?,
            time: integer("time", self.time)?,
            payload: read_payload(self.json, self.text, self.binary)?,
            key: check::key(text(&self.key))?,
            headers: read_headers(self.headers)?,
            sub: optional_integer("sub", self.sub)?,
        })
    }
}

/// Fills the fields of one line's object.
fn parse<'a, F: Fields<'a>>(line: &'a [u8]) -> Result<F, DecodeError> {
    let malformed =
        |message: fmt::Arguments<'_>| deepen(DecodeError::new(ErrorCode::MalformedFrame, message), line);
    let text = std::str::from_utf8(line).map_err(|_| malformed(format_args!("the frame is not UTF-8")))?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(malformed(format_args!("a frame is one JSON object")));
    }
    let mut fields = F::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Err(error) = fields.fill(&mut deserializer).and_then(|()| deserializer.end()) else {
        return Ok(fields);
    };
    let error = match (error.is_data(), fields.reading()) {
        (true, Some(field)) => bad_field(field, format_args!("cannot be read: {error}")),
        (true, None) => DecodeError::new(ErrorCode::BadField, error),
        (false, _) => malformed(format_args!("the frame is not JSON: {error}")),
    };
    Err(deepen(error, line).of_request(find_id(text)))
}

/// The id in what can be read of a frame.
fn find_id(text: &str) -> Option<u64> {
    let mut fields = IdFields::default();
    // An error after the id does not take it back.
    let _ = fields.fill(&mut serde_json::Deserializer::from_str(text));
    readable(fields.id)
}

/// An id that a reply can repeat.
fn readable(id: Option<u64>) -> Option<u64> {
    id.filter(|&id| id <= limits::MAX_INTEGER)
}

/// Blames the depth where a frame that failed is too deep, since that is what its sender has to mend first.
fn deepen(error: DecodeError, line: &[u8]) -> DecodeError {
    // A payload may have the whole depth, inside the frame's own level.
    let limit = limits::JSON_DEPTH + usize::from(line.trim_ascii_start().starts_with(b"{"));
    if error.code != ErrorCode::TooDeep && json_depth_exceeds(line, limit) {
        return DecodeError::new(ErrorCode::TooDeep, format_args!("the frame nests deeper than {limit}"));
    }
    error
}

fn missing(field: &str) -> DecodeError {
    bad_field(field, "is missing")
}

fn unknown_op(op: &str) -> DecodeError {
    DecodeError::new(ErrorCode::UnknownOp, format_args!("`op` is not known: {op:?}"))
}

fn integer(field: &str, value: Option<u64>) -> Result<u64, DecodeError> {
    check::integer(field, value.ok_or_else(|| missing(field))?)
}

fn optional_integer(field: &str, value: Option<u64>) -> Result<Option<u64>, DecodeError> {
    value.map(|value| check::integer(field, value)).transpose()
}

fn small(field: &str, value: Option<u64>) -> Result<Option<u32>, DecodeError> {
    value.map(|value| check::small(field, value)).transpose()
}

fn text<'t>(text: &'t Option<Text<'_>>) -> Option<&'t str> {
    text.as_ref().map(|text| &*text.0)
}

fn bounded<'a, T>(field: &str, text: Option<Text<'a>>, limit: usize) -> Result<Option<T>, DecodeError>
where
    Cow<'a, str>: Into<T>,
{
    let Some(Text(text)) = text else { return Ok(None) };
    check::bounded(field, &text, limit)?;
    Ok(Some(text.into()))
}

/// Text that is borrowed from the frame where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.into())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// `welcome` has a window there, `drain` one delay.
#[derive(Clone, Copy)]
enum ReconnectMs {
    Delay(u64),
    Window(u64, u64),
}

impl<'de> Deserialize<'de> for ReconnectMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ReconnectVisitor;

        impl<'de> Visitor<'de> for ReconnectVisitor {
            type Value = ReconnectMs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("milliseconds, or a list of two")
            }

            fn visit_u64<E>(self, delay: u64) -> Result<ReconnectMs, E> {
                Ok(ReconnectMs::Delay(delay))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ReconnectMs, A::Error> {
                match (list.next_element()?, list.next_element()?, list.next_element::<IgnoredAny>()?) {
                    (Some(from), Some(to), None) => Ok(ReconnectMs::Window(from, to)),
                    _ => Err(A::Error::custom("not a list of two")),
                }
            }
        }

        deserializer.deserialize_any(ReconnectVisitor)
    }
}

/// The first items of a list, one more than may stand there: enough to refuse it.
struct First<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FirstVisitor<T>(Vec<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for FirstVisitor<T> {
            type Value = First<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<First<T>, A::Error> {
                while let Some(item) = list.next_element()? {
                    self.0.push(item);
                    if self.0.len() > limits::POSITIONS {
                        while list.next_element::<IgnoredAny>()?.is_some() {}
                    }
                }
                Ok(First(self.0))
            }
        }

        deserializer.deserialize_seq(FirstVisitor(Vec::new()))
    }
}

/// The first pairs of an object, in order, one more than a message may have headers.
struct Pairs<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(name), Text(value))) = map.next_entry()? {
                    pairs.push((name, value));
                    if pairs.len() > limits::HEADERS {
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    }
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}
