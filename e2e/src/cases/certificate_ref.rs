use super::{Case, mending};
use crate::cluster::name_of;
use crate::pair::{Dials, Pair};
use crate::side::{APP, Side};
use crate::steps::say;
use crate::world::{World, at_both};
use anyhow::{Context, Result, ensure};
use mew_tests::issuer::{Issuer, Tls};
use serde_json::{Value, json};
use std::time::Duration;

pub const CASE: Case = Case {
    name: "certificate-ref",
    core: false,
    proves: "Secrets as cert-manager makes them take the place of the operator's certificates and are rotated, and no \
             Sync says a word; one that the pod does not name is never shipped",
    run,
};

const NAMESPACE: &str = "certified";
const SECRET: &str = "peers";
/// In the same namespace, and in no annotation of a pod.
const OTHER: &str = "not-for-the-agent";
const DAY: Duration = Duration::from_secs(24 * 3600);
const ROTATIONS: u32 = 2;

fn run(w: &mut World) -> Result<()> {
    w.install()?;
    mending(
        || {
            let p = Pair::start(w, NAMESPACE, Dials::East)?;
            certified(w, &p)
        },
        || at_both(w, |c| c.delete_namespace(NAMESPACE)).map(drop),
    )
}

fn certified(w: &World, p: &Pair) -> Result<()> {
    let issuers = (Issuer::new("east")?, Issuer::new("west")?);
    for (side, other) in [(&p.east, &issuers.1), (&p.west, &issuers.0)] {
        names_the_secret(side)?;
        believes(side, other)?;
    }
    p.all_ready()?;
    for s in p.sides() {
        s.patch("remote", s.peer, &json!({"spec": {"auth": {"certificateRef": {"name": SECRET}}}}))?;
        tells(s, "CertificatePending", &[SECRET])?;
    }
    say("certificates in place of the operators'");
    renewed(p, &issuers, DAY)?;
    p.all_ready()?;

    // Now everything is as it was declared, and only Secrets change.
    let (east, west) = (w.east_said()?, w.west_said()?);
    let since = (east.now_ms(), west.now_ms());
    for n in 1..=ROTATIONS {
        say(&format!("rotation {n} of {ROTATIONS}"));
        renewed(p, &issuers, DAY + n * Duration::from_secs(3600))?;
        let (a, i) = (p.write_east()?.seen_by(east), p.write_west()?.seen_by(west));
        p.arrives_west(&a)?;
        p.arrives_east(&i)?;
        east.verdict(&[a.has_arrived(east)])?;
        west.verdict(&[i.has_arrived(west)])?;
    }

    // A bad one behind a good one is told, and changes nothing.
    let somebody = format!("spiffe://{}/kernel/{NAMESPACE}.somebody", p.east.cluster.trust_domain);
    give(&p.east, SECRET, &issuers.0.issue(&somebody, DAY)?)?;
    tells(&p.east, "IdentityMismatch", &[&somebody, &identity(&p.east)])?;
    give(&p.east, SECRET, &issuers.0.issue(&identity(&p.east), DAY)?)?;
    p.same()?;
    east.steady(&p.east.sync_names(), since.0)?;
    west.steady(&p.west.sync_names(), since.1)?;
    only_what_the_pod_names(&p.east, &issuers.0)
}

/// Both sides get certificates that end at another time than before, and see each other's.
fn renewed(p: &Pair, issuers: &(Issuer, Issuer), life: Duration) -> Result<()> {
    let before = [peer_end(&p.east.object("remote", p.east.peer)?), peer_end(&p.west.object("remote", p.west.peer)?)];
    give(&p.east, SECRET, &issuers.0.issue(&identity(&p.east), life)?)?;
    give(&p.west, SECRET, &issuers.1.issue(&identity(&p.west), life)?)?;
    for ((side, other), before) in [(&p.east, &p.west), (&p.west, &p.east)].into_iter().zip(before) {
        let seen = side.wait("remote", side.peer, "sees the new certificate", |o| peer_end(o) != before)?;
        let own = other.wait("remote", other.peer, "tells of its own", |o| own_end(o) == peer_end(&seen))?;
        ensure!(own_end(&own).is_some(), "no end is known: {own}");
    }
    Ok(())
}

fn identity(s: &Side) -> String {
    format!("spiffe://{}/kernel/{}.{}", s.cluster.trust_domain, s.namespace, s.kernel)
}

fn end(remote: &Value, which: &str) -> Option<String> {
    remote["status"]["certificates"][which].as_str().map(str::to_owned)
}

fn own_end(remote: &Value) -> Option<String> {
    end(remote, "notAfter")
}

fn peer_end(remote: &Value) -> Option<String> {
    end(remote, "peerNotAfter")
}

/// What a team adds to its pods. The Secret does not exist yet, and the application starts all the same.
fn names_the_secret(s: &Side) -> Result<()> {
    let annotations = json!({"federation.mew.dev/certificates": SECRET});
    s.patch("deployment", s.kernel, &json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}))?;
    s.rolled_out()
}

/// The roots of the other side's issuer, beside those of its operator.
fn believes(s: &Side, issuer: &Issuer) -> Result<()> {
    let remote = s.object("remote", s.peer)?;
    let bundle = remote["spec"]["peer"]["trustBundleRefs"][0]["name"].as_str().context("the Remote names no bundle")?;
    let map = s.object("configmap", bundle)?;
    let (key, old) = map["data"].as_object().and_then(|d| d.iter().next()).context("the bundle is empty")?;
    let pem = format!("{}\n{}", old.as_str().unwrap_or_default().trim(), issuer.root_pem);
    s.patch("configmap", bundle, &json!({"data": {(key.as_str()): pem}}))
}

/// Puts the Secret, as its issuer does, and has the kubelet look at it at once rather than within a minute or two.
fn give(s: &Side, name: &str, tls: &Tls) -> Result<()> {
    s.cluster.apply(&tls.secret(&s.namespace, name).to_string())?;
    let pod = name_of(&s.pod()?);
    let looked = format!("example.com/changed={}", mark(&tls.chain));
    s.cluster.kubectl(&["annotate", "pod", &pod, "-n", &s.namespace, "--overwrite", &looked]).map(drop)
}

/// Another value for another certificate.
fn mark(text: &str) -> String {
    text.bytes().fold(0u32, |sum, b| sum.rotate_left(5) ^ u32::from(b)).to_string()
}

/// What will go wrong with the certificate, while all is well.
fn tells(s: &Side, reason: &str, parts: &[&str]) -> Result<()> {
    s.wait("remote", s.peer, &format!("tells of {reason}"), |o| {
        let e = &o["status"]["lastError"];
        let message = e["message"].as_str().unwrap_or_default();
        e["reason"] == reason && parts.iter().all(|p| message.contains(p))
    })
    .map(drop)
}

/// Whoever may write Remotes may not have Secrets mounted by that.
fn only_what_the_pod_names(s: &Side, issuer: &Issuer) -> Result<()> {
    give(s, OTHER, &issuer.issue(&identity(s), DAY)?)?;
    s.patch("remote", s.peer, &json!({"spec": {"auth": {"certificateRef": {"name": OTHER}}}}))?;
    tells(s, "CertificatePending", &[OTHER, "federation.mew.dev/certificates"])?;
    let pod = s.pod()?;
    ensure!(!pod["spec"].to_string().contains(OTHER), "the pod has it: {}", pod["spec"]);
    let app = pod["spec"]["containers"].as_array().and_then(|all| all.iter().find(|c| c["name"] == APP));
    let mounts = app.context("no application")?["volumeMounts"].to_string();
    ensure!(!mounts.contains("certificates"), "the application has the agent's certificate: {mounts}");
    s.patch("remote", s.peer, &json!({"spec": {"auth": {"certificateRef": {"name": SECRET}}}}))
}
