//! What can be wrong with settings.

use std::path::{Path, PathBuf};

use super::Origin;

/// Why there is no configuration. One sentence that names the key and where its value came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, or is not TOML.
    #[error("configuration file {path} cannot be read: {problem}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        problem: String,
    },
    /// There is no such setting.
    #[error("unknown setting {key} in {}{}", place(file.as_deref()), suggestion(nearest.as_deref()))]
    UnknownKey {
        /// As it is written there.
        key: String,
        /// The file that it is written in; none when it is a variable.
        file: Option<PathBuf>,
        /// A setting that is written almost like it.
        nearest: Option<String>,
    },
    /// A value is of another kind, or outside what makes sense.
    #[error("setting {key} ({origin}): {problem}")]
    Value {
        /// The setting.
        key: String,
        /// Where the value came from.
        origin: Origin,
        /// What it is, and what it must be.
        problem: String,
    },
}

fn place(file: Option<&Path>) -> String {
    file.map_or_else(
        || "the environment".to_owned(),
        |file| format!("file {}", file.display()),
    )
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!(": did you mean {key}?"))
}
