//! Topics: dotted tokens, such as `chat.room1`.

use std::{borrow::Borrow, fmt, sync::Arc};

use crate::limits::{TOPIC_BYTES, TOPIC_TOKENS};

/// A valid topic. Its one door is [`Topic::parse`]: who holds one need not check it again.
///
/// Cheap to clone. Tokens are non-empty UTF-8 with no `.`, `*`, `>`, white space or control character; at most
/// [`TOPIC_BYTES`] bytes and [`TOPIC_TOKENS`] tokens.
///
/// ```
/// use tidegate_protocol::Topic;
///
/// let topic: Topic = "fleet.berlin.truck42".parse()?;
/// assert_eq!(topic.tokens().last(), Some("truck42"));
/// assert!(Topic::parse("fleet.*").is_err()); // that is a filter
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// Why a text is no topic or no filter.
///
/// ```
/// use tidegate_protocol::{Topic, topic::TopicError};
///
/// assert_eq!(Topic::parse("chat..room1"), Err(TopicError::EmptyToken));
/// assert_eq!(Topic::parse("chat room"), Err(TopicError::Character(' ')));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The text, or a token between two dots, is empty.
    #[error("a token is empty")]
    EmptyToken,
    /// Longer than [`TOPIC_BYTES`].
    #[error("longer than {TOPIC_BYTES} bytes")]
    TooLong,
    /// More than [`TOPIC_TOKENS`] tokens.
    #[error("more than {TOPIC_TOKENS} tokens")]
    TooManyTokens,
    /// White space, a control character, or a wildcard where none may be.
    #[error("{0:?} may not stand here")]
    Character(char),
}

impl Topic {
    /// Checks `text` and keeps a copy of it.
    ///
    /// ```
    /// use tidegate_protocol::Topic;
    ///
    /// let topic = Topic::parse("chat.room1")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text, false)?;
        Ok(Self(text.into()))
    }

    /// The topic as text.
    ///
    /// ```
    /// use tidegate_protocol::Topic;
    ///
    /// assert_eq!(Topic::parse("chat.room1")?.as_str(), "chat.room1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tokens between the dots.
    ///
    /// ```
    /// use tidegate_protocol::Topic;
    ///
    /// let topic = Topic::parse("chat.room1")?;
    /// assert!(topic.tokens().eq(["chat", "room1"]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether a token starts with `$`: such topics are the broker's own, and clients may not publish to them.
    ///
    /// ```
    /// use tidegate_protocol::Topic;
    ///
    /// assert!(Topic::parse("$sys.load")?.is_reserved());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$') || self.0.contains(".$")
    }
}

/// The rules that topics and filters share; in a filter a token may be `*`, and the last may be `>`.
pub(crate) fn check(text: &str, wildcards: bool) -> Result<(), TopicError> {
    if text.len() > TOPIC_BYTES {
        return Err(TopicError::TooLong);
    }
    if is_plain(text) {
        return Ok(());
    }
    let mut tokens = text.split('.').peekable();
    let mut count = 0;
    while let Some(token) = tokens.next() {
        count += 1;
        if count > TOPIC_TOKENS {
            return Err(TopicError::TooManyTokens);
        }
        if token.is_empty() {
            return Err(TopicError::EmptyToken);
        }
        if wildcards && (token == "*" || (token == ">" && tokens.peek().is_none())) {
            continue;
        }
        if let Some(c) =
            token.chars().find(|&c| matches!(c, '*' | '>') || c.is_whitespace() || c.is_control())
        {
            return Err(TopicError::Character(c));
        }
    }
    Ok(())
}

/// Whether `text` is a topic of ASCII alone. Most are, and every message's topic is checked: this costs a tenth of looking
/// at characters.
fn is_plain(text: &str) -> bool {
    let (mut tokens, mut previous) = (1, b'.');
    for byte in text.bytes() {
        match byte {
            b'.' if previous == b'.' => return false,
            b'.' => tokens += 1,
            b'*' | b'>' | 0..=b' ' | 0x7f.. => return false,
            _ => {}
        }
        previous = byte;
    }
    previous != b'.' && tokens <= TOPIC_TOKENS
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::str::FromStr for Topic {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_checked_token_by_token() {
        for good in ["a", "chat.room1", "fleet.berlin.truck42.gps", "größe.ü", "$sys.x", "a.$b"] {
            assert_eq!(Topic::parse(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", TopicError::EmptyToken),
            ("a..b", TopicError::EmptyToken),
            (".a", TopicError::EmptyToken),
            ("a.", TopicError::EmptyToken),
            ("a.*", TopicError::Character('*')),
            ("a.>", TopicError::Character('>')),
            ("a b", TopicError::Character(' ')),
            ("a\u{a0}b", TopicError::Character('\u{a0}')),
            ("a\nb", TopicError::Character('\n')),
            ("a\0", TopicError::Character('\0')),
            ("a\u{7f}", TopicError::Character('\u{7f}')),
            ("ä.\u{85}", TopicError::Character('\u{85}')),
        ] {
            assert_eq!(Topic::parse(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn topics_have_a_longest_form() {
        assert!(Topic::parse(&"x".repeat(255)).is_ok());
        assert_eq!(Topic::parse(&"x".repeat(256)), Err(TopicError::TooLong));
        assert!(Topic::parse(&["x"; 16].join(".")).is_ok());
        assert_eq!(Topic::parse(&["x"; 17].join(".")), Err(TopicError::TooManyTokens));
    }

    #[test]
    fn a_dollar_token_is_the_brokers_own() {
        assert!(Topic::parse("$sys.x").unwrap().is_reserved());
        assert!(Topic::parse("a.$b").unwrap().is_reserved());
        assert!(!Topic::parse("a.b$").unwrap().is_reserved());
    }
}
