//! Backups of a live agent while somebody writes: each is one commit, restores, and goes on as a new incarnation of the same
//! kernel, which its peers notice.

use anyhow::{Context, Result, bail, ensure};
use mew_tests::dirs::scratch;
use mew_tests::process::mew_once;
use mew_tests::standalone::{Side, connect};
use mew_tests::tasks::{one_to, spawn, tasks, under_load};
use mew_tests::wait::until;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

const NAMESPACE: &str = "ops";
const PATIENCE: Duration = Duration::from_secs(60);
const BACKUPS: usize = 4;
/// Tasks that are written before each backup, at least.
const BETWEEN: u64 = 30;
const ONTOLOGY: &str = "ontology Backup {
  node Task { n: Int [unique] }
}
";
/// Of a task that is written after everything is restored.
const AFTER: u64 = 1_000_000;

fn sync(annotations: &str) -> String {
    format!(
        "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {{name: tasks, namespace: {NAMESPACE}, annotations: {{{annotations}}}}}
spec:
  remoteRef: {{name: sink}}
  direction: Push
  match: 't: Task'
"
    )
}

/// Which tasks a dump of a data directory names.
fn dumped(data: &Path, ontology: &Path) -> Result<Vec<u64>> {
    let (data, ontology) = (data.display().to_string(), ontology.display().to_string());
    let out = mew_once(["store", "dump", "--data", &data, "--ontology", &ontology], &[])?;
    let mut all = Vec::new();
    for line in String::from_utf8(out.stdout)?.lines() {
        let v: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if v["type"] == "Task" {
            all.push(v["attributes"]["n"].as_u64().with_context(|| line.to_owned())?);
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// A backup, and how many tasks were there before it was taken and after.
struct Taken {
    file: String,
    low: u64,
    high: u64,
}

fn take(source: &Side, file: &Path, written: &dyn Fn() -> Result<u64>) -> Result<Taken> {
    let (address, file) = (format!("127.0.0.1:{}", source.api), file.display().to_string());
    let low = written()?;
    mew_once(["store", "backup", "--address", &address, &file], &[])?;
    // One more may have been committed whose answer was under way.
    let high = written()? + 1;
    Ok(Taken { file, low, high })
}

/// Backups while one task after the other is written.
fn take_all(source: &Side, dir: &Path) -> Result<Vec<Taken>> {
    let (taken, _) = under_load(source, |written| {
        let mut taken = Vec::new();
        for i in 0..BACKUPS {
            let enough = written()? + BETWEEN;
            until("tasks are written", PATIENCE, || Ok((written()? >= enough).then_some(())))?;
            taken.push(take(source, &dir.join(format!("{i}.tar")), written)?);
        }
        Ok(taken)
    })?;
    Ok(taken)
}

#[test]
fn a_backup_of_a_live_agent_restores_as_a_new_incarnation() -> Result<()> {
    let dir = scratch("live")?;
    let ontology = dir.join("backup.ontology");
    fs::write(&ontology, ONTOLOGY)?;
    let mut source = Side::new(&dir, NAMESPACE, "source", "a.example", &ontology)?;
    let mut sink = Side::new(&dir, NAMESPACE, "sink", "b.example", &ontology)?;
    connect(&mut source, &mut sink, &["Task"], "  retry: {initialInterval: 50ms, maxInterval: 200ms}\n")?;
    source.declare("sync.yaml", &sync(""))?;
    for side in [&mut source, &mut sink] {
        side.start_agent(None)?;
        side.wait_open()?;
    }
    let r = scenario(&mut source, &mut sink, &dir, &ontology);
    r.with_context(|| format!("{}\n{}", source.tail(), sink.tail()))
}

fn scenario(source: &mut Side, sink: &mut Side, dir: &Path, ontology: &Path) -> Result<()> {
    let taken = take_all(source, dir)?;
    let last = *tasks(source)?.last().context("nothing was written")?;
    until("everything is at the sink", PATIENCE, || Ok((tasks(sink)? == one_to(last)).then_some(())))?;

    // A directory in use is not looked at, and not harmed.
    let data = dir.join("source/data");
    let refused = mew_once(["store", "check", "--data", &data.display().to_string()], &[]);
    let Err(e) = refused else { bail!("the log of a live agent was checked") };
    ensure!(format!("{e:#}").contains("stop the agent first"), "{e:#}");

    let mut sizes = Vec::new();
    for (i, t) in taken.iter().enumerate() {
        let to = dir.join(format!("restored-{i}"));
        let to_text = to.display().to_string();
        mew_once(["store", "restore", &t.file, "--data", &to_text], &[])?;
        mew_once(["store", "check", "--data", &to_text], &[])?;
        let there = dumped(&to, ontology)?;
        let n = there.len() as u64;
        ensure!(there == one_to(n), "backup {i} is not what was there at one time: {there:?}");
        ensure!((t.low..=t.high).contains(&n), "backup {i}: {n} tasks, and there were {} to {}", t.low, t.high);
        // Once is enough.
        let again = mew_once(["store", "restore", &t.file, "--data", &to_text], &[]);
        ensure!(again.is_err_and(|e| format!("{e:#}").contains("has data in it already")), "it was overwritten");
        ensure!(dumped(&to, ontology)? == there, "backup {i} has changed");
        sizes.push(n);
    }

    // The source is lost, and comes back as it was at the first backup.
    let lost = source.status()?["incarnation"].clone();
    source.kill_agent();
    fs::rename(&data, dir.join("source/data.lost"))?;
    mew_once(["store", "restore", &taken[0].file, "--data", &data.display().to_string()], &[])?;
    source.start_agent(None)?;
    source.wait_open()?;
    let (status, n) = (source.status()?, sizes[0]);
    ensure!(status["incarnation"] != lost, "the same incarnation: {status}");
    ensure!(tasks(source)? == one_to(n), "the agent has other tasks than the backup");
    spawn(source, AFTER)?;
    until("the flow says that the source is another one", PATIENCE, || {
        source.check()?;
        Ok((source.status()?["syncs"][0]["problem"]["reason"] == "SourceReset").then_some(()))
    })?;
    ensure!(tasks(sink)? == one_to(last), "something was sent to a sink that knows more than the backup");

    source.declare("sync.yaml", &sync("federation.mew.dev/reset: again"))?;
    let mut all = one_to(last);
    all.push(AFTER);
    until("what is written now arrives", PATIENCE, || {
        source.check()?;
        sink.check()?;
        Ok((tasks(sink)? == all).then_some(()))
    })
}
