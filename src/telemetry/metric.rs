//! The table of metrics, and the numbers of one peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the number of a metric does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Makes the enum, its list and its names from one table, so that none can be forgotten.
macro_rules! metrics {
    ($($variant:ident $kind:ident $name:literal $help:literal)*) => {
        /// Every metric of a peer. Names are `cubecast_<module>_<thing>_<unit>`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)*
        }

        impl Metric {
            /// The whole table.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The name under which it is scraped.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence on what is counted.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }

            /// What the number does.
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }
        }
    };
}

metrics! {
    BrokerMessagesPublished Counter "cubecast_broker_messages_published_total" "Messages that were acknowledged to publishers."
    BrokerBytesPublished    Counter "cubecast_broker_bytes_published_total"    "Bytes of messages that were acknowledged to publishers."
    BrokerDuplicates        Counter "cubecast_broker_duplicates_total"         "Publishes that were answered from an earlier one."
    BrokerMessagesDelivered Counter "cubecast_broker_messages_delivered_total" "Messages that were sent to subscribers."
    BrokerPullsWaiting      Gauge   "cubecast_broker_pulls_waiting_count"      "Pulls that wait for something new."
    ConsensusElections      Counter "cubecast_consensus_elections_total"       "Elections that this peer has called."
    ReplicaShardsLed        Gauge   "cubecast_replica_shards_led_count"        "Shards that this peer leads."
    ReplicaShardsHeld       Gauge   "cubecast_replica_shards_held_count"       "Shards that this peer holds a copy of."
    RouterCallsForwarded    Counter "cubecast_router_calls_forwarded_total"    "Calls that were passed on to another peer."
    RpcCalls                Counter "cubecast_rpc_calls_total"                 "Calls that were answered, well or badly."
    RpcCallsFailed          Counter "cubecast_rpc_calls_failed_total"          "Calls that were answered with an error."
    RpcCallsShed            Counter "cubecast_rpc_calls_shed_total"            "Calls that were refused because too many were being worked on."
    RpcCallsActive          Gauge   "cubecast_rpc_calls_active_count"          "Calls that are being worked on."
    RpcConnections          Gauge   "cubecast_rpc_connections_count"           "Open connections of clients and peers."
    RpcConnectionsRefused   Counter "cubecast_rpc_connections_refused_total"   "Connections that were refused because there were too many."
    StoreTopics             Gauge   "cubecast_store_topics_count"              "Topics in the shards that this peer holds."
    WalRecords              Counter "cubecast_wal_records_total"               "Records appended to the log."
    WalBytes                Counter "cubecast_wal_bytes_total"                 "Bytes appended to the log."
    WalSyncs                Counter "cubecast_wal_syncs_total"                 "Times that the log was forced to disk."
}

/// The numbers of one peer. Cheap to clone; every clone counts into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// One for each of [`Metric::ALL`], in its order.
    values: Arc<[AtomicU64; Metric::ALL.len()]>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            values: Arc::new([const { AtomicU64::new(0) }; Metric::ALL.len()]),
        }
    }
}

impl Metrics {
    /// Counts `more` further things.
    pub fn add(&self, metric: Metric, more: u64) {
        self.value(metric).fetch_add(more, Ordering::Relaxed);
    }

    /// Takes `less` from a gauge, which stops at 0.
    ///
    /// # Panics
    /// When the metric is a counter.
    pub fn subtract(&self, metric: Metric, less: u64) {
        assert!(metric.kind() == Kind::Gauge, "a counter only grows");
        let lower = |value: u64| Some(value.saturating_sub(less));
        // The closure never refuses, so there is always a previous value, and nobody needs it.
        let _ = self
            .value(metric)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
    }

    /// Sets a gauge.
    ///
    /// # Panics
    /// When the metric is a counter.
    pub fn set(&self, metric: Metric, value: u64) {
        assert!(metric.kind() == Kind::Gauge, "a counter only grows");
        self.value(metric).store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self, metric: Metric) -> u64 {
        self.value(metric).load(Ordering::Relaxed)
    }

    /// All numbers now, in the order of the table.
    pub fn all(&self) -> impl Iterator<Item = (Metric, u64)> {
        Metric::ALL
            .into_iter()
            .map(|metric| (metric, self.get(metric)))
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "one value for each variant, and the discriminants count from 0"
    )]
    fn value(&self, metric: Metric) -> &AtomicU64 {
        &self.values[metric as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MODULES: [&str; 7] = [
        "broker",
        "consensus",
        "replica",
        "router",
        "rpc",
        "store",
        "wal",
    ];

    #[test]
    fn names_say_module_thing_and_unit_once() {
        let names: BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        for metric in Metric::ALL {
            let words: Vec<&str> = metric.name().split('_').collect();
            assert_eq!(words[0], "cubecast");
            assert!(MODULES.contains(&words[1]), "{metric:?}");
            let unit = *words.last().unwrap();
            assert_eq!(
                unit == "total",
                metric.kind() == Kind::Counter,
                "{metric:?}"
            );
            assert!(metric.help().ends_with('.'));
        }
    }

    #[test]
    fn clones_count_into_the_same_number() {
        let metrics = Metrics::default();
        let clone = metrics.clone();
        metrics.add(Metric::WalRecords, 2);
        clone.add(Metric::WalRecords, 3);
        clone.set(Metric::StoreTopics, 7);
        metrics.subtract(Metric::StoreTopics, 9);
        assert_eq!(metrics.get(Metric::WalRecords), 5);
        assert_eq!(clone.get(Metric::StoreTopics), 0);
        assert_eq!(metrics.all().map(|(_, value)| value).sum::<u64>(), 5);
    }

    #[test]
    #[should_panic(expected = "only grows")]
    fn counter_cannot_be_set() {
        Metrics::default().set(Metric::WalRecords, 1);
    }
}
