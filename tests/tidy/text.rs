//! What a file holds, how long it is and what it is called.

use crate::source::{Source, Token, Tree};

const FILE_LINES_MAX: usize = 500;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "manager", "impls", "core", "misc",
];
/// Macros that stand for something unfinished.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];
/// Pages that are read as a whole.
const PAGES: &[(&str, usize)] = &[
    ("ARCHITECTURE.md", 150),
    ("CONTRIBUTING.md", 80),
    ("docs/adr/", 80),
];
/// Where a machine keeps what belongs to it.
const MACHINE_FOLDERS: &[&str] = &["/work/", "/root/", "/home/", "/Users/"];
/// The only registry in a lock file.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Settings of a private registry.
const PRIVATE_REGISTRY: &[&str] = &["index-url", "replace-with", "GOPROXY", "PIP_INDEX"];
/// This file has to name what it forbids.
const SELF: &str = "tests/tidy/text.rs";

pub fn check(file: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    let mut complain = |line, problem: &str| violations.push(file.complain(line, problem));
    let lines = file.text.lines().count();
    if lines > FILE_LINES_MAX {
        complain(lines, &format!("more than {FILE_LINES_MAX} lines"));
    }
    // The tests of a module lie beside it, and its doc is theirs.
    if !file.path.ends_with("/tests.rs") && !file.text.trim_start().starts_with("//!") {
        complain(
            1,
            "opens without `//!`: what it is, what it never does, where to begin reading",
        );
    }
    let mut stems = file
        .path
        .split('/')
        .map(|part| part.trim_end_matches(".rs"));
    if let Some(stem) = stems.find(|stem| EMPTY_NAMES.contains(stem)) {
        complain(1, &format!("`{stem}` says nothing about what is inside"));
    }
    for two in file.tokens.windows(2) {
        let (word, next) = (&two[0].text, &two[1].text);
        if UNFINISHED.contains(&word.as_str()) && next == "!" {
            complain(
                two[0].line,
                &format!("`{word}!` is for work that is not finished"),
            );
        }
    }
    for attribute in file.tokens.windows(3).filter(|three| is_attribute(three)) {
        match attribute[2].text.as_str() {
            "ignore" => complain(attribute[0].line, "a test runs, or is deleted"),
            "path" if file.path.starts_with("src/") => {
                complain(attribute[0].line, "a module lies where its name says")
            }
            _ => {}
        }
    }
    for (number, line) in file.text.lines().enumerate() {
        if file.path != SELF && is_open_work(line) {
            complain(number + 1, "open work has an issue number: #12");
        }
    }
    violations
}

fn is_attribute(tokens: &[Token]) -> bool {
    tokens[0].text == "#" && tokens[1].text == "["
}

/// Whether a comment speaks of work to be done, and names no issue.
fn is_open_work(line: &str) -> bool {
    let Some((_, comment)) = line.split_once("//") else {
        return false;
    };
    let words = || comment.split(|c: char| !c.is_alphanumeric() && c != '#');
    let is_number = |word: &str| {
        word.strip_prefix('#')
            .is_some_and(|n| n.parse::<u32>().is_ok())
    };
    words().any(|word| matches!(word, "TODO" | "FIXME" | "XXX")) && !words().any(is_number)
}

/// Rules for files of every kind.
pub fn check_published(tree: &Tree) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, text) in tree.files().filter(|(path, _)| *path != SELF) {
        for (number, line) in text.lines().enumerate() {
            if let Some(problem) = machine_name(path, line) {
                violations.push(format!("{path}:{}: {problem}", number + 1));
            }
        }
        let page = PAGES.iter().find(|(page, _)| path.starts_with(page));
        if let Some((_, max)) = page.filter(|(_, max)| text.lines().count() > *max) {
            violations.push(format!("{path}: more than {max} lines"));
        }
        if path.ends_with("Cargo.toml")
            && text.contains("\n[package]") | text.starts_with("[package]")
            && !takes_lints(text)
        {
            violations.push(format!("{path}: does not take the lints of the workspace"));
        }
    }
    violations
}

fn takes_lints(manifest: &str) -> bool {
    manifest.contains("[lints]\nworkspace = true")
        || manifest.contains("[workspace]\n") && !manifest.contains("members")
}

fn machine_name(path: &str, line: &str) -> Option<String> {
    let is_own = |folder: &&&str| {
        line.match_indices(**folder).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| {
                c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '}' | ')')
            })
        })
    };
    if let Some(folder) = MACHINE_FOLDERS.iter().find(is_own) {
        return Some(format!("`{folder}` is a place on one machine"));
    }
    if path.ends_with("Cargo.lock") && line.starts_with("source = ") && !line.contains(REGISTRY) {
        return Some("comes from another place than crates.io".to_owned());
    }
    let setting = PRIVATE_REGISTRY
        .iter()
        .find(|setting| line.contains(**setting))?;
    Some(format!("`{setting}` names a private registry"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    fn published(path: &str, text: &str) -> usize {
        check_published(&Tree::new(&[(path, text)])).len()
    }

    #[test]
    fn each_rule_of_a_file_can_fail() {
        let ok = "//! Doc.\n/// An `ignore`d todo! in words.\nfn f() {} // TODO #12: later";
        assert_eq!(problems("src/wal/mod.rs", ok), 0);
        for text in ["todo!()", "unimplemented!()", "dbg!(1)"] {
            assert_eq!(
                problems("src/a.rs", &format!("//! Doc.\nfn f() {{ {text} }}")),
                1,
                "{text}"
            );
        }
        assert_eq!(problems("src/a.rs", "fn f() {}"), 1, "no doc");
        assert_eq!(problems("src/a/tests.rs", "fn f() {}"), 0);
        assert_eq!(problems("tests/a.rs", "//! Doc.\n#[ignore]\nfn f() {}"), 1);
        assert_eq!(
            problems("tests/a.rs", "//! Doc.\n#[ignore = \"slow\"]\nfn f() {}"),
            1
        );
        assert_eq!(
            problems("src/a.rs", "//! Doc.\n#[path = \"b.rs\"]\nmod b;"),
            1
        );
        assert_eq!(problems("src/a.rs", "//! Doc.\n// TODO later"), 1);
        assert_eq!(problems("src/a.rs", "//! Doc.\n// FIXME(me): later"), 1);
        assert_eq!(problems("src/utils.rs", "//! Doc."), 1);
        assert_eq!(problems("src/wal/helpers/mod.rs", "//! Doc."), 1);
        assert_eq!(problems("src/a.rs", &"//! Doc.\n".repeat(500)), 0);
        assert_eq!(problems("src/a.rs", &"//! Doc.\n".repeat(501)), 1);
    }

    #[test]
    fn each_rule_of_a_published_file_can_fail() {
        assert_eq!(published("README.md", "cd /work/main"), 1);
        assert_eq!(published("Dockerfile", "COPY . /root/x"), 1);
        assert_eq!(
            published("README.md", "http://a/work/b and target/work/ and ./root/x"),
            0
        );
        assert_eq!(
            published("Cargo.lock", &format!("source = \"{REGISTRY}\"")),
            0
        );
        assert_eq!(
            published(
                "Cargo.lock",
                "source = \"registry+https://example.org/index\""
            ),
            1
        );
        assert_eq!(
            published(".cargo/config.toml", "replace-with = \"mirror\""),
            1
        );
        assert_eq!(published("CONTRIBUTING.md", &"x\n".repeat(81)), 1);
        assert_eq!(published("docs/adr/0001-x.md", &"x\n".repeat(80)), 0);
        assert_eq!(published("sdk/Cargo.toml", "[package]\nname = \"x\""), 1);
        assert_eq!(
            published("sdk/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n"),
            0
        );
    }
}
