//! The files in `config/`, held against the code: a documented default that is not the default is a lie.

use std::{fs, path::PathBuf};

use tidegate::config::{Config, Loader};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn load(name: &str, text: &str) -> Config {
    let mut loader = Loader::new();
    loader.file(name, text).and_then(|()| loader.finish()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn tidegate_toml_is_what_config_print_writes_of_the_defaults() {
    let text = fs::read_to_string(directory().join("tidegate.toml")).unwrap();
    let printed = Config::default().to_toml();
    assert_eq!(text, printed, "write it anew: tidegate config print > config/tidegate.toml");
    assert_eq!(load("tidegate.toml", &text), Config::default());
}

#[test]
fn every_file_in_config_loads() {
    let files: Vec<_> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    for path in &files {
        load(&path.display().to_string(), &fs::read_to_string(path).unwrap());
    }
    for name in ["tidegate.toml", "development.toml", "production.toml"] {
        assert!(files.iter().any(|path| path.ends_with(name)), "{name} is missing");
    }
}

#[test]
fn examples_in_comments_load_too_once_their_hash_is_gone() {
    let printed = Config::default().to_toml();
    // A comment has a space after its hash, an example has none.
    let lines = printed.lines().map(|line| match line.strip_prefix('#') {
        Some(example) if !example.starts_with(' ') => example,
        _ => line,
    });
    let config = load("printed", &lines.collect::<Vec<_>>().join("\n"));
    assert_eq!((config.streams.len(), config.topics.len()), (2, 1));
}

/// The defaults that other documents state in words. Whoever changes one has to look for them there.
#[test]
fn the_documented_defaults_are_the_defaults() {
    let printed = Config::default().to_toml();
    for line in [
        "listen = \"127.0.0.1:7400\"",
        "allow_anonymous_beyond_loopback = false",
        "max_connections = 20000",
        "ping_interval = \"25s\"",
        "stall_timeout = \"30s\"",
        "payload_bytes = \"64KiB\"",
        "max_message_bytes = \"128KiB\"",
        "max_fragments = 1024",
        "subscription_limit = 16384",
        "subscription_limit_bytes = \"8MiB\"",
        "publish_window_messages = 1024",
        "publish_window_bytes = \"1MiB\"",
        "idempotency_window = \"2m\"",
        "flush_interval = \"0s\"",
        "reconnect_window = [\"0s\", \"5s\"]",
        "name = \"default\"",
        "max_age = \"2m\"",
        "max_bytes = \"64MiB\"",
        "retain_last_bytes = \"16MiB\"",
    ] {
        assert!(
            printed.lines().any(|printed| printed.split(" # ").next() == Some(line)),
            "not a default: {line}"
        );
    }
}
