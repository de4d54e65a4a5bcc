// What the documentation's examples run in: a broker of their own, on loopback, and a client of it. One hidden line
// before an example and one after it are all it takes:
//
//     # mod broker { include!("../tests/doc/broker.rs"); } broker::run(async |client, url| {
//     let ack = client.publish("chat.room1", "hello").await?;
//     # Ok(()) });

use std::{error::Error, time::Duration};

use tidegate::{config::Config, server::Server};
use tidegate_client::Client;
use tokio::{runtime, time::timeout};

/// No example takes this long unless it is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Gives `example` a client and the URL of the broker it is connected to.
pub fn run(example: impl AsyncFnOnce(Client, String) -> Result<(), Box<dyn Error>>) {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.server.shards = 1;
    let server = Server::start(config).unwrap();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let example = async {
        let client = Client::connect(server.url()).await?;
        example(client, server.url()).await
    };
    runtime.block_on(async { timeout(STUCK, example).await }).expect("the example ends").unwrap();
    // Its clients go with it: the broker has none to wait for.
    drop(runtime);
    server.stop().unwrap();
}
