//! Prometheus metrics with the names of the requirements (A0-52), made from the same reports as the status.

use mew_contract::report::LinkState;
use mew_contract::snapshot::Direction;
use mew_kernel::Kernel;
use mew_net::Hub;
use mew_sync::records;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FlowLabels {
    remote: String,
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    remote: String,
    direction: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConflictLabels {
    remote: String,
    resolution: String,
}

type Gauges = Family<FlowLabels, Gauge<f64, AtomicU64>>;
type Counters = Family<FlowLabels, Counter>;

/// The whole page. A registry is made for each scrape, so that what no longer exists leaves no series behind.
pub fn text(kernel: &Kernel, hub: &Hub, attached: bool) -> String {
    let (remotes, syncs) = hub.report();
    let mut r = Registry::default();
    let up = remotes.iter().filter(|x| x.state == LinkState::Connected).count();
    r.register("federation_connections_active", "Connections to peers that are up", ConstGauge::new(up as i64));
    let count = |n: &AtomicU64| ConstCounter::new(n.load(Ordering::Relaxed));
    r.register("federation_connection_errors", "Tries to connect that failed", count(&hub.counters.connection_errors));
    r.register(
        "federation_reconnections",
        "Connections that broke and were or will be made again",
        count(&hub.counters.reconnections),
    );
    let (lag, queue, held) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (entities, errors) = (Counters::default(), Family::<ErrorLabels, Counter>::default());
    for s in &syncs {
        let direction = match s.direction {
            Direction::Push => "push",
            Direction::Pull => "pull",
        };
        let labels = FlowLabels { remote: s.remote.clone(), direction };
        // Several Syncs of one Remote: the worst lag, the sum of the rest.
        let worst = lag.get_or_create_owned(&labels);
        worst.set(worst.get().max(s.lag_ms.map_or(0.0, |l| l as f64 / 1000.0)));
        queue.get_or_create_owned(&labels).inc_by(s.pending.unwrap_or(0) as f64);
        held.get_or_create_owned(&labels).inc_by(s.held as f64);
        entities.get_or_create_owned(&labels).inc_by(s.applied);
        let FlowLabels { remote, direction } = labels;
        errors.get_or_create_owned(&ErrorLabels { remote, direction, r#type: "rejected" }).inc_by(s.rejected);
    }
    let bytes = Counters::default();
    for (remote, sent, received) in hub.traffic() {
        let of = |direction| FlowLabels { remote: remote.clone(), direction };
        bytes.get_or_create_owned(&of("push")).inc_by(sent);
        bytes.get_or_create_owned(&of("pull")).inc_by(received);
    }
    r.register("federation_sync_bytes", "Bytes of data sent to and received from the peer", bytes);
    r.register("federation_sync_lag_seconds", "Age of the oldest change that has not arrived", lag);
    r.register("federation_sync_queue_size", "Changes in the log behind the sink's position", queue);
    r.register("federation_sync_entities", "Changes applied at the sink", entities);
    r.register("federation_sync_errors", "Changes that the sink refused", errors);
    r.register("federation_sync_held", "Changes that wait at the sink for what blocks them", held);
    let conflicts = Family::<ConflictLabels, Counter>::default();
    let (totals, kept) = {
        let view = kernel.view();
        (records::conflict_totals(&view).unwrap_or_default(), view.count_facts(records::CONFLICT).unwrap_or_default())
    };
    for (remote, resolution, n) in totals {
        conflicts.get_or_create_owned(&ConflictLabels { remote, resolution }).inc_by(n);
    }
    r.register(
        "federation_conflicts",
        "Conflicts with the Remote since this kernel began, by what became of them",
        conflicts,
    );
    r.register(
        "federation_conflicts_pending",
        "Conflicts that are kept for people to look at",
        ConstGauge::new(kept as i64),
    );
    let (bytes, all) = kernel.usage();
    r.register("mew_kernel_log_bytes", "Size of the kernel's log", ConstGauge::new(bytes as i64));
    r.register("mew_kernel_entities", "Entities, tombstones included", ConstGauge::new(all as i64));
    r.register("mew_agent_attached", "1 while the operator is attached", ConstGauge::new(i64::from(attached)));
    let mut out = String::new();
    match encode(&mut out, &r) {
        Ok(()) => out,
        Err(_) => String::new(),
    }
}
