//! Lines of a stream, taken together into batches.
//!
//! A batch is given out when it is full, when the stream ends, or when nothing has come for a moment; so memory is bounded, a large file is
//! sent in large requests, and a line that somebody types is sent at once. Lines need not be text. Begin with [`Batches::next`].

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::exit::Failure;

/// Messages of one publish. Far below the peers' default limit; more gain nothing.
const MESSAGES_MAX: usize = 1_000;
/// Bytes of the messages of one publish, unless one message alone has more. The peers take 4 MiB by default.
const BYTES_MAX: usize = 1 << 20;
/// A longer line is refused before it is in memory. The peers refuse much shorter ones by default.
const LINE_BYTES_MAX: usize = 64 << 20;
/// How long the first line of a batch waits for the next one.
const LINGER: Duration = Duration::from_millis(5);

/// The lines of a reader, without their ends. An empty last line is none.
#[derive(Debug)]
struct Lines<R> {
    reader: R,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// Lines given out.
    number: u64,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next line. When it is dropped while it waits, nothing is lost: what was read stays in `partial`.
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let read = self.reader.fill_buf().await?;
            if read.is_empty() {
                let last = std::mem::take(&mut self.partial);
                return Ok(Some(last).filter(|line| !line.is_empty()));
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(read.len());
            self.partial.extend(read.iter().take(taken));
            self.reader.consume(end.map_or(taken, |end| end + 1));
            if self.partial.len() > LINE_BYTES_MAX {
                let number = self.number + 1;
                return Err(Failure::Failed(format!(
                    "line {number} has more than {LINE_BYTES_MAX} bytes"
                ))
                .into());
            }
            if end.is_some() {
                self.number += 1;
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
        }
    }
}

/// The batches of a reader.
#[derive(Debug)]
pub(super) struct Batches<R> {
    lines: Lines<R>,
    /// Read, and too much for the batch before; or what went wrong after it.
    held: Option<Result<Vec<u8>>>,
}

impl<R: AsyncBufRead + Unpin> Batches<R> {
    pub(super) fn new(reader: R) -> Self {
        let lines = Lines {
            reader,
            partial: Vec::new(),
            number: 0,
        };
        Self { lines, held: None }
    }

    /// The next lines: at least one, or `None` at the end.
    ///
    /// # Errors
    /// When the stream cannot be read. The lines before are given out first.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>> {
        let first = match self.held.take() {
            Some(held) => Some(held?),
            None => self.lines.next().await?,
        };
        let Some(first) = first else { return Ok(None) };
        let mut bytes = first.len();
        let mut batch = vec![first];
        while batch.len() < MESSAGES_MAX && bytes < BYTES_MAX {
            match tokio::time::timeout(LINGER, self.lines.next()).await {
                Err(_) | Ok(Ok(None)) => break,
                Ok(Ok(Some(line))) if bytes + line.len() <= BYTES_MAX => {
                    bytes += line.len();
                    batch.push(line);
                }
                Ok(Ok(Some(line))) => {
                    self.held = Some(Ok(line));
                    break;
                }
                Ok(Err(error)) => {
                    self.held = Some(Err(error));
                    break;
                }
            }
        }
        Ok(Some(batch))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, BufReader};

    use super::*;

    async fn batches(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut batches = Batches::new(BufReader::with_capacity(7, bytes));
        let mut all = Vec::new();
        while let Some(batch) = batches.next().await.unwrap() {
            all.push(batch);
        }
        all
    }

    #[tokio::test]
    async fn lines_need_no_last_end_and_may_be_empty_or_no_text() {
        let lines = batches(b"one\n\na line longer than the buffer\n\xff\xfe").await;
        assert_eq!(
            lines,
            [[
                &b"one"[..],
                b"",
                b"a line longer than the buffer",
                b"\xff\xfe"
            ]]
        );
        assert!(batches(b"").await.is_empty());
        assert_eq!(batches(b"\n").await, [[b""]]);
    }

    #[tokio::test]
    async fn batch_has_no_more_messages_than_allowed() {
        let counts: Vec<usize> = batches("x\n".repeat(2 * MESSAGES_MAX + 1).as_bytes())
            .await
            .iter()
            .map(Vec::len)
            .collect();
        assert_eq!(counts, [MESSAGES_MAX, MESSAGES_MAX, 1]);
    }

    #[tokio::test]
    async fn batch_has_no_more_bytes_than_allowed_unless_one_message_has() {
        let half = "h".repeat(BYTES_MAX / 2);
        let large = "l".repeat(BYTES_MAX + 1);
        let text = format!("{half}\n{half}\n{half}\n{large}\nend\n");
        let counts: Vec<usize> = batches(text.as_bytes())
            .await
            .iter()
            .map(Vec::len)
            .collect();
        assert_eq!(counts, [2, 1, 1, 1]);
    }

    #[tokio::test]
    async fn line_that_comes_alone_is_given_out_before_the_end() {
        let (mut writer, reader) = tokio::io::duplex(64);
        let mut batches = Batches::new(BufReader::new(reader));
        writer.write_all(b"first\nsec").await.unwrap();
        assert_eq!(batches.next().await.unwrap().unwrap(), [b"first"]);
        writer.write_all(b"ond\n").await.unwrap();
        assert_eq!(batches.next().await.unwrap().unwrap(), [b"second"]);
        drop(writer);
        assert!(batches.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn lines_before_an_error_are_given_out() {
        let broken = tokio_test_reader();
        let mut batches = Batches::new(broken);
        assert_eq!(batches.next().await.unwrap().unwrap(), [b"good"]);
        assert!(batches.next().await.is_err());
    }

    /// A line, then an error.
    fn tokio_test_reader() -> impl AsyncBufRead + Unpin {
        let parts = [Ok(&b"good\n"[..]), Err(std::io::Error::other("broken"))];
        tokio_util::io::StreamReader::new(futures::stream::iter(parts))
    }
}
