fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap()).join("peer");
    std::fs::create_dir_all(&out)?;
    let set = protox::compile(["proto/cubecast/peer/v1/raft.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").out_dir(out).compile_fds(set)?;
    Ok(())
}
