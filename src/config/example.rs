//! The example file, made from the table.

use super::setting::{Kind, Setting};
use super::{Config, Error, Sources};

const HEAD: &str = "\
# Settings of a cubecast peer. Each line shows the default: take away its # to change it.
# Use it with `cubecast node --config cubecast.toml` or CUBECAST_CONFIG=cubecast.toml.
# A setting is also a variable (CUBECAST_LOG_FILTER) and a flag (--log-filter); flags win over variables, variables over this file.
# `cubecast config show` tells each value and where it came from.
";

/// A file that names every setting, with its default in a comment.
///
/// # Errors
/// Never: the defaults are settings of a peer.
pub fn example() -> Result<String, Error> {
    let defaults = Config::load(&Sources::default())?.rows;
    let mut file = HEAD.to_owned();
    let mut table_before = "";
    for row in defaults {
        let (table, name) = row.key.split_once('.').unwrap_or(("", row.key));
        if table != table_before {
            file.push_str(&format!("\n[{table}]"));
            table_before = table;
        }
        if let Some(setting) = Setting::with_key(row.key) {
            let value = toml(setting.kind, &row.value);
            file.push_str(&format!("\n# {}\n# {name} = {value}\n", setting.help));
        }
    }
    Ok(file)
}

/// A value as it is written in the file.
fn toml(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Text | Kind::Duration => format!("{text:?}"),
        Kind::Number | Kind::Truth => text.to_owned(),
        Kind::List => format!("[\"{}\"]", text.replace(',', "\", \"")),
    }
}
