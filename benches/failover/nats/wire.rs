//! As much of the text protocol of NATS as a publisher and a reader need: requests with their answers over one connection.
//!
//! Written out, because the official client brings some sixty packages, and because this one has no pauses of its own before it connects again: what
//! is measured is the servers. Begin with [`Connection::request`].

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What this client asks for: headers, and to be told when nobody listens to a subject.
const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"protocol\":1,\
                       \"lang\":\"rust\",\"version\":\"0\",\"name\":\"bench\"}\r\n";
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// Requests that wait to be written; a further one waits for room.
const WRITES_MAX: usize = 256;
/// The subscription to all answers. Those of streams have the numbers after it.
const ANSWERS: u64 = 1;
/// Longer than any line or message of these servers.
const BYTES_MAX: usize = 8 << 20;

/// What came to a subject of ours.
#[derive(Debug)]
pub struct Message {
    /// Where an answer would go; JetStream writes the position of the message into it. Empty: nowhere.
    pub reply: String,
    /// The headers with their first line, as text. Empty: none.
    pub headers: String,
    pub payload: Bytes,
}

impl Message {
    /// Nobody listened to the subject of the request.
    pub fn is_without_responder(&self) -> bool {
        self.payload.is_empty() && self.headers.starts_with("NATS/1.0 503")
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines().skip(1);
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(field, _)| *field == name)?;
        Some(value.trim())
    }
}

/// A connection to one server. It closes when dropped.
#[derive(Debug)]
pub struct Connection {
    writes: mpsc::Sender<String>,
    waiting: Arc<Mutex<Waiting>>,
    /// What answers are sent to, without the last part.
    inbox: String,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    is_closed: bool,
    next: u64,
    /// By the last part of the subject that an answer is sent to. That of a stream is told by its subscription: what JetStream delivers keeps the
    /// subject under which it was published.
    answers: HashMap<u64, mpsc::Sender<Message>>,
}

impl Connection {
    /// Connects to a server: `127.0.0.1:4222`.
    pub async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let inbox = format!("_INBOX.{:016x}", rand::random::<u64>());
        let (writes, queue) = mpsc::channel(WRITES_MAX);
        writes
            .send(format!("{CONNECT}SUB {inbox}.* {ANSWERS}\r\n"))
            .await?;
        let waiting = Arc::<Mutex<Waiting>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(write(writer, queue, Arc::clone(&waiting)));
        tasks.spawn(read(reader, writes.clone(), Arc::clone(&waiting)));
        Ok(Self {
            writes,
            waiting,
            inbox,
            _tasks: tasks,
        })
    }

    /// It is broken.
    pub fn is_closed(&self) -> bool {
        lock(&self.waiting).is_closed
    }

    /// Sends a request and waits for its answer.
    pub async fn request(
        &self,
        subject: &str,
        headers: &str,
        payload: &[u8],
    ) -> anyhow::Result<Message> {
        let (token, mut answers) = self.expect(1)?;
        let inbox = format!("{}.{token}", self.inbox);
        let mut text = String::new();
        let body = std::str::from_utf8(payload)?;
        if headers.is_empty() {
            write!(text, "PUB {subject} {inbox} {}\r\n{body}\r\n", body.len())?;
        } else {
            let head = format!("NATS/1.0\r\n{headers}\r\n\r\n");
            let (length, total) = (head.len(), head.len() + body.len());
            write!(
                text,
                "HPUB {subject} {inbox} {length} {total}\r\n{head}{body}\r\n"
            )?;
        }
        self.writes.send(text).await?;
        answers.recv().await.context("the connection broke")
    }

    /// A subject of its own, and what is delivered to it. What is not taken stops everything else on this connection.
    pub async fn listen(&self, room: usize) -> anyhow::Result<(String, mpsc::Receiver<Message>)> {
        let (token, messages) = self.expect(room)?;
        let subject = format!("{}.stream.{token}", self.inbox);
        let subscription = ANSWERS + 1 + token;
        self.writes
            .send(format!("SUB {subject} {subscription}\r\n"))
            .await?;
        Ok((subject, messages))
    }

    fn expect(&self, room: usize) -> anyhow::Result<(u64, mpsc::Receiver<Message>)> {
        let (sender, receiver) = mpsc::channel(room);
        let mut waiting = lock(&self.waiting);
        if waiting.is_closed {
            bail!("the connection is closed");
        }
        // Those who gave up are forgotten here, so that the table has no more than wait at once.
        waiting.answers.retain(|_, answer| !answer.is_closed());
        let token = waiting.next;
        waiting.next += 1;
        waiting.answers.insert(token, sender);
        Ok((token, receiver))
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All who wait hear that nothing will come.
fn close(waiting: &Mutex<Waiting>) {
    let mut waiting = lock(waiting);
    waiting.is_closed = true;
    waiting.answers.clear();
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::Receiver<String>,
    waiting: Arc<Mutex<Waiting>>,
) {
    while let Some(text) = queue.recv().await {
        if writer.write_all(text.as_bytes()).await.is_err() {
            break;
        }
    }
    close(&waiting);
}

async fn read(reader: OwnedReadHalf, writes: mpsc::Sender<String>, waiting: Arc<Mutex<Waiting>>) {
    let mut reader = BufReader::new(reader);
    // Whatever ends it, the connection is of no use any more.
    while let Ok(Some(())) = read_one(&mut reader, &writes, &waiting).await {}
    close(&waiting);
}

/// Takes in one line with what belongs to it. `None`: the server has closed the connection.
async fn read_one(
    reader: &mut BufReader<OwnedReadHalf>,
    writes: &mpsc::Sender<String>,
    waiting: &Mutex<Waiting>,
) -> anyhow::Result<Option<()>> {
    let mut line = String::new();
    if reader.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (head_length, fields): (usize, Vec<&str>) = match words.next() {
        Some("MSG") => (0, words.collect()),
        Some("HMSG") => {
            let mut fields: Vec<&str> = words.collect();
            let place = fields.len().checked_sub(2).context("a short line")?;
            (fields.remove(place).parse()?, fields)
        }
        Some("PING") => {
            writes.send("PONG\r\n".to_owned()).await?;
            return Ok(Some(()));
        }
        Some("-ERR") => bail!("the server says {line}"),
        _ => return Ok(Some(())),
    };
    let (subject, subscription, reply, length) = match fields.as_slice() {
        [subject, subscription, length] => (*subject, *subscription, "", *length),
        [subject, subscription, reply, length] => (*subject, *subscription, *reply, *length),
        _ => bail!("a line of another form: {line}"),
    };
    let subscription: u64 = subscription.parse()?;
    let length: usize = length.parse()?;
    if length > BYTES_MAX || head_length > length {
        bail!("a message of {length} bytes");
    }
    let mut bytes = vec![0; length + 2];
    reader.read_exact(&mut bytes).await?;
    bytes.truncate(length);
    let mut head = Bytes::from(bytes);
    let payload = head.split_off(head_length);
    let token: Option<u64> = match subscription.checked_sub(ANSWERS + 1) {
        Some(token) => Some(token),
        None => subject
            .rsplit('.')
            .next()
            .and_then(|last| last.parse().ok()),
    };
    let answer = token.and_then(|token| lock(waiting).answers.get(&token).cloned());
    let Some(answer) = answer else {
        return Ok(Some(()));
    };
    let message = Message {
        reply: reply.to_owned(),
        headers: String::from_utf8_lossy(&head).into_owned(),
        payload,
    };
    // Whoever gave up does not want it.
    let _gone = answer.send(message).await;
    Ok(Some(()))
}
