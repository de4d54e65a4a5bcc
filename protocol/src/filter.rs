//! Filters: topics in which `*` stands for one token and a last `>` for one or more.

use std::{fmt, sync::Arc};

use crate::topic::{Topic, TopicError, check};

/// A valid filter. Its one door is [`Filter::parse`].
///
/// A wildcard never stands for a token that starts with `$`, so `>` does not show a client the broker's own
/// topics (the rule MQTT 5, section 4.7.2, has for its first level).
///
/// ```
/// use tidegate_protocol::{Filter, Topic};
///
/// let trucks: Filter = "fleet.*.gps".parse()?;
/// assert!(trucks.matches(&Topic::parse("fleet.truck42.gps")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter {
    text: Arc<str>,
    /// How many bytes of the text stand before the first wildcard: most topics are told apart by them alone.
    literal: usize,
}

impl Filter {
    /// Checks `text` and keeps a copy of it.
    ///
    /// ```
    /// use tidegate_protocol::Filter;
    ///
    /// assert!(Filter::parse("chat.>").is_ok());
    /// assert!(Filter::parse("chat.>.x").is_err()); // `>` stands last
    /// ```
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text, true)?;
        // No other token has these characters.
        let literal = text.find(['*', '>']).unwrap_or(text.len());
        Ok(Self { text: text.into(), literal })
    }

    /// The filter as text.
    ///
    /// ```
    /// use tidegate_protocol::Filter;
    ///
    /// assert_eq!(Filter::parse("chat.*")?.as_str(), "chat.*");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The tokens between the dots.
    ///
    /// ```
    /// use tidegate_protocol::Filter;
    ///
    /// let filter = Filter::parse("chat.*")?;
    /// assert!(filter.tokens().eq(["chat", "*"]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.text.split('.')
    }

    /// Whether any token is a wildcard.
    ///
    /// ```
    /// use tidegate_protocol::Filter;
    ///
    /// assert!(Filter::parse("chat.*")?.is_wildcard());
    /// assert!(!Filter::parse("chat.room1")?.is_wildcard());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_wildcard(&self) -> bool {
        self.literal < self.text.len()
    }

    /// The one topic this filter takes, where it has no wildcard.
    ///
    /// ```
    /// use tidegate_protocol::{Filter, Topic};
    ///
    /// assert_eq!(Filter::parse("chat.room1")?.as_topic(), Some(Topic::parse("chat.room1")?));
    /// assert_eq!(Filter::parse("chat.*")?.as_topic(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn as_topic(&self) -> Option<Topic> {
        (!self.is_wildcard()).then(|| Topic::of_checked(self.text.clone()))
    }

    /// Whether the filter takes `topic`.
    ///
    /// ```
    /// use tidegate_protocol::{Filter, Topic};
    ///
    /// let filter = Filter::parse("chat.*")?;
    /// assert!(filter.matches(&Topic::parse("chat.room1")?));
    /// assert!(!filter.matches(&Topic::parse("chat.room1.typing")?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn matches(&self, topic: &Topic) -> bool {
        if !self.is_wildcard() {
            return *self.text == *topic.as_str();
        }
        let (literal, wild) = self.text.split_at(self.literal);
        let Some(rest) = topic.as_str().strip_prefix(literal) else { return false };
        if wild == ">" && !rest.contains('$') {
            return true;
        }
        let mut topic = rest.split('.');
        for token in wild.split('.') {
            match (token, topic.next()) {
                (_, None) => return false,
                (">", Some(first)) => return tail_is_open(first, &mut topic),
                ("*", Some(one)) if one.starts_with('$') => return false,
                ("*", Some(_)) => {}
                (token, Some(one)) if token == one => {}
                _ => return false,
            }
        }
        topic.next().is_none()
    }

    /// Whether some topic is taken by both.
    ///
    /// ```
    /// use tidegate_protocol::Filter;
    ///
    /// assert!(Filter::parse("*.eu")?.overlaps(&Filter::parse("orders.*")?)); // `orders.eu`
    /// assert!(!Filter::parse("chat.*")?.overlaps(&Filter::parse("orders.*")?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn overlaps(&self, other: &Filter) -> bool {
        let (mut a, mut b) = (self.tokens(), other.tokens());
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(">"), Some(first)) => return tail_is_open(first, &mut b),
                (Some(first), Some(">")) => return tail_is_open(first, &mut a),
                (Some("*"), Some(t)) | (Some(t), Some("*")) if t.starts_with('$') => return false,
                (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
                (Some(x), Some(y)) if x == y => {}
                _ => return false,
            }
        }
    }
}

impl Filter {
    /// Whether every topic that `other` takes is taken by this one too.
    ///
    /// ```
    /// use tidegate_protocol::Filter;
    ///
    /// assert!(Filter::parse("chat.>")?.covers(&Filter::parse("chat.*")?));
    /// assert!(!Filter::parse("chat.*")?.covers(&Filter::parse("chat.>")?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn covers(&self, other: &Filter) -> bool {
        let (mut mine, mut theirs) = (self.tokens(), other.tokens());
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(">"), Some(first)) => return tail_is_open(first, &mut theirs),
                (Some(_), Some(">")) => return false,
                (Some("*"), Some(t)) if !t.starts_with('$') => {}
                (Some(x), Some(y)) if x == y => {}
                _ => return false,
            }
        }
    }
}

/// Whether `>` can stand for `first` and all of `rest`.
fn tail_is_open<'a>(first: &str, rest: &mut impl Iterator<Item = &'a str>) -> bool {
    !first.starts_with('$') && rest.all(|token| !token.starts_with('$'))
}

impl From<Topic> for Filter {
    fn from(topic: Topic) -> Self {
        Self { text: topic.as_str().into(), literal: topic.as_str().len() }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl std::str::FromStr for Filter {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, topic: &str) -> bool {
        Filter::parse(filter).unwrap().matches(&Topic::parse(topic).unwrap())
    }

    #[test]
    fn a_star_stands_for_exactly_one_token_and_a_last_arrow_for_one_or_more() {
        assert!(matches("chat.room1", "chat.room1"));
        assert!(!matches("chat.room1", "chat.room2"));
        assert!(!matches("chat", "chat.room1"));
        assert!(matches("chat.*", "chat.room1"));
        assert!(!matches("chat.*", "chat"));
        assert!(!matches("chat.*", "chat.a.b"));
        assert!(matches("chat.>", "chat.a"));
        assert!(matches("chat.>", "chat.a.b"));
        assert!(!matches("chat.>", "chat"));
        assert!(matches("*.b.*", "a.b.c"));
        assert!(matches(">", "a"));
        assert!(Filter::parse("a.>.b").is_err());
        assert!(Filter::parse("a*").is_err());
    }

    #[test]
    fn wildcards_do_not_reach_the_brokers_own_topics() {
        assert!(!matches(">", "$sys.load"));
        assert!(!matches("*.load", "$sys.load"));
        assert!(!matches("a.>", "a.b.$c"));
        assert!(matches("$sys.*", "$sys.load"));
    }

    #[test]
    fn a_filter_covers_another_where_it_takes_all_the_other_takes() {
        let covers = |a: &str, b: &str| Filter::parse(a).unwrap().covers(&Filter::parse(b).unwrap());
        assert!(covers("a.>", "a.*"));
        assert!(covers("a.>", "a.b.>"));
        assert!(covers("a.*", "a.b"));
        assert!(covers("*", "*"));
        assert!(covers(">", ">"));
        assert!(!covers("a.*", "a.>"));
        assert!(!covers("a.b", "a.*"));
        assert!(!covers("a.>", "a"));
        assert!(!covers(">", "$sys.x"));
        assert!(!covers("a.*.c", "a.>"));
    }

    #[test]
    fn filters_overlap_where_a_topic_is_taken_by_both() {
        let overlaps = |a: &str, b: &str| {
            let (a, b) = (Filter::parse(a).unwrap(), Filter::parse(b).unwrap());
            assert_eq!(a.overlaps(&b), b.overlaps(&a));
            a.overlaps(&b)
        };
        assert!(overlaps("a.*", "*.b"));
        assert!(overlaps("a.>", "a.b.c"));
        assert!(overlaps(">", "a"));
        assert!(!overlaps("a.>", "a"));
        assert!(!overlaps("a.b", "a.c"));
        assert!(!overlaps(">", "$sys.x"));
        assert!(overlaps("*.b", ">"));
    }
}
