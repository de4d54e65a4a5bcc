//! The command line of `tidegate`: one file a subcommand.
//!
//! What a person did wrong is one line on stderr, which says what and where, and exit code 2; what failed is one
//! line and exit code 1.

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

mod bench;
mod completions;
mod config;
mod connection;
mod demo;
mod publish;
mod serve;
mod signals;
mod subscribe;

#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about = "A pub/sub message broker over WebSockets: every queue bounded, every loss told",
    long_about = None,
    after_help = "With no command, the broker runs: `tidegate` is `tidegate serve`.\n\n\
                  Exit codes: 0 done; 1 it failed; 2 a mistake in the flags, the environment or the configuration, \
                  or an address that cannot be listened on."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// What is logged on stderr: error, warn, info, debug, trace, off, or by module, such as
    /// `info,tidegate::session=debug` [default: info for serve, else warn]
    #[arg(long, global = true, value_name = "LEVEL", env = "TIDEGATE_LOG_LEVEL", hide_env_values = true)]
    log_level: Option<String>,
}

/// Each is described where its flags are.
#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Pub(publish::Publish),
    Sub(subscribe::Subscribe),
    Bench(bench::Bench),
    Demo(demo::Demo),
    /// Check or print the configuration
    // Else clap answers a missing subcommand with its whole help, which is no line that says what is wrong.
    #[command(subcommand, arg_required_else_help = false)]
    Config(config::Command),
    Completions(completions::Completions),
}

/// Why a command did not do what it was asked for. Its text is one line.
#[derive(Debug)]
enum Failure {
    /// A mistake of whoever called it: exit code 2.
    Mistake(String),
    /// It was tried, and failed: exit code 1.
    Failed(String),
    /// Whoever reads stdout is gone: nobody is there to be told.
    ClosedStdout,
}

/// Runs the command that `arguments` (the program's name first) and the environment ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse(arguments) {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let result = cli.start_log().and_then(|()| match cli.command {
        None => serve::Serve::default().run(),
        Some(Command::Serve(serve)) => serve.run(),
        Some(Command::Pub(publish)) => publish.run(),
        Some(Command::Sub(subscribe)) => subscribe.run(),
        Some(Command::Bench(bench)) => bench.run(),
        Some(Command::Demo(demo)) => demo.run(),
        Some(Command::Config(config)) => config.run(),
        Some(Command::Completions(completions)) => completions.run(),
    });
    match result {
        Ok(()) | Err(Failure::ClosedStdout) => ExitCode::SUCCESS,
        Err(failure @ Failure::Failed(_)) => report(&failure, 1),
        Err(failure @ Failure::Mistake(_)) => report(&failure, 2),
    }
}

/// Help and version are answered here, and a mistake is told in one line instead of clap's five.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let matches = Cli::command().try_get_matches_from(arguments);
    matches.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| {
        if error.use_stderr() {
            return report(&Failure::Mistake(in_one_line(&error)), 2);
        }
        // Whoever asked for help and has gone meanwhile needs none.
        let _ = error.print();
        ExitCode::SUCCESS
    })
}

/// What clap says before its usage, with the tip it may have.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let said = said.split("\n\nFor more information").next().unwrap_or_default();
    let words: Vec<&str> = said.split_whitespace().collect();
    let line = words.join(" ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}

fn report(failure: &Failure, code: u8) -> ExitCode {
    // Nobody can be told that stderr is gone.
    let _ = writeln!(io::stderr(), "tidegate: {failure}");
    ExitCode::from(code)
}

impl Cli {
    fn start_log(&self) -> Result<(), Failure> {
        let serves = matches!(self.command, None | Some(Command::Serve(_)));
        let level = self.log_level.as_deref().unwrap_or(if serves { "info" } else { "warn" });
        let filter = EnvFilter::builder()
            .parse(level)
            .map_err(|error| Failure::Mistake(format!("--log-level {level}: {error}")))?;
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistake(text) | Self::Failed(text) => f.write_str(text),
            Self::ClosedStdout => f.write_str("stdout is closed"),
        }
    }
}

/// Writes to stdout what is not a stream of messages.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)
}

impl Failure {
    fn stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedStdout,
            _ => Self::Failed(format!("cannot write to stdout: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
