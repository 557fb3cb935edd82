//! Arguments that several commands share, and the flags made from the table of settings.
//!
//! Nothing is done here but parsing. Begin with [`Global`] and [`Settings`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, ValueEnum};
use cubecast_sdk::{AckLevel, Consistency, Start};

use super::exit::Failure;
use super::output::Format;
use crate::config::{Config, Kind, SETTINGS, Setting, Sources};

/// Where `dev` listens unless told otherwise.
const DEV_PORTS: std::ops::RangeInclusive<u16> = 8000..=8007;
/// For a call with all its attempts.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The settings of a single peer of `dev` that it chooses itself.
const CHOSEN_BY_DEV: [&str; 4] = ["peer", "port", "advertise", "peers"];

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct Global {
    /// Address of a peer, such as 127.0.0.1:8000; several with commas or by repetition [default: the eight of `cubecast dev`]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        value_delimiter = ',',
        env = "CUBECAST_ADDRESS",
        hide_env_values = true
    )]
    address: Vec<String>,
    /// How the data on standard output looks; json is one object per line
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "CUBECAST_OUTPUT",
        hide_env_values = true
    )]
    pub(super) output: Format,
    /// Tell on standard error how long each call took
    #[arg(long, global = true)]
    pub(super) timing: bool,
    /// How long a call may take with all its attempts, such as 500ms [default: 10s; health: 1s]
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

impl Global {
    /// The addresses that were given; none when there were none.
    pub(super) fn given_addresses(&self) -> Vec<String> {
        let given = self.address.iter().map(|address| address.trim());
        given
            .filter(|address| !address.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// The addresses to ask.
    pub(super) fn addresses(&self) -> Vec<String> {
        let given = self.given_addresses();
        if given.is_empty() {
            DEV_PORTS
                .map(|port| format!("http://127.0.0.1:{port}"))
                .collect()
        } else {
            given
        }
    }

    /// How long a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout_or(TIMEOUT)
    }

    /// How long a call may take that usually takes no longer than `usual`.
    pub(super) fn timeout_or(&self, usual: Duration) -> Duration {
        self.timeout.unwrap_or(usual)
    }
}

/// When a publish is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Acks {
    /// When the owner has it on disk, and a majority too: sooner no offset is certain
    Owner,
    /// When a majority of the voters has it on disk
    Quorum,
    /// When every replica has it on disk
    All,
}

impl From<Acks> for AckLevel {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::Owner => Self::Owner,
            Acks::Quorum => Self::Quorum,
            Acks::All => Self::All,
        }
    }
}

/// What a read is sure to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Reading {
    /// What the leader has committed
    Leader,
    /// Every publish acknowledged before
    Linearizable,
    /// What any replica has, perhaps old
    Eventual,
}

impl From<Reading> for Consistency {
    fn from(reading: Reading) -> Self {
        match reading {
            Reading::Leader => Self::Leader,
            Reading::Linearizable => Self::Linearizable,
            Reading::Eventual => Self::Eventual,
        }
    }
}

/// Reads a place in a topic: `earliest`, `latest`, an offset, or a time such as `2026-01-31T12:00:00Z`.
pub(super) fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text
            .parse()
            .map(Start::Offset)
            .map_err(|_| format!("{text} is too large for an offset")),
        _ => humantime::parse_rfc3339_weak(text)
            .map(Start::Time)
            .map_err(|_| {
                "it is not earliest, latest, an offset, or a time such as 2026-01-31T12:00:00Z"
                    .to_owned()
            }),
    }
}

/// The settings of a peer, given by a file and by flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    file: Option<PathBuf>,
    flags: Vec<(&'static Setting, String)>,
}

impl Settings {
    /// All sources: file, environment, flags.
    pub(super) fn sources(&self) -> Sources {
        let mut sources = Sources::default().environment(std::env::vars_os());
        if let Some(file) = &self.file {
            sources = sources.file(file.clone());
        }
        self.flags
            .iter()
            .fold(sources, |sources, (setting, value)| {
                sources.flag(setting, value)
            })
    }

    /// The settings, checked.
    pub(super) fn load(&self) -> Result<Config> {
        config(&self.sources())
    }
}

/// The settings of these sources. A wrong one is wrong usage.
pub(super) fn config(sources: &Sources) -> Result<Config> {
    Ok(Config::load(sources).map_err(|error| Failure::Usage(error.to_string()))?)
}

fn is_for_node(_: &Setting) -> bool {
    true
}

fn is_for_dev(setting: &Setting) -> bool {
    !CHOSEN_BY_DEV.contains(&setting.key)
}

fn arguments(command: clap::Command, is_taken: fn(&Setting) -> bool) -> clap::Command {
    let file = Arg::new("config").long("config").value_name("FILE");
    let file = file.value_parser(clap::value_parser!(PathBuf));
    let file = file
        .help("File with settings; `cubecast config example` prints one [env: CUBECAST_CONFIG]");
    let settings = SETTINGS
        .iter()
        .filter(|setting| is_taken(setting))
        .map(argument);
    command
        .next_help_heading("Settings of the peer")
        .arg(file)
        .args(settings)
}

fn argument(setting: &'static Setting) -> Arg {
    let argument = Arg::new(setting.key)
        .long(setting.flag())
        .action(ArgAction::Set);
    let argument = argument.help(format!(
        "{} [env: {}]",
        setting.help.trim_end_matches('.'),
        setting.variable()
    ));
    match setting.kind {
        Kind::Text => argument.value_name("TEXT"),
        Kind::Number => argument.value_name("N"),
        Kind::Duration => argument.value_name("TIME"),
        Kind::List => argument.value_name("A,B,…"),
        // The flag alone says yes.
        Kind::Truth => argument
            .value_name("true|false")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
    }
}

fn settings(matches: &ArgMatches, is_taken: fn(&Setting) -> bool) -> Settings {
    let value = |setting: &'static Setting| {
        Some((setting, matches.get_one::<String>(setting.key)?.clone()))
    };
    Settings {
        file: matches.get_one::<PathBuf>("config").cloned(),
        flags: SETTINGS
            .iter()
            .filter(|setting| is_taken(setting))
            .filter_map(value)
            .collect(),
    }
}

/// [`Settings`] of one peer, or of the peers that `dev` makes.
macro_rules! flattened {
    ($(#[$doc:meta])* $name:ident, $is_taken:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub(super) struct $name(pub(super) Settings);

        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(settings(matches, $is_taken)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0 = settings(matches, $is_taken);
                Ok(())
            }
        }

        impl Args for $name {
            fn augment_args(command: clap::Command) -> clap::Command {
                arguments(command, $is_taken)
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                arguments(command, $is_taken)
            }
        }
    };
}

flattened! {
    /// Every setting.
    NodeSettings, is_for_node
}
flattened! {
    /// Every setting but those that tell one peer from another.
    DevSettings, is_for_dev
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_in_a_topic_is_a_word_an_offset_or_a_time() {
        assert_eq!(start("earliest"), Ok(Start::Earliest));
        assert_eq!(start("latest"), Ok(Start::Latest));
        assert_eq!(start("42"), Ok(Start::Offset(42)));
        let time = humantime::parse_rfc3339("2026-01-31T12:00:00Z").unwrap();
        assert_eq!(start("2026-01-31T12:00:00Z"), Ok(Start::Time(time)));
        for wrong in ["", "newest", "-1", "99999999999999999999"] {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }
}
