//! Prometheus metrics with the names of the requirements (A0-52), made from the same reports as the status.

use crate::VERSION;
use mew_contract::report::{FlowReport, LinkState, RemoteReport};
use mew_contract::snapshot::Direction;
use mew_kernel::Kernel;
use mew_net::Hub;
use mew_sync::records;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RemoteLabels {
    remote: String,
}

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

/// The page of an agent whose kernel is not open: a scrape that fails would look like an agent that is gone.
pub fn of_waiting() -> Result<String, fmt::Error> {
    let mut r = Registry::default();
    register_agent(&mut r, false);
    encoded(&r)
}

/// The whole page. A registry is made for each scrape, so that what no longer exists leaves no series behind.
pub fn of_open(
    kernel: &Kernel,
    hub: &Hub,
    serves: bool,
    attached: bool,
    upkeep_failures: u32,
) -> Result<String, fmt::Error> {
    let (remotes, syncs) = hub.report();
    let mut r = Registry::default();
    register_agent(&mut r, serves);
    let up = remotes.iter().filter(|x| x.state == LinkState::Connected).count();
    r.register("federation_connections_active", "Connections to peers that are up", ConstGauge::new(up as i64));
    let count = |n: &AtomicU64| ConstCounter::new(n.load(Ordering::Relaxed));
    r.register("federation_connection_errors", "Tries to connect that failed", count(&hub.counters.connection_errors));
    r.register(
        "federation_reconnections",
        "Connections that broke and were or will be made again",
        count(&hub.counters.reconnections),
    );
    register_remotes(&mut r, &remotes);
    register_flows(&mut r, &syncs);
    let bytes = Counters::default();
    for (remote, sent, received) in hub.traffic() {
        let of = |direction| FlowLabels { remote: remote.clone(), direction };
        bytes.get_or_create_owned(&of("push")).inc_by(sent);
        bytes.get_or_create_owned(&of("pull")).inc_by(received);
    }
    r.register("federation_sync_bytes", "Bytes of data sent to and received from the peer", bytes);
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
    r.register(
        "mew_kernel_upkeep_failures",
        "Tries to tidy up the log that failed since one succeeded",
        ConstGauge::new(i64::from(upkeep_failures)),
    );
    r.register("mew_agent_attached", "1 while the operator is attached", ConstGauge::new(i64::from(attached)));
    encoded(&r)
}

fn encoded(r: &Registry) -> Result<String, fmt::Error> {
    let mut out = String::new();
    encode(&mut out, r)?;
    Ok(out)
}

fn register_agent(r: &mut Registry, serves: bool) {
    r.register("mew_agent", "The version of the agent", Info::new([("version", VERSION)]));
    r.register(
        "mew_agent_serving",
        "1 while the agent has its kernel open; 0 before that, and while it stands by",
        ConstGauge::new(i64::from(serves)),
    );
}

/// An outage is seen by this at either end: a side that only accepts makes no tries that could fail.
fn register_remotes(r: &mut Registry, remotes: &[RemoteReport]) {
    let connected = Family::<RemoteLabels, Gauge>::default();
    // One that is suspended is not to be connected.
    for x in remotes.iter().filter(|x| x.state != LinkState::Suspended) {
        let labels = RemoteLabels { remote: x.name.clone() };
        connected.get_or_create_owned(&labels).set(i64::from(x.state == LinkState::Connected));
    }
    r.register(
        "federation_remote_connected",
        "1 while the peer of the Remote is connected; none of a Remote that is suspended",
        connected,
    );
}

fn register_flows(r: &mut Registry, syncs: &[FlowReport]) {
    let (lag, queue, held) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (entities, errors) = (Counters::default(), Family::<ErrorLabels, Counter>::default());
    for s in syncs {
        let direction = match s.direction {
            Direction::Push => "push",
            Direction::Pull => "pull",
        };
        let labels = FlowLabels { remote: s.remote.clone(), direction };
        // Several Syncs of one Remote: the worst lag, the sum of the rest. What is not known is left out: 0 would say that
        // everything has arrived.
        if let Some(ms) = s.lag_ms {
            let worst = lag.get_or_create_owned(&labels);
            worst.set(worst.get().max(ms as f64 / 1000.0));
        }
        if let Some(n) = s.pending {
            queue.get_or_create_owned(&labels).inc_by(n as f64);
        }
        held.get_or_create_owned(&labels).inc_by(s.held as f64);
        entities.get_or_create_owned(&labels).inc_by(s.applied);
        let FlowLabels { remote, direction } = labels;
        errors.get_or_create_owned(&ErrorLabels { remote, direction, r#type: "rejected" }).inc_by(s.rejected);
    }
    r.register("federation_sync_lag_seconds", "Age of the oldest change that has not arrived, if known", lag);
    r.register("federation_sync_queue_size", "Changes in the log behind the sink's position, if known", queue);
    r.register("federation_sync_entities", "Changes applied at the sink", entities);
    r.register("federation_sync_errors", "Changes that the sink refused", errors);
    r.register("federation_sync_held", "Changes that wait at the sink for what blocks them", held);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mew_contract::report::{FlowState, Inbound};

    fn page(fill: impl FnOnce(&mut Registry)) -> String {
        let mut r = Registry::default();
        fill(&mut r);
        encoded(&r).expect("a string takes everything")
    }

    /// Of a series, if it is on the page.
    fn value(page: &str, series: &str) -> Option<f64> {
        page.lines().find_map(|l| l.strip_prefix(series)?.trim().parse().ok())
    }

    fn flow(name: &str, lag_ms: Option<u64>, pending: Option<u64>) -> FlowReport {
        FlowReport {
            name: name.to_owned(),
            remote: "shop/eu".to_owned(),
            direction: Direction::Push,
            state: if lag_ms.is_some() { FlowState::Live } else { FlowState::Waiting },
            problem: None,
            lag_ms,
            pending,
            initial_percent: None,
            applied: 7,
            rejected: 0,
            held: 0,
            conflicts: 0,
            needs_reconcile: false,
            revision: String::new(),
            reset: None,
            last_error: None,
        }
    }

    #[test]
    fn what_is_not_known_of_a_flow_is_no_zero() {
        let of = |flows: &[FlowReport]| {
            let page = page(|r| register_flows(r, flows));
            let labels = r#"{remote="shop/eu",direction="push"}"#;
            let of = |name: &str| value(&page, &format!("{name}{labels}"));
            assert_eq!(of("federation_sync_entities_total"), Some(7.0 * flows.len() as f64), "{page}");
            (of("federation_sync_lag_seconds"), of("federation_sync_queue_size"))
        };
        assert_eq!(of(&[flow("shop/a", None, None)]), (None, None));
        assert_eq!(of(&[flow("shop/a", Some(0), Some(0))]), (Some(0.0), Some(0.0)));
        // The sink is away, and the source knows where it was.
        assert_eq!(of(&[flow("shop/a", None, Some(3))]), (None, Some(3.0)));
        let both = [flow("shop/a", None, None), flow("shop/b", Some(2_500), Some(4))];
        assert_eq!(of(&both), (Some(2.5), Some(4.0)), "what is known of the other one");
        let both = [flow("shop/a", Some(500), Some(1)), flow("shop/b", Some(2_500), Some(4))];
        assert_eq!(of(&both), (Some(2.5), Some(5.0)));
    }

    #[test]
    fn a_remote_without_its_peer_is_seen_at_either_end() {
        let states = [
            (LinkState::Connected, Some(1.0)),
            // Of a side that dials, and of one that only accepts.
            (LinkState::Connecting, Some(0.0)),
            (LinkState::WaitingForPeer, Some(0.0)),
            (LinkState::Disconnected, Some(0.0)),
            (LinkState::Blocked, Some(0.0)),
            (LinkState::Suspended, None),
        ];
        for (state, expected) in states {
            let remote = RemoteReport {
                name: "shop/eu".to_owned(),
                state,
                problem: None,
                endpoint: None,
                peer: None,
                latency_ms: None,
                inbound: Inbound::default(),
                certificate_not_after_ms: None,
            };
            let page = page(|r| register_remotes(r, &[remote]));
            assert_eq!(value(&page, r#"federation_remote_connected{remote="shop/eu"}"#), expected, "{state:?}: {page}");
        }
    }
}
