//! Makes the public messages and clients out of `proto/cubecast/v1`, without protoc.

use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;

const FILES: [&str; 4] = [
    "cubecast/v1/types.proto",
    "cubecast/v1/errors.proto",
    "cubecast/v1/peer_service.proto",
    "cubecast/v1/cluster_service.proto",
];

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let descriptors = protox::compile(FILES.map(|file| root.join(file)), [&root])?;
    std::fs::write(out.join("cubecast.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_server(false)
        .emit_rerun_if_changed(false)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
