//! What the rows break: two clusters, the agents of three kernels, and the flow that must go on.

use anyhow::{Context, Result, ensure};
use mew_tests::cluster::{Agent, Cluster, PATIENCE, exchange_trust};
use mew_tests::dirs::root;
use mew_tests::kstatus::{Status, condition, kstatus};
use mew_tests::ports::free_port;
use mew_tests::process::Process;
use mew_tests::wait::until;
use mew_tests::watcher::{Probe, Watcher};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, thread};

pub const NAMESPACE: &str = "flights";
/// Objects with this label belong to rows, and are deleted when their group is done.
pub const OF_A_ROW: &str = "made-for=a-row";
/// The kernel in the middle knows no airports at first.
const NO_AIRPORTS: &str = "ontology Flights {\n  node State { code: String [unique] }\n}\n";
const STATES: [&str; 3] = ["CA", "NY", "WA"];
const FIRST_AIRPORTS: u32 = 5;

/// Fields are dropped in this order: who watches and uses a server goes before it.
pub struct World {
    pub watcher: Watcher,
    pub probes: Vec<Probe>,
    /// An agent that claims a kernel of somebody else.
    pub second: Option<Process>,
    pub east_agent: Agent,
    pub west_agent: Agent,
    pub mid_agent: Agent,
    pub new_agent: Option<Agent>,
    /// Kernels of the west that belong to a row each.
    pub peers: BTreeMap<&'static str, Agent>,
    /// What was written while it could not arrive.
    pub owed: Vec<Owed>,
    airports: u32,
    pub east: Cluster,
    pub west: Cluster,
}

/// See [`World::owe`].
pub struct Owed {
    sync: &'static str,
    /// When it was durable at the source.
    written_ms: u64,
    /// Where it belongs: a peer, or the east itself.
    peer: Option<&'static str>,
    /// Has one row when it is there.
    query: String,
}

pub fn start() -> Result<World> {
    let (east, west) = thread::scope(|s| {
        let east = s.spawn(|| Cluster::start("east", "east.example"));
        let west = Cluster::start("west", "west.example");
        (east.join().map_err(|_| anyhow::anyhow!("starting the east panicked")), west)
    });
    let (east, west) = (east??, west?);
    for c in [&east, &west] {
        c.api.create_namespace(NAMESPACE)?;
    }
    let example = fs::read_to_string(root().join("examples/airports/flights.ontology"))?;
    // A type that the policy lets pass to the west and the permissions do not; it may come from there.
    let all = example.replacen("  edge located_in", "  node Memo { text: String }\n\n  edge located_in", 1);
    ensure!(all != example, "the example's ontology is written differently now");
    fs::write(full_ontology(&east), &all)?;
    fs::write(mid_ontology(&west), NO_AIRPORTS)?;
    let east_agent = east.start_agent(NAMESPACE, "us-east", &full_ontology(&east))?;
    let west_agent = west.start_agent(NAMESPACE, "us-west", &full_ontology(&east))?;
    let mid_agent = west.start_agent(NAMESPACE, "us-mid", &mid_ontology(&west))?;
    exchange_trust(NAMESPACE, &east, &west)?;
    let mut w = World {
        watcher: Watcher::start(east.api.client()),
        probes: Vec::new(),
        second: None,
        east_agent,
        west_agent,
        mid_agent,
        new_agent: None,
        peers: BTreeMap::new(),
        owed: Vec::new(),
        airports: 0,
        east,
        west,
    };
    for code in STATES {
        w.east_agent.execute("SPAWN State {code = $code}", json!({"code": code}))?;
    }
    for _ in 0..FIRST_AIRPORTS {
        w.spawn_airport()?;
    }
    w.declare()?;
    w.becomes_ready("sync", "states")?;
    w.becomes_ready("sync", "airports")?;
    w.data_flows()?;
    Ok(w)
}

/// Of the east and of the west.
pub fn full_ontology(east: &Cluster) -> PathBuf {
    east.api.dir().join("flights.ontology")
}

pub fn mid_ontology(west: &Cluster) -> PathBuf {
    west.api.dir().join("mid.ontology")
}

/// A Remote of the east, with everything that makes it notice and retry soon.
pub fn remote_in_the_east(kernel: &str, port: u16) -> String {
    format!(
        r#"
apiVersion: federation.mew.dev/v1alpha1
kind: Remote
metadata: {{name: {kernel}, namespace: {NAMESPACE}}}
spec:
  kernelRef: {{name: us-east}}
  uri: mew://127.0.0.1:{port}/flights.{kernel}
  connectionMode: Dial
  peer: {{trustDomain: west.example, trustBundleRefs: [{{kind: ConfigMap, name: west-example-roots}}]}}
  permissions: {{canReceive: [{{type: Airport}}, {{type: State}}, {{type: located_in}}], canSend: [{{type: Memo}}]}}
  timeouts: {{connect: 2s}}
  retry: {{initialInterval: 200ms, maxInterval: 1s}}
  keepalive: {{interval: 500ms, timeout: 1s, failureThreshold: 2}}
"#
    )
}

fn remote_in_the_west(kernel: &str, port: u16) -> String {
    format!(
        r#"
apiVersion: federation.mew.dev/v1alpha1
kind: Remote
metadata: {{name: us-east-of-{kernel}, namespace: {NAMESPACE}}}
spec:
  kernelRef: {{name: {kernel}}}
  uri: mew://127.0.0.1:{port}/flights.us-east
  connectionMode: Accept
  peer: {{trustDomain: east.example, trustBundleRefs: [{{kind: ConfigMap, name: east-example-roots}}]}}
  permissions: {{canSend: [{{type: Airport}}, {{type: State}}, {{type: located_in}}], canReceive: [{{type: Memo}}]}}
  retry: {{initialInterval: 200ms, maxInterval: 1s}}
  keepalive: {{interval: 500ms, timeout: 1s, failureThreshold: 2}}
"#
    )
}

/// Memos go the other way.
fn policy(peer: &str, operation: &str, types: &str, of_memos: &str) -> String {
    format!(
        r#"
apiVersion: federation.mew.dev/v1alpha1
kind: FederationPolicy
metadata: {{name: coasts, namespace: {NAMESPACE}}}
spec:
  remoteSelector: {{}}
  mode: ExplicitBridging
  allowedKernels: [{{trustDomain: {peer}}}]
  rules:
  - {{name: public-data, action: Allow, operations: [{operation}], types: [{types}]}}
  - {{name: memos, action: Allow, operations: [{of_memos}], types: [Memo]}}
"#
    )
}

fn sync(name: &str, labels: &str, remote: &str, direction: &str, pattern: &str) -> String {
    format!(
        r#"
apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {labels}}}
spec:
  remoteRef: {{name: {remote}}}
  direction: {direction}
  match: '{pattern}'
  maxLag: 5s
"#
    )
}

impl World {
    fn declare(&self) -> Result<()> {
        self.west.api.apply(&policy("east.example", "Import", "Airport, State, located_in", "Export"))?;
        for kernel in ["us-west", "us-mid", "us-new"] {
            self.west.api.apply(&remote_in_the_west(kernel, self.east_agent.federation))?;
        }
        self.east.api.apply(&policy("west.example", "Export", "Airport, State, Memo, located_in", "Import"))?;
        self.east.api.apply(&remote_in_the_east("us-west", self.west_agent.federation))?;
        self.east.api.apply(&sync("states", "{}", "us-west", "Push", "s: State"))?;
        self.east.api.apply(&sync("airports", "{}", "us-west", "Push", "a: Airport WHERE a.country = \"USA\""))?;
        Ok(())
    }

    pub fn make_sync(&self, name: &str, remote: &str, pattern: &str) -> Result<()> {
        self.east.api.apply(&sync(name, "{made-for: a-row}", remote, "Push", pattern)).map(|_| ())
    }

    pub fn make_pull(&self, name: &str, remote: &str, pattern: &str) -> Result<()> {
        self.east.api.apply(&sync(name, "{made-for: a-row}", remote, "Pull", pattern)).map(|_| ())
    }

    /// A kernel of the west for a row, with a Remote at either end.
    pub fn start_peer(&mut self, kernel: &'static str, start: impl FnOnce(&mut Agent) -> Result<()>) -> Result<()> {
        let mut agent = self.west.agent(NAMESPACE, kernel, &full_ontology(&self.east))?;
        start(&mut agent)?;
        self.west.api.apply(&remote_in_the_west(kernel, self.east_agent.federation))?;
        self.east.api.apply(&remote_in_the_east(kernel, agent.federation))?;
        self.peers.insert(kernel, agent);
        Ok(())
    }

    pub fn peer(&mut self, kernel: &str) -> Result<&mut Agent> {
        self.peers.get_mut(kernel).with_context(|| format!("{kernel} was not started"))
    }

    /// What has just been written cannot arrive until all is mended.
    pub fn owe(&mut self, sync: &'static str, peer: Option<&'static str>, query: &str) {
        let written_ms = self.watcher.now_ms();
        self.owed.push(Owed { sync, written_ms, peer, query: query.to_owned() });
    }

    fn is_there(&self, o: &Owed) -> Result<bool> {
        let agent = o.peer.map_or(Some(&self.east_agent), |p| self.peers.get(p));
        Ok(agent.with_context(|| format!("{:?} was not started", o.peer))?.rows(&o.query)?.len() == 1)
    }

    /// Remembers of what is owed that it is not there yet, so that no Sync may have called itself ready meanwhile.
    pub fn look_for_what_is_owed(&mut self) -> Result<()> {
        for o in &self.owed {
            let now = self.watcher.now_ms();
            if !self.is_there(o)? {
                self.probes.push(Probe::missing(&format!("{NAMESPACE}/{}", o.sync), o.written_ms, now));
            }
        }
        Ok(())
    }

    pub fn what_is_owed_arrives(&mut self) -> Result<()> {
        for o in std::mem::take(&mut self.owed) {
            until(&format!("what {} owes arrives: {}", o.sync, o.query), PATIENCE, || {
                Ok(self.is_there(&o)?.then_some(()))
            })?;
        }
        Ok(())
    }

    /// A merge patch of an object of the east.
    pub fn patch(&self, kind: &str, name: &str, patch: &Value) -> Result<()> {
        let text = patch.to_string();
        self.east.api.kubectl(&["patch", kind, name, "-n", NAMESPACE, "--type=merge", "-p", &text]).map(|_| ())
    }

    /// Ready about the spec as it is, and a pipeline goes on.
    pub fn becomes_ready(&self, kind: &str, name: &str) -> Result<()> {
        let good =
            |o: &Value| kstatus(o) == Status::Current && condition(o, "Ready").is_some_and(|c| c["status"] == "True");
        self.east.api.wait_json(kind, NAMESPACE, name, "is ready", good, PATIENCE).map(|_| ())
    }

    fn ready_since(&self, kind: &str, name: &str) -> Result<Value> {
        let o = self.east.api.get_json(kind, NAMESPACE, name)?;
        let c = condition(&o, "Ready").with_context(|| format!("{kind} {name} has no Ready"))?;
        Ok(json!([c["status"], c["lastTransitionTime"]]))
    }

    /// Waits until no status is on its way any more; since when it has been ready, and when that was looked at.
    pub fn at_rest(&self, kind: &str, name: &str) -> Result<(Value, u64)> {
        let mut before = self.east.versions()?;
        until("the statuses come to rest", PATIENCE, || {
            self.plans(3)?;
            let now = self.east.versions()?;
            let same = now == before;
            before = now;
            Ok(same.then_some(()))
        })?;
        Ok((self.ready_since(kind, name)?, self.watcher.now_ms()))
    }

    /// It has been ready all the time since [`World::at_rest`], and so has the flow of airports.
    pub fn never_flapped(&self, kind: &str, name: &str, since: &(Value, u64)) -> Result<()> {
        let events = self.watcher.events();
        let flap = events.iter().find(|e| e.at_ms > since.1 && e.sync == "flights/airports" && !e.claims_ready);
        ensure!(flap.is_none(), "airports was not ready for a moment: {flap:?}");
        let now = self.ready_since(kind, name)?;
        ensure!(now == since.0, "{kind} {name} was {}, and is {now}", since.0);
        Ok(())
    }

    pub fn plans(&self, more: u64) -> Result<()> {
        let operator = self.east.leader()?;
        let end = operator.counters()?.0 + more;
        until("the operator plans again", PATIENCE, || Ok((operator.counters()?.0 >= end).then_some(())))
    }

    /// A new airport in the east: its code, and when it was durable.
    pub fn spawn_airport(&mut self) -> Result<(String, u64)> {
        let iata = format!("X{:02}", self.airports);
        self.airports += 1;
        let text = r#"SPAWN Airport {iata = $iata, name = $iata, country = "USA", latitude = 1.5, longitude = 2.5}"#;
        self.east_agent.execute(text, json!({"iata": iata}))?;
        Ok((iata, self.watcher.now_ms()))
    }

    /// Waits for it in the west, and remembers how long it took.
    pub fn arrives(&mut self, airport: &(String, u64)) -> Result<()> {
        let (iata, written) = airport;
        let text = format!(r#"MATCH a: Airport WHERE a.iata = "{iata}" RETURN a.iata"#);
        until(&format!("airport {iata} is in the west"), PATIENCE, || {
            Ok((self.west_agent.rows(&text)?.len() == 1).then_some(()))
        })?;
        self.probes.push(Probe::arrived("flights/airports", *written, self.watcher.now_ms()));
        Ok(())
    }

    pub fn data_flows(&mut self) -> Result<()> {
        let airport = self.spawn_airport()?;
        self.arrives(&airport)
    }

    /// What the agent of a kernel of the east was started with, but with its own data directory and ports: its log.
    pub fn start_second(&mut self) -> Result<(PathBuf, u16)> {
        let theirs = self.east.api.dir().join(format!("agent-{NAMESPACE}-us-east"));
        let dir = self.east.api.dir().join("second");
        fs::create_dir_all(&dir)?;
        let health = free_port()?;
        let at = |port: u16| format!("127.0.0.1:{port}");
        let args = [
            "agent".to_owned(),
            "--kernel".to_owned(),
            "us-east".to_owned(),
            "--operator".to_owned(),
            at(self.east.leader()?.port),
            "--trust-domain".to_owned(),
            self.east.trust_domain.clone(),
            "--token-file".to_owned(),
            theirs.join("token").display().to_string(),
            "--roots-file".to_owned(),
            theirs.join("ca.crt").display().to_string(),
            "--data".to_owned(),
            dir.join("data").display().to_string(),
            "--ontology".to_owned(),
            full_ontology(&self.east).display().to_string(),
            "--listen".to_owned(),
            at(free_port()?),
            "--federation".to_owned(),
            at(free_port()?),
            "--health".to_owned(),
            at(health),
        ];
        self.second = Some(Process::start("second", mew_tests::process::mew(&args)?, &dir)?);
        Ok((dir.join("second.log"), health))
    }
}
