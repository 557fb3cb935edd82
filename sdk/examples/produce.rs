//! Publishes a hundred thousand messages as fast as they go, each exactly once and in order. Run `admin` first.
//!
//! `cargo run -p cubecast-sdk --example produce -- http://127.0.0.1:8000`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Instant;

use cubecast_sdk::{Client, Error, ProducerOptions};

const COUNT: u32 = 100_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
    let publisher = Client::connect([address]).await?.publisher("agency");
    let producer = publisher.producer("news", ProducerOptions::new());
    let begun = Instant::now();
    let mut last = None;
    for number in 0..COUNT {
        let receipt = producer.send(format!("message {number}")).await?;
        // To keep this short only the last is asked; an application that must know of each keeps all receipts.
        last = Some(receipt);
    }
    if let Some(last) = last {
        let appended = last.await?;
        println!(
            "{COUNT} messages up to offset {} in {:?}",
            appended.offset,
            begun.elapsed()
        );
    }
    Ok(())
}
