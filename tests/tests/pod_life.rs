//! What an agent needs of the operator when its pod is replaced, or older than the roots that it was given.

use anyhow::{Context, Result, ensure};
use mew_tests::cluster::{Agent, Cluster, PATIENCE};
use mew_tests::dirs::root;
use mew_tests::http;
use mew_tests::ports::free_port;
use mew_tests::process::{Process, mew, mew_once};
use mew_tests::wait::until;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::json;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

const DOMAIN: &str = "life.example";
const NAMESPACE: &str = "shop";

fn ontology() -> PathBuf {
    root().join("examples/airports/flights.ontology")
}

fn is_attached(a: &Agent) -> Result<Option<()>> {
    Ok((http::metric(a.health, "mew_agent_attached")? == Some(1.0)).then_some(()))
}

fn started(name: &str) -> Result<(Cluster, Agent, PathBuf)> {
    let cluster = Cluster::start(name, DOMAIN)?;
    cluster.api.create_namespace(NAMESPACE)?;
    let agent = cluster.start_agent(NAMESPACE, "till", &ontology())?;
    until("the agent is attached", PATIENCE, || is_attached(&agent))?;
    let dir = cluster.api.dir().join(format!("agent-{NAMESPACE}-till"));
    Ok((cluster, agent, dir))
}

/// A pod with `emptyDir` that a rolling update starts beside the old one: ready, so that the old one goes, and then the kernel.
#[test]
fn a_new_pod_with_new_data_waits_as_a_standby_and_then_takes_over() -> Result<()> {
    let (cluster, mut old, theirs) = started("new-data")?;
    let dir = cluster.api.dir().join("new-pod");
    fs::create_dir_all(&dir)?;
    let (health, client, peers) = (free_port()?, free_port()?, free_port()?);
    let at = |port: u16| format!("127.0.0.1:{port}");
    let (operator, token, roots) = (at(cluster.leader()?.port), theirs.join("token"), theirs.join("ca.crt"));
    let (listen, federation, own) = (at(client), at(peers), at(health));
    let (token, roots) = (token.display().to_string(), roots.display().to_string());
    let (data, ontology) = (dir.join("data").display().to_string(), ontology().display().to_string());
    let flags: [(&str, &str); 10] = [
        ("--kernel", "till"),
        ("--operator", &operator),
        ("--trust-domain", DOMAIN),
        ("--token-file", &token),
        ("--roots-file", &roots),
        ("--data", &data),
        ("--ontology", &ontology),
        ("--listen", &listen),
        ("--federation", &federation),
        ("--health", &own),
    ];
    let args = ["agent", "--ephemeral"].into_iter().chain(flags.into_iter().flat_map(|(f, v)| [f, v]));
    let mut new = Process::start("new-pod", mew(args)?, &dir)?;
    let mut ready = |what: &str, text: &str| {
        until(what, PATIENCE, || {
            new.check()?;
            Ok(http::get(health, "/ready").is_ok_and(|(s, t)| s == 200 && t.starts_with(text)).then_some(new.said()))
        })
    };
    // It says who has it: once in its log, however often it asks.
    let waits = "standby: the operator refuses this agent: kernel till is held by ";
    ready("the new pod is ready while the old one has the kernel", waits)?;
    ensure!(http::get(old.health, "/ready")?.1.trim() == "ready", "the old one lost its kernel");
    // Nobody waits for it without knowing.
    let query = json!({"text": "MATCH s: State RETURN s.code"});
    let refused = http::post(client, "/v1/execute", &query).err().context("a standby answers queries")?;
    ensure!(format!("{refused:#}").contains("503: the kernel is not open yet"), "{refused:#}");
    ensure!(TcpStream::connect(("127.0.0.1", peers)).is_err(), "a standby lets peers in");
    old.stop();
    let said = ready("the new pod has the kernel", "ready")?;
    ensure!(said.matches("standing by: ").count() == 1 && said.contains("no longer a standby"), "{said}");
    http::post(client, "/v1/execute", &query).map(drop)
}

/// The file that a pod was given stays as it was; the CA may have been replaced since.
#[test]
fn roots_that_came_with_the_certificate_are_trusted_too() -> Result<()> {
    let (_cluster, mut agent, dir) = started("learned-roots")?;
    let learned = dir.join("data/ca.crt");
    until("the agent has a certificate", PATIENCE, || Ok(learned.exists().then_some(())))?;
    agent.stop();
    let mut p = CertificateParams::default();
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(dir.join("ca.crt"), p.self_signed(&KeyPair::generate()?)?.pem())?;
    agent.start()?;
    until("it attaches by what it has learned", PATIENCE, || is_attached(&agent))?;

    // Without that, it does not: roots are what it trusts, and nothing else.
    agent.stop();
    fs::remove_file(&learned).context("what it has learned")?;
    let log = dir.join("agent.log");
    let said = fs::read_to_string(&log)?.len();
    agent.start()?;
    until("it does not trust the operator", PATIENCE, || {
        let text = fs::read_to_string(&log)?;
        Ok(text.get(said..).is_some_and(|t| t.contains("does not answer")).then_some(()))
    })?;
    ensure!(is_attached(&agent)?.is_none(), "it is attached");
    Ok(())
}

/// Each step of replacing the CA, as people take it.
fn rotate(cluster: &Cluster, step: &str) -> Result<()> {
    let kubeconfig = cluster.api.kubeconfig();
    mew_once(["trust", "rotate", step], &[("KUBECONFIG", kubeconfig.as_path())]).map(drop)
}

fn certificates(pem: &Path) -> usize {
    fs::read_to_string(pem).map_or(0, |t| t.matches("BEGIN CERTIFICATE").count())
}

/// An agent that is away while another CA is published and begins to sign knows only the old root, and so does its pod: it
/// attaches all the same, learns the new one, and needs the old one no longer when that is retired.
#[test]
fn an_agent_that_was_away_while_the_ca_was_replaced_comes_back() -> Result<()> {
    let (cluster, mut agent, dir) = started("rotated-ca")?;
    let (learned, certificate) = (dir.join("data/ca.crt"), dir.join("data/tls.crt"));
    until("the agent has a certificate", PATIENCE, || Ok((certificates(&learned) == 1).then_some(())))?;
    agent.stop();
    let old = fs::read_to_string(&certificate)?;
    rotate(&cluster, "publish")?;
    rotate(&cluster, "sign")?;
    ensure!(certificates(&learned) == 1 && certificates(&dir.join("ca.crt")) == 1, "it knows too much");
    agent.start()?;
    until("it attaches by the old root", PATIENCE, || is_attached(&agent))?;
    until("it has learned the new one", PATIENCE, || Ok((certificates(&learned) == 2).then_some(())))?;
    until("it has another certificate", PATIENCE, || {
        Ok((fs::read_to_string(&certificate).is_ok_and(|now| now != old)).then_some(()))
    })?;
    rotate(&cluster, "retire")?;
    until("it is told", PATIENCE, || Ok((certificates(&learned) == 1).then_some(())))?;
    ensure!(is_attached(&agent)?.is_some(), "it was cut off");
    agent.stop();
    agent.start()?;
    until("it attaches by what it has learned", PATIENCE, || is_attached(&agent))
}
