//! The layers of settings and where each value came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::error::{Actual, Kind as Wrong};
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::Error;
use super::raw::Raw;
use super::setting::{Kind, OTHER_VARIABLES, SETTINGS, Setting, VARIABLE_PREFIX};
use crate::types::PeerId;

/// Where settings are looked for, each over the one before: file, environment, flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    file: Option<PathBuf>,
    /// Variables with the prefix, the name first.
    environment: BTreeMap<String, String>,
    /// Keys of settings, with the text of the value.
    flags: BTreeMap<&'static str, String>,
}

impl Sources {
    /// Reads this file, and not the one that `CUBECAST_CONFIG` names.
    #[must_use]
    pub fn file(mut self, path: PathBuf) -> Self {
        self.file = Some(path);
        self
    }

    /// Reads these variables; those that do not begin with `CUBECAST_` are passed over. Give it `std::env::vars_os()`.
    #[must_use]
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let text = |os: OsString| os.to_string_lossy().into_owned();
        self.environment = variables
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
            .collect();
        self
    }

    /// Sets one setting above all else, as the flag made from the table was given.
    #[must_use]
    pub fn flag(mut self, setting: &'static Setting, value: &str) -> Self {
        self.flags.insert(setting.key, value.to_owned());
        self
    }

    /// Sets the number of the peer, as its flag would.
    pub(super) fn peer(mut self, peer: PeerId) -> Self {
        self.flags.insert("peer", peer.to_string());
        self
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// Nobody set it, and it follows from other settings.
    Derived,
    /// The file.
    File(PathBuf),
    /// The variable of this name.
    Environment(String),
    /// The flag of this name, without dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Derived => f.write_str("derived"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag(flag) => write!(f, "flag --{flag}"),
        }
    }
}

/// One setting as `config show` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key in the file.
    pub key: &'static str,
    /// The value as it would be written in the environment.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

const ENVIRONMENT: &str = "environment";
const FLAGS: &str = "flags";

/// The sources, read and laid over each other. Every key in them is a setting.
pub(super) struct Layers(Figment);

impl Layers {
    pub(super) fn of(sources: &Sources) -> Result<Self, Error> {
        let mut figment = Figment::from(Serialized::defaults(Raw::default()));
        let named = sources
            .environment
            .get("CUBECAST_CONFIG")
            .map(PathBuf::from);
        if let Some(path) = sources.file.clone().or(named) {
            figment = figment.merge(file(&path)?);
        }
        let environment = Texts::of(ENVIRONMENT, environment(sources)?)?;
        let flags = sources.flags.iter();
        let flags = flags.filter_map(|(key, text)| Some((Setting::with_key(key)?, text.as_str())));
        let flags = Texts::of(FLAGS, flags.collect())?;
        Ok(Self(figment.merge(environment).merge(flags)))
    }

    /// The settings as they are written.
    pub(super) fn raw(&self) -> Result<Raw, Error> {
        self.0.extract().map_err(|error| {
            let key = error.path.join(".");
            let setting = Setting::holding(&key);
            let problem = match (error.kind, setting) {
                (Wrong::InvalidType(actual, _), Some(setting)) => {
                    format!("{} is not {}", found(&actual), setting.kind.description())
                }
                (Wrong::InvalidValue(actual @ (Actual::Signed(_) | Actual::Unsigned(_)), _), _) => {
                    format!("{} is out of range", found(&actual))
                }
                (Wrong::InvalidValue(actual, _), Some(setting)) => {
                    format!("{} is not {}", found(&actual), setting.kind.description())
                }
                (kind, _) => kind.to_string(),
            };
            self.wrong(&key, problem)
        })
    }

    /// What to answer when a value makes no sense.
    pub(super) fn wrong(&self, key: &str, problem: String) -> Error {
        Error::Value {
            key: key.to_owned(),
            origin: self.origin(key),
            problem,
        }
    }

    /// Every setting with its value in `raw`, which holds the derived ones too.
    pub(super) fn rows(&self, raw: &Raw) -> Vec<Row> {
        // What serde can read from TOML it can write; a row without a value would show it.
        let values = Value::serialize(raw).unwrap_or_else(|_| Value::from(Dict::new()));
        let row = |setting: &'static Setting| Row {
            key: setting.key,
            value: values.find_ref(setting.key).map(text).unwrap_or_default(),
            origin: self.origin(setting.key),
        };
        SETTINGS.iter().map(row).collect()
    }

    fn origin(&self, key: &str) -> Origin {
        let setting = Setting::holding(key);
        let metadata = self.0.find_metadata(key);
        match (metadata.map(|metadata| &*metadata.name), setting) {
            (Some(ENVIRONMENT), Some(setting)) => Origin::Environment(setting.variable()),
            (Some(FLAGS), Some(setting)) => Origin::Flag(setting.flag()),
            _ => match metadata.and_then(|metadata| metadata.source.as_ref()?.file_path()) {
                Some(path) => Origin::File(path.to_owned()),
                None if matches!(self.0.find_value(key), Ok(Value::Empty(..))) => Origin::Derived,
                None => Origin::Default,
            },
        }
    }
}

/// The file, after a look at its keys.
fn file(path: &Path) -> Result<impl Provider, Error> {
    let provider = Toml::file_exact(path);
    let data = provider.data().map_err(|error| Error::File {
        path: path.to_owned(),
        problem: error.kind.to_string().trim_end().to_owned(),
    })?;
    for dict in data.values() {
        for (key, value) in dict {
            known(key, value, path)?;
        }
    }
    Ok(provider)
}

/// Every key at and below this one is a setting.
fn known(key: &str, value: &Value, file: &Path) -> Result<(), Error> {
    match value.as_dict() {
        Some(table) => table
            .iter()
            .try_for_each(|(name, value)| known(&format!("{key}.{name}"), value, file)),
        None if Setting::with_key(key).is_some() => Ok(()),
        None => Err(Error::UnknownKey {
            key: key.to_owned(),
            file: Some(file.to_owned()),
            nearest: nearest(key, SETTINGS.iter().map(|setting| setting.key.to_owned())),
        }),
    }
}

/// The settings among the variables.
fn environment(sources: &Sources) -> Result<Vec<(&'static Setting, &str)>, Error> {
    let ours = sources.environment.iter();
    ours.filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str()))
        .map(|(name, value)| {
            let setting = SETTINGS.iter().find(|setting| setting.variable() == *name);
            let setting = setting.ok_or_else(|| Error::UnknownKey {
                key: name.clone(),
                file: None,
                nearest: nearest(name, SETTINGS.iter().map(Setting::variable)),
            })?;
            Ok((setting, value.as_str()))
        })
        .collect()
}

/// The key that is written almost like this one, or that only lacks its table here.
fn nearest(key: &str, keys: impl Iterator<Item = String>) -> Option<String> {
    const EDITS_MAX: usize = 3;
    keys.map(|known| {
        let lacks_table = known.ends_with(&format!(".{key}"));
        (if lacks_table { 0 } else { edits(&known, key) }, known)
    })
    .min()
    .filter(|(edits, _)| *edits <= EDITS_MAX)
    .map(|(_, known)| known)
}

/// Levenshtein's distance.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, left) in left.bytes().enumerate() {
        let mut above_left = line;
        let mut before = line + 1;
        let mut next = vec![before];
        for (right, above) in right.bytes().zip(row.iter().skip(1).copied()) {
            let change = above_left + usize::from(left != right);
            before = change.min(above + 1).min(before + 1);
            above_left = above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// A layer of settings that were written as texts.
struct Texts {
    name: &'static str,
    values: Dict,
}

impl Texts {
    fn of(name: &'static str, texts: Vec<(&'static Setting, &str)>) -> Result<Self, Error> {
        let mut values = Dict::new();
        for (setting, text) in texts {
            let value = setting.kind.parse(text).ok_or_else(|| Error::Value {
                key: setting.key.to_owned(),
                origin: if name == FLAGS {
                    Origin::Flag(setting.flag())
                } else {
                    Origin::Environment(setting.variable())
                },
                problem: format!("{text:?} is not {}", setting.kind.description()),
            })?;
            let Some((table, key)) = setting.key.split_once('.') else {
                values.insert(setting.key.to_owned(), value);
                continue;
            };
            let table = values.entry(table.to_owned());
            if let Value::Dict(_, table) = table.or_insert_with(|| Dict::new().into()) {
                table.insert(key.to_owned(), value);
            }
        }
        Ok(Self { name, values })
    }
}

impl Provider for Texts {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Kind {
    /// What a value of this kind is, for a sentence.
    fn description(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a whole number from 0",
            Self::Truth => "true or false",
            Self::Duration => "a time such as 250ms or 10s",
            Self::List => "a list of texts",
        }
    }

    fn parse(self, text: &str) -> Option<Value> {
        match self {
            Self::Text | Self::Duration => Some(Value::from(text)),
            Self::Number => text.parse::<u64>().ok().map(Value::from),
            Self::Truth => text.parse::<bool>().ok().map(Value::from),
            Self::List => {
                let items = text.split(',').map(str::trim);
                Some(Value::from(items.map(Value::from).collect::<Vec<_>>()))
            }
        }
    }
}

/// What stands in the place of a value.
fn found(actual: &Actual) -> String {
    match actual {
        Actual::Str(text) => format!("{text:?}"),
        Actual::Signed(number) => number.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        other => other.to_string(),
    }
}

/// A value as it would be written in the environment.
fn text(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Bool(_, truth) => truth.to_string(),
        Value::Num(_, number) => number.to_u128().map_or_else(String::new, |n| n.to_string()),
        Value::Array(_, items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Char(..) | Value::Empty(..) | Value::Dict(..) => String::new(),
    }
}
