//! Two API servers, two operators, two agents and the example of the airports: declared in YAML, seen with kubectl, checked
//! at the client API.

use anyhow::{Context, Result, ensure};
use mew_tests::cluster::{Agent, PATIENCE};
use mew_tests::flights::{Flights, NAMESPACE};
use mew_tests::http::metric;
use mew_tests::kstatus::{Status, condition, kstatus};
use mew_tests::wait::until;
use mew_tests::watcher::{Probe, Watcher};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const STATES: [&str; 3] = ["CA", "NY", "WA"];
const AIRPORTS_PER_STATE: usize = 7;
/// An agent reports at least every 5 s, and an operator plans at least every second: two reports are among so many plans.
const PLANS_AT_REST: u64 = 12;

#[test]
fn a_declared_flow_flows_and_its_status_is_true() -> Result<()> {
    let mut p = start()?;
    let watcher = Watcher::start(p.east.api.client());
    load(&p.east_agent)?;
    declare(&p)?;
    becomes_ready(&p)?;
    everything_arrived(&p)?;
    bytes_are_counted(&p)?;
    columns_are_true(&p)?;
    denied_is_not_ready(&p)?;
    let mut probes = vec![live_change(&p, &watcher)?];
    at_rest_nothing_is_written(&p)?;
    probes.push(peer_dies(&mut p, &watcher)?);
    watcher.verdict(&probes).map_err(anyhow::Error::msg)?;
    gone_at_once(&p)
}

fn start() -> Result<Flights> {
    let p = Flights::start()?;
    // Each team commits what the other one exports.
    p.west.api.apply(&p.trust_in_east()?)?;
    p.east.api.apply(&p.trust_in_west()?)?;
    Ok(p)
}

/// Before anything is declared: what is there must arrive by the initial copy.
fn load(east: &Agent) -> Result<()> {
    for (i, state) in STATES.iter().enumerate() {
        east.execute("SPAWN State {code = $code}", json!({"code": state}))?;
        for n in 0..AIRPORTS_PER_STATE {
            spawn_airport(east, &format!("{state}{n}"), state, "USA", i * AIRPORTS_PER_STATE + n)?;
        }
    }
    spawn_airport(east, "FRA", "CA", "Elsewhere", 99)?;
    east.execute(r#"SPAWN Inspection {airport = "CA0", finding = "fence repaired"}"#, json!({}))?;
    Ok(())
}

fn spawn_airport(east: &Agent, iata: &str, state: &str, country: &str, n: usize) -> Result<()> {
    let params = json!({
        "iata": iata, "name": format!("Airport {n}"), "state": state, "country": country,
        "latitude": n as f64 / 2.0 + 0.25, "longitude": -100.5,
    });
    let text = "MATCH s: State WHERE s.code = $state \
         SPAWN a: Airport {iata = $iata, name = $name, country = $country, latitude = $latitude, longitude = $longitude} \
         LINK located_in(a, s)";
    east.execute(text, params).map(|_| ())
}

fn declare(p: &Flights) -> Result<()> {
    for file in ["us-west/policy.yaml", "us-west/remote.yaml"] {
        p.west.api.apply(&p.manifest(file)?)?;
    }
    for file in ["us-east/policy.yaml", "us-east/remote.yaml", "us-east/syncs.yaml"] {
        p.east.api.apply(&p.manifest(file)?)?;
    }
    Ok(())
}

fn becomes_ready(p: &Flights) -> Result<()> {
    for sync in ["sync/states", "sync/airports", "remote/us-west", "federationpolicy/coasts"] {
        p.east.api.wait_ready(sync, NAMESPACE, PATIENCE)?;
    }
    for object in ["remote/us-east", "federationpolicy/coasts"] {
        p.west.api.wait_ready(object, NAMESPACE, PATIENCE)?;
    }
    for sync in ["states", "airports"] {
        // Airports may have come before the states that they are in; those edges are held for a moment, and said to be.
        let complete =
            |s: &Value| s["status"]["failed"] == 0 && condition(s, "Ready").is_some_and(|c| c["reason"] == "InSync");
        let s = p.east.api.wait_json("sync", NAMESPACE, sync, "in sync, without failures", complete, PATIENCE)?;
        ensure!(kstatus(&s) == Status::Current, "{sync} is ready, and Flux would wait: {s}");
        for gate in ["Accepted", "ResolvedRefs", "Programmed", "Connected", "InSync"] {
            ensure!(condition(&s, gate).is_some_and(|c| c["status"] == "True"), "{sync} is ready without {gate}: {s}");
        }
    }
    Ok(())
}

/// Ready was claimed: this is looked at once, not waited for.
fn everything_arrived(p: &Flights) -> Result<()> {
    let both =
        |text: &str| -> Result<(Vec<Value>, Vec<Value>)> { Ok((p.east_agent.rows(text)?, p.west_agent.rows(text)?)) };
    let (east, west) = both("MATCH s: State RETURN s.code ORDER BY s.code")?;
    ensure!(east == west && west.len() == STATES.len(), "states: {west:?}, not {east:?}");
    let (east, west) = both(
        r#"MATCH a: Airport WHERE a.country = "USA" RETURN a.iata, a.name, a.latitude, a.longitude ORDER BY a.iata"#,
    )?;
    ensure!(east == west && west.len() == STATES.len() * AIRPORTS_PER_STATE, "airports: {west:?}, not {east:?}");
    let (east, west) = both(
        r#"MATCH a: Airport, s: State, located_in(a, s) WHERE a.country = "USA" RETURN a.iata, s.code ORDER BY a.iata"#,
    )?;
    ensure!(east == west && !west.is_empty(), "edges: {west:?}, not {east:?}");
    // And nothing else did.
    for text in [r#"MATCH a: Airport WHERE a.country != "USA" RETURN a.iata"#, "MATCH i: Inspection RETURN i.airport"] {
        let (east, west) = both(text)?;
        ensure!(!east.is_empty() && west.is_empty(), "{text}: {west:?} is in the west, and {east:?} in the east");
    }
    Ok(())
}

/// What the east has sent, the west has received.
fn bytes_are_counted(p: &Flights) -> Result<()> {
    let bytes = |agent: &Agent, peer: &str, direction: &str| -> Result<f64> {
        let name = format!(r#"federation_sync_bytes_total{{remote="{NAMESPACE}/{peer}",direction="{direction}"}}"#);
        metric(agent.health, &name)?.with_context(|| format!("no {name}"))
    };
    until("both sides have counted the same bytes", PATIENCE, || {
        let (sent, received) = (bytes(&p.east_agent, "us-west", "push")?, bytes(&p.west_agent, "us-east", "pull")?);
        Ok((sent > 0.0 && sent == received).then_some(()))
    })?;
    ensure!(bytes(&p.west_agent, "us-east", "push")? == 0.0, "the west has sent data");
    Ok(())
}

/// What `kubectl get` prints, row by name, cell by column. No cell may be empty.
fn table(text: &str) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut lines = text.lines().map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let header = lines.next().context("kubectl printed nothing")?;
    let mut out = BTreeMap::new();
    for row in lines {
        ensure!(row.len() == header.len(), "a cell is empty or has a space:\n{text}");
        let name = row.first().cloned().unwrap_or_default();
        out.insert(name, header.iter().cloned().zip(row).collect());
    }
    Ok(out)
}

fn columns_are_true(p: &Flights) -> Result<()> {
    let text = p.east.api.kubectl(&["get", "syncs", "-n", NAMESPACE])?;
    let header: Vec<&str> = text.lines().next().unwrap_or("").split_whitespace().collect();
    ensure!(header == ["NAME", "READY", "REASON", "REMOTE", "DIRECTION", "LAG", "FAILED", "AGE"], "{text}");
    let rows = table(&text)?;
    let want = |ready: &str, reason: &str, lag: &str| {
        [
            ("READY", ready),
            ("REASON", reason),
            ("REMOTE", "us-west"),
            ("DIRECTION", "Push"),
            ("LAG", lag),
            ("FAILED", "0"),
        ]
        .map(|(c, v)| (c, v.to_owned()))
    };
    for (sync, want) in [
        ("airports", want("True", "InSync", "0s")),
        ("states", want("True", "InSync", "0s")),
        ("inspections", want("False", "PolicyDenied", "-")),
    ] {
        let row = rows.get(sync).with_context(|| format!("{sync} is not in\n{text}"))?;
        for (column, value) in want {
            ensure!(row.get(column) == Some(&value), "{sync}: {column} is not {value:?} in\n{text}");
        }
        ensure!(row.get("AGE").is_some_and(|a| a.starts_with(|c: char| c.is_ascii_digit())), "{text}");
    }
    Ok(())
}

fn denied_is_not_ready(p: &Flights) -> Result<()> {
    let s = p.east.api.get_json("sync", NAMESPACE, "inspections")?;
    ensure!(kstatus(&s) != Status::Current, "a denied sync is taken for fine: {s}");
    let accepted = condition(&s, "Accepted").context("it has no Accepted")?;
    ensure!(accepted["status"] == "False" && accepted["reason"] == "PolicyDenied", "{accepted}");
    ensure!(accepted["message"].as_str().is_some_and(|m| m.contains("coasts")), "no policy is named: {accepted}");
    // Somebody may still mend the policy, for a while.
    let stalled = |s: &Value| kstatus(s) == Status::Failed;
    p.east.api.wait_json("sync", NAMESPACE, "inspections", "is stalled", stalled, PATIENCE).map(|_| ())
}

/// A change of an entity that both have.
fn live_change(p: &Flights, watcher: &Watcher) -> Result<Probe> {
    p.east_agent.execute(r#"MATCH a: Airport WHERE a.iata = "CA0" SET a.name = "Renamed""#, json!({}))?;
    let written = watcher.now_ms();
    until("the change is in the west", PATIENCE, || {
        let rows = p.west_agent.rows(r#"MATCH a: Airport WHERE a.iata = "CA0" RETURN a.name"#)?;
        Ok((rows == [json!(["Renamed"])]).then_some(()))
    })?;
    Ok(Probe::arrived("flights/airports", written, watcher.now_ms()))
}

/// Planned again and again, with new reports, and no object changes.
fn at_rest_nothing_is_written(p: &Flights) -> Result<()> {
    for c in [&p.east, &p.west] {
        let operator = c.leader()?;
        let look = || -> Result<_> { Ok((c.versions()?, operator.counters()?.1)) };
        let plans = |more: u64| -> Result<()> {
            let end = operator.counters()?.0 + more;
            until("the operator plans again", PATIENCE, || Ok((operator.counters()?.0 >= end).then_some(())))
        };
        // The last change of before may still be on its way.
        let mut before = look()?;
        until("the statuses come to rest", PATIENCE, || {
            plans(3)?;
            let now = look()?;
            let same = now == before;
            before = now;
            Ok(same.then_some(()))
        })?;
        plans(PLANS_AT_REST)?;
        let after = look()?;
        ensure!(after == before, "{} wrote at rest: {after:?}, before {before:?}", c.trust_domain);
        ensure!(before.0.len() >= 2, "there is nothing that could have been written: {before:?}");
    }
    Ok(())
}

/// A write in the east goes on as if nothing had happened, and the Sync says that it does not arrive.
fn peer_dies(p: &mut Flights, watcher: &Watcher) -> Result<Probe> {
    let api = &p.east.api;
    api.kubectl(&["patch", "sync", "airports", "-n", NAMESPACE, "--type=merge", "-p", r#"{"spec":{"maxLag":"2s"}}"#])?;
    let seen = |s: &Value| s["status"]["observedGeneration"] == s["metadata"]["generation"];
    api.wait_json("sync", NAMESPACE, "airports", "the new spec is seen", seen, PATIENCE)?;
    api.wait_ready("sync/airports", NAMESPACE, PATIENCE)?;
    p.west_agent.kill();
    spawn_airport(&p.east_agent, "SEA", "WA", "USA", 50)?;
    let written = watcher.now_ms();
    let no = |s: &Value, kind: &str| condition(s, kind).is_some_and(|c| c["status"] == "False");
    let down = |s: &Value| no(s, "Ready") && no(s, "Connected");
    let s = api.wait_json("sync", NAMESPACE, "airports", "says that the peer is away", down, PATIENCE)?;
    ensure!(kstatus(&s) == Status::InProgress, "{s}");
    // Until the change is older than maxLag: from then on Ready=True would be a lie.
    let probe = || Probe::missing("flights/airports", written, watcher.now_ms());
    until("the change is older than maxLag", PATIENCE, || {
        let p = probe();
        Ok((p.until_ms > written + 2_000 + p.grace_ms).then_some(()))
    })?;
    Ok(probe())
}

/// Nobody has to be there for a deletion.
fn gone_at_once(p: &Flights) -> Result<()> {
    let api = &p.east.api;
    let delete = |kind: &str, name: &str| -> Result<()> {
        let object = api.get_json(kind, NAMESPACE, name)?;
        ensure!(object["metadata"].get("finalizers").is_none(), "{kind} {name} has a finalizer");
        api.kubectl(&["delete", kind, name, "-n", NAMESPACE, "--timeout=5s"])?;
        ensure!(api.find_json(kind, NAMESPACE, name)?.is_none(), "{kind} {name} is still there");
        Ok(())
    };
    delete("sync", "airports")?;
    delete("remote", "us-west")?;
    let orphan = |s: &Value| condition(s, "Ready").is_some_and(|c| c["reason"] == "RemoteNotFound");
    api.wait_json("sync", NAMESPACE, "states", "says that its Remote is gone", orphan, Duration::from_secs(30))?;
    delete("sync", "states")
}
