//! `verify`: whether the directory of a peer that does not run is whole. It asks no peer and repairs nothing. Begin with [`run`].

mod record;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::exit::Failure;
use super::output::Output;
use crate::node::inspect::{self, Finding, Verdict};

/// Check every byte that a stopped peer keeps on disk: exit 0 whole, 1 damaged, 2 no such directory, 4 in use
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directory of a peer, or a data directory with those of several
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<()> {
    let mut damaged: u64 = 0;
    let mut printed = Ok(());
    let looked = inspect::inspect(&arguments.directory, &mut |finding| {
        damaged += u64::from(finding.verdict == Verdict::Damaged);
        if printed.is_ok() {
            printed = print(&finding, output);
        }
    });
    printed?;
    looked.map_err(|error| match error {
        inspect::Error::InUse { .. } => Failure::Unavailable(error.to_string()),
        inspect::Error::NoPeer { .. } | inspect::Error::Disk(_) => {
            Failure::Usage(error.to_string())
        }
    })?;
    match damaged {
        0 => Ok(()),
        1 => Err(Failure::Failed("one thing is damaged".to_owned()).into()),
        _ => Err(Failure::Failed(format!("{damaged} things are damaged")).into()),
    }
}

fn print(finding: &Finding, output: &mut Output) -> std::io::Result<()> {
    let verdict = match finding.verdict {
        Verdict::Whole => "whole",
        Verdict::Noted => "noted",
        Verdict::Damaged => "damaged",
    };
    let directory = finding.directory.display().to_string();
    let shard = finding.shard.map(|shard| format!(" of shard {shard}"));
    let place = finding.place.as_ref();
    output.line(
        format_args!(
            "{verdict:7}  {directory}: {}{}: {}",
            finding.thing,
            shard.unwrap_or_default(),
            finding.text
        ),
        &record::Finding {
            directory: &directory,
            thing: finding.thing,
            shard: finding.shard,
            verdict,
            text: &finding.text,
            file: place.map(|place| place.file.display().to_string()),
            position: place.map(|place| place.position),
            expected: place.map(|place| place.expected.as_str()),
            found: place.map(|place| place.found.as_str()),
        },
    )
}

#[cfg(test)]
mod tests;
