//! How long people wait for us: until data is in the other cluster, and until their pods have started. Printed and never
//! judged, as it is the machine's time too.

use super::{Case, mending};
use crate::cluster::{Cluster, container_status};
use crate::install;
use crate::pair::{Dials, Pair};
use crate::side::APP;
use crate::steps::{say, step};
use crate::wait::{PATIENCE, until};
use crate::workload::{Workload, sidecar, started_in_order};
use crate::world::{FLIGHTS, World, at_both};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub const CASE: Case = Case {
    name: "start-times",
    core: false,
    proves: "from nothing to data in the other cluster; pods with an agent and without: all start, and the times are told",
    run,
};

const NAMESPACE: &str = "start-times";
/// Of each kind. Odd, so that the median is one of them.
const PODS: usize = 5;

fn run(w: &mut World) -> Result<()> {
    w.forget_flights();
    let clean = |c: &Cluster| install::take_away(c, &[NAMESPACE, FLIGHTS]);
    step("take away what is installed", || at_both(w, clean))?;
    let began = Instant::now();
    w.install()?;
    let charts = began.elapsed();
    let w = &*w;
    mending(
        || {
            first_entity(w, began, charts)?;
            added_to_pods(&w.east, &w.prepared.app.name)
        },
        || at_both(w, |c| c.delete_namespace(NAMESPACE)).map(drop),
    )
}

// ----------------------------------------------------- until the first entity

/// Without a pause between the steps, and with the images in the nodes already. A look takes a `kubectl exec`, so the
/// entity was there some tenths of a second earlier.
fn first_entity(w: &World, began: Instant, charts: Duration) -> Result<()> {
    let p = Pair::declared(w, NAMESPACE, Dials::East)?;
    let declared = began.elapsed();
    let airports = "MATCH a: Airport RETURN a.iata";
    p.west.wait_for_rows("an airport of the east is there", airports, |rows| !rows.is_empty())?;
    let arrived = began.elapsed();
    say(&format!(
        "from helm install to the first entity in the other cluster: {:.1} s (charts in both clusters {:.1} s, workloads \
         with data, trust and declarations {:.1} s, then {:.1} s)",
        arrived.as_secs_f32(),
        charts.as_secs_f32(),
        (declared - charts).as_secs_f32(),
        (arrived - declared).as_secs_f32()
    ));
    p.all_ready()?;
    p.same()
}

// ------------------------------------------------------------ what pods wait

/// In milliseconds since the pod was asked for.
struct Times {
    /// The application's first statement.
    runs: i64,
    /// What a Service or a rollout waits for.
    ready: i64,
}

/// In turn, so that what else the machine does befalls both kinds; one at a time, so that none waits for another one.
fn added_to_pods(c: &Cluster, app: &str) -> Result<()> {
    let (mut plain, mut injected) = (Vec::new(), Vec::new());
    for n in 1..=PODS {
        plain.push(times(c, &format!("plain-{n}"), app, false)?);
        injected.push(times(c, &format!("with-agent-{n}"), app, true)?);
    }
    tell("pod start, until the application runs", &plain, &injected, |t| t.runs)?;
    tell("pod start, until the pod is ready", &plain, &injected, |t| t.ready)
}

fn times(c: &Cluster, name: &str, app: &str, with_agent: bool) -> Result<Times> {
    let manifest = pod(name, app, with_agent).to_string();
    let (object, limit) = (format!("pod/{name}"), format!("--timeout={}s", PATIENCE.as_secs()));
    // The webhook is part of what an agent costs, so the time begins before it is asked.
    let asked = now_ms()?;
    c.kubectl_with(&["create", "-f", "-"], &manifest)?;
    c.kubectl(&["wait", "--for=condition=Ready", &object, "-n", NAMESPACE, &limit])?;
    let ready = now_ms()? - asked;
    let runs = began_ms(c, name)? - asked;
    is_as_asked(&c.get("pod", NAMESPACE, name)?, with_agent).with_context(|| name.to_owned())?;
    c.kubectl(&["delete", &object, "-n", NAMESPACE, "--timeout=120s"])?;
    Ok(Times { runs, ready })
}

/// The same pod in all but what asks for an agent. Each has a kernel of its own: none waits for another one's claim.
fn pod(name: &str, app: &str, with_agent: bool) -> Value {
    let mut pod = Workload { namespace: NAMESPACE, name, kernel: name, storage: "ephemeral", app }.pod();
    pod["spec"]["containers"][0]["env"] = json!([{"name": "WITHOUT_KERNEL", "value": "true"}]);
    if !with_agent {
        pod["metadata"]["labels"] = json!({"app": name});
        pod["metadata"]["annotations"] = json!({});
    }
    pod
}

/// As the application says it: Kubernetes tells times in whole seconds. Nodes have this machine's clock; one that
/// differs, as in a virtual machine, does so for both kinds of pods.
fn began_ms(c: &Cluster, name: &str) -> Result<i64> {
    until(&format!("{name} says when it began"), PATIENCE, || {
        let said = c.kubectl(&["logs", name, "-n", NAMESPACE, "-c", APP])?;
        Ok(said.lines().find_map(|l| l.strip_prefix("began ")?.parse().ok()))
    })
}

fn is_as_asked(pod: &Value, with_agent: bool) -> Result<()> {
    if with_agent {
        let agent = sidecar(pod).context("it has no agent")?;
        ensure!(agent["restartPolicy"] == "Always", "the agent is no sidecar: {agent}");
        return started_in_order(pod);
    }
    ensure!(sidecar(pod).is_none(), "it has an agent without asking for one");
    let app = container_status(pod, APP).context("no status of the application")?;
    ensure!(app["restartCount"] == 0, "the application was restarted: {app}");
    Ok(())
}

fn tell(what: &str, plain: &[Times], injected: &[Times], time: impl Fn(&Times) -> i64) -> Result<()> {
    let (plain, injected): (Vec<i64>, Vec<i64>) =
        (plain.iter().map(&time).collect(), injected.iter().map(&time).collect());
    let (without, with) = (median(&plain)?, median(&injected)?);
    say(&format!(
        "{what}: {without} ms without an agent, {with} ms with one, {} ms more (medians of {plain:?} and {injected:?})",
        with - without
    ));
    Ok(())
}

fn median(times: &[i64]) -> Result<i64> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().context("no times")
}

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_pod_does_not_move_the_median() {
        assert_eq!(median(&[900, 1100, 60_000, 1000, 950]).unwrap(), 1000);
        median(&[]).unwrap_err();
    }

    #[test]
    fn pods_differ_in_nothing_but_what_asks_for_an_agent() {
        let (mut plain, mut asks) = (pod("x", "image", false), pod("x", "image", true));
        assert_eq!(plain["metadata"]["labels"].get("federation.mew.dev/kernel"), None);
        assert_eq!(asks["metadata"]["labels"]["federation.mew.dev/kernel"], "x");
        assert_eq!(asks["metadata"]["annotations"]["federation.mew.dev/storage"], "ephemeral");
        for part in ["labels", "annotations"] {
            plain["metadata"][part] = Value::Null;
            asks["metadata"][part] = Value::Null;
        }
        assert_eq!(plain, asks);
    }
}
