use cubecast_sdk::proto::v1;
use expect_test::expect;

use super::*;

fn replica(
    peer: u32,
    role: v1::ReplicaRole,
    state: v1::ReplicaState,
    lag_entries: Option<u64>,
) -> v1::Replica {
    v1::Replica {
        vertex: peer.to_string(),
        peer,
        role: role.into(),
        state: state.into(),
        lag_entries,
        ..v1::Replica::default()
    }
}

/// One of two peers of a cube of one dimension; the other does not answer.
fn alone() -> Survey {
    let shard = v1::ShardStatus {
        shard: "0".to_owned(),
        role: v1::ReplicaRole::Voter.into(),
        state: v1::ReplicaState::Leader.into(),
        term: 2,
        leader: "0".to_owned(),
        committed_index: Some(7),
        topic_count: 1,
        replicas: vec![
            replica(0, v1::ReplicaRole::Voter, v1::ReplicaState::Leader, Some(0)),
            replica(
                1,
                v1::ReplicaRole::Standby,
                v1::ReplicaState::Learner,
                Some(3),
            ),
        ],
        ..v1::ShardStatus::default()
    };
    let neighbour = v1::Neighbour {
        vertex: "1".to_owned(),
        peer: 1,
        address: "http://b:1".to_owned(),
        is_reachable: Some(false),
        ..v1::Neighbour::default()
    };
    let status = v1::GetNodeStatusResponse {
        vertex: "0".to_owned(),
        address: "http://a:1".to_owned(),
        cluster: "test".to_owned(),
        dimension: 1,
        replication_factor: 2,
        version: "0.1.0".to_owned(),
        is_ready: true,
        neighbours: vec![neighbour],
        shards: vec![shard],
        ..v1::GetNodeStatusResponse::default()
    };
    let mut survey = Survey::default();
    survey.hear(status.into());
    survey
}

#[test]
fn peer_that_is_only_named_is_unreachable() {
    let (mut output, written) = Output::captured(Format::Text);
    print(&alone(), &mut output).unwrap();
    expect![[r#"
        cluster test, a cube of dimension 1, 2 copies of each topic

        VERTEX  ADDRESS     STATE                LEADS  REPLICAS OF  DISK              UP  VERSION
        0       http://a:1  ready, no link to 1  0      -            log 0B, store 0B  0s  0.1.0
        1       http://b:1  unreachable          -      -            -                 -   -

        SHARD  LEADER  TERM  TOPICS  COMMITTED  REPLICAS (STATE, ENTRIES BEHIND)
        0      0       2     1       7          0 leader, 1 unreachable 3
    "#]]
    .assert_eq(&written.data());
}

#[test]
fn json_has_an_object_for_each_peer_and_shard() {
    let (mut output, written) = Output::captured(Format::Json);
    print(&alone(), &mut output).unwrap();
    expect![[r#"
        {"kind":"peer","vertex":"0","peer":0,"address":"http://a:1","state":"ready","version":"0.1.0","uptime_ms":0,"leads":["0"],"shards":["0"],"broken_links":["1"],"storage":{"wal_bytes":0,"wal_segments":0,"store_bytes":0,"memtable_bytes":0,"store_journals":0,"store_level0_tables":0,"store_flushes":0,"store_flushes_waiting":0,"store_blob_files":0,"disk_reserve_bytes":0,"is_full":false}}
        {"kind":"peer","vertex":"1","peer":1,"address":"http://b:1","state":"unreachable","leads":[],"shards":[],"broken_links":[]}
        {"kind":"shard","shard":"0","leader":"0","term":2,"committed_index":7,"topic_count":1,"replicas":[{"vertex":"0","peer":0,"role":"voter","state":"leader","lag_entries":0},{"vertex":"1","peer":1,"role":"standby","state":"unreachable","lag_entries":3}]}
    "#]].assert_eq(&written.data());
}
