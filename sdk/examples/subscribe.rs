//! Prints all messages of a topic as they come, each at least once, and goes on after a restart where it was. Run `admin` first.
//!
//! `cargo run -p cubecast-sdk --example subscribe -- http://127.0.0.1:8000`

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows what it does"
)]

use cubecast_sdk::{Client, Error, Start, StreamOptions};
use futures::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
    let reader = Client::connect([address]).await?.subscriber("reader");
    let news = reader.subscribe("news", Start::Earliest).await?;
    let mut messages = news.stream(StreamOptions::new());
    while let Some(message) = messages.next().await {
        match message {
            Ok(message) => println!(
                "{} {}",
                message.offset,
                String::from_utf8_lossy(&message.payload)
            ),
            Err(error) if error.is_transient() => eprintln!("trying on: {error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
