use super::{Case, mending};
use crate::cluster::{Cluster, name_of};
use crate::install::{self, OPERATOR, SYSTEM};
use crate::wait::{PATIENCE, until};
use crate::world::{World, at_both};
use anyhow::{Context, Result, anyhow, bail, ensure};
use mew_tests::kstatus::condition;
use serde_json::{Value, json};
use std::thread;

pub const CASE: Case = Case {
    name: "helm-test",
    core: false,
    proves: "`helm test` passes only if data flows through the installed operator, and leaves nothing behind",
    run,
};

/// Everything that the test makes has this label.
const MADE: &str = "app.kubernetes.io/name=mew-operator-test";
const KINDS: &str = "pods,serviceaccounts,configmaps,remotes,syncs,federationpolicies";
/// Of the namespace of the operator, as somebody's who has more in it.
const POLICY: &str = "nothing-leaves";
/// The test takes a quarter of it.
const IN_VAIN: &str = "60s";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let w = &*w;
    let (east, west) = (w.east_said()?, w.west_said()?);
    let since = (east.now_ms(), west.now_ms());
    at_both(w, passes)?;
    mending(
        || fails(&w.east),
        || {
            w.east.kubectl(&["delete", "federationpolicy", POLICY, "-n", SYSTEM, "--ignore-not-found"])?;
            // Also takes away what the failed one left to be looked at.
            passes(&w.east)
        },
    )?;
    let airport = p.write_east()?.seen_by(east);
    p.arrives_west(&airport)?;
    east.verdict(&[airport.has_arrived(east)])?;
    east.steady(&p.east.sync_names(), since.0)?;
    west.steady(&p.west.sync_names(), since.1)
}

fn test(c: &Cluster, limit: &str) -> Result<String> {
    c.helm(&["test", OPERATOR, "--namespace", SYSTEM, "--timeout", limit], "")
}

fn passes(c: &Cluster) -> Result<()> {
    let said = test(c, "300s")?;
    ensure!(said.contains("Succeeded"), "{}: helm says {said}", c.name);
    // Its agents were this operator's: nobody else has signed for them.
    let mut log = String::new();
    for pod in install::pods(c)? {
        log.push_str(&c.kubectl(&["logs", &name_of(&pod), "-n", SYSTEM])?);
    }
    for kernel in ["mew-test-a", "mew-test-b"] {
        let id = format!("spiffe://{}/kernel/{SYSTEM}.{kernel}", c.trust_domain);
        ensure!(log.contains(&id), "{}: the operator knows nothing of {id}", c.name);
    }
    until(&format!("{}: nothing is left of the test", c.name), PATIENCE, || {
        let left = c.list(KINDS, SYSTEM, MADE)?;
        let names: Vec<String> = left.iter().map(|o| format!("{} {}", o["kind"], name_of(o))).collect();
        ensure!(names.is_empty(), "left: {}", names.join(", "));
        Ok(Some(()))
    })
}

/// What the operator's own policies forbid does not flow in a test either; its pod stays, to be asked.
fn fails(c: &Cluster) -> Result<()> {
    let policy = json!({
        "apiVersion": "federation.mew.dev/v1alpha1", "kind": "FederationPolicy",
        "metadata": {"name": POLICY, "namespace": SYSTEM},
        "spec": {
            "remoteSelector": {},
            "rules": [{"name": "nothing", "action": "Deny", "operations": ["Export"], "types": ["*"]}],
        },
    });
    c.apply(&policy.to_string())?;
    let tested = thread::scope(|s| {
        let tested = s.spawn(|| test(c, IN_VAIN));
        let denied = |o: &Value| {
            let message = condition(o, "Accepted").and_then(|a| a["message"].as_str()).unwrap_or_default();
            message.contains(POLICY)
        };
        let named = c.wait("sync", SYSTEM, "mew-test", "names the policy", denied, PATIENCE);
        let tested = tested.join().map_err(|_| anyhow!("helm test panicked"))?;
        named.map(|_| tested)
    })?;
    if let Ok(said) = tested {
        bail!("the test passes although nothing may flow: {said}");
    }
    let pods = c.list("pods", SYSTEM, MADE)?;
    let pod = pods.first().context("the pod of the failed test is gone")?;
    let log = c.kubectl(&["logs", &name_of(pod), "-n", SYSTEM, "-c", "agent-a"])?;
    ensure!(log.contains("kernel is open"), "the pod does not tell how far it came: {log}");
    Ok(())
}
