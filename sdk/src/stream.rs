//! A subscription as a stream: messages come as they are published, and go on behind the last one after whatever happens to the peers.
//!
//! How one stream to one peer works is in `line`, how they follow each other in `reader`. Begin with [`Subscription::stream`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};

use crate::convert;
use crate::error::Error;
use crate::line::Sayings;
use crate::proto::v1;
use crate::reader::Reader;
use crate::received::Received;
use crate::subscribe::Subscription;

/// How a stream reads. The default: room for 10,000 messages and 4 MiB, a lease of 30 s, and messages are acknowledged as they are taken.
///
/// ```
/// use cubecast_sdk::StreamOptions;
///
/// let options = StreamOptions::new().max_messages(100).manual();
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct StreamOptions {
    pub(crate) max_messages: u32,
    pub(crate) max_bytes: u64,
    pub(crate) lease: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) is_manual: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            max_messages: 10_000,
            max_bytes: 4 << 20,
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(1),
            is_manual: false,
        }
    }
}

impl StreamOptions {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// So many messages may be on their way or wait here, at least 1.
    pub fn max_messages(self, count: u32) -> Self {
        Self {
            max_messages: count.max(1),
            ..self
        }
    }

    /// So many bytes of messages may be on their way or wait here, and one message more.
    pub fn max_bytes(self, bytes: u64) -> Self {
        Self {
            max_bytes: bytes.max(1),
            ..self
        }
    }

    /// What is not acknowledged after this time comes again, with all after it.
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// How often the peer says that it is there; after three times as long without a word another is asked.
    pub fn heartbeat(self, heartbeat: Duration) -> Self {
        Self { heartbeat, ..self }
    }

    /// Nothing is acknowledged but by [`StreamControl::acknowledge`].
    pub fn manual(self) -> Self {
        Self {
            is_manual: true,
            ..self
        }
    }
}

impl Subscription {
    /// All messages from the cursor on, pushed by the peers, without end.
    ///
    /// Messages come in order, at least once, and one stream at a time has a subscription: a newer one takes it, and the older ends with `LeaseLost`.
    /// When a peer fails the stream goes on at another, behind the last message that it gave. Unless the options say [`StreamOptions::manual`],
    /// the messages of one delivery are acknowledged when the application asks for the first message after them.
    ///
    /// When somebody moves the cursor back ([`Subscription::seek`]), or the topic is deleted and made anew while the stream looks for a peer, it goes on
    /// at the cursor, and what was acknowledged before counts no more; an acknowledgement that was not stored yet at that moment may still count.
    ///
    /// After an error that may pass ([`Error::is_transient`]) the stream goes on, with another attempt at its next message; after
    /// [`Error::Undecodable`] it goes on behind the message that cannot be read, which counts as taken; otherwise it ends.
    ///
    /// ```no_run
    /// # async fn run(news: cubecast_sdk::Subscription) -> Result<(), cubecast_sdk::Error> {
    /// use cubecast_sdk::StreamOptions;
    /// use futures::TryStreamExt;
    ///
    /// let mut messages = news.stream(StreamOptions::new().manual());
    /// let control = messages.control();
    /// while let Some(message) = messages.try_next().await? {
    ///     println!("{} {:?}", message.offset, message.payload);
    ///     control.acknowledge(message.offset + 1);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(&self, options: StreamOptions) -> MessageStream {
        let sayings = Arc::new(Sayings::default());
        let open = v1::StreamPullOpen {
            topic: self.topic().to_owned(),
            subscriber: self.subscriber().to_owned(),
            lease: Some(convert::duration(options.lease)),
            heartbeat: Some(convert::duration(options.heartbeat)),
        };
        let client = self.client().clone();
        let reader = Reader::new(client, open, options, Arc::clone(&sayings));
        let messages = stream::unfold(Some(reader), |reader| async move { reader?.next().await });
        MessageStream {
            messages: messages.boxed(),
            control: StreamControl { sayings },
        }
    }
}

/// The messages of a subscription. Made by [`Subscription::stream`].
pub struct MessageStream {
    messages: BoxStream<'static, Result<Received, Error>>,
    control: StreamControl,
}

impl MessageStream {
    /// Acknowledges and rejects what the stream gives, also while something else waits for its next message.
    ///
    /// ```no_run
    /// # fn run(messages: cubecast_sdk::MessageStream) {
    /// let control = messages.control();
    /// # }
    /// ```
    pub fn control(&self) -> StreamControl {
        self.control.clone()
    }
}

impl fmt::Debug for MessageStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageStream").finish_non_exhaustive()
    }
}

impl futures::Stream for MessageStream {
    type Item = Result<Received, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.as_mut().poll_next(context)
    }
}

/// Says what became of the messages of a stream. It never waits: what it says goes out by itself, as long as the stream is there. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StreamControl {
    sayings: Arc<Sayings>,
}

impl StreamControl {
    /// All messages below `next_offset` are done. To wait until that is stored, use [`Subscription::acknowledge`].
    ///
    /// ```no_run
    /// # fn run(control: cubecast_sdk::StreamControl, message: cubecast_sdk::Received) {
    /// control.acknowledge(message.offset + 1);
    /// # }
    /// ```
    pub fn acknowledge(&self, next_offset: u64) {
        self.sayings.acknowledge(next_offset);
    }

    /// Everything from `first_offset` on is to come again after this time, but nothing that is acknowledged.
    ///
    /// ```no_run
    /// # fn run(control: cubecast_sdk::StreamControl, message: cubecast_sdk::Received) {
    /// control.reject(message.offset, std::time::Duration::from_secs(1));
    /// # }
    /// ```
    pub fn reject(&self, first_offset: u64, delay: Duration) {
        self.sayings.reject(first_offset, delay);
    }

    /// What was given and is not acknowledged has this time from now before it comes again.
    ///
    /// ```no_run
    /// # fn run(control: cubecast_sdk::StreamControl) {
    /// control.extend(std::time::Duration::from_secs(60));
    /// # }
    /// ```
    pub fn extend(&self, lease: Duration) {
        self.sayings.extend(lease);
    }

    /// Where the cursor is, as far as the stream has heard: acknowledgements up to here are stored.
    ///
    /// ```no_run
    /// # fn run(control: cubecast_sdk::StreamControl) {
    /// println!("{} are done", control.cursor());
    /// # }
    /// ```
    pub fn cursor(&self) -> u64 {
        self.sayings.cursor()
    }
}
