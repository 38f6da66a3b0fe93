//! What an API server would keep: objects with generation, creation time and status.

use crate::{RunOptions, trust};
use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use mew_crds::manifest::{Object, read};
use mew_crds::validate::{self, FieldError};
use mew_crds::{FederationPolicy, Remote, Sync};
use mew_plan::{Objects, Plan, namespace_of};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::mem::take;
use std::path::{Path, PathBuf};

const FILE: &str = "objects.json";

#[derive(Default)]
pub struct State {
    pub objects: Objects,
    /// What could not be read or is refused, for people.
    pub problems: Vec<String>,
    /// Directories that hold no manifest, so that nobody wonders why nothing happens.
    empty: BTreeSet<PathBuf>,
    /// Directories and files of which every policy that they declare is among the objects.
    known: BTreeSet<PathBuf>,
    /// `known` is not what was saved.
    is_unsaved: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Saved {
    remotes: BTreeMap<String, Remote>,
    syncs: BTreeMap<String, Sync>,
    policies: BTreeMap<String, FederationPolicy>,
    /// Without it, nothing is known of what cannot be read.
    #[serde(default)]
    known: BTreeSet<PathBuf>,
}

/// What all kinds have, so that one function can take any of them over.
trait Kept: Clone {
    type Spec: PartialEq;
    fn meta(&mut self) -> &mut ObjectMeta;
    fn meta_ref(&self) -> &ObjectMeta;
    fn spec(&self) -> &Self::Spec;
    fn keep_status(&mut self, old: &Self);
    fn update_errors(old: &Self::Spec, new: &Self::Spec) -> Vec<FieldError>;
}

macro_rules! kept {
    ($kind:ident, $spec:ty, $check:expr) => {
        impl Kept for $kind {
            type Spec = $spec;
            fn meta(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
            fn meta_ref(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn spec(&self) -> &Self::Spec {
                &self.spec
            }
            fn keep_status(&mut self, old: &Self) {
                self.status.clone_from(&old.status);
            }
            fn update_errors(old: &Self::Spec, new: &Self::Spec) -> Vec<FieldError> {
                $check(old, new)
            }
        }
    };
}

kept!(Remote, mew_crds::RemoteSpec, validate::remote_update);
kept!(Sync, mew_crds::SyncSpec, validate::sync_update);
kept!(FederationPolicy, mew_crds::FederationPolicySpec, |_: &_, _: &_| Vec::new());

impl State {
    pub fn load(o: &RunOptions) -> Result<Self> {
        let path = o.state.join(FILE);
        let saved: Saved = match std::fs::read(&path) {
            Ok(b) => serde_json::from_slice(&b)
                .with_context(|| format!("{} is damaged; move it away to begin anew", path.display()))?,
            Err(e) if e.kind() == ErrorKind::NotFound => Saved::default(),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        let objects =
            Objects { remotes: saved.remotes, syncs: saved.syncs, policies: saved.policies, ..Objects::default() };
        Ok(State { objects, known: saved.known, ..State::default() })
    }

    pub fn save(&self, o: &RunOptions) -> Result<()> {
        let saved = Saved {
            remotes: self.objects.remotes.clone(),
            syncs: self.objects.syncs.clone(),
            policies: self.objects.policies.clone(),
            known: self.known.clone(),
        };
        let (tmp, path) = (o.state.join(format!("{FILE}.tmp")), o.state.join(FILE));
        std::fs::write(&tmp, serde_json::to_vec_pretty(&saved)?).with_context(|| tmp.display().to_string())?;
        std::fs::rename(&tmp, &path).with_context(|| path.display().to_string())
    }

    /// Reads all manifests. A document that cannot be read, or that changes what must not change, leaves the last good
    /// version of its object in force; an object is gone only when all files could be read and none holds it. What was never
    /// read may hold policies that deny anything, for any namespace.
    pub fn read_manifests(&mut self, o: &RunOptions, now_ms: u64) {
        let mut problems = Vec::new();
        let mut whole = true;
        let mut found = Vec::new();
        let mut unreadable = BTreeSet::new();
        // Paths, and why.
        let mut unread = Vec::new();
        let files = files(&o.manifests, &mut unread);
        self.tell_empty(&o.manifests, &files);
        let is_listed = |d: &&PathBuf| !d.is_file() && unread.iter().all(|(u, _)| u != *d);
        let mut known: BTreeSet<PathBuf> = o.manifests.iter().filter(is_listed).cloned().collect();
        for f in files {
            match std::fs::read_to_string(&f) {
                Ok(text) => {
                    let (objects, errors) = read(&f.display().to_string(), &text);
                    whole &= errors.is_empty();
                    // What cannot be read at all might be a policy, and any policy might deny.
                    let mut hides = false;
                    for e in errors.iter().filter(|e| e.kind.as_deref().is_none_or(|k| k == "FederationPolicy")) {
                        hides = true;
                        let ns = e.namespace.as_deref().unwrap_or(&o.namespace);
                        unreadable.insert(format!("{ns}/{}", e.name.as_deref().unwrap_or(&e.at)));
                    }
                    problems.extend(errors.iter().map(ToString::to_string));
                    found.extend(objects);
                    if !hides {
                        known.insert(f);
                    }
                }
                Err(e) => {
                    let why = format!("{}: {e}", f.display());
                    unread.push((f, why));
                }
            }
        }
        whole &= unread.is_empty();
        problems.extend(unread.iter().map(|(_, why)| why.clone()));
        let mut next = Objects::default();
        for o_ in found {
            let ns = |m: &ObjectMeta| m.namespace.clone().unwrap_or_else(|| o.namespace.clone());
            match o_ {
                Object::Remote(r) => {
                    adopt(*r, &self.objects.remotes, &mut next.remotes, &o.namespace, now_ms, "Remote", &mut problems)
                }
                Object::Sync(s) => {
                    adopt(*s, &self.objects.syncs, &mut next.syncs, &o.namespace, now_ms, "Sync", &mut problems)
                }
                Object::Policy(p) => {
                    adopt(
                        *p,
                        &self.objects.policies,
                        &mut next.policies,
                        &o.namespace,
                        now_ms,
                        "FederationPolicy",
                        &mut problems,
                    );
                }
                Object::ConfigMap(c) => {
                    let name = format!("{}/{}", ns(&c.metadata), c.metadata.name.clone().unwrap_or_default());
                    next.bundles.insert(name, c.data.unwrap_or_default());
                }
            }
        }
        for (name, data) in trust::imported(&o.state) {
            // Manifests win over what was imported.
            next.bundles.entry(format!("{}/{name}", o.namespace)).or_insert(data);
        }
        if !whole {
            for (n, r) in &self.objects.remotes {
                next.remotes.entry(n.clone()).or_insert_with(|| r.clone());
            }
            for (n, s) in &self.objects.syncs {
                next.syncs.entry(n.clone()).or_insert_with(|| s.clone());
            }
            for (n, p) in &self.objects.policies {
                next.policies.entry(n.clone()).or_insert_with(|| p.clone());
            }
        }
        unreadable.retain(|n| !next.policies.contains_key(n));
        for (path, _) in unread.iter().filter(|(path, _)| !self.known.contains(path)) {
            let here = next.remotes.keys().map(|n| namespace_of(n)).chain([o.namespace.as_str()]);
            unreadable.extend(here.map(|ns| format!("{ns}/{}", path.display())));
        }
        if !whole {
            // Its objects stay as well.
            known.extend(self.known.iter().cloned());
        }
        self.is_unsaved |= known != self.known;
        self.known = known;
        next.unreadable = unreadable;
        for p in problems.iter().filter(|p| !self.problems.contains(p)) {
            tracing::error!("{p}");
        }
        self.objects = next;
        self.problems = problems;
    }

    /// Says once of each directory that it has nothing to read, and how to begin. It is no mistake: what was declared may be
    /// withdrawn by taking its file away.
    fn tell_empty(&mut self, given: &[PathBuf], files: &[PathBuf]) {
        let is_empty =
            |d: &&PathBuf| std::fs::read_dir(d).is_ok() && !files.iter().any(|f| f.parent() == Some(d.as_path()));
        let empty: BTreeSet<PathBuf> = given.iter().filter(is_empty).cloned().collect();
        for d in empty.difference(&self.empty) {
            tracing::warn!(
                "there is no manifest in {}: the operator waits for files that end with .yaml or .yml; `mew trust export` of the other side prints a Remote to begin with, and `mew validate` checks what is written",
                d.display()
            );
        }
        self.empty = empty;
    }

    /// Takes the planned statuses; whether there is anything to save.
    pub fn take_status(&mut self, p: Plan) -> bool {
        let mut changed = take(&mut self.is_unsaved);
        for (n, s) in p.remotes {
            if let Some(o) = self.objects.remotes.get_mut(&n) {
                changed |= o.status.as_ref() != Some(&s);
                o.status = Some(s);
            }
        }
        for (n, s) in p.syncs {
            if let Some(o) = self.objects.syncs.get_mut(&n) {
                changed |= o.status.as_ref() != Some(&s);
                o.status = Some(s);
            }
        }
        for (n, s) in p.policies {
            if let Some(o) = self.objects.policies.get_mut(&n) {
                changed |= o.status.as_ref() != Some(&s);
                o.status = Some(s);
            }
        }
        changed
    }
}

/// Puts an object beside its last version: same spec, same generation.
fn adopt<K: Kept>(
    mut new: K,
    old: &BTreeMap<String, K>,
    into: &mut BTreeMap<String, K>,
    namespace: &str,
    now_ms: u64,
    kind: &str,
    problems: &mut Vec<String>,
) {
    let m = new.meta();
    let ns = m.namespace.get_or_insert_with(|| namespace.to_owned()).clone();
    let name = format!("{ns}/{}", m.name.clone().unwrap_or_default());
    if into.contains_key(&name) {
        problems.push(format!("{kind} {name} is declared twice; the first one holds"));
        return;
    }
    if let Some(o) = old.get(&name) {
        let errors = K::update_errors(o.spec(), new.spec());
        if !errors.is_empty() {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            problems
                .push(format!("{kind} {name}: the change is refused and the old version stays: {}", all.join("; ")));
            into.insert(name, o.clone());
            return;
        }
        let generation = o.meta_ref().generation.unwrap_or(1) + i64::from(o.spec() != new.spec());
        let created = o.meta_ref().creation_timestamp.clone();
        let m = new.meta();
        (m.generation, m.creation_timestamp) = (Some(generation), created);
        new.keep_status(o);
    } else {
        let m = new.meta();
        m.generation = Some(1);
        m.creation_timestamp = Timestamp::from_millisecond(now_ms as i64).ok().map(Time);
    }
    into.insert(name, new);
}

/// YAML files of the directories, in order; hidden ones are passed over. `unread`: directories that cannot be, and why.
fn files(dirs: &[PathBuf], unread: &mut Vec<(PathBuf, String)>) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for d in dirs {
        if d.is_file() {
            out.push(d.clone());
            continue;
        }
        let why = match std::fs::read_dir(d) {
            Ok(entries) => {
                out.extend(entries.flatten().map(|e| e.path()).filter(|p| is_manifest(p)));
                continue;
            }
            Err(e) if e.kind() == ErrorKind::NotFound => format!(
                "{} is not there: is --manifests right? The operator waits for it, and what it has read before stays in force",
                d.display()
            ),
            Err(e) => format!("{}: {e}", d.display()),
        };
        unread.push((d.clone(), why));
    }
    out.sort();
    out
}

/// What tells cheaply that manifests have changed: names, times and sizes.
pub fn marks(dirs: &[PathBuf]) -> Vec<(PathBuf, Option<std::time::SystemTime>, u64)> {
    let mark = |f: PathBuf| {
        let m = std::fs::metadata(&f).ok();
        let (time, size) = m.map_or((None, 0), |m| (m.modified().ok(), m.len()));
        (f, time, size)
    };
    files(dirs, &mut Vec::new()).into_iter().map(mark).collect()
}

fn is_manifest(p: &Path) -> bool {
    let name = p.file_name().and_then(|n| n.to_str()).unwrap_or(".");
    !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"))
}

#[cfg(test)]
mod tests {
    use super::State;
    use crate::RunOptions;
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    const POLICY: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: FederationPolicy
metadata: {name: tasks}
spec:
  remoteSelector: {}
  mode: ExplicitBridging
  allowedKernels: [{trustDomain: there.example, kernelIds: [team.there]}]
  rules: [{name: tasks, action: Allow, operations: [Export], types: [Task]}]
";

    fn options(dir: &Path) -> RunOptions {
        RunOptions {
            manifests: vec![dir.join("manifests")],
            state: dir.join("state"),
            namespace: "team".to_owned(),
            trust_domain: "here.example".to_owned(),
            certificate_lifetime: Duration::from_secs(3600),
        }
    }

    /// What was taken away is withdrawn; where one cannot look, nothing is.
    #[test]
    fn a_directory_that_is_missing_is_not_one_that_is_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let (o, manifests) = (options(dir.path()), dir.path().join("manifests"));
        let mut s = State::default();
        // What is wrong, whether it is known to be empty, and how many policies are in force.
        let mut read = || {
            s.read_manifests(&o, 1);
            (s.problems.join("; "), s.empty.contains(&manifests), s.objects.policies.len())
        };
        let is_missing = |said: &str| said.contains("manifests is not there: is --manifests right?");
        let (said, is_empty, n) = read();
        assert!(is_missing(&said) && (is_empty, n) == (false, 0), "{said}");
        fs::create_dir(&manifests).expect("a directory");
        assert_eq!(read(), (String::new(), true, 0));
        fs::write(manifests.join("policy.yaml"), POLICY).expect("a file");
        assert_eq!(read(), (String::new(), false, 1));
        fs::remove_dir_all(&manifests).expect("it goes");
        let (said, is_empty, n) = read();
        assert!(is_missing(&said) && (is_empty, n) == (false, 1), "{said}");
        fs::create_dir(&manifests).expect("a directory");
        assert_eq!(read(), (String::new(), true, 0));
    }

    /// Of what was never read nobody knows what it denies; of what was, what it said is in force.
    #[test]
    fn nothing_passes_before_everything_was_read_once() {
        const REMOTE: &str = "apiVersion: federation.mew.dev/v1alpha1
kind: Remote
metadata: {name: there, namespace: other}
spec:
  kernelRef: {name: here}
  uri: mew://there.example:9001/team.there
  peer: {trustDomain: there.example}
";
        let dir = tempfile::tempdir().expect("a directory");
        let (manifests, denying) = (dir.path().join("manifests"), dir.path().join("denying"));
        let o = RunOptions { manifests: vec![manifests.clone(), denying.clone()], ..options(dir.path()) };
        for d in [&manifests, &o.state] {
            fs::create_dir(d).expect("a directory");
        }
        fs::write(manifests.join("remote.yaml"), REMOTE).expect("a file");
        let mut s = State::default();
        // Where nothing may pass, and how many policies are in force.
        let read = |s: &mut State| {
            s.read_manifests(&o, 1);
            let blocked = s.objects.unreadable.iter().map(|n| mew_plan::namespace_of(n).to_owned());
            (blocked.collect::<Vec<_>>(), s.objects.policies.len())
        };
        let everywhere = ["other".to_owned(), "team".to_owned()];
        assert_eq!(read(&mut s), (everywhere.to_vec(), 0), "a directory is missing");
        assert_eq!(read(&mut s), (everywhere.to_vec(), 0), "and still is");
        // What has the name of a manifest and cannot be read.
        fs::create_dir_all(denying.join("policy.yaml")).expect("a directory");
        assert_eq!(read(&mut s), (everywhere.to_vec(), 0), "a file cannot be read");
        fs::remove_dir(denying.join("policy.yaml")).expect("it goes");
        fs::write(denying.join("policy.yaml"), POLICY).expect("a file");
        assert_eq!(read(&mut s), (vec![], 1));
        assert!(s.take_status(mew_plan::Plan::default()) && !s.take_status(mew_plan::Plan::default()));
        s.save(&o).expect("it is saved");
        // From now on, what was read stays in force; also for the next one that runs.
        for mut s in [s, State::load(&o).expect("what was saved")] {
            fs::rename(&denying, dir.path().join("away")).expect("it goes");
            assert_eq!(read(&mut s), (vec![], 1), "the directory is missing again");
            fs::rename(dir.path().join("away"), &denying).expect("it is back");
            fs::write(denying.join("more.yaml"), "").expect("a file");
            assert_eq!(read(&mut s), (vec![], 1));
            fs::remove_file(denying.join("more.yaml")).expect("it goes");
            assert_eq!(read(&mut s), (vec![], 1));
            fs::create_dir(denying.join("more.yaml")).expect("a directory");
            assert_eq!(read(&mut s), (everywhere.to_vec(), 1), "a file that was never read");
            fs::remove_dir(denying.join("more.yaml")).expect("it goes");
        }
    }
}
