use super::{Case, mending};
use crate::cluster::name_of;
use crate::install::{self, OPERATOR, REPLICAS, SYSTEM};
use crate::wait::{PATIENCE, until};
use crate::world::World;
use anyhow::{Context, Result, ensure};
use serde_json::json;

pub const CASE: Case = Case {
    name: "ca-deleted",
    core: true,
    proves: "the CA's Secret is deleted: none takes its place, operators say so, data flows; restored, all is well",
    run,
};

const SECRET: &str = "mew-ca";
const ROOTS: &str = "mew-roots";

fn run(w: &mut World) -> Result<()> {
    let p = w.flights()?;
    let c = w.east.clone();
    let secret = c.get("secret", SYSTEM, SECRET)?;
    let roots = c.get("configmap", SYSTEM, ROOTS)?["data"].take();
    // A backup, as people keep it.
    let backup = json!({
        "apiVersion": "v1", "kind": "Secret", "type": secret["type"], "data": secret["data"],
        "metadata": {"name": SECRET, "namespace": SYSTEM},
    });
    mending(
        || {
            c.kubectl(&["delete", "secret", SECRET, "-n", SYSTEM])?;
            let old: Vec<String> = install::pods(&c)?.iter().map(name_of).collect();
            for pod in &old {
                c.kubectl(&["delete", "pod", pod, "-n", SYSTEM, "--wait=false"])?;
            }
            let new = until("the operators were replaced", PATIENCE, || {
                let names: Vec<String> = install::pods(&c)?.iter().map(name_of).collect();
                let all = names.len() == REPLICAS as usize && names.iter().all(|n| !old.contains(n));
                Ok(all.then_some(names))
            })?;
            for pod in &new {
                until(&format!("{pod} says what is wrong"), PATIENCE, || {
                    let log = c.kubectl(&["logs", pod, "-n", SYSTEM])?;
                    Ok(log.contains("is gone and Remotes exist").then_some(()))
                })?;
            }
            let d = c.get("deployment", SYSTEM, OPERATOR)?;
            let ready = d["status"]["readyReplicas"].as_u64().unwrap_or(0);
            ensure!(ready == 0, "{ready} operators call themselves ready without a CA");
            p.flows_west()?;
            p.flows_east()?;
            ensure!(c.find("secret", SYSTEM, SECRET)?.is_none(), "a new CA was made");
            ensure!(c.get("configmap", SYSTEM, ROOTS)?["data"] == roots, "other roots were published");
            Ok(())
        },
        || {
            c.apply(&backup.to_string())?;
            c.rolled_out(SYSTEM, OPERATOR).context("the CA is back")
        },
    )?;
    ensure!(c.get("secret", SYSTEM, SECRET)?["data"] == secret["data"], "the CA is another one");
    p.all_ready()?;
    p.same()
}
