//! Subscriptions as they are printed, and how consumers share them: as flags, as a JSON object, in words. Begin with [`Terms`].

use std::time::Duration;

use clap::Args;
use cubecast_sdk as sdk;
use serde::Serialize;

use super::output::Row;

/// How consumers are to share a subscription, given by flags.
#[derive(Debug, Clone, Args)]
pub(super) struct Terms {
    /// Many consumers share the subscription: each message goes to one of them
    #[arg(long)]
    shared: bool,
    /// How long a consumer has for a message
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "shared")]
    lease: Option<Duration>,
    /// After so many deliveries a message becomes a dead letter
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), requires = "shared", requires = "dead_letter")]
    max_deliveries: Option<u32>,
    /// The topic that dead letters are published to
    #[arg(
        long,
        value_name = "TOPIC",
        requires = "shared",
        requires = "max_deliveries"
    )]
    dead_letter: Option<String>,
}

impl Terms {
    /// `None`: one reader at a time is to have it.
    pub(super) fn sharing(self) -> Option<sdk::Sharing> {
        if !self.shared {
            return None;
        }
        let sharing = sdk::Sharing::new();
        let sharing = match self.lease {
            Some(lease) => sharing.lease(lease),
            None => sharing,
        };
        Some(match self.max_deliveries.zip(self.dead_letter) {
            Some((count, topic)) => sharing.dead_letters(count, topic),
            None => sharing,
        })
    }
}

/// How consumers share a subscription, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Shared {
    lease_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_deliveries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_topic: Option<String>,
}

impl From<sdk::Sharing> for Shared {
    fn from(sharing: sdk::Sharing) -> Self {
        Self {
            lease_ms: u64::try_from(sharing.lease.as_millis()).unwrap_or(u64::MAX),
            max_deliveries: Some(sharing.max_deliveries).filter(|count| *count > 0),
            dead_letter_topic: sharing.dead_letter_topic,
        }
    }
}

impl Shared {
    /// `many, after 5 deliveries to failed`.
    pub(super) fn words(&self) -> String {
        match (&self.max_deliveries, &self.dead_letter_topic) {
            (Some(count), Some(topic)) => format!("many, after {count} deliveries to {topic}"),
            _ => "many".to_owned(),
        }
    }
}

/// A subscription: `subscribe` (with `is_existing`) and `subscription list`.
#[derive(Debug, Serialize)]
pub(super) struct Subscription {
    pub(super) topic: String,
    pub(super) subscriber: String,
    /// The cursor: the offset of the next message to deliver.
    pub(super) next_offset: u64,
    /// The offset that the topic's next message will get.
    pub(super) head_offset: u64,
    /// Messages right below the cursor that retention removed before they were acknowledged.
    pub(super) missed: u64,
    pub(super) create_time: String,
    /// Absent: one reader at a time has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shared: Option<Shared>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is_existing: Option<bool>,
}

impl From<sdk::SubscriptionInfo> for Subscription {
    fn from(info: sdk::SubscriptionInfo) -> Self {
        Self {
            topic: info.topic,
            subscriber: info.subscriber,
            next_offset: info.next_offset,
            head_offset: info.head_offset,
            missed: info.missed,
            create_time: humantime::format_rfc3339_millis(info.create_time).to_string(),
            shared: info.sharing.map(Into::into),
            is_existing: None,
        }
    }
}

impl Subscription {
    /// Messages that are not acknowledged.
    pub(super) fn waiting(&self) -> u64 {
        self.head_offset.saturating_sub(self.next_offset)
    }
}

impl Row for Subscription {
    const HEADER: &'static [&'static str] = &[
        "TOPIC",
        "SUBSCRIBER",
        "CURSOR",
        "WAITING",
        "READ BY",
        "CREATED",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.topic.clone(),
            self.subscriber.clone(),
            self.next_offset.to_string(),
            self.waiting().to_string(),
            self.shared
                .as_ref()
                .map_or_else(|| "one".to_owned(), Shared::words),
            self.create_time.clone(),
        ]
    }
}
