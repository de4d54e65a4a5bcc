//! Publishes three messages to `chat.room1` and says where they stand.

use std::collections::BTreeMap;

use tidegate_client::{Client, Payload};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect("ws://127.0.0.1:7400").await?;
    for text in ["hello", "from", "Rust"] {
        let payload = Payload::to_json(&BTreeMap::from([("text", text)]))?;
        let ack = client.publish("chat.room1", payload).await?; // in the stream, or an error
        println!("{text}: {:?}", ack.position);
    }
    Ok(client.drain().await?)
}
