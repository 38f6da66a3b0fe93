use super::Case;
use crate::install::{self, REPLICAS, SYSTEM};
use crate::world::World;
use anyhow::{Context, Result, ensure};

pub const CASE: Case = Case {
    name: "install",
    core: true,
    proves: "the charts install under pod security \"restricted\"; all replicas are ready at the first try, one leads",
    run,
};

fn run(w: &mut World) -> Result<()> {
    w.install()?;
    let mut roots = Vec::new();
    for c in w.clusters() {
        let pods = install::pods(c)?;
        ensure!(pods.len() == REPLICAS as usize, "{}: {} pods of the operator", c.name, pods.len());
        for p in &pods {
            let restarts = &p["status"]["containerStatuses"][0]["restartCount"];
            ensure!(*restarts == 0, "{}: an operator was restarted: {}", c.name, p["status"]);
        }
        install::leader(c)?;
        let map = c.get("configmap", SYSTEM, "mew-roots")?;
        let domain = &map["metadata"]["annotations"]["federation.mew.dev/trust-domain"];
        ensure!(*domain == c.trust_domain, "{}: the roots are of {domain}", c.name);
        let pem = map["data"]["ca.crt"].as_str().context("mew-roots has no ca.crt")?.to_owned();
        ensure!(pem.contains("BEGIN CERTIFICATE") && !pem.contains("PRIVATE KEY"), "{}: published: {pem}", c.name);
        roots.push(pem);
        let crds = c.list("customresourcedefinitions", "", "")?;
        let ours = crds.iter().filter(|d| d["spec"]["group"] == "federation.mew.dev").count();
        ensure!(ours == 3, "{}: {ours} kinds of ours", c.name);
    }
    ensure!(roots[0] != roots[1], "both clusters have one CA");
    Ok(())
}
