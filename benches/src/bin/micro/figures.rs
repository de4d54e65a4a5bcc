//! The checked-in figures, and what a difference from them means.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use serde::Deserialize;

use crate::{
    counter::Counter,
    loops::{LOOPS, Loop},
};

/// The file.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Figures {
    /// How far a count may lie from its figure.
    tolerance_percent: f64,
    /// What compiled the loops, and what counted: another one gives other counts.
    rustc: String,
    valgrind: String,
    loops: BTreeMap<String, Figure>,
}

#[derive(Debug, Clone, Copy, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Figure {
    /// Of one iteration.
    instructions: f64,
    /// How far counts under other hash seeds lay apart.
    noise_percent: f64,
}

/// What a count means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    Better,
    Worse,
}

/// In a new file.
const TOLERANCE_PERCENT: f64 = 5.0;
/// A loop of thirty instructions may gain one for no reason of ours.
const TOLERANCE_INSTRUCTIONS: f64 = 3.0;
/// Hash seeds that an update tries.
const SEEDS: usize = 5;

/// Holds what the loops cost now against the file at `path`. False where something is worse.
///
/// # Errors
/// The file cannot be read or is not about these loops, or something cannot be counted.
pub fn check(path: &Path) -> io::Result<bool> {
    let figures = read(path)?;
    let here = versions()?;
    let mut worse = Vec::new();
    let mut better = Vec::new();
    println!("{:<28} {:>12} {:>12} {:>8}", "user instructions", "figure", "now", "change");
    for (found, count) in LOOPS.iter().zip(count_all(1)?) {
        let (figure, now) = (figures.loops[found.name].instructions, median(&count));
        let verdict = Verdict::of(figure, now, figures.tolerance_percent);
        let note = match verdict {
            Verdict::Same => "",
            Verdict::Better => {
                better.push(found.name);
                "  better"
            }
            Verdict::Worse => {
                worse.push(found.name);
                "  WORSE"
            }
        };
        let change = 100.0 * (now / figure - 1.0);
        println!("{:<28} {figure:>12.1} {now:>12.1} {change:>+7.1}%{note}", found.name);
    }
    let tolerance = figures.tolerance_percent;
    if !better.is_empty() {
        println!("\nmore than {tolerance}% better: {}", better.join(", "));
        println!("so that it is not lost again, update the figures: scripts/instructions --update");
    }
    if !worse.is_empty() {
        eprintln!("\nFAILED: more than {tolerance}% worse: {}", worse.join(", "));
        eprintln!(
            "find the cost: benches/README.md says how; if it is wanted: scripts/instructions --update"
        );
    }
    if (!worse.is_empty() || !better.is_empty()) && here != (figures.rustc.clone(), figures.valgrind.clone())
    {
        eprintln!(
            "the figures were made by {} and {}; here are {} and {}, which may be the reason",
            figures.rustc, figures.valgrind, here.0, here.1
        );
    }
    Ok(worse.is_empty())
}

/// Writes the file at `path` from what the loops cost now. False where a loop is too noisy for the tolerance.
///
/// # Errors
/// Something cannot be counted, or the file cannot be written.
pub fn update(path: &Path) -> io::Result<bool> {
    let tolerance_percent =
        if path.exists() { parse(&fs::read_to_string(path)?)?.tolerance_percent } else { TOLERANCE_PERCENT };
    let (rustc, valgrind) = versions()?;
    let figures = LOOPS.iter().zip(count_all(SEEDS)?).map(|(found, counts)| {
        let instructions = median(&counts);
        let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
        let most = counts.iter().copied().fold(0.0, f64::max);
        let noise_percent = 100.0 * (most - least) / instructions;
        (found.name.to_owned(), Figure { instructions, noise_percent })
    });
    let figures = Figures { tolerance_percent, rustc, valgrind, loops: figures.collect() };
    fs::write(path, figures.to_toml())?;
    let mut fits = true;
    for (name, figure) in &figures.loops {
        println!("{name:<28} {:>12.1}  noise {:.2}%", figure.instructions, figure.noise_percent);
        if figure.noise_percent > tolerance_percent / 2.0 {
            fits = false;
            eprintln!("{name}: its noise is more than half of the tolerance: it would fail by chance");
        }
    }
    Ok(fits)
}

/// The figures, which are of exactly the loops there are.
fn read(path: &Path) -> io::Result<Figures> {
    let figures = parse(&fs::read_to_string(path)?)?;
    let missing = LOOPS.iter().find(|found| !figures.loops.contains_key(found.name));
    if let Some(Loop { name, .. }) = missing {
        return Err(io::Error::other(format!("{name} has no figure: scripts/instructions --update")));
    }
    let unknown = figures.loops.keys().find(|name| LOOPS.iter().all(|found| found.name != name.as_str()));
    match unknown {
        Some(name) => Err(io::Error::other(format!("{name} is no loop: scripts/instructions --update"))),
        None => Ok(figures),
    }
}

fn parse(text: &str) -> io::Result<Figures> {
    toml::from_str(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The counts of every loop, under so many seeds each; on as many threads as there are cores.
fn count_all(seeds: usize) -> io::Result<Vec<Vec<f64>>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(found) = LOOPS.get(at / seeds) else { return io::Result::Ok(done) };
            let count = Counter::Callgrind
                .instructions(found, at % seeds)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", found.name)))?;
            done.push((at / seeds, count));
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect()
    });
    let mut counts = vec![Vec::with_capacity(seeds); LOOPS.len()];
    for part in parts {
        part?.into_iter().for_each(|(at, count)| counts[at].push(count));
    }
    Ok(counts)
}

fn median(counts: &[f64]) -> f64 {
    let mut sorted = counts.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Of the compiler and of valgrind.
fn versions() -> io::Result<(String, String)> {
    let first_words = |program: &str, words: usize| {
        let output = Command::new(program)
            .arg("--version")
            .output()
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        io::Result::Ok(text.split_whitespace().take(words).collect::<Vec<_>>().join(" "))
    };
    Ok((first_words("rustc", 2)?, first_words("valgrind", 1)?))
}

impl Verdict {
    fn of(figure: f64, now: f64, tolerance_percent: f64) -> Self {
        let tolerance = (figure * tolerance_percent / 100.0).max(TOLERANCE_INSTRUCTIONS);
        match now - figure {
            change if change > tolerance => Self::Worse,
            change if change < -tolerance => Self::Better,
            _ => Self::Same,
        }
    }
}

impl Figures {
    fn to_toml(&self) -> String {
        let mut text = format!(
            "# User instructions of one iteration of each loop of `micro`: scripts/instructions checks them and, with\n\
             # --update, writes them. By callgrind, built with the profile `quick`. `noise_percent` is how far the\n\
             # counts under {SEEDS} different hash seeds lay apart; nothing else varies.\n\
             # A count within {TOLERANCE_INSTRUCTIONS} instructions is never told.\n\
             tolerance_percent = {:.1}\nrustc = {:?}\nvalgrind = {:?}\n\n[loops]\n",
            self.tolerance_percent, self.rustc, self.valgrind
        );
        for (name, Figure { instructions, noise_percent }) in &self.loops {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{name:?} = {{ instructions = {instructions:.1}, noise_percent = {noise_percent:.2} }}"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_tolerance_is_a_regression_or_an_improvement_and_within_it_is_noise() {
        assert_eq!(Verdict::of(1000.0, 1049.0, 5.0), Verdict::Same);
        assert_eq!(Verdict::of(1000.0, 1051.0, 5.0), Verdict::Worse);
        assert_eq!(Verdict::of(1000.0, 951.0, 5.0), Verdict::Same);
        assert_eq!(Verdict::of(1000.0, 949.0, 5.0), Verdict::Better);
    }

    #[test]
    fn a_few_instructions_more_of_a_short_loop_are_noise() {
        assert_eq!(Verdict::of(30.0, 33.0, 5.0), Verdict::Same);
        assert_eq!(Verdict::of(30.0, 34.0, 5.0), Verdict::Worse);
    }

    #[test]
    fn what_an_update_writes_reads_back() {
        let figure = Figure { instructions: 703.5, noise_percent: 0.25 };
        let figures = Figures {
            tolerance_percent: 5.0,
            rustc: "rustc 1.95.0".into(),
            valgrind: "valgrind-3.19.0".into(),
            loops: [("log/append".into(), figure)].into(),
        };
        assert_eq!(parse(&figures.to_toml()).unwrap(), figures);
    }

    #[test]
    fn the_checked_in_figures_are_of_the_loops_there_are() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml");
        let figures = read(&path).unwrap();
        assert!(figures.loops.values().all(|figure| figure.instructions > 0.0));
        assert!(figures.loops.values().all(|figure| figure.noise_percent <= figures.tolerance_percent / 2.0));
    }
}
