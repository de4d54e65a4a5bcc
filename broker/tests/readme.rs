//! What the README shows is what the code does.

use std::process::Command;

use fixture::{Broker, Running};

mod fixture;

const README: &str = include_str!("../../README.md");
const PUBLISHER: &str = include_str!("../../client-sdk/rust/examples/publisher.rs");

/// The fenced blocks of this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let opening = format!("```{language}\n");
    README
        .split(opening.as_str())
        .skip(1)
        .map(|rest| rest.split_once("```").expect("a block ends").0)
        .collect()
}

#[test]
fn the_publisher_is_the_sdks_example() {
    assert_eq!(blocks("rust"), [PUBLISHER]);
}

/// Those that subscribe are stopped after the first message: it was published before, and they start in the past.
#[test]
fn every_command_does_what_it_says() {
    let broker = Broker::start();
    let commands: Vec<_> = blocks("sh")
        .into_iter()
        .flat_map(str::lines)
        .filter(|line| line.contains("cargo run --release -- "))
        .collect();
    assert!(commands.len() >= 3, "{commands:?}");
    for line in commands {
        // It runs until it is stopped, on a port that another test may have.
        if line.ends_with("-- demo") {
            Running::start(&["demo", "--port", "0"]).stderr.expect("/demo/");
            continue;
        }
        let mut command = line.replace("cargo run --release --", env!("CARGO_BIN_EXE_tidegate"));
        if command.contains(" sub ") {
            command.push_str(" --count 1");
        }
        let output =
            Command::new("sh").args(["-c", &command]).env("TIDEGATE_URL", broker.url()).output().unwrap();
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
