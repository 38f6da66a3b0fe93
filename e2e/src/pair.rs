//! Two kernels of two organisations: airports, states and the edges between them go west, inspections go east. Trust is
//! exchanged as people do it: by two files and no secret.

use crate::cluster::Cluster;
use crate::install::restricted_namespace;
use crate::side::Side;
use crate::steps::step;
use crate::wait::{PATIENCE, until};
use crate::watch::Watch;
use crate::workload::{self, Workload};
use crate::world::{World, at_both};
use anyhow::{Context, Result, ensure};
use mew_tests::watcher::Probe;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub const EAST: &str = "us-east";
pub const WEST: &str = "us-west";
/// The Sync that probes go with.
pub const AIRPORTS: &str = "airports";
pub const POLICY: &str = "coasts";
/// What goes west, and what comes from there.
pub const OUT: [&str; 3] = ["Airport", "State", "located_in"];
pub const HOME: [&str; 1] = ["Inspection"];
const STATES: [&str; 3] = ["CA", "NY", "WA"];
const AIRPORTS_PER_STATE: u32 = 4;
/// Of the agent, towards peers.
const FEDERATION: u16 = 9001;
/// Everything that flows, entity by entity.
const QUERIES: [&str; 4] = [
    "MATCH s: State RETURN s.code ORDER BY s.code",
    "MATCH a: Airport RETURN a.iata, a.name, a.country, a.latitude, a.longitude ORDER BY a.iata",
    "MATCH a: Airport, s: State, located_in(a, s) RETURN a.iata, s.code ORDER BY a.iata",
    "MATCH i: Inspection RETURN i.airport, i.finding ORDER BY i.finding",
];

/// Which side opens the connection; data goes both ways whoever does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dials {
    East,
    West,
}

#[derive(Clone)]
pub struct Pair {
    pub east: Side,
    pub west: Side,
    app: String,
    written: Arc<AtomicU32>,
}

/// Something that was written, and when it was durable.
pub struct Written {
    query: String,
    sync: String,
    at_ms: u64,
}

impl Pair {
    /// Workloads with data in them, then trust and declarations: what is there must arrive by the initial copy.
    pub fn start(w: &World, namespace: &str, dials: Dials) -> Result<Pair> {
        let p = Pair::declared(w, namespace, dials)?;
        step(&format!("{namespace}: all is ready"), || p.all_ready())?;
        p.same()?;
        Ok(p)
    }

    /// As [`Pair::start`], but the data may still be on its way.
    pub fn declared(w: &World, namespace: &str, dials: Dials) -> Result<Pair> {
        let side = |c: &Cluster, kernel: &'static str, peer: &'static str, syncs: &'static [&'static str]| Side {
            cluster: c.clone(),
            namespace: namespace.to_owned(),
            kernel,
            peer,
            syncs,
        };
        let p = Pair {
            east: side(&w.east, EAST, WEST, &[AIRPORTS, "states"]),
            west: side(&w.west, WEST, EAST, &["inspections"]),
            app: w.prepared.app.name.clone(),
            written: Arc::default(),
        };
        step(&format!("{namespace}: workloads"), || p.workloads(w))?;
        step(&format!("{namespace}: data"), || p.load())?;
        step(&format!("{namespace}: trust and declarations"), || p.declare(dials))?;
        Ok(p)
    }

    pub fn sides(&self) -> [&Side; 2] {
        [&self.east, &self.west]
    }

    fn workloads(&self, w: &World) -> Result<()> {
        let ontology = workload::ontology()?;
        let put = |c: &Cluster| {
            let s = if c.name == self.east.cluster.name { &self.east } else { &self.west };
            // Of a run before this one.
            c.kubectl(&["delete", "namespace", &s.namespace, "--ignore-not-found", "--timeout=180s"])?;
            c.apply(&self.workload(s, &ontology).to_string())?;
            s.rolled_out()
        };
        at_both(w, put).map(drop)
    }

    fn workload(&self, s: &Side, ontology: &str) -> Value {
        let storage = format!("claim:{}", claim(s));
        let namespace = &s.namespace;
        let deployment = Workload { namespace, name: s.kernel, kernel: s.kernel, storage: &storage, app: &self.app };
        let peers = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": peers_service(s), "namespace": namespace},
            "spec": {
                "type": "NodePort", "selector": {"app": s.kernel}, "ports": [{"port": FEDERATION}],
                // Peers reach an agent that is not ready: its disk may be full, and it has much to send.
                "publishNotReadyAddresses": true,
            },
        });
        let ontology = workload::ontology_map(namespace, ontology);
        let items = [restricted_namespace(namespace), ontology, claim_object(s), peers, deployment.deployment()];
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    fn load(&self) -> Result<()> {
        // One script of many statements: kubectl is started once.
        let states: Vec<String> = STATES.iter().map(|s| format!(r#"SPAWN State {{code = "{s}"}}"#)).collect();
        self.east.execute(&states.join(";\n"))?;
        let numbered = STATES.iter().flat_map(|s| (0..AIRPORTS_PER_STATE).map(move |n| (*s, n)));
        // A script remembers names: each airport has its own.
        let airports: Vec<String> = numbered.enumerate().map(|(k, (state, n))| airport(k, state, n)).collect();
        self.east.execute(&airports.join(";\n"))?;
        let findings = ["cable renewed", "fence repaired", "lamp broken"];
        let all: Vec<String> =
            findings.iter().map(|f| format!(r#"SPAWN Inspection {{airport = "CA0", finding = "{f}"}}"#)).collect();
        self.west.execute(&all.join(";\n"))
    }

    fn declare(&self, dials: Dials) -> Result<()> {
        for (here, there, exports, imports, opens) in [
            (&self.east, &self.west, &OUT[..], &HOME[..], dials == Dials::East),
            (&self.west, &self.east, &HOME[..], &OUT[..], dials == Dials::West),
        ] {
            here.cluster.apply(&policy(here, there, exports, imports).to_string())?;
            here.cluster.apply(&remote(here.kernel, &exported(here, there)?, exports, imports, opens)?)?;
        }
        self.declare_syncs()
    }

    pub fn declare_syncs(&self) -> Result<()> {
        self.east_syncs().iter().try_for_each(|s| self.east.cluster.apply(&s.to_string()))?;
        self.west.cluster.apply(&sync(&self.west, "inspections", &json!({"match": "i: Inspection"})).to_string())
    }

    fn east_syncs(&self) -> [Value; 2] {
        let airports = json!({"match": "a: Airport WHERE a.country = \"USA\"", "edges": {"mode": "Incident"}});
        [sync(&self.east, AIRPORTS, &airports), sync(&self.east, "states", &json!({"match": "s: State"}))]
    }

    /// What the east's people commit if it opens the connection: the west's bundle, and their own objects.
    pub fn east_commits(&self) -> Result<(String, Vec<String>)> {
        let text = remote(self.east.kernel, &exported(&self.east, &self.west)?, &OUT, &HOME, true)?;
        let (bundle, remote) = text.split_once("\n---\n").context("no bundle before the Remote")?;
        let mut own = vec![policy(&self.east, &self.west, &OUT, &HOME).to_string(), remote.to_owned()];
        own.extend(self.east_syncs().iter().map(Value::to_string));
        Ok((bundle.to_owned(), own))
    }

    pub fn all_ready(&self) -> Result<()> {
        self.sides().into_iter().try_for_each(Side::all_ready)
    }

    /// Both have the same, entity by entity. What was just written may be on its way for a moment.
    pub fn same(&self) -> Result<()> {
        for q in QUERIES {
            until(&format!("both sides have the same: {q}"), PATIENCE, || {
                let (east, west) = (self.east.rows(q)?, self.west.rows(q)?);
                ensure!(!east.is_empty(), "there is nothing to compare");
                ensure!(east == west, "{}", difference(&east, &west));
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// All is declared and ready, and data flows both ways.
    pub fn is_whole(&self) -> Result<()> {
        self.all_ready()?;
        let (a, i) = (self.write_east()?, self.write_west()?);
        self.arrives_west(&a)?;
        self.arrives_east(&i)
    }

    // ---------------------------------------------------------------- probes

    /// A new airport in the east.
    pub fn write_east(&self) -> Result<Written> {
        let n = self.written.fetch_add(1, Ordering::Relaxed);
        let iata = probe_code(n);
        self.east.execute(&format!(
            r#"SPAWN Airport {{iata = "{iata}", name = "probe", country = "USA", latitude = 1.5, longitude = 2.5}}"#
        ))?;
        Ok(written(AIRPORTS, &self.east, format!(r#"MATCH a: Airport WHERE a.iata = "{iata}" RETURN a.iata"#)))
    }

    /// A new inspection in the west.
    pub fn write_west(&self) -> Result<Written> {
        let n = self.written.fetch_add(1, Ordering::Relaxed);
        let finding = format!("probe {n:02}");
        self.west.execute(&format!(r#"SPAWN Inspection {{airport = "CA0", finding = "{finding}"}}"#))?;
        let query = format!(r#"MATCH i: Inspection WHERE i.finding = "{finding}" RETURN i.finding"#);
        Ok(written("inspections", &self.west, query))
    }

    pub fn arrives_west(&self, w: &Written) -> Result<()> {
        self.west.wait_for_rows("what the east wrote is there", &w.query, |rows| rows.len() == 1)
    }

    pub fn arrives_east(&self, w: &Written) -> Result<()> {
        self.east.wait_for_rows("what the west wrote is there", &w.query, |rows| rows.len() == 1)
    }

    /// A Sync that is declared now: an operator leads that knows what this side's agent says.
    pub fn takes_effect(&self, s: &Side) -> Result<()> {
        let name = "takes-effect";
        // Not that of another Sync, which would be the same flow.
        let pattern = if s.kernel == EAST {
            r#"s: State WHERE s.code = "NY""#
        } else {
            r#"i: Inspection WHERE i.airport = "SEA""#
        };
        s.cluster.apply(&sync(s, name, &json!({"match": pattern})).to_string())?;
        let ready = s.becomes_ready("sync", name).map(drop);
        s.cluster.kubectl(&["delete", "sync", name, "-n", &s.namespace, "--ignore-not-found"])?;
        ready
    }

    /// Something new in the east is in the west.
    pub fn flows_west(&self) -> Result<()> {
        self.arrives_west(&self.write_east()?)
    }

    /// And the other way.
    pub fn flows_east(&self) -> Result<()> {
        self.arrives_east(&self.write_west()?)
    }
}

fn written(sync: &str, side: &Side, query: String) -> Written {
    Written { query, sync: format!("{}/{sync}", side.namespace), at_ms: 0 }
}

impl Written {
    /// Remembers when it was durable, by the clock of who watches its Sync.
    pub fn seen_by(mut self, watch: &Watch) -> Self {
        self.at_ms = watch.now_ms();
        self
    }

    pub fn has_arrived(&self, watch: &Watch) -> Probe {
        Probe::arrived(&self.sync, self.at_ms, watch.now_ms())
    }

    pub fn is_missing(&self, watch: &Watch) -> Probe {
        Probe::missing(&self.sync, self.at_ms, watch.now_ms())
    }

    /// When it was durable; see [`Written::seen_by`].
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// It was still missing at that moment, and statuses may be so much behind the facts.
    pub fn was_missing(&self, at_ms: u64, grace_ms: u64) -> Probe {
        Probe { grace_ms, ..Probe::missing(&self.sync, self.at_ms, at_ms) }
    }

    pub fn is_at(&self, side: &Side) -> Result<bool> {
        Ok(!side.rows(&self.query)?.is_empty())
    }
}

/// P and three digits of base 36, as codes are short; no number of the load begins like that.
fn probe_code(n: u32) -> String {
    let digit = |d: u32| char::from_digit(d % 36, 36).unwrap_or('0').to_ascii_uppercase();
    ["P".to_owned(), [n / 36 / 36, n / 36, n].map(digit).iter().collect()].concat()
}

fn airport(k: usize, state: &str, n: u32) -> String {
    format!(
        r#"MATCH s{k}: State WHERE s{k}.code = "{state}"
SPAWN a{k}: Airport {{iata = "{state}{n}", name = "No {n}", country = "USA", latitude = {k}.25, longitude = -100.5}}
LINK located_in(a{k}, s{k})"#
    )
}

/// What pod security "restricted" asks of a pod.
pub fn nobody() -> Value {
    json!({"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}})
}

pub fn claim(s: &Side) -> String {
    format!("{}-data", s.kernel)
}

pub fn claim_object(s: &Side) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim(s), "namespace": s.namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
    })
}

fn peers_service(s: &Side) -> String {
    format!("{}-peers", s.kernel)
}

pub fn rule(name: &str, operation: &str, types: &[&str]) -> Value {
    json!({"name": name, "action": "Allow", "operations": [operation], "types": types})
}

fn policy(here: &Side, there: &Side, exports: &[&str], imports: &[&str]) -> Value {
    json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "FederationPolicy",
        "metadata": {"name": POLICY, "namespace": here.namespace},
        "spec": {
            "remoteSelector": {}, "mode": "ExplicitBridging",
            "allowedKernels": [{"trustDomain": there.cluster.trust_domain}],
            "rules": [rule("ours", "Export", exports), rule("theirs", "Import", imports)],
        },
    })
}

/// Commits the roots that the other side exports now; the rest of its file is committed already.
pub fn commit_roots(here: &Side, there: &Side) -> Result<()> {
    let exported = exported(here, there)?;
    let (bundle, _) = exported.split_once("\n---\n").context("the export has no two parts")?;
    here.cluster.apply(bundle)
}

/// What the other side's people would send: `mew trust export` there.
fn exported(here: &Side, there: &Side) -> Result<String> {
    let service = there.object("service", &peers_service(there))?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("the Service has no nodePort")?;
    let address = format!("{}:{port}", here.cluster.way_to(&there.cluster)?);
    let args = ["trust", "export", "--kernel", there.kernel, "--namespace", &there.namespace, "--address", &address];
    let (text, said) = there.cluster.mew(&args)?;
    ensure!(said.contains("fingerprint"), "no fingerprint to confirm: {said}");
    ensure!(!text.contains("PRIVATE KEY"), "a key is exported");
    Ok(text)
}

/// What this side commits of it: the bundle as it is, and the stub with its own kernel and what it grants.
fn remote(kernel: &str, exported: &str, exports: &[&str], imports: &[&str], opens: bool) -> Result<String> {
    let (bundle, rest) = exported.split_once("\n---\n").context("the export has no two parts")?;
    let stub = rest.lines().filter_map(|l| l.strip_prefix("# ")).skip_while(|l| !l.starts_with("apiVersion:"));
    let stub = stub.collect::<Vec<_>>().join("\n").replace("<your kernel>", kernel);
    ensure!(stub.contains("kind: Remote") && stub.contains(kernel), "the export has no stub of a Remote: {rest}");
    let list = |types: &[&str]| types.iter().map(|t| format!("{{type: {t}}}")).collect::<Vec<_>>().join(", ");
    Ok(format!(
        "{bundle}\n---\n{stub}
  connectionMode: {mode}
  permissions: {{canReceive: [{}], canSend: [{}]}}
  timeouts: {{connect: 5s}}
  retry: {{initialInterval: 250ms, maxInterval: 2s}}
  keepalive: {{interval: 2s, timeout: 5s, failureThreshold: 2}}
",
        list(exports),
        list(imports),
        mode = if opens { "Dial" } else { "Accept" },
    ))
}

fn sync(here: &Side, name: &str, more: &Value) -> Value {
    let mut spec = json!({"remoteRef": {"name": here.peer}, "direction": "Push", "maxLag": "10s"});
    for (k, v) in more.as_object().into_iter().flatten() {
        spec[k] = v.clone();
    }
    json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "Sync",
        "metadata": {"name": name, "namespace": here.namespace}, "spec": spec,
    })
}

/// The first few rows that only one side has.
fn difference(east: &[Vec<String>], west: &[Vec<String>]) -> String {
    let only = |a: &[Vec<String>], b: &[Vec<String>]| {
        a.iter().filter(|r| !b.contains(r)).take(5).map(|r| r.join(" ")).collect::<Vec<_>>().join(", ")
    };
    format!(
        "{} rows in the east, {} in the west; only in the east: {}; only in the west: {}",
        east.len(),
        west.len(),
        only(east, west),
        only(west, east)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORTED: &str = "# Trust bundle of west.example: public certificates only.
apiVersion: v1
kind: ConfigMap
metadata:
  name: west-example-roots
data:
  ca.crt: |
    -----BEGIN CERTIFICATE-----
    -----END CERTIFICATE-----
---
# A stub: choose your own kernel.
# apiVersion: federation.mew.dev/v1alpha1
# kind: Remote
# metadata: {name: us-west, namespace: flights}
# spec:
#   kernelRef: {name: <your kernel>}
#   peer:
#     trustDomain: west.example";

    #[test]
    fn codes_of_probes_differ_and_are_short() {
        assert_eq!([0, 35, 36, 46_655].map(probe_code), ["P000", "P00Z", "P010", "PZZZ"]);
    }

    #[test]
    fn a_stub_becomes_a_remote_beside_its_bundle() {
        let text = remote(EAST, EXPORTED, &["Airport"], &["Inspection"], true).unwrap();
        let (bundle, remote) = text.split_once("\n---\n").unwrap();
        assert!(bundle.ends_with("-----END CERTIFICATE-----"), "{bundle}");
        let lines: Vec<&str> = remote.lines().collect();
        assert_eq!(lines[0], "apiVersion: federation.mew.dev/v1alpha1");
        assert_eq!(lines[4], "  kernelRef: {name: us-east}");
        assert_eq!(lines[6], "    trustDomain: west.example");
        assert_eq!(lines[7], "  connectionMode: Dial");
        assert_eq!(lines[8], "  permissions: {canReceive: [{type: Airport}], canSend: [{type: Inspection}]}");
        assert!(super::remote(EAST, "apiVersion: v1", &[], &[], true).is_err());
    }
}
