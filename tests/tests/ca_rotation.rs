//! The CAs of two standalone sides are replaced under load, one after the other: nothing is lost, no status flaps, and no step is
//! taken that would cut the other side off.

use anyhow::{Context, Result, bail, ensure};
use mew_tests::dirs::scratch;
use mew_tests::kstatus::condition;
use mew_tests::standalone::{Side, connect};
use mew_tests::tasks::{one_to, spawn, tasks, under_load};
use mew_tests::wait::until;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "rotation";
const PATIENCE: Duration = Duration::from_secs(60);
const ONTOLOGY: &str = "ontology Rotation {
  node Task { n: Int [unique] }
}
";
const SYNC: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: tasks, namespace: rotation}
spec:
  remoteRef: {name: sink}
  direction: Push
  match: 't: Task'
  maxLag: 5s
";

#[test]
fn cas_are_replaced_under_load() -> Result<()> {
    let dir = scratch("pair")?;
    let ontology = dir.join("rotation.ontology");
    fs::write(&ontology, ONTOLOGY)?;
    let mut source = Side::new(&dir, NAMESPACE, "source", "a.example", &ontology)?;
    let mut sink = Side::new(&dir, NAMESPACE, "sink", "b.example", &ontology)?;
    connect(&mut source, &mut sink, &["Task"], "  retry: {initialInterval: 50ms, maxInterval: 200ms}\n")?;
    source.declare("sync.yaml", SYNC)?;
    for side in [&mut source, &mut sink] {
        side.start_agent(None)?;
        side.wait_open()?;
    }
    let r = scenario(&mut source, &mut sink);
    r.with_context(|| format!("{}\n{}", source.tail(), sink.tail()))
}

fn scenario(source: &mut Side, sink: &mut Side) -> Result<()> {
    let written = steadily(source, sink)?;
    // What is kept on disk is of the new roots as well.
    for side in [&mut *source, &mut *sink] {
        side.check()?;
        side.kill_agent();
        side.start_agent(None)?;
        side.wait_open()?;
    }
    spawn(source, written + 1)?;
    until("what is written now arrives", PATIENCE, || Ok((tasks(sink)? == one_to(written + 1)).then_some(())))
}

/// Replaces both; how many tasks were written meanwhile, all of which have arrived.
fn steadily(source: &Side, sink: &Side) -> Result<u64> {
    let watched = [(source, "syncs", "tasks"), (source, "remotes", "sink"), (sink, "remotes", "source")];
    for (side, kind, name) in watched {
        until(&format!("{kind} {name} is ready"), PATIENCE, || Ok(is_ready(&side.object(kind, name)?).then_some(())))?;
    }
    // Times in a status are whole seconds: in the one in which it became ready, a flap would not be seen.
    let ready = Instant::now();
    until("a second has passed", PATIENCE, || Ok((ready.elapsed() > Duration::from_millis(1_100)).then_some(())))?;
    let mut before = Vec::new();
    for (side, kind, name) in watched {
        before.push(since(side, kind, name)?);
    }

    // The side that dials, and the side that is dialled.
    let ((), written) = under_load(source, |_| {
        rotated(source, "sink", sink, "source")?;
        rotated(sink, "source", source, "sink")
    })?;

    until("everything is at the sink", PATIENCE, || Ok((tasks(sink)? == one_to(written)).then_some(())))?;
    for ((side, kind, name), before) in watched.into_iter().zip(before) {
        let after = since(side, kind, name)?;
        ensure!(before == after, "{kind} {name} has flapped: {before:?}, then {after:?}");
    }
    Ok(written)
}

/// What each condition is, and since when.
fn since(side: &Side, kind: &str, name: &str) -> Result<Vec<[String; 3]>> {
    let o = side.object(kind, name)?;
    let all = o["status"]["conditions"].as_array().context("no conditions")?;
    let of = |c: &Value, f: &str| c[f].as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|c| [of(c, "type"), of(c, "status"), of(c, "lastTransitionTime")]).collect())
}

/// All steps at one side, whose Remote for the other one is called so; and the other way round.
fn rotated(here: &Side, remote: &str, there: &Side, back: &str) -> Result<()> {
    refused(here, &["sign"], &["begins with `publish`"])?;
    refused(here, &["retire"], &["begins with `publish`"])?;
    let old = certificates(here, remote)?["root"].clone();
    let said = here.rotate(&["publish"])?;
    let new = said.split_whitespace().nth(1).map(|w| w.trim_end_matches(';').to_owned()).context("no root is named")?;
    ensure!(said.contains("mew trust export") && said.contains("mew trust rotate sign"), "no next command: {said}");
    refused(here, &["publish"], &["`sign` is the next step"])?;

    // The peer has the old bundle.
    let peer = format!("{NAMESPACE}.{} of {}", there.kernel, there.trust_domain);
    let export = format!("mew trust export --kernel {} -n {NAMESPACE} --state", here.kernel);
    let hindered = ["does not accept the new root", &peer, &new, &export, "mew trust rotate status", "--force"];
    refused(here, &["sign"], &hindered)?;
    let status = here.rotate(&["status"])?;
    ensure!(status.contains("published") && status.contains(&peer) && status.contains("NO"), "{status}");
    ensure!(certificates(here, remote)?["root"] == old, "it signs although it was refused");

    here.give_trust(there)?;
    until("the peer accepts the new root", PATIENCE, || {
        let accepted = certificates(here, remote)?["peerAcceptsRoots"].clone();
        Ok((accepted == json!([old, new])).then_some(()))
    })?;
    let said = here.rotate(&["sign"])?;
    ensure!(said.contains(&new) && said.contains("mew trust rotate retire"), "{said}");
    refused(here, &["publish"], &["`retire` is the next step"])?;
    until("agent and connection are of the new root", PATIENCE, || {
        let ours = certificates(here, remote)?;
        let theirs = certificates(there, back)?;
        Ok((ours["root"] == new && ours["rootInUse"] == new && theirs["peerRootInUse"] == new).then_some(()))
    })?;

    ensure!(here.rotate(&["status"])?.contains("mew trust rotate retire"), "the next step is not named");
    let said = here.rotate(&["retire"])?;
    ensure!(old.as_str().is_some_and(|o| said.contains(o)), "{said}");
    here.give_trust(there)?;
    until("the peer has dropped the old root", PATIENCE, || {
        Ok((certificates(here, remote)?["peerAcceptsRoots"] == json!([new])).then_some(()))
    })?;
    let status = here.rotate(&["status"])?;
    ensure!(status.contains("No rotation is under way") && !status.contains("retiring"), "{status}");
    Ok(())
}

fn refused(side: &Side, args: &[&str], words: &[&str]) -> Result<()> {
    let Err(e) = side.rotate(args) else { bail!("{args:?} was not refused") };
    let said = format!("{e:#}");
    match words.iter().find(|w| !said.contains(**w)) {
        Some(w) => bail!("{args:?} does not say {w:?}: {said}"),
        None => Ok(()),
    }
}

fn certificates(side: &Side, remote: &str) -> Result<Value> {
    Ok(side.object("remotes", remote)?["status"]["certificates"].take())
}

fn is_ready(o: &Value) -> bool {
    let known = o["kind"] == "Sync" || !o["status"]["certificates"]["peerAcceptsRoots"].is_null();
    known && condition(o, "Ready").is_some_and(|c| c["status"] == "True")
}
