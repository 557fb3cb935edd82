//! The tables of links as heartbeats carry them. The layout is in `proto/cubecast/peer/v1/link.proto`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::proto::peer::v1 as proto;
use crate::types::{PeerId, Term};

/// A bit for each of 2^12 peers.
const BITS_BYTES_MAX: usize = 512;
/// A table for each of them. More in one heartbeat are none of ours.
const TABLES_MAX: usize = 4096;
/// One peer may lead every shard of the largest cube.
const LEADS_MAX: usize = 4096;

/// The greatest number of a table. One that a peer never comes to: they count milliseconds, or changes.
pub(super) const SEQUENCE_MAX: u64 = u64::MAX - 1;

/// What one peer says of itself: whom it hears, whether it stays, what it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) peer: PeerId,
    /// Grows with each change, and from each life of the peer to the next. At most [`SEQUENCE_MAX`].
    pub(super) sequence: u64,
    pub(super) hears: Arc<BTreeSet<PeerId>>,
    /// It is about to stop.
    pub(super) is_leaving: bool,
    /// The shards that it leads, by the numbers of their vertices, with the terms in which it does.
    pub(super) leads: Arc<BTreeMap<u16, Term>>,
}

impl Table {
    /// Of a peer that hears nobody and leads nothing.
    pub(super) fn new(peer: PeerId, sequence: u64) -> Self {
        Self {
            peer,
            sequence,
            hears: Arc::default(),
            is_leaving: false,
            leads: Arc::default(),
        }
    }

    /// Makes it the word that follows the one of this number.
    pub(super) fn supersede(&mut self, sequence: u64) {
        self.sequence = sequence.saturating_add(1).min(SEQUENCE_MAX);
    }

    /// Whether it says anything else than an earlier one of the same peer.
    pub(super) fn differs_from(&self, earlier: &Self) -> bool {
        (&self.hears, self.is_leaving, &self.leads)
            != (&earlier.hears, earlier.is_leaving, &earlier.leads)
    }
}

/// All tables, once for the heartbeats to all peers.
pub(super) fn encode<'a>(tables: impl Iterator<Item = &'a Table>) -> Bytes {
    let tables = tables.map(|table| proto::LinkTable {
        peer: table.peer.0.into(),
        sequence: table.sequence,
        hears: bits(&table.hears),
        is_leaving: table.is_leaving,
        leads: table.leads.iter().map(lead).collect(),
    });
    let all = proto::LinkTables {
        tables: tables.collect(),
    };
    all.encode_to_vec().into()
}

fn lead((shard, term): (&u16, &Term)) -> proto::ShardLead {
    proto::ShardLead {
        shard: u32::from(*shard),
        term: term.0,
    }
}

fn bits(peers: &BTreeSet<PeerId>) -> Bytes {
    let last = peers.last().map_or(0, |last| usize::from(last.0) / 8 + 1);
    let mut bits = vec![0_u8; last];
    for peer in peers {
        if let Some(byte) = bits.get_mut(usize::from(peer.0) / 8) {
            *byte |= 1 << (peer.0 % 8);
        }
    }
    bits.into()
}

/// Reads tables of another peer. `None`: they are not as they should be.
pub(super) fn decode(bytes: Bytes) -> Option<Vec<Table>> {
    let all = proto::LinkTables::decode(bytes).ok()?;
    if all.tables.len() > TABLES_MAX {
        return None;
    }
    let tables = all.tables.into_iter().map(|table| {
        // No later word could ever take its place.
        if table.sequence > SEQUENCE_MAX {
            return None;
        }
        Some(Table {
            peer: PeerId(u16::try_from(table.peer).ok()?),
            sequence: table.sequence,
            hears: Arc::new(peers(&table.hears)?),
            is_leaving: table.is_leaving,
            leads: Arc::new(leads(&table.leads)?),
        })
    });
    tables.collect()
}

fn leads(leads: &[proto::ShardLead]) -> Option<BTreeMap<u16, Term>> {
    if leads.len() > LEADS_MAX {
        return None;
    }
    let shard = |lead: &proto::ShardLead| u16::try_from(lead.shard).ok();
    let leads = leads.iter();
    leads
        .map(|lead| Some((shard(lead)?, Term(lead.term))))
        .collect()
}

fn peers(bits: &[u8]) -> Option<BTreeSet<PeerId>> {
    if bits.len() > BITS_BYTES_MAX {
        return None;
    }
    let numbers = (0_u16..).zip(bits).flat_map(|(index, byte)| {
        let set = (0..8).filter(move |bit| byte & (1 << bit) != 0);
        set.map(move |bit| PeerId(index * 8 + bit))
    });
    Some(numbers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(peer: u16, sequence: u64, hears: &[u16]) -> Table {
        let hears = hears.iter().map(|peer| PeerId(*peer)).collect();
        Table {
            hears: Arc::new(hears),
            ..Table::new(PeerId(peer), sequence)
        }
    }

    #[test]
    fn tables_are_read_as_they_were_written() {
        let tables = vec![
            table(0, 7, &[]),
            table(3, SEQUENCE_MAX, &[0, 7, 8]),
            table(4095, 1, &[4094]),
            Table {
                is_leaving: true,
                leads: Arc::new(BTreeMap::from([(4, Term(9)), (4095, Term(u64::MAX))])),
                ..table(5, 2, &[1])
            },
        ];
        assert_eq!(decode(encode(tables.iter())), Some(tables));
    }

    #[test]
    fn tables_that_cannot_be_are_refused() {
        assert_eq!(decode(Bytes::from_static(b"\xff\xff")), None);
        let long = proto::LinkTables {
            tables: vec![proto::LinkTable {
                hears: vec![0; BITS_BYTES_MAX + 1].into(),
                ..Default::default()
            }],
        };
        assert_eq!(decode(long.encode_to_vec().into()), None);
        let last = proto::LinkTables {
            tables: vec![proto::LinkTable {
                peer: 3,
                sequence: u64::MAX,
                ..Default::default()
            }],
        };
        assert_eq!(decode(last.encode_to_vec().into()), None);
        let far = proto::LinkTables {
            tables: vec![proto::LinkTable {
                peer: 1 << 16,
                ..Default::default()
            }],
        };
        assert_eq!(decode(far.encode_to_vec().into()), None);
        let leading = |shard, count| proto::LinkTables {
            tables: vec![proto::LinkTable {
                leads: vec![proto::ShardLead { shard, term: 1 }; count],
                ..Default::default()
            }],
        };
        for wrong in [leading(1 << 16, 1), leading(1, LEADS_MAX + 1)] {
            assert_eq!(decode(wrong.encode_to_vec().into()), None);
        }
    }
}
