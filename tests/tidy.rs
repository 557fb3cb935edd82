//! The rules of structure and style that a machine can check. Each has a test beside it that shows it can fail.
//!
//! `layer` says who may name whom, `absence` what is named only in some places, `text` what a file may hold and where it may lie.
//! A rule is changed here and in `docs/adr/`, never by an exception in the code. Begin with the two tables, `LAYERS` and `ABSENCES`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

#[path = "tidy/absence.rs"]
mod absence;
#[path = "tidy/layer.rs"]
mod layer;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/text.rs"]
mod text;

use source::{Source, Tree};

/// A rule takes one file of Rust and answers with a line for each violation.
type Rule = fn(&Source) -> Vec<String>;

fn violations(rule: Rule) -> Vec<String> {
    Tree::of_this_project()
        .rust()
        .flat_map(|file| rule(&file))
        .collect()
}

fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn modules_name_only_what_lies_above_them() {
    assert_none(&violations(layer::check));
}

#[test]
fn what_belongs_to_one_place_is_named_nowhere_else() {
    assert_none(&violations(absence::check));
}

#[test]
fn files_are_short_open_with_a_doc_and_hold_nothing_unfinished() {
    assert_none(&violations(text::check));
}

#[test]
fn every_file_belongs_to_a_module() {
    assert_none(&source::dead_files(&Tree::of_this_project()));
}

#[test]
fn published_files_name_no_machine_and_pages_keep_their_length() {
    assert_none(&text::check_published(&Tree::of_this_project()));
}

/// A walk that finds nothing would let every rule pass.
#[test]
fn the_walk_finds_the_project() {
    let tree = Tree::of_this_project();
    let paths: Vec<&str> = tree.paths().collect();
    for path in [
        "Cargo.toml",
        "src/lib.rs",
        "src/types/mod.rs",
        "sdk/src/lib.rs",
        "tests/tidy.rs",
    ] {
        assert!(paths.contains(&path), "{path} is not among {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.starts_with("target/")));
}
