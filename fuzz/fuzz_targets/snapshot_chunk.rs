//! Any bytes, also with a right head, are refused or are a chunk that writes no more than they hold.
#![no_main]

use bytes::Bytes;
use cubecast::shard::decode_chunk;
use libfuzzer_sys::fuzz_target;

const HEAD_BYTES: usize = 24;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_chunk(&Bytes::copy_from_slice(bytes));
    let mut whole = bytes.to_vec();
    whole.resize(whole.len().max(HEAD_BYTES), 0);
    let length = u32::try_from(whole.len() - HEAD_BYTES).unwrap();
    whole[..5].copy_from_slice(b"CCSN\x01");
    whole[16..20].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&whole[..20]), &whole[24..]);
    whole[20..24].copy_from_slice(&sum.to_be_bytes());
    if let Ok(writes) = decode_chunk(&Bytes::from(whole)) {
        let row = |((_, key), row): (&(_, Bytes), &Option<Bytes>)| {
            key.len() + row.as_ref().map_or(0, Bytes::len)
        };
        let rows = writes.rows.iter().map(row);
        let batches = writes.batches.iter();
        let batches = batches.map(|(_, stored)| stored.batch.payload().len());
        assert!(rows.chain(batches).sum::<usize>() <= bytes.len());
    }
});
