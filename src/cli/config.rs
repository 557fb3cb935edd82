//! `config`: what the settings are, where each came from, and an example file. It starts no peer. Begin with [`run`].

use anyhow::Result;
use clap::Subcommand;

use super::argument::NodeSettings;
use super::output::{Output, Row};
use super::record;
use crate::config;

/// Show the settings of a peer, and an example file
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Tell each setting's value, and where it came from
    Show {
        #[command(flatten)]
        settings: NodeSettings,
    },
    /// Print a file with every setting and its default
    Example,
}

pub(super) fn run(command: Command, output: &mut Output) -> Result<()> {
    match command {
        Command::Show { settings } => show(&settings, output),
        Command::Example => Ok(output.bytes(config::example()?.as_bytes())?),
    }
}

fn show(settings: &NodeSettings, output: &mut Output) -> Result<()> {
    let rows: Vec<record::Setting> = settings
        .0
        .load()?
        .rows
        .into_iter()
        .map(Into::into)
        .collect();
    Ok(output.table(Some(<record::Setting as Row>::HEADER), &rows)?)
}

impl From<config::Row> for record::Setting {
    fn from(row: config::Row) -> Self {
        Self {
            key: row.key,
            value: row.value,
            origin: row.origin.to_string(),
        }
    }
}
