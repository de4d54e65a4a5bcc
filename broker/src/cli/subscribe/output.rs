//! What `tidegate sub` prints, in its three formats.

use std::io::{self, BufWriter, StdoutLock, Write};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_client::{
    ConnectionEvent, ContentKind, Event, Filter, Gap, GapReason, Message, Overflow, Payload, Position,
    StartPosition, Subscription,
};

use crate::cli::{
    Failure,
    connection::{self, harmless},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// For a person at a terminal.
    Human,
    /// Payloads alone.
    Raw,
    /// One object a line.
    Json,
}

/// Stdout, buffered: whoever reads it is given what there is before anything is waited for.
pub(super) struct Output {
    format: Format,
    stdout: BufWriter<StdoutLock<'static>>,
    /// Lines since the last flush.
    unflushed: usize,
}

/// Lines after which a flush is due however many more are ready.
const MOST_UNFLUSHED: usize = 1024;

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Subscribed {
        filters: Vec<&'a str>,
        positions: Vec<At>,
    },
    Message {
        topic: &'a str,
        filter: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        time: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "Headers::is_empty")]
        headers: Headers<'a>,
        kind: ContentKind,
        payload: Content<'a>,
    },
    Gap {
        filter: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        topic: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        at_most: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
        reason: GapReason,
        policy: Overflow,
    },
    Resumed {
        filter: &'a str,
        positions: Vec<At>,
    },
    Reset {
        filter: &'a str,
        old_epoch: String,
        position: At,
    },
}

/// A position with its stream named, so that a reader need not know the default one.
#[derive(Serialize)]
struct At {
    stream: String,
    epoch: String,
    offset: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Base64(String),
}

/// An object, in the publisher's order.
struct Headers<'a>(&'a [(Box<str>, Box<str>)]);

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self { format, stdout: BufWriter::with_capacity(64 << 10, io::stdout().lock()), unflushed: 0 }
    }

    /// Once for all filters.
    pub(super) fn subscribed(
        &mut self,
        filters: &[Filter],
        subscriptions: &[Subscription],
    ) -> Result<(), Failure> {
        if self.format != Format::Json {
            notice(&format!("subscribed to {}", names(filters).join(" ")));
            return Ok(());
        }
        let mut positions: Vec<At> = Vec::new();
        for start in subscriptions.iter().flat_map(|subscription| &subscription.terms().positions) {
            let at = At::from(start);
            if !positions.iter().any(|known| known.stream == at.stream) {
                positions.push(at);
            }
        }
        self.line(&Line::Subscribed { filters: names(filters), positions })?;
        self.flush()
    }

    pub(super) fn message(&mut self, filter: &Filter, message: &Message) -> Result<(), Failure> {
        match self.format {
            Format::Raw => {
                self.unflushed += 1;
                self.stdout
                    .write_all(message.payload.data())
                    .and_then(|()| self.stdout.write_all(b"\n"))
                    .map_err(Failure::stdout)
            }
            Format::Json => self.line(&Line::Message {
                topic: message.topic.as_str(),
                filter: filter.as_str(),
                stream: message.stream.as_deref(),
                offset: message.offset,
                time: message.time,
                key: message.key.as_deref(),
                headers: Headers(&message.headers),
                kind: message.payload.kind(),
                payload: Content::of(&message.payload),
            }),
            Format::Human => {
                let key = message.key.as_ref().map(|key| format!(" [{}]", harmless(key))).unwrap_or_default();
                let content = match message.payload.as_str() {
                    Some(text) => harmless(text),
                    None => format!("base64 {}", BASE64.encode(message.payload.data())),
                };
                self.text(&format!("{}{key}: {content}", message.topic))
            }
        }
    }

    /// What stands in a subscription's flow besides its messages.
    pub(super) fn notice(&mut self, filter: &Filter, event: &Event) -> Result<(), Failure> {
        let name = filter.as_str();
        if self.format == Format::Json {
            let line = match event {
                Event::Message(_) => return Ok(()),
                Event::Gap(gap) => Line::Gap {
                    filter: name,
                    topic: gap.topic.as_ref().map(|topic| topic.as_str()),
                    stream: gap.stream.as_deref(),
                    count: gap.count,
                    at_most: gap.at_most,
                    from: gap.from,
                    to: gap.to,
                    reason: gap.reason,
                    policy: gap.policy,
                },
                Event::Resumed(resumed) => Line::Resumed {
                    filter: name,
                    positions: resumed.positions.iter().map(At::from).collect(),
                },
                Event::Reset(reset) => Line::Reset {
                    filter: name,
                    old_epoch: reset.old.to_string(),
                    position: At::from(&reset.new),
                },
            };
            return self.line(&line);
        }
        let text = match event {
            Event::Message(_) => return Ok(()),
            Event::Gap(gap) => format!("-- gap in {name}: {}", gap_text(gap)),
            Event::Resumed(_) => format!("-- {name} resumed"),
            Event::Reset(_) => format!("-- {name} reset: the broker's log is a new one"),
        };
        match self.format {
            // In its place in the flow.
            Format::Human => self.text(&text),
            _ => {
                // What came before it is seen before it.
                self.flush()?;
                notice(&text);
                Ok(())
            }
        }
    }

    /// What happens to the connection is told beside the flow.
    pub(super) fn connection(&mut self, event: &ConnectionEvent) {
        if let Some(text) = connection::notice(event) {
            notice(&text);
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.unflushed >= MOST_UNFLUSHED
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.unflushed = 0;
        self.stdout.flush().map_err(Failure::stdout)
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        self.unflushed += 1;
        serde_json::to_writer(&mut self.stdout, line)
            .map_err(io::Error::from)
            .and_then(|()| self.stdout.write_all(b"\n"))
            .map_err(Failure::stdout)
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.unflushed += 1;
        writeln!(self.stdout, "{text}").map_err(Failure::stdout)
    }
}

fn names(filters: &[Filter]) -> Vec<&str> {
    filters.iter().map(Filter::as_str).collect()
}

/// Nobody can be told that stderr is gone.
fn notice(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn gap_text(gap: &Gap) -> String {
    let many = match (gap.count, gap.at_most) {
        (Some(1), _) => "1 message is missing".to_owned(),
        (Some(count), _) => format!("{count} messages are missing"),
        (None, Some(most)) => format!("up to {most} messages are missing"),
        (None, None) => "messages may be missing".to_owned(),
    };
    let place = match (gap.from, gap.to) {
        (Some(from), Some(to)) if from == to => format!(", offset {from}"),
        (Some(from), Some(to)) => format!(", offsets {from} to {to}"),
        _ => String::new(),
    };
    format!("{many}{place} (reason: {}, policy: {})", wire_name(&gap.reason), wire_name(&gap.policy))
}

/// The name a value has on the wire.
fn wire_name(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').to_owned()
}

impl<'a> Content<'a> {
    fn of(payload: &'a Payload) -> Self {
        let base64 = || Content::Base64(BASE64.encode(payload.data()));
        match (payload.kind(), payload.as_str()) {
            (ContentKind::Text, Some(text)) => Content::Text(text),
            (ContentKind::Json, Some(text)) => {
                serde_json::from_str(text).map_or_else(|_| base64(), Content::Json)
            }
            _ => base64(),
        }
    }
}

impl Headers<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Headers<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (&**name, &**value)))
    }
}

impl From<&Position> for At {
    fn from(position: &Position) -> Self {
        Self {
            stream: position
                .stream
                .as_deref()
                .unwrap_or(tidegate_protocol::position::DEFAULT_STREAM)
                .to_owned(),
            epoch: position.epoch.to_string(),
            offset: position.offset,
        }
    }
}

impl From<&StartPosition> for At {
    fn from(start: &StartPosition) -> Self {
        Self::from(&Position { stream: start.stream.clone(), epoch: start.epoch, offset: start.offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_shown_as_what_it_is() {
        let shown = |payload: Payload| serde_json::to_string(&Content::of(&payload)).unwrap();
        assert_eq!(shown(Payload::json(b"{\"a\": 1.50}").unwrap()), "{\"a\": 1.50}");
        assert_eq!(shown(Payload::text("a\"b")), "\"a\\\"b\"");
        assert_eq!(shown(Payload::binary(vec![0xff, 0])), "\"/wA=\"");
    }

    #[test]
    fn a_gap_says_how_many_where_and_why() {
        let gap = Gap {
            sub: 1,
            stream: None,
            topic: None,
            count: Some(12),
            at_most: None,
            from: Some(43),
            to: Some(60),
            reason: GapReason::Overflow,
            policy: Overflow::DropOldest,
        };
        assert_eq!(
            gap_text(&gap),
            "12 messages are missing, offsets 43 to 60 (reason: overflow, policy: drop_oldest)"
        );
        let away = Gap { count: None, from: None, to: None, reason: GapReason::Away, ..gap };
        assert_eq!(gap_text(&away), "messages may be missing (reason: away, policy: drop_oldest)");
    }
}
