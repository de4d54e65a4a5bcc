//! What must hold of a configuration, wherever it came from: each option's own bounds, and the rules between
//! options.

use std::fmt;

use tidegate_protocol::{Filter, limits, position::DEFAULT_STREAM};

use super::{Config, section::Section, unit::duration_text};

/// What is wrong with a configuration: an option, and what about it. One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Which option, as `section.key` or `streams[1].key`; lists count from 0.
    pub option: String,
    /// What is wrong with it.
    pub what: String,
}

/// Topic, key, headers, ids and the names around a payload in its frame.
const FRAME_OVERHEAD: usize = limits::TOPIC_BYTES + limits::KEY_BYTES + limits::HEADER_BYTES + 1024;

impl Config {
    /// Whether a broker can run with this: the first mistake, in the order of the file.
    pub fn check(&self) -> Result<(), Mistake> {
        for (name, section) in self.sections() {
            check_bounds(name, section)?;
        }
        self.check_server()?;
        self.check_sizes()?;
        self.check_streams()?;
        self.check_topics()
    }

    fn check_server(&self) -> Result<(), Mistake> {
        let listen = self.server.listen;
        if !listen.ip().is_loopback() && !self.server.allow_anonymous_beyond_loopback {
            return Err(mistake(
                "server.listen",
                format!(
                    "{listen} is beyond loopback, and nobody who reaches it has to say who he is; \
                     if that is meant, set server.allow_anonymous_beyond_loopback = true"
                ),
            ));
        }
        let websocket = &self.websocket;
        if websocket.pong_timeout > websocket.ping_interval {
            return Err(mistake(
                "websocket.pong_timeout",
                format!(
                    "{} is more than websocket.ping_interval ({})",
                    duration_text(&websocket.pong_timeout),
                    duration_text(&websocket.ping_interval)
                ),
            ));
        }
        Ok(())
    }

    /// The largest payload must fit into everything it passes through.
    fn check_sizes(&self) -> Result<(), Mistake> {
        let payload = self.limits.payload_bytes;
        // Four characters of base64 for three bytes.
        let frame = payload.div_ceil(3) * 4 + FRAME_OVERHEAD;
        if self.websocket.max_message_bytes < frame {
            return Err(mistake(
                "websocket.max_message_bytes",
                format!(
                    "{} bytes do not take a payload of limits.payload_bytes ({payload}) as base64 and the frame \
                     around it: at least {frame}",
                    self.websocket.max_message_bytes
                ),
            ));
        }
        for (option, bytes) in [
            ("limits.publish_window_bytes", self.limits.publish_window_bytes),
            ("limits.connection_bytes", self.limits.connection_bytes as u64),
            ("memory.outbox_bytes", self.memory.outbox_bytes),
        ] {
            if bytes < payload as u64 {
                let what =
                    format!("{bytes} bytes do not take one payload of limits.payload_bytes ({payload})");
                return Err(mistake(option, what));
            }
        }
        if self.memory.connection_bytes < self.websocket.max_message_bytes as u64 {
            let what = format!(
                "{} bytes do not take one message of websocket.max_message_bytes ({})",
                self.memory.connection_bytes, self.websocket.max_message_bytes
            );
            return Err(mistake("memory.connection_bytes", what));
        }
        Ok(())
    }

    fn check_streams(&self) -> Result<(), Mistake> {
        if self.streams.len() > limits::POSITIONS {
            let what = format!("{} streams are more than {}", self.streams.len(), limits::POSITIONS);
            return Err(mistake("streams", what));
        }
        for (i, stream) in self.streams.iter().enumerate() {
            check_bounds(&format!("streams[{i}]"), stream)?;
            let filters = format!("streams[{i}].filters");
            let is_default = stream.name == DEFAULT_STREAM;
            if is_default && !stream.filters.is_empty() {
                let what = "the stream \"default\" takes what no other stream takes: it has no filters";
                return Err(mistake(filters, what.into()));
            }
            if !is_default && stream.filters.is_empty() {
                return Err(mistake(filters, format!("the stream {:?} keeps no topic", stream.name)));
            }
            for (k, other) in self.streams[..i].iter().enumerate() {
                if stream.name == other.name {
                    let what = format!("{:?} is the name of streams[{k}] already", stream.name);
                    return Err(mistake(format!("streams[{i}].name"), what));
                }
                if let Some((mine, theirs)) = overlap(&stream.filters, &other.filters) {
                    let what = format!(
                        "{mine} overlaps with {theirs} of the stream {:?}: a topic belongs to one stream",
                        other.name
                    );
                    return Err(mistake(filters, what));
                }
            }
        }
        Ok(())
    }

    fn check_topics(&self) -> Result<(), Mistake> {
        for (i, rule) in self.topics.iter().enumerate() {
            check_bounds(&format!("topics[{i}]"), rule)?;
            if let Some(k) = self.topics[..i].iter().position(|other| other.filter == rule.filter) {
                let what = format!("{} is the filter of topics[{k}] already", rule.filter);
                return Err(mistake(format!("topics[{i}].filter"), what));
            }
        }
        Ok(())
    }
}

fn check_bounds(name: &str, section: &dyn Section) -> Result<(), Mistake> {
    for option in section.options() {
        if let Some(what) = option.mistake {
            return Err(mistake(format!("{name}.{}", option.key), what));
        }
    }
    Ok(())
}

fn overlap<'a>(mine: &'a [Filter], theirs: &'a [Filter]) -> Option<(&'a Filter, &'a Filter)> {
    mine.iter().find_map(|m| Some((m, theirs.iter().find(|t| m.overlaps(t))?)))
}

fn mistake(option: impl Into<String>, what: String) -> Mistake {
    Mistake { option: option.into(), what }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.what)
    }
}

impl std::error::Error for Mistake {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Stream, TopicRule};

    fn stream(name: &str, filters: &[&str]) -> Stream {
        let filters = filters.iter().map(|filter| Filter::parse(filter).unwrap()).collect();
        Stream { name: name.into(), filters, ..Stream::default() }
    }

    /// What `check` says of the defaults once `change` was made.
    #[track_caller]
    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        let text = config.check().expect_err("a mistake was let through").to_string();
        assert!(!text.contains('\n'), "more than one line: {text}");
        text
    }

    #[test]
    fn the_defaults_hold() {
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(Config { streams: Vec::new(), ..Config::default() }.check(), Ok(()));
    }

    #[test]
    fn a_value_beyond_its_bounds_is_named_with_the_bound() {
        assert_eq!(refused(|c| c.limits.payload_bytes = 0), "limits.payload_bytes: 0B is less than 1B");
        assert_eq!(refused(|c| c.server.shards = 257), "server.shards: 257 is more than 256");
        assert_eq!(
            refused(|c| c.websocket.stall_timeout = Duration::from_millis(10)),
            "websocket.stall_timeout: 10ms is less than 1s"
        );
        assert_eq!(refused(|c| c.streams[0].max_bytes = 1), "streams[0].max_bytes: 1B is less than 64KiB");
    }

    #[test]
    fn a_port_that_strangers_reach_has_to_be_asked_for_in_so_many_words() {
        for listen in ["0.0.0.0:7400", "[::]:7400", "192.0.2.7:0"] {
            let text = refused(|c| c.server.listen = listen.parse().unwrap());
            assert!(text.starts_with(&format!("server.listen: {listen} is beyond loopback")), "{text}");
            assert!(text.contains("server.allow_anonymous_beyond_loopback = true"), "{text}");
        }
        let mut config = Config::default();
        config.server.listen = "0.0.0.0:7400".parse().unwrap();
        config.server.allow_anonymous_beyond_loopback = true;
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn the_reconnect_window_is_ordered() {
        let window = (Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(
            refused(|c| c.server.reconnect_window = window),
            "server.reconnect_window: starts at 2s, after its end 1s"
        );
    }

    #[test]
    fn a_payload_fits_into_all_it_passes_through() {
        assert!(refused(|c| c.limits.payload_bytes = 1 << 20).starts_with("websocket.max_message_bytes: "));
        let text = refused(|c| c.limits.publish_window_bytes = 32 << 10);
        assert!(text.starts_with("limits.publish_window_bytes: "), "{text}");
    }

    #[test]
    fn a_topic_belongs_to_one_stream() {
        let text = refused(|c| c.streams = vec![stream("a", &["x", "chat.*"]), stream("b", &["*.room1"])]);
        assert_eq!(
            text,
            "streams[1].filters: *.room1 overlaps with chat.* of the stream \"a\": a topic belongs to one stream"
        );
    }

    #[test]
    fn the_default_stream_has_no_filters_and_every_other_has_some() {
        let text = refused(|c| c.streams = vec![stream("default", &["a.>"])]);
        assert!(text.starts_with("streams[0].filters: the stream \"default\""), "{text}");
        assert_eq!(
            refused(|c| c.streams.push(stream("orders", &[]))),
            "streams[1].filters: the stream \"orders\" keeps no topic"
        );
    }

    #[test]
    fn stream_names_are_unique_tokens() {
        let two = |c: &mut Config| c.streams = vec![stream("a", &["x"]), stream("a", &["y"])];
        assert_eq!(refused(two), "streams[1].name: \"a\" is the name of streams[0] already");
        for bad in ["", "a.b", "a b", "*", "$sys", &"x".repeat(65)] {
            let text = refused(|c| c.streams = vec![stream(bad, &["x"])]);
            assert!(text.starts_with("streams[0].name: "), "{bad:?}: {text}");
        }
        let many = (0..=limits::POSITIONS).map(|i| stream(&format!("s{i}"), &[&format!("t{i}")])).collect();
        assert_eq!(refused(|c| c.streams = many), "streams: 65 streams are more than 64");
    }

    #[test]
    fn a_topic_rule_stands_once() {
        let rule = TopicRule::default();
        assert_eq!(
            refused(|c| c.topics = vec![rule.clone(), rule]),
            "topics[1].filter: > is the filter of topics[0] already"
        );
    }
}
