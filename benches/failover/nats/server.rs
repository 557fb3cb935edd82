//! Three servers of NATS with JetStream, as processes.
//!
//! It never talks to them. Begin with [`Servers::start`].

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// As many as a stream has replicas.
pub const SERVERS: usize = 3;

/// Killed when dropped.
pub struct Servers {
    binary: PathBuf,
    folder: PathBuf,
    /// Where each listens for clients.
    ports: Vec<u16>,
    children: Vec<Option<Child>>,
}

/// The program, and what it says its version is. `None`: there is none.
pub fn version() -> Option<(PathBuf, String)> {
    let binary = std::env::var_os("CUBECAST_BENCH_NATS")
        .map_or_else(|| PathBuf::from("nats-server"), PathBuf::from);
    let output = Command::new(&binary).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some((binary, version))
}

/// The name of a server within its cluster.
pub fn name(server: usize) -> String {
    format!("node-{server}")
}

impl Servers {
    /// Starts three servers of this program with their data in this folder, and does not wait for them.
    pub fn start(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        // All are bound at once, so they differ; the system does not give them out again soon.
        let listeners: Vec<TcpListener> = (0..2 * SERVERS)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| listener.local_addr().map(|address| address.port()))
            .collect::<Result<_, _>>()?;
        drop(listeners);
        let (clients, routes) = ports.split_at(SERVERS);
        for (server, (client, route)) in clients.iter().zip(routes).enumerate() {
            let text = settings(folder, server, (*client, *route), routes);
            std::fs::write(folder.join(format!("{}.conf", name(server))), text)?;
        }
        let mut servers = Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            ports: clients.to_vec(),
            children: (0..SERVERS).map(|_| None).collect(),
        };
        for server in 0..SERVERS {
            servers.start_one(server)?;
        }
        Ok(servers)
    }

    /// Where each listens: `127.0.0.1:4222`.
    pub fn addresses(&self) -> Vec<String> {
        let ports = self.ports.iter();
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// Starts a server.
    pub fn start_one(&mut self, server: usize) -> anyhow::Result<()> {
        let child = Command::new(&self.binary)
            .arg("--config")
            .arg(self.folder.join(format!("{}.conf", name(server))))
            .arg("--log")
            .arg(self.folder.join(format!("{}.log", name(server))))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        *self.children.get_mut(server).context("a server of ours")? = Some(child);
        Ok(())
    }

    /// `SIGKILL` to a server.
    pub fn kill(&mut self, server: usize) -> anyhow::Result<()> {
        let child = self.children.get_mut(server).and_then(Option::take);
        let mut child = child.context("a server that runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

/// The file of settings. Nothing is tuned; a stream's files are synced every two minutes, which is the default.
fn settings(folder: &Path, server: usize, (client, route): (u16, u16), routes: &[u16]) -> String {
    let name = name(server);
    let data = folder.join(&name);
    let routes: Vec<String> = routes
        .iter()
        .map(|port| format!("\"nats-route://127.0.0.1:{port}\""))
        .collect();
    format!(
        "server_name: {name}\nlisten: \"127.0.0.1:{client}\"\njetstream {{ store_dir: {data:?} }}\n\
         cluster {{ name: bench, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n",
        routes.join(", ")
    )
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}
