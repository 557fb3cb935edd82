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
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a peer and waits until it serves.
fn start(folder: &Path, more: &[&str]) -> Running {
    let port = free_port();
    let mut command = command(folder, port, more);
    command.stderr(Stdio::null());
    let running = Running(command.spawn().unwrap());
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

// G7: damage is refused with the file, the position, what was expected and what was found.
#[test]
fn damaged_log_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    drop(start(folder.path(), &[]));
    // A second life: what the first one wrote is then followed by records that prove it durable.
    drop(start(folder.path(), &[]));
    let segment = folder.path().join("peer-000/wal/0000000001.wal");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[64 + 20] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let sentence = refusal(folder.path(), free_port(), &[]);
    assert!(
        sentence.contains("0000000001.wal") && sentence.contains("damaged at byte 64"),
        "{sentence}"
    );
}
