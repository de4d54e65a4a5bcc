//! Instructions that a server executes, where the machine has counters for them.
//!
//! `perf stat` counts: it attaches to the server's threads and is told over a pipe when to begin and when to stop, so
//! that nothing here needs more than a process of one's own. A machine without counters, or without perf, gives no
//! figure.

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// perf, attached. It counts between [`Counting::start`] and [`Counting::end`], and ends when this is dropped.
#[derive(Debug)]
pub struct Counting {
    perf: Child,
}

/// In user space and in the kernel.
const EVENTS: [&str; 2] = ["instructions:u", "instructions:k"];
/// What perf answers to each order, with the zero that ends it.
const ACK: &[u8] = b"ack\n\0";

impl Counting {
    /// Attaches to all threads these processes have by now. `None` where there is no perf, or nothing to attach to.
    pub fn attach(pids: &[u32]) -> Option<Self> {
        if pids.is_empty() {
            return None;
        }
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        let perf = Command::new("perf")
            .args(["stat", "--field-separator", ";", "--delay", "-1", "--control", "fd:0,1"])
            .args(["--event", &EVENTS.join(","), "--pid", &pids.join(",")])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        Some(Self { perf })
    }

    /// Counts from now on. `None` where perf could not attach.
    pub fn start(mut self) -> Option<Self> {
        self.order("enable\n")?;
        Some(self)
    }

    /// What was counted, in user space and in the kernel.
    pub fn end(mut self) -> Option<[u64; 2]> {
        self.order("disable\n")?;
        kill_process(Pid::from_child(&self.perf), Signal::INT).ok()?;
        let mut table = String::new();
        self.perf.stderr.take()?.read_to_string(&mut table).ok()?;
        counts(&table)
    }

    fn order(&mut self, order: &str) -> Option<()> {
        self.perf.stdin.as_mut()?.write_all(order.as_bytes()).ok()?;
        let mut answer = [0; ACK.len()];
        self.perf.stdout.as_mut()?.read_exact(&mut answer).ok()?;
        (answer == ACK).then_some(())
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// Reads perf's table: `count;unit;event;…` a line. `None` where one of the events was not counted.
fn counts(table: &str) -> Option<[u64; 2]> {
    let count = |event: &str| {
        table.lines().find_map(|line| {
            let mut fields = line.split(';');
            let count = fields.next()?;
            (fields.nth(1)? == event).then(|| count.parse().ok())?
        })
    };
    let [user, kernel] = EVENTS.map(count);
    Some([user?, kernel?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_in_the_order_of_the_events() {
        let table = "Events disabled\nEvents enabled\nEvents disabled\n\
                     7654321;;instructions:k;210000000;100.00;1.10;insn per cycle\n\
                     1234567;;instructions:u;210000000;100.00;;\n";
        assert_eq!(counts(table), Some([1_234_567, 7_654_321]));
    }

    #[test]
    fn a_machine_without_counters_gives_no_figure() {
        let table = "<not supported>;;instructions:u;0;100.00;;\n<not counted>;;instructions:k;0;0.00;;\n";
        assert_eq!(counts(table), None);
        assert_eq!(counts(""), None);
    }

    #[test]
    fn nothing_is_counted_without_a_process() {
        assert!(Counting::attach(&[]).is_none());
    }

    #[test]
    fn what_cannot_be_attached_to_gives_no_figure() {
        // Above the largest process id there is.
        let attached = Counting::attach(&[1 << 23]);
        assert_eq!(attached.and_then(Counting::start).and_then(Counting::end), None);
    }
}
