//! Prints what is published under a filter (the first argument, `chat.>` if there is none), through reconnects.

use tidegate_client::{Client, Event, From};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = std::env::args().nth(1).unwrap_or_else(|| "chat.>".into());
    let client = Client::connect("ws://127.0.0.1:7400").await?;
    let mut messages = client.subscribe(filter).from(From::Last { n: 10, at: None }).await?;
    while let Some(event) = messages.recv().await {
        match event {
            Event::Message(message) => {
                println!("{} {}", message.topic, message.payload.as_str().unwrap_or("(binary)"));
            }
            Event::Gap(gap) => {
                eprintln!("missing: {:?} messages, {:?}", gap.count.or(gap.at_most), gap.reason)
            }
            Event::Resumed(_) => eprintln!("back, and nothing was lost"),
            Event::Reset(_) => eprintln!("the broker was restarted with a new log"),
        }
    }
    match messages.end_reason() {
        Some(reason) => Err(reason.to_string().into()),
        None => Ok(()),
    }
}
