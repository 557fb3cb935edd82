//! `tail`: prints messages as they come, until Ctrl-C, and acknowledges what it printed.
//!
//! Without `--subscriber` it makes a subscriber of its own, `tail-<process>-<n>`, and removes it at the end; one that was killed leaves
//! it behind, to be seen in `subscriber list`. Begin with [`run`].

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use cubecast_sdk::{Client, Error, PullOptions, Pulled, Reason, Start, Subscription};
use tokio::time::Instant;

use super::argument;
use super::exit::Failure;
use super::message::Printer;
use super::session::Session;
use super::signal::Signals;

/// How long one pull waits for something new.
const WAIT: Duration = Duration::from_secs(20);
/// Messages of one call.
const PAGE_MESSAGES: u32 = 1_000;
/// Between two attempts while nobody answers.
const PAUSE: Duration = Duration::from_secs(1);
/// Names that are tried for a subscriber of its own: others of the same process number may run on other machines.
const OWN_NAMES_MAX: u32 = 1_000;

/// Print messages as they come, until Ctrl-C, and acknowledge them
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The topic
    topic: String,
    /// Go on where this subscriber, which must be subscribed, is; without it, one is made for this command and removed at the end
    #[arg(long, value_name = "ID")]
    subscriber: Option<String>,
    /// Where to begin without --subscriber: earliest, latest, an offset, or a time
    #[arg(long, value_name = "PLACE", default_value = "latest", value_parser = argument::start, conflicts_with = "subscriber")]
    from: Start,
    #[command(flatten)]
    printer: Printer,
}

pub(super) async fn run(arguments: Arguments, session: &mut Session<'_>) -> Result<()> {
    let mut signals = Signals::new()?;
    if let Some(subscriber) = &arguments.subscriber {
        let subscription = session
            .client()
            .subscriber(subscriber.as_str())
            .subscription(&arguments.topic);
        return follow_until_told(&subscription, &arguments, session, &mut signals).await;
    }
    let own = own_subscriber(session).await?;
    let done = follow_as(&own, &arguments, session, &mut signals).await;
    let client = session.client();
    let removed = session
        .call("DeleteSubscriber", client.delete_subscriber(&own))
        .await;
    done.and(removed)
}

/// Makes a subscriber that nobody else has.
async fn own_subscriber(session: &mut Session<'_>) -> Result<String> {
    let client: Client = session.client();
    let process = std::process::id();
    for number in 0..OWN_NAMES_MAX {
        let name = format!("tail-{process}-{number}");
        match client.create_subscriber(&name).await {
            Ok(_) => return Ok(name),
            Err(error) if error.reason() == Some(Reason::SubscriberAlreadyExists) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let problem =
        format!("all of the subscribers tail-{process}-0 to {OWN_NAMES_MAX} exist; delete some");
    Err(Failure::Failed(problem).into())
}

async fn follow_as(
    own: &str,
    arguments: &Arguments,
    session: &mut Session<'_>,
    signals: &mut Signals,
) -> Result<()> {
    let subscriber = session.client().subscriber(own);
    let subscription = session
        .call(
            "Subscribe",
            subscriber.subscribe(&arguments.topic, arguments.from),
        )
        .await?;
    follow_until_told(&subscription, arguments, session, signals).await
}

async fn follow_until_told(
    subscription: &Subscription,
    arguments: &Arguments,
    session: &mut Session<'_>,
    signals: &mut Signals,
) -> Result<()> {
    session
        .output
        .word(format_args!("following {}; Ctrl-C ends", arguments.topic))?;
    // A page that is being printed when the signal comes is printed to its end, because printing does not wait; when its acknowledgement
    // is cut off, it comes again: at least once.
    tokio::select! {
        done = follow(subscription, arguments, session) => done,
        _ = signals.next() => Ok(()),
    }
}

async fn follow(
    subscription: &Subscription,
    arguments: &Arguments,
    session: &mut Session<'_>,
) -> Result<()> {
    let mut is_first = true;
    loop {
        let options = PullOptions::new().max_messages(PAGE_MESSAGES).wait(WAIT);
        let Some(pulled) = persist("Pull", || subscription.pull(options), session).await? else {
            continue;
        };
        if std::mem::take(&mut is_first) {
            session.tell_source(pulled.source.as_ref())?;
        }
        session.tell_missed(pulled.missed)?;
        let Some(next) = print(pulled, arguments, session)? else {
            continue;
        };
        while persist("Acknowledge", || subscription.acknowledge(next), session)
            .await?
            .is_none()
        {}
    }
}

/// Makes a call that may be made again. `None`: nobody could answer, and some time has passed.
async fn persist<T, C>(
    name: &str,
    call: impl FnOnce() -> C,
    session: &mut Session<'_>,
) -> Result<Option<T>>
where
    C: Future<Output = Result<T, Error>>,
{
    let begun = Instant::now();
    let answer = call().await;
    session.tell_time(name, begun)?;
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_transient() => {
            session.output.word(format_args!("{error}; trying again"))?;
            tokio::time::sleep(PAUSE).await;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Prints a page; answers with what to acknowledge.
fn print(pulled: Pulled, arguments: &Arguments, session: &mut Session<'_>) -> Result<Option<u64>> {
    // What was missed is acknowledged too, so that it is told once.
    let next = Some(pulled.next_offset).filter(|_| !pulled.is_empty() || pulled.missed > 0);
    for message in pulled {
        arguments
            .printer
            .print(&arguments.topic, &message, session.output)?;
    }
    session.output.flush()?;
    Ok(next)
}
