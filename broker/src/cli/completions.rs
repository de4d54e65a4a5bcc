//! `tidegate completions SHELL`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure};

/// Print a script that completes commands, flags and values in a shell
///
/// For bash: tidegate completions bash > ~/.local/share/bash-completion/completions/tidegate
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tidegate", &mut script);
        super::print(&String::from_utf8_lossy(&script))
    }
}
