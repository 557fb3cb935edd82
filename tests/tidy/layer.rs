//! Who may name whom: a module names only modules above it in the table, never a sibling on its own line.

use crate::source::Source;

/// Which of the modules above it a module may name.
enum May {
    /// All of them.
    Above,
    /// All of them but these.
    But(&'static [&'static str]),
    /// These.
    Only(&'static [&'static str]),
    /// These; and of every other above only the options, to compose them.
    OptionsAnd(&'static [&'static str]),
}

/// From the top to the bottom; siblings stand on one line.
const LAYERS: &[&[(&str, May)]] = &[
    &[("types", May::Only(&[]))],
    &[
        ("cube", May::Only(&["types"])),
        ("env", May::Only(&["types"])),
        ("telemetry", May::Only(&["types"])),
    ],
    &[("wal", May::But(&["cube"])), ("store", May::But(&["cube"]))],
    &[("shard", May::But(&["wal", "env", "telemetry"]))],
    &[("link", May::Above)],
    &[("consensus", May::Above)],
    &[("replica", May::Above)],
    &[("cluster", May::Above)],
    &[("broker", May::But(&["link"]))],
    &[("router", May::Above)],
    &[("rpc", May::Above), ("dashboard", May::Above)],
    &[("config", May::OptionsAnd(&["types", "cube"]))],
    &[("node", May::Above)],
    &[("cli", May::Only(&["config", "node", "telemetry", "types"]))],
];

/// The generated types are named here, and nowhere else in the root package.
const NAMES_PROTO: &[&str] = &["link", "consensus", "cluster", "rpc", "dashboard"];
/// The SDK is named here, and where the generated types are, which it owns.
const NAMES_SDK: &[&str] = &["cli", "proto"];
/// These may name all.
const FREE: &[&str] = &["lib", "main", "testing"];
/// What a component takes from the configuration.
const OPTIONS: &[&str] = &["Options", "Format"];

pub fn check(file: &Source) -> Vec<String> {
    let Some(layer) = file.layer() else {
        return Vec::new();
    };
    if FREE.contains(&layer) {
        return Vec::new();
    }
    if layer != "proto" && line_of(layer).is_none() {
        return vec![file.complain(1, &format!("`{layer}` has no line in the table of layers"))];
    }
    let mut violations = Vec::new();
    for (line, path) in file.paths() {
        let Some((named, rest)) = named_layer(file, &path) else {
            continue;
        };
        if named != layer && !may_name(layer, named, rest) {
            violations.push(file.complain(
                line,
                &format!("`{layer}` may not name `{}`", path.join("::")),
            ));
        }
    }
    violations
}

fn line_of(layer: &str) -> Option<usize> {
    LAYERS
        .iter()
        .position(|line| line.iter().any(|(name, _)| *name == layer))
}

/// The layer that a path leads to, with the rest of the path.
fn named_layer<'a>(file: &Source, path: &'a [String]) -> Option<(&'a str, &'a [String])> {
    let (first, mut rest) = path.split_first()?;
    match first.as_str() {
        "crate" => {}
        "cubecast_sdk" => return Some((first, rest)),
        "super" => {
            // `src/a/mod.rs` is one level deep, `src/a/b.rs` two.
            let folders = file.path.matches('/').count();
            let depth = if file.path.ends_with("/mod.rs") {
                folders - 1
            } else {
                folders
            };
            let ups = path.iter().take_while(|word| *word == "super").count();
            if ups < depth {
                return None;
            }
            rest = path.get(ups..)?;
        }
        // In `config`, where a module may be imported for its options alone, what is used of it counts.
        word if file.layer() == Some("config") && line_of(word).is_some() && !rest.is_empty() => {
            return Some((word, rest));
        }
        _ => return None,
    }
    let (named, rest) = rest.split_first()?;
    (line_of(named).is_some() || named == "proto" || FREE.contains(&named.as_str()))
        .then_some((named, rest))
}

fn may_name(layer: &str, named: &str, rest: &[String]) -> bool {
    match named {
        "proto" => return NAMES_PROTO.contains(&layer),
        "cubecast_sdk" => return NAMES_SDK.contains(&layer) || NAMES_PROTO.contains(&layer),
        _ => {}
    }
    let (Some(own), Some(other)) = (line_of(layer), line_of(named)) else {
        return false;
    };
    let may = LAYERS[own].iter().find(|(name, _)| *name == layer);
    let may = may.is_some_and(|(_, may)| match may {
        May::Above => true,
        May::But(not) => !not.contains(&named),
        May::Only(only) => only.contains(&named),
        May::OptionsAnd(only) => {
            only.contains(&named)
                || rest
                    .first()
                    .is_none_or(|item| OPTIONS.contains(&item.as_str()))
        }
    });
    other < own && may
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(path: &str, text: &str) -> bool {
        check(&Source::new(path, text)).is_empty()
    }

    #[test]
    fn names_upwards_are_allowed() {
        for (path, text) in [
            ("src/wal/mod.rs", "use crate::{env::Clock, types::Name};"),
            (
                "src/wal/mod.rs",
                "use crate::wal::Record; use super::super::wal::Other;",
            ),
            ("src/consensus/log.rs", "use crate::{proto, wal};"),
            (
                "src/rpc/mod.rs",
                "use cubecast_sdk::proto::v1; use crate::router::Router;",
            ),
            (
                "src/config/mod.rs",
                "use crate::telemetry; use crate::rpc::Options; fn f(o: telemetry::Options) {}",
            ),
            (
                "src/cli/pull.rs",
                "use cubecast_sdk::Client; use crate::config::Config;",
            ),
            ("src/testing/mod.rs", "use crate::{node, cube};"),
            (
                "src/types/mod.rs",
                "#[cfg(test)] mod tests { use crate::node; }",
            ),
            ("src/types/tests.rs", "use crate::node;"),
            ("tests/it/main.rs", "use cubecast::node;"),
        ] {
            assert!(is_allowed(path, text), "{path}: {text}");
        }
    }

    #[test]
    fn names_downwards_sideways_and_past_an_exception_are_refused() {
        for (path, text) in [
            ("src/types/mod.rs", "use crate::cube::owner;"),
            ("src/types/mod.rs", "use super::cube::owner;"),
            ("src/types/a.rs", "use super::super::cube::owner;"),
            ("src/env/mod.rs", "use crate::{types, telemetry::Metric};"),
            ("src/wal/mod.rs", "fn f() { crate::store::open() }"),
            ("src/store/mod.rs", "use crate::cube::owner;"),
            ("src/shard/mod.rs", "use crate::wal::Record;"),
            ("src/broker/mod.rs", "use crate::link::Link;"),
            ("src/broker/mod.rs", "use crate::proto::peer;"),
            ("src/router/mod.rs", "use cubecast_sdk::proto::v1;"),
            ("src/rpc/mod.rs", "use crate::node::Node;"),
            ("src/config/mod.rs", "use crate::rpc::Server;"),
            (
                "src/config/mod.rs",
                "use crate::telemetry; fn f() { telemetry::start_log() }",
            ),
            ("src/cli/mod.rs", "use crate::broker::Broker;"),
            ("src/node/mod.rs", "use crate::testing::Cluster;"),
            ("src/unheard_of/mod.rs", ""),
        ] {
            assert!(!is_allowed(path, text), "{path}: {text}");
        }
    }
}
