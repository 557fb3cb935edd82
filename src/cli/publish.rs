//! `publish`: arguments, or the lines of standard input, as messages.
//!
//! With a publisher a retry never doubles a message; without one the SDK does not retry what may have happened. Begin with [`run`].

use std::io::IsTerminal;

use anyhow::{Result, anyhow};
use clap::Args;
use cubecast_sdk::{AckLevel, Client, Error, Message, Published, Publisher};
use tokio::io::BufReader;

use super::argument::Acks;
use super::batch::Batches;
use super::exit::Failure;
use super::record;
use super::session::Session;
use super::text;

/// Bytes that are read from standard input at a time.
const READ_BYTES: usize = 64 << 10;

/// Publish messages: the arguments, or else the lines of standard input
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The topic
    topic: String,
    /// Each argument is a message, all of them in one publish; none, or -: each line of standard input, in batches
    #[arg(value_name = "MESSAGE")]
    messages: Vec<String>,
    /// Who publishes; it must exist. Then no retry doubles a message
    #[arg(long, value_name = "ID")]
    publisher: Option<String>,
    /// Key of every message
    #[arg(long)]
    key: Option<String>,
    /// Header of every message; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// When to answer
    #[arg(long, value_enum, default_value_t = Acks::Quorum)]
    acks: Acks,
}

fn header(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "it is not NAME=VALUE".to_owned())
}

pub(super) async fn run(arguments: Arguments, session: &mut Session<'_>) -> Result<()> {
    let way = Way::new(&session.client(), &arguments);
    match arguments.messages.as_slice() {
        [] => publish_lines(&arguments, &way, session).await,
        [dash] if dash == "-" => publish_lines(&arguments, &way, session).await,
        messages => {
            let messages = messages
                .iter()
                .map(|text| arguments.message(text.clone().into_bytes()));
            publish(&arguments.topic, messages.collect(), &way, session).await
        }
    }
}

impl Arguments {
    fn message(&self, payload: Vec<u8>) -> Message {
        let mut message = Message::new(payload);
        if let Some(key) = &self.key {
            message = message.with_key(key.clone());
        }
        self.header.iter().fold(message, |message, (name, value)| {
            message.with_header(name.clone(), value.clone())
        })
    }
}

/// In whose name messages are published.
enum Way {
    Nobody(Client, AckLevel),
    Publisher(Publisher),
}

impl Way {
    fn new(client: &Client, arguments: &Arguments) -> Self {
        let level = AckLevel::from(arguments.acks);
        match &arguments.publisher {
            Some(publisher) => {
                Self::Publisher(client.publisher(publisher.as_str()).with_acks(level))
            }
            None => Self::Nobody(client.clone(), level),
        }
    }

    async fn publish(&self, topic: &str, messages: Vec<Message>) -> Result<Published, Error> {
        match self {
            Self::Nobody(client, level) => client.publish_at(*level, topic, messages).await,
            Self::Publisher(publisher) => publisher.publish(topic, messages).await,
        }
    }
}

async fn publish(
    topic: &str,
    messages: Vec<Message>,
    way: &Way,
    session: &mut Session<'_>,
) -> Result<()> {
    let published = session
        .call("Publish", way.publish(topic, messages))
        .await?;
    session.tell_stand_in(published.note.as_deref(), &published.placement)?;
    let record = record::Published::new(topic, published);
    session.output.line(record.sentence(), &record)?;
    if record.is_duplicate {
        session
            .output
            .word("an earlier attempt had published it; it is there once")?;
    }
    Ok(session.output.flush()?)
}

/// Publishes what comes, one batch after the other, so that the order of the lines is that of the offsets.
async fn publish_lines(arguments: &Arguments, way: &Way, session: &mut Session<'_>) -> Result<()> {
    if std::io::stdin().is_terminal() {
        session.output.word("each line is a message; Ctrl-D ends")?;
    }
    let mut batches = Batches::new(BufReader::with_capacity(READ_BYTES, tokio::io::stdin()));
    let mut total = Total::default();
    while let Some(lines) = batches.next().await? {
        let messages = total.take(lines, arguments);
        let count = messages.len();
        if count == 0 {
            continue;
        }
        if let Err(error) = publish(&arguments.topic, messages, way, session).await {
            let before = text::count(total.published, "message");
            session
                .output
                .word(format_args!("{before} before had been published"))?;
            return Err(error);
        }
        total.published += u64::try_from(count)?;
    }
    if total.skipped > 0 {
        let lines = text::count(total.skipped, "empty line");
        session.output.word(format_args!(
            "{lines} skipped: a message without a key needs a payload"
        ))?;
    }
    if total.published == 0 {
        return Err(anyhow!(Failure::Usage(
            "there is no message: no argument, and no line on standard input".to_owned()
        )));
    }
    Ok(())
}

/// What became of the lines so far.
#[derive(Debug, Default)]
struct Total {
    published: u64,
    /// Empty lines without a key, which would be no messages.
    skipped: u64,
}

impl Total {
    fn take(&mut self, lines: Vec<Vec<u8>>, arguments: &Arguments) -> Vec<Message> {
        let mut messages = Vec::with_capacity(lines.len());
        for line in lines {
            if line.is_empty() && arguments.key.is_none() {
                self.skipped += 1;
            } else {
                messages.push(arguments.message(line));
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(key: Option<&str>) -> Arguments {
        Arguments {
            topic: "news".to_owned(),
            messages: Vec::new(),
            publisher: None,
            key: key.map(str::to_owned),
            header: vec![header("a=b=c").unwrap()],
            acks: Acks::Quorum,
        }
    }

    #[test]
    fn empty_line_is_a_message_only_with_a_key() {
        let lines = || vec![b"x".to_vec(), Vec::new()];
        let mut total = Total::default();
        assert_eq!(
            total.take(lines(), &arguments(None)),
            [Message::new("x").with_header("a", "b=c")]
        );
        assert_eq!(total.skipped, 1);
        assert_eq!(total.take(lines(), &arguments(Some("k"))).len(), 2);
    }

    #[test]
    fn header_has_a_name() {
        assert!(header("=x").is_err());
        assert!(header("x").is_err());
    }
}
