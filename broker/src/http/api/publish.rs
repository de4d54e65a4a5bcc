//! Publishing over HTTP: one message, or a batch.

use std::{fmt, sync::Arc, time::Duration};

use hyper::{HeaderMap, header};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};
use tidegate_protocol::{
    ClientFrame, Codec, ContentKind, ErrorCode, Payload, Topic,
    frame::Publish,
    limits::{HEADER_BYTES, HEADERS, ID_BYTES, IDEMPOTENCY_BYTES, KEY_BYTES},
    payload::PayloadError,
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    super::{Answer, cors::MESSAGE_HEADERS, refusal::Refusal},
    Api, Asked, json_answer,
    query::{Query, percent_decode},
};
use crate::{
    engine::Accepted,
    shard::{
        Order,
        errand::{Errand, Refused},
    },
    stream::Draft,
};

/// Whose idempotency keys are meant where a publisher does not say who he is (`X-Tidegate-Instance`).
const INSTANCE: &str = "http";
/// How long an engine may take: then the outcome is not known. The built-in one answers at once, a report takes a second.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// `POST /v1/topics/{topic}`.
pub(super) async fn one(api: &Api, asked: Asked<'_>) -> Result<Answer, Refusal> {
    let limit = api.config.limits.payload_bytes;
    let body = api.shared.bodies.read(asked.body, limit, asked.turn, || too_large(limit)).await?;
    let topic = Topic::parse(&percent_decode(asked.parameter, false)?)
        .map_err(|error| Refusal::error(ErrorCode::TopicInvalid, format!("not a topic: {error}")))?;
    let mut query = Query::parse(asked.query)?;
    let report = query.take_flag("report")?;
    query.end()?;
    let payload = Payload::of_kind(content_kind(asked.headers)?, &body.bytes).map_err(payload_error)?;
    let publish = Publish {
        id: None,
        topic,
        payload,
        key: text(asked.headers, "x-tidegate-key", KEY_BYTES)?.map(Arc::from),
        headers: message_headers(asked.headers)?,
        idempotency: text(asked.headers, "idempotency-key", IDEMPOTENCY_BYTES)?.map(Box::from),
        report,
    };
    let instance = instance(asked.headers)?;
    let sent = send(api, vec![publish], instance.as_ref()).await?;
    match sent.into_iter().next() {
        Some(outcome) => outcome.map(|ack| json_answer(&ack)),
        None => Err(unknown_outcome()),
    }
}

/// `POST /v1/publish`.
pub(super) async fn batch(api: &Api, asked: Asked<'_>) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Batch<'a> {
        #[serde(borrow)]
        messages: &'a RawValue,
    }

    let limits = &api.config.limits;
    let limit = limits.batch_bytes;
    let too_large = || {
        Refusal::error(
            ErrorCode::PayloadTooLarge,
            format!("limits.batch_bytes: a batch has at most {limit} bytes"),
        )
    };
    let body = api.shared.bodies.read(asked.body, limit, asked.turn, too_large).await?;
    Query::parse(asked.query)?.end()?;
    match media_type(asked.headers)?.as_deref() {
        Some("application/json") => {}
        _ => return Err(unsupported("a batch is application/json")),
    }
    let instance = instance(asked.headers)?;
    let malformed =
        |error: serde_json::Error| Refusal::error(ErrorCode::MalformedFrame, format!("not a batch: {error}"));
    let Batch { messages } = serde_json::from_slice(&body.bytes).map_err(malformed)?;
    let most = AtMost(limits.batch_messages + 1);
    let messages =
        most.deserialize(&mut serde_json::Deserializer::from_str(messages.get())).map_err(malformed)?;
    if messages.len() > limits.batch_messages {
        let message = format!("limits.batch_messages: {} is the most", limits.batch_messages);
        return Err(Refusal::error(ErrorCode::PayloadTooLarge, message));
    }
    let read: Vec<_> = messages.iter().map(|message| entry(message.get(), limits.payload_bytes)).collect();
    let (mut good, mut places) = (Vec::new(), Vec::new());
    for publish in read {
        places.push(publish.map(|publish| good.push(publish)));
    }
    let mut sent = send(api, good, instance.as_ref()).await?.into_iter();
    let results = places.into_iter().map(|place| {
        match place.and_then(|()| sent.next().unwrap_or_else(|| Err(unknown_outcome()))) {
            Ok(ack) => ack,
            Err(refusal) => json!({ "error": refusal.json() }),
        }
    });
    Ok(json_answer(&json!({ "results": results.collect::<Vec<_>>() })))
}

/// Reads a list's first so many values, and passes over the rest: a list of nothing costs more than its text.
struct AtMost(usize);

impl<'de> DeserializeSeed<'de> for AtMost {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AtMost {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while values.len() < self.0 {
            let Some(value) = list.next_element()? else { return Ok(values) };
            values.push(value);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(values)
    }
}

/// Reads one message of a batch: it has the fields of a `publish` frame, and is held to the same.
fn entry(text: &str, payload_bytes: usize) -> Result<Publish, Refusal> {
    let fields = text.strip_prefix('{').map(str::trim_start);
    let line = match fields {
        Some("}") => r#"{"op":"publish"}"#.into(),
        Some(fields) => format!(r#"{{"op":"publish",{fields}"#),
        None => return Err(Refusal::error(ErrorCode::MalformedFrame, "a message is an object")),
    };
    // Outside of strings line breaks are white space between tokens, inside they do not stand.
    let line = line.replace(['\n', '\r'], " ");
    let Some(decoded) = Codec::Json.decode_client(line.as_bytes()).next() else {
        return Err(Refusal::error(ErrorCode::MalformedFrame, "a message is an object"));
    };
    match decoded {
        Ok(ClientFrame::Publish(Publish { id: Some(_), .. })) => Err(Refusal::error(
            ErrorCode::BadField,
            "`id` has no meaning here: results stand in the messages' order",
        )),
        Ok(ClientFrame::Publish(publish)) if publish.payload.len() > payload_bytes => {
            Err(too_large(payload_bytes))
        }
        Ok(ClientFrame::Publish(publish)) => Ok(publish),
        Ok(_) => Err(Refusal::error(ErrorCode::BadField, "`op` has no meaning here")),
        Err(error) => Err(Refusal::error(error.code, error.message)),
    }
}

/// Publishes in order; what came of each. Where there is no room for one message, those behind it are not tried.
async fn send(
    api: &Api,
    messages: Vec<Publish>,
    instance: Option<&Arc<str>>,
) -> Result<Vec<Result<Value, Refusal>>, Refusal> {
    let mut errands = Vec::with_capacity(messages.len());
    let mut waiting = Vec::with_capacity(messages.len());
    for publish in messages {
        if publish.topic.is_reserved() {
            let message = "tokens that start with $ are the broker's";
            waiting.push(Err(Refusal::error(ErrorCode::TopicReserved, message)));
            continue;
        }
        let (answer, outcome) = oneshot::channel();
        let whose = || instance.cloned().unwrap_or_else(|| INSTANCE.into());
        errands.push(Errand {
            draft: Draft {
                topic: publish.topic,
                payload: publish.payload,
                key: publish.key,
                headers: publish.headers,
                origin: instance.cloned(),
            },
            idempotency: publish.idempotency.map(|key| (whose(), key)),
            report: publish.report,
            answer,
        });
        waiting.push(Ok(outcome));
    }
    if !errands.is_empty() {
        let gone = |_| Refusal::error(ErrorCode::Draining, "the broker is going");
        api.orders.send(Order::Publish(errands)).await.map_err(gone)?;
    }
    let mut results = Vec::with_capacity(waiting.len());
    for outcome in waiting {
        results.push(match outcome {
            Ok(outcome) => match timeout(OUTCOME_TIMEOUT, outcome).await {
                Ok(Ok(Ok(accepted))) => Ok(ack(&accepted)),
                Ok(Ok(Err(Refused::NoRoom))) => {
                    Err(Refusal::error(ErrorCode::EngineUnavailable, "there is no room for it now"))
                }
                Ok(Ok(Err(Refused::Error(code)))) => Err(Refusal::error(code, "the message was not taken")),
                Ok(Err(_)) | Err(_) => Err(unknown_outcome()),
            },
            Err(refusal) => Err(refusal),
        });
    }
    Ok(results)
}

fn ack(accepted: &Accepted) -> Value {
    let mut ack = match &accepted.position {
        Some(position) => {
            let mut ack = json!({ "epoch": position.epoch.to_string(), "offset": position.offset });
            if let Some(stream) = &position.stream {
                ack["stream"] = json!(&**stream);
            }
            ack
        }
        None => json!({ "live_only": true }),
    };
    if accepted.duplicate {
        ack["duplicate"] = json!(true);
    }
    if let Some(report) = &accepted.report {
        ack["report"] = json!(report);
    }
    ack
}

/// What the body is.
fn content_kind(headers: &HeaderMap) -> Result<ContentKind, Refusal> {
    match media_type(headers)?.as_deref() {
        Some("application/json") => Ok(ContentKind::Json),
        Some("text/plain") => Ok(ContentKind::Text),
        Some("application/octet-stream") => Ok(ContentKind::Binary),
        _ => Err(unsupported(
            "Content-Type says what the payload is: application/json, text/plain or application/octet-stream",
        )),
    }
}

/// The media type in lower case, without its parameters; another character set than UTF-8 is refused.
fn media_type(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let media_type = parts.next().map(str::to_owned);
    let charset = parts.find_map(|part| part.strip_prefix("charset="));
    match charset.map(|charset| charset.trim_matches('"')) {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(media_type),
        Some(_) => Err(unsupported("text is UTF-8 here")),
    }
}

fn unsupported(message: &str) -> Refusal {
    Refusal::new(hyper::StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
}

/// Headers whose names say so travel with the message.
fn message_headers(headers: &HeaderMap) -> Result<tidegate_protocol::frame::Headers, Refusal> {
    let mut found = tidegate_protocol::frame::Headers::new();
    let mut bytes = 0;
    for name in headers.keys() {
        let Some(rest) = name.as_str().strip_prefix(MESSAGE_HEADERS).filter(|rest| !rest.is_empty()) else {
            continue;
        };
        let Some(value) = text(headers, name.as_str(), HEADER_BYTES)? else { continue };
        bytes += rest.len() + value.len();
        found.push((rest.into(), value.into()));
    }
    if found.len() > HEADERS || bytes > HEADER_BYTES {
        let message =
            format!("at most {HEADERS} headers of {HEADER_BYTES} bytes together travel with a message");
        return Err(Refusal::error(ErrorCode::AttributesTooLarge, message));
    }
    Ok(found)
}

fn instance(headers: &HeaderMap) -> Result<Option<Arc<str>>, Refusal> {
    Ok(text(headers, "x-tidegate-instance", ID_BYTES)?.map(Arc::from))
}

/// A header's text, which stands once.
fn text<'a>(headers: &'a HeaderMap, name: &str, limit: usize) -> Result<Option<&'a str>, Refusal> {
    let mut all = headers.get_all(name).iter();
    let (first, second) = (all.next(), all.next());
    let Some(value) = first else { return Ok(None) };
    let bad = |why: String| Refusal::error(ErrorCode::BadField, format!("the header {name} {why}"));
    if second.is_some() {
        return Err(bad("stands twice".into()));
    }
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_| bad("is not UTF-8".into()))?;
    if value.len() > limit {
        let message = format!("the header {name} is longer than {limit} bytes");
        return Err(Refusal::error(ErrorCode::AttributesTooLarge, message));
    }
    Ok(Some(value))
}

fn payload_error(error: PayloadError) -> Refusal {
    let code = match error {
        PayloadError::Depth => ErrorCode::TooDeep,
        PayloadError::Json(_) | PayloadError::Utf8 => ErrorCode::PayloadInvalid,
    };
    Refusal::error(code, error.to_string())
}

fn too_large(limit: usize) -> Refusal {
    Refusal::error(ErrorCode::PayloadTooLarge, format!("limits.payload_bytes: {limit} is the most"))
}

fn unknown_outcome() -> Refusal {
    Refusal::error(ErrorCode::OutcomeUnknown, "the broker cannot say whether the message was taken")
}
