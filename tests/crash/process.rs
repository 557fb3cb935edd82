//! Eight processes of the real binary.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use cubecast_sdk::proto::v1::GetNodeStatusRequest;
use cubecast_sdk::proto::v1::peer_service_client::PeerServiceClient;
use tokio::time::Instant;
use tonic::transport::Channel;

/// How long eight processes may take to elect their leaders, with a debug build on a busy machine.
const READY_MAX: Duration = Duration::from_secs(60);

/// Killed when dropped, so that a failing test leaves nothing behind.
pub struct Processes {
    folder: PathBuf,
    ports: Vec<u16>,
    /// Index: peer. `None` while it does not run.
    children: Vec<Option<Child>>,
}

impl Processes {
    /// Starts eight peers with their data in this folder and waits until they serve.
    pub async fn start(folder: &Path) -> Self {
        // All are bound at once, so they differ; the system does not give them out again soon.
        let listeners: Vec<TcpListener> = (0..8)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        drop(listeners);
        let mut processes = Self {
            folder: folder.to_owned(),
            ports,
            children: Vec::new(),
        };
        processes.restart_all().await;
        processes
    }

    /// Where a peer listens.
    pub fn address(&self, peer: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[peer])
    }

    /// The processes of the running peers.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().flatten().map(Child::id).collect()
    }

    /// The process of a running peer.
    pub fn pid(&self, peer: usize) -> u32 {
        self.children[peer].as_ref().unwrap().id()
    }

    /// It was started, and neither killed nor seen to end.
    pub fn is_running(&self, peer: usize) -> bool {
        self.children[peer].is_some()
    }

    /// Starts a peer again and does not wait.
    pub fn start_peer(&mut self, peer: usize) {
        assert!(!self.is_running(peer), "peer {peer} runs");
        self.children[peer] = Some(self.spawn(peer));
    }

    /// SIGKILL to one peer.
    pub fn kill(&mut self, peer: usize) {
        let mut child = self.children[peer].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// How a peer that was told to stop has ended. `None`: not yet.
    pub fn ended(&mut self, peer: usize) -> Option<ExitStatus> {
        let status = self.children[peer].as_mut()?.try_wait().unwrap()?;
        self.children[peer] = None;
        Some(status)
    }

    fn spawn(&self, peer: usize) -> Child {
        let peers: Vec<String> = (0..8).map(|peer| self.address(peer)).collect();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("log-{peer}")))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cubecast"));
        // Settings of whoever runs this are not those of these peers.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"CUBECAST_") {
                command.env_remove(name);
            }
        }
        command
            .arg("node")
            .args(["--peer", &peer.to_string()])
            .args(["--port", &self.ports[peer].to_string()])
            .args(["--peers", &peers.join(",")])
            .args(["--data-dir", &self.folder.display().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Starts all peers again and waits until they serve.
    pub async fn restart_all(&mut self) {
        self.children = (0..8).map(|peer| Some(self.spawn(peer))).collect();
        let deadline = Instant::now() + READY_MAX;
        for peer in 0..8 {
            while !self.is_ready(peer).await {
                assert!(
                    Instant::now() < deadline,
                    "peer {peer} does not serve:\n{}",
                    self.log(peer)
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// It answers, and each of its shards has a leader.
    async fn is_ready(&self, peer: usize) -> bool {
        let Ok(channel) = Channel::from_shared(self.address(peer))
            .unwrap()
            .connect()
            .await
        else {
            return false;
        };
        let status = PeerServiceClient::new(channel)
            .get_node_status(GetNodeStatusRequest {})
            .await;
        status.is_ok_and(|status| {
            status
                .get_ref()
                .shards
                .iter()
                .all(|shard| !shard.leader.is_empty())
        })
    }

    fn log(&self, peer: usize) -> String {
        std::fs::read_to_string(self.folder.join(format!("log-{peer}"))).unwrap_or_default()
    }

    /// A client of one peer.
    pub async fn client(&self, peer: usize) -> PeerServiceClient<Channel> {
        PeerServiceClient::new(
            Channel::from_shared(self.address(peer))
                .unwrap()
                .connect()
                .await
                .unwrap(),
        )
    }

    /// SIGKILL to all, before any of them can notice that another is gone.
    pub fn kill_all(&mut self) {
        for child in self.children.iter_mut().flatten() {
            child.kill().unwrap();
        }
        for child in self.children.iter_mut().flatten() {
            child.wait().unwrap();
        }
        self.children.clear();
    }

    /// SIGTERM to all; each must end by itself, without an error.
    pub async fn stop_all(&mut self) {
        for pid in self.pids() {
            // The standard library sends no other signal than SIGKILL.
            let stopped = Command::new("kill")
                .args(["-TERM", &pid.to_string()])
                .status()
                .unwrap();
            assert!(stopped.success());
        }
        let deadline = Instant::now() + READY_MAX;
        let children = std::mem::take(&mut self.children);
        for (peer, mut child) in children.into_iter().flatten().enumerate() {
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                assert!(
                    Instant::now() < deadline,
                    "a peer does not stop:\n{}",
                    self.log(peer)
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            assert!(
                status.success(),
                "peer {peer}: {status}\n{}",
                self.log(peer)
            );
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
