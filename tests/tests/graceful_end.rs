//! An agent that ends: what its peer has not got is sent first, as far as time goes, and what is left is said.

use anyhow::{Context, Result, ensure};
use mew_tests::dirs::scratch;
use mew_tests::http;
use mew_tests::standalone::{Side, connect};
use mew_tests::wait::until;
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "end";
const PATIENCE: Duration = Duration::from_secs(60);
/// Much less than the grace period that is given where nobody is to be waited for.
const AT_ONCE: Duration = Duration::from_secs(20);
const ONTOLOGY: &str = "ontology End {\n  node Task { n: Int }\n}\n";
const SYNC: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: tasks, namespace: end}
spec:
  remoteRef: {name: sink}
  direction: Push
  match: 't: Task'
";
/// How the source names its flow when something of it is left.
const FLOW: &str = "flow end/tasks of Remote end/sink";

struct Pair {
    source: Side,
    sink: Side,
    tasks: u64,
    /// What the source's log held when the source ended last.
    heard: usize,
}

fn count(side: &Side) -> Result<u64> {
    let rows = side.rows("MATCH t: Task RETURN COUNT(*)")?;
    rows.first().and_then(|r| r[0].as_u64()).with_context(|| format!("no count: {rows:?}"))
}

impl Pair {
    /// A flow that is live.
    fn start(name: &str) -> Result<Self> {
        let dir = scratch(name)?;
        let ontology = dir.join("end.ontology");
        fs::write(&ontology, ONTOLOGY)?;
        let mut source = Side::new(&dir, NAMESPACE, "source", "a.example", &ontology)?;
        let mut sink = Side::new(&dir, NAMESPACE, "sink", "b.example", &ontology)?;
        connect(&mut source, &mut sink, &["Task"], "")?;
        source.declare("sync.yaml", SYNC)?;
        let mut p = Pair { source, sink, tasks: 0, heard: 0 };
        p.sink.start_agent(None)?;
        p.sink.wait_open()?;
        Ok(p)
    }

    fn start_source(&mut self, grace_seconds: &str) -> Result<()> {
        self.source.start_agent_with_env(&[("MEW_GRACE_SECONDS", grace_seconds)])?;
        self.source.wait_open()
    }

    fn write(&mut self, n: u64) -> Result<()> {
        for _ in 0..n {
            self.source.execute("SPAWN Task {n = $n}", &json!({"n": self.tasks}))?;
            self.tasks += 1;
        }
        Ok(())
    }

    /// Everything is at the sink, and the source knows it.
    fn arrives(&self) -> Result<()> {
        until("everything is at the sink", PATIENCE, || {
            let is_confirmed = self.source.status()?["syncs"][0]["pending"] == 0;
            Ok((is_confirmed && count(&self.sink)? == self.tasks).then_some(()))
        })
    }

    fn signal(side: &Side, s: Signal) -> Result<()> {
        side.agent.as_ref().context("no agent")?.signal(s)
    }

    /// What the source has said since it was started.
    fn said(&self) -> String {
        let all = self.source.agent.as_ref().map(|a| a.said()).unwrap_or_default();
        all.get(self.heard..).unwrap_or_default().to_owned()
    }

    fn says(&self, text: &str) -> Result<()> {
        until(text, PATIENCE, || Ok(self.said().contains(text).then_some(())))
    }

    /// Waits until the source has ended by itself; what it said.
    fn ends(&mut self) -> Result<String> {
        let agent = self.source.agent.as_mut().context("no agent")?;
        let status = until("the source ends", PATIENCE, || agent.ended())?;
        ensure!(status.success(), "{status}: {}", agent.tail());
        let said = self.said();
        self.heard += said.len();
        self.source.agent = None;
        Ok(said)
    }

    fn operator_says(&self, text: &str) -> Result<()> {
        let operator = self.source.operator.as_ref().context("no operator")?;
        until(&format!("the operator says {text:?}"), PATIENCE, || Ok(operator.said().contains(text).then_some(())))
    }
}

#[test]
fn what_was_written_last_is_sent_before_the_end() -> Result<()> {
    let mut p = Pair::start("drained")?;
    p.start_source("30")?;
    p.write(1)?;
    p.arrives()?;
    p.write(300)?;
    Pair::signal(&p.source, Signal::TERM)?;
    let said = p.ends()?;
    ensure!(said.contains("nothing is left") && !said.contains(FLOW), "{said}");
    ensure!(count(&p.sink)? == p.tasks, "something did not arrive");
    // The peer need not find out by itself, nor does the operator.
    until("the sink knows that its peer has stopped", PATIENCE, || {
        Ok(p.sink.status()?.to_string().contains("has stopped").then_some(()))
    })?;
    p.operator_says("its peers have everything")
}

#[test]
fn a_slow_peer_is_waited_for_and_nobody_writes_meanwhile() -> Result<()> {
    let mut p = Pair::start("slow")?;
    p.start_source("60")?;
    p.write(1)?;
    p.arrives()?;
    Pair::signal(&p.sink, Signal::STOP)?;
    p.write(20)?;
    Pair::signal(&p.source, Signal::TERM)?;
    // Said before it is done: the kubelet may not wait for that.
    p.says(&format!("waiting for {FLOW}"))?;
    let (code, text) = http::get(p.source.health, "/ready")?;
    ensure!(code == 503 && text.contains("stopping"), "{code}: {text}");
    match p.source.execute("SPAWN Task {n = 0}", &json!({})) {
        Ok(v) => anyhow::bail!("it still takes writes: {v}"),
        Err(e) => ensure!(format!("{e:#}").contains("503: this agent is stopping"), "{e:#}"),
    }
    ensure!(count(&p.source)? == p.tasks, "it answers no queries");
    Pair::signal(&p.sink, Signal::CONT)?;
    let said = p.ends()?;
    ensure!(said.contains("nothing is left"), "{said}");
    ensure!(count(&p.sink)? == p.tasks, "something did not arrive");
    Ok(())
}

#[test]
fn what_is_left_when_time_is_over_is_said_and_sent_later() -> Result<()> {
    let mut p = Pair::start("late")?;
    // Two seconds for the peer.
    p.start_source("7")?;
    p.write(1)?;
    p.arrives()?;
    Pair::signal(&p.sink, Signal::STOP)?;
    p.write(20)?;
    Pair::signal(&p.source, Signal::TERM)?;
    let said = p.ends()?;
    let left = said.lines().find(|l| l.contains("left: ") && l.contains(FLOW));
    let left = left.with_context(|| format!("it does not say what is left:\n{said}"))?;
    ensure!(left.contains("of 20 changes"), "{left}");
    ensure!(said.contains("it is sent when this kernel is back") && !said.contains("nothing is left"), "{said}");
    p.operator_says("something is left")?;
    Pair::signal(&p.sink, Signal::CONT)?;
    p.start_source("30")?;
    p.arrives()
}

#[test]
fn a_peer_that_is_dead_is_not_waited_for() -> Result<()> {
    let mut p = Pair::start("dead")?;
    p.start_source("3600")?;
    p.write(1)?;
    p.arrives()?;
    p.sink.kill_agent();
    p.write(20)?;
    let begin = Instant::now();
    Pair::signal(&p.source, Signal::TERM)?;
    let said = p.ends()?;
    ensure!(begin.elapsed() < AT_ONCE, "it waited for {:?}", begin.elapsed());
    ensure!(said.contains("left: ") && said.contains(FLOW) && said.contains("Unreachable"), "{said}");
    p.sink.start_agent(None)?;
    p.start_source("30")?;
    p.arrives()
}
