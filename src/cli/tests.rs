//! Arguments, and the sentences and objects that are printed.

use clap::CommandFactory;
use cubecast_sdk::proto::v1;
use expect_test::{Expect, expect};

use super::*;
use crate::config::SETTINGS;
use output::{Format, Row};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("cubecast").chain(line.split_whitespace()))
}

#[test]
fn arguments_make_sense_to_clap() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_tour_is_understood() {
    for line in [
        "dev",
        "dev --next-free-port --base-port 9000 --data-dir /tmp/x",
        "node --peer 3 --listen-host 0.0.0.0 --peers a:1,b:2 --next-free-port=false",
        "topic create news --publisher agency",
        "topic create a b c --retention-age 7d --retention-bytes 1GiB --retention-messages 5",
        "topic create -",
        "topic update news --retention-age 12h",
        "topic update news --keep-all",
        "topic list --prefix n --publisher agency",
        "topic get news --consistency linearizable",
        "topic locate news",
        "topic delete news",
        "publisher create agency",
        "subscriber list --prefix a",
        "subscribe news --subscriber alice --from 2026-01-31T12:00:00Z",
        "subscribe jobs --subscriber workers --shared --lease 1m --max-deliveries 5 --dead-letter failed",
        "subscription list --topic news",
        "unsubscribe news --subscriber alice",
        "publish news hello world --key k --header a=b --acks all --publisher agency",
        "publish news -",
        "pull news --subscriber alice --max 10 --wait 5s --no-ack --raw --consistency eventual",
        "tail news",
        "tail news --subscriber alice",
        "acknowledge news 7 --subscriber alice",
        "seek news earliest --subscriber alice",
        "status --output json --timing --timeout 3s",
        "verify-replicas",
        "verify-replicas 100 101",
        "verify-replicas --topic news",
        "watch",
        "watch 100 --links",
        "replica pull 101 news --from 3 --max 10 --raw",
        "replica sync 101 --topic news",
        "replica sync 101 --vertex 100",
        "fault inject 100 --to 5,6 --delay 20ms --jitter 5ms --loss 0.1 --cut --for 10s",
        "fault clear 100 1 2",
        "fault list http://127.0.0.1:8004",
        "bench publish --topics 2 --size 1024 --rate 1000 --duration 5s --report svg",
        "bench publish --single --in-flight 64 --acks all --keep",
        "bench pull --messages 1000 --subscribers 2 --page 100",
        "bench stream --messages 1000 --name night",
        "bench mixed --producers 2 --linger 5ms --bundle 1000 --warm-up 0s",
        "stop-node 100 --for 5s",
        "stop-node 100 --stay-down",
        "health --address http://127.0.0.1:8004 --service cubecast.v1.PeerService",
        "config show --peer 3",
        "config example",
        "verify data/peer-004 --output json",
        "--address a:1,b:2 --address c:3 topic list",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn wrong_arguments_are_refused() {
    for line in [
        "",
        "topic",
        "topic create",
        "topic create news --retention-bytes 0",
        "topic create news --retention-messages 0",
        "topic update news",
        "topic update news --keep-all --retention-age 7d",
        "verify-replicas 100 --topic news",
        "replica sync 101",
        "replica sync 101 --topic news --vertex 100",
        "fault inject 100",
        "fault inject 100 --loss 2",
        "stop-node",
        "stop-node 100 --for 5s --stay-down",
        "pull news",
        "pull news --subscriber a --max 0",
        "pull news --subscriber a --wait soon",
        "publish news x --acks most",
        "publish news x --header novalue",
        "seek news backwards --subscriber a",
        "tail news --subscriber a --from earliest",
        "dev --peer 1",
        "status --output xml",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(exit::usage(&error), 2, "{line}");
    }
}

#[test]
fn help_that_was_asked_for_is_a_success() {
    for line in ["--help", "--version", "help pull", "topic create --help"] {
        assert_eq!(exit::usage(&parse(line).expect_err(line)), 0, "{line}");
    }
}

#[test]
fn every_setting_is_a_flag_of_a_node() {
    let command = Cli::command();
    let node = command.find_subcommand("node").unwrap();
    let flags: Vec<_> = node
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .collect();
    for setting in SETTINGS {
        assert!(flags.contains(&setting.flag().as_str()), "{}", setting.key);
    }
}

#[test]
fn addresses_come_from_all_flags_and_default_to_dev() {
    let Cli { global, .. } = parse("--address a:1,b:2 --address c:3 topic list").unwrap();
    assert_eq!(global.addresses(), ["a:1", "b:2", "c:3"]);
    let Cli { global, .. } = parse("topic list --address=").unwrap();
    assert_eq!(global.addresses().len(), 8);
    assert_eq!(global.addresses()[7], "http://127.0.0.1:8007");
}

fn time() -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: 1_800_000_000,
        nanos: 5_000_000,
    })
}

fn both(text: impl Fn(&mut Output), expected: &Expect) {
    let mut all = String::new();
    for format in [Format::Text, Format::Json] {
        let (mut output, written) = Output::captured(format);
        text(&mut output);
        all.push_str(&written.data());
    }
    expected.assert_eq(&all);
}

fn topic() -> record::Topic {
    let topic = v1::Topic {
        name: "news".to_owned(),
        topic_id: 7,
        owner: "100".to_owned(),
        creator: "agency".to_owned(),
        create_time: time(),
        first_offset: 0,
        next_offset: 3,
        bytes: 15,
        retention: Some(cubecast_sdk::Retention::new().with_bytes(1 << 30).into()),
    };
    cubecast_sdk::Topic::from(topic).into()
}

#[test]
fn topics_are_a_table_and_objects() {
    both(
        |output| {
            output
                .table(Some(record::Topic::HEADER), &[topic()])
                .unwrap();
        },
        &expect![[r#"
            TOPIC  OWNER  MESSAGES  BYTES  CREATOR  CREATED
            news   100    3         15     agency   2027-01-15T08:00:00.005Z
            {"topic":"news","id":"7","owner":"100","creator":"agency","create_time":"2027-01-15T08:00:00.005Z","first_offset":0,"next_offset":3,"bytes":15,"retention":{"bytes":1073741824}}
        "#]],
    );
}

#[test]
fn created_topic_names_owner_and_replicas_by_their_bits() {
    // REQ A3
    let replicas: Vec<String> = ["101", "110", "000"].map(str::to_owned).into();
    let words = format!("topic news created: {}", text::placement("100", &replicas));
    let created = record::Placed {
        item: topic(),
        replicas,
        leader: Some("100".to_owned()),
    };
    both(
        |output| output.line(&words, &created).unwrap(),
        &expect![[r#"
            topic news created: owner 100, replicas 101, 110, 000
            {"topic":"news","id":"7","owner":"100","creator":"agency","create_time":"2027-01-15T08:00:00.005Z","first_offset":0,"next_offset":3,"bytes":15,"retention":{"bytes":1073741824},"replicas":["101","110","000"],"leader":"100"}
        "#]],
    );
}

#[test]
fn publish_tells_offsets_and_who_stored_them() {
    // REQ A4
    let replicas: Vec<String> = ["101", "110", "000"].map(str::to_owned).into();
    let stored_by = ["000", "101", "100"].map(str::to_owned).into();
    let published = record::Published {
        topic: "news".to_owned(),
        first_offset: 0,
        message_count: 3,
        append_time: "2027-01-15T08:00:00.005Z".to_owned(),
        reached: record::level(cubecast_sdk::AckLevel::Quorum),
        stored_by: record::in_order(stored_by, "100", &replicas),
        is_duplicate: false,
        owner: "100".to_owned(),
        replicas,
    };
    both(
        |output| output.line(published.sentence(), &published).unwrap(),
        &expect![[r#"
            published 3 messages to news at offsets 0..2 (stored by 100, 101, 000)
            {"topic":"news","first_offset":0,"message_count":3,"append_time":"2027-01-15T08:00:00.005Z","reached":"quorum","stored_by":["100","101","000"],"is_duplicate":false,"owner":"100","replicas":["101","110","000"]}
        "#]],
    );
}

#[test]
fn place_of_a_topic_is_told_though_it_does_not_exist() {
    let location = v1::LocateTopicResponse {
        topic: "news".to_owned(),
        placement: Some(v1::Placement {
            owner: "100".to_owned(),
            replicas: ["101", "110", "000"].map(str::to_owned).into(),
            leader: "100".to_owned(),
        }),
        leader_address: "http://127.0.0.1:8004".to_owned(),
        term: 1,
        ..v1::LocateTopicResponse::default()
    };
    let location = record::Location::from(cubecast_sdk::Location::from(location));
    both(
        |output| output.line(location.sentence(), &location).unwrap(),
        &expect![[r#"
            topic news does not exist; its place: owner 100, replicas 101, 110, 000; led by 100 at http://127.0.0.1:8004 in term 1
            {"topic":"news","exists":false,"owner":"100","replicas":["101","110","000"],"leader":"100","leader_address":"http://127.0.0.1:8004","term":1,"replica_status":[]}
        "#]],
    );
}
