//! `tidegate serve`.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use clap::Args;
use tokio::runtime::Builder;

use super::{Failure, config::File, signals::Signals};
use crate::server;

/// Run the broker until Ctrl-C or SIGTERM
///
/// With nothing configured it listens on loopback only, and keeps the last two minutes of every topic.
#[derive(Debug, Default, Args)]
#[command(
    after_help = "Exit codes: 0 stopped; 1 it failed; 2 a mistake in the flags, the environment or the \
                        configuration, or an address that cannot be listened on."
)]
pub(super) struct Serve {
    /// Address and port to listen on; port 0 takes any that is free [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,

    #[command(flatten)]
    config: File,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let listen = self.listen.map(|text| ("--listen", "server.listen", text));
        let config = self.config.load(listen)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start a runtime: {error}")))?;
        runtime.block_on(async {
            // Before anybody is told that it listens: who reads that may stop it at once.
            let mut signals =
                Signals::catch().map_err(|error| Failure::Failed(format!("signals: {error}")))?;
            let listener = server::bind(&config).map_err(|error| Failure::Mistake(error.to_string()))?;
            let address = listener.local_addr().map_err(|error| Failure::Failed(error.to_string()))?;
            say_where(address);
            server::run(listener, config, async move { signals.recv().await })
                .await
                .map_err(|error| Failure::Failed(error.to_string()))
        })
    }
}

/// One line for a person, and for whoever started it with port 0.
fn say_where(address: SocketAddr) {
    // Nobody can be told that stderr is gone; the broker serves all the same.
    let _ = writeln!(
        io::stderr(),
        "tidegate listening on http://{address} (WebSocket: ws://{address}/ws, stop with Ctrl-C)"
    );
}
