//! What is compared: each kind of call, by one caller.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::ensure;
use bytes::Bytes;
use cubecast_sdk::proto::v1::peer_service_client::PeerServiceClient;
use cubecast_sdk::proto::v1::{Message, PublishRequest};
use cubecast_sdk::{AckLevel, Client, Published, Publisher};
use rustix::fs::FallocateFlags;
use tonic::transport::Channel;

use crate::load::Caller;

/// The payload of every message.
const PAYLOAD: [u8; 128] = [0x5a; 128];
/// As long as a segment of the write-ahead log.
const FILE_BYTES: u64 = 64 << 20;

/// Appends to a file and syncs it. When it is full, the next append begins at its start.
#[derive(Clone)]
pub struct AppendFile {
    file: Arc<File>,
    end: Arc<AtomicU64>,
}

impl AppendFile {
    /// An empty file: each append makes it longer.
    pub fn growing(path: &Path) -> anyhow::Result<Self> {
        let file = Arc::new(File::create_new(path)?);
        let end = Arc::default();
        Ok(Self { file, end })
    }

    /// A file whose blocks are reserved beforehand, as those of the write-ahead log are, so that a sync has less to do.
    pub fn reserved(path: &Path) -> anyhow::Result<Self> {
        let this = Self::growing(path)?;
        rustix::fs::fallocate(&this.file, FallocateFlags::empty(), 0, FILE_BYTES)?;
        this.file.sync_all()?;
        Ok(this)
    }
}

impl Caller for AppendFile {
    /// Blocks its thread, which has nothing else to do.
    async fn call(&mut self) -> anyhow::Result<()> {
        let end = self.end.fetch_add(PAYLOAD.len() as u64, Ordering::Relaxed) % FILE_BYTES;
        self.file.write_all_at(&PAYLOAD, end)?;
        self.file.sync_data()?;
        Ok(())
    }
}

/// Publishes through a generated client, which sends to the one peer that it is connected to.
#[derive(Clone)]
pub struct Generated {
    client: PeerServiceClient<Channel>,
    request: PublishRequest,
}

impl Generated {
    /// Publishes to this topic in nobody's name.
    pub fn new(client: PeerServiceClient<Channel>, topic: &str) -> Self {
        let message = Message {
            payload: Bytes::from_static(&PAYLOAD),
            ..Message::default()
        };
        let request = PublishRequest {
            topic: topic.to_owned(),
            messages: vec![message],
            ..PublishRequest::default()
        };
        Self { client, request }
    }
}

impl Caller for Generated {
    async fn call(&mut self) -> anyhow::Result<()> {
        let answer = self.client.publish(self.request.clone()).await?;
        ensure!(answer.get_ref().message_count == 1, "{answer:?}");
        Ok(())
    }
}

/// Publishes through the SDK in nobody's name.
pub struct Plain {
    client: Client,
    topic: String,
}

impl Plain {
    /// Publishes to this topic.
    pub fn new(client: &Client, topic: &str) -> Self {
        Self {
            client: client.clone(),
            topic: topic.to_owned(),
        }
    }
}

impl Caller for Plain {
    async fn call(&mut self) -> anyhow::Result<()> {
        check(&self.client.publish(&self.topic, [&PAYLOAD[..]]).await?)
    }
}

/// Publishes through the SDK in the name of a publisher of its own, so that nobody's messages are joined.
pub struct Named {
    publisher: Publisher,
    topic: String,
}

impl Named {
    /// Publishes to this topic.
    pub fn new(publisher: &Publisher, topic: &str) -> Self {
        Self {
            publisher: publisher.clone(),
            topic: topic.to_owned(),
        }
    }
}

impl Caller for Named {
    async fn call(&mut self) -> anyhow::Result<()> {
        check(&self.publisher.publish(&self.topic, [&PAYLOAD[..]]).await?)
    }
}

/// A publish counts when it is on a majority of disks. It may have arrived twice: the SDK asks a second peer when the first is slow.
fn check(published: &Published) -> anyhow::Result<()> {
    let is_good = published.message_count == 1 && published.reached >= AckLevel::Quorum;
    ensure!(is_good, "{published:?}");
    Ok(())
}

/// Creates topics through the SDK.
pub struct Create {
    client: Client,
}

/// Numbers topics, so that no name comes twice.
static CREATED: AtomicU64 = AtomicU64::new(0);

impl Create {
    /// Creates topics of names that were not there.
    pub fn new(client: &Client) -> Self {
        let client = client.clone();
        Self { client }
    }
}

impl Caller for Create {
    async fn call(&mut self) -> anyhow::Result<()> {
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        self.client
            .create_topic(&format!("created-{number}"))
            .await?;
        Ok(())
    }
}
