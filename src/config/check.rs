//! Every value is looked at once, here.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use http::Uri;

use super::raw::Raw;
use super::source::Layers;
use super::{Config, Error};
use crate::cube::ReplicationFactor;
use crate::telemetry;
use crate::types::{ByteCount, Dimension, Limits, Name, PeerId};

/// A request is held in memory as a whole.
const REQUEST_BYTES_LIMIT: u64 = 256 << 20;
/// Positions within a segment fit into 32 bits.
const SEGMENT_BYTES_LIMIT: u64 = 1 << 30;
/// Below this the store reads the same block again and again.
const CACHE_BYTES_MIN: u64 = 1 << 20;
/// Below this the store flushes all the time.
const MEMTABLE_BYTES_MIN: u64 = 1 << 20;
/// Two of them are held in memory.
const MEMTABLE_BYTES_LIMIT: u64 = 1 << 30;
/// What is done more often than this is done all the time.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// The checked settings; `raw` has its derived values.
pub(super) fn config(raw: &Raw, layers: &Layers) -> Result<Config, Error> {
    let wrong = |key: &'static str| move |problem: String| layers.wrong(key, problem);
    let dimension = Dimension::new(raw.dimension)
        .map_err(|error| error.to_string())
        .map_err(wrong("dimension"))?;
    let factor = raw.replication_factor.unwrap_or_default();
    if raw.base_port == 0 {
        return Err(layers.wrong("base_port", "0 is not a port to count from".to_owned()));
    }
    if raw.data_dir.as_os_str().is_empty() {
        return Err(layers.wrong("data_dir", "the path is empty".to_owned()));
    }
    if let Some((key, problem)) = time(raw)
        .or_else(|| limit(&raw.limits))
        .or_else(|| size(raw))
    {
        return Err(layers.wrong(key, problem));
    }
    Ok(Config {
        cluster: Name::new(&raw.cluster)
            .map_err(|error| error.to_string())
            .map_err(wrong("cluster"))?,
        dimension,
        peer: peer(raw, dimension).map_err(wrong("peer"))?,
        listen: SocketAddr::new(raw.listen_host, raw.port.unwrap_or_default()),
        next_free_port: raw.next_free_port,
        // Before `advertise`, which is derived from it.
        peers: peers(raw, dimension).map_err(wrong("peers"))?,
        advertise: address(raw.advertise.as_deref().unwrap_or_default())
            .map_err(wrong("advertise"))?,
        data_dir: raw.data_dir.clone(),
        replication_factor: ReplicationFactor::new(factor, dimension)
            .map_err(|error| error.to_string())
            .map_err(wrong("replication_factor"))?,
        heartbeat_interval: raw.heartbeat_interval,
        election_timeout_min: raw.election_timeout_min,
        election_timeout_max: raw.election_timeout_max,
        link_interval: raw.link.interval,
        link_silence: raw.link.silence,
        call_timeout: raw.call_timeout,
        shutdown_grace: raw.shutdown_grace,
        fault_injection: raw.fault_injection,
        limits: raw.limits,
        wal_segment_bytes_max: ByteCount(raw.wal.segment_bytes_max),
        wal_keep_bytes: ByteCount(raw.wal.keep_bytes),
        store_cache_bytes: ByteCount(raw.store.cache_bytes),
        store_memtable_bytes: ByteCount(raw.store.memtable_bytes),
        store_flush_interval: raw.store.flush_interval,
        disk_reserve_bytes: ByteCount(raw.disk.reserve_bytes),
        retention_interval: raw.retention.interval,
        standby_after: raw.failover.standby_after,
        return_after: raw.failover.return_after,
        log: telemetry::Options::new(&raw.log.filter, raw.log.format)
            .map_err(|error| error.to_string())
            .map_err(wrong("log.filter"))?,
        rows: layers.rows(raw),
    })
}

fn peer(raw: &Raw, dimension: Dimension) -> Result<PeerId, String> {
    let count = dimension.vertex_count();
    if raw.peer < count {
        Ok(PeerId(raw.peer))
    } else {
        let (peer, last, bits) = (raw.peer, count - 1, raw.dimension);
        Err(format!(
            "there is no peer {peer}: a cube of dimension {bits} has peers 0 to {last}"
        ))
    }
}

fn peers(raw: &Raw, dimension: Dimension) -> Result<Vec<String>, String> {
    let peers = raw.peers.iter().flatten().map(|peer| address(peer));
    let peers = peers.collect::<Result<Vec<String>, String>>()?;
    let (count, bits, given) = (dimension.vertex_count(), raw.dimension, peers.len());
    if given != usize::from(count) {
        return Err(format!(
            "a cube of dimension {bits} has {count} peers, {given} are given"
        ));
    }
    let mut seen = BTreeSet::new();
    match peers.iter().find(|peer| !seen.insert(*peer)) {
        Some(peer) => Err(format!("{peer} is given twice")),
        None => Ok(peers),
    }
}

/// `http://host:port`; the scheme may be left out.
fn address(text: &str) -> Result<String, String> {
    let problem = || format!("{text:?} is not an address such as http://10.0.0.1:8000");
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let uri: Uri = full.parse().map_err(|_| problem())?;
    let has_only_authority = uri.path().len() <= 1 && uri.query().is_none();
    match (uri.scheme_str(), uri.host(), uri.port_u16()) {
        (Some("http"), Some(host), Some(port)) if has_only_authority && !host.is_empty() => {
            Ok(format!("http://{host}:{port}"))
        }
        (Some("https"), ..) => Err(format!("{text:?} asks for TLS, which is not there yet")),
        _ => Err(problem()),
    }
}

type Problem = (&'static str, String);

fn time(raw: &Raw) -> Option<Problem> {
    let text = humantime::format_duration;
    let heartbeat = raw.heartbeat_interval;
    let (min, max) = (raw.election_timeout_min, raw.election_timeout_max);
    if heartbeat < Duration::from_millis(10) {
        let problem = format!("{} is less than 10ms", text(heartbeat));
        return Some(("heartbeat_interval", problem));
    }
    if min <= heartbeat * 2 {
        let two = text(heartbeat * 2);
        let problem = format!("{} is not more than two heartbeats ({two})", text(min));
        return Some(("election_timeout_min", problem));
    }
    if max <= min {
        let problem = format!(
            "{} is not more than the shortest ({})",
            text(max),
            text(min)
        );
        return Some(("election_timeout_max", problem));
    }
    let (beat, silence) = (raw.link.interval, raw.link.silence);
    if silence <= beat * 2 {
        let two = text(beat * 2);
        let problem = format!("{} is not more than two heartbeats ({two})", text(silence));
        return Some(("link.silence", problem));
    }
    let intervals = [
        ("link.interval", beat),
        ("store.flush_interval", raw.store.flush_interval),
        ("retention.interval", raw.retention.interval),
        ("failover.standby_after", raw.failover.standby_after),
        ("failover.return_after", raw.failover.return_after),
    ];
    let often = intervals
        .into_iter()
        .find(|(_, interval)| *interval < INTERVAL_MIN);
    if let Some((key, interval)) = often {
        let problem = format!("{} is less than {}", text(interval), text(INTERVAL_MIN));
        return Some((key, problem));
    }
    raw.call_timeout.is_zero().then(|| {
        (
            "call_timeout",
            "no call can be answered in no time".to_owned(),
        )
    })
}

fn limit(limits: &Limits) -> Option<Problem> {
    let counts = [
        ("limits.message_bytes_max", limits.message_bytes_max),
        ("limits.request_bytes_max", limits.request_bytes_max),
        (
            "limits.publish_messages_max",
            limits.publish_messages_max.into(),
        ),
        ("limits.pull_messages_max", limits.pull_messages_max.into()),
        ("limits.page_size_max", limits.page_size_max.into()),
        ("limits.connections_max", limits.connections_max.into()),
        ("limits.calls_max", limits.calls_max.into()),
    ];
    if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
        return Some((key, "0 would refuse everything".to_owned()));
    }
    let (message, request) = (limits.message_bytes_max, limits.request_bytes_max);
    if request > REQUEST_BYTES_LIMIT {
        let problem = format!("{request} is more than {REQUEST_BYTES_LIMIT}");
        return Some(("limits.request_bytes_max", problem));
    }
    (message > request).then(|| {
        let problem = format!("{message} is more than limits.request_bytes_max ({request})");
        ("limits.message_bytes_max", problem)
    })
}

fn size(raw: &Raw) -> Option<Problem> {
    let (segment, request) = (raw.wal.segment_bytes_max, raw.limits.request_bytes_max);
    if segment < request * 2 || segment > SEGMENT_BYTES_LIMIT {
        let problem = format!(
            "{segment} is not between two requests ({}) and {SEGMENT_BYTES_LIMIT}",
            request * 2
        );
        return Some(("wal.segment_bytes_max", problem));
    }
    let memtable = raw.store.memtable_bytes;
    if !(MEMTABLE_BYTES_MIN..=MEMTABLE_BYTES_LIMIT).contains(&memtable) {
        let problem =
            format!("{memtable} is not between {MEMTABLE_BYTES_MIN} and {MEMTABLE_BYTES_LIMIT}");
        return Some(("store.memtable_bytes", problem));
    }
    let cache = raw.store.cache_bytes;
    (cache < CACHE_BYTES_MIN).then(|| {
        (
            "store.cache_bytes",
            format!("{cache} is less than {CACHE_BYTES_MIN}"),
        )
    })
}
