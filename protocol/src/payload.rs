//! Payloads: opaque bytes, and the one door through which a publisher's bytes come in.

use bytes::Bytes;

use crate::limits::JSON_DEPTH;

/// What a payload's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    /// Exactly one JSON value, at most [`JSON_DEPTH`] deep, without line breaks.
    Json,
    /// UTF-8.
    Text,
    /// Anything.
    Binary,
}

/// A message's content. Cheap to clone.
///
/// Its doors check what they let in, so that nothing a publisher sends can end a frame or forge one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    kind: ContentKind,
    data: Bytes,
}

/// Why bytes are no payload of the kind they claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not exactly one JSON value.
    #[error("the payload is not one JSON value: {0}")]
    Json(String),
    /// Deeper than [`JSON_DEPTH`].
    #[error("the payload nests deeper than {JSON_DEPTH}")]
    Depth,
    /// `text` that is not UTF-8.
    #[error("the payload is not UTF-8")]
    Utf8,
}

impl Payload {
    /// One JSON value. Its line breaks (outside strings they are white space, inside they cannot stand) are taken
    /// out, since a line break ends a JSON frame.
    pub fn json(data: &[u8]) -> Result<Self, PayloadError> {
        check_json(data)?;
        Ok(Self::json_on_one_line(data))
    }

    /// What a JSON parser has just passed over: that it is one value is known, how deep it nests is not.
    pub(crate) fn json_parsed(raw: &serde_json::value::RawValue) -> Result<Self, PayloadError> {
        if json_depth_exceeds(raw.get().as_bytes(), JSON_DEPTH) {
            return Err(PayloadError::Depth);
        }
        Ok(Self::json_on_one_line(raw.get().as_bytes()))
    }

    fn json_on_one_line(data: &[u8]) -> Self {
        let is_break = |b: &u8| matches!(b, b'\n' | b'\r');
        let data = if data.iter().any(is_break) {
            data.iter().copied().filter(|b| !is_break(b)).collect::<Vec<u8>>().into()
        } else {
            Bytes::copy_from_slice(data)
        };
        Self { kind: ContentKind::Json, data }
    }

    /// A value, written as JSON.
    pub fn to_json(value: &(impl serde::Serialize + ?Sized)) -> Result<Self, PayloadError> {
        let data = serde_json::to_vec(value).map_err(|e| PayloadError::Json(e.to_string()))?;
        // serde_json writes no line breaks, but a value may hold raw JSON, and may nest.
        Self::json(&data)
    }

    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: ContentKind::Text, data: Bytes::from(text.into()) }
    }

    /// Text that may not be UTF-8.
    pub fn text_from_bytes(data: &[u8]) -> Result<Self, PayloadError> {
        std::str::from_utf8(data).map_err(|_| PayloadError::Utf8)?;
        Ok(Self { kind: ContentKind::Text, data: Bytes::copy_from_slice(data) })
    }

    /// Any bytes.
    pub fn binary(data: impl Into<Bytes>) -> Self {
        Self { kind: ContentKind::Binary, data: data.into() }
    }

    /// Bytes of a kind that is only known at run time; copied.
    pub fn of_kind(kind: ContentKind, data: &[u8]) -> Result<Self, PayloadError> {
        match kind {
            ContentKind::Json => Self::json(data),
            ContentKind::Text => Self::text_from_bytes(data),
            ContentKind::Binary => Ok(Self::binary(Bytes::copy_from_slice(data))),
        }
    }

    /// What the bytes are.
    pub fn kind(&self) -> ContentKind {
        self.kind
    }

    /// The bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The bytes as text, where they are JSON or text.
    pub fn as_str(&self) -> Option<&str> {
        match self.kind {
            ContentKind::Json | ContentKind::Text => std::str::from_utf8(&self.data).ok(),
            ContentKind::Binary => None,
        }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<&[u8]> for Payload {
    fn from(data: &[u8]) -> Self {
        Self::binary(Bytes::copy_from_slice(data))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(data: Vec<u8>) -> Self {
        Self::binary(data)
    }
}

impl From<Bytes> for Payload {
    fn from(data: Bytes) -> Self {
        Self::binary(data)
    }
}

/// Checks that `data` is exactly one JSON value, at most [`JSON_DEPTH`] deep. One linear scan for the depth comes
/// first: parsers recurse.
pub fn check_json(data: &[u8]) -> Result<(), PayloadError> {
    if json_depth_exceeds(data, JSON_DEPTH) {
        return Err(PayloadError::Depth);
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(data).map_err(|e| PayloadError::Json(e.to_string()))?;
    // IgnoredAny passes over a string's bytes unchecked.
    std::str::from_utf8(data).map_err(|_| PayloadError::Json("not UTF-8".into()))?;
    Ok(())
}

/// Whether arrays and objects in `data` nest deeper than `limit`. Says nothing about whether it is JSON.
pub fn json_depth_exceeds(data: &[u8], limit: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in data {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}
