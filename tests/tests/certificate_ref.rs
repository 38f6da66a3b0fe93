//! Certificates of another issuer, by `auth.certificateRef`: real agents, with directories as a kubelet mounts Secrets of
//! cert-manager's shape. What is wrong with one is said, a good one is used in place of the operator's, and renewing it
//! disturbs nothing.

use anyhow::{Context, Result, ensure};
use mew_tests::dirs::scratch;
use mew_tests::issuer::{Issuer, Tls, mount};
use mew_tests::kstatus::condition;
use mew_tests::process::progress;
use mew_tests::standalone::{Side, Way, connect, declare_remote};
use mew_tests::steady::Steady;
use mew_tests::wait::until;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const NAMESPACE: &str = "shop";
const PATIENCE: Duration = Duration::from_secs(60);
const TYPES: [&str; 1] = ["Task"];
const SECRET: &str = "peers";
const FAST: &str = "  retry: {initialInterval: 50ms, maxInterval: 200ms}\n";
const NAMED: &str = "  retry: {initialInterval: 50ms, maxInterval: 200ms}\n  auth: {certificateRef: {name: peers}}\n";
const ONTOLOGY: &str = "ontology Certified {
  node Task { n: Int [unique] }
}
";
const SYNC: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Sync
metadata: {name: tasks, namespace: shop}
spec:
  remoteRef: {name: sink}
  direction: Push
  match: 't: Task'
";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Long enough to be seen in use, and short enough to wait for its end.
const SHORT: Duration = Duration::from_secs(15);
const ROTATIONS: u32 = 3;

/// Both kernels show certificates of issuers of their own; the source dials.
struct Pair {
    source: Side,
    sink: Side,
    /// Of the source's and of the sink's certificates.
    issuers: (Issuer, Issuer),
    written: u64,
}

fn identity(side: &Side) -> String {
    format!("spiffe://{}/kernel/{NAMESPACE}.{}", side.trust_domain, side.kernel)
}

/// What a side believes of a trust domain: these roots, and not those of its operator.
fn believe(side: &Side, domain: &str, roots: &[&Issuer]) -> Result<()> {
    let pem: String = roots.iter().map(|i| i.root_pem.as_str()).collect();
    let name = format!("{}-roots", domain.replace('.', "-"));
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"ca.crt": pem},
    });
    // Manifests win over what was imported.
    side.declare(&format!("{name}.yaml"), &map.to_string())
}

impl Pair {
    /// The sink has its certificate, the source none yet.
    fn start(dir: &Path) -> Result<Self> {
        let ontology = dir.join("certified.ontology");
        std::fs::write(&ontology, ONTOLOGY)?;
        let mut source = Side::new(dir, NAMESPACE, "source", "a.example", &ontology)?;
        let mut sink = Side::new(dir, NAMESPACE, "sink", "b.example", &ontology)?;
        connect(&mut source, &mut sink, &TYPES, NAMED)?;
        source.declare("sync.yaml", SYNC)?;
        let issuers = (Issuer::new("a")?, Issuer::new("b")?);
        believe(&sink, &source.trust_domain, &[&issuers.0])?;
        believe(&source, &sink.trust_domain, &[&issuers.1])?;
        mount(&sink.certificates(), &[(SECRET, &issuers.1.issue(&identity(&sink), DAY)?)])?;
        mount(&source.certificates(), &[])?;
        let mut p = Pair { source, sink, issuers, written: 0 };
        for side in [&mut p.source, &mut p.sink] {
            side.start_agent(None)?;
            side.wait_open()?;
        }
        Ok(p)
    }

    fn give(&self, tls: &Tls) -> Result<()> {
        mount(&self.source.certificates(), &[(SECRET, tls)])
    }

    fn good(&self, life: Duration) -> Result<Tls> {
        self.issuers.0.issue(&identity(&self.source), life)
    }

    fn all_ready(&mut self) -> Result<()> {
        self.source.becomes_ready("remotes", "sink")?;
        self.source.becomes_ready("syncs", "tasks")?;
        self.sink.becomes_ready("remotes", "source").map(drop)
    }

    /// One more task is written, and arrives.
    fn flows(&mut self) -> Result<()> {
        self.write()?;
        self.arrives()
    }

    fn write(&mut self) -> Result<()> {
        self.written += 1;
        self.source.execute("SPAWN Task {n = $n}", &json!({"n": self.written})).map(drop)
    }

    fn arrives(&mut self) -> Result<()> {
        let (written, sink) = (self.written, &mut self.sink);
        until("everything that was written is at the sink", PATIENCE, || {
            sink.check()?;
            let rows = sink.rows("MATCH t: Task RETURN t.n ORDER BY t.n")?;
            let there: Vec<Option<u64>> = rows.iter().map(|r| r[0].as_u64()).collect();
            Ok(there.into_iter().eq((1..=written).map(Some)).then_some(()))
        })
    }

    fn tail(&self) -> String {
        format!("{}\n{}", self.source.tail(), self.sink.tail())
    }
}

/// When the certificate that a peer shows ends, as the status of the Remote has it.
fn peer_end(o: &Value) -> &Value {
    &o["status"]["certificates"]["peerNotAfter"]
}

#[test]
fn what_is_wrong_with_a_secret_is_said_until_it_is_right() -> Result<()> {
    let mut p = Pair::start(&scratch("wrong")?)?;
    let r = wrong_ones(&mut p);
    r.with_context(|| p.tail())
}

fn wrong_ones(p: &mut Pair) -> Result<()> {
    let said = p.source.shows("remotes", "sink", "Unknown", "CertificatePending")?;
    ensure!(said.contains("Secret peers is not here") && said.contains("federation.mew.dev/certificates"), "{said}");
    p.source.shows("syncs", "tasks", "Unknown", "CertificatePending")?;

    let (me, other) = (identity(&p.source), "spiffe://a.example/kernel/shop.somebody");
    p.give(&p.issuers.0.issue(other, DAY)?)?;
    let said = p.source.shows("remotes", "sink", "False", "IdentityMismatch")?;
    ensure!(said.contains(&me) && said.contains(other), "both identities are to be named: {said}");

    p.give(&Tls { root: p.issuers.1.root_pem.clone(), ..p.good(DAY)? })?;
    let said = p.source.shows("remotes", "sink", "Unknown", "CertificatePending")?;
    ensure!(said.contains("ca.crt beside it"), "{said}");

    p.give(&Tls { key: p.good(DAY)?.key, ..p.good(DAY)? })?;
    p.source.wait("remotes", "sink", "names the key", |o| {
        o["status"]["lastError"]["message"].as_str().is_some_and(|m| m.contains("tls.key"))
    })?;

    p.give(&p.issuers.0.issue_expired(&me)?)?;
    let said = p.source.shows("remotes", "sink", "Unknown", "CertificateExpired")?;
    ensure!(said.contains("Secret peers") && said.contains("has expired at"), "{said}");

    // The peer only believes this issuer: the operator's certificate would be refused.
    p.give(&p.good(DAY)?)?;
    p.all_ready()?;
    p.flows()?;
    let (mine, theirs) = (p.source.becomes_ready("remotes", "sink")?, p.sink.becomes_ready("remotes", "source")?);
    let end = &mine["status"]["certificates"]["notAfter"];
    ensure!(end.is_string() && end == peer_end(&theirs), "{end} ends here, and {} there", peer_end(&theirs));

    // A bad one behind a good one is told, and changes nothing.
    let steady = Steady::watch(&[&p.source, &p.sink]);
    p.give(&p.issuers.0.issue(other, DAY)?)?;
    let bad = |o: &Value| o["status"]["lastError"]["reason"] == "IdentityMismatch";
    p.source.wait("remotes", "sink", "tells of the bad one", bad)?;
    p.flows()?;
    steady.verdict()?;

    // Without the reference the operator's certificate is shown, and the peer does not believe it. The connection that was
    // made before would stay.
    declare_remote(&p.source, &p.sink, Way::Out, &TYPES, FAST)?;
    p.source.wait("remotes", "sink", "shows the operator's certificate", |o| {
        let in_use = o["status"]["certificates"]["notAfter"].as_str();
        o["metadata"]["generation"] == o["status"]["observedGeneration"]
            && in_use.is_some_and(|t| Some(t) != end.as_str())
    })?;
    p.source.kill_agent();
    p.source.start_agent(None)?;
    let refused = |o: &Value| {
        condition(o, "Ready").is_some_and(|c| {
            c["status"] == "False" && (c["reason"] == "TLSRefusedByPeer" || c["reason"] == "Unreachable")
        })
    };
    p.source.wait("remotes", "sink", "is refused", refused)?;
    declare_remote(&p.source, &p.sink, Way::Out, &TYPES, NAMED)?;
    p.give(&p.good(DAY)?)?;
    p.all_ready()?;
    p.flows()
}

#[test]
fn renewing_disturbs_nothing() -> Result<()> {
    let mut p = Pair::start(&scratch("renewed")?)?;
    p.give(&p.good(DAY)?)?;
    let r = p.all_ready().and_then(|()| renewals(&mut p));
    r.with_context(|| p.tail())
}

fn renewals(p: &mut Pair) -> Result<()> {
    let steady = Steady::watch(&[&p.source, &p.sink]);
    for n in 1..=ROTATIONS {
        progress(&format!("renewal {n} of {ROTATIONS} at both ends"));
        // Each ends another hour later, which is seen at the other end.
        let life = DAY + n * Duration::from_secs(3600);
        let before = p.sink.becomes_ready("remotes", "source")?;
        p.give(&p.good(life)?)?;
        p.write()?;
        p.sink.wait("remotes", "source", "sees the source's next certificate", |o| peer_end(o) != peer_end(&before))?;
        p.arrives()?;

        let before = p.source.becomes_ready("remotes", "sink")?;
        mount(&p.sink.certificates(), &[(SECRET, &p.issuers.1.issue(&identity(&p.sink), life)?)])?;
        p.write()?;
        p.source.wait("remotes", "sink", "sees the sink's next certificate", |o| peer_end(o) != peer_end(&before))?;
        p.arrives()?;
    }

    steady.verdict()?;

    progress("another issuer, which the peer believes a little later");
    let next = Issuer::new("a, the next")?;
    let before = p.sink.becomes_ready("remotes", "source")?;
    let steady = Steady::watch(&[&p.source]);
    p.give(&next.issue(&identity(&p.source), 3 * DAY)?)?;
    let own = p.source.wait("remotes", "sink", "has the next issuer's", |o| {
        let end = &o["status"]["certificates"]["notAfter"];
        end.is_string() && end != peer_end(&before)
    })?;
    believe(&p.sink, &p.source.trust_domain, &[&p.issuers.0, &next])?;
    let end = &own["status"]["certificates"]["notAfter"];
    p.sink.wait("remotes", "source", "sees the next issuer's", |o| peer_end(o) == end)?;
    p.flows()?;
    steady.verdict()?;
    // The old root goes; whoever still showed its certificates would be cut off.
    believe(&p.sink, &p.source.trust_domain, &[&next])?;
    p.issuers.0 = next;
    p.flows()?;
    p.all_ready()
}

#[test]
fn one_that_nobody_renews_ends_the_connection_and_says_so() -> Result<()> {
    let mut p = Pair::start(&scratch("expired")?)?;
    let r = expires(&mut p);
    r.with_context(|| p.tail())
}

fn expires(p: &mut Pair) -> Result<()> {
    p.give(&p.good(SHORT)?)?;
    p.all_ready()?;
    p.flows()?;
    let said = p.source.shows("remotes", "sink", "False", "CertificateExpired")?;
    ensure!(said.contains("Secret peers has expired at"), "{said}");
    p.source.shows("syncs", "tasks", "False", "CertificateExpired")?;
    p.sink.shows("remotes", "source", "False", "CertificateExpired")?;
    p.write()?;
    p.give(&p.good(DAY)?)?;
    p.arrives()?;
    p.all_ready()
}
