//! `tidegate bench`, by the real binary against a real broker: that it counts rightly, and that it would notice.
#![cfg(feature = "cli")]

use fixture::{Broker, Running, json, tidegate};
use rustix::process::Signal;
use serde_json::Value;
use tidegate_client::{Client, Event};

mod fixture;

/// Runs `bench` with `--json` against `broker`: its report, its exit code, and what it said.
#[track_caller]
fn bench(broker: &Broker, arguments: &[&str]) -> (Value, i32, String) {
    let url = broker.url();
    let mut all = vec!["bench"];
    all.extend(arguments);
    all.extend(["--url", &url, "--json"]);
    let output = tidegate(&all);
    let said = String::from_utf8(output.stderr).unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout.lines().count(), 1, "one object: {stdout} {said}");
    (json(&stdout), output.status.code().unwrap(), said)
}

/// A run without a fault: every subscriber got everything that was published.
#[track_caller]
fn assert_whole(report: &Value, subscribers: u64) {
    let published = report["published"].as_u64().unwrap();
    assert!(published > 0);
    assert_eq!(report["deliveries"], published * subscribers, "{report}");
    assert_eq!(report["latency_us"]["count"], published * subscribers);
    for none in ["missing", "doubled", "reordered", "foreign", "unacknowledged", "books_differ"] {
        assert_eq!(report[none], 0, "{none}: {report}");
    }
}

#[test]
fn fan_out_counts_every_delivery_of_several_publishers() {
    let arguments = ["fan-out", "--subscribers", "7", "--publishers", "3", "--seconds", "1"];
    let (report, code, said) = bench(&Broker::start(), &arguments);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_whole(&report, 7);
    assert!(report["deliveries_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!((&report["mode"], &report["payload_bytes"]), (&"fan-out".into(), &128.into()));
}

#[test]
fn latency_publishes_everything_that_was_due_however_late() {
    let arguments = [
        "latency",
        "--subscribers",
        "2",
        "--publishers",
        "2",
        "--rate",
        "300",
        "--seconds",
        "1",
        "--payload",
        "20",
    ];
    let (report, code, said) = bench(&Broker::start(), &arguments);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(report["published"], 300);
    assert_whole(&report, 2);
    let quantiles = &report["latency_us"];
    let [p50, p99, max] = ["p50", "p99", "max"].map(|name| quantiles[name].as_u64().unwrap());
    assert!(0 < p50 && p50 <= p99 && p99 <= max, "{quantiles}");
}

#[test]
fn a_storm_brings_every_client_back_with_nothing_missing() {
    let (report, code, said) = bench(&Broker::start(), &["storm", "--subscribers", "30", "--seconds", "30"]);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_whole(&report, 30);
    assert_eq!(report["reconnects"], 30);
    assert_eq!(report["storm"]["connected_us"]["count"], 30);
    assert_eq!(report["storm"]["back_us"]["count"], 30);
    assert_eq!(report["storm"]["not_back"], 0);
}

#[test]
fn stalled_subscribers_stand_beside_the_others_and_take_nothing_from_them() {
    // Far more than a socket holds.
    let arguments = [
        "latency",
        "--subscribers",
        "3",
        "--stalled",
        "2",
        "--rate",
        "400",
        "--payload",
        "30000",
        "--seconds",
        "1",
    ];
    let broker = Broker::start();
    let (report, code, said) = bench(&broker, &arguments);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!((&report["stalled"], &report["published"]), (&2.into(), &400.into()));
    assert_whole(&report, 3);
}

#[test]
fn what_clients_missed_while_they_were_away_voids_the_run() {
    // In no stream, nothing is kept for those who are away.
    let broker = Broker::configured("streams = []\n");
    let arguments = ["storm", "--subscribers", "20", "--rate", "2000", "--seconds", "30"];
    let (report, code, said) = bench(&broker, &arguments);
    assert_eq!(code, 1);
    assert_eq!(report["storm"]["not_back"], 0);
    let missing = report["missing"].as_u64().unwrap();
    assert!(missing > 0, "{report}");
    assert!(said.contains(&format!("the run is void: {missing} missing")), "{said}");
    assert_eq!(
        report["deliveries"].as_u64().unwrap() + missing,
        report["published"].as_u64().unwrap() * 20,
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_twice_voids_the_run() {
    let broker = Broker::start();
    let client = Client::connect(broker.url()).await.unwrap();
    let mut copier = client.subscribe("bench.copied").await.unwrap();
    let url = broker.url();
    let arguments = ["--subscribers", "2", "--topic", "bench.copied", "--rate", "100", "--seconds", "3600"];
    let mut run = Running::start(&[&["bench", "latency", "--url", &url, "--json"], &arguments[..]].concat());
    let Some(Event::Message(first)) = copier.recv().await else { panic!("no message") };
    client.publish("bench.copied", first.payload).await.unwrap();
    let last = client.publish("bench.copied", "of somebody else").await.unwrap().position.unwrap().offset;
    // Once a message of the run follows them, every subscriber that has all of the run has them too.
    loop {
        let Some(Event::Message(message)) = copier.recv().await else { panic!("no message") };
        if message.offset.unwrap() > last {
            break;
        }
    }
    run.signal(Signal::INT);
    let (lines, said, code) = tokio::task::spawn_blocking(move || {
        (run.stdout.rest(), run.stderr.rest().concat(), run.wait().code())
    })
    .await
    .unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the run is void: 2 doubled, 2 of another publisher"), "{said}");
    assert_eq!(json(&lines[0])["missing"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_publishing_and_what_was_found_is_told() {
    let broker = Broker::start();
    let client = Client::connect(broker.url()).await.unwrap();
    let mut watcher = client.subscribe("bench.watched").await.unwrap();
    let url = broker.url();
    let mut run =
        Running::start(&["bench", "latency", "--topic", "bench.watched", "--seconds", "3600", "--url", &url]);
    let message = watcher.recv().await;
    assert!(matches!(message, Some(Event::Message(_))));
    run.signal(Signal::INT);
    let (lines, code) =
        tokio::task::spawn_blocking(move || (run.stdout.rest(), run.wait().code())).await.unwrap();
    assert_eq!(code, Some(0));
    assert!(lines[0].starts_with(&format!("latency at {url}: 1 publishing 128 bytes to 100")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("missing 0 (told by gaps: 0), doubled 0")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains('█')), "{lines:?}");
}

#[test]
fn a_mistake_in_the_flags_is_one_line_and_exit_code_2() {
    for (arguments, said) in [
        (&["bench"][..], "subcommand"),
        (&["bench", "swim"], "unrecognized subcommand 'swim'"),
        (&["bench", "fan-out", "--payload", "19"], "19 is not in 20.."),
        (&["bench", "latency", "--rate", "0"], "0 is not in 1.."),
        (&["bench", "storm", "--subscribers", "0"], "0 is not in 1.."),
        (&["bench", "storm", "--topic", "a.*"], "'*' may not stand here"),
    ] {
        let output = tidegate(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(said) && text.lines().count() == 1, "{arguments:?}: {text}");
    }
}

#[test]
fn a_broker_that_cannot_be_reached_is_one_line_and_exit_code_1() {
    // Bound and not listening: nobody else takes the port, and nobody answers.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let url = format!("ws://{}/ws", socket.local_addr().unwrap().as_socket().unwrap());
    let output = tidegate(&["bench", "latency", "--url", &url]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with(&format!("tidegate: {url}: ")) && text.lines().count() == 1, "{text}");
}

#[test]
fn help_states_the_exit_codes() {
    for arguments in
        [&["bench", "--help"][..], &["bench", "fan-out", "--help"], &["bench", "storm", "--help"]]
    {
        let text = String::from_utf8(tidegate(arguments).stdout).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        assert!(words.join(" ").contains("Exit codes: 0 every subscriber got every message"), "{text}");
    }
}
