//! What keeps a peer from starting: one clear sentence each, and exit code 1.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A peer that is refused ends within this time.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

fn command(folder: &Path, port: u16, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cubecast"));
    command
        .arg("node")
        .args(["--port", &port.to_string()])
        .args(["--data-dir", &folder.display().to_string()])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// A free port, likely still free in a moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The sentence with which a peer refuses to start.
fn refusal(folder: &Path, port: u16, more: &[&str]) -> String {
    let mut child = command(folder, port, more).spawn().unwrap();
    let deadline = Instant::now() + REFUSED_WITHIN;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let Output { stderr, .. } = child.wait_with_output().unwrap();
            panic!("the peer started: {}", String::from_utf8_lossy(&stderr));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

/// Killed when dropped.
struct Running {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Running {
    /// What it has said so far.
    fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a peer and waits until it serves.
fn start(folder: &Path, more: &[&str]) -> Running {
    let port = free_port();
    let mut command = command(folder, port, more);
    let log = tempfile::NamedTempFile::new().unwrap();
    command.stderr(log.reopen().unwrap());
    let child = command.spawn().unwrap();
    let running = Running { child, log };
    let deadline = Instant::now() + REFUSED_WITHIN;
    let address = format!("http://127.0.0.1:{port}");
    loop {
        let health = Command::new(env!("CARGO_BIN_EXE_cubecast"))
            .args(["health", "--address", &address])
            .output()
            .unwrap();
        if health.status.success() {
            return running;
        }
        assert!(Instant::now() < deadline, "the peer does not serve");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the peer, alone in its shard, leads it: its vote is then in the log.
fn wait_for_leader(running: &Running) {
    let deadline = Instant::now() + REFUSED_WITHIN;
    while !running.log().contains("ready=true") {
        assert!(Instant::now() < deadline, "no leader: {}", running.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

// REQ T7
#[test]
fn busy_port_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    let sentence = refusal(folder.path(), port, &[]);
    assert!(
        sentence.contains(&format!("port {port} on 127.0.0.1 is in use")),
        "{sentence}"
    );
}

#[test]
fn directory_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let sentence = refusal(&file.join("data"), free_port(), &[]);
    assert!(
        sentence.contains("data directory") && sentence.contains("file/data"),
        "{sentence}"
    );
}

#[test]
fn directory_of_another_cluster_or_cube_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(start(folder.path(), &["--cluster", "first"]));
    let sentence = refusal(folder.path(), free_port(), &["--cluster", "second"]);
    assert!(
        sentence.contains("belongs to cluster first")
            && sentence.contains("configured for cluster second"),
        "{sentence}"
    );
    let sentence = refusal(
        folder.path(),
        free_port(),
        &["--cluster", "first", "--dimension", "2"],
    );
    assert!(sentence.contains("belongs to dimension 3"), "{sentence}");
}

#[test]
fn directory_of_another_peer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(start(folder.path(), &["--peer", "4"]));
    std::fs::rename(
        folder.path().join("peer-004"),
        folder.path().join("peer-005"),
    )
    .unwrap();
    let sentence = refusal(folder.path(), free_port(), &["--peer", "5"]);
    assert!(sentence.contains("belongs to peer 4"), "{sentence}");
}

#[test]
fn directory_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _running = start(folder.path(), &[]);
    let sentence = refusal(folder.path(), free_port(), &[]);
    assert!(
        sentence.contains("in use by another cubecast process"),
        "{sentence}"
    );
}

/// Files below a folder whose name begins so.
fn named(folder: &Path, prefix: &str) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

// G7: damage is told with the file, the position, what was expected and what was found, and what is damaged is kept for whoever wants to look.
#[test]
fn damaged_log_is_moved_aside_and_its_place_is_told() {
    let folder = tempfile::tempdir().unwrap();
    // Every peer alone: it needs no other to know who it is.
    let alone = ["--dimension", "1", "--replication-factor", "1"];
    let peer = folder.path().join("peer-000");
    // A second life: what the first one wrote is then followed by records that prove it durable.
    for _ in 0..2 {
        let running = start(folder.path(), &alone);
        wait_for_leader(&running);
    }
    let segment = peer.join("wal/0000000001.wal");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[64 + 20] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let running = start(folder.path(), &alone);
    assert_eq!(named(&peer, "wal.damaged-"), ["wal.damaged-1"]);
    let told = running.log();
    assert!(
        told.contains("0000000001.wal") && told.contains("damaged at byte 64"),
        "{told}"
    );
}
