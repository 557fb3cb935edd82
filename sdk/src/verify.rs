//! Comparing the replicas of shards.
//!
//! The work is the peers'. Begin with [`Client::verify_replicas`].

use std::time::Duration;

use crate::call::{self, Call};
use crate::client::Client;
use crate::error::Error;
use crate::hedge::Hedge;
use crate::model::Verification;
use crate::proto::v1;

/// How long the peers may read, beyond what a call usually takes: as long as they give themselves.
const READING: Duration = Duration::from_secs(110);

/// What to compare. The default is everything.
///
/// ```
/// let options = cubecast_sdk::VerifyOptions::new().vertex("100").vertex("101");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct VerifyOptions {
    vertices: Vec<String>,
    topic: String,
    wait: Option<Duration>,
}

impl VerifyOptions {
    /// Everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// The shard of this vertex, and of others that are named.
    pub fn vertex(mut self, vertex: impl Into<String>) -> Self {
        self.vertices.push(vertex.into());
        self
    }

    /// This topic alone; not together with vertices.
    pub fn topic(self, topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            ..self
        }
    }

    /// How long the peers may read. It adds to the client's deadline. Default: 110 s.
    pub fn wait(self, wait: Duration) -> Self {
        Self {
            wait: Some(wait),
            ..self
        }
    }
}

impl Client {
    /// Compares what the replicas of each shard hold, at one entry of its log, while the cluster works on. Reads everything.
    ///
    /// ```no_run
    /// # async fn run(client: cubecast_sdk::Client) -> Result<(), cubecast_sdk::Error> {
    /// for shard in client.verify_replicas(cubecast_sdk::VerifyOptions::new()).await? {
    ///     assert!(shard.is_consistent, "shard {}: {:?}", shard.vertex, shard.replicas);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `FieldInvalid` or `TopicNotFound`; and what any call can have. A replica that cannot be compared is no error: it
    /// is told in the answer.
    pub async fn verify_replicas(
        &self,
        options: VerifyOptions,
    ) -> Result<Vec<Verification>, Error> {
        let call = Call::new(&call::VERIFY_REPLICAS)
            .waiting(options.wait.unwrap_or(READING))
            .hedged(Hedge::Never);
        let request = v1::VerifyReplicasRequest {
            vertices: options.vertices,
            topic: options.topic,
        };
        let answer: v1::VerifyReplicasResponse = self.call(call, &request).await?;
        Ok(answer.shards.into_iter().map(Into::into).collect())
    }
}
