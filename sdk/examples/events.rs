//! Publishes a message every second and tells what happens meanwhile: kill a peer and see. Run `admin` first.
//!
//! `cargo run -p cubecast-sdk --example events -- http://127.0.0.1:8000 http://127.0.0.1:8001`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use cubecast_sdk::{Client, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let client = Client::connect(std::env::args().skip(1)).await?;
    let mut events = client.events();
    let publisher = client.publisher("agency");
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            Some(event) = events.next() => println!("{event}"),
            _ = second.tick() => {
                let published = publisher.publish("news", ["another second"]).await?;
                println!("offset {}", published.first_offset);
            }
        }
    }
}
