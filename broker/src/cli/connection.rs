//! How `pub` and `sub` reach a broker.

use clap::Args;
use tidegate_client::{Client, Options};
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
