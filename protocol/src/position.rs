//! Where in a stream: epochs, positions and the start of a subscription.

use std::{fmt, str::FromStr, sync::Arc};

/// A stream's name. Cheap to clone. `default` is the stream that exists with no configuration, and frames leave
/// it out.
pub type StreamName = Arc<str>;

/// The name of the stream that takes every topic no other stream takes.
pub const DEFAULT_STREAM: &str = "default";

/// The incarnation of a stream's log. Offsets of different epochs have nothing to do with each other.
///
/// On the wire, in both codecs, it is a string of 16 lower-case hexadecimal digits.
///
/// ```
/// use tidegate_protocol::Epoch;
///
/// let epoch: Epoch = "0000000000008f3a".parse()?;
/// assert_eq!(epoch, Epoch(0x8f3a));
/// assert_eq!(epoch.to_string(), "0000000000008f3a");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Its 16 digits in `buffer`, so that writing one costs no allocation.
    pub(crate) fn digits(self, buffer: &mut [u8; 16]) -> &str {
        for (index, digit) in buffer.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(self.0 >> (60 - 4 * index)) as usize & 15];
        }
        std::str::from_utf8(buffer).unwrap_or_default()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digits(&mut [0; 16]))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an epoch has 16 lower-case hexadecimal digits")]
pub struct EpochError;

impl FromStr for Epoch {
    type Err = EpochError;
    fn from_str(text: &str) -> Result<Self, EpochError> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !digits {
            return Err(EpochError);
        }
        u64::from_str_radix(text, 16).map(Epoch).map_err(|_| EpochError)
    }
}

/// All a client needs to resume in one stream: it has everything up to and with `offset`.
///
/// ```
/// use tidegate_protocol::{Epoch, From, Position};
///
/// // As it was kept in a database.
/// let (epoch, offset) = (0x8f3a, 41);
/// let position = Position { stream: None, epoch: Epoch(epoch), offset };
/// let resume = From::Positions(vec![position]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// The stream; absent for [`DEFAULT_STREAM`].
    pub stream: Option<StreamName>,
    /// The log's incarnation.
    pub epoch: Epoch,
    /// The last offset the client has; 0 before the first.
    pub offset: u64,
}

/// Where a subscription starts, or what part of a topic's history is asked for.
///
/// ```
/// use tidegate_protocol::From;
///
/// let retained = From::Last { n: 1, at: None };
/// let this_morning = From::Since(1_790_000_000_000);
/// assert_eq!(From::default(), From::Live);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum From {
    /// Only what is published from now on.
    #[default]
    Live,
    /// The log's first message, then everything after it.
    Beginning,
    /// The newest `n` messages of each topic, in offset order over all; 1 is what others call retained.
    Last {
        /// How many of each topic.
        n: u32,
        /// Where the log stood when they were first asked for: then all that came after it too. So a client comes
        /// back that was cut in their midst.
        at: Option<At>,
    },
    /// Everything the log has from this time on, in milliseconds since the Unix epoch by the broker's clock.
    Since(u64),
    /// After these positions. A stream of the filter that the list does not name starts at its beginning.
    Positions(Vec<Position>),
}

/// The point a `last` was first asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// The `live` offset of the first subscribe's ack, for a filter inside one stream.
    Offset(u64),
    /// One for each stream, with the epochs, so that a restarted broker is noticed.
    Positions(Vec<Position>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_back_as_it_was_written_and_no_other_form_is_taken() {
        let epoch = Epoch(0x8f3a);
        assert_eq!(epoch.to_string(), "0000000000008f3a");
        assert_eq!("0000000000008f3a".parse(), Ok(epoch));
        for bad in ["", "8f3a", "0000000000008F3A", "+000000000008f3a", "00000000000008f3a"] {
            assert_eq!(bad.parse::<Epoch>(), Err(EpochError), "{bad:?}");
        }
    }
}
