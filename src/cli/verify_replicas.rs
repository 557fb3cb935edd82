//! `verify-replicas`: what each replica of each shard holds, compared at one entry of the shard's log. Begin with [`run`].

use anyhow::Result;
use clap::Args;
use cubecast_sdk::{ReplicaDigest, Verification, VerifyOptions};
use serde::Serialize;

use super::exit::Failure;
use super::output::Row;
use super::session::Session;

/// Letters of a digest in a table: enough to tell two apart.
const DIGEST_LETTERS: usize = 16;

/// Compare what the replicas of each shard hold, while the cluster works on; exit code 1 when they differ or one did not answer
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only the shards of these vertices, such as 100 [default: all]
    vertices: Vec<String>,
    /// Only this topic
    #[arg(long, conflicts_with = "vertices")]
    topic: Option<String>,
}

pub(super) async fn run(arguments: Arguments, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let options = VerifyOptions::new();
    let options = match arguments.topic {
        Some(topic) => options.topic(topic),
        None => arguments
            .vertices
            .into_iter()
            .fold(options, VerifyOptions::vertex),
    };
    let shards = session
        .call("VerifyReplicas", client.verify_replicas(options))
        .await?;
    let rows: Vec<Compared> = shards.iter().flat_map(rows).collect();
    session.output.table(Some(Compared::HEADER), &rows)?;
    for shard in &shards {
        if let Some(problem) = &shard.problem {
            let words = format_args!("shard {}: {problem}", shard.vertex);
            session.output.word(words)?;
        }
    }
    let differing: Vec<&str> = shards
        .iter()
        .filter(|shard| !shard.is_consistent)
        .map(|shard| shard.vertex.as_str())
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    let problem = format!("not consistent: shard {}", differing.join(", "));
    Err(Failure::Failed(problem).into())
}

/// One replica.
#[derive(Debug, Serialize)]
struct Compared {
    shard: String,
    /// The entry of the log at which it was compared.
    index: u64,
    vertex: String,
    peer: u32,
    /// SHA-256 in hexadecimal. Absent: it did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// It equals that of the majority.
    is_equal: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

fn rows(shard: &Verification) -> Vec<Compared> {
    let row = |replica: &ReplicaDigest| Compared {
        shard: shard.vertex.clone(),
        index: shard.index,
        vertex: replica.vertex.clone(),
        peer: replica.peer,
        digest: replica.digest.as_ref().map(|digest| hexadecimal(digest)),
        is_equal: replica.is_equal,
        problem: replica.problem.clone(),
    };
    shard.replicas.iter().map(row).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Row for Compared {
    const HEADER: &'static [&'static str] =
        &["SHARD", "INDEX", "REPLICA", "PEER", "DIGEST", "VERDICT"];

    fn cells(&self) -> Vec<String> {
        let digest = self.digest.as_ref();
        let digest = digest.and_then(|digest| digest.get(..DIGEST_LETTERS));
        let verdict = match &self.problem {
            Some(problem) => problem.as_str(),
            None if self.is_equal => "equal",
            None => "DIFFERS",
        };
        vec![
            self.shard.clone(),
            self.index.to_string(),
            self.vertex.clone(),
            self.peer.to_string(),
            digest.unwrap_or("-").to_owned(),
            verdict.to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use cubecast_sdk::proto::v1;
    use expect_test::expect;

    use super::super::output::{Format, Output};
    use super::*;

    #[test]
    fn each_replica_is_a_row() {
        let replica = |peer: u32, byte: u8, problem: &str| v1::ReplicaDigest {
            peer,
            vertex: format!("{peer:03b}"),
            digest: vec![byte; 32 * usize::from(problem.is_empty())].into(),
            is_equal: byte == 1,
            problem: problem.to_owned(),
        };
        let shard = v1::ShardVerification {
            vertex: "100".to_owned(),
            index: 41,
            replicas: vec![replica(4, 1, ""), replica(5, 2, ""), replica(6, 0, "down")],
            ..v1::ShardVerification::default()
        };
        let (mut output, written) = Output::captured(Format::Text);
        let rows = rows(&shard.into());
        output.table(Some(Compared::HEADER), &rows).unwrap();
        expect![[r#"
            SHARD  INDEX  REPLICA  PEER  DIGEST            VERDICT
            100    41     100      4     0101010101010101  equal
            100    41     101      5     0202020202020202  DIFFERS
            100    41     110      6     -                 down
        "#]]
        .assert_eq(&written.data());
    }
}
