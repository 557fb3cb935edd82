//! `replica`: read one copy of a topic, or have it catch up. Begin with [`run`].

use anyhow::Result;
use clap::{ArgGroup, Subcommand};
use cubecast_sdk::{ReplicaPullOptions, ShardOf, SyncedReplica};
use serde::Serialize;

use super::message::Printer;
use super::record;
use super::session::Session;
use super::text;

/// Messages of one call.
const PAGE_MESSAGES: u32 = 1_000;

/// Read one peer's copy of a topic, or have it catch up
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print what one peer's copy of a topic holds; nothing is acknowledged
    Pull {
        /// Vertex or address of the peer
        peer: String,
        /// The topic
        topic: String,
        /// From this offset on [default: the oldest message]
        #[arg(long, value_name = "OFFSET")]
        from: Option<u64>,
        /// At most so many messages [default: all]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max: Option<u64>,
        #[command(flatten)]
        printer: Printer,
    },
    /// Wait until one peer's copy of a shard has everything that is committed
    #[command(group = ArgGroup::new("shard").required(true).args(["topic", "vertex"]))]
    Sync {
        /// Vertex or address of the peer
        peer: String,
        /// The shard of this topic
        #[arg(long)]
        topic: Option<String>,
        /// The shard of this vertex, such as 100
        #[arg(long)]
        vertex: Option<String>,
    },
}

pub(super) async fn run(command: Command, session: &mut Session<'_>) -> Result<()> {
    match command {
        Command::Pull {
            peer,
            topic,
            from,
            max,
            printer,
        } => {
            let pull = Pull {
                peer,
                topic,
                left: max.unwrap_or(u64::MAX),
                printer,
            };
            pull.all(from, session).await
        }
        Command::Sync {
            peer,
            topic,
            vertex,
        } => {
            let shard = match topic {
                Some(topic) => ShardOf::Topic(topic),
                None => ShardOf::Vertex(vertex.unwrap_or_default()),
            };
            sync(&peer, shard, session).await
        }
    }
}

/// A walk through one copy.
struct Pull {
    peer: String,
    topic: String,
    /// Messages that may still be printed.
    left: u64,
    printer: Printer,
}

impl Pull {
    /// Prints everything that is there when it begins.
    async fn all(mut self, from: Option<u64>, session: &mut Session<'_>) -> Result<()> {
        let client = session.client();
        let (mut from, mut head, mut printed) = (from, None, 0_u64);
        loop {
            let count =
                u32::try_from(self.left).map_or(PAGE_MESSAGES, |left| left.min(PAGE_MESSAGES));
            let options = ReplicaPullOptions::new().max_messages(count);
            let options = match from {
                Some(from) => options.first_offset(from),
                None => options,
            };
            let pulled = session
                .call(
                    "ReplicaPull",
                    client.replica_pull(&self.peer, &self.topic, options),
                )
                .await?;
            let head = *head.get_or_insert(pulled.head_offset);
            let (next, is_empty) = (pulled.next_offset, pulled.is_empty());
            for message in pulled {
                self.printer.print(&self.topic, &message, session.output)?;
                printed += 1;
                self.left -= 1;
            }
            session.output.flush()?;
            if is_empty || self.left == 0 || next >= head {
                let messages = text::count(printed, "message");
                let words = format!("{messages} of {} at {}", self.topic, self.peer);
                return Ok(session.output.word(words)?);
            }
            from = Some(next);
        }
    }
}

async fn sync(peer: &str, shard: ShardOf, session: &mut Session<'_>) -> Result<()> {
    let client = session.client();
    let synced = session
        .call("SyncReplica", client.sync_replica(peer, shard))
        .await?;
    let record = Synced::new(&synced);
    Ok(session.output.line(record.sentence(), &record)?)
}

/// A copy that has caught up: `replica sync`.
#[derive(Debug, Serialize)]
struct Synced {
    shard: String,
    /// `leader`, `follower`, `candidate`, `learner`, `damaged` or `unknown`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied_index: Option<u64>,
    /// How many entries it lacked before.
    entries_received: u64,
}

impl Synced {
    fn new(synced: &SyncedReplica) -> Self {
        Self {
            shard: synced.shard.shard.clone(),
            state: record::state(synced.shard.state),
            applied_index: synced.shard.applied_index,
            entries_received: synced.entries_received,
        }
    }

    fn sentence(&self) -> String {
        let applied = self
            .applied_index
            .map_or_else(String::new, |index| format!(" up to entry {index}"));
        let lacked = match self.entries_received {
            0 => "it lacked nothing".to_owned(),
            1 => "it lacked 1 entry".to_owned(),
            more => format!("it lacked {more} entries"),
        };
        let (shard, state) = (&self.shard, self.state);
        format!("the {state} of shard {shard} has everything{applied}; {lacked}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catching_up_is_a_sentence() {
        let synced = |entries_received| Synced {
            shard: "100".to_owned(),
            state: "follower",
            applied_index: Some(41),
            entries_received,
        };
        assert_eq!(
            synced(3).sentence(),
            "the follower of shard 100 has everything up to entry 41; it lacked 3 entries"
        );
        assert!(synced(0).sentence().ends_with("; it lacked nothing"));
    }
}
