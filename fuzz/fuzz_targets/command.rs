//! Any bytes are refused or are a command, which reads back as itself.
#![no_main]

use bytes::Bytes;
use cubecast::shard::{Command, is_barrier};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = is_barrier(&bytes);
    let Ok(command) = Command::decode(&bytes) else {
        return;
    };
    let again = command.encode();
    assert_eq!(is_barrier(&again), matches!(command, Command::Barrier { .. }));
    assert_eq!(Command::decode(&again).unwrap(), command);
});
