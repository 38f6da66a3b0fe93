//! Ten kernels on their own: a hub in the east, and nine spokes in both clusters that dial it. Each spoke reports to the
//! hub and takes from it what it may have; none knows of another.

use crate::cluster::{Cluster, is_ready};
use crate::install::{self, restricted_namespace};
use crate::kernel::Kernel;
use crate::pair::rule;
use crate::steps::step;
use crate::wait::{PATIENCE, until};
use crate::workload;
use crate::world::{World, at_both};
use anyhow::{Context, Result};
use mew_tests::dirs::root;
use serde_json::{Value, json};

/// Of the hub: namespace, release and kernel.
pub const HUB: &str = "hub";
/// Namespace of the spokes, in both clusters.
pub const SPOKES: &str = "spokes";
/// So many in the east; the others are in the west.
const NEAR: usize = 4;
const ALL: usize = 9;
/// The hub's policies: about all spokes, and about those that may see more.
pub const POLICY: &str = "wheel";
pub const AUDIT: &str = "audit";
/// The spoke that may see more.
pub const AUDITOR: usize = 6;
const FEDERATION: u16 = 9001;
/// Where the bundle of the other trust domain is.
const BUNDLE: &str = "other-roots";

#[derive(Clone)]
pub struct Spoke {
    pub cluster: Cluster,
    pub number: usize,
    /// Of its release, its kernel, and the hub's Remote for it.
    pub name: String,
}

impl Spoke {
    pub fn kernel_id(&self) -> String {
        format!("{SPOKES}.{}", self.name)
    }

    /// Its Remote for the hub.
    pub fn remote(&self) -> String {
        format!("{HUB}-of-{}", self.name)
    }

    /// What it sends: its reports.
    pub fn out(&self) -> String {
        format!("{}-reports", self.name)
    }

    /// What it takes: airports.
    pub fn home(&self) -> String {
        format!("{}-airports", self.name)
    }

    /// What only the auditor may take, and others may ask for: the reports of the hub.
    pub fn audit(&self) -> String {
        format!("{}-audit", self.name)
    }

    pub fn syncs(&self) -> Vec<String> {
        let mut all = vec![self.out(), self.home()];
        if self.number == AUDITOR {
            all.push(self.audit());
        }
        all
    }

    pub fn execute(&self, statement: &str) -> Result<()> {
        kernel(&self.cluster, SPOKES, &format!("{}-0", self.name)).execute(statement)
    }

    pub fn rows(&self, query: &str) -> Result<Vec<Vec<String>>> {
        kernel(&self.cluster, SPOKES, &format!("{}-0", self.name)).rows(query)
    }

    pub fn sync(&self, name: &str, direction: &str, pattern: &str) -> Value {
        json!({
            "apiVersion": "federation.mew.dev/v1alpha1", "kind": "Sync",
            "metadata": {"name": name, "namespace": SPOKES},
            "spec": {"remoteRef": {"name": self.remote()}, "direction": direction, "match": pattern, "maxLag": "10s"},
        })
    }
}

fn kernel<'a>(cluster: &'a Cluster, namespace: &'a str, pod: &'a str) -> Kernel<'a> {
    Kernel { cluster, namespace, pod }
}

pub struct Wheel {
    pub east: Cluster,
    pub spokes: Vec<Spoke>,
}

impl Wheel {
    pub fn start(w: &World) -> Result<Wheel> {
        let spoke = |number: usize| Spoke {
            cluster: if number <= NEAR { w.east.clone() } else { w.west.clone() },
            number,
            name: format!("spoke-{number}"),
        };
        let wheel = Wheel { east: w.east.clone(), spokes: (1..=ALL).map(spoke).collect() };
        step("wheel: ten kernels", || at_both(w, |c| wheel.install(w, c)))?;
        step("wheel: data", || wheel.load())?;
        step("wheel: declarations", || wheel.declare(w))?;
        step("wheel: all is ready", || wheel.all_ready())?;
        Ok(wheel)
    }

    pub fn hub(&self) -> Kernel<'_> {
        kernel(&self.east, HUB, "hub-0")
    }

    fn of<'a>(&'a self, c: &'a Cluster) -> impl Iterator<Item = &'a Spoke> {
        self.spokes.iter().filter(move |s| s.cluster.name == c.name)
    }

    fn has_hub(&self, c: &Cluster) -> bool {
        c.name == self.east.name
    }

    fn namespaces(&self, c: &Cluster) -> Vec<&'static str> {
        if self.has_hub(c) { vec![SPOKES, HUB] } else { vec![SPOKES] }
    }

    fn install(&self, w: &World, c: &Cluster) -> Result<()> {
        let (ontology, namespaces) = (workload::ontology()?, self.namespaces(c));
        let mut releases: Vec<(&str, &str)> = self.of(c).map(|s| (SPOKES, s.name.as_str())).collect();
        if self.has_hub(c) {
            releases.push((HUB, HUB));
        }
        // Of a run before this one.
        delete(c)?;
        for n in &namespaces {
            c.apply(&restricted_namespace(n).to_string())?;
        }
        for (namespace, name) in &releases {
            release(w, c, namespace, name, &ontology)?;
        }
        until(&format!("{}: all kernels are ready", c.name), PATIENCE, || {
            let mut ready = 0;
            for n in &namespaces {
                ready += c.list("pods", n, "")?.iter().filter(|p| is_ready(p)).count();
            }
            Ok((ready == releases.len()).then_some(()))
        })
    }

    fn load(&self) -> Result<()> {
        let airport = |iata: &str| {
            format!(
                r#"SPAWN Airport {{iata = "{iata}", name = "of the hub", country = "USA", latitude = 1.5, longitude = 2.5}}"#
            )
        };
        let mut all: Vec<String> = ["HU1", "HU2", "HU3"].into_iter().map(airport).collect();
        all.push(report(HUB, "of the hub"));
        self.hub().execute(&all.join(";\n"))?;
        self.spokes.iter().try_for_each(|s| s.execute(&report(&s.name, "before the copy")))
    }

    // ---------------------------------------------------------- declarations

    fn declare(&self, w: &World) -> Result<()> {
        for (here, there, namespace) in [(&w.east, &w.west, HUB), (&w.west, &w.east, SPOKES)] {
            here.apply(&bundle(namespace, &install::roots(there)?).to_string())?;
        }
        self.east.apply(&list(self.of_hub(&w.west)).to_string())?;
        let address = self.east.get("service", HUB, &format!("{HUB}-federation"))?;
        let port = address["spec"]["ports"][0]["nodePort"].as_u64().context("the hub's Service has no nodePort")?;
        let near = format!("{HUB}-federation.{HUB}.svc:{FEDERATION}");
        let far = format!("{}:{port}", w.west.way_to(&w.east)?);
        for (c, address) in [(&w.east, &near), (&w.west, &far)] {
            let mut items = vec![of_spokes(&w.east)];
            for s in self.of(c) {
                items.push(self.remote_of(s, address));
                items.extend(declared(s));
            }
            c.apply(&list(items).to_string())?;
        }
        Ok(())
    }

    /// What the hub's people declare. `west` is where foreign spokes are.
    fn of_hub(&self, west: &Cluster) -> Vec<Value> {
        let foreign = json!([{"trustDomain": west.trust_domain}]);
        let policy = |name: &str, selector: Value, rules: Vec<Value>| {
            json!({
                "apiVersion": "federation.mew.dev/v1alpha1", "kind": "FederationPolicy",
                "metadata": {"name": name, "namespace": HUB},
                "spec": {
                    "remoteSelector": selector, "mode": "ExplicitBridging", "allowedKernels": foreign, "rules": rules,
                },
            })
        };
        let audit = json!({"matchLabels": {"clearance": AUDIT}});
        let mut all = vec![
            policy(
                POLICY,
                json!({}),
                vec![rule("airports", "Export", &["Airport"]), rule("ours", "Import", &["Inspection"])],
            ),
            policy(AUDIT, audit, vec![rule("reports", "Export", &["Inspection"])]),
        ];
        for s in &self.spokes {
            // It dials, so nobody asks where it is.
            let address = format!("{}.invalid:{FEDERATION}", s.name);
            let mut r = remote(HUB, &s.name, HUB, &address, &s.kernel_id(), "Accept");
            r["spec"]["peer"] = self.peer(&s.cluster, &self.east);
            // The reports are permitted to all of them; it is policies that keep them back.
            let out = json!([{"type": "Airport"}, {"type": "Inspection"}]);
            r["spec"]["permissions"] = json!({"canReceive": out, "canSend": [{"type": "Inspection"}]});
            if s.number == AUDITOR {
                r["metadata"]["labels"] = json!({"clearance": AUDIT});
            }
            all.push(r);
        }
        all
    }

    /// What a spoke's people declare about the hub.
    fn remote_of(&self, s: &Spoke, address: &str) -> Value {
        let mut r = remote(SPOKES, &s.remote(), &s.name, address, &format!("{HUB}.{HUB}"), "Dial");
        r["spec"]["peer"] = self.peer(&self.east, &s.cluster);
        let home = json!([{"type": "Airport"}, {"type": "Inspection"}]);
        r["spec"]["permissions"] = json!({"canReceive": [{"type": "Inspection"}], "canSend": home});
        r
    }

    /// `there` as `here` has it: the roots of the own trust domain are known.
    fn peer(&self, there: &Cluster, here: &Cluster) -> Value {
        if there.trust_domain == here.trust_domain {
            return json!({"trustDomain": there.trust_domain});
        }
        json!({"trustDomain": there.trust_domain, "trustBundleRefs": [{"kind": "ConfigMap", "name": BUNDLE}]})
    }

    // ------------------------------------------------------------- statuses

    pub fn all_ready(&self) -> Result<()> {
        for s in &self.spokes {
            self.east.becomes_ready("remote", HUB, &s.name)?;
            s.cluster.becomes_ready("remote", SPOKES, &s.remote())?;
            s.syncs().iter().try_for_each(|n| s.cluster.becomes_ready("sync", SPOKES, n).map(drop))?;
        }
        Ok(())
    }

    /// `namespace/name` of the Syncs in a cluster, as a watch has them, but for those of one spoke.
    pub fn sync_names(&self, c: &Cluster, but: Option<&Spoke>) -> Vec<String> {
        let others = self.of(c).filter(|s| but.is_none_or(|b| b.name != s.name));
        others.flat_map(Spoke::syncs).map(|n| format!("{SPOKES}/{n}")).collect()
    }
}

pub fn delete(c: &Cluster) -> Result<()> {
    let args = ["delete", "namespace", HUB, SPOKES, "--ignore-not-found", "--timeout=180s"];
    c.kubectl(&args).map(drop)
}

pub fn report(of: &str, finding: &str) -> String {
    format!(r#"SPAWN Inspection {{airport = "{of}", finding = "{finding}"}}"#)
}

fn release(w: &World, c: &Cluster, namespace: &str, name: &str, ontology: &str) -> Result<()> {
    let chart = root().join("charts/mew-kernel").display().to_string();
    let (repository, tag) = w.prepared.mew.repository_and_tag()?;
    let values = json!({
        "trustDomain": c.trust_domain,
        "ontology": ontology,
        "image": {"registry": "localhost", "repository": repository, "tag": tag},
        "storage": {"size": "64Mi"},
        // Ten of them on two workers.
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "federation": {"type": if name == HUB { "NodePort" } else { "ClusterIP" }},
    });
    let args = ["upgrade", "--install", name, &chart, "--namespace", namespace, "--values", "-"];
    c.helm(&args, &values.to_string()).map(drop)
}

fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn bundle(namespace: &str, pem: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": BUNDLE, "namespace": namespace},
        "data": {"ca.crt": pem},
    })
}

/// Without the peer and what it may do.
fn remote(namespace: &str, name: &str, kernel: &str, address: &str, peer: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "Remote",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "kernelRef": {"name": kernel}, "uri": format!("mew://{address}/{peer}"), "connectionMode": mode,
            "timeouts": {"connect": "5s"}, "retry": {"initialInterval": "250ms", "maxInterval": "2s"},
            "keepalive": {"interval": "2s", "timeout": "5s", "failureThreshold": 2},
        },
    })
}

/// The policy of the spokes' namespaces: towards the hub, and generous.
fn of_spokes(east: &Cluster) -> Value {
    json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "FederationPolicy",
        "metadata": {"name": POLICY, "namespace": SPOKES},
        "spec": {
            "remoteSelector": {}, "mode": "ExplicitBridging", "allowedKernels": [{"trustDomain": east.trust_domain}],
            "rules": [rule("ours", "Export", &["Inspection"]), rule("theirs", "Import", &["Airport", "Inspection"])],
        },
    })
}

fn declared(s: &Spoke) -> Vec<Value> {
    let mut all = vec![s.sync(&s.out(), "Push", "i: Inspection"), s.sync(&s.home(), "Pull", "a: Airport")];
    if s.number == AUDITOR {
        all.push(s.sync(&s.audit(), "Pull", "i: Inspection"));
    }
    all
}
