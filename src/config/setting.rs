//! The table of settings: the only list of them.

/// Of which kind a setting's value is, and so how it is written in the environment and as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number, not negative.
    Number,
    /// `true` or `false`.
    Truth,
    /// A time such as `250ms` or `10s`.
    Duration,
    /// Texts; with commas between them outside the file.
    List,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The key in the file; a dot where a table begins.
    pub key: &'static str,
    /// Of which kind the value is.
    pub kind: Kind,
    /// One sentence for users.
    pub help: &'static str,
}

impl Setting {
    /// The variable: `CUBECAST_WAL_SEGMENT_BYTES_MAX`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", stem(self.key).to_ascii_uppercase())
    }

    /// The flag, without its dashes: `wal-segment-bytes-max`.
    pub fn flag(&self) -> String {
        stem(self.key).replace('_', "-")
    }

    /// The setting with this key.
    pub fn with_key(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The setting with this key, or whose value has a part with this key: `peers.0`.
    pub(super) fn holding(key: &str) -> Option<&'static Self> {
        let is_part = |rest: &str| rest.is_empty() || rest.starts_with('.');
        SETTINGS
            .iter()
            .find(|setting| key.strip_prefix(setting.key).is_some_and(is_part))
    }
}

/// What the variables of settings begin with.
pub(super) const VARIABLE_PREFIX: &str = "CUBECAST_";

/// Variables with the prefix that are not settings of a peer: the file's name, and what the client commands read.
pub(super) const OTHER_VARIABLES: [&str; 3] =
    ["CUBECAST_CONFIG", "CUBECAST_ADDRESS", "CUBECAST_OUTPUT"];

fn stem(key: &str) -> String {
    key.replace('.', "_")
}

/// A table of rows instead of a few dozen times three field names.
macro_rules! settings {
    ($($key:literal $kind:ident $help:literal)*) => {
        /// Every setting of a peer, in the order of the file: tables last.
        pub const SETTINGS: &[Setting] = &[$(Setting { key: $key, kind: Kind::$kind, help: $help }),*];
    };
}

settings! {
    "cluster"                     Text     "Name of the cluster; a data directory belongs to one."
    "dimension"                   Number   "Dimension of the cube: 1 to 12, so 2 to 4096 vertices."
    "peer"                        Number   "Number of this peer, from 0."
    "listen_host"                 Text     "IP address to listen on; 0.0.0.0 for every interface."
    "base_port"                   Number   "Port of peer 0; peer i listens on this port + i."
    "port"                        Number   "Port of this peer, instead of base_port + peer; 0 takes any free one."
    "next_free_port"              Truth    "When the port is busy, take the next free one."
    "advertise"                   Text     "Address of this peer as others are told it; its address among the peers unless set."
    "peers"                       List     "Address of every peer, in the order of their numbers; on this machine from base_port unless set."
    "data_dir"                    Text     "Directory of the data; each peer has its own within."
    "replication_factor"          Number   "Copies of each topic: the owner and its first neighbours; dimension + 1 unless set."
    "heartbeat_interval"          Duration "How often a leader tells its followers that it lives."
    "election_timeout_min"        Duration "Shortest silence after which a follower calls an election."
    "election_timeout_max"        Duration "Longest silence after which a follower calls an election."
    "call_timeout"                Duration "How long a call may take when its caller sets no deadline."
    "shutdown_grace"              Duration "How long a stopping peer lets calls finish."
    "fault_injection"             Truth    "Whether callers may stop the peer and disturb its links."
    "link.interval"               Duration "How often the two ends of each link between peers tell each other that they live."
    "link.silence"                Duration "How long nothing may be heard on a link until it counts as broken."
    "limits.message_bytes_max"    Number   "Bytes of one message with its key and headers."
    "limits.request_bytes_max"    Number   "Bytes of one request, and of the messages in one answer."
    "limits.publish_messages_max" Number   "Messages in one publish."
    "limits.pull_messages_max"    Number   "Messages in one answer to a pull."
    "limits.pull_wait_max"        Duration "How long a pull may wait for something new."
    "limits.page_size_max"        Number   "Entries in one page of a list."
    "limits.connections_max"      Number   "Connections that one peer holds at once."
    "limits.calls_max"            Number   "Calls that one peer works on at once."
    "wal.segment_bytes_max"       Number   "Bytes of one file of the write-ahead log."
    "wal.keep_bytes"              Number   "Bytes of the write-ahead log that are kept for replicas that are behind; a replica behind these gets a snapshot."
    "store.cache_bytes"           Number   "Bytes of memory for blocks read from the topic store."
    "store.memtable_bytes"        Number   "Bytes of memory that gather what is applied until it is flushed; two of them at most."
    "store.flush_interval"        Duration "How often what is applied is flushed, when less has gathered."
    "disk.reserve_bytes"          Number   "Free bytes of the disk below which nothing more is published; 0 looks at no limit."
    "retention.interval"          Duration "How often topics are looked at for messages that are too old or too many."
    "failover.standby_after"      Duration "How long a peer is gone before the standby votes in its place."
    "failover.return_after"       Duration "How long the link to a shard's owner is up before it leads the shard again."
    "log.filter"                  Text     "What is logged, such as info or info,cubecast::router=debug."
    "log.format"                  Text     "How it is logged: text or json."
}
