use super::{Case, mending};
use crate::steps::step;
use crate::table;
use crate::wait::{PATIENCE, until};
use crate::wheel::{self, AUDIT, AUDITOR, HUB, POLICY, SPOKES, Spoke, Wheel, report};
use crate::world::{World, at_both};
use anyhow::{Context, Result, anyhow, ensure};
use mew_tests::kstatus::condition;
use serde_json::Value;
use std::collections::BTreeSet;

pub const CASE: Case = Case {
    name: "hub-and-spoke",
    core: false,
    proves: "ten kernels of the chart, nine around one: all ready, nobody gets what policy keeps back, one may go",
    run,
};

const REPORTS: &str = "MATCH i: Inspection RETURN i.airport, i.finding ORDER BY i.airport, i.finding";
const AIRPORTS: &str = "MATCH a: Airport RETURN a.iata ORDER BY a.iata";
/// Of the spokes: one that asks for more than it may have, and one that goes.
const NOSY: usize = 2;
const LEAVER: usize = 9;

fn run(w: &mut World) -> Result<()> {
    w.install()?;
    mending(
        || {
            let wheel = Wheel::start(w)?;
            step("wheel: each has what it may have", || each_has_its_share(&wheel, "before the copy"))?;
            step("wheel: columns", || columns(&wheel))?;
            step("wheel: changes", || {
                wheel.spokes.iter().try_for_each(|s| s.execute(&report(&s.name, "a change")))?;
                each_has_its_share(&wheel, "a change")
            })?;
            step("wheel: one asks for too much", || is_refused(w, &wheel))?;
            step("wheel: one goes", || goes(w, &wheel))
        },
        || at_both(w, wheel::delete).map(drop),
    )
}

fn spoke(wheel: &Wheel, number: usize) -> Result<&Spoke> {
    wheel.spokes.iter().find(|s| s.number == number).with_context(|| format!("there is no spoke {number}"))
}

type Reports = BTreeSet<(String, String)>;

fn reports(rows: Vec<Vec<String>>) -> Result<Reports> {
    let mut all = Reports::new();
    for r in rows {
        let [of, what] = <[String; 2]>::try_from(r).map_err(|r| anyhow!("no report: {r:?}"))?;
        ensure!(all.insert((of.clone(), what.clone())), "{what:?} of {of} is there twice");
    }
    Ok(all)
}

fn from_all<'a>(spokes: impl Iterator<Item = &'a Spoke>, finding: &str) -> Reports {
    spokes.map(|s| (s.name.clone(), finding.to_owned())).collect()
}

fn hub_has(wheel: &Wheel, wanted: &Reports) -> Result<()> {
    until("the hub has a report of every spoke", PATIENCE, || {
        Ok(reports(wheel.hub().rows(REPORTS)?)?.is_superset(wanted).then_some(()))
    })
}

/// The hub has every report with this finding. A spoke has its own and the airports; the auditor has those of the hub too, and
/// nobody those of other spokes: what a third kernel introduced is not passed on.
fn each_has_its_share(wheel: &Wheel, finding: &str) -> Result<()> {
    hub_has(wheel, &from_all(wheel.spokes.iter(), finding))?;
    let airports = wheel.hub().rows(AIRPORTS)?;
    for s in &wheel.spokes {
        until(&format!("{} has the airports", s.name), PATIENCE, || Ok((s.rows(AIRPORTS)? == airports).then_some(())))?;
    }
    // Whatever was to come came through the same connections, before or after.
    wheel.all_ready()?;
    for s in &wheel.spokes {
        let has: BTreeSet<String> = reports(s.rows(REPORTS)?)?.into_iter().map(|(of, _)| of).collect();
        let mut may = BTreeSet::from([s.name.clone()]);
        if s.number == AUDITOR {
            may.insert(HUB.to_owned());
        }
        ensure!(has == may, "{} has reports of {has:?}, and may have those of {may:?}", s.name);
    }
    Ok(())
}

fn columns(wheel: &Wheel) -> Result<()> {
    until("the columns say what is so", PATIENCE, || {
        let remotes = table::rows(&wheel.east, "remotes", HUB)?;
        ensure!(remotes.len() == wheel.spokes.len(), "{} Remotes of the hub", remotes.len());
        for s in &wheel.spokes {
            let want = [("READY", "True"), ("REASON", "Connected"), ("KERNEL", HUB), ("SYNCS", "0")];
            table::check(&remotes, &s.name, &want)?;
            let r = wheel.east.get("remote", HUB, &s.name)?;
            ensure!(r["status"]["peer"]["id"] == s.kernel_id().as_str(), "{}: {}", s.name, r["status"]["peer"]);
            let inbound = &r["status"]["inboundFlows"];
            ensure!(inbound["total"] == s.syncs().len() && inbound["denied"] == 0, "{}: {inbound}", s.name);
            of_spoke(s)?;
        }
        let policies = table::rows(&wheel.east, "federationpolicies", HUB)?;
        let all = wheel.spokes.len().to_string();
        let want =
            [("READY", "True"), ("REASON", "Enforced"), ("REMOTES", all.as_str()), ("SYNCS", "0"), ("DENIED", "0")];
        table::check(&policies, POLICY, &want)?;
        table::check(&policies, AUDIT, &[("READY", "True"), ("REMOTES", "1")])?;
        Ok(Some(()))
    })
}

fn of_spoke(s: &Spoke) -> Result<()> {
    let syncs = s.syncs().len().to_string();
    let remotes = table::rows(&s.cluster, "remotes", SPOKES)?;
    let want = [("READY", "True"), ("REASON", "Connected"), ("KERNEL", s.name.as_str()), ("SYNCS", syncs.as_str())];
    table::check(&remotes, &s.remote(), &want)?;
    let rows = table::rows(&s.cluster, "syncs", SPOKES)?;
    for name in s.syncs() {
        let direction = if name == s.out() { "Push" } else { "Pull" };
        let want = [("READY", "True"), ("REASON", "InSync"), ("DIRECTION", direction), ("LAG", "0s"), ("FAILED", "0")];
        table::check(&rows, &name, &want)?;
    }
    Ok(())
}

/// One more Sync of a spoke than the hub's policy lets pass: the hub knows why, the spoke gets a number, and the other flows
/// of both do not notice.
fn is_refused(w: &World, wheel: &Wheel) -> Result<()> {
    let s = spoke(wheel, NOSY)?;
    let since = (w.east_said()?.now_ms(), w.west_said()?.now_ms());
    let name = s.audit();
    mending(
        || {
            s.cluster.apply(&s.sync(&name, "Pull", "i: Inspection").to_string())?;
            let refused = |o: &Value| condition(o, "Ready").is_some_and(|c| c["reason"] == "DeniedByPeer");
            let o = s.cluster.wait("sync", SPOKES, &name, "is denied by the hub", refused, PATIENCE)?;
            let message = condition(&o, "Ready").and_then(|c| c["message"].as_str()).unwrap_or_default();
            ensure!(!message.contains(POLICY) && !message.contains("Inspection"), "the hub's reason leaks: {message}");
            until("the hub has the reason under the number that the spoke was told", PATIENCE, || {
                let r = wheel.east.get("remote", HUB, &s.name)?;
                let denials = r["status"]["inboundFlows"]["denials"].as_array();
                let told =
                    |d: &&Value| d["correlationId"].as_str().is_some_and(|id| !id.is_empty() && message.contains(id));
                Ok(denials.and_then(|all| all.iter().find(told)).filter(|d| d["reason"] == "PolicyDenied").map(drop))
            })
        },
        || s.cluster.kubectl(&["delete", "sync", &name, "-n", SPOKES, "--ignore-not-found"]).map(drop),
    )?;
    steady(w, wheel, None, since)?;
    each_has_its_share(wheel, "before the copy")
}

/// A spoke is uninstalled, with what it had declared; the hub keeps its Remote, and says that nobody is there.
fn goes(w: &World, wheel: &Wheel) -> Result<()> {
    let s = spoke(wheel, LEAVER)?;
    let since = (w.east_said()?.now_ms(), w.west_said()?.now_ms());
    s.cluster.helm(&["uninstall", &s.name, "--namespace", SPOKES, "--wait", "--timeout", "180s"], "")?;
    let mut gone = vec!["delete".to_owned(), "-n".to_owned(), SPOKES.to_owned(), format!("remote/{}", s.remote())];
    gone.extend(s.syncs().iter().map(|n| format!("sync/{n}")));
    s.cluster.kubectl(&gone.iter().map(String::as_str).collect::<Vec<_>>())?;
    let away =
        |o: &Value| condition(o, "Ready").is_some_and(|c| c["status"] == "False" && c["reason"] == "Unreachable");
    wheel.east.wait("remote", HUB, &s.name, "says that nobody is there", away, PATIENCE)?;

    let left = || wheel.spokes.iter().filter(|o| o.number != LEAVER);
    left().try_for_each(|o| o.execute(&report(&o.name, "without one")))?;
    hub_has(wheel, &from_all(left(), "without one"))?;
    let kept = reports(wheel.hub().rows(REPORTS)?)?.iter().filter(|(of, _)| *of == s.name).count();
    ensure!(kept == 2, "of 2 reports of {} the hub has {kept}", s.name);
    steady(w, wheel, Some(s), since)
}

fn steady(w: &World, wheel: &Wheel, but: Option<&Spoke>, since: (u64, u64)) -> Result<()> {
    w.east_said()?.steady(&wheel.sync_names(&w.east, but), since.0)?;
    w.west_said()?.steady(&wheel.sync_names(&w.west, but), since.1)
}
