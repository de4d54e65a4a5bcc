//! The load generator must refuse every run in which a server lost, doubled, reordered or changed a message, or
//! that stopped: a generator that cannot fail proves nothing.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
};

/// A floor of its own for each test, on a port of its own.
struct Floor {
    process: Child,
    address: String,
}

impl Floor {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_floor"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("floor starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("floor says where it listens");
        let address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Self { process, address }
    }

    fn load(&self, scenario: &[&str]) -> Output {
        let pid = self.process.id().to_string();
        Command::new(env!("CARGO_BIN_EXE_load"))
            .args(scenario)
            .args(["--adapter", "floor", "--json", "--address", &self.address, "--pid", &pid])
            .output()
            .expect("load runs")
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ends by its deliveries, not by the clock.
const FAN_OUT: &[&str] = &[
    "fan-out",
    "--subscribers",
    "20",
    "--window",
    "32",
    "--burst",
    "16",
    "--warm-up",
    "0",
    "--seconds",
    "60",
    "--deliveries",
    "20000",
];

fn assert_void(fault: &str, why: &str) {
    let output = Floor::start(&["--fault", fault]).load(FAN_OUT);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{fault}: {stderr}");
    assert!(stderr.contains(why), "{fault}: {stderr}");
    assert!(output.stdout.is_empty(), "{fault}: a void run must give no figure");
}

#[test]
fn a_faultless_run_reports_every_delivery() {
    let output = Floor::start(&[]).load(FAN_OUT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: tidegate_benches::report::Report = serde_json::from_slice(&output.stdout).expect("a report");
    assert!(report.deliveries >= 20_000 && report.deliveries.is_multiple_of(20), "{report:?}");
    assert_eq!(report.wire_bytes, 132.0);
    assert!(report.server_cpu_us.is_some_and(|cpu| cpu > 0.0), "{report:?}");
}

#[test]
fn pairs_get_their_own_messages_only() {
    let output = Floor::start(&[]).load(&[
        "pairs",
        "--pairs",
        "50",
        "--window",
        "8",
        "--burst",
        "2",
        "--warm-up",
        "0",
        "--seconds",
        "60",
        "--deliveries",
        "5000",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn frames_are_as_large_as_asked_for() {
    let output = Floor::start(&["--frame-bytes", "190"]).load(FAN_OUT);
    let report: tidegate_benches::report::Report = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report.wire_bytes, 190.0);
}

#[test]
fn a_server_that_drops_a_message_is_caught() {
    assert_void("drop", "missing or reordered");
}

#[test]
fn a_server_that_doubles_a_message_is_caught() {
    assert_void("double", "doubled or late");
}

#[test]
fn a_server_that_reorders_messages_is_caught() {
    assert_void("reorder", "missing or reordered");
}

#[test]
fn a_server_that_changes_a_message_is_caught() {
    assert_void("corrupt", "nobody published");
}

#[test]
fn a_server_that_loses_the_last_message_is_caught() {
    let output = Floor::start(&["--fault", "drop"]).load(&[
        "fan-out",
        "--subscribers",
        "5",
        "--warm-up",
        "0",
        "--seconds",
        "60",
        "--stall-timeout",
        "0.2",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stalled"));
}
