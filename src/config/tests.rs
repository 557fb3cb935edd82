//! Precedence, origins, and a sentence for everything that can be wrong.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;

use super::*;

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let os = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    variables.iter().map(os).collect()
}

fn with_environment(variables: &[(&str, &str)]) -> Result<Config, Error> {
    Config::load(&Sources::default().environment(environment(variables)))
}

fn setting(key: &str) -> &'static Setting {
    Setting::with_key(key).unwrap()
}

fn with_file(text: &str) -> (tempfile::NamedTempFile, Sources) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sources = Sources::default().file(file.path().to_owned());
    (file, sources)
}

/// The error of a file with this text; the file's name is replaced by `FILE`.
fn file_error(text: &str) -> String {
    let (file, sources) = with_file(text);
    let error = Config::load(&sources).unwrap_err().to_string();
    error.replace(file.path().to_str().unwrap(), "FILE")
}

fn row<'a>(config: &'a Config, key: &str) -> (&'a str, &'a Origin) {
    let row = config.rows.iter().find(|row| row.key == key).unwrap();
    (&row.value, &row.origin)
}

// REQ T2
#[test]
fn defaults_are_eight_peers_on_this_machine() {
    let config = Config::load(&Sources::default()).unwrap();
    assert_eq!(config.cluster.as_str(), "cubecast");
    assert_eq!(config.listen, "127.0.0.1:8000".parse().unwrap());
    assert_eq!(config.peers.len(), 8);
    assert_eq!(config.peers[7], "http://127.0.0.1:8007");
    assert_eq!(config.advertise, "http://127.0.0.1:8000");
    assert_eq!(config.replication_factor.copies(), 4);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.peer_dir(), Path::new("./cubecast-data/peer-000"));
    assert_eq!(config.local_address(), "http://127.0.0.1:8000");
    assert!(!config.fault_injection);
}

// REQ T7
#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let (file, sources) = with_file(
        "peer = 1\ncall_timeout = \"1s\"\nbase_port = 9000\n[limits]\ncalls_max = 7\npage_size_max = 8\n",
    );
    let sources = sources
        .environment(environment(&[
            ("CUBECAST_PEER", "2"),
            ("CUBECAST_CALL_TIMEOUT", "2s"),
            ("CUBECAST_LIMITS_CALLS_MAX", "9"),
            ("PATH", "/bin"),
        ]))
        .flag(setting("peer"), "3");
    let config = Config::load(&sources).unwrap();
    let path = file.path().to_owned();
    assert_eq!(
        row(&config, "peer"),
        ("3", &Origin::Flag("peer".to_owned()))
    );
    assert_eq!(
        row(&config, "call_timeout"),
        (
            "2s",
            &Origin::Environment("CUBECAST_CALL_TIMEOUT".to_owned())
        )
    );
    assert_eq!(
        row(&config, "base_port"),
        ("9000", &Origin::File(path.clone()))
    );
    assert_eq!(
        row(&config, "limits.calls_max"),
        (
            "9",
            &Origin::Environment("CUBECAST_LIMITS_CALLS_MAX".to_owned())
        )
    );
    assert_eq!(
        row(&config, "limits.page_size_max"),
        ("8", &Origin::File(path))
    );
    assert_eq!(row(&config, "dimension"), ("3", &Origin::Default));
    assert_eq!(row(&config, "port"), ("9003", &Origin::Derived));
    assert_eq!(
        row(&config, "advertise"),
        ("http://127.0.0.1:9003", &Origin::Derived)
    );
    assert_eq!(config.listen.port(), 9003);
    assert_eq!(config.peer, PeerId(3));
    assert_eq!(config.limits.calls_max, 9);
}

#[test]
fn file_is_named_by_the_environment_unless_a_flag_names_one() {
    let (file, sources) = with_file("peer = 1");
    let (other, _) = with_file("peer = 2");
    let variables = |file: &tempfile::NamedTempFile| {
        environment(&[("CUBECAST_CONFIG", file.path().to_str().unwrap())])
    };
    let named = Sources::default().environment(variables(&file));
    assert_eq!(Config::load(&named).unwrap().peer, PeerId(1));
    let both = sources.environment(variables(&other));
    assert_eq!(Config::load(&both).unwrap().peer, PeerId(1));
}

#[test]
fn own_port_and_any_interface_are_seen_in_the_addresses() {
    let config = with_environment(&[
        ("CUBECAST_LISTEN_HOST", "0.0.0.0"),
        ("CUBECAST_PORT", "7777"),
        ("CUBECAST_PEER", "1"),
    ])
    .unwrap();
    assert_eq!(config.listen, "0.0.0.0:7777".parse().unwrap());
    assert_eq!(config.peers[0], "http://127.0.0.1:8000");
    assert_eq!(config.peers[1], "http://127.0.0.1:7777");
    assert_eq!(config.advertise, "http://127.0.0.1:7777");
    assert_eq!(config.local_address(), "http://127.0.0.1:7777");
}

#[test]
fn another_peer_of_the_machine_has_its_own_port_and_directory() {
    let sources = Sources::default().flag(setting("base_port"), "9000");
    let config = Config::of_peer(&sources, PeerId(5)).unwrap();
    assert_eq!(config.listen.port(), 9005);
    assert!(config.peer_dir().ends_with("peer-005"));
    assert!(Config::of_peer(&sources, PeerId(8)).is_err());
}

/// What the container files set are settings, and the eight containers agree on who is where.
#[test]
fn variables_of_the_container_files_are_settings() {
    let compose = include_str!("../../docker-compose.yml");
    let all = format!("{compose}{}", include_str!("../../Dockerfile"));
    let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
    let words = all.split(|c: char| !is_part(c));
    let variables: Vec<&str> = words.filter(|word| word.starts_with("CUBECAST_")).collect();
    assert!(variables.len() > 10, "{variables:?}");
    for variable in variables {
        let known = SETTINGS
            .iter()
            .any(|setting| setting.variable() == variable);
        assert!(known, "{variable}");
    }
    let after = compose.split("CUBECAST_PEERS: >-").nth(1).unwrap();
    let peers: String = after
        .split("\n\n")
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let config = with_environment(&[("CUBECAST_PEERS", &peers)]).unwrap();
    for (vertex, address) in config.dimension.vertices().zip(&config.peers) {
        let port = 8000 + vertex.index();
        assert_eq!(address, &format!("http://node-{vertex}:{port}"));
        let service = format!("  node-{vertex}:\n");
        let service = compose.split(&service).nth(1).unwrap();
        let service = service.split("\n\n").next().unwrap();
        assert!(service.contains(&format!("CUBECAST_PEER: \"{}\"", vertex.index())));
        assert!(service.contains(&format!("127.0.0.1:{port}:{port}")));
        assert!(service.contains(&format!("data-{vertex}:/data")));
    }
}

#[test]
fn given_peers_may_leave_out_the_scheme() {
    let config = with_environment(&[
        ("CUBECAST_DIMENSION", "1"),
        ("CUBECAST_PEER", "1"),
        ("CUBECAST_PEERS", "node-0:8000, http://[::1]:8001/"),
    ])
    .unwrap();
    assert_eq!(config.peers, ["http://node-0:8000", "http://[::1]:8001"]);
    assert_eq!(config.advertise, "http://[::1]:8001");
    assert_eq!(config.replication_factor.copies(), 2);
}

#[test]
fn text_that_looks_like_a_number_stays_a_text() {
    let config = with_environment(&[("CUBECAST_CLUSTER", "2026")]).unwrap();
    assert_eq!(config.cluster.as_str(), "2026");
}

#[test]
fn unknown_key_is_named_with_its_file() {
    assert_eq!(
        file_error("per = 1"),
        "unknown setting per in file FILE: did you mean peer?"
    );
    assert_eq!(
        file_error("[limits]\nmessages = 1"),
        "unknown setting limits.messages in file FILE"
    );
    assert_eq!(
        file_error("segment_bytes_max = 1"),
        "unknown setting segment_bytes_max in file FILE: did you mean wal.segment_bytes_max?"
    );
    assert_eq!(file_error("wal = 1"), "unknown setting wal in file FILE");
    let error = with_environment(&[("CUBECAST_PEERZ", "1")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown setting CUBECAST_PEERZ in the environment: did you mean CUBECAST_PEER?"
    );
}

#[test]
fn variables_of_the_client_are_not_settings() {
    assert!(with_environment(&[("CUBECAST_ADDRESS", "x"), ("CUBECAST_OUTPUT", "json")]).is_ok());
}

#[test]
fn file_that_cannot_be_read_is_named() {
    let error = Config::load(&Sources::default().file("/nonexistent/c.toml".into())).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("configuration file /nonexistent/c.toml cannot be read: No such file"),
        "{text}"
    );
    let text = file_error("peer = = 1");
    assert!(
        text.starts_with("configuration file FILE cannot be read: TOML parse error"),
        "{text}"
    );
}

#[test]
fn value_of_the_wrong_kind_is_named_with_its_origin() {
    assert_eq!(
        file_error("peer = \"one\""),
        "setting peer (file FILE): \"one\" is not a whole number from 0"
    );
    assert_eq!(
        file_error("dimension = 300"),
        "setting dimension (file FILE): 300 is out of range"
    );
    let cases = [
        (
            "CUBECAST_PEER",
            "-1",
            "peer",
            "\"-1\" is not a whole number from 0",
        ),
        (
            "CUBECAST_FAULT_INJECTION",
            "yes",
            "fault_injection",
            "\"yes\" is not true or false",
        ),
        (
            "CUBECAST_CALL_TIMEOUT",
            "10",
            "call_timeout",
            "\"10\" is not a time such as 250ms or 10s",
        ),
    ];
    for (variable, value, key, problem) in cases {
        assert_eq!(
            with_environment(&[(variable, value)])
                .unwrap_err()
                .to_string(),
            format!("setting {key} (environment {variable}): {problem}")
        );
    }
}

/// Key, value, and what is wrong with it.
const NONSENSE: &[(&str, &str, &str)] = &[
    (
        "cluster",
        "a b",
        "a name has only characters of [A-Za-z0-9._-], this one has ' ' at byte 1",
    ),
    ("dimension", "0", "dimension 0 is not within 1..=12"),
    ("dimension", "13", "dimension 13 is not within 1..=12"),
    (
        "peer",
        "8",
        "there is no peer 8: a cube of dimension 3 has peers 0 to 7",
    ),
    ("base_port", "0", "0 is not a port to count from"),
    (
        "base_port",
        "65530",
        "65530 leaves no port for peer 6: the last port is 65535",
    ),
    (
        "peers",
        "a:1,b:2",
        "a cube of dimension 3 has 8 peers, 2 are given",
    ),
    (
        "peers",
        "a:1,b:1,c:1,d:1,e:1,f:1,g:1,http://a:1",
        "http://a:1 is given twice",
    ),
    (
        "peers",
        "a",
        "\"a\" is not an address such as http://10.0.0.1:8000",
    ),
    (
        "advertise",
        "http://a:1/x",
        "\"http://a:1/x\" is not an address such as http://10.0.0.1:8000",
    ),
    (
        "advertise",
        "https://a:1",
        "\"https://a:1\" asks for TLS, which is not there yet",
    ),
    ("data_dir", "", "the path is empty"),
    (
        "replication_factor",
        "5",
        "replication factor 5 is not within 1..=4: the owner and its 3 neighbours",
    ),
    ("heartbeat_interval", "1ms", "1ms is less than 10ms"),
    (
        "election_timeout_min",
        "1s",
        "1s is not more than two heartbeats (1s)",
    ),
    (
        "election_timeout_max",
        "1500ms",
        "1s 500ms is not more than the shortest (1s 500ms)",
    ),
    ("link.interval", "5ms", "5ms is less than 10ms"),
    (
        "link.silence",
        "500ms",
        "500ms is not more than two heartbeats (500ms)",
    ),
    ("call_timeout", "0s", "no call can be answered in no time"),
    ("limits.calls_max", "0", "0 would refuse everything"),
    (
        "limits.message_bytes_max",
        "4194305",
        "4194305 is more than limits.request_bytes_max (4194304)",
    ),
    (
        "limits.request_bytes_max",
        "268435457",
        "268435457 is more than 268435456",
    ),
    (
        "wal.segment_bytes_max",
        "1000",
        "1000 is not between two requests (8388608) and 1073741824",
    ),
    ("store.cache_bytes", "1", "1 is less than 1048576"),
    (
        "store.memtable_bytes",
        "1",
        "1 is not between 1048576 and 1073741824",
    ),
    ("store.flush_interval", "1ms", "1ms is less than 10ms"),
    ("retention.interval", "0s", "0s is less than 10ms"),
    (
        "log.filter",
        "a=lowd",
        "log filter \"a=lowd\" cannot be read (error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5); such as: info,cubecast::router=debug",
    ),
];

#[test]
fn every_value_that_makes_no_sense_is_refused_with_a_sentence() {
    for (key, value, problem) in NONSENSE {
        let sources = Sources::default().flag(setting(key), value);
        let flag = setting(key).flag();
        assert_eq!(
            Config::load(&sources).unwrap_err().to_string(),
            format!("setting {key} (flag --{flag}): {problem}")
        );
    }
    for (key, value) in [("listen_host", "localhost"), ("log.format", "xml")] {
        let sources = Sources::default().flag(setting(key), value);
        let text = Config::load(&sources).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("setting {key} (flag --")),
            "{text}"
        );
    }
}

#[test]
fn one_stem_names_a_setting_everywhere() {
    let setting = setting("wal.segment_bytes_max");
    assert_eq!(setting.variable(), "CUBECAST_WAL_SEGMENT_BYTES_MAX");
    assert_eq!(setting.flag(), "wal-segment-bytes-max");
    let mut flags: Vec<String> = SETTINGS.iter().map(Setting::flag).collect();
    flags.sort();
    flags.dedup();
    assert_eq!(flags.len(), SETTINGS.len());
}

/// The table and the struct are the same list, and every row has a value that can be given back.
#[test]
fn every_setting_is_shown_with_a_value_that_can_be_set() {
    let config = Config::load(&Sources::default()).unwrap();
    let mut sources = Sources::default();
    for row in &config.rows {
        assert!(!row.value.is_empty(), "{}", row.key);
        sources = sources.flag(setting(row.key), &row.value);
    }
    let again = Config::load(&sources).unwrap();
    for (first, second) in config.rows.iter().zip(&again.rows) {
        assert_eq!((first.key, &first.value), (second.key, &second.value));
        assert!(matches!(second.origin, Origin::Flag(_)), "{}", second.key);
    }
    assert_eq!(
        Config {
            rows: config.rows.clone(),
            ..again
        },
        config
    );
    let raw = figment::value::Value::serialize(raw::Raw::default()).unwrap();
    let keys: usize = raw
        .as_dict()
        .unwrap()
        .values()
        .map(|value| value.as_dict().map_or(1, figment::value::Dict::len))
        .sum();
    assert_eq!(keys, SETTINGS.len());
}

#[test]
fn example_file_names_every_setting_with_its_default() {
    expect_test::expect_file!["../../cubecast.toml"].assert_eq(&example().unwrap());
    // Without the comments, the lines give the defaults again.
    let lines = example()
        .unwrap()
        .lines()
        .filter_map(uncommented)
        .collect::<Vec<_>>()
        .join("\n");
    let (_file, sources) = with_file(&lines);
    let config = Config::load(&sources).unwrap();
    let default = Config::load(&Sources::default()).unwrap();
    assert_eq!(
        Config {
            rows: default.rows.clone(),
            ..config
        },
        default
    );
}

/// `key = value` of `# key = value`, and tables as they are.
fn uncommented(line: &str) -> Option<&str> {
    let code = line.strip_prefix("# ").unwrap_or(line);
    let key = code.split(" = ").next().unwrap_or(code);
    let is_setting = SETTINGS.iter().any(|setting| {
        let name = setting.key.rsplit('.').next();
        name == Some(key)
    });
    (is_setting || key.starts_with('[')).then_some(code)
}
