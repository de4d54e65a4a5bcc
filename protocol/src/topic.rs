//! Topics: dotted tokens, such as `chat.room1`.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

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
#[derive(Clone, Eq, PartialOrd, Ord)]
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

    /// Of the text of a filter that has no wildcard, which is a topic.
    pub(crate) fn of_checked(text: Arc<str>) -> Self {
        Self(text)
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

    /// Whether the other is a copy of this one, or this one of it, and so shares its text.
    ///
    /// ```
    /// use tidegate_protocol::Topic;
    ///
    /// let topic = Topic::parse("chat.room1")?;
    /// assert!(topic.clone().is_copy_of(&topic));
    /// assert!(!Topic::parse("chat.room1")?.is_copy_of(&topic));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_copy_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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
        // Most topics have none anywhere.
        self.0.as_bytes().contains(&b'$') && (self.0.starts_with('$') || self.0.contains(".$"))
    }
}

/// Topics that were read lately: one that comes again is neither checked nor copied again.
///
/// Whoever publishes repeats his topics. Which ones are known is a matter of chance and changes no answer. One that comes
/// once between others pushes none of them out, so that a publisher who goes round over more topics than are remembered
/// costs what checking and copying cost, and no look at texts that have left the caches.
///
/// ```
/// use tidegate_protocol::topic::Topics;
///
/// let mut topics = Topics::new(1024);
/// assert_eq!(topics.parse("chat.room1"), topics.parse("chat.room1"));
/// assert!(topics.parse("chat..room1").is_err());
/// ```
#[derive(Debug)]
pub struct Topics {
    /// By the low bits of a text's [`mix`]; as many as a power of two.
    places: Box<[Place]>,
    misses: u64,
}

#[derive(Debug, Clone, Default)]
struct Place {
    /// The high bits of its [`mix`]: most others are told from it without a look at its text.
    mixed: u32,
    /// Those of the text that came here last and was not it: where it comes again, it takes the place.
    other: u32,
    topic: Option<Topic>,
}

impl Topics {
    /// Room for so many topics, rounded up to a power of two: each takes 24 bytes from the start, and that of a text where it
    /// has one.
    ///
    /// ```
    /// use tidegate_protocol::topic::Topics;
    ///
    /// let topics = Topics::new(1024);
    /// ```
    pub fn new(places: usize) -> Self {
        Self { places: vec![Place::default(); places.next_power_of_two()].into(), misses: 0 }
    }

    /// [`Topic::parse`].
    ///
    /// ```
    /// use tidegate_protocol::{Topic, topic::Topics};
    ///
    /// assert_eq!(Topics::new(1024).parse("chat.room1"), Topic::parse("chat.room1"));
    /// ```
    pub fn parse(&mut self, text: &str) -> Result<Topic, TopicError> {
        match self.find(text.as_bytes()) {
            Ok(topic) => Ok(topic),
            Err(mixed) => self.learn(mixed, text),
        }
    }

    /// The same, of bytes that may be no text; none where they are no topic.
    pub(crate) fn parse_bytes(&mut self, text: &[u8]) -> Option<Topic> {
        match self.find(text) {
            Ok(topic) => Some(topic),
            Err(mixed) => self.learn(mixed, std::str::from_utf8(text).ok()?).ok(),
        }
    }

    /// How many topics were not remembered when they came.
    ///
    /// ```
    /// use tidegate_protocol::topic::Topics;
    ///
    /// let mut topics = Topics::new(1024);
    /// for topic in ["chat.room1", "chat.room1", "chat.room2"] {
    ///     topics.parse(topic)?;
    /// }
    /// assert_eq!(topics.misses(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// The topic, or the [`mix`] of a text that is not remembered.
    fn find(&self, text: &[u8]) -> Result<Topic, u64> {
        let mixed = mix(text);
        let place = &self.places[self.place(mixed)];
        match &place.topic {
            Some(topic) if place.mixed == tag(mixed) && topic.as_str().as_bytes() == text => {
                Ok(topic.clone())
            }
            _ => Err(mixed),
        }
    }

    fn learn(&mut self, mixed: u64, text: &str) -> Result<Topic, TopicError> {
        let topic = Topic::parse(text)?;
        self.misses += 1;
        let place = self.place(mixed);
        let place = &mut self.places[place];
        if place.other == tag(mixed) || place.topic.is_none() {
            (place.mixed, place.topic) = (tag(mixed), Some(topic.clone()));
        }
        place.other = tag(mixed);
        Ok(topic)
    }

    fn place(&self, mixed: u64) -> usize {
        mixed as usize & (self.places.len() - 1)
    }
}

/// What of a [`mix`] tells texts at one place apart.
fn tag(mixed: u64) -> u32 {
    (mixed >> 32) as u32
}

/// Spreads texts, in a step for each eight bytes. Nobody gains by a collision: it costs what a new topic costs.
fn mix(text: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, _) = text.as_chunks();
    let step = |mixed: u64, word: u64| (mixed ^ word).wrapping_mul(ODD).rotate_left(29);
    let mixed = words.iter().fold(text.len() as u64, |mixed, word| step(mixed, u64::from_le_bytes(*word)));
    // The last word overlaps what went before it.
    let last = match text.last_chunk() {
        Some(last) => u64::from_le_bytes(*last),
        None => text.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    step(step(mixed, last), 0)
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

/// Whether `text` is a topic of ASCII alone. Most are, and every new one is checked: this takes eight bytes at a time.
fn is_plain(text: &str) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    // The highest bit of some byte, where any byte is less than `bound`, which is at most 128.
    let any_below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word & HIGH;
    let any_is = |word: u64, byte: u8| any_below(word ^ (ONES * u64::from(byte)), 1);
    // A token begins where the byte before is a dot; so does the first one.
    let (mut dots_before, mut tokens, mut refused) = (HIGH, 1, 0);
    let mut take = |word: u64| {
        refused |= word & HIGH | any_below(word, b'!') | any_is(word, 0x7f);
        refused |= any_is(word, b'*') | any_is(word, b'>');
        // Exact for each byte, where none has its highest bit set.
        let dots = !(word ^ (ONES * u64::from(b'.'))).wrapping_add(ONES * 0x7f) & HIGH;
        refused |= dots & (dots << 8 | dots_before >> 56);
        tokens += ((dots >> 7).wrapping_mul(ONES) >> 56) as usize;
        dots_before = dots;
    };
    let (words, rest) = text.as_bytes().as_chunks();
    words.iter().for_each(|word| take(u64::from_le_bytes(*word)));
    if !rest.is_empty() {
        take(rest.iter().rev().fold(ONES * u64::from(b'a'), |word, &byte| word << 8 | u64::from(byte)));
    }
    refused == 0 && tokens <= TOPIC_TOKENS && text.as_bytes().last().is_some_and(|&last| last != b'.')
}

/// Copies of one topic are told without a look at their text, which costs a cache miss.
impl PartialEq for Topic {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for Topic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
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
    fn a_topic_that_comes_again_is_remembered_and_none_that_comes_once_pushes_it_out() {
        let mut topics = Topics::new(1);
        let known = topics.parse("a").unwrap();
        assert!(topics.parse("b").is_ok() && topics.parse("c").is_ok());
        assert!(topics.parse("a").unwrap().is_copy_of(&known));
        assert!(topics.parse("b").is_ok());
        let newer = topics.parse("b").unwrap();
        assert!(topics.parse("b").unwrap().is_copy_of(&newer));
        assert!(!topics.parse("a").unwrap().is_copy_of(&known));
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
