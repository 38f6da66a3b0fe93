//! The truth table of the status: each row breaks something of a working federation, says what `kubectl get` and kstatus must
//! then show, mends it, and all is ready again by itself. A [`mew_tests::watcher::Watcher`] looks for lies meanwhile.

#[path = "truth_table/peers.rs"]
mod peers;
#[path = "truth_table/steps.rs"]
mod steps;
#[path = "truth_table/world.rs"]
mod world;

use anyhow::{Context, Result, ensure};
use mew_tests::kstatus::Status::{self, Current, Failed, InProgress};
use mew_tests::kstatus::{condition, kstatus};
use mew_tests::process::progress;
use peers::*;
use serde_json::Value;
use std::time::{Duration, Instant};
use steps::*;
use world::{NAMESPACE, OF_A_ROW, World};

type Step = fn(&mut World) -> Result<()>;

struct Row {
    name: &'static str,
    /// Rows of a group are broken, awaited and mended together; groups follow one another.
    group: Group,
    /// Kind and name, in the east.
    object: (&'static str, &'static str),
    /// Reasons of Ready, its status, and what kstatus makes of it.
    shows: (&'static [&'static str], &'static str, Status),
    then: Then,
    breaks: Step,
    mends: Step,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Group {
    OperatorRestarted,
    ClaimedTwice,
    /// Objects and peers at fault that no other row looks at.
    SideBySide,
    PeerUnreachable,
    UnknownHost,
    BundleMissing,
    WrongRoots,
    DeniedByPeer,
    AgentSilent,
    Wiped,
}

const GROUPS: [Group; 10] = [
    Group::OperatorRestarted,
    Group::ClaimedTwice,
    Group::SideBySide,
    Group::PeerUnreachable,
    Group::UnknownHost,
    Group::BundleMissing,
    Group::WrongRoots,
    Group::DeniedByPeer,
    Group::AgentSilent,
    Group::Wiped,
];

/// What else holds while it is broken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// After 30 s it is Stalled; kstatus says Failed.
    Stalls,
    /// It never is: it still says the same when others of its group are.
    KeepsTrying,
    /// It passes after a minute, mended or not, so it is looked at at once.
    Passes,
    /// Airports do not arrive until it is mended.
    DataWaits,
    /// Airports go on arriving, and Ready does not change for a moment.
    Steady,
}

const AIRPORTS: (&str, &str) = ("sync", "airports");
const US_WEST: (&str, &str) = ("remote", "us-west");
/// Longer than anything takes that is not Stalled or silence (30 s each).
const SOON: Duration = Duration::from_secs(60);

const TABLE: &[Row] = &[
    Row {
        name: "operator killed and restarted",
        group: Group::OperatorRestarted,
        object: AIRPORTS,
        shows: (&["InSync"], "True", Current),
        then: Then::Steady,
        breaks: kill_operator,
        mends: start_operator,
    },
    Row {
        name: "two agents claim one kernel",
        group: Group::ClaimedTwice,
        object: US_WEST,
        shows: (&["Connected"], "True", Current),
        then: Then::Steady,
        breaks: start_second,
        mends: stop_second,
    },
    // Peers at fault come first: the last one takes the west's operator away, and other rows need it when they are mended.
    Row {
        name: "peer's clock two minutes ahead",
        group: Group::SideBySide,
        object: ("sync", "ahead"),
        shows: (&["ClockSkew"], "False", InProgress),
        then: Then::Passes,
        breaks: run_ahead_of_time,
        mends: set_the_clock,
    },
    Row {
        name: "peer's disk full",
        group: Group::SideBySide,
        object: ("sync", "full"),
        shows: (&["SinkError"], "False", InProgress),
        then: Then::KeepsTrying,
        breaks: fill_the_disk,
        mends: make_room,
    },
    Row {
        name: "peer's certificate expired",
        group: Group::SideBySide,
        object: ("sync", "expired"),
        shows: (&["CertificateExpired"], "False", InProgress),
        then: Then::KeepsTrying,
        breaks: let_the_certificate_expire,
        mends: start_operator_of_the_west,
    },
    Row {
        name: "peer's certificate expired, the Remote",
        group: Group::SideBySide,
        object: ("remote", "us-expired"),
        shows: (&["CertificateExpired"], "False", InProgress),
        then: Then::KeepsTrying,
        breaks: nothing,
        mends: nothing,
    },
    Row {
        name: "pattern does not parse",
        group: Group::SideBySide,
        object: ("sync", "no-pattern"),
        shows: (&["InvalidPattern"], "False", Failed),
        then: Then::Stalls,
        breaks: |w| w.make_sync("no-pattern", "us-west", "s: State WHERE"),
        mends: |w| mend_match(w, "no-pattern", "CA"),
    },
    Row {
        name: "type unknown",
        group: Group::SideBySide,
        object: ("sync", "no-type"),
        shows: (&["TypeUnknown"], "False", InProgress),
        then: Then::Stalls,
        breaks: |w| w.make_sync("no-type", "us-west", "r: Runway"),
        mends: |w| mend_match(w, "no-type", "NY"),
    },
    Row {
        name: "denied by own policy",
        group: Group::SideBySide,
        object: ("sync", "no-policy"),
        shows: (&["PolicyDenied"], "False", InProgress),
        then: Then::Stalls,
        breaks: |w| w.make_sync("no-policy", "us-west", "i: Inspection"),
        mends: |w| mend_match(w, "no-policy", "WA"),
    },
    Row {
        name: "denied by own permissions",
        group: Group::SideBySide,
        object: ("sync", "no-permission"),
        shows: (&["PermissionDenied"], "False", InProgress),
        then: Then::Stalls,
        breaks: |w| w.make_sync("no-permission", "us-west", "m: Memo"),
        mends: ask_for_states,
    },
    Row {
        name: "ontologies do not fit",
        group: Group::SideBySide,
        object: ("sync", "no-fit"),
        shows: (&["OntologyMismatch"], "False", InProgress),
        then: Then::Stalls,
        breaks: sync_with_mid,
        mends: mend_ontology,
    },
    Row {
        name: "wrong kernel_id, the Remote",
        group: Group::SideBySide,
        object: ("remote", "us-new"),
        shows: (&["IdentityMismatch"], "False", InProgress),
        then: Then::Stalls,
        breaks: remote_at_a_wrong_kernel,
        mends: move_remote,
    },
    Row {
        name: "wrong kernel_id, its Sync",
        group: Group::SideBySide,
        object: ("sync", "new"),
        shows: (&["IdentityMismatch"], "False", InProgress),
        then: Then::Stalls,
        breaks: |w| w.make_sync("new", "us-new", "a: Airport"),
        mends: nothing,
    },
    Row {
        name: "peer killed",
        group: Group::PeerUnreachable,
        object: AIRPORTS,
        shows: (&["Unreachable"], "False", InProgress),
        then: Then::DataWaits,
        breaks: kill_west,
        mends: start_west,
    },
    Row {
        name: "peer killed, the Remote",
        group: Group::PeerUnreachable,
        object: US_WEST,
        shows: (&["Unreachable"], "False", InProgress),
        then: Then::Nothing,
        breaks: nothing,
        mends: nothing,
    },
    Row {
        name: "unknown host",
        group: Group::UnknownHost,
        object: AIRPORTS,
        shows: (&["DNSFailed"], "False", InProgress),
        then: Then::DataWaits,
        breaks: move_to_an_unknown_host,
        mends: move_back,
    },
    Row {
        name: "unknown host, the Remote",
        group: Group::UnknownHost,
        object: US_WEST,
        shows: (&["DNSFailed"], "False", InProgress),
        then: Then::Nothing,
        breaks: nothing,
        mends: nothing,
    },
    Row {
        name: "bundle missing",
        group: Group::BundleMissing,
        object: AIRPORTS,
        shows: (&["BundleNotFound"], "False", InProgress),
        then: Then::DataWaits,
        breaks: delete_bundle,
        mends: trust_west,
    },
    Row {
        name: "wrong CA",
        group: Group::WrongRoots,
        object: AIRPORTS,
        shows: (&["TLSUntrustedPeer"], "False", InProgress),
        then: Then::DataWaits,
        breaks: trust_another_ca,
        mends: trust_west,
    },
    Row {
        name: "wrong CA, the Remote",
        group: Group::WrongRoots,
        object: US_WEST,
        shows: (&["TLSUntrustedPeer"], "False", InProgress),
        then: Then::Nothing,
        breaks: nothing,
        mends: nothing,
    },
    Row {
        name: "denied by the peer",
        group: Group::DeniedByPeer,
        object: AIRPORTS,
        shows: (&["DeniedByPeer"], "False", InProgress),
        then: Then::DataWaits,
        breaks: west_denies_airports,
        mends: west_allows_airports,
    },
    // The Sync is wrong although no agent looks.
    Row {
        name: "Remote missing",
        group: Group::AgentSilent,
        object: ("sync", "new"),
        shows: (&["RemoteNotFound"], "False", InProgress),
        then: Then::Stalls,
        breaks: delete_remote,
        mends: declare_remote,
    },
    Row {
        name: "agent killed",
        group: Group::AgentSilent,
        object: AIRPORTS,
        shows: (&["AgentUnresponsive", "NoAgent"], "Unknown", InProgress),
        then: Then::Nothing,
        breaks: kill_east,
        mends: start_east,
    },
    Row {
        name: "agent killed, the Remote",
        group: Group::AgentSilent,
        object: US_WEST,
        shows: (&["AgentUnresponsive", "NoAgent"], "Unknown", InProgress),
        then: Then::Nothing,
        breaks: nothing,
        mends: nothing,
    },
    Row {
        name: "data directory wiped",
        group: Group::Wiped,
        object: AIRPORTS,
        shows: (&["SourceReset"], "False", InProgress),
        then: Then::Nothing,
        breaks: wipe_east,
        mends: reset,
    },
];

#[test]
fn every_fault_is_shown_and_mended() -> Result<()> {
    for r in TABLE {
        ensure!(GROUPS.contains(&r.group), "{} belongs to no group that is run", r.name);
    }
    let mut w = world::start()?;
    for g in GROUPS {
        let start = Instant::now();
        let rows: Vec<&Row> = TABLE.iter().filter(|r| r.group == g).collect();
        run(&mut w, &rows)?;
        progress(&format!("{g:?}: {} rows, {:.1} s", rows.len(), start.elapsed().as_secs_f32()));
        if g == Group::AgentSilent {
            w.east.api.kubectl(&["delete", "syncs", "-n", NAMESPACE, "-l", OF_A_ROW])?;
        }
    }
    w.watcher.verdict(&w.probes).map_err(anyhow::Error::msg)
}

fn run(w: &mut World, rows: &[&Row]) -> Result<()> {
    let any = |t: Then| rows.iter().any(|r| r.then == t);
    let mut steady = Vec::new();
    for r in rows.iter().filter(|r| r.then == Then::Steady) {
        steady.push((r, w.at_rest(r.object.0, r.object.1)?));
    }
    for r in rows {
        (r.breaks)(w).with_context(|| format!("{}: breaking it", r.name))?;
        if r.then == Then::Passes {
            shows(w, r)?;
        }
    }
    for r in rows.iter().filter(|r| r.then != Then::Passes) {
        shows(w, r)?;
    }
    let waiting = if any(Then::DataWaits) { Some(w.spawn_airport()?) } else { None };
    if any(Then::Steady) {
        w.data_flows()?;
    }
    for r in rows.iter().filter(|r| r.then == Then::Stalls) {
        stalls(w, r)?;
    }
    for r in rows.iter().filter(|r| r.then == Then::KeepsTrying) {
        shows(w, r)?;
    }
    w.look_for_what_is_owed()?;
    for r in rows {
        (r.mends)(w).with_context(|| format!("{}: mending it", r.name))?;
    }
    for r in rows {
        w.becomes_ready(r.object.0, r.object.1).with_context(|| format!("{}: it is mended", r.name))?;
    }
    w.becomes_ready(AIRPORTS.0, AIRPORTS.1)?;
    if let Some(airport) = &waiting {
        w.arrives(airport)?;
    }
    w.what_is_owed_arrives()?;
    w.data_flows()?;
    for (r, since) in &steady {
        w.never_flapped(r.object.0, r.object.1, since).with_context(|| r.name)?;
    }
    Ok(())
}

fn shows(w: &World, r: &Row) -> Result<()> {
    let good = |o: &Value| {
        let said = |c: &Value| c["status"] == r.shows.1 && c["reason"].as_str().is_some_and(|x| r.shows.0.contains(&x));
        condition(o, "Ready").is_some_and(said) && kstatus(o) == r.shows.2
    };
    let what = format!("{}: {:?}", r.name, r.shows);
    w.east.api.wait_json(r.object.0, NAMESPACE, r.object.1, &what, good, SOON).map(|_| ())
}

fn stalls(w: &World, r: &Row) -> Result<()> {
    let good = |o: &Value| {
        let stalled = condition(o, "Stalled").filter(|c| c["status"] == "True");
        let same = |c: &Value| c["reason"].as_str().is_some_and(|x| r.shows.0.contains(&x));
        kstatus(o) == Failed && stalled.is_some_and(same)
    };
    let what = format!("{}: is stalled", r.name);
    w.east.api.wait_json(r.object.0, NAMESPACE, r.object.1, &what, good, SOON).map(|_| ())
}
