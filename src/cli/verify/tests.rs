//! Directories of peers, whole and damaged.

use std::path::Path;

use tempfile::TempDir;

use super::super::output::Format;
use super::*;

/// What is printed, and how it ends.
fn verify(directory: &Path, format: Format) -> (String, Result<()>) {
    let (mut output, written) = Output::captured(format);
    let arguments = Arguments {
        directory: directory.to_owned(),
    };
    let done = run(&arguments, &mut output);
    output.flush().unwrap();
    (written.data(), done)
}

fn failure(done: Result<()>) -> Failure {
    done.unwrap_err().downcast().unwrap()
}

/// A data directory with that of one peer, which knows who it is and nothing else.
fn example() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let peer = folder.path().join("peer-004");
    std::fs::create_dir(&peer).unwrap();
    let body = "cubecast directory 1\ncluster demo\ndimension 3\npeer 4\nincarnation 1\nlog 1\ndirectory 0f\n";
    let checksum = crc32c::crc32c(body.as_bytes());
    std::fs::write(
        peer.join("identity"),
        format!("{body}crc32c {checksum:08x}\n"),
    )
    .unwrap();
    folder
}

#[test]
fn whole_directory_is_said_to_be_whole() {
    let folder = example();
    let (text, done) = verify(folder.path(), Format::Text);
    done.unwrap();
    assert!(
        text.contains("peer-004: identity: peer 4 of cluster demo, dimension 3, incarnation 1"),
        "{text}"
    );
    let (alone, done) = verify(&folder.path().join("peer-004"), Format::Text);
    done.unwrap();
    assert_eq!(alone, text);
}

#[test]
fn damage_is_told_with_its_place_and_fails() {
    let folder = example();
    let log = folder.path().join("peer-004/wal");
    std::fs::create_dir(&log).unwrap();
    std::fs::write(log.join("0000000001.wal"), [1; 100]).unwrap();
    std::fs::write(folder.path().join("peer-004/identity.new"), "").unwrap();
    let (text, done) = verify(folder.path(), Format::Json);
    assert_eq!(failure(done).to_string(), "one thing is damaged");
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    let damage = lines.iter().find(|line| line["verdict"] == "damaged");
    let damage = damage.unwrap();
    assert!(damage["file"].as_str().unwrap().ends_with("0000000001.wal"));
    assert_eq!(
        (&damage["thing"], &damage["position"], &damage["expected"]),
        (&"log".into(), &0.into(), &"the header of segment 1".into())
    );
    let noted = lines.iter().find(|line| line["thing"] == "leftover");
    assert_eq!(noted.unwrap()["verdict"], "noted");
}

#[test]
fn newer_and_damaged_identities_are_told() {
    let folder = example();
    let file = folder.path().join("peer-004/identity");
    let body = "cubecast directory 2\n";
    let checksum = crc32c::crc32c(body.as_bytes());
    for (content, sentence) in [
        (
            format!("{body}crc32c {checksum:08x}\n"),
            "this program knows",
        ),
        (
            format!("{body}crc32c 00000000\n"),
            "its checksum does not match",
        ),
        (String::new(), "its checksum does not match"),
    ] {
        std::fs::write(&file, content).unwrap();
        let (text, done) = verify(folder.path(), Format::Text);
        assert!(matches!(failure(done), Failure::Failed(_)));
        assert!(text.contains(sentence), "{text}");
    }
}

#[test]
fn directory_that_is_in_use_or_not_a_peers_is_refused() {
    let folder = example();
    let peer = folder.path().join("peer-004");
    let lock = std::fs::File::create(peer.join("lock")).unwrap();
    lock.lock().unwrap();
    let (_, done) = verify(folder.path(), Format::Text);
    assert!(matches!(failure(done), Failure::Unavailable(_)));
    drop(lock);
    verify(folder.path(), Format::Text).1.unwrap();
    for other in [Path::new("/nowhere/at/all"), Path::new("/proc/self")] {
        let (_, done) = verify(other, Format::Text);
        assert!(matches!(failure(done), Failure::Usage(_)), "{other:?}");
    }
}
