//! Echoes WebSocket messages through the broker's own HTTP front, frame reader and connection, so that a conformance
//! suite (`scripts/autobahn.sh`) can speak to them: a broker is no echo server.
//!
//! `cargo run --example conformance_echo -- [PORT]` listens on 127.0.0.1 and prints the port. Its bounds are wider than
//! the broker's, for the suite's largest messages; nothing else differs.

#[path = "../tests/echo/mod.rs"]
mod echo;

use tidegate::websocket::ReaderLimits;

fn main() -> std::io::Result<()> {
    let port = match std::env::args().nth(1).map(|port| port.parse()) {
        None => 0,
        Some(Ok(port)) => port,
        Some(Err(error)) => return Err(std::io::Error::other(format!("PORT: {error}"))),
    };
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    println!("{}", listener.local_addr()?.port());
    // The suite sends 16 MiB in one message, and 4 MiB in fragments of 64 bytes.
    echo::serve(listener, ReaderLimits { max_message_bytes: 17 << 20, max_fragments: 70_000 })
}
