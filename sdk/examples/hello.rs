//! Publishes one message and pulls what is new: the program in the project's README, whose tour makes `news`, `agency` and `alice`.
//!
//! `cargo run -p cubecast-sdk --example hello -- http://127.0.0.1:8000`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use cubecast_sdk::{Client, Error, PullOptions, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let addresses = std::env::args().skip(1);
    let client = Client::connect(addresses).await?;

    let agency = client.publisher("agency");
    let published = agency.publish("news", ["from Rust"]).await?;
    println!("published at offset {}", published.first_offset);

    let alice = client.subscriber("alice");
    let news = alice.subscribe("news", Start::Earliest).await?;
    let pulled = news.pull(PullOptions::new()).await?;
    let done = pulled.next_offset;
    for message in pulled {
        let text = String::from_utf8_lossy(&message.payload);
        println!("{}  {text}", message.offset);
    }
    news.acknowledge(done).await?;
    Ok(())
}
