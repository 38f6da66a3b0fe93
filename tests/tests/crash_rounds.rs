//! No loss, no double: either agent dies at failpoints, again and again, during the initial copy and the live stream;
//! afterwards both sides are equal entity by entity, and nothing took effect twice.
//!
//! Each run has a seed of its own, which it prints; `MEW_CRASH_SEED` repeats one, `MEW_CRASH_ROUNDS` is the number of rounds.

use anyhow::{Context, Result, bail, ensure};
use mew_tests::dirs::scratch;
use mew_tests::process::progress;
use mew_tests::seed::{number, seed};
use mew_tests::standalone::{Side, connect};
use mew_tests::wait::until;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "crash";
const ROUNDS: u64 = 50;
/// Tasks that exist before the sink does.
const FIRST: u64 = 300;
/// Beyond this, tasks are killed rather than spawned.
const MOST: usize = 600;
const CODES: u64 = 40;
/// A victim that has not come to its failpoint by then is killed.
const WRITING: Duration = Duration::from_secs(3);
const SETTLED: Duration = Duration::from_secs(60);
const SIGABRT: i32 = 6;

const ONTOLOGY: &str = "ontology Crash {
  node Task { name: String, shared: Bool, n: Int, code: String? [unique] }
  edge next(a: Task, b: Task)
}
";
const SOURCE_POINTS: [&str; 4] = ["store.write", "store.sync", "push.after", "frame.received"];
const SINK_POINTS: [&str; 4] = ["store.write", "store.sync", "ack.before", "frame.received"];

/// splitmix64
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// A task whose SPAWN was acknowledged, and what is known of it; `None` when a change has stayed without an answer.
struct Task {
    name: String,
    shared: Option<bool>,
    n: Option<u64>,
    /// Edges that were asked for.
    links: u64,
    /// Codes only go to tasks that never had one: exchanged codes would wait for each other at the sink.
    coded: bool,
}

enum Answer {
    Done,
    Refused,
    /// The source died, or was not there.
    Unknown,
}

struct Pair {
    source: Side,
    sink: Side,
    rng: Rng,
    tasks: Vec<Task>,
    /// Names and values of `n` never repeat.
    counter: u64,
    /// What the sink may do beyond applying each version once: entities that left the pattern, and that came back.
    leaves: u64,
    revivals: u64,
    aborted: u64,
    killed: u64,
}

#[test]
fn no_loss_and_no_double() -> Result<()> {
    let seed = seed("MEW_CRASH_SEED")?;
    let rounds = number("MEW_CRASH_ROUNDS")?.unwrap_or(ROUNDS);
    progress(&format!("crash rounds: MEW_CRASH_SEED={seed} MEW_CRASH_ROUNDS={rounds}"));
    let mut p = start(seed)?;
    let r: Result<()> = (0..rounds).try_for_each(|i| {
        p.round().with_context(|| format!("round {i}"))?;
        if (i + 1) % 10 == 0 {
            progress(&format!("{} rounds, {} ended at their failpoints, {} tasks", i + 1, p.aborted, p.tasks.len()));
        }
        Ok(())
    });
    r.and_then(|()| p.verdict(rounds)).with_context(|| {
        format!("MEW_CRASH_SEED={seed} MEW_CRASH_ROUNDS={rounds}\n{}\n{}", p.source.tail(), p.sink.tail())
    })
}

fn start(seed: u64) -> Result<Pair> {
    let dir = scratch("pair")?;
    let ontology = dir.join("crash.ontology");
    std::fs::write(&ontology, ONTOLOGY)?;
    let mut source = Side::new(&dir, NAMESPACE, "source", "a.example", &ontology)?;
    let mut sink = Side::new(&dir, NAMESPACE, "sink", "b.example", &ontology)?;
    connect(&mut source, &mut sink, &["Task", "next"], IMPATIENT)?;
    source.declare("sync.yaml", SYNC)?;
    source.start_agent(None)?;
    source.wait_open()?;
    let mut p = Pair {
        source,
        sink,
        rng: Rng(seed),
        tasks: Vec::new(),
        counter: 0,
        leaves: 0,
        revivals: 0,
        aborted: 0,
        killed: 0,
    };
    for _ in 0..FIRST {
        ensure!(matches!(p.spawn()?, Answer::Done), "a task cannot be spawned while nobody dies");
    }
    Ok(p)
}

const IMPATIENT: &str =
    "  retry: {initialInterval: 50ms, maxInterval: 200ms}\n  keepalive: {interval: 1s, timeout: 2s}\n";

const SYNC: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: tasks, namespace: crash}
spec:
  remoteRef: {name: sink}
  direction: Push
  match: 't: Task WHERE t.shared = true'
  edges: {mode: Incident}
  onUnmatch: Delete
";

impl Pair {
    /// One side is started with a failpoint, and everything goes on until it is dead.
    fn round(&mut self) -> Result<()> {
        let at_source = self.rng.below(2) == 0;
        let points = if at_source { SOURCE_POINTS } else { SINK_POINTS };
        let point = points[self.rng.below(points.len() as u64) as usize];
        let failpoint = format!("{point}={}", 1 + self.rng.below(6));
        let (victim, other) =
            if at_source { (&mut self.source, &mut self.sink) } else { (&mut self.sink, &mut self.source) };
        if other.agent.is_none() {
            other.start_agent(None)?;
        }
        victim.kill_agent();
        victim.start_agent(Some(&failpoint))?;
        let end = Instant::now() + WRITING;
        while Instant::now() < end {
            let (victim, other) =
                if at_source { (&mut self.source, &mut self.sink) } else { (&mut self.sink, &mut self.source) };
            other.check()?;
            let Some(agent) = &mut victim.agent else { bail!("no victim") };
            if let Some(status) = agent.ended()? {
                ensure!(status.signal() == Some(SIGABRT), "{failpoint}: {status}; {}", agent.tail());
                victim.agent = None;
                self.aborted += 1;
                return Ok(());
            }
            self.write()?;
            let pause = 2 + self.rng.below(8);
            sleep(Duration::from_millis(pause));
        }
        let victim = if at_source { &mut self.source } else { &mut self.sink };
        victim.kill_agent();
        self.killed += 1;
        Ok(())
    }

    fn execute(&self, text: &str, params: Value) -> Result<Answer> {
        let e = match self.source.execute(text, &params) {
            Ok(v) if v["seq"].as_u64().is_some_and(|s| s > 0) => return Ok(Answer::Done),
            // Everything that is asked for changes something that was acknowledged.
            Ok(v) => bail!("what was acknowledged is lost: {text} {params} changed nothing: {v}"),
            Err(e) => e,
        };
        let said = format!("{e:#}");
        if said.contains("/v1/execute: 409:") {
            return Ok(Answer::Refused);
        }
        ensure!(!said.contains("/v1/execute: 4"), "{text}: {said}");
        Ok(Answer::Unknown)
    }

    fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn pick(&mut self) -> usize {
        self.rng.below(self.tasks.len() as u64) as usize
    }

    /// One random statement at the source.
    fn write(&mut self) -> Result<()> {
        if self.tasks.is_empty() {
            return self.spawn().map(|_| ());
        }
        match self.rng.below(100) {
            0..20 if self.tasks.len() < MOST => self.spawn().map(|_| ()),
            0..20 | 62..72 => self.kill(),
            20..50 => self.set_n(),
            50..62 => self.toggle(),
            72..86 => self.link(),
            _ => self.set_code(),
        }
    }

    fn spawn(&mut self) -> Result<Answer> {
        let n = self.number();
        let (name, shared) = (format!("task {n}"), self.rng.below(4) > 0);
        let text = "SPAWN Task {name = $name, shared = $shared, n = $n}";
        let a = self.execute(text, json!({"name": name, "shared": shared, "n": n}))?;
        if matches!(a, Answer::Done) {
            self.tasks.push(Task { name, shared: Some(shared), n: Some(n), links: 0, coded: false });
        }
        Ok(a)
    }

    fn set_n(&mut self) -> Result<()> {
        let (i, n) = (self.pick(), self.number());
        let params = json!({"name": self.tasks[i].name, "n": n});
        match self.execute("MATCH t: Task WHERE t.name = $name SET t.n = $n", params)? {
            Answer::Done => self.tasks[i].n = Some(n),
            Answer::Refused => bail!("n of {} cannot be set", self.tasks[i].name),
            Answer::Unknown => self.tasks[i].n = None,
        }
        Ok(())
    }

    /// Edges go when one of their ends leaves: those with one shared end would wait at the sink.
    fn toggle(&mut self) -> Result<()> {
        let (i, n) = (self.pick(), self.number());
        let t = &self.tasks[i];
        let shared = match t.shared {
            Some(s) => !s,
            None => self.rng.below(2) == 0,
        };
        let text = if shared {
            "MATCH t: Task WHERE t.name = $name SET t {shared = true, n = $n}"
        } else {
            "BEGIN;
             MATCH t: Task, next(t, _) AS e WHERE t.name = $name UNLINK e;
             MATCH u: Task, next(_, u) AS f WHERE u.name = $name UNLINK f;
             MATCH v: Task WHERE v.name = $name SET v {shared = false, n = $n};
             COMMIT"
        };
        let a = self.execute(text, json!({"name": t.name, "n": n}))?;
        let t = &mut self.tasks[i];
        (t.shared, t.n) = match a {
            Answer::Done => (Some(shared), Some(n)),
            Answer::Refused => bail!("{} cannot be shared or not", t.name),
            Answer::Unknown => (None, None),
        };
        *(if shared { &mut self.revivals } else { &mut self.leaves }) += 1 + t.links;
        Ok(())
    }

    /// Whatever the answer, nothing more is claimed of it.
    fn kill(&mut self) -> Result<()> {
        let i = self.pick();
        let t = self.tasks.swap_remove(i);
        if let Answer::Refused = self.execute("MATCH t: Task WHERE t.name = $name KILL t", json!({"name": t.name}))? {
            bail!("{} cannot be killed", t.name);
        }
        Ok(())
    }

    fn link(&mut self) -> Result<()> {
        let (a, b) = (self.pick(), self.pick());
        if a == b || self.tasks[a].shared != Some(true) || self.tasks[b].shared != Some(true) {
            return Ok(());
        }
        let params = json!({"a": self.tasks[a].name, "b": self.tasks[b].name});
        self.execute("MATCH a: Task, b: Task WHERE a.name = $a AND b.name = $b LINK next(a, b)", params)?;
        self.tasks[a].links += 1;
        self.tasks[b].links += 1;
        Ok(())
    }

    /// Gives a code to a task that never had one, or takes it for the next one; a code that somebody has is refused.
    fn set_code(&mut self) -> Result<()> {
        let (i, n) = (self.pick(), self.number());
        let code = if self.tasks[i].coded { Value::Null } else { json!(format!("code {}", self.rng.below(CODES))) };
        let params = json!({"name": self.tasks[i].name, "code": code, "n": n});
        match self.execute("MATCH t: Task WHERE t.name = $name SET t {code = $code?, n = $n}", params)? {
            Answer::Done => (self.tasks[i].coded, self.tasks[i].n) = (true, Some(n)),
            Answer::Refused => {}
            Answer::Unknown => (self.tasks[i].coded, self.tasks[i].n) = (true, None),
        }
        Ok(())
    }

    fn verdict(&mut self, rounds: u64) -> Result<()> {
        for s in [&mut self.source, &mut self.sink] {
            if s.agent.is_none() {
                s.start_agent(None)?;
            }
            s.wait_open()?;
        }
        let flow = self.settled()?;
        self.nothing_is_held_but_edges()?;
        self.equal()?;
        self.nothing_is_lost()?;
        let head = self.source.status()?["head"].as_u64().context("no head")?;
        let applied = flow["applied"].as_u64().context("no applied")?;
        let most = head + self.leaves + self.revivals;
        progress(&format!(
            "{} of {rounds} ended at their failpoints, {} were killed; {applied} applied, head {head}, at most {most}",
            self.aborted, self.killed
        ));
        ensure!(applied <= most, "{applied} changes were applied, of {head} versions: at most {most} have an effect");
        for none in ["rejected", "conflicts"] {
            ensure!(flow[none] == 0, "{none}, though only the source writes: {flow}");
        }
        ensure!(self.aborted * 2 >= rounds, "only {} of {rounds} rounds reached their failpoint", self.aborted);
        Ok(())
    }

    /// Waits until everything is at the sink, and returns what the source says of its flow then.
    fn settled(&mut self) -> Result<Value> {
        let mut last = Value::Null;
        let end = Instant::now() + SETTLED;
        let r = until("the sync is live, without lag", SETTLED + Duration::from_secs(5), || {
            self.source.check()?;
            self.sink.check()?;
            last = self.source.status()?;
            let Some(flow) = last["syncs"].get(0) else { return Ok(None) };
            let caught_up = flow["state"] == "Live" && flow["lagMs"] == 0 && flow["pending"] == 0;
            // What is still held at the end is looked at afterwards.
            let done = caught_up && (flow["held"] == 0 || Instant::now() >= end);
            Ok(done.then(|| flow.clone()))
        });
        r.with_context(|| format!("the source says {last}"))
    }

    fn nothing_is_held_but_edges(&self) -> Result<()> {
        let held = self.sink.json("/v1/records/held?limit=1000")?;
        let records = held["records"].as_array().context("no records")?;
        let wrong = records.iter().find(|r| r["reason"] != "MissingEnd");
        ensure!(wrong.is_none(), "held at the end: {wrong:?}");
        Ok(())
    }

    fn equal(&self) -> Result<()> {
        let columns = "RETURN t._sync_id, t._version, t.name, t.n, t.code ORDER BY t._sync_id";
        let edges = "RETURN e._sync_id, e._version ORDER BY e._sync_id";
        for (what, at_source, at_sink) in [
            ("task", format!("MATCH t: Task WHERE t.shared = true {columns}"), format!("MATCH t: Task {columns}")),
            (
                "edge",
                format!("MATCH a: Task, b: Task, next(a, b) AS e WHERE a.shared = true AND b.shared = true {edges}"),
                format!("MATCH a: Task, b: Task, next(a, b) AS e {edges}"),
            ),
        ] {
            let (source, sink) = (by_id(self.source.rows(&at_source)?)?, by_id(self.sink.rows(&at_sink)?)?);
            ensure!(!source.is_empty(), "no {what} is shared: nothing was tested");
            let ids = source.keys().chain(sink.keys());
            let wrong: Vec<_> = ids.filter(|id| source.get(*id) != sink.get(*id)).collect();
            if let Some(id) = wrong.first() {
                let (a, b) = (source.get(*id), sink.get(*id));
                bail!("{} differ; the first {what}: source {a:?}, sink {b:?}", wrong.len());
            }
        }
        Ok(())
    }

    /// What the source has acknowledged, it has.
    fn nothing_is_lost(&self) -> Result<()> {
        let rows = self.source.rows("MATCH t: Task RETURN t.name, t.n, t.shared")?;
        let there = by_id(rows)?;
        for t in &self.tasks {
            let Some(row) = there.get(&t.name) else { bail!("{} was acknowledged and is lost", t.name) };
            ensure!(t.n.is_none_or(|n| row[1] == n), "{}: n is {}, acknowledged was {:?}", t.name, row[1], t.n);
            ensure!(t.shared.is_none_or(|s| row[2] == s), "{}: shared is {}, not {:?}", t.name, row[2], t.shared);
        }
        Ok(())
    }
}

/// Rows by their first column, which must not repeat.
fn by_id(rows: Vec<Value>) -> Result<BTreeMap<String, Value>> {
    let mut out = BTreeMap::new();
    for row in rows {
        let id = row[0].as_str().or_else(|| row[0]["id"].as_str()).with_context(|| format!("no id: {row}"))?.to_owned();
        ensure!(out.insert(id, row.clone()).is_none(), "twice: {row}");
    }
    Ok(out)
}
