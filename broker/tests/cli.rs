//! The command line, by the real binary: what it prints, what it reads and how it ends.
#![cfg(feature = "cli")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Output, Stdio},
};

use fixture::{Broker, Running, command, json, tidegate, tidegate_reading};
use rustix::process::Signal;
use serde_json::{Value, json};
use tidegate::config::{Config, Loader};

mod fixture;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The one line on stderr of a command that ended with `code`.
#[track_caller]
fn one_line(output: &Output, code: i32) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let line = text.strip_suffix('\n').expect("a line");
    assert!(!line.contains('\n'), "more than one line: {text}");
    assert_eq!(stdout(output), "", "a mistake is told on stderr");
    line.strip_prefix("tidegate: ").unwrap_or_else(|| panic!("not ours: {line}")).to_owned()
}

/// A file that is gone with the value.
fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

mod without_a_broker {
    use super::*;

    #[test]
    fn help_goes_to_stdout_and_states_the_exit_codes() {
        for arguments in [&["--help"][..], &["serve", "--help"], &["pub", "--help"], &["sub", "--help"]] {
            let output = tidegate(arguments);
            assert!(output.status.success());
            assert!(stdout(&output).contains("Exit codes: 0 "), "{arguments:?}");
            assert_eq!(stderr(&output), "");
        }
    }

    #[test]
    fn version_is_the_packages() {
        let output = tidegate(&["--version"]);
        assert_eq!(stdout(&output), format!("tidegate {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn a_mistake_in_the_flags_is_one_line_and_exit_code_2() {
        for (arguments, said) in [
            (&["swim"][..], "unrecognized subcommand 'swim'"),
            (&["serve", "--lisen", "127.0.0.1:0"], "a similar argument exists: '--listen'"),
            (
                &["serve", "--listen", "here"],
                "--listen: server.listen: \"here\" is not an address and a port",
            ),
            (&["serve", "--listen", "0.0.0.0:0"], "server.allow_anonymous_beyond_loopback = true"),
            (&["pub"], "<TOPIC>"),
            (&["pub", "a..b", "x"], "a token is empty"),
            (&["pub", "a.*", "x"], "'*' may not stand here"),
            (&["pub", "$sys.a", "x"], "the broker's own"),
            (&["pub", "a", "{", "--json"], "PAYLOAD: the payload is not one JSON value"),
            (&["pub", "a", "x", "--json", "--binary"], "cannot be used with"),
            (&["pub", "a", "no base64", "--binary"], "PAYLOAD: not base64"),
            (&["pub", "a", "x", "--lines"], "cannot be used with '--lines'"),
            (&["pub", "a", "--keyed"], "--lines"),
            (&["pub", "a", "x", "--header", "novalue"], "not NAME=VALUE"),
            (&["sub"], "<FILTER>"),
            (&["sub", "a.>.b"], "'>' may not stand here"),
            (&["sub", "a", "--from", "yesterday"], "not live, beginning"),
            (&["sub", "a", "--from", "since:30"], "is not a duration"),
            (&["sub", "a", "--overflow", "spill"], "not catch_up"),
            (&["sub", "a", "--for", "10"], "\"10\" is not a duration"),
            (&["sub", "a", "--raw", "--json"], "cannot be used with"),
            (&["config"], "subcommand"),
            (&["--log-level", "=,=", "config", "check"], "--log-level =,=: "),
            (&["completions", "tcsh-2"], "tcsh-2"),
        ] {
            let line = one_line(&tidegate(arguments), 2);
            assert!(line.contains(said), "{arguments:?}: {line}");
        }
    }

    #[test]
    fn a_mistake_in_the_configuration_is_one_line_with_its_place() {
        let file = file("[server]\nshards = 2\n\n[limits]\npayload_byte = 1\n");
        let path = file.path().to_str().unwrap();
        for arguments in [["serve", "--config", path].as_slice(), &["config", "check", "--config", path]] {
            assert_eq!(
                one_line(&tidegate(arguments), 2),
                format!("{path}:5: limits.payload_byte: not known; did you mean payload_bytes?")
            );
        }
        let line = one_line(&tidegate(&["config", "check", "--config", "/no/such.toml"]), 2);
        assert!(line.starts_with("/no/such.toml: cannot be read: "), "{line}");
    }

    #[test]
    fn a_mistake_in_the_environment_is_one_line_that_names_the_variable() {
        let output =
            command(&["config", "check"]).env("TIDEGATE_SERVER__LISTN", "127.0.0.1:0").output().unwrap();
        assert_eq!(
            one_line(&output, 2),
            "TIDEGATE_SERVER__LISTN: not known; did you mean TIDEGATE_SERVER__LISTEN?"
        );
        let output = command(&["config", "check"]).env("TIDEGATE_LIMITS__ERRORS", "few").output().unwrap();
        assert_eq!(
            one_line(&output, 2),
            "TIDEGATE_LIMITS__ERRORS: limits.errors: \"few\" is not a whole number"
        );
    }

    #[test]
    fn what_config_print_writes_is_a_file_with_the_effective_configuration() {
        let changed = file("streams = []\n[limits]\npayload_bytes = \"32KiB\"\nerrors = 7\n");
        let path = changed.path().to_str().unwrap();
        let output = command(&["config", "print", "--config", path])
            .env("TIDEGATE_LIMITS__ERRORS", "8")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let mut loader = Loader::new();
        loader.file("printed", &stdout(&output)).unwrap();
        let config = loader.finish().unwrap();
        assert_eq!((config.limits.payload_bytes, config.limits.errors), (32 << 10, 8));
        assert_eq!(config.streams, []);

        let again = file(&stdout(&output));
        let path = again.path().to_str().unwrap();
        assert_eq!(stdout(&tidegate(&["config", "print", "--config", path])), stdout(&output));
        let checked = tidegate(&["config", "check", "--config", path]);
        assert!(checked.status.success());
        assert_eq!(stdout(&checked), "the configuration is valid\n");
    }

    #[test]
    fn with_nothing_configured_config_print_writes_the_defaults() {
        assert_eq!(stdout(&tidegate(&["config", "print"])), Config::default().to_toml());
        let file = file("[server]\nshards = 3\n");
        let output = command(&["config", "print"]).env("TIDEGATE_CONFIG", file.path()).output().unwrap();
        assert!(stdout(&output).contains("\nshards = 3 "), "TIDEGATE_CONFIG names the file");
    }

    #[test]
    fn completions_are_scripts_that_know_the_subcommands() {
        for shell in ["bash", "zsh", "fish"] {
            let script = stdout(&tidegate(&["completions", shell]));
            for word in ["serve", "pub", "sub", "completions", "overflow"] {
                assert!(script.contains(word), "{shell}: no {word}");
            }
        }
        let syntax = Command::new("bash")
            .args(["-n", "-c", &stdout(&tidegate(&["completions", "bash"]))])
            .output()
            .expect("bash");
        assert!(syntax.status.success(), "{}", stderr(&syntax));
    }

    #[test]
    fn a_first_connect_that_fails_is_one_line_and_exit_code_1() {
        // Bound and not listening: nobody else takes the port, and nobody answers.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let url = format!("ws://{address}/ws");
        for arguments in [["pub", "a", "x"].as_slice(), &["sub", "a"]] {
            let line = one_line(&command(arguments).env("TIDEGATE_URL", &url).output().unwrap(), 1);
            assert!(line.contains(&url), "{line}");
        }
        let line = one_line(&tidegate(&["sub", "a", "--url", "not a url"]), 1);
        assert!(line.contains("not a url"), "{line}");
    }
}

mod serve {
    use super::*;

    #[test]
    fn it_says_where_it_listens_and_a_signal_ends_it() {
        for signal in [Signal::TERM, Signal::INT] {
            let mut broker = Running::start(&["serve", "--listen", "127.0.0.1:0"]);
            let line = broker.stderr.expect("listening on http://127.0.0.1:");
            assert!(!line.contains(":0 "), "the real port: {line}");
            broker.signal(signal);
            assert_eq!(broker.wait().code(), Some(0), "{signal:?}");
        }
    }

    #[test]
    fn no_subcommand_is_serve() {
        let mut child = command(&[]);
        let mut child =
            child.env("TIDEGATE_SERVER__LISTEN", "127.0.0.1:0").stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(line.contains("listening on http://127.0.0.1:"), "{line}");
    }

    #[test]
    fn a_second_broker_on_the_same_port_stops_with_one_line() {
        let broker = Broker::start();
        let address = broker.address().to_string();
        let line = one_line(&tidegate(&["serve", "--listen", &address]), 2);
        assert!(line.contains(&address), "{line}");
    }

    #[test]
    fn one_that_is_stopped_and_started_again_has_its_port_at_once() {
        let mut broker = Broker::start();
        let address = broker.address();
        assert!(broker.stop().success());
        assert_eq!(broker.restart().address(), address);
    }
}

/// `sub` that is known to be subscribed.
fn subscribed(broker: &Broker, arguments: &[&str]) -> Running {
    let url = broker.url();
    let mut all = vec!["sub", "--url", &url];
    all.extend(arguments);
    let mut sub = Running::start(&all);
    if arguments.contains(&"--json") {
        let first = json(&sub.stdout.next().expect("a line"));
        assert_eq!(first["event"], "subscribed", "{first}");
    } else {
        sub.stderr.expect("subscribed");
    }
    sub
}

#[track_caller]
fn publish(broker: &Broker, arguments: &[&str], stdin: &[u8]) -> Output {
    let url = broker.url();
    let mut all = vec!["pub", "--url", &url];
    all.extend(arguments);
    let output = tidegate_reading(&all, stdin);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    output
}

#[test]
fn json_shows_every_kind_of_payload_as_what_it_is() {
    let broker = Broker::start();
    let mut sub = subscribed(&broker, &["demo.*", "--json"]);
    publish(&broker, &["demo.text", "{not json}", "--key", "k", "--header", "a=1", "--header", "b=2"], b"");
    publish(&broker, &["demo.json", r#"{"n": 1.50, "s": "ü"}"#, "--json"], b"");
    publish(&broker, &["demo.binary", "/wA=", "--binary"], b"");
    publish(&broker, &["demo.stdin", "--binary"], b"\xff\n");
    publish(&broker, &["demo.whole"], b"two\nlines\n");
    let lines: Vec<Value> = sub.stdout.take(5).iter().map(|line| json(line)).collect();
    let parts =
        |line: &Value| [&line["event"], &line["topic"], &line["kind"], &line["payload"]].map(Value::clone);
    assert_eq!(parts(&lines[0]), ["message", "demo.text", "text", "{not json}"].map(Value::from));
    assert_eq!((&lines[0]["key"], &lines[0]["headers"]), (&json!("k"), &json!({"a": "1", "b": "2"})));
    assert_eq!(parts(&lines[1])[2..], [json!("json"), json!({"n": 1.50, "s": "ü"})]);
    assert_eq!(parts(&lines[2])[2..], [json!("binary"), json!("/wA=")]);
    assert_eq!(parts(&lines[3])[2..], [json!("binary"), json!("/wo=")]);
    assert_eq!(parts(&lines[4])[2..], [json!("text"), json!("two\nlines\n")]);
    let offsets: Vec<u64> = lines.iter().map(|line| line["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [1, 2, 3, 4, 5]);
    assert_eq!(lines[0]["filter"], "demo.*");
}

#[test]
fn raw_prints_payloads_alone() {
    let broker = Broker::start();
    let mut sub = subscribed(&broker, &["demo.a", "--raw"]);
    publish(&broker, &["demo.a", "one"], b"");
    publish(&broker, &["demo.b", "elsewhere"], b"");
    publish(&broker, &["demo.a", "[1]", "--json"], b"");
    assert_eq!(sub.stdout.take(2), ["one", "[1]"]);
}

#[test]
fn a_person_sees_topic_key_and_payload_and_no_control_sequence() {
    let broker = Broker::start();
    let mut sub = subscribed(&broker, &["demo.a"]);
    publish(&broker, &["demo.a", "red \x1b[31m", "--key", "k"], b"");
    publish(&broker, &["demo.a", "/wA=", "--binary"], b"");
    assert_eq!(sub.stdout.take(2), ["demo.a [k]: red \\u{1b}[31m", "demo.a: base64 /wA="]);
}

#[test]
fn each_line_is_a_message_and_all_come_in_order() {
    let broker = Broker::start();
    let count = 20_000;
    let mut sub = subscribed(&broker, &["numbers.test", "--raw", "--count", &count.to_string()]);
    let input: Vec<String> = (1..=count).map(|n| n.to_string()).collect();
    publish(&broker, &["numbers.test", "--lines"], input.join("\n").as_bytes());
    assert_eq!(sub.stdout.rest(), input);
    assert!(sub.wait().success(), "--count is reached");
}

#[test]
fn a_line_may_begin_with_its_key() {
    let broker = Broker::start();
    let mut sub = subscribed(&broker, &["prices", "--json"]);
    publish(&broker, &["prices", "--lines", "--keyed", "--json"], b"eur\t1.08\nusd\t1\n");
    let lines: Vec<Value> = sub.stdout.take(2).iter().map(|line| json(line)).collect();
    assert_eq!((&lines[0]["key"], &lines[0]["payload"]), (&json!("eur"), &json!(1.08)));
    assert_eq!((&lines[1]["key"], &lines[1]["payload"]), (&json!("usd"), &json!(1)));
}

#[test]
fn a_line_that_cannot_be_published_is_named() {
    let broker = Broker::start();
    let url = broker.url();
    let output = tidegate_reading(&["pub", "a", "--lines", "--json", "--url", &url], b"1\n{\n3\n");
    let line = one_line(&output, 1);
    assert!(line.starts_with("stdin: line 2: the payload is not one JSON value"), "{line}");
}

#[test]
fn a_payload_that_is_refused_is_exit_code_1() {
    let broker = Broker::configured("[limits]\npayload_bytes = 10\n");
    let line = one_line(&tidegate(&["pub", "a", "eleven bytes", "--url", &broker.url()]), 1);
    assert!(line.starts_with("not published to a: "), "{line}");
    let output =
        tidegate_reading(&["pub", "a", "--lines", "--url", &broker.url()], b"short\nmuch too long\nend\n");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stdin: line 2: "), "{said}");
    assert!(said.ends_with("2 of 3 messages were acknowledged: some were refused\n"), "{said}");
}

#[test]
fn a_message_that_several_filters_take_is_printed_once() {
    let broker = Broker::start();
    let mut sub = subscribed(&broker, &["chat.room1", "chat.*", ">", "--json", "--count", "3"]);
    publish(&broker, &["chat.room1", "a"], b"");
    publish(&broker, &["chat.room2", "b"], b"");
    publish(&broker, &["news", "c"], b"");
    let lines = sub.stdout.rest();
    let mut seen: Vec<_> = lines
        .iter()
        .map(|line| json(line))
        .map(|line| {
            (line["filter"].as_str().unwrap().to_owned(), line["payload"].as_str().unwrap().to_owned())
        })
        .collect();
    // Between two subscriptions there is no order.
    seen.sort();
    assert_eq!(seen, [(">", "c"), ("chat.*", "b"), ("chat.room1", "a")].map(|(f, p)| (f.into(), p.into())));
    assert!(sub.wait().success());
}

#[test]
fn from_says_where_to_start() {
    let broker = Broker::start();
    let report = |payload| stdout(&publish(&broker, &["log.a", payload, "--report"], b""));
    let first = report("1");
    assert!(first.ends_with("matched=0 queued=0 merged=0 dropped=0 behind=0\n"), "{first}");
    let position = first.split(' ').next().unwrap();
    report("2");
    report("3");
    let read = |from: &str, count: &str| {
        let url = broker.url();
        let output = tidegate(&["sub", "log.*", "--from", from, "--raw", "--count", count, "--url", &url]);
        assert!(output.status.success(), "{from}: {}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(read("beginning", "3"), "1\n2\n3\n");
    assert_eq!(read("last:1", "1"), "3\n");
    assert_eq!(read("since:1h", "3"), "1\n2\n3\n");
    assert_eq!(read(position, "2"), "2\n3\n");
}

#[test]
fn a_gap_stands_in_the_flow() {
    let broker = Broker::start();
    publish(&broker, &["log.a", "1"], b"");
    let mut sub = subscribed(&broker, &["log.a", "--from", "00000000000000ff:7", "--json", "--count", "1"]);
    let gap = json(&sub.stdout.next().unwrap());
    assert_eq!(
        (&gap["event"], &gap["reason"], &gap["filter"]),
        (&json!("gap"), &json!("epoch"), &json!("log.a"))
    );
    assert_eq!(gap["policy"], "catch_up");
    let rest = sub.stdout.rest();
    assert!(rest.iter().any(|line| json(line)["payload"] == "1"), "{rest:?}");
}

/// Subscribes with a stdout that nobody reads, publishes `count` messages and then "end", and only then reads: the
/// numbers of the messages that came, and how many the gaps told of.
fn read_late(broker: &Broker, overflow: &str, count: u64) -> (Vec<u64>, u64) {
    let url = broker.url();
    let mut sub =
        command(&["sub", "flood", "--json", "--overflow", overflow, "--limit", "16", "--url", &url])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
    let mut lines = BufReader::new(sub.stdout.take().unwrap()).lines().map(|line| json(&line.unwrap()));
    assert_eq!(lines.next().unwrap()["event"], "subscribed");
    let input: Vec<String> = (1..=count).map(|n| format!("{{\"n\":{n},\"pad\":\"{:400}\"}}", "")).collect();
    publish(broker, &["flood", "--lines", "--json"], input.join("\n").as_bytes());
    publish(broker, &["flood", "end"], b"");
    let (mut came, mut told) = (Vec::new(), 0);
    for line in lines {
        match line["event"].as_str().unwrap() {
            "message" if line["payload"] == "end" => break,
            "message" => came.push(line["payload"]["n"].as_u64().unwrap()),
            "gap" => told += line["count"].as_u64().expect("an exact count"),
            other => panic!("{other}"),
        }
    }
    sub.kill().unwrap();
    sub.wait().unwrap();
    (came, told)
}

#[test]
fn a_reader_that_falls_behind_is_told_of_every_message_it_does_not_get() {
    let (came, told) = read_late(&Broker::start(), "drop_oldest", 10_000);
    assert!(told > 0, "nothing was dropped: {} came", came.len());
    assert!(came.is_sorted_by(|a, b| a < b), "in order, none twice");
    assert_eq!(came.len() as u64 + told, 10_000);
}

#[test]
fn a_reader_that_catches_up_gets_everything() {
    let (came, told) = read_late(&Broker::start(), "catch_up", 10_000);
    assert_eq!(told, 0);
    assert_eq!(came, (1..=10_000).collect::<Vec<_>>());
}

#[test]
fn time_and_count_end_it() {
    let broker = Broker::start();
    let url = broker.url();
    let output = tidegate(&["sub", "quiet", "--for", "1ms", "--url", &url]);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = tidegate(&["sub", "quiet", "--for", "1ms", "--count", "2", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).ends_with("tidegate: 0 of 2 messages came in time\n"), "{}", stderr(&output));
}

#[test]
fn a_signal_ends_a_subscriber_with_all_it_was_given_printed() {
    let broker = Broker::start();
    for signal in [Signal::TERM, Signal::INT] {
        let mut sub = subscribed(&broker, &["demo.a", "--raw"]);
        publish(&broker, &["demo.a", "one"], b"");
        assert_eq!(sub.stdout.next().as_deref(), Some("one"), "flushed before it waits");
        sub.signal(signal);
        assert_eq!(sub.wait().code(), Some(0));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_complain() {
    let broker = Broker::start();
    let mut sub = command(&["sub", "demo.a", "--url", &broker.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(sub.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("subscribed"), "{line}");
    drop(sub.stdout.take());
    // A process that another test is just starting may hold the pipe's end for a moment, and what is written then is no error.
    let status = loop {
        publish(&broker, &["demo.a", "nobody reads this"], b"");
        if let Some(status) = sub.try_wait().unwrap() {
            break status;
        }
    };
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!((status.code(), rest.as_str()), (Some(0), ""));
}

#[test]
fn both_come_back_to_a_broker_that_was_restarted() {
    let broker = Broker::start();
    let mut sub = subscribed(&broker, &["numbers", "--json"]);
    let mut publisher = Running::start(&["pub", "numbers", "--lines", "--url", &broker.url()]);
    publisher.write(b"1\n");
    assert_eq!(json(&sub.stdout.next().unwrap())["payload"], "1");
    let _broker = broker.restart();
    sub.stderr.expect("connection lost");
    publisher.stderr.expect("connection lost");
    publisher.write(b"2\n");
    publisher.close_stdin();
    assert_eq!(publisher.wait().code(), Some(0), "acknowledged by the new broker");
    let mut events = Vec::new();
    while let Some(line) = sub.stdout.next() {
        let line = json(&line);
        events.push(line["event"].as_str().unwrap().to_owned());
        if line["payload"] == "2" {
            break;
        }
    }
    assert!(events.iter().any(|event| event == "reset"), "the log is a new one: {events:?}");
}
