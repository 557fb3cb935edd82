//! A client together with the output, and the time that each call takes.
//!
//! It makes no call of its own but the first. Begin with [`Session::connect`].

use anyhow::Result;
use cubecast_sdk::{Builder, Client, Error, Placement, ReadSource};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tokio::time::Instant;

use super::argument::Global;
use super::exit::Failure;
use super::output::{Output, Row};
use super::text;

/// Rows of a list that are printed together.
const ROWS_MAX: usize = 1_000;

/// One command's way to the cluster and to the user.
#[derive(Debug)]
pub(super) struct Session<'a> {
    client: Client,
    /// Where the command prints.
    pub(super) output: &'a mut Output,
    global: &'a Global,
}

impl<'a> Session<'a> {
    /// Finds a peer that answers.
    pub(super) async fn connect(global: &'a Global, output: &'a mut Output) -> Result<Self> {
        let addresses = global.addresses();
        let builder = Client::builder().deadline(global.timeout());
        let builder = addresses.iter().fold(builder, Builder::peer);
        let begun = Instant::now();
        let client = builder
            .connect()
            .await
            .map_err(|error| unreachable_at(&addresses, error))?;
        let mut session = Self {
            client,
            output,
            global,
        };
        session.tell_time("connect", begun)?;
        Ok(session)
    }

    /// The client; clones share their connections.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// What every command takes.
    pub(super) fn global(&self) -> &'a Global {
        self.global
    }

    /// Waits for a call's answer.
    pub(super) async fn call<T>(
        &mut self,
        name: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let answer = call.await;
        self.tell_time(name, begun)?;
        Ok(answer?)
    }

    /// Prints a list as it comes.
    pub(super) async fn list<T, R>(
        &mut self,
        things: &str,
        mut items: BoxStream<'static, Result<T, Error>>,
    ) -> Result<()>
    where
        R: Row + From<T>,
    {
        let begun = Instant::now();
        let mut rows: Vec<R> = Vec::new();
        let mut header = Some(R::HEADER);
        while let Some(item) = items.try_next().await? {
            rows.push(item.into());
            if rows.len() == ROWS_MAX {
                self.output.table(header.take(), &rows)?;
                rows.clear();
            }
        }
        if !rows.is_empty() {
            self.output.table(header.take(), &rows)?;
        }
        self.tell_time(things, begun)?;
        if header.is_some() {
            self.output.word(format_args!("no {things}"))?;
        }
        Ok(())
    }

    /// Tells when a read was answered by another than the owner.
    pub(super) fn tell_source(&mut self, source: Option<&ReadSource>) -> Result<()> {
        let words = source.and_then(|source| match &source.note {
            Some(note) => Some(note.clone()),
            None if source.served_by == source.owner || source.served_by.is_empty() => None,
            None => Some(format!(
                "served by replica {}, not by owner {}",
                source.served_by, source.owner
            )),
        });
        if let Some(words) = words {
            self.output.word(words)?;
        }
        Ok(())
    }

    /// Tells of messages that nobody can read any more.
    pub(super) fn tell_missed(&mut self, missed: u64) -> Result<()> {
        if missed > 0 {
            let messages = super::text::count(missed, "message");
            let words =
                format!("{messages} missed: retention removed them before they were acknowledged");
            self.output.word(words)?;
        }
        Ok(())
    }

    /// Tells when a replica served in place of an owner that cannot be reached, or that does not lead.
    pub(super) fn tell_stand_in(
        &mut self,
        note: Option<&str>,
        placement: &Placement,
    ) -> Result<()> {
        match note {
            Some(note) => Ok(self.output.word(note)?),
            None => self.tell_leader(placement),
        }
    }

    /// Tells when another than the owner leads, and so answered.
    pub(super) fn tell_leader(&mut self, placement: &Placement) -> Result<()> {
        let owner = &placement.owner;
        match &placement.leader {
            Some(leader) if leader != owner => {
                let words = format_args!("owner {owner} does not lead; served by replica {leader}");
                Ok(self.output.word(words)?)
            }
            _ => Ok(()),
        }
    }

    /// Tells how long a call took, when that is asked for.
    pub(super) fn tell_time(&mut self, name: &str, begun: Instant) -> Result<()> {
        if self.global.timing {
            let time = text::milliseconds(begun.elapsed());
            self.output.word(format_args!("timing: {name} {time}"))?;
        }
        Ok(())
    }
}

/// The error of a start without an answer, in words that help a newcomer.
fn unreachable_at(addresses: &[String], error: Error) -> anyhow::Error {
    let why = match &error {
        Error::Unreachable { last, .. } => last.message().to_owned(),
        Error::DeadlineExceeded { .. } => "no answer in time".to_owned(),
        _ => return error.into(),
    };
    let where_ = match addresses {
        [one] => one.clone(),
        [first, .., last] => format!("{first} … {last}"),
        [] => "no address".to_owned(),
    };
    Failure::Unavailable(format!(
        "no peer can be reached at {where_} ({why}); `cubecast dev` starts eight"
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::super::output::Format;
    use super::*;

    // REQ A14: who serves in place of an owner that cannot be reached is told, or else that the owner does not lead.
    #[tokio::test]
    async fn stand_in_is_told_in_words_beside_the_data() {
        let global = Cli::try_parse_from(["cubecast", "status"]).unwrap().global;
        let (mut output, written) = Output::captured(Format::Json);
        let mut session = Session {
            client: Client::builder().peer("127.0.0.1:1").build().unwrap(),
            output: &mut output,
            global: &global,
        };
        let led_by = |leader: &str| {
            let placement = cubecast_sdk::proto::v1::Placement {
                owner: "100".to_owned(),
                leader: leader.to_owned(),
                ..Default::default()
            };
            Placement::from(placement)
        };
        let note = Some("cannot reach owner 100; served by replica 101");
        session.tell_stand_in(note, &led_by("101")).unwrap();
        session.tell_stand_in(None, &led_by("101")).unwrap();
        session.tell_stand_in(None, &led_by("100")).unwrap();
        let words = "cannot reach owner 100; served by replica 101\n\
                     owner 100 does not lead; served by replica 101\n";
        assert_eq!(
            (written.words().as_str(), written.data().as_str()),
            (words, "")
        );
    }
}
