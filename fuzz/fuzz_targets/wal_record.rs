//! Any bytes with a right checksum are refused or are the encoding of what they decode to.
#![no_main]

use cubecast::wal::{Header, Record};
use libfuzzer_sys::fuzz_target;

const SALT: u32 = 0x5a17;

fuzz_target!(|bytes: &[u8]| {
    let _ = Record::decode(bytes, SALT);
    if let Some(header) = bytes.first_chunk() {
        let _ = Header::decode(header);
    }
    let mut whole = bytes.to_vec();
    whole.resize(whole.len().next_multiple_of(8).max(40), 0);
    let length = u32::try_from(bytes.len().saturating_sub(40)).unwrap();
    whole[4..8].copy_from_slice(&length.to_le_bytes());
    let sum = crc32c::crc32c_append(SALT, &whole[4..]);
    whole[..4].copy_from_slice(&sum.to_le_bytes());
    if let Ok(record) = Record::decode(&whole, SALT) {
        let mut again = Vec::new();
        record.encode(SALT, &mut again);
        assert_eq!(Record::decode(&again, SALT), Ok(record));
    }
});
