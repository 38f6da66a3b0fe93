//! The CA of another trust domain, at a real API server: an operator that finds it signs nothing, changes nothing and leads
//! nobody, and says what is wrong.

use anyhow::{Result, ensure};
use mew_tests::cluster::{Cluster, PATIENCE, SYSTEM};
use mew_tests::http;
use mew_tests::ports::free_port;
use mew_tests::process::{Process, mew};
use mew_tests::wait::until;
use serde_json::Value;

/// The CA, and what the cluster is told of it.
fn kept(c: &Cluster) -> Result<Vec<Value>> {
    let mut out = Vec::new();
    for (kind, name) in [("secret", "mew-ca"), ("configmap", "mew-roots")] {
        let mut o = c.api.get_json(kind, SYSTEM, name)?;
        out.extend([o["data"].take(), o["metadata"]["annotations"].take()]);
    }
    Ok(out)
}

#[test]
fn an_operator_of_another_trust_domain_does_not_take_it() -> Result<()> {
    let mut c = Cluster::start("ca-domain", "here.example")?;
    let before = kept(&c)?;
    // Nobody is in the way of the other one.
    c.operators[0].stop();
    let (kubeconfig, health) = (c.api.kubeconfig().display().to_string(), free_port()?);
    let (listen, probes) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{health}"));
    let server = ["operator", "--kubeconfig", &kubeconfig, "--namespace", SYSTEM, "--identity", "other"];
    let own = ["--trust-domain", "there.example", "--listen", &listen, "--health", &probes];
    let mut other = Process::start("operator-other", mew(server.into_iter().chain(own))?, c.api.dir())?;
    let why = until("the other operator says what is wrong", PATIENCE, || {
        other.check()?;
        let Ok((status, text)) = http::get(health, "/ready") else { return Ok(None) };
        ensure!(status == 503, "it calls itself ready: {text}");
        Ok(text.contains("mew-ca").then_some(text))
    })?;
    for word in ["is of the trust domain here.example, not there.example", "--trust-domain here.example", SYSTEM] {
        ensure!(why.contains(word), "{word:?} is not in {why:?}");
    }
    until("its log says so, too", PATIENCE, || Ok(other.said().contains(why.trim()).then_some(())))?;
    ensure!(kept(&c)? == before, "it changed what is kept");
    other.stop();
    // Whose CA it is goes on with it.
    c.operators[0].start()?;
    ensure!(kept(&c)? == before, "the CA is another one");
    Ok(())
}
