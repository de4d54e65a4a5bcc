//! Payloads: opaque bytes, and the one door through which a publisher's bytes come in.

mod scan;

use bytes::Bytes;

use self::scan::ScanError;
use crate::limits::JSON_DEPTH;

/// What a payload's bytes are.
///
/// ```
/// use tidegate_protocol::{ContentKind, Payload};
///
/// fn show(payload: &Payload) -> String {
///     match payload.kind() {
///         ContentKind::Json | ContentKind::Text => payload.as_str().unwrap_or_default().to_owned(),
///         ContentKind::Binary => format!("{} bytes", payload.len()),
///     }
/// }
/// assert_eq!(show(&Payload::binary(vec![1, 2, 3])), "3 bytes");
/// ```
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
///
/// ```
/// use tidegate_protocol::Payload;
///
/// let text = Payload::text("hello");
/// let json = Payload::json(br#"{"text":"hello"}"#)?;
/// let binary = Payload::binary(vec![0, 255]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    kind: ContentKind,
    data: Bytes,
}

/// Why bytes are no payload of the kind they claim.
///
/// ```
/// use tidegate_protocol::{Payload, payload::PayloadError};
///
/// assert!(matches!(Payload::json(b"{"), Err(PayloadError::Json(_))));
/// assert_eq!(Payload::json("[".repeat(65).as_bytes()), Err(PayloadError::Depth));
/// assert_eq!(Payload::text_from_bytes(b"\xff"), Err(PayloadError::Utf8));
/// ```
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
    /// out, since a line break ends a JSON frame, and the white space around it too.
    ///
    /// ```
    /// use tidegate_protocol::Payload;
    ///
    /// let payload = Payload::json(b"{\n  \"n\": 1\n}\n")?;
    /// assert_eq!(payload.as_str(), Some(r#"{  "n": 1}"#));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn json(data: &[u8]) -> Result<Self, PayloadError> {
        let line_breaks = scan_json(data)?;
        let data = data.trim_ascii();
        let data = if line_breaks {
            data.iter().copied().filter(|b| !matches!(b, b'\n' | b'\r')).collect::<Vec<u8>>().into()
        } else {
            Bytes::copy_from_slice(data)
        };
        Ok(Self { kind: ContentKind::Json, data })
    }

    /// A value, written as JSON: the Rust SDK's door.
    ///
    /// ```
    /// use tidegate_protocol::Payload;
    ///
    /// assert_eq!(Payload::to_json(&[1, 2])?.as_str(), Some("[1,2]"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_json(value: &(impl serde::Serialize + ?Sized)) -> Result<Self, PayloadError> {
        let data = serde_json::to_vec(value).map_err(|e| PayloadError::Json(e.to_string()))?;
        // A value may hold raw JSON, and may nest.
        Self::json(&data)
    }

    /// Text.
    ///
    /// ```
    /// use tidegate_protocol::Payload;
    ///
    /// assert_eq!(Payload::text("hello"), "hello".into());
    /// ```
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: ContentKind::Text, data: Bytes::from(text.into()) }
    }

    /// Text that may not be UTF-8.
    ///
    /// ```
    /// use tidegate_protocol::Payload;
    ///
    /// assert_eq!(Payload::text_from_bytes(b"hello"), Ok(Payload::text("hello")));
    /// assert!(Payload::text_from_bytes(b"\xff").is_err());
    /// ```
    pub fn text_from_bytes(data: &[u8]) -> Result<Self, PayloadError> {
        std::str::from_utf8(data).map_err(|_| PayloadError::Utf8)?;
        Ok(Self { kind: ContentKind::Text, data: Bytes::copy_from_slice(data) })
    }

    /// Any bytes.
    ///
    /// ```
    /// use tidegate_protocol::Payload;
    ///
    /// assert_eq!(Payload::binary(vec![1, 2]), vec![1, 2].into());
    /// ```
    pub fn binary(data: impl Into<Bytes>) -> Self {
        Self { kind: ContentKind::Binary, data: data.into() }
    }

    /// Bytes of a kind that is only known at run time; copied.
    ///
    /// ```
    /// use tidegate_protocol::{ContentKind, Payload};
    ///
    /// assert_eq!(Payload::of_kind(ContentKind::Text, b"21.5")?, Payload::text("21.5"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of_kind(kind: ContentKind, data: &[u8]) -> Result<Self, PayloadError> {
        match kind {
            ContentKind::Json => Self::json(data),
            ContentKind::Text => Self::text_from_bytes(data),
            ContentKind::Binary => Ok(Self::binary(Bytes::copy_from_slice(data))),
        }
    }

    /// What the bytes are.
    ///
    /// ```
    /// use tidegate_protocol::{ContentKind, Payload};
    ///
    /// assert_eq!(Payload::text("hello").kind(), ContentKind::Text);
    /// ```
    pub fn kind(&self) -> ContentKind {
        self.kind
    }

    /// The bytes.
    ///
    /// ```
    /// use tidegate_protocol::Payload;
    ///
    /// assert_eq!(&Payload::text("hello").data()[..], b"hello");
    /// ```
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The bytes as text, where they are JSON or text.
    ///
    /// ```
    /// use tidegate_protocol::Payload;
    ///
    /// assert_eq!(Payload::text("hello").as_str(), Some("hello"));
    /// assert_eq!(Payload::binary("hello").as_str(), None);
    /// ```
    pub fn as_str(&self) -> Option<&str> {
        match self.kind {
            ContentKind::Json | ContentKind::Text => std::str::from_utf8(&self.data).ok(),
            ContentKind::Binary => None,
        }
    }

    /// How many bytes.
    ///
    /// ```
    /// use tidegate_protocol::Payload;
    ///
    /// assert_eq!(Payload::text("größe").len(), 7);
    /// ```
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no byte.
    ///
    /// ```
    /// use tidegate_protocol::Payload;
    ///
    /// assert!(Payload::text("").is_empty());
    /// ```
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

/// Checks that `data` is exactly one JSON value, at most [`JSON_DEPTH`] deep.
pub fn check_json(data: &[u8]) -> Result<(), PayloadError> {
    scan_json(data).map(|_| ())
}

/// The same; says whether there are line breaks between tokens.
fn scan_json(data: &[u8]) -> Result<bool, PayloadError> {
    let line_breaks = scan::scan(data).map_err(|error| match error {
        ScanError::Depth => PayloadError::Depth,
        ScanError::Syntax(at) if at >= data.len() => PayloadError::Json("it ends too early".into()),
        ScanError::Syntax(at) => PayloadError::Json(format!("byte {at} cannot stand there")),
    })?;
    if data.is_ascii() {
        return Ok(line_breaks);
    }
    std::str::from_utf8(data)
        .map_err(|e| PayloadError::Json(format!("byte {} is not UTF-8", e.valid_up_to())))?;
    Ok(line_breaks)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<String, PayloadError> {
        Payload::json(text.as_bytes()).map(|payload| payload.as_str().expect("JSON is text").to_owned())
    }

    #[test]
    fn a_json_payload_is_kept_as_it_was_written_but_for_its_line_breaks() {
        assert_eq!(json("{\r\n \"a\": [1,\n2]\n}\n").unwrap(), r#"{ "a": [1,2]}"#);
        assert_eq!(json(" \t1 ").unwrap(), "1");
        assert_eq!(json(r#""\n\r""#).unwrap(), r#""\n\r""#);
        assert_eq!(json("\"\u{2028}\"").unwrap(), "\"\u{2028}\"");
    }

    #[test]
    fn a_json_payload_is_exactly_one_value() {
        for good in
            ["0", "-0.5e+10", "1E2", "true", "false", "null", "\"\"", "[]", "{}", r#"{"a":{},"b":[[],""]}"#]
        {
            assert_eq!(json(good).unwrap(), good);
        }
        for bad in [
            "",
            " ",
            "1 2",
            "1\n2",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "nul",
            "[1,]",
            "[,1]",
            "[1",
            "]",
            "{",
            "{}}",
            "{1:2}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"a\nb\"",
            "\"12345678\u{1f}\"",
            "'a'",
            "[1 2]",
            "[}",
            "{]",
            "NaN",
            "\u{feff}1",
            "\u{a0}1",
        ] {
            assert!(matches!(json(bad), Err(PayloadError::Json(_))), "{bad:?}");
        }
        assert!(matches!(Payload::json(b"\"\xff\""), Err(PayloadError::Json(_))));
        assert!(
            matches!(Payload::json(b"\"\xed\xa0\x80\""), Err(PayloadError::Json(_))),
            "half a surrogate pair"
        );
    }

    #[test]
    fn a_json_payload_nests_64_deep_and_no_deeper() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert_eq!(json(&nested(64)).unwrap(), nested(64));
            assert_eq!(json(&nested(65)), Err(PayloadError::Depth));
            assert_eq!(json(&open.repeat(1_000_000)), Err(PayloadError::Depth));
        }
        // Depth is how deep, not how many.
        assert!(json(&format!("[{}[]]", "[],".repeat(1_000))).is_ok());
    }

    #[test]
    fn text_is_utf8_and_binary_is_anything() {
        assert_eq!(Payload::text_from_bytes(b"\xff"), Err(PayloadError::Utf8));
        assert_eq!(Payload::text_from_bytes("ä\n".as_bytes()).unwrap().as_str(), Some("ä\n"));
        let binary = Payload::of_kind(ContentKind::Binary, b"\xff\0").unwrap();
        assert_eq!((&binary.data()[..], binary.as_str()), (&b"\xff\0"[..], None));
    }
}
