//! `mew trust rotate`: replacing the CA of a trust domain, one step at a time and each when a person says so. The CAs change
//! where they are kept (the operator's Secret, or a state directory), and the operator follows.

use crate::client::standalone_objects;
use crate::objects::{Kind, SourceArgs, cluster, list};
use crate::out;
use crate::table::render;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use mew_control::{Authorities, Ca, Step};
use mew_crds::Remote;
use mew_kube::Stored;
use mew_plan::rotation::{Finding, Standing, before_retiring, before_signing};
use mew_tls::{Authority, not_after_ms};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Who has written the Secret, as the API server keeps it.
const MANAGER: &str = "mew-trust";
/// A running operator has followed by then; it looks every few seconds.
const FOLLOWED: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct RotateArgs {
    #[arg(value_enum, default_value = "status")]
    what: What,
    /// Take the step although it is held up: what it names as hindered may break
    #[arg(long)]
    force: bool,
    /// Trust domain of this side, needed only if its CA names none; a cluster's operator says it by itself
    #[arg(long)]
    trust_domain: Option<String>,
    /// Namespace of the operator in the cluster
    #[arg(long, default_value = "mew-system")]
    operator_namespace: String,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Where it stands, what comes next, and who holds that up
    Status,
    /// Make another CA that is trusted and does not sign yet
    Publish,
    /// Let it sign; every connected peer must accept it
    Sign,
    /// Trust the old one no longer; nothing may depend on it
    Retire,
    /// Go one step back
    Undo,
}

pub async fn run(a: RotateArgs) -> Result<()> {
    let store = Store::open(&a).await?;
    let now = store.authorities();
    match a.what {
        What::Status => {
            out::line(status(&a, now, &store.remotes(&a).await)?);
            Ok(())
        }
        What::Publish => {
            now.check(Step::Publish)?;
            let new = Ca::new(Authority::new(&store.trust_domain(&a).await?)?, now_ms())?;
            let next = now.publish(new)?;
            let root = next.published().map(|c| c.root().to_owned()).unwrap_or_default();
            store.put(&a, &next).await?;
            out::line(format!("published {root}; it does not sign yet\n\n{}", after_publishing(&a)));
            Ok(())
        }
        What::Sign => {
            now.check(Step::Sign)?;
            let next = now.sign(now_ms())?;
            let findings = before_signing(&asked(&a, store.remotes(&a).await)?, next.signer().root());
            let what = format!("{} must not sign yet", next.signer().root());
            passes(&a, &what, &findings, &store.unfollowed(&a, next.signer().root()).await?)?;
            store.put(&a, &next).await?;
            out::line(format!(
                "{} signs now; the old root is trusted until it is retired{}\n\nAgents get their new certificates within half a minute, not all at once, and connections move to them. Then:\n  {}",
                next.signer().root(),
                named(&findings),
                command(&a, "retire")
            ));
            Ok(())
        }
        What::Retire => {
            now.check(Step::Retire)?;
            let old = now.retiring().map(|c| c.root().to_owned()).unwrap_or_default();
            let next = now.retire()?;
            let findings = before_retiring(&asked(&a, store.remotes(&a).await)?, &old);
            passes(&a, &format!("{old} must not be retired yet"), &findings, &[])?;
            store.put(&a, &next).await?;
            out::line(format!(
                "{old} is retired{}\n\nThe rotation is done. Peers may drop the old root from their bundles now; the new bundle:\n  {}",
                named(&findings),
                export(&a, &BTreeSet::new())
            ));
            Ok(())
        }
        What::Undo => {
            let next = now.undo(now_ms())?;
            let findings = match (now.retiring(), now.published()) {
                // The old one signs again: by then, peers may have dropped it.
                (Some(old), _) => {
                    let findings = before_signing(&asked(&a, store.remotes(&a).await)?, old.root());
                    passes(&a, &format!("{} must not sign again", old.root()), &findings, &[])?;
                    findings
                }
                // Agents may still have its certificates.
                (None, Some(new)) if new.has_signed() => {
                    let findings = before_retiring(&asked(&a, store.remotes(&a).await)?, new.root());
                    passes(&a, &format!("{} must not be withdrawn yet", new.root()), &findings, &[])?;
                    findings
                }
                // Nobody depends on it.
                _ => Vec::new(),
            };
            store.put(&a, &next).await?;
            out::line(format!("{} signs; the last step is undone{}", next.signer().root(), named(&findings)));
            Ok(())
        }
    }
}

// ---------------------------------------------------------------- where the CAs are kept

enum Store {
    /// With the trust domain of the CAs.
    Directory(PathBuf, String, Authorities),
    Cluster(Box<Stored>),
}

impl Store {
    async fn open(a: &RotateArgs) -> Result<Self> {
        let Some(state) = &a.source.state else {
            let (client, _) = cluster(&a.source).await?;
            return Ok(Store::Cluster(Box::new(Stored::read(client, &a.operator_namespace).await?)));
        };
        let (trust_domain, kept) = mew_files::kept_authorities(state, a.trust_domain.as_deref())?;
        Ok(Store::Directory(state.clone(), trust_domain, kept))
    }

    fn authorities(&self) -> &Authorities {
        match self {
            Store::Directory(_, _, a) => a,
            Store::Cluster(s) => &s.authorities,
        }
    }

    async fn trust_domain(&self, a: &RotateArgs) -> Result<String> {
        match self {
            Store::Directory(_, trust_domain, _) => Ok(trust_domain.clone()),
            Store::Cluster(_) => {
                let (client, _) = cluster(&a.source).await?;
                Ok(mew_kube::published(client, &a.operator_namespace).await?.trust_domain)
            }
        }
    }

    /// Every Remote with its status. Without an operator nobody knows what peers accept today.
    async fn remotes(&self, a: &RotateArgs) -> Result<BTreeMap<String, Remote>> {
        let objects = match self {
            Store::Directory(state, ..) => standalone_objects(state, "remotes", "").await?,
            Store::Cluster(_) => {
                let (client, _) = cluster(&a.source).await?;
                if !mew_kube::is_led(client, &a.operator_namespace).await? {
                    bail!("no operator leads in {}", a.operator_namespace);
                }
                if let Some(n) = &a.source.namespace {
                    eprintln!("only Remotes of the namespace {n} are looked at");
                }
                let all = SourceArgs { all_namespaces: a.source.namespace.is_none(), ..a.source.clone() };
                list(&all, Kind::Remote, "").await?
            }
        };
        let mut remotes = BTreeMap::new();
        for o in objects {
            let name = |f: &str| o["metadata"][f].as_str().unwrap_or_default().to_owned();
            let name = format!("{}/{}", name("namespace"), name("name"));
            let r = serde_json::from_value::<Remote>(o).with_context(|| format!("Remote {name} cannot be read"))?;
            remotes.insert(name, r);
        }
        Ok(remotes)
    }

    /// Why agents may not know this root yet, if so.
    async fn unfollowed(&self, a: &RotateArgs, root: &str) -> Result<Vec<String>> {
        let Store::Cluster(_) = self else { return Ok(Vec::new()) };
        let (client, _) = cluster(&a.source).await?;
        let known = match mew_kube::published(client, &a.operator_namespace).await {
            Ok(published) => mew_tls::fingerprints(&published.roots)?,
            // With --force it is no reason to wait.
            Err(e) => return Ok(vec![format!("what the operator has published is not known: {e:#}")]),
        };
        Ok(if known.iter().any(|k| k == root) {
            Vec::new()
        } else {
            vec![format!("the operator in {} has not published it yet: is it running?", a.operator_namespace)]
        })
    }

    async fn put(self, a: &RotateArgs, next: &Authorities) -> Result<()> {
        match self {
            Store::Directory(state, _, was) => mew_files::replace_authorities(&state, &was, next),
            Store::Cluster(s) => {
                (*s).replace(next, MANAGER).await?;
                follows(a, next).await
            }
        }
    }
}

/// What was asked about peers, or nothing at all if the step is wanted without knowing.
fn asked(a: &RotateArgs, remotes: Result<BTreeMap<String, Remote>>) -> Result<BTreeMap<String, Remote>> {
    // Remotes elsewhere would be cut off without a word.
    if let Some(n) = &a.source.namespace
        && a.source.state.is_none()
        && !a.force
    {
        bail!("a step concerns the Remotes of all namespaces, not only of {n}: leave out --namespace");
    }
    match remotes {
        Err(e) if a.force => {
            eprintln!("warning: what peers accept is not known: {e:#}");
            Ok(BTreeMap::new())
        }
        r => r.context("what peers accept is not known"),
    }
}

/// Waits until the operator has published what is trusted now, and says so if it does not: the step is taken all the same.
async fn follows(a: &RotateArgs, next: &Authorities) -> Result<()> {
    let end = Instant::now() + FOLLOWED;
    let wanted = mew_tls::fingerprints(&next.bundle())?;
    while Instant::now() < end {
        let known = async {
            let (client, _) = cluster(&a.source).await?;
            let published = mew_kube::published(client, &a.operator_namespace).await?;
            anyhow::Ok(mew_tls::fingerprints(&published.roots)?)
        };
        // An API server that is away for a moment must not make it look as if the step were not taken.
        if known.await.is_ok_and(|known| known == wanted) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    eprintln!("warning: no operator in {} has followed yet; it does when it runs", a.operator_namespace);
    Ok(())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

// ---------------------------------------------------------------- what is said

/// Fails with what is in the way, unless that is wanted.
fn passes(a: &RotateArgs, what: &str, findings: &[Finding], more: &[String]) -> Result<()> {
    let mut lines = more.to_vec();
    for f in findings {
        if let Standing::Hinders(why) = &f.standing {
            lines.push(format!("Remote {}, peer {}: {why}", f.remote, f.peer));
        }
    }
    let kernels = hindered(findings);
    if lines.is_empty() {
        return Ok(());
    }
    if a.force {
        lines.iter().for_each(|l| eprintln!("warning: {l}"));
        return Ok(());
    }
    let mut text = what.to_owned();
    lines.iter().for_each(|l| text.push_str(&format!("\n  {l}")));
    if a.what == What::Sign && !kernels.is_empty() {
        let _ = write!(
            text,
            "\nGive the people of these peers the new bundle, to be committed there:\n  {}",
            export(a, &kernels)
        );
    }
    let _ = write!(text, "\nLook again:\n  {}", command(a, "status"));
    let _ = write!(
        text,
        "\nOr take the step all the same; these connections may break:\n  {} --force",
        command(a, word(a.what))
    );
    bail!(text)
}

/// Kernels of this side that a step would cut off.
fn hindered(findings: &[Finding]) -> BTreeSet<&str> {
    let hinders = |f: &&Finding| matches!(f.standing, Standing::Hinders(_));
    findings.iter().filter(hinders).map(|f| f.kernel.as_str()).collect()
}

/// Those that nobody can ask now.
fn named(findings: &[Finding]) -> String {
    let mut text = String::new();
    for f in findings {
        if let Standing::Away(why) = &f.standing {
            let _ = write!(text, "\naway: Remote {}, peer {}: {why}", f.remote, f.peer);
        }
    }
    text
}

fn status(a: &RotateArgs, now: &Authorities, remotes: &Result<BTreeMap<String, Remote>>) -> Result<String> {
    let time = |ms: u64| match i64::try_from(ms).ok().filter(|ms| *ms > 0).map(Timestamp::from_millisecond) {
        Some(Ok(t)) => t.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        _ => "-".to_owned(),
    };
    let mut rows = Vec::new();
    for (state, c) in now.all() {
        let ends = time(not_after_ms(&c.authority().cert_pem)?);
        rows.push(vec![state.name().to_owned(), time(c.since_ms()), ends, c.root().to_owned()]);
    }
    let mut text = render(&["STATE", "SINCE", "EXPIRES", "ROOT"].map(str::to_owned), &rows);
    let next = match now.next() {
        None => {
            let _ = write!(text, "\n\nNo rotation is under way. To begin one:\n  {}", command(a, "publish"));
            return Ok(text);
        }
        Some(Step::Retire) => "retire",
        Some(Step::Publish | Step::Sign) => "sign",
    };
    let remotes = match remotes {
        Ok(r) => r,
        Err(e) => {
            let _ = write!(text, "\n\n`{next}` is next. What peers accept is not known: {e:#}");
            return Ok(text);
        }
    };
    let findings = match (now.published(), now.retiring()) {
        (_, Some(old)) => before_retiring(remotes, old.root()),
        (new, None) => before_signing(remotes, new.map_or("", Ca::root)),
    };
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|f| {
            let (ready, why) = match &f.standing {
                Standing::Fits => ("yes", String::new()),
                Standing::Away(why) => ("away", why.clone()),
                Standing::Hinders(why) => ("NO", why.clone()),
            };
            vec![f.remote.clone(), f.kernel.clone(), f.peer.clone(), ready.to_owned(), why]
        })
        .collect();
    if !rows.is_empty() {
        let ready = format!("READY TO {}", next.to_ascii_uppercase());
        let header = ["REMOTE", "KERNEL", "PEER", ready.as_str(), "WHY"].map(str::to_owned);
        let _ = write!(text, "\n\n{}", render(&header, &rows));
    }
    let kernels = hindered(&findings);
    if kernels.is_empty() {
        let _ = write!(text, "\n\nNext:\n  {}", command(a, next));
        return Ok(text);
    }
    let _ = write!(text, "\n\n`{next}` is next, and not all are ready for it.");
    if next == "sign" {
        let _ = write!(text, " The new bundle, for the people of those peers:\n  {}", export(a, &kernels));
    }
    Ok(text)
}

fn after_publishing(a: &RotateArgs) -> String {
    format!(
        "Give the people of every peer the new bundle, to be committed there; it holds both roots:\n  {}\nSee who accepts it:\n  {}\nThen:\n  {}",
        export(a, &BTreeSet::new()),
        command(a, "status"),
        command(a, "sign")
    )
}

fn word(w: What) -> &'static str {
    match w {
        What::Status => "status",
        What::Publish => "publish",
        What::Sign => "sign",
        What::Retire => "retire",
        What::Undo => "undo",
    }
}

/// How to call this again, for the same side.
fn command(a: &RotateArgs, what: &str) -> String {
    format!("mew trust rotate {what}{}", side(a))
}

/// How to export the bundle: for each of these kernels, or for any.
fn export(a: &RotateArgs, kernels: &BTreeSet<&str>) -> String {
    let one = |namespace: &str, kernel: &str| format!("mew trust export --kernel {kernel} -n {namespace}{}", side(a));
    if kernels.is_empty() {
        return one("<namespace>", "<kernel>");
    }
    let all = kernels.iter().filter_map(|k| k.split_once('.')).map(|(namespace, kernel)| one(namespace, kernel));
    all.collect::<Vec<_>>().join("\n  ")
}

fn side(a: &RotateArgs) -> String {
    let mut text = String::new();
    if let Some(state) = &a.source.state {
        let _ = write!(text, " --state {}", quoted(state));
    }
    if let Some(t) = &a.trust_domain {
        let _ = write!(text, " --trust-domain {t}");
    }
    if a.source.state.is_none() && a.operator_namespace != "mew-system" {
        let _ = write!(text, " --operator-namespace {}", a.operator_namespace);
    }
    if let Some(c) = &a.source.context {
        let _ = write!(text, " --context {c}");
    }
    text
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
