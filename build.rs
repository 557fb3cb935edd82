//! Generates the server traits of the public API and both halves of the peer API, and the descriptors that reflection serves.

use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;
use prost_types::FileDescriptorSet;

/// Where the messages of the public API live: the SDK owns them.
const PUBLIC: (&str, &str) = (".cubecast.v1", "::cubecast_sdk::proto::v1");

/// Messages of the public API that the server reads and writes without decoding the messages within.
const OPAQUE: [(&str, &str); 5] = [
    (
        ".cubecast.v1.PublishRequest",
        "crate::rpc::wire::PublishRequest",
    ),
    (
        ".cubecast.v1.PublishStreamRequest",
        "crate::rpc::wire::PublishStreamRequest",
    ),
    (
        ".cubecast.v1.PullResponse",
        "crate::rpc::wire::PullResponse",
    ),
    (
        ".cubecast.v1.ReplicaPullResponse",
        "crate::rpc::wire::ReplicaPullResponse",
    ),
    (
        ".cubecast.v1.StreamPullResponse",
        "crate::rpc::wire::StreamPullResponse",
    ),
];

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    public(&out)?;
    peer(&out)
}

/// Server traits only, and the descriptors for reflection.
fn public(out: &Path) -> anyhow::Result<()> {
    let set = descriptors("proto/cubecast/v1")?;
    std::fs::write(out.join("public.bin"), set.encode_to_vec())?;
    let folder = sub_folder(out, "public")?;
    let mut builder = tonic_prost_build::configure()
        .build_client(false)
        .out_dir(folder);
    for (proto, rust) in OPAQUE {
        builder = builder.extern_path(proto, rust);
    }
    builder.extern_path(PUBLIC.0, PUBLIC.1).compile_fds(set)?;
    Ok(())
}

/// Client and server. The set also holds what the files import, which stays only to be looked up: its services would be generated twice.
fn peer(out: &Path) -> anyhow::Result<()> {
    let mut set = descriptors("proto/cubecast/peer/v1")?;
    for file in &mut set.file {
        if file.package() != "cubecast.peer.v1" {
            file.service.clear();
        }
    }
    let folder = sub_folder(out, "peer")?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(PUBLIC.0, PUBLIC.1)
        .out_dir(folder)
        .compile_fds(set)?;
    Ok(())
}

/// The descriptors of all files of a folder and of what they import.
fn descriptors(folder: &str) -> anyhow::Result<FileDescriptorSet> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {folder}"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(protox::compile(files, ["proto"])?)
}

fn sub_folder(out: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let folder = out.join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
