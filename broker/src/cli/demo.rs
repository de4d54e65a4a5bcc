//! `tidegate demo`: broker, publishers and pages in one process.
//!
//! The publishers are clients of the Rust SDK and come over a real WebSocket, as an application's would. Each is a
//! file: what it simulates (seeded, without I/O) and how it is published.
//!
//! * [`chat`]: bots in two rooms, and a gauge whose log keeps only seconds.
//! * [`dashboard`]: a market of 400 prices, 10,000 updates a second.
//! * [`telemetry`]: 200 devices in eight cities, one of which floods.
//! * [`game`]: a lagoon with buoys, and bots that sail for them.
//! * [`pace`]: how many messages of a fixed rate are due.
//!
//! With nobody watching they all but rest: the report in a publish's ack says whether anybody is subscribed.

mod chat;
mod dashboard;
mod game;
mod pace;
mod telemetry;

use std::{
    convert::Infallible,
    fmt,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use tidegate_client::{Ack, Client, Filter, Options, Payload, PublishOptions};
use tokio::{runtime::Builder, task::JoinSet};

use super::{Failure, signals::Signals};
use crate::{
    config::{Config, Stream},
    server,
};

/// Run a broker with four small applications to try: chat, dashboard, telemetry, game
///
/// Broker, simulated publishers and pages run in this process, on loopback, and keep everything in memory. With no page
/// open they cost next to nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 stopped; 1 it failed; 2 a mistake in the flags, or a port that cannot be listened on."
)]
pub(super) struct Demo {
    /// Port of 127.0.0.1 to listen on; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 7400)]
    port: u16,
}

/// The worlds are the same at every start.
const SEED: u64 = 7400;

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = config(self.port)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start a runtime: {error}")))?;
        runtime.block_on(async {
            // Before anybody is told where to look: who reads that may stop it at once.
            let mut signals = Signals::catch().map_err(failed("signals"))?;
            let listener = server::bind(&config).map_err(|error| Failure::Mistake(error.to_string()))?;
            let address = listener.local_addr().map_err(failed("the listener"))?;
            say_where(address);
            let mut outcome = Ok(());
            let stopped = async {
                tokio::select! {
                    () = signals.recv() => {}
                    Err(failure) = publish(format!("ws://{address}/ws")) => outcome = Err(failure),
                }
            };
            server::run(listener, config, stopped).await.map_err(failed("the broker"))?;
            outcome
        })
    }
}

/// One line for a person, and for whoever started it with port 0.
fn say_where(address: SocketAddr) {
    // Nobody can be told that stderr is gone; the pages are served all the same.
    let _ = writeln!(
        io::stderr(),
        "tidegate demo: open http://{address}/demo/ (chat, dashboard, telemetry, game; stop with Ctrl-C)"
    );
}

/// Each application has the log that it needs; what needs none (prices, boats) is live only.
fn config(port: u16) -> Result<Config, Failure> {
    const MIB: u64 = 1 << 20;
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let mut config = Config { demo: true, ..Config::default() };
    config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // Nothing here outlives the process: who stops it shall not wait for open tabs.
    config.server.drain_timeout = Duration::from_secs(1);
    config.streams = vec![
        stream("chat", chat::ROOMS, minutes(24 * 60), 4 * MIB)?,
        stream("brief", chat::BRIEF, Duration::from_secs(15), MIB)?,
        // A few seconds of the flood: what the others said last is retained beside it.
        stream("fleet", telemetry::FLEET, minutes(60), MIB)?,
        stream("game", game::WORLD, minutes(60), MIB)?,
    ];
    Ok(config)
}

fn stream(name: &str, filter: &str, max_age: Duration, max_bytes: u64) -> Result<Stream, Failure> {
    let filter = Filter::parse(filter).map_err(failed(filter))?;
    Ok(Stream { name: name.into(), filters: vec![filter], max_age, max_bytes, ..Stream::default() })
}

/// Runs every publisher, on a connection of its own, until one fails.
async fn publish(url: String) -> Result<Infallible, Failure> {
    let mut publishers = JoinSet::new();
    publishers.spawn(chat::publish(connect(&url).await?, SEED));
    publishers.spawn(dashboard::publish(connect(&url).await?, SEED));
    publishers.spawn(telemetry::publish(connect(&url).await?, SEED));
    publishers.spawn(game::publish(connect(&url).await?, SEED));
    match publishers.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => Err(failed("a publisher")(error)),
        None => Err(Failure::Failed("there are no publishers".into())),
    }
}

async fn connect(url: &str) -> Result<Client, Failure> {
    let options = Options::new().client_name(concat!("tidegate-demo/", env!("CARGO_PKG_VERSION")));
    options.connect(url).await.map_err(failed(url))
}

/// Says whether anybody is subscribed to what was published, as its ack reports.
fn is_heard(ack: &Ack) -> bool {
    ack.report.as_ref().is_some_and(|report| report.matched > 0)
}

/// Publishes how far a publisher has come; whether anybody is subscribed to that.
async fn report(client: &Client, topic: &str, progress: &impl Serialize) -> Result<bool, Failure> {
    let options = PublishOptions::new().report(true);
    let ack = client.publish_with(topic, json(progress)?, options).await.map_err(failed(topic))?;
    Ok(is_heard(&ack))
}

fn json(value: &impl Serialize) -> Result<Payload, Failure> {
    Payload::to_json(value).map_err(failed("a payload"))
}

/// How often a publisher that nobody listens to looks whether somebody does.
const REST: Duration = Duration::from_millis(500);

fn failed<E: fmt::Display>(what: &str) -> impl Fn(E) -> Failure + use<'_, E> {
    move |error| Failure::Failed(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_valid_and_on_loopback() {
        let config = config(0).unwrap();
        config.check().unwrap();
        assert!(config.server.listen.ip().is_loopback());
    }
}
