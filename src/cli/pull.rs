//! `pull`: what is new for a subscriber.
//!
//! Messages are acknowledged after they were printed, so that a lost answer or a closed pipe loses none; a second pull then gives only what is
//! new. Begin with [`run`].

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use cubecast_sdk::{PullOptions, Pulled, Subscription};

use super::argument::Reading;
use super::message::Printer;
use super::session::Session;
use super::text;

/// Messages of one call. Enough for speed, and the first are seen early.
const PAGE_MESSAGES: u32 = 1_000;
/// Messages of one call with `--no-ack`, which makes only one: the peers' default limit.
const ONLY_PAGE_MESSAGES: u32 = 10_000;

/// Print what is new for a subscriber, and acknowledge it
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The topic
    topic: String,
    /// The subscriber; it must be subscribed
    #[arg(long, value_name = "ID")]
    subscriber: String,
    /// At most so many messages [default: all that there are at the start]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// When nothing is new, wait so long for something, such as 5s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Acknowledge nothing: the next pull gives the same. Prints one answer of the peer at most
    #[arg(long)]
    no_ack: bool,
    /// What the answer is sure to see; eventual prints one answer at most
    #[arg(long, value_enum, default_value_t = Reading::Leader)]
    consistency: Reading,
    #[command(flatten)]
    printer: Printer,
}

pub(super) async fn run(arguments: Arguments, session: &mut Session<'_>) -> Result<()> {
    let subscriber = session.client().subscriber(arguments.subscriber.as_str());
    let subscription = subscriber.subscription(&arguments.topic);
    let mut pull = Pull {
        arguments: &arguments,
        subscription,
        printed: 0,
        head: None,
    };
    let next = pull.all(session).await?;
    pull.tell(next, session)
}

/// A pull of all that there is, page after page.
struct Pull<'a> {
    arguments: &'a Arguments,
    subscription: Subscription,
    printed: u64,
    /// Where the topic ended when the pull began: what comes later is for the next pull.
    head: Option<u64>,
}

impl Pull<'_> {
    /// Prints everything; answers with the offset after the last message, or where the cursor is.
    async fn all(&mut self, session: &mut Session<'_>) -> Result<u64> {
        loop {
            let pulled = session
                .call("Pull", self.subscription.pull(self.options()))
                .await?;
            if self.head.is_none() {
                session.tell_source(pulled.source.as_ref())?;
            }
            let (next, is_empty, missed) = (pulled.next_offset, pulled.is_empty(), pulled.missed);
            let head = *self.head.get_or_insert(pulled.head_offset);
            session.tell_missed(missed)?;
            // What was missed is acknowledged too, so that it is told once.
            if is_empty && (missed == 0 || self.arguments.no_ack) {
                return Ok(next);
            }
            self.print(pulled, session)?;
            if self.arguments.no_ack {
                return Ok(next);
            }
            session
                .call("Acknowledge", self.subscription.acknowledge(next))
                .await?;
            // A replica that lags would give the same again.
            let is_done =
                self.left() == 0 || next >= head || self.arguments.consistency == Reading::Eventual;
            if is_done {
                return Ok(next);
            }
        }
    }

    fn options(&self) -> PullOptions {
        let page = if self.arguments.no_ack {
            ONLY_PAGE_MESSAGES
        } else {
            PAGE_MESSAGES
        };
        let count = u32::try_from(self.left()).map_or(page, |left| left.min(page));
        let options = PullOptions::new()
            .max_messages(count)
            .consistency(self.arguments.consistency.into());
        match self.arguments.wait.filter(|_| self.head.is_none()) {
            Some(wait) => options.wait(wait),
            None => options,
        }
    }

    /// How many messages may still be printed.
    fn left(&self) -> u64 {
        self.arguments
            .max
            .unwrap_or(u64::MAX)
            .saturating_sub(self.printed)
    }

    fn print(&mut self, pulled: Pulled, session: &mut Session<'_>) -> Result<()> {
        for message in pulled {
            self.arguments
                .printer
                .print(&self.arguments.topic, &message, session.output)?;
            self.printed += 1;
        }
        // Only what somebody has is acknowledged.
        Ok(session.output.flush()?)
    }

    fn tell(&self, next: u64, session: &mut Session<'_>) -> Result<()> {
        let Arguments {
            topic,
            subscriber,
            no_ack,
            ..
        } = self.arguments;
        if self.printed == 0 {
            let words = format!("nothing new in {topic} for {subscriber} (next offset {next})");
            return Ok(session.output.word(words)?);
        }
        let messages = text::count(self.printed, "message");
        let what = if *no_ack {
            "not acknowledged"
        } else {
            "acknowledged"
        };
        let left = match self.head.unwrap_or_default().saturating_sub(next) {
            0 => String::new(),
            left => format!("; {left} more waiting"),
        };
        Ok(session.output.word(format_args!(
            "{messages} from {topic} for {subscriber}, {what}{left}"
        ))?)
    }
}
