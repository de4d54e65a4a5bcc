//! `tidegate config check` and `tidegate config print`, and how every command that needs a configuration loads it.

use std::{ffi::OsString, fs, path::PathBuf};

use clap::{Args, Subcommand};

use super::Failure;
use crate::config::{Config, Loader, load::PREFIX};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether the broker could start with this configuration
    ///
    /// Exit code 0 where it could, else 2 with one line that says what is wrong and where.
    Check(File),
    /// Print the whole effective configuration, with a comment above each option
    ///
    /// What is printed is a valid file: `tidegate config print > tidegate.toml` is a good beginning for one's own.
    Print(File),
}

#[derive(Debug, Default, Args)]
pub(super) struct File {
    /// The configuration, in TOML; what it leaves out stands at its default
    ///
    /// Variables of the environment have the last word over it: `TIDEGATE_SERVER__LISTEN` for `listen` in
    /// `[server]`, `TIDEGATE_STREAMS` and `TIDEGATE_TOPICS` for the lists, as TOML.
    #[arg(long = "config", value_name = "FILE", env = "TIDEGATE_CONFIG", hide_env_values = true)]
    path: Option<PathBuf>,
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check(file) => {
                file.load([])?;
                super::print("the configuration is valid\n")
            }
            Self::Print(file) => super::print(&file.load([])?.to_toml()),
        }
    }
}

impl File {
    /// Defaults < file < environment < `flags`, each a flag's name, the option it sets and its text.
    pub(super) fn load<'a>(
        &self,
        flags: impl IntoIterator<Item = (&'a str, &'a str, String)>,
    ) -> Result<Config, Failure> {
        let mut loader = Loader::new();
        if let Some(path) = &self.path {
            let name = path.display().to_string();
            let text = fs::read_to_string(path)
                .map_err(|error| Failure::Mistake(format!("{name}: cannot be read: {error}")))?;
            loader.file(&name, &text).map_err(mistake)?;
        }
        loader.environment(variables(std::env::vars_os())?).map_err(mistake)?;
        for (flag, option, text) in flags {
            loader.flag(flag, option, &text).map_err(mistake)?;
        }
        loader.finish().map_err(mistake)
    }
}

/// The variables that may be ours, as text.
fn variables(all: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, Failure> {
    let ours = all.into_iter().filter(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    ours.map(|(name, value)| match (name.into_string(), value.into_string()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        (Ok(name), Err(_)) => Err(Failure::Mistake(format!("{name}: not UTF-8"))),
        (Err(name), _) => Err(Failure::Mistake(format!("{}: not UTF-8", name.display()))),
    })
    .collect()
}

fn mistake(error: impl ToString) -> Failure {
    Failure::Mistake(error.to_string())
}
