//! What both codecs ask of a field's value, so that a frame means the same and is refused alike in either.

use std::{fmt, sync::Arc};

use super::DecodeError;
use crate::{
    error::ErrorCode,
    filter::Filter,
    frame::Headers,
    limits,
    payload::PayloadError,
    position::{DEFAULT_STREAM, Epoch, Position, StreamName},
    topic::{Topic, Topics, check as check_token},
};

/// An id, offset, time or count: at most [`limits::MAX_INTEGER`].
pub(super) fn integer(field: &str, value: u64) -> Result<u64, DecodeError> {
    if value > limits::MAX_INTEGER {
        return Err(bad_field(field, "is larger than 2^53 - 1"));
    }
    Ok(value)
}

/// A number of messages or bytes that a client may ask for: at most 2^32 - 1.
pub(super) fn small(field: &str, value: u64) -> Result<u32, DecodeError> {
    u32::try_from(value).map_err(|_| bad_field(field, "is larger than 2^32 - 1"))
}

/// An error's number: at most 2^16 - 1.
pub(super) fn code(field: &str, value: u64) -> Result<ErrorCode, DecodeError> {
    let number = u16::try_from(value).map_err(|_| bad_field(field, "is larger than 2^16 - 1"))?;
    Ok(ErrorCode::from_number(number))
}

/// A topic.
pub(super) fn topic(text: &str) -> Result<Topic, DecodeError> {
    known_topic(text, None)
}

/// A topic that may have come before.
pub(super) fn known_topic(text: &str, known: Option<&mut Topics>) -> Result<Topic, DecodeError> {
    match known {
        Some(topics) => topics.parse(text),
        None => Topic::parse(text),
    }
    .map_err(|e| DecodeError::new(ErrorCode::TopicInvalid, format_args!("not a topic: {e}")))
}

/// A filter.
pub(super) fn filter(text: &str) -> Result<Filter, DecodeError> {
    Filter::parse(text)
        .map_err(|e| DecodeError::new(ErrorCode::FilterInvalid, format_args!("not a filter: {e}")))
}

/// A stream's name: one token of a topic. [`DEFAULT_STREAM`] by name is the same as none.
pub(super) fn stream(name: Option<&str>) -> Result<Option<StreamName>, DecodeError> {
    match name {
        None | Some(DEFAULT_STREAM) => Ok(None),
        Some(name) => {
            if name.len() > limits::STREAM_NAME_BYTES
                || name.contains('.')
                || check_token(name, false).is_err()
            {
                return Err(bad_field("stream", "is not a stream's name"));
            }
            Ok(Some(name.into()))
        }
    }
}

/// An epoch.
pub(super) fn epoch(text: &str) -> Result<Epoch, DecodeError> {
    text.parse().map_err(|_| bad_field("epoch", "is not 16 lower-case hexadecimal digits"))
}

/// A position, from its parts.
pub(super) fn position(
    stream_name: Option<&str>,
    epoch_text: &str,
    offset: u64,
) -> Result<Position, DecodeError> {
    Ok(Position {
        stream: stream(stream_name)?,
        epoch: epoch(epoch_text)?,
        offset: integer("offset", offset)?,
    })
}

/// A list of positions that a client resumes from: at most [`limits::POSITIONS`], one for each stream.
pub(super) fn resume(positions: Vec<Position>) -> Result<Vec<Position>, DecodeError> {
    if positions.len() > limits::POSITIONS {
        return Err(bad_field("from", format_args!("has more than {} positions", limits::POSITIONS)));
    }
    for (index, position) in positions.iter().enumerate() {
        if positions[..index].iter().any(|earlier| earlier.stream == position.stream) {
            return Err(bad_field("from", "names a stream twice"));
        }
    }
    Ok(positions)
}

/// A text of at most `limit` bytes.
pub(super) fn bounded<'a>(field: &str, text: &'a str, limit: usize) -> Result<&'a str, DecodeError> {
    if text.len() > limit {
        return Err(too_large(format_args!("`{field}` is longer than {limit} bytes")));
    }
    Ok(text)
}

/// A message's key.
pub(super) fn key(text: Option<&str>) -> Result<Option<Arc<str>>, DecodeError> {
    text.map(|key| bounded("key", key, limits::KEY_BYTES).map(Arc::from)).transpose()
}

/// A message's headers. Their names differ, since a JSON object cannot hold one twice.
pub(super) fn headers<S: AsRef<str> + Into<Box<str>>>(pairs: Vec<(S, S)>) -> Result<Headers, DecodeError> {
    if pairs.len() > limits::HEADERS {
        return Err(too_large(format_args!("more than {} headers", limits::HEADERS)));
    }
    let bytes: usize = pairs.iter().map(|(name, value)| name.as_ref().len() + value.as_ref().len()).sum();
    if bytes > limits::HEADER_BYTES {
        return Err(too_large(format_args!("the headers have more than {} bytes", limits::HEADER_BYTES)));
    }
    for (index, (name, _)) in pairs.iter().enumerate() {
        if pairs[..index].iter().any(|(earlier, _)| earlier.as_ref() == name.as_ref()) {
            return Err(bad_field("headers", "has a name twice"));
        }
    }
    Ok(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

/// What the client is told of a payload that is not what it claims to be.
pub(super) fn payload_error(error: PayloadError) -> DecodeError {
    let code = match error {
        PayloadError::Depth => ErrorCode::TooDeep,
        PayloadError::Json(_) | PayloadError::Utf8 => ErrorCode::PayloadInvalid,
    };
    DecodeError::new(code, error)
}

/// A field whose value cannot be.
pub(super) fn bad_field(field: &str, why: impl fmt::Display) -> DecodeError {
    DecodeError::new(ErrorCode::BadField, format_args!("`{field}` {why}"))
}

fn too_large(message: impl fmt::Display) -> DecodeError {
    DecodeError::new(ErrorCode::AttributesTooLarge, message)
}
