//! Named loops over the broker's parts and over the whole path of a message. `time` gives nanoseconds; `count` gives
//! user instructions, which a busy machine does not change; `check` holds them against the figures that are checked in.
//!
//! # Layout
//!
//! * [`loops`]: what is measured; [`path`]: the loops through a whole shard.
//! * [`counter`]: how instructions are counted.
//! * [`figures`]: the checked-in file, and what a difference from it means.

mod counter;
mod figures;
mod loops;
mod path;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};

use counter::Counter;
use loops::{LOOPS, Loop};

/// Micro-benchmarks of the broker's parts.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists the loops.
    List,
    /// Runs one loop and prints nothing: for a profiler.
    Run {
        /// Which.
        name: String,
        /// How often.
        iterations: u64,
    },
    /// Prints nanoseconds an iteration: the median and the range of 9 samples.
    Time {
        /// Only loops whose name contains this.
        #[arg(default_value = "")]
        only: String,
    },
    /// Prints user instructions an iteration: by `perf stat` where it can count them, else by valgrind's callgrind.
    Count {
        /// Only loops whose name contains this.
        #[arg(default_value = "")]
        only: String,
    },
    /// Counts by callgrind and holds the counts against a file of figures.
    ///
    /// Exit codes: 0 nothing takes more than the tolerance beyond its figure; 1 something does, or could not be
    /// counted; 2 a mistake in the flags.
    Check {
        /// The file.
        #[arg(long)]
        figures: PathBuf,
        /// Writes the file instead: counts each loop several times and states the noise.
        #[arg(long)]
        update: bool,
    },
}

fn main() -> ExitCode {
    match Options::parse().command {
        Action::List => LOOPS.iter().for_each(|l| println!("{:<28} {}", l.name, l.what)),
        Action::Run { name, iterations } => {
            let Some(found) = LOOPS.iter().find(|l| l.name == name) else {
                eprintln!("no loop {name:?}; see `micro list`");
                return ExitCode::FAILURE;
            };
            run((found.build)(), iterations);
        }
        Action::Time { only } => {
            for found in LOOPS.iter().filter(|l| l.name.contains(&only)) {
                let [min, median, max] = nanoseconds(found);
                println!("{:<28} {median:>10.1} ns [{min:.1}-{max:.1}]", found.name);
            }
        }
        Action::Count { only } => {
            let counter = Counter::available();
            for found in LOOPS.iter().filter(|l| l.name.contains(&only)) {
                match counter.instructions(found, 0) {
                    Ok(count) => println!("{:<28} {count:>10.1} instructions", found.name),
                    Err(error) => return failed(found.name, error),
                }
            }
        }
        Action::Check { figures, update } => {
            let done = if update { figures::update(&figures) } else { figures::check(&figures) };
            match done {
                Ok(true) => {}
                Ok(false) => return ExitCode::FAILURE,
                Err(error) => return failed(&figures.display().to_string(), error),
            }
        }
    }
    ExitCode::SUCCESS
}

fn failed(what: &str, error: impl std::fmt::Display) -> ExitCode {
    eprintln!("{what}: {error}");
    ExitCode::FAILURE
}

/// Not inlined, so that a profiler sees set-up and loop apart.
#[inline(never)]
fn run(mut iteration: Box<dyn FnMut()>, iterations: u64) {
    for _ in 0..iterations {
        iteration();
    }
}

/// The least, the middle and the most of 9 samples of about 20 ms.
fn nanoseconds(found: &Loop) -> [f64; 3] {
    let mut iteration = (found.build)();
    let mut sample = |iterations: u64| {
        let start = Instant::now();
        for _ in 0..iterations {
            iteration();
        }
        start.elapsed().as_nanos() as f64
    };
    let mut iterations = 16;
    while sample(iterations) < 20e6 {
        iterations *= 2;
    }
    let mut samples: Vec<_> = (0..9).map(|_| sample(iterations) / iterations as f64).collect();
    samples.sort_by(f64::total_cmp);
    [samples[0], samples[4], samples[8]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_runs() {
        for found in LOOPS {
            run((found.build)(), found.iterations.min(100));
        }
    }

    #[test]
    fn no_two_loops_have_one_name() {
        let mut names: Vec<_> = LOOPS.iter().map(|l| l.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), LOOPS.len());
    }
}
