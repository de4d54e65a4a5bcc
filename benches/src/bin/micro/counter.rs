//! What counts user instructions: the difference between a run of 2N and one of N iterations, so that building the
//! state costs nothing.

use std::{env, io, process::Command};

use crate::loops::Loop;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub enum Counter {
    /// The processor's own counters.
    Perf,
    /// Valgrind. It stands for the same processor on every x86-64 machine with AVX2 and runs programs at the same
    /// addresses every time, so its counts can be compared between machines.
    Callgrind,
}

/// Under callgrind an iteration is some fifty times slower.
const PERF_FACTOR: u64 = 10;

impl Counter {
    /// Perf where it can count, else callgrind.
    pub fn available() -> Self {
        let perf = Command::new("perf").args(["stat", "-x,", "-e", "instructions:u", "true"]).output();
        match perf {
            Ok(output) if first_number(&output.stderr, "instructions").is_some() => Self::Perf,
            _ => Self::Callgrind,
        }
    }

    /// Of one iteration. Hash tables are seeded by addresses: each `seed` stands for other ones.
    ///
    /// # Errors
    /// The counter cannot be run, or says nothing that can be read.
    pub fn instructions(self, found: &Loop, seed: usize) -> io::Result<f64> {
        let iterations = match self {
            Self::Perf => PERF_FACTOR * found.iterations,
            Self::Callgrind => found.iterations,
        };
        let once = self.run(found.name, iterations, seed)?;
        let twice = self.run(found.name, 2 * iterations, seed)?;
        Ok((twice - once) / iterations as f64)
    }

    fn run(self, name: &str, iterations: u64, seed: usize) -> io::Result<f64> {
        let (tool, arguments, line) = match self {
            Self::Perf => ("perf", &["stat", "-x,", "-e", "instructions:u"][..], "instructions"),
            Self::Callgrind => {
                ("valgrind", &["--tool=callgrind", "--callgrind-out-file=/dev/null"][..], "Collected")
            }
        };
        // The environment lies on the stack, whose address goes into the seeds.
        let output = Command::new(tool)
            .args(arguments)
            .arg(env::current_exe()?)
            .args(["run", name, &iterations.to_string()])
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("SEED", "x".repeat(32 * seed))
            .output()
            .map_err(|error| io::Error::new(error.kind(), format!("{tool}: {error}")))?;
        first_number(&output.stderr, line)
            .filter(|_| output.status.success())
            .ok_or_else(|| io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// The last word of the first field of the first line with `word`: `1234,,instructions:u,…` of perf, where it says
/// `<not supported>,,…` if it cannot count; `==77== Collected : 1234` of callgrind.
fn first_number(output: &[u8], word: &str) -> Option<f64> {
    let output = String::from_utf8_lossy(output);
    let line = output.lines().find(|line| line.contains(word))?;
    line.split(',').next()?.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_what_the_tools_print() {
        assert_eq!(first_number(b"==7== \n==7== Collected : 20481\n", "Collected"), Some(20481.0));
        assert_eq!(first_number(b"12345,,instructions:u,99,100.00,,\n", "instructions"), Some(12345.0));
        assert_eq!(first_number(b"<not supported>,,instructions:u,0,100.00,,\n", "instructions"), None);
    }
}
