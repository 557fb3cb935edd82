//! Transcripts: `testdata/*.txt` hold commands and what comes of them. `UPDATE_EXPECT=1` writes the answers anew.
//!
//! A line that begins with `>` is a command or a query, one that begins with `#` a comment; all others are answers.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::types::{ByteCount, Offset, RequestId, TopicId};

/// The words of a line: a verb, names, and `key=value` pairs.
struct Words<'a> {
    verb: &'a str,
    names: Vec<&'a str>,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap();
        let (pairs, names): (Vec<_>, Vec<_>) = words.partition(|word| word.contains('='));
        let pairs = pairs.into_iter().filter_map(|pair| pair.split_once('='));
        Self {
            verb,
            names,
            pairs: pairs.collect(),
        }
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        let mut pairs = self.pairs.iter();
        pairs
            .find(|(name, _)| *name == key)
            .map(|(_, value)| *value)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key).map(|value| value.parse().unwrap())
    }

    fn at(&self) -> Timestamp {
        Timestamp(self.number("at").unwrap_or(0))
    }

    fn request_id(&self) -> Option<RequestId> {
        let byte = self.number("request")?;
        Some(RequestId([u8::try_from(byte).unwrap(); 16]))
    }

    fn retention(&self) -> Retention {
        Retention {
            age: self.number("age").map(Duration::from_nanos),
            bytes: self.number("bytes").map(ByteCount),
            messages: self.number("messages"),
        }
    }

    fn topic(&self) -> TopicName {
        topic(self.names[0])
    }

    fn subscriber(&self) -> SubscriberId {
        subscriber(self.names.last().unwrap())
    }

    fn start(&self, key: &str) -> Start {
        match self.text(key).unwrap().split_once(':') {
            None if self.text(key) == Some("earliest") => Start::Earliest,
            None => Start::Latest,
            Some(("offset", offset)) => Start::Offset(Offset(offset.parse().unwrap())),
            Some((_, time)) => Start::Time(Timestamp(time.parse().unwrap())),
        }
    }

    fn origin(&self) -> Option<(PublisherId, SessionId, Sequence)> {
        let parts: Vec<_> = self.text("by")?.split('/').collect();
        let number = |part: &str| part.parse().unwrap();
        let session = SessionId(number(parts[1]));
        Some((publisher(parts[0]), session, Sequence(number(parts[2]))))
    }

    fn command(&self) -> Option<Command> {
        Some(match self.verb {
            "create-topic" => Command::CreateTopic {
                topic: self.topic(),
                creator: self.text("creator").map(publisher),
                request_id: self.request_id(),
                at: self.at(),
                retention: self.retention(),
            },
            "delete-topic" => Command::DeleteTopic {
                topic: self.topic(),
            },
            "create-publisher" => Command::CreatePublisher {
                publisher: publisher(self.names[0]),
                request_id: self.request_id(),
                at: self.at(),
            },
            "delete-publisher" => Command::DeletePublisher {
                publisher: publisher(self.names[0]),
            },
            "create-subscriber" => Command::CreateSubscriber {
                subscriber: self.subscriber(),
                request_id: self.request_id(),
                at: self.at(),
            },
            "delete-subscriber" => Command::DeleteSubscriber {
                subscriber: self.subscriber(),
            },
            "append" => {
                let count = usize::try_from(self.number("count").unwrap_or(1)).unwrap();
                Command::Append {
                    topic: self.topic(),
                    origin: self.origin(),
                    at: self.at(),
                    batch: batch(count, b'x'),
                }
            }
            _ => return self.cursor_command().or_else(|| self.upkeep_command()),
        })
    }

    fn cursor_command(&self) -> Option<Command> {
        let (topic, subscriber) = match self.names.len() {
            2 => (self.topic(), self.subscriber()),
            _ => return None,
        };
        Some(match self.verb {
            "subscribe" => Command::Subscribe {
                topic,
                subscriber,
                start: self.start("start"),
                at: self.at(),
            },
            "unsubscribe" => Command::Unsubscribe { topic, subscriber },
            "acknowledge" if self.number("life").is_some() => Command::AcknowledgeLife {
                topic,
                topic_id: TopicId::new(shard().index(), self.number("life").unwrap()),
                subscriber,
                next_offset: Offset(self.number("next").unwrap()),
            },
            "acknowledge" => Command::Acknowledge {
                topic,
                subscriber,
                next_offset: Offset(self.number("next").unwrap()),
                expected: self.number("expected").map(Offset),
            },
            "seek" => Command::Seek {
                topic,
                subscriber,
                to: self.start("to"),
            },
            _ => return None,
        })
    }

    fn upkeep_command(&self) -> Option<Command> {
        Some(match self.verb {
            "create-topics" => {
                let new = |name: &&str| NewTopic {
                    topic: topic(name),
                    retention: self.retention(),
                };
                Command::CreateTopics {
                    topics: self.names.iter().map(new).collect(),
                    creator: self.text("creator").map(publisher),
                    request_id: self.request_id(),
                    at: self.at(),
                }
            }
            "set-retention" => Command::SetRetention {
                topic: self.topic(),
                retention: self.retention(),
            },
            "trim" => Command::Trim {
                topic: self.topic(),
                topic_id: TopicId::new(shard().index(), self.number("id").unwrap()),
                before: Offset(self.number("before").unwrap()),
                bytes: ByteCount(self.number("bytes").unwrap()),
            },
            "barrier" => Command::Barrier {
                id: self.names[0].parse().unwrap(),
            },
            _ => return None,
        })
    }

    fn query(&self, view: &View) -> String {
        let mut text = String::new();
        match self.verb {
            "topics" => {
                let creator = self.text("creator").map(publisher);
                let filter = TopicFilter {
                    prefix: self.text("prefix").unwrap_or(""),
                    creator: creator.as_ref(),
                };
                let after = self.text("after").map(topic);
                let limit = usize::try_from(self.number("limit").unwrap_or(100)).unwrap();
                for topic in view.topics(filter, after.as_ref(), limit).unwrap() {
                    writeln!(text, "{}", show_topic(&topic)).unwrap();
                }
            }
            "subscriptions" => {
                let subscriber = self.subscriber();
                let found = view.subscriptions_of_subscriber(&subscriber, None, 100);
                for subscription in found.unwrap() {
                    writeln!(text, "{}", show_subscription(&subscription)).unwrap();
                }
            }
            "read" => {
                let topic = view.topic(&self.topic()).unwrap().unwrap();
                let from = Offset(self.number("from").unwrap_or(0));
                let count_max = u32::try_from(self.number("count").unwrap_or(100)).unwrap();
                let batches = view.batches(&topic, from, count_max, ByteCount(1 << 20));
                for batch in batches.unwrap() {
                    let (count, time) = (batch.batch.count(), batch.append_time);
                    let base = batch.base_offset;
                    writeln!(
                        text,
                        "{count} from {base} at {time} entry {}",
                        batch.log_position
                    )
                    .unwrap();
                }
            }
            "retained" => {
                for topic in view.retained_topics(None, 100).unwrap() {
                    writeln!(text, "{}", show_topic(&topic)).unwrap();
                }
            }
            "count" => writeln!(text, "{} topics", view.topic_count().unwrap()).unwrap(),
            "trim-target" => {
                let topic = view.topic(&self.topic()).unwrap().unwrap();
                let now = Timestamp(self.number("now").unwrap());
                match view.due(&topic, now).unwrap() {
                    Due::Trim(before, bytes) => writeln!(text, "before {before}, {bytes} bytes"),
                    Due::After(time) => writeln!(text, "nothing up to {}", time.0),
                    Due::Nothing => writeln!(text, "nothing"),
                }
                .unwrap();
            }
            verb => panic!("{verb} is unknown"),
        }
        text
    }
}

fn show_topic(topic: &TopicRow) -> String {
    let creator = topic.creator.as_ref();
    let retention = match topic.retention {
        Retention::FOR_EVER => String::new(),
        retention => format!(" keeps {retention}"),
    };
    format!(
        "topic {} id {} creator {} created {} offsets {}..{} bytes {}{retention}",
        topic.name,
        topic.id,
        creator.map_or("-", PublisherId::as_str),
        topic.created,
        topic.first_offset,
        topic.next_offset,
        topic.bytes
    )
}

fn show_subscription(subscription: &Subscription) -> String {
    let Subscription {
        topic_id,
        topic,
        subscriber,
        cursor,
        missed,
        created,
        sharing: _,
    } = subscription;
    let missed = match missed {
        0 => String::new(),
        missed => format!(" missed {missed}"),
    };
    format!("{subscriber} on {topic} ({topic_id}) cursor {cursor}{missed} created {created}")
}

fn show(outcome: &Outcome) -> String {
    let newness = |is_new: &bool| if *is_new { "new" } else { "repeated" };
    match outcome {
        Err(Refusal::Malformed(error)) => format!("refused: the entry is not a command: {error}"),
        Err(refusal) => format!("refused: {refusal}"),
        Ok(Response::TopicCreated { topic, is_new }) => {
            format!("ok {}: {}", newness(is_new), show_topic(topic))
        }
        Ok(response @ Response::TopicsCreated { topics }) => {
            let show = |created: &Result<CreatedTopic, Refusal>| match created {
                Ok(CreatedTopic { topic, is_new }) => {
                    format!("\n  {}: {}", newness(is_new), show_topic(topic))
                }
                Err(refusal) => format!("\n  refused: {refusal}"),
            };
            let topics: Vec<String> = topics.iter().map(show).collect();
            format!("ok {response}{}", topics.concat())
        }
        Ok(Response::TopicDeleted { topic }) => format!("ok deleted: {}", show_topic(topic)),
        Ok(Response::Subscribed {
            subscription,
            is_new,
        }) => format!(
            "ok {}: {}",
            newness(is_new),
            show_subscription(subscription)
        ),
        Ok(Response::Appended {
            topic_id,
            first_offset,
            count,
            append_time,
            is_duplicate,
        }) => {
            let newness = newness(&!is_duplicate);
            format!("ok {newness}: {count} from {first_offset} at {append_time} in {topic_id}")
        }
        Ok(other) => format!("ok {other}"),
    }
}

fn show_event(event: &Event) -> String {
    match event {
        Event::TopicAdvanced {
            topic, next_offset, ..
        } => format!("topic {topic} advanced to {next_offset}"),
        Event::TopicTrimmed {
            topic,
            first_offset,
            ..
        } => format!("topic {topic} begins at {first_offset}"),
        Event::TopicDeleted { topic, topic_id } => format!("topic {topic} ({topic_id}) deleted"),
        Event::CursorMoved {
            topic,
            subscriber,
            cursor,
            ..
        } => format!("cursor of {subscriber} on {topic} moved to {cursor}"),
        Event::SubscriptionDeleted {
            topic, subscriber, ..
        } => format!("subscription of {subscriber} on {topic} deleted"),
    }
}

fn play(script: &str) -> String {
    let mut single = Single::new();
    let mut text = String::new();
    for line in script.lines() {
        let Some(words) = line.strip_prefix("> ").map(Words::new) else {
            if line.is_empty() || line.starts_with('#') {
                writeln!(text, "{line}").unwrap();
            }
            continue;
        };
        writeln!(text, "{line}").unwrap();
        let bytes = match words.verb {
            "raw" => Some(super::codec::from_hex(words.names[0])),
            _ => words.command().map(|command| command.encode()),
        };
        if bytes.is_none() && words.verb != "blank" {
            text += &words.query(&single.machine.view());
            continue;
        }
        let (outcome, events) = single.bytes(bytes);
        let outcome = outcome.as_ref().map_or("no command".to_owned(), show);
        writeln!(text, "{outcome}").unwrap();
        for event in &events {
            writeln!(text, "event: {}", show_event(event)).unwrap();
        }
    }
    text
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/shard/testdata")
        .join(name);
    let script = std::fs::read_to_string(&path).unwrap();
    expect_test::expect_file![path].assert_eq(&play(&script));
}

#[test]
fn topics() {
    check("topics.txt");
}

#[test]
fn appends() {
    check("appends.txt");
}

#[test]
fn cursors() {
    check("cursors.txt");
}

#[test]
fn retention() {
    check("retention.txt");
}

#[test]
fn identities() {
    check("identities.txt");
}
