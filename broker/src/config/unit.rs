//! How an option's value is read, written and bounded. What is wrong is said so that it can follow the option's
//! name and a colon.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, time::Duration};

use tidegate_protocol::{Filter, Topic, limits};
use toml::de::DeValue;

/// A value as it was written.
pub(super) enum Raw<'a> {
    /// In a file.
    Toml(&'a DeValue<'a>),
    /// In a variable of the environment or a flag: bare, without quotes.
    Text(&'a str),
}

/// What a value of type `T` is written as.
pub(super) trait Unit<T> {
    /// Says what was wanted where the text is something else.
    fn read(&self, raw: &Raw<'_>) -> Result<T, String>;

    /// As TOML; `None` where it is not set.
    fn write(&self, value: &T) -> Option<String>;

    /// Whether the value is inside its bounds.
    fn check(&self, _value: &T) -> Result<(), String> {
        Ok(())
    }

    /// The bounds for a person.
    fn bounds(&self) -> Option<String> {
        None
    }
}

impl Raw<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Raw::Toml(value) => value.as_str(),
            Raw::Text(text) => Some(text),
        }
    }

    /// A whole number that is not negative.
    fn number(&self) -> Option<u64> {
        match self {
            Raw::Toml(DeValue::Integer(digits)) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
            Raw::Toml(_) => None,
            Raw::Text(text) => text.parse().ok(),
        }
    }

    fn is_not(&self, wanted: impl Display) -> String {
        match self {
            Raw::Text(text) => format!("{text:?} is not {wanted}"),
            Raw::Toml(DeValue::String(text)) => format!("{text:?} is not {wanted}"),
            Raw::Toml(DeValue::Integer(digits)) => format!("{} is not {wanted}", digits.as_str()),
            Raw::Toml(DeValue::Boolean(flag)) => format!("{flag} is not {wanted}"),
            Raw::Toml(other) => format!("a {} is not {wanted}", other.type_str()),
        }
    }

    /// The entries of a list, which the environment writes as TOML.
    fn list<T>(&self, wanted: &str, read: impl Fn(&Raw<'_>) -> Result<T, String>) -> Result<Vec<T>, String> {
        let entries = |value: &DeValue<'_>| {
            let list = value.as_array().ok_or_else(|| self.is_not(wanted))?;
            list.iter().map(|entry| read(&Raw::Toml(entry.get_ref()))).collect()
        };
        match self {
            Raw::Toml(value) => entries(value),
            Raw::Text(text) => entries(DeValue::parse(text).map_err(|_| self.is_not(wanted))?.get_ref()),
        }
    }
}

/// A whole number.
pub(super) struct Count(pub(super) RangeInclusive<u64>);

impl<T: Copy + TryFrom<u64> + TryInto<u64>> Unit<T> for Count {
    fn read(&self, raw: &Raw<'_>) -> Result<T, String> {
        let number = raw.number().ok_or_else(|| raw.is_not("a whole number"))?;
        fit(number, &self.0, u64::to_string)
    }

    fn write(&self, value: &T) -> Option<String> {
        Some(plain(*value).to_string())
    }

    fn check(&self, value: &T) -> Result<(), String> {
        inside(plain(*value), &self.0, u64::to_string)
    }

    fn bounds(&self) -> Option<String> {
        Some(format!("{} to {}", self.0.start(), self.0.end()))
    }
}

/// A number of bytes: `65536`, `"64KiB"`, `"8MiB"`.
pub(super) struct Size(pub(super) RangeInclusive<u64>);

const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl<T: Copy + TryFrom<u64> + TryInto<u64>> Unit<T> for Size {
    fn read(&self, raw: &Raw<'_>) -> Result<T, String> {
        let size = raw.number().or_else(|| parse_with_unit(raw.text()?, &SIZES));
        let size = size.ok_or_else(|| raw.is_not("a number of bytes, \"64KiB\" or \"8MiB\""))?;
        fit(size, &self.0, size_text)
    }

    fn write(&self, value: &T) -> Option<String> {
        let bytes = plain(*value);
        let (name, _) = largest_unit(bytes, &SIZES);
        Some(if name == "B" { bytes.to_string() } else { format!("\"{}\"", size_text(&bytes)) })
    }

    fn check(&self, value: &T) -> Result<(), String> {
        inside(plain(*value), &self.0, size_text)
    }

    fn bounds(&self) -> Option<String> {
        Some(format!("{} to {}", size_text(self.0.start()), size_text(self.0.end())))
    }
}

fn size_text(bytes: &u64) -> String {
    let (name, unit) = largest_unit(*bytes, &SIZES);
    format!("{}{name}", bytes / unit)
}

/// A duration: `"250ms"`, `"30s"`, `"2m"`. The bounds are in seconds.
pub(super) struct Time(pub(super) RangeInclusive<u64>);

/// In nanoseconds.
const TIMES: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Unit<Duration> for Time {
    fn read(&self, raw: &Raw<'_>) -> Result<Duration, String> {
        raw.text().and_then(parse_duration).ok_or_else(|| raw.is_not(A_DURATION))
    }

    fn write(&self, value: &Duration) -> Option<String> {
        Some(format!("\"{}\"", duration_text(value)))
    }

    fn check(&self, value: &Duration) -> Result<(), String> {
        inside(*value, &self.range(), duration_text)
    }

    fn bounds(&self) -> Option<String> {
        let range = self.range();
        Some(format!("{} to {}", duration_text(range.start()), duration_text(range.end())))
    }
}

impl Time {
    fn range(&self) -> RangeInclusive<Duration> {
        Duration::from_secs(*self.0.start())..=Duration::from_secs(*self.0.end())
    }
}

/// What a person is told who wrote something else.
pub(crate) const A_DURATION: &str = "a duration such as \"250ms\", \"30s\" or \"2m\"";

/// Reads `250ms`, `30s`, `2m`, `1h`, `7d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    parse_with_unit(text, &TIMES).map(Duration::from_nanos)
}

pub(super) fn duration_text(duration: &Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return "0s".into();
    }
    let (name, unit) = largest_unit(nanos, &TIMES);
    format!("{}{name}", nanos / unit)
}

/// Two durations: from, to. The bounds are in seconds.
pub(super) struct Window(pub(super) RangeInclusive<u64>);

impl Unit<(Duration, Duration)> for Window {
    fn read(&self, raw: &Raw<'_>) -> Result<(Duration, Duration), String> {
        let wanted = "two durations such as [\"0s\", \"5s\"]";
        let time = Time(self.0.clone());
        let ends: Vec<Duration> = raw.list(wanted, |entry| time.read(entry))?;
        <[Duration; 2]>::try_from(ends).map(|[from, to]| (from, to)).map_err(|_| raw.is_not(wanted))
    }

    fn write(&self, (from, to): &(Duration, Duration)) -> Option<String> {
        Some(format!("[\"{}\", \"{}\"]", duration_text(from), duration_text(to)))
    }

    fn check(&self, (from, to): &(Duration, Duration)) -> Result<(), String> {
        let time = Time(self.0.clone());
        time.check(from)?;
        time.check(to)?;
        if from > to {
            return Err(format!("starts at {}, after its end {}", duration_text(from), duration_text(to)));
        }
        Ok(())
    }

    fn bounds(&self) -> Option<String> {
        Time(self.0.clone()).bounds()
    }
}

/// `true` or `false`.
pub(super) struct Flag;

impl Unit<bool> for Flag {
    fn read(&self, raw: &Raw<'_>) -> Result<bool, String> {
        let flag = match raw {
            Raw::Toml(value) => value.as_bool(),
            Raw::Text(text) => text.parse().ok(),
        };
        flag.ok_or_else(|| raw.is_not("true or false"))
    }

    fn write(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// An address and a port.
pub(super) struct Address;

impl Unit<SocketAddr> for Address {
    fn read(&self, raw: &Raw<'_>) -> Result<SocketAddr, String> {
        let wanted = "an address and a port such as \"127.0.0.1:7400\" or \"[::1]:7400\"";
        raw.text().and_then(|text| text.parse().ok()).ok_or_else(|| raw.is_not(wanted))
    }

    fn write(&self, value: &SocketAddr) -> Option<String> {
        Some(format!("\"{value}\""))
    }
}

/// Browser origins (RFC 6454, section 6.2), or `*`.
pub(super) struct Origins;

impl Unit<Vec<String>> for Origins {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<String>, String> {
        raw.list("a list of origins such as [\"https://shop.example\"]", |entry| {
            entry.text().map(str::to_owned).ok_or_else(|| entry.is_not(AN_ORIGIN))
        })
    }

    fn write(&self, value: &Vec<String>) -> Option<String> {
        Some(list_text(value))
    }

    fn check(&self, value: &Vec<String>) -> Result<(), String> {
        // The rule is the one that requests are held to.
        crate::http::Origins::new(value, true).map(drop).map_err(|bad| format!("{bad:?} is not {AN_ORIGIN}"))
    }
}

const AN_ORIGIN: &str = "an origin such as \"https://shop.example\" or \"http://localhost:5173\", or \"*\"";

/// A stream's name: one token.
pub(super) struct Name;

impl Unit<String> for Name {
    fn read(&self, raw: &Raw<'_>) -> Result<String, String> {
        raw.text().map(str::to_owned).ok_or_else(|| raw.is_not("a name"))
    }

    fn write(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }

    fn check(&self, value: &String) -> Result<(), String> {
        let topic = Topic::parse(value).map_err(|error| format!("{value:?} is not a name: {error}"))?;
        if topic.tokens().count() != 1 {
            return Err(format!("{value:?} is not a name: it has a dot"));
        }
        if topic.is_reserved() {
            return Err(format!("{value:?} is not a name: what starts with $ is the broker's own"));
        }
        if value.len() > limits::STREAM_NAME_BYTES {
            return Err(format!("{value:?} is longer than {} bytes", limits::STREAM_NAME_BYTES));
        }
        Ok(())
    }
}

/// A filter.
pub(super) struct OneFilter;

impl Unit<Filter> for OneFilter {
    fn read(&self, raw: &Raw<'_>) -> Result<Filter, String> {
        let text = raw.text().ok_or_else(|| raw.is_not("a filter such as \"chat.>\""))?;
        Filter::parse(text).map_err(|error| format!("{text:?} is not a filter: {error}"))
    }

    fn write(&self, value: &Filter) -> Option<String> {
        Some(quoted(value.as_str()))
    }
}

/// A list of filters.
pub(super) struct Filters;

impl Unit<Vec<Filter>> for Filters {
    fn read(&self, raw: &Raw<'_>) -> Result<Vec<Filter>, String> {
        raw.list("a list of filters such as [\"chat.>\"]", |entry| OneFilter.read(entry))
    }

    fn write(&self, value: &Vec<Filter>) -> Option<String> {
        Some(list_text(value.iter().map(Filter::as_str)))
    }
}

/// An option that need not be set.
pub(super) struct Maybe<U>(pub(super) U);

impl<T, U: Unit<T>> Unit<Option<T>> for Maybe<U> {
    fn read(&self, raw: &Raw<'_>) -> Result<Option<T>, String> {
        self.0.read(raw).map(Some)
    }

    fn write(&self, value: &Option<T>) -> Option<String> {
        self.0.write(value.as_ref()?)
    }

    fn check(&self, value: &Option<T>) -> Result<(), String> {
        value.as_ref().map_or(Ok(()), |value| self.0.check(value))
    }

    fn bounds(&self) -> Option<String> {
        self.0.bounds()
    }
}

/// A number with a unit, and nothing else but a space between them.
fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, name) = text.split_at(digits);
    let &(_, unit) = units.iter().find(|(unit, _)| *unit == name.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// The largest unit that leaves no rest; `units` go down to 1.
fn largest_unit<'a>(number: u64, units: &[(&'a str, u64)]) -> (&'a str, u64) {
    let exact = units.iter().find(|(_, unit)| number >= *unit && number.is_multiple_of(*unit));
    *exact.or(units.last()).unwrap_or(&("", 1))
}

/// `number` as the field's own type; the range is inside every type it is stated for, but the number may not be.
fn fit<T: TryFrom<u64>>(
    number: u64,
    range: &RangeInclusive<u64>,
    text: impl Fn(&u64) -> String,
) -> Result<T, String> {
    T::try_from(number).map_err(|_| format!("{} is more than {}", text(&number), text(range.end())))
}

fn inside<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    text: impl Fn(&T) -> String,
) -> Result<(), String> {
    if value < *range.start() {
        Err(format!("{} is less than {}", text(&value), text(range.start())))
    } else if value > *range.end() {
        Err(format!("{} is more than {}", text(&value), text(range.end())))
    } else {
        Ok(())
    }
}

fn plain<T: TryInto<u64>>(value: T) -> u64 {
    value.try_into().unwrap_or(u64::MAX)
}

/// Topics, filters and names have no control character, origins are ASCII: only these two need an escape.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn list_text(entries: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let entries: Vec<String> = entries.into_iter().map(|entry| quoted(entry.as_ref())).collect();
    format!("[{}]", entries.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_back_as_they_were_written() {
        for bytes in [0, 1, 1000, 1024, 65_536, 8 << 20, (1 << 20) + 1, 3 << 30, 1 << 40] {
            let written = Unit::<u64>::write(&Size(0..=u64::MAX), &bytes).unwrap();
            let value = DeValue::parse(&written).unwrap();
            assert_eq!(Size(0..=u64::MAX).read(&Raw::Toml(value.get_ref())), Ok(bytes), "{written}");
        }
        for nanos in [0, 1, 1_500, 250_000_000, 1_000_000_000, 90_000_000_000, 86_400_000_000_000] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse_duration(&duration_text(&duration)), Some(duration), "{duration:?}");
        }
        assert_eq!(duration_text(&Duration::from_secs(120)), "2m");
        assert_eq!(size_text(&65_536), "64KiB");
    }

    #[test]
    fn what_is_no_duration_or_size_is_refused() {
        for bad in ["", "s", "10", "-1s", "1.5s", "1 s s", "10S", "99999999999999999999s", "9999999999d"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
        for bad in ["", "KiB", "64KB", "64k", "-1", "1.5MiB", "99999999999TiB"] {
            let read: Result<u64, _> = Size(0..=u64::MAX).read(&Raw::Text(bad));
            assert!(read.is_err(), "{bad:?}");
        }
        assert_eq!(Size(0..=1).read(&Raw::Text("64 KiB")), Ok(65_536_u64));
    }

    #[test]
    fn a_number_beyond_its_type_is_refused_before_it_is_cut() {
        let read: Result<u32, _> = Count(1..=100).read(&Raw::Text("4294967297"));
        assert_eq!(read, Err("4294967297 is more than 100".into()));
    }

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_nothing_after() {
        let check = |origin: &str| Origins.check(&vec![origin.to_owned()]);
        for good in ["*", "https://shop.example", "http://localhost:5173", "http://[::1]:80"] {
            assert_eq!(check(good), Ok(()));
        }
        for bad in ["", "shop.example", "https://", "https://a/b", "https://a b"] {
            assert_eq!(check(bad), Err(format!("{bad:?} is not {AN_ORIGIN}")));
        }
    }
}
