//! Where a configuration comes from: the defaults, then a file, then the environment, then flags. Each later one
//! has the last word. Nothing here opens a file or asks the system: texts come in, a [`Config`] goes out.

use std::{collections::BTreeMap, fmt};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Config, LISTS, Mistake, Stream, TopicRule, section::Section, unit::Raw};

/// What variables that configure the broker start with.
pub const PREFIX: &str = "TIDEGATE_";

/// Variables with the prefix that are no options: the command line's own, and what seeded tests are run with.
pub const OTHER_VARIABLES: [&str; 5] =
    ["TIDEGATE_URL", "TIDEGATE_LOG_LEVEL", "TIDEGATE_CONFIG", "TIDEGATE_SEED", "TIDEGATE_SEEDS"];

/// Lays the sources over each other, and remembers where each value came from.
///
/// ```
/// # use tidegate::config::Loader;
/// let mut loader = Loader::new();
/// loader.file("tidegate.toml", "[limits]\npayload_bytes = \"32KiB\"").unwrap();
/// loader.environment([("TIDEGATE_SERVER__SHARDS".into(), "2".into())]).unwrap();
/// loader.flag("--listen", "server.listen", "127.0.0.1:0").unwrap();
/// let config = loader.finish().unwrap();
/// assert_eq!((config.limits.payload_bytes, config.server.shards), (32 << 10, 2));
/// ```
#[derive(Debug, Default)]
pub struct Loader {
    config: Config,
    places: BTreeMap<String, Place>,
}

/// A mistake and the place it was made. One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    place: Place,
    /// Absent where no option could be made out.
    option: Option<String>,
    what: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Default,
    File { name: String, line: usize },
    Variable(String),
    Flag(String),
}

impl Loader {
    /// Starts from the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lays a TOML file over what there is; `name` is what mistakes in it are reported under.
    pub fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let at = |offset: usize| Place::File { name: name.to_owned(), line: line_of(text, offset) };
        let document = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            ConfigError::new(at(offset), None, one_line(error.message()))
        })?;
        for (key, value) in in_order(document.get_ref()) {
            let place = at(key.span().start);
            let name: &str = key.get_ref();
            if LISTS.contains(&name) {
                self.list(name, value.get_ref(), &place, &at)?;
            } else if self.config.section_mut(name).is_some() {
                let Some(table) = value.get_ref().as_table() else {
                    let what = format!("is a section: write [{name}], and its options below");
                    return Err(ConfigError::new(place, Some(name.into()), what));
                };
                self.section(name, table, &at)?;
            } else {
                let sections = self.config.sections().map(|(section, _)| section.to_owned());
                let lists = LISTS.map(str::to_owned);
                let what = unknown(name, sections.into_iter().chain(lists).chain(self.names(".")));
                return Err(ConfigError::new(place, Some(name.into()), what));
            }
        }
        Ok(())
    }

    /// Lays variables over what there is: `TIDEGATE_SECTION__KEY` for `section.key`, `TIDEGATE_STREAMS` and
    /// `TIDEGATE_TOPICS` for the lists, as TOML. Others are passed over, unless their name starts with `TIDEGATE_`.
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        let mut variables: Vec<_> = variables.into_iter().collect();
        // The system gives them in no order; the mistake that is told shall be the same each time.
        variables.sort();
        for (variable, text) in variables {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            if OTHER_VARIABLES.contains(&variable.as_str()) || is_made_by_an_orchestrator(name) {
                continue;
            }
            let place = Place::Variable(variable.clone());
            let name = name.to_ascii_lowercase();
            if LISTS.contains(&name.as_str()) {
                let value = DeValue::parse(&text).map_err(|error| {
                    ConfigError::new(place.clone(), Some(name.clone()), one_line(error.message()))
                })?;
                self.list(&name, value.get_ref(), &place, &|_| place.clone())?;
                continue;
            }
            let option = name.replacen("__", ".", 1);
            self.option(place, &option, &Raw::Text(&text)).map_err(|mut error| {
                if error.option.is_none() {
                    let lists = LISTS.map(str::to_owned);
                    error.what = match nearest(&name, self.names("__").chain(lists)) {
                        Some(other) => {
                            format!("not known; did you mean {PREFIX}{}?", other.to_ascii_uppercase())
                        }
                        None => "not known".into(),
                    };
                }
                error
            })?;
        }
        Ok(())
    }

    /// Lays one value over what there is: what the command line's `flag` says of `option` (`section.key`).
    pub fn flag(&mut self, flag: &str, option: &str, text: &str) -> Result<(), ConfigError> {
        self.option(Place::Flag(flag.into()), option, &Raw::Text(text))
    }

    /// What came of it, where it [holds](Config::check).
    pub fn finish(self) -> Result<Config, ConfigError> {
        match self.config.check() {
            Ok(()) => Ok(self.config),
            Err(Mistake { option, what }) => {
                Err(ConfigError::new(self.place_of(&option), Some(option), what))
            }
        }
    }

    fn option(&mut self, place: Place, option: &str, raw: &Raw<'_>) -> Result<(), ConfigError> {
        let target = option.split_once('.').and_then(|(section, key)| {
            self.config.section_mut(section).and_then(|section| section.set(key, raw))
        });
        match target {
            None => Err(ConfigError::new(place, None, format!("{option} is not an option"))),
            Some(Err(what)) => Err(ConfigError::new(place, Some(option.into()), what)),
            Some(Ok(())) => {
                self.places.insert(option.to_owned(), place);
                Ok(())
            }
        }
    }

    fn section(
        &mut self,
        name: &str,
        table: &DeTable<'_>,
        at: &dyn Fn(usize) -> Place,
    ) -> Result<(), ConfigError> {
        let Some(section) = self.config.section_mut(name) else {
            return Ok(());
        };
        fill(section, name, table, at, &mut self.places)
    }

    /// Takes the place of the whole list: what a file says of streams is all there is to say.
    fn list(
        &mut self,
        name: &str,
        value: &DeValue<'_>,
        place: &Place,
        at: &dyn Fn(usize) -> Place,
    ) -> Result<(), ConfigError> {
        self.places.retain(|option, _| !option.starts_with(name));
        self.places.insert(name.to_owned(), place.clone());
        let tables = value.as_array().and_then(|entries| {
            entries
                .iter()
                .map(|entry| Some((at(entry.span().start), entry.get_ref().as_table()?)))
                .collect::<Option<Vec<_>>>()
        });
        let Some(tables) = tables else {
            let what =
                format!("is a list of tables: write [[{name}]] above each entry, or {name} = [] for none");
            return Err(ConfigError::new(place.clone(), Some(name.into()), what));
        };
        match name {
            "streams" => {
                self.config.streams = entries::<Stream>(name, "name", &tables, at, &mut self.places)?
            }
            _ => self.config.topics = entries::<TopicRule>(name, "filter", &tables, at, &mut self.places)?,
        }
        Ok(())
    }

    /// The nearest place an option was set at: its own, else its list's entry's, else its list's.
    fn place_of(&self, option: &str) -> Place {
        let mut name = option;
        loop {
            if let Some(place) = self.places.get(name) {
                return place.clone();
            }
            match name.rfind(['.', '[']) {
                Some(end) => name = &name[..end],
                None => return Place::Default,
            }
        }
    }

    /// Every option, as section and key with `joint` between them.
    fn names(&self, joint: &str) -> impl Iterator<Item = String> {
        self.config.sections().into_iter().flat_map(move |(name, section)| {
            section.options().into_iter().map(move |option| format!("{name}{joint}{}", option.key))
        })
    }
}

/// The entries of a list, each of which must say its `required` option.
fn entries<S: Section + Default>(
    list: &str,
    required: &str,
    tables: &[(Place, &DeTable<'_>)],
    at: &dyn Fn(usize) -> Place,
    places: &mut BTreeMap<String, Place>,
) -> Result<Vec<S>, ConfigError> {
    let mut entries = Vec::with_capacity(tables.len());
    for (i, (place, table)) in tables.iter().enumerate() {
        let name = format!("{list}[{i}]");
        let mut entry = S::default();
        fill(&mut entry, &name, table, at, places)?;
        if !table.keys().any(|key| key.get_ref() == required) {
            return Err(ConfigError::new(place.clone(), Some(name), format!("has no {required}")));
        }
        places.insert(name, place.clone());
        entries.push(entry);
    }
    Ok(entries)
}

fn fill(
    section: &mut dyn Section,
    name: &str,
    table: &DeTable<'_>,
    at: &dyn Fn(usize) -> Place,
    places: &mut BTreeMap<String, Place>,
) -> Result<(), ConfigError> {
    for (key, value) in in_order(table) {
        let place = at(key.span().start);
        let option = format!("{name}.{}", key.get_ref());
        match section.set(key.get_ref(), &Raw::Toml(value.get_ref())) {
            Some(Ok(())) => {
                places.insert(option, place);
            }
            Some(Err(what)) => return Err(ConfigError::new(place, Some(option), what)),
            None => {
                let keys = section.options().into_iter().map(|option| option.key.to_owned());
                return Err(ConfigError::new(place, Some(option), unknown(key.get_ref(), keys)));
            }
        }
    }
    Ok(())
}

/// A table's entries as they stand in the file; the parser sorts them by name.
fn in_order<'a, 'i>(
    table: &'a DeTable<'i>,
) -> Vec<(&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Kubernetes and Docker's links give each container variables for the services around it, and a service named
/// `tidegate` (or `tidegate-…`) makes them look like ours: `TIDEGATE_PORT_7400_TCP_ADDR`, `TIDEGATE_SERVICE_HOST`
/// (Kubernetes' documentation, "Environment variables" of the Service concept).
fn is_made_by_an_orchestrator(name: &str) -> bool {
    let ends_as_service = |tail: &str| {
        matches!(tail, "SERVICE_HOST" | "SERVICE_PORT" | "PORT" | "NAME")
            || tail.starts_with("SERVICE_PORT_")
            || tail.strip_prefix("PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    !name.contains("__")
        && (ends_as_service(name)
            || name
                .match_indices('_')
                .any(|(i, _)| ends_as_service(&name[i + 1..]) && &name[i + 1..] != "NAME"))
}

fn unknown(name: &str, known: impl Iterator<Item = String>) -> String {
    match nearest(name, known) {
        Some(other) => format!("not known; did you mean {other}?"),
        None => "not known".into(),
    }
}

/// The known name that was most likely meant; an option's key alone stands for it too.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let likeness = |other: String| {
        let key = other.rsplit("__").next().and_then(|key| key.rsplit('.').next()).unwrap_or(&other);
        (distance(name, &other).min(distance(name, key)), other)
    };
    let (distance, other) = known.map(likeness).min()?;
    // A third of the letters wrong is no slip of the finger any more.
    (distance <= name.len() / 3).then_some(other)
}

/// How many letters have to be put in, taken out or replaced to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

impl ConfigError {
    fn new(place: Place, option: Option<String>, what: String) -> Self {
        Self { place, option, what }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Default => {}
            Place::File { name, line } => write!(f, "{name}:{line}: ")?,
            Place::Variable(name) | Place::Flag(name) => write!(f, "{name}: ")?,
        }
        if let Some(option) = &self.option {
            write!(f, "{option}: ")?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn from_file(text: &str) -> Result<Config, String> {
        let mut loader = Loader::new();
        loader.file("t.toml", text).and_then(|()| loader.finish()).map_err(|error| error.to_string())
    }

    fn from_environment(variables: &[(&str, &str)]) -> Result<Config, String> {
        let mut loader = Loader::new();
        let variables = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        loader.environment(variables).and_then(|()| loader.finish()).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refused(result: Result<Config, String>) -> String {
        let text = result.expect_err("a mistake was let through");
        assert!(!text.contains('\n'), "more than one line: {text}");
        text
    }

    #[test]
    fn an_empty_file_and_environment_are_the_defaults() {
        assert_eq!(from_file(""), Ok(Config::default()));
        assert_eq!(from_environment(&[("PATH", "/bin"), ("HOME", "/")]), Ok(Config::default()));
    }

    #[test]
    fn each_later_source_has_the_last_word() {
        let mut loader = Loader::new();
        let text =
            "[server]\nshards = 1\nmax_connections = 10\nlisten = \"127.0.0.1:1\"\n[limits]\nerrors = 7";
        loader.file("t.toml", text).unwrap();
        let variables = [("SERVER__MAX_CONNECTIONS", "20"), ("SERVER__LISTEN", "127.0.0.1:2")];
        loader
            .environment(variables.map(|(name, text)| (format!("{PREFIX}{name}"), text.to_owned())))
            .unwrap();
        loader.flag("--listen", "server.listen", "127.0.0.1:3").unwrap();
        let config = loader.finish().unwrap();
        assert_eq!(config.server.shards, 1);
        assert_eq!(config.server.max_connections, 20);
        assert_eq!(config.server.listen.port(), 3);
        assert_eq!(config.limits.errors, 7);
        assert_eq!(config.memory, Config::default().memory);
    }

    #[test]
    fn every_kind_of_value_is_read_from_a_file() {
        let config = from_file(
            r#"
            streams = [{ name = "orders", filters = ["orders.>", "refunds"], max_age = "1d" }]
            topics = [{ filter = "chat.>", subscription_limit = 64 }]
            server.reconnect_window = ["1s", "20s"]
            server.allowed_origins = ["https://shop.example"]
            server.allow_anonymous_beyond_loopback = true
            websocket.flush_interval = "500us"
            limits.payload_bytes = 1_000
            limits.connection_bytes = "64 MiB"
            "#,
        )
        .unwrap();
        assert_eq!(config.server.reconnect_window, (Duration::from_secs(1), Duration::from_secs(20)));
        assert_eq!(config.server.allowed_origins, ["https://shop.example"]);
        assert!(config.server.allow_anonymous_beyond_loopback);
        assert_eq!(config.websocket.flush_interval, Duration::from_micros(500));
        assert_eq!((config.limits.payload_bytes, config.limits.connection_bytes), (1000, 64 << 20));
        let [orders] = &config.streams[..] else { panic!("{:?}", config.streams) };
        assert_eq!((orders.name.as_str(), orders.filters.len()), ("orders", 2));
        assert_eq!((orders.max_age, orders.max_bytes), (Duration::from_secs(86_400), 64 << 20));
        let [rule] = &config.topics[..] else { panic!("{:?}", config.topics) };
        assert_eq!((rule.subscription_limit, rule.subscription_limit_bytes), (Some(64), None));
    }

    #[test]
    fn an_empty_list_of_streams_turns_the_default_stream_off() {
        assert_eq!(from_file("streams = []").unwrap().streams, []);
        assert_eq!(from_environment(&[("TIDEGATE_STREAMS", "[]")]).unwrap().streams, []);
    }

    #[test]
    fn what_is_printed_loads_to_the_same_configuration() {
        let changed = from_file(
            r#"
            streams = [{ name = "default", max_age = "90s" }, { name = "o", filters = ["o.>", "$a.b"] }]
            topics = [{ filter = "a", subscription_limit_bytes = "2KiB" }, { filter = ">" }]
            [server]
            listen = "[::1]:0"
            allowed_origins = ["*", "http://[::1]:80"]
            [memory]
            outbox_bytes = 100_000_001
            "#,
        )
        .unwrap();
        for config in [Config::default(), changed, Config { streams: Vec::new(), ..Config::default() }] {
            assert_eq!(from_file(&config.to_toml()), Ok(config.clone()), "{}", config.to_toml());
        }
    }

    #[test]
    fn an_unknown_option_is_named_with_its_line_and_the_nearest_known_one() {
        assert_eq!(
            refused(from_file("[limits]\n\npayload_byte = 1")),
            "t.toml:3: limits.payload_byte: not known; did you mean payload_bytes?"
        );
        assert_eq!(refused(from_file("[limit]\n")), "t.toml:1: limit: not known; did you mean limits?");
        assert_eq!(refused(from_file("[clustering]\n")), "t.toml:1: clustering: not known");
        assert_eq!(
            refused(from_file("listen = 1")),
            "t.toml:1: listen: not known; did you mean server.listen?"
        );
        assert_eq!(
            refused(from_file("[[streams]]\nname = \"a\"\nfilter = [\"a\"]")),
            "t.toml:3: streams[0].filter: not known; did you mean filters?"
        );
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_its_line_and_what_was_wanted() {
        for (text, wanted) in [
            (
                "[websocket]\nping_interval = 30",
                "t.toml:2: websocket.ping_interval: 30 is not a duration such as \"250ms\", \"30s\" or \"2m\"",
            ),
            ("[server]\nshards = \"two\"", "t.toml:2: server.shards: \"two\" is not a whole number"),
            ("[server]\nshards = -1", "t.toml:2: server.shards: -1 is not a whole number"),
            (
                "[server]\nallow_anonymous_beyond_loopback = \"yes\"",
                "t.toml:2: server.allow_anonymous_beyond_loopback: \"yes\" is not true or false",
            ),
            (
                "[server]\nlisten = \"localhost\"",
                "t.toml:2: server.listen: \"localhost\" is not an address and a port such as \"127.0.0.1:7400\" \
                 or \"[::1]:7400\"",
            ),
            (
                "[limits]\npayload_bytes = \"64KB\"",
                "t.toml:2: limits.payload_bytes: \"64KB\" is not a number of bytes, \"64KiB\" or \"8MiB\"",
            ),
            (
                "\n[[streams]]\nname = \"a\"\nfilters = [\"a..b\"]",
                "t.toml:4: streams[0].filters: \"a..b\" is not a filter: a token is empty",
            ),
            ("[[streams]]\nfilters = [\"a\"]", "t.toml:1: streams[0]: has no name"),
            ("server = 1", "t.toml:1: server: is a section: write [server], and its options below"),
            (
                "streams = 1",
                "t.toml:1: streams: is a list of tables: write [[streams]] above each entry, or streams = [] \
                 for none",
            ),
        ] {
            assert_eq!(refused(from_file(text)), wanted);
        }
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_line() {
        let text = refused(from_file("[server]\nshards 3"));
        assert!(text.starts_with("t.toml:2: "), "{text}");
        let text = refused(from_file("[server]\nshards = 3\nshards = 4"));
        assert!(text.starts_with("t.toml:3: ") && text.contains("duplicate"), "{text}");
    }

    #[test]
    fn a_mistake_that_only_the_whole_shows_is_told_with_the_place_of_the_value() {
        let text = refused(from_file("[server]\n# for all\nlisten = \"0.0.0.0:7400\""));
        assert!(text.starts_with("t.toml:3: server.listen: 0.0.0.0:7400 is beyond loopback"), "{text}");
        let streams =
            "[[streams]]\nname = \"a\"\nfilters = [\"x\"]\n[[streams]]\nname = \"b\"\nfilters = [\"*\"]";
        let text = refused(from_file(streams));
        assert!(text.starts_with("t.toml:6: streams[1].filters: * overlaps with x"), "{text}");
        let text = refused(from_file("[[streams]]\nname = \"a\"\n"));
        assert!(text.starts_with("t.toml:1: streams[0].filters: "), "{text}");
        let text = refused(from_environment(&[("TIDEGATE_SERVER__LISTEN", "0.0.0.0:1")]));
        assert!(text.starts_with("TIDEGATE_SERVER__LISTEN: server.listen: 0.0.0.0:1 is beyond"), "{text}");
        let mut loader = Loader::new();
        loader.flag("--listen", "server.listen", "0.0.0.0:1").unwrap();
        let text = loader.finish().unwrap_err().to_string();
        assert!(text.starts_with("--listen: server.listen: "), "{text}");
    }

    #[test]
    fn an_unknown_variable_is_named_and_the_command_lines_own_are_not() {
        assert_eq!(
            refused(from_environment(&[("TIDEGATE_LIMITS__PAYLOAD_BYTE", "1")])),
            "TIDEGATE_LIMITS__PAYLOAD_BYTE: not known; did you mean TIDEGATE_LIMITS__PAYLOAD_BYTES?"
        );
        assert_eq!(
            refused(from_environment(&[("TIDEGATE_LISTEN", "127.0.0.1:1")])),
            "TIDEGATE_LISTEN: not known; did you mean TIDEGATE_SERVER__LISTEN?"
        );
        assert_eq!(refused(from_environment(&[("TIDEGATE_FOO", "1")])), "TIDEGATE_FOO: not known");
        assert_eq!(
            refused(from_environment(&[("TIDEGATE_SERVER__SHARDS", "x")])),
            "TIDEGATE_SERVER__SHARDS: server.shards: \"x\" is not a whole number"
        );
        let known = OTHER_VARIABLES.map(|name| (name, "anything"));
        assert_eq!(from_environment(&known), Ok(Config::default()));
    }

    #[test]
    fn variables_that_an_orchestrator_makes_of_a_service_named_tidegate_are_passed_over() {
        let made = [
            "TIDEGATE_SERVICE_HOST",
            "TIDEGATE_SERVICE_PORT",
            "TIDEGATE_SERVICE_PORT_HTTP",
            "TIDEGATE_PORT",
            "TIDEGATE_PORT_7400_TCP",
            "TIDEGATE_PORT_7400_TCP_ADDR",
            "TIDEGATE_METRICS_SERVICE_HOST",
            "TIDEGATE_METRICS_PORT_9000_TCP_PROTO",
        ];
        assert_eq!(from_environment(&made.map(|name| (name, "tcp://10.0.0.1:7400"))), Ok(Config::default()));
        for ours in ["TIDEGATE_PORTS", "TIDEGATE_SERVER__PORT", "TIDEGATE_REPORT"] {
            let text = refused(from_environment(&[(ours, "1")]));
            assert!(text.starts_with(&format!("{ours}: not known")), "{text}");
        }
    }
}
