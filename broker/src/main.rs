//! The binary `tidegate`: a thin shell around [`tidegate::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::cli::run(std::env::args_os())
}
