//! What the logs hold: history, topics, streams.

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};
use tidegate_protocol::{
    ErrorCode, Filter, From, ServerFrame, Topic, codec, frame::HistoryRequest, position::DEFAULT_STREAM,
};

use super::{
    super::{Answer, refusal::Refusal, respond},
    Api, Asked, json_answer,
    position::{self, Place},
    query::{Query, percent_decode},
};
use crate::{shard::start, stream::ReadBudget};

/// Topics of one listing, unless fewer are asked for.
const TOPICS: u32 = 100;
/// The most topics of one listing.
const MAX_TOPICS: u32 = 1000;

/// `GET /v1/topics/{topic}/history`.
pub(super) fn history(api: &Api, asked: &Asked<'_>) -> Result<Answer, Refusal> {
    let topic = Topic::parse(&percent_decode(asked.parameter, false)?)
        .map_err(|error| Refusal::error(ErrorCode::TopicInvalid, format!("not a topic: {error}")))?;
    let mut query = Query::parse(asked.query)?;
    let from = query.take("from").map_or(Ok(From::Beginning), |from| position::read_from(&from))?;
    let limit = query.take_count("limit")?;
    query.end()?;
    let limits = &api.config.limits;
    let budget =
        ReadBudget { messages: limits.history_page_messages as usize, bytes: limits.history_page_bytes };
    let page = match start::history(&api.hub, &HistoryRequest { id: 0, topic, from, limit }, budget) {
        ServerFrame::History(page) => page,
        ServerFrame::Error(error) => return Err(Refusal::error(error.code, error.message)),
        _ => return Err(Refusal::error(ErrorCode::Internal, "history gave something else")),
    };
    // Message frames, as they are: what reads a subscription's events reads these.
    let mut body = br#"{"messages":["#.to_vec();
    for (index, message) in page.messages.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        codec::json::encode_message(message, &mut body);
    }
    body.push(b']');
    if let Some(at) = page.position {
        let mut text = Vec::new();
        position::write(
            &[Place { stream: at.stream.clone(), epoch: at.epoch, offset: at.offset, live: None }],
            &mut text,
        );
        let mut place = json!({ "epoch": at.epoch.to_string(), "offset": at.offset });
        if let Some(stream) = &at.stream {
            place["stream"] = json!(&**stream);
        }
        let next = String::from_utf8_lossy(&text);
        body.extend_from_slice(format!(r#","position":{place},"next":{}"#, json!(next)).as_bytes());
    }
    body.extend_from_slice(format!(",\"more\":{}}}\n", page.more).as_bytes());
    answer(api, body)
}

/// `GET /v1/topics`.
pub(super) fn topics(api: &Api, asked: &Asked<'_>) -> Result<Answer, Refusal> {
    let mut query = Query::parse(asked.query)?;
    let filter = query.take("filter").unwrap_or_else(|| ">".into());
    let filter = Filter::parse(&filter)
        .map_err(|error| Refusal::error(ErrorCode::FilterInvalid, format!("not a filter: {error}")))?;
    let after = query.take("after").unwrap_or_default();
    let limit = query.take_count("limit")?.unwrap_or(TOPICS).clamp(1, MAX_TOPICS) as usize;
    query.end()?;
    // One more than is given shows whether there are more.
    let mut found = api.hub.topics(&filter, &after, limit + 1);
    let more = found.len() > limit;
    found.truncate(limit);
    let topics: Vec<_> = found
        .iter()
        .map(|known| {
            let mut entry = json!({ "topic": known.topic.as_str(), "offset": known.newest });
            if let Some(stream) = &known.stream {
                entry["stream"] = json!(&**stream);
            }
            entry
        })
        .collect();
    answer(api, format!("{}\n", json!({ "topics": topics, "more": more })).into())
}

/// An answer that may be large, and that a slow client takes its time for: it is in the budget meanwhile.
fn answer(api: &Api, body: Vec<u8>) -> Result<Answer, Refusal> {
    let held = api.shared.bodies.hold(body)?;
    Ok(respond(StatusCode::OK, super::JSON, Bytes::from_owner(held)))
}

/// `GET /v1/streams`.
pub(super) fn streams(api: &Api, asked: &Asked<'_>) -> Result<Answer, Refusal> {
    Query::parse(asked.query)?.end()?;
    let list: Vec<Value> = (api.hub.streams().iter().zip(&api.config.streams))
        .map(|(stream, config)| {
            let ordered = stream.lock();
            let log = &ordered.log;
            json!({
                "stream": stream.name.as_deref().unwrap_or(DEFAULT_STREAM),
                "filters": config.filters.iter().map(|filter| filter.as_str()).collect::<Vec<_>>(),
                "epoch": stream.epoch.to_string(),
                "offset": log.head(),
                "start": log.start(),
                "messages": log.messages(),
                "topics": log.topics(),
                "bytes": log.bytes(),
                "retained_bytes": log.retained_bytes(),
                "max_age_ms": config.max_age.as_millis() as u64,
                "max_bytes": config.max_bytes,
                "retain_last_bytes": config.retain_last_bytes,
            })
        })
        .collect();
    Ok(json_answer(&json!({ "streams": list })))
}
