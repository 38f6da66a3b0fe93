//! What the webhook lives on mends itself: the caBundle, the Secret, an authority that grows old.

use crate::{CONFIGURATION, injects_again};
use anyhow::{Result, anyhow, ensure};
use mew_tests::cluster::{Cluster, PATIENCE, SYSTEM};
use mew_tests::wait::until;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECRET: &str = "mew-webhook-ca";
const DAY: u64 = 24 * 3600;

pub fn patch_configuration(cluster: &Cluster, patch: &Value) -> Result<()> {
    let args = ["patch", "mutatingwebhookconfiguration", CONFIGURATION, "--type=json", "-p", &patch.to_string()];
    cluster.api.kubectl(&args).map(|_| ())
}

fn bundle(cluster: &Cluster) -> Result<String> {
    let c = cluster.api.get_json("mutatingwebhookconfiguration", "", CONFIGURATION)?;
    Ok(decoded(c["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap_or_default()))
}

/// A key of the Secret.
fn stored(cluster: &Cluster, key: &str) -> Result<String> {
    let secret = cluster.api.find_json("secret", SYSTEM, SECRET)?.unwrap_or_default();
    Ok(decoded(secret["data"][key].as_str().unwrap_or_default()))
}

pub fn a_bundle_that_is_taken_away_comes_back(cluster: &Cluster) -> Result<()> {
    let before = bundle(cluster)?;
    ensure!(before.trim() == stored(cluster, "tls.crt")?.trim() && !before.is_empty(), "{before}");
    patch_configuration(cluster, &json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]))?;
    until("the caBundle is back", PATIENCE, || Ok((bundle(cluster)? == before).then_some(())))?;
    let c = cluster.api.get_json("mutatingwebhookconfiguration", "", CONFIGURATION)?;
    ensure!(c["webhooks"][0]["failurePolicy"] == "Fail" && c["webhooks"][0]["objectSelector"].is_object(), "{c}");
    injects_again(cluster, "pods are injected by the bundle that came back")
}

pub fn a_secret_that_is_deleted_comes_back(cluster: &Cluster) -> Result<()> {
    let before = stored(cluster, "tls.key")?;
    cluster.api.kubectl(&["delete", "secret", SECRET, "-n", SYSTEM])?;
    let back = || Ok((stored(cluster, "tls.key")? == before).then_some(()));
    until("the Secret is back with the same CA", PATIENCE, back)?;
    injects_again(cluster, "pods are injected after the Secret was deleted")
}

/// One that is valid for 30 days more, of a year.
pub fn an_old_authority_is_replaced_with_an_overlap(cluster: &Cluster) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let day = |d: Duration| date_time_ymd(1970, 1, 1) + d;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut p = CertificateParams::default();
    p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (p.not_before, p.not_after) = (day(now - Duration::from_secs(335 * DAY)), day(now + Duration::from_secs(30 * DAY)));
    let old = p.self_signed(&key)?.pem();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": SECRET, "namespace": SYSTEM},
        "stringData": {"tls.crt": old, "tls.key": key.serialize_pem()},
    });
    cluster.api.kubectl_with(&["replace", "-f", "-"], &secret.to_string())?;
    until("another CA stands beside the old one", PATIENCE, || {
        Ok((stored(cluster, "previous.crt")?.trim() == old.trim()).then_some(()))
    })?;
    let new = stored(cluster, "tls.crt")?;
    ensure!(!new.is_empty() && new.trim() != old.trim(), "{new}");
    until("both are trusted", PATIENCE, || {
        let b = bundle(cluster)?;
        Ok((b.contains(old.trim()) && b.contains(new.trim())).then_some(()))
    })?;
    injects_again(cluster, "pods are injected while one CA replaces the other")
}

/// Base64; empty if it is none.
fn decoded(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |b: u8| DIGITS.iter().position(|d| *d == b).ok_or_else(|| anyhow!("{b}"));
    let digits: Result<Vec<usize>> = text.trim_end_matches('=').bytes().map(value).collect();
    let groups = digits.unwrap_or_default();
    let bytes = groups.chunks(4).flat_map(|c| {
        let n = c.iter().enumerate().fold(0, |n, (i, d)| n | d << (18 - 6 * i));
        [(n >> 16) as u8, (n >> 8) as u8, n as u8].into_iter().take(c.len() - 1)
    });
    String::from_utf8(bytes.collect()).unwrap_or_default()
}
