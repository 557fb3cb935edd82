//! Publishes ten messages exactly once, whatever happens to the peers meanwhile. Run `admin` first.
//!
//! `cargo run -p cubecast-sdk --example publish -- http://127.0.0.1:8000`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use cubecast_sdk::{Client, Error, Message};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
    let publisher = Client::connect([address]).await?.publisher("agency");
    for number in 0..10 {
        let message = Message::new(format!("message {number}")).with_key("example");
        let published = publisher.publish("news", [message]).await?;
        println!(
            "offset {} stored by {}",
            published.first_offset,
            published.stored_by.join(", ")
        );
    }
    Ok(())
}
