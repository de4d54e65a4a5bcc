//! How `pub`, `sub` and `bench` reach a broker.

use clap::Args;
use tidegate_client::{Client, ConnectionEvent, Options};
use tokio::runtime::{Builder, Runtime};

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct Connection {
    /// The broker's address
    #[arg(
        long,
        value_name = "URL",
        env = "TIDEGATE_URL",
        hide_env_values = true,
        default_value = "ws://127.0.0.1:7400/ws"
    )]
    url: String,
}

impl Connection {
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A first attempt that fails is told; a connection lost later comes back by itself.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let options = Options::new().client_name(concat!("tidegate-cli/", env!("CARGO_PKG_VERSION")));
        options.connect(&self.url).await.map_err(|error| Failure::Failed(format!("{}: {error}", self.url)))
    }
}

/// The client's task has a thread of its own: while a command waits for its terminal or a pipe, pings go on being
/// answered.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start a runtime: {error}")))
}

/// What a person is told while the connection is away; nothing of what ends the command anyway.
pub(super) fn notice(event: &ConnectionEvent) -> Option<String> {
    match event {
        ConnectionEvent::Disconnected { reason, .. } => {
            Some(format!("connection lost: {}", harmless(reason)))
        }
        ConnectionEvent::Connected { .. } => Some("connected again".into()),
        ConnectionEvent::Draining { .. } => Some("the broker is going; coming back to it".into()),
        ConnectionEvent::BooksDiffer { filter, told, had } => {
            Some(format!("the broker wrote {told} messages of {filter} and {had} came: reading them again"))
        }
        _ => None,
    }
}

/// What strangers say may hold a terminal's control sequences: they are shown, not obeyed.
pub(super) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_strangers_do_not_reach_the_terminal() {
        assert_eq!(harmless("a\tb\x1b[2J\n\u{9b}é"), "a\tb\\u{1b}[2J\\n\\u{9b}é");
    }
}
