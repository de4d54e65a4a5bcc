//! A topic of one Rust type: publishes prices and reads them back.

use serde::{Deserialize, Serialize};
use tidegate_client::{Client, Encoding, PublishOptions, TypedEvent};

#[derive(Debug, Serialize, Deserialize)]
struct Price {
    pair: String,
    bid: f64,
    ask: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect("ws://127.0.0.1:7400").await?;
    let topic = client.topic::<Price>("prices", Encoding::Json);
    let mut prices = topic.subscribe().await?;
    for (pair, bid) in [("EURUSD", 1.08), ("EURGBP", 0.85)] {
        let price = Price { pair: pair.into(), bid, ask: bid + 0.01 };
        topic.publish_with(&price, PublishOptions::new().key(pair)).await?;
    }
    for _ in 0..2 {
        match prices.recv().await {
            Some(TypedEvent::Message(message)) => println!("{:?}", message.value?),
            other => println!("{other:?}"),
        }
    }
    Ok(client.drain().await?)
}
