//! The configuration as a file that can be loaded again, with each option's comment above it.

use std::{fmt::Write, time::Duration};

use tidegate_protocol::Filter;

use super::{Config, Stream, TopicRule, section::Section};

const HEAD: &str = "\
# Tidegate's configuration.
#
# What is left out stands at its default. A variable of the environment has the last word over the file:
# TIDEGATE_SERVER__LISTEN=127.0.0.1:7401 for server.listen, TIDEGATE_STREAMS and TIDEGATE_TOPICS take a list as
# TOML. Durations are written \"250ms\", \"30s\", \"2m\", \"1h\", \"7d\"; sizes 65536, \"64KiB\", \"8MiB\".
";

impl Config {
    /// The whole effective configuration as a file, which loads to the same configuration.
    pub fn to_toml(&self) -> String {
        let mut text = HEAD.to_owned();
        // TOML wants the keys of the whole file before its first table.
        if self.streams.is_empty() {
            text.push_str("\n# No streams: every topic is live only.\nstreams = []\n");
        }
        for (name, section) in self.sections() {
            text.push('\n');
            comment(&mut text, section.doc());
            // Writing to a String cannot fail.
            let _ = writeln!(text, "[{name}]");
            table(&mut text, section, true);
        }
        for (i, stream) in self.streams.iter().enumerate() {
            entry(&mut text, "streams", stream, i == 0);
        }
        for (i, rule) in self.topics.iter().enumerate() {
            entry(&mut text, "topics", rule, i == 0);
        }
        if self.streams.iter().all(|stream| stream.filters.is_empty()) {
            let stream = Stream {
                name: "orders".into(),
                filters: Filter::parse("orders.>").into_iter().collect(),
                max_age: Duration::from_secs(24 * 3600),
                ..Stream::default()
            };
            example(&mut text, "streams", &stream);
        }
        if self.topics.is_empty() {
            let rule = TopicRule {
                subscription_limit: Some(self.limits.subscription_limit),
                subscription_limit_bytes: Some(self.limits.subscription_limit_bytes),
                ..TopicRule::default()
            };
            example(&mut text, "topics", &rule);
        }
        text
    }
}

/// One entry of a list; only the first has the comments.
fn entry(text: &mut String, list: &str, section: &dyn Section, commented: bool) {
    text.push('\n');
    if commented {
        comment(text, section.doc());
    }
    let _ = writeln!(text, "[[{list}]]");
    table(text, section, commented);
}

/// What an entry of a list could look like, commented out.
fn example(text: &mut String, list: &str, section: &dyn Section) {
    let mut lines = String::new();
    comment(&mut lines, section.doc());
    let _ = writeln!(lines, "[[{list}]]");
    table(&mut lines, section, list == "topics");
    text.push('\n');
    for line in lines.lines() {
        let _ = writeln!(text, "{}{line}", if line.starts_with('#') { "" } else { "#" });
    }
}

fn table(text: &mut String, section: &dyn Section, commented: bool) {
    for option in section.options() {
        if commented {
            comment(text, option.doc);
        }
        let Some(value) = option.value else { continue };
        let _ = match option.bounds.filter(|_| commented) {
            Some(bounds) => writeln!(text, "{} = {value} # {bounds}", option.key),
            None => writeln!(text, "{} = {value}", option.key),
        };
    }
}

/// Doc comments come with the space after their slashes.
fn comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        let _ = writeln!(text, "#{line}");
    }
}
