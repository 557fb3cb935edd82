//! The only way to standard output and standard error: data to the one, words to the other.
//!
//! Data is text for people, or one JSON object per line; words are for people in both cases. Nothing is printed twice, and nothing is kept
//! back after a flush. Begin with [`Output::line`].

use std::fmt::{self, Display, Write as _};
use std::io::{self, BufWriter, Write};

use clap::ValueEnum;
use serde::Serialize;

/// How data looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: one object per line
    Json,
}

impl Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// A record that is a row of a table in text.
pub(super) trait Row: Serialize {
    /// What stands above the columns.
    const HEADER: &'static [&'static str];

    /// The columns.
    fn cells(&self) -> Vec<String>;
}

/// Standard output and standard error.
pub(super) struct Output {
    format: Format,
    data: Box<dyn Write + Send>,
    words: Box<dyn Write + Send>,
}

impl Output {
    /// Those of this process.
    pub(super) fn standard(format: Format) -> Self {
        Self {
            format,
            data: Box::new(BufWriter::new(io::stdout())),
            words: Box::new(io::stderr()),
        }
    }

    /// How data looks.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// One answer: `text` for people, `record` for programs.
    pub(super) fn line(&mut self, text: impl Display, record: &impl Serialize) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.data, "{text}"),
            Format::Json => self.object(record),
        }
    }

    /// A table, with its header when there is one; for programs its rows.
    pub(super) fn table<R: Row>(&mut self, header: Option<&[&str]>, rows: &[R]) -> io::Result<()> {
        if self.format == Format::Json {
            return rows.iter().try_for_each(|row| self.object(row));
        }
        self.data.write_all(aligned(header, rows).as_bytes())
    }

    /// Bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.data.write_all(bytes)
    }

    /// Words for people.
    pub(super) fn word(&mut self, words: impl Display) -> io::Result<()> {
        // What was said by data before is to be seen before.
        self.data.flush()?;
        writeln!(self.words, "{words}")
    }

    /// What went wrong: words, or one object.
    pub(super) fn problem(&mut self, words: &str, record: &impl Serialize) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.words, "error: {words}"),
            Format::Json => writeln!(self.words, "{}", serde_json::to_string(record)?),
        }
    }

    /// Gives on what is printed so far.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
    }

    fn object(&mut self, record: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.data, record)?;
        self.data.write_all(b"\n")
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// A table as text.
pub(super) fn aligned<R: Row>(header: Option<&[&str]>, rows: &[R]) -> String {
    let header = header.map(|header| header.iter().map(|cell| (*cell).to_owned()).collect());
    let lines: Vec<Vec<String>> = header
        .into_iter()
        .chain(rows.iter().map(Row::cells))
        .collect();
    align(&lines)
}

/// Lines whose columns begin at the same place, two spaces after the longest cell before.
fn align(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (width, cell) in widths.iter().zip(line) {
            // Writing into a text does not fail.
            let _always = write!(row, "{cell:width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod captured {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What was printed.
    pub(in super::super) struct Captured {
        data: Buffer,
        words: Buffer,
    }

    impl Captured {
        pub(in super::super) fn data(&self) -> String {
            self.data.text()
        }

        pub(in super::super) fn words(&self) -> String {
            self.words.text()
        }
    }

    impl Output {
        /// One that keeps what is printed.
        pub(in super::super) fn captured(format: Format) -> (Self, Captured) {
            let (data, words) = (Buffer::default(), Buffer::default());
            let output = Self {
                format,
                data: Box::new(data.clone()),
                words: Box::new(words.clone()),
            };
            (output, Captured { data, words })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let line = |cells: &[&str]| {
            cells
                .iter()
                .map(|cell| (*cell).to_owned())
                .collect::<Vec<_>>()
        };
        let lines = [line(&["a", "long", "x"]), line(&["longer", "b", ""])];
        assert_eq!(align(&lines), "a       long  x\nlonger  b\n");
    }

    #[test]
    fn json_is_one_object_per_line() {
        let (mut output, written) = Output::captured(Format::Json);
        output.line("words", &serde_json::json!({"a": 1})).unwrap();
        output
            .line("words", &serde_json::json!({"b": "x\ny"}))
            .unwrap();
        assert_eq!(written.data(), "{\"a\":1}\n{\"b\":\"x\\ny\"}\n");
    }
}
