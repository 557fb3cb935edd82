//! What is named only in some places: the invariants of ARCHITECTURE.md.

use crate::source::Source;

/// The root package.
const ROOT: &[&str] = &["src/"];
/// Both packages.
const BOTH: &[&str] = &["src/", "sdk/src/"];
/// The deterministic modules.
const PURE: &[&str] = &["src/cube/", "src/shard/"];
/// Where a replay needs order.
const ORDERED: &[&str] = &["src/cube/", "src/shard/", "src/replica/", "src/cluster/"];
const ENV: &[&str] = &["src/env/"];

/// Something that is named only at some places.
struct Absence {
    /// Paths that begin so, and with a leading `..::` paths in which it stands anywhere.
    names: &'static [&'static str],
    /// Files whose path begins so must not name it.
    within: &'static [&'static str],
    /// Except these.
    except: &'static [&'static str],
    reason: &'static str,
}

const ABSENCES: &[Absence] = &[
    Absence {
        names: &["tonic::Status", "..::Status::new"],
        within: BOTH,
        except: &["src/rpc/", "sdk/src/error.rs"],
        reason: "errors become a status in `rpc`, and are read from one in the SDK's `error`",
    },
    Absence {
        names: &["std::fs", "tokio::fs"],
        within: ROOT,
        except: ENV,
        reason: "only `env` touches the file system",
    },
    Absence {
        names: &[
            "std::time::SystemTime",
            "std::time::Instant",
            "std::time::self",
            "std::time::*",
            "..::SystemTime::now",
        ],
        within: ROOT,
        except: ENV,
        reason: "only `env` reads the clock (tokio's, which a simulation can turn, may be used)",
    },
    Absence {
        names: &[
            "..::TcpListener",
            "..::TcpStream",
            "..::TcpSocket",
            "..::TcpIncoming",
            "..::UdpSocket",
            "socket2",
        ],
        within: ROOT,
        except: ENV,
        reason: "only `env` opens sockets",
    },
    Absence {
        names: &["rand", "getrandom"],
        within: ROOT,
        except: ENV,
        reason: "only `env` has entropy",
    },
    Absence {
        names: &["anyhow"],
        within: BOTH,
        except: &["src/main.rs", "src/cli/", "src/testing/"],
        reason: "a library's errors are enums",
    },
    Absence {
        names: &["openraft"],
        within: ROOT,
        except: &["src/consensus/"],
        reason: "the consensus library stays behind `consensus`",
    },
    Absence {
        names: &["fjall"],
        within: ROOT,
        except: &["src/store/"],
        reason: "the storage engine stays behind `store`",
    },
    Absence {
        names: &["clap"],
        within: ROOT,
        except: &["src/cli/", "src/main.rs"],
        reason: "arguments are parsed in `cli`",
    },
    Absence {
        names: &["figment"],
        within: ROOT,
        except: &["src/config/"],
        reason: "settings are read in `config`",
    },
    Absence {
        names: &["tracing_subscriber"],
        within: ROOT,
        except: &["src/telemetry/"],
        reason: "the log is set up in `telemetry`",
    },
    Absence {
        names: &[
            "async",
            "..::await",
            "tokio",
            "futures",
            "tracing",
            "log",
            "std::net",
            "std::io",
            "std::env",
            "std::thread",
            "println",
            "eprintln",
            "tonic",
        ],
        within: PURE,
        except: &[],
        reason: "`cube` and `shard` have no async, clock, chance, log or network",
    },
    Absence {
        names: &["..::HashMap", "..::HashSet"],
        within: ORDERED,
        except: &[],
        reason: "a replay needs order: use BTreeMap and BTreeSet",
    },
];

pub fn check(file: &Source) -> Vec<String> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.path.starts_with(prefix));
    let rules: Vec<&Absence> = ABSENCES
        .iter()
        .filter(|absence| starts(absence.within) && !starts(absence.except))
        .collect();
    let mut violations = Vec::new();
    for (line, path) in file.paths() {
        for absence in &rules {
            if absence.names.iter().any(|name| is_named(name, &path)) {
                violations.push(
                    file.complain(line, &format!("`{}`: {}", path.join("::"), absence.reason)),
                );
            }
        }
    }
    violations
}

fn is_named(name: &str, path: &[String]) -> bool {
    let words: Vec<&str> = name.split("::").collect();
    match words.split_first() {
        Some((&"..", rest)) => path.windows(rest.len()).any(|window| window == rest),
        _ => path.len() >= words.len() && words.iter().zip(path).all(|(word, part)| word == part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    /// A line for each absence: where it is violated, and where the same is allowed.
    const CASES: &[(&str, &str, &str)] = &[
        (
            "src/broker/mod.rs",
            "src/rpc/status.rs",
            "use tonic::{Request, Status};",
        ),
        (
            "sdk/src/client.rs",
            "sdk/src/error.rs",
            "fn f(s: tonic::Status) {}",
        ),
        (
            "src/broker/mod.rs",
            "src/rpc/status.rs",
            "fn f() { Status::new() }",
        ),
        ("src/wal/mod.rs", "src/env/disk.rs", "use std::{fs, io};"),
        ("src/wal/mod.rs", "src/env/disk.rs", "use std::fs::File;"),
        ("src/wal/mod.rs", "src/env/disk.rs", "use tokio::fs;"),
        (
            "src/wal/mod.rs",
            "src/env/clock.rs",
            "use std::time::{Duration, Instant};",
        ),
        (
            "src/wal/mod.rs",
            "src/env/clock.rs",
            "use std::time::{self, Duration};",
        ),
        (
            "src/wal/mod.rs",
            "src/env/clock.rs",
            "fn f() { std::time::SystemTime::now() }",
        ),
        (
            "src/node/mod.rs",
            "src/env/net.rs",
            "use tokio::net::TcpListener;",
        ),
        (
            "src/node/mod.rs",
            "src/env/chance.rs",
            "fn f() { rand::random() }",
        ),
        ("src/wal/mod.rs", "src/cli/mod.rs", "use anyhow::Context;"),
        ("sdk/src/client.rs", "src/main.rs", "use anyhow::Context;"),
        (
            "src/replica/mod.rs",
            "src/consensus/log.rs",
            "use openraft::Raft;",
        ),
        ("src/wal/mod.rs", "src/store/mod.rs", "use fjall::Keyspace;"),
        (
            "src/config/mod.rs",
            "src/cli/mod.rs",
            "#[derive(clap::Args)] struct A;",
        ),
        (
            "src/cli/mod.rs",
            "src/config/mod.rs",
            "use figment::Figment;",
        ),
        (
            "src/cli/mod.rs",
            "src/telemetry/log.rs",
            "use tracing_subscriber::fmt;",
        ),
        (
            "src/shard/mod.rs",
            "src/replica/mod.rs",
            "fn f() { async {} }",
        ),
        (
            "src/cube/mod.rs",
            "src/replica/mod.rs",
            "fn f() { x().await }",
        ),
        (
            "src/cube/mod.rs",
            "src/replica/mod.rs",
            "fn f() { tracing::info!(\"x\") }",
        ),
        (
            "src/shard/mod.rs",
            "src/broker/mod.rs",
            "use std::collections::{BTreeMap, HashMap};",
        ),
    ];

    #[test]
    fn each_absence_can_be_violated_and_has_its_place() {
        for (bad, good, text) in CASES {
            assert_eq!(count(bad, text), 1, "{bad}: {text}");
            assert_eq!(count(good, text), 0, "{good}: {text}");
        }
    }

    #[test]
    fn tests_comments_and_lookalikes_are_free() {
        for text in [
            "// use std::fs;",
            "/// See [`std::fs`].\nfn f() {}",
            "#[cfg(test)]\nmod tests { use std::fs; }",
            "use std::time::Duration; use tokio::time::Instant;",
            "fn f() { const X: &str = \"std::fs\"; }",
            "use crate::rand_like::random; fn f(status: u8) {}",
        ] {
            assert_eq!(count("src/broker/mod.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn every_absence_has_a_case() {
        for absence in ABSENCES {
            let names_it = |(bad, _, text): &(&str, &str, &str)| {
                let file = Source::new(bad, text);
                let paths = file.paths();
                absence.within.iter().any(|within| bad.starts_with(within))
                    && absence
                        .names
                        .iter()
                        .any(|name| paths.iter().any(|(_, path)| is_named(name, path)))
            };
            assert!(CASES.iter().any(names_it), "{}", absence.reason);
        }
    }
}
