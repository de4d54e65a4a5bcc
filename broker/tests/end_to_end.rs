//! The product's main job, with the real binary: one publisher, several readers, one of them stopped.

#![cfg(feature = "cli")]

mod fixture;

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Stdio},
    thread,
};

use fixture::{Broker, command, json, tidegate_reading};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const COUNT: u64 = 100_000;

/// However long the publishing takes, a reader that is stopped meanwhile is not hung up on, and the log lets go of
/// nothing for its age.
const PATIENT: &str = "[websocket]\nping_interval = \"1h\"\nstall_timeout = \"1h\"\n[[streams]]\nname = \"default\"\nmax_age = \"1h\"\n";

/// A `tidegate sub` that has subscribed.
struct Reader {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Reader {
    /// Starts one and waits until it says that it is subscribed.
    fn start(broker: &Broker, arguments: &[&str]) -> Self {
        let url = broker.url();
        let all = [&["sub", "numbers.test", "--url", &url], arguments].concat();
        let mut child = command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        if arguments.contains(&"--json") {
            out.read_line(&mut line).unwrap();
        } else {
            said.read_line(&mut line).unwrap();
        }
        assert!(line.contains("subscribed"), "{line:?}");
        thread::spawn(move || said.lines().for_each(drop));
        Self { child, lines: out.lines() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// All it printed, once it has ended by itself.
    fn finish(mut self) -> Vec<String> {
        let lines = self.lines.map(Result::unwrap).collect();
        assert!(self.child.wait().unwrap().success());
        lines
    }
}

fn publish(broker: &Broker, arguments: &[&str], input: &str) {
    let url = broker.url();
    let all = [&["pub", "numbers.test", "--url", &url], arguments].concat();
    let output = tidegate_reading(&all, input.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// So many bytes a line that no kernel buffer holds them all.
fn padded(n: u64) -> String {
    format!("{n:0200}")
}

fn numbers(line: impl Fn(&mut String, u64)) -> String {
    let mut input = String::new();
    (1..=COUNT).for_each(|n| line(&mut input, n));
    input
}

#[test]
fn three_readers_print_every_line_in_order_with_nothing_configured() {
    let broker = Broker::start();
    let readers = [(); 3].map(|()| Reader::start(&broker, &["--raw", "--count", "100000"]));
    publish(&broker, &["--lines"], &numbers(|input, n| writeln!(input, "{n}").unwrap()));
    for reader in readers {
        let lines = reader.finish();
        assert_eq!(lines.len() as u64, COUNT);
        assert!(lines.iter().zip(1..).all(|(line, n): (_, u64)| *line == n.to_string()));
    }
}

#[test]
fn a_reader_that_was_stopped_catches_up_and_prints_every_line_in_order() {
    let broker = Broker::configured(PATIENT);
    let stopped = Reader::start(&broker, &["--raw", "--overflow", "catch_up", "--count", "100000"]);
    let awake = Reader::start(&broker, &["--raw", "--count", "100000"]);
    stopped.signal(Signal::STOP);
    publish(&broker, &["--lines"], &numbers(|input, n| writeln!(input, "{}", padded(n)).unwrap()));
    // The one that reads has everything while the other has nothing.
    assert_eq!(awake.finish().len() as u64, COUNT);
    stopped.signal(Signal::CONT);
    let lines = stopped.finish();
    assert_eq!(lines.len() as u64, COUNT);
    assert!(lines.iter().zip(1..).all(|(line, n)| *line == padded(n)));
}

#[test]
fn a_reader_that_was_stopped_is_told_exactly_how_many_the_oldest_were() {
    let broker = Broker::configured(PATIENT);
    let stopped = Reader::start(&broker, &["--json", "--overflow", "drop_oldest"]);
    stopped.signal(Signal::STOP);
    publish(&broker, &["--lines"], &numbers(|input, n| writeln!(input, "{}", padded(n)).unwrap()));
    publish(&broker, &["end"], "");
    stopped.signal(Signal::CONT);
    let events = until_end(stopped);
    let (mut came, mut missing, mut last) = (0, 0, 0);
    for event in &events {
        match event["event"].as_str().unwrap() {
            "message" => {
                let n: u64 = event["payload"].as_str().unwrap().parse().unwrap();
                assert_eq!(n, last + 1, "a hole without a gap");
                (came, last) = (came + 1, n);
            }
            "gap" => {
                let (from, to) = (event["from"].as_u64().unwrap(), event["to"].as_u64().unwrap());
                assert_eq!((from, &event["count"]), (last + 1, &(to - from + 1).into()), "{event}");
                assert_eq!(event["policy"], "drop_oldest");
                (missing, last) = (missing + to - from + 1, to);
            }
            other => panic!("{other}"),
        }
    }
    assert!(missing > 0, "nothing was dropped: the kernel held it all");
    assert_eq!(came + missing, COUNT);
}

#[test]
fn a_reader_that_was_stopped_ends_on_the_newest_value_of_every_key() {
    let broker = Broker::configured(PATIENT);
    let stopped = Reader::start(&broker, &["--json", "--overflow", "latest"]);
    stopped.signal(Signal::STOP);
    let input = numbers(|input, n| writeln!(input, "key{}\t{}", n % 100, padded(n)).unwrap());
    publish(&broker, &["--lines", "--keyed"], &input);
    publish(&broker, &["end"], "");
    stopped.signal(Signal::CONT);
    let events = until_end(stopped);
    let (mut newest, mut came, mut merged) = (HashMap::new(), 0, 0);
    for event in &events {
        match event["event"].as_str().unwrap() {
            "message" => {
                let n: u64 = event["payload"].as_str().unwrap().parse().unwrap();
                let before = newest.insert(event["key"].as_str().unwrap().to_owned(), n);
                assert!(before.is_none_or(|before| before < n), "a key went back");
                came += 1;
            }
            "gap" => merged += event["count"].as_u64().unwrap(),
            other => panic!("{other}"),
        }
    }
    assert!(merged > 0, "nothing was merged: the kernel held it all");
    assert_eq!(came + merged, COUNT);
    for key in 0..100 {
        let expected = (1..=COUNT).rev().find(|n| n % 100 == key).unwrap();
        assert_eq!(newest.get(&format!("key{key}")), Some(&expected));
    }
}

/// What a reader printed before the message "end", on which it is ended.
fn until_end(reader: Reader) -> Vec<Value> {
    let Reader { mut child, lines } = reader;
    let events: Vec<Value> =
        lines.map(|line| json(&line.unwrap())).take_while(|e| e["payload"] != "end").collect();
    child.kill().unwrap();
    child.wait().unwrap();
    events
}
