//! The log: one subscriber for the process, lines on standard error.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people: time, level, place, words, fields.
    #[default]
    Text,
    /// For programs: one JSON object.
    Json,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A filter in the language of `tracing-subscriber`: `info`, or `info,cubecast::router=debug`. Checked by [`Options::new`].
    filter: String,
    format: Format,
}

impl Options {
    /// Checks the filter.
    ///
    /// # Errors
    /// [`Error::Filter`] when it cannot be read.
    pub fn new(filter: &str, format: Format) -> Result<Self, Error> {
        parse(filter)?;
        Ok(Self {
            filter: filter.to_owned(),
            format,
        })
    }

    /// The filter.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }
}

/// Sends the log of this process to standard error. Once per process.
///
/// # Errors
/// [`Error::Started`] when it has been done before.
pub fn start_log(options: &Options) -> Result<(), Error> {
    subscriber(options, io::stderr)?
        .try_init()
        .map_err(|_| Error::Started)
}

/// The subscriber that writes to `writer`.
fn subscriber<W>(options: &Options, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parse(&options.filter)?)
        .with_writer(writer)
        .with_ansi(false);
    Ok(match options.format {
        Format::Text => Box::new(lines.finish()),
        Format::Json => Box::new(lines.json().flatten_event(true).finish()),
    })
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| Error::Filter {
            filter: filter.to_owned(),
            problem: error.to_string(),
        })
}

/// Why there is no log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The filter cannot be read.
    #[error(
        "log filter {filter:?} cannot be read ({problem}); such as: info,cubecast::router=debug"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What the parser says.
        problem: String,
    },
    /// The process has a subscriber already.
    #[error("the log of this process has been started before")]
    Started,
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, format: Format) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let options = Options::new(filter, format).unwrap();
        let subscriber = subscriber(&options, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(shard = "100", "became leader");
            tracing::debug!("not wanted");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_line_has_words_and_fields_and_no_colours() {
        let text = logged("info", Format::Text);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("INFO cubecast::telemetry::log::tests: became leader shard=\"100\""));
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn json_line_is_one_object() {
        let text = logged("info", Format::Json);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "became leader");
        assert_eq!(line["shard"], "100");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn filter_that_cannot_be_read_is_refused() {
        let error = Options::new("info,cubecast=lowd", Format::Text).unwrap_err();
        assert!(error.to_string().contains("\"info,cubecast=lowd\""));
        assert_eq!(logged("warn", Format::Text), "");
    }
}
