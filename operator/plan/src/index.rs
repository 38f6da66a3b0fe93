//! What is looked up for each object, found once per plan: with 10,000 of them nothing may be compared with all others.

use crate::items::Mark;
use crate::remote::certificate;
use crate::{AgentState, Inputs, KernelName, Name, namespace_of};
use jiff::Timestamp;
use mew_contract::{FlowReport, Problem, Reason, RemoteReport};
use mew_crds::common::KernelUri;
use mew_crds::remote::{ConnectionMode, TrustBundleRef};
use mew_crds::sync::Direction;
use mew_crds::{Remote, Sync};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// Of one age, the name decides.
type Age<'a> = (Option<Timestamp>, &'a str);
/// Namespace, kernel and the peer's trust domain.
type Domain<'a> = (&'a str, &'a str, &'a str);

pub struct Index<'a> {
    agents: HashMap<&'a KernelName, Agent<'a>>,
    /// The oldest Sync of each flow.
    flows: HashMap<(&'a str, &'a str, bool, &'a str), Age<'a>>,
    /// The oldest Remote of a kernel that leads to each peer.
    peers: HashMap<(Domain<'a>, String), Age<'a>>,
    /// The oldest Remote of a kernel that leads to each trust domain, and its bundles.
    domains: HashMap<Domain<'a>, (Age<'a>, &'a [TrustBundleRef])>,
    /// The oldest Remote of a kernel that accepts connections, and the certificate that it names.
    accepting: HashMap<(&'a str, &'a str), (Age<'a>, Option<&'a str>)>,
    /// How many Syncs name a Remote, by namespace and name.
    syncs: HashMap<(&'a str, &'a str), usize>,
}

/// An agent, with what it says of each object.
pub struct Agent<'a> {
    pub state: &'a AgentState,
    /// Why it keeps what it has, if it has something and is given nothing else.
    pub keeps: Option<String>,
    remotes: HashMap<&'a str, &'a RemoteReport>,
    syncs: HashMap<&'a str, &'a FlowReport>,
    rejected: HashMap<(&'a str, &'a str), &'a Problem>,
}

impl<'a> Index<'a> {
    pub fn new(i: &Inputs<'a>) -> Self {
        let mut x = Index {
            agents: i.agents.iter().map(|(k, a)| (k, Agent::new(a))).collect(),
            flows: HashMap::new(),
            peers: HashMap::new(),
            domains: HashMap::new(),
            accepting: HashMap::new(),
            syncs: HashMap::new(),
        };
        for (name, s) in &i.objects.syncs {
            let age = (s.metadata.creation_timestamp.as_ref().map(|t| t.0), name.as_str());
            let oldest = x.flows.entry(flow(name, s)).or_insert(age);
            *oldest = age.min(*oldest);
            *x.syncs.entry((namespace_of(name), s.spec.remote_ref.name.as_str())).or_default() += 1;
        }
        for (name, r) in &i.objects.remotes {
            let age = (r.metadata.creation_timestamp.as_ref().map(|t| t.0), name.as_str());
            let domain = domain(name, r);
            if let Some(id) = peer(r) {
                let oldest = x.peers.entry((domain, id)).or_insert(age);
                *oldest = age.min(*oldest);
            }
            if accepts(r) {
                let mine = (age, certificate(&r.spec));
                let oldest = x.accepting.entry(kernel(name, r)).or_insert(mine);
                *oldest = mine.min(*oldest);
            }
            let bundles = r.spec.peer.trust_bundle_refs.as_slice();
            let oldest = x.domains.entry(domain).or_insert((age, bundles));
            if age < oldest.0 {
                *oldest = (age, bundles);
            }
        }
        x
    }

    /// These agents keep what they have. Of one that has not reported yet, that is all that is to be said.
    pub fn keep(&mut self, kept: &BTreeMap<KernelName, String>) {
        for (k, why) in kept {
            if let Some(a) = self.agents.get_mut(k).filter(|a| a.state.report.is_some()) {
                a.keeps = Some(why.clone());
            }
        }
    }

    pub fn agent(&self, k: &KernelName) -> Option<&Agent<'a>> {
        self.agents.get(k)
    }

    /// How many Syncs name this Remote.
    pub fn syncs_of(&self, remote: &str) -> usize {
        self.syncs.get(&remote.split_once('/').unwrap_or_default()).copied().unwrap_or(0)
    }

    /// An older Sync that already declares this flow.
    pub fn same_flow(&self, name: &str, s: &Sync) -> Option<Problem> {
        let (_, oldest) = self.flows.get(&flow(name, s)).filter(|(_, n)| *n != name)?;
        Some(Problem::new(Reason::Conflicted, format!("Sync {oldest} is older and declares the same flow")))
    }

    /// An older Remote of the same kernel that names the same peer, or the same trust domain with other roots. What counts
    /// are the bundles of the oldest one: those of a Remote that is refused itself refuse nobody.
    pub fn conflict(&self, name: &str, r: &Remote) -> Option<Problem> {
        let domain = domain(name, r);
        let same = self.peers.get(&(domain, peer(r)?)).filter(|(_, n)| *n != name);
        if let Some((_, n)) = same {
            return Some(Problem::new(Reason::Conflicted, format!("Remote {n} is older and names the same peer")));
        }
        let ((_, n), bundles) = self.domains.get(&domain)?;
        (*n != name && *bundles != r.spec.peer.trust_bundle_refs.as_slice()).then(|| {
            Problem::new(
                Reason::Conflicted,
                format!("Remote {n} is older and names other bundles for the same trust domain"),
            )
        })
    }

    /// Who accepts shows its certificate before it knows who has come, so one kernel accepts with one: the oldest Remote's.
    pub fn other_certificate(&self, name: &str, r: &Remote) -> Option<Problem> {
        let ((_, n), theirs) = self.accepting.get(&kernel(name, r)).filter(|_| accepts(r))?;
        if *n == name || *theirs == certificate(&r.spec) {
            return None;
        }
        let theirs = theirs.map_or_else(|| "none".to_owned(), |c| format!("Secret {c}"));
        let message = format!(
            "Remote {n} is older, accepts connections too and names another certificate ({theirs}) in auth.certificateRef; \
             a kernel shows the same one to all who come"
        );
        Some(Problem::new(Reason::Conflicted, message))
    }
}

fn flow<'a>(name: &'a str, s: &'a Sync) -> (&'a str, &'a str, bool, &'a str) {
    (namespace_of(name), s.spec.remote_ref.name.as_str(), s.spec.direction == Direction::Push, s.spec.match_.as_str())
}

fn domain<'a>(name: &'a str, r: &'a Remote) -> Domain<'a> {
    (namespace_of(name), r.spec.kernel_ref.name.as_str(), r.spec.peer.trust_domain.as_str())
}

fn kernel<'a>(name: &'a str, r: &'a Remote) -> (&'a str, &'a str) {
    (namespace_of(name), r.spec.kernel_ref.name.as_str())
}

fn accepts(r: &Remote) -> bool {
    r.spec.connection_mode == Some(ConnectionMode::Accept)
}

fn peer(r: &Remote) -> Option<String> {
    KernelUri::parse(&r.spec.uri).map(|u| u.kernel_id)
}

impl<'a> Agent<'a> {
    fn new(state: &'a AgentState) -> Self {
        let (remotes, syncs, rejected) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut a = Agent { state, keeps: None, remotes, syncs, rejected };
        if let Some(r) = &state.report {
            a.remotes = r.remotes.iter().map(|x| (x.name.as_str(), x)).collect();
            a.syncs = r.syncs.iter().map(|x| (x.name.as_str(), x)).collect();
            a.rejected = r.rejected.iter().map(|x| ((x.kind.as_str(), x.name.as_str()), &x.problem)).collect();
        }
        a
    }

    pub fn remote(&self, name: &str) -> Option<&'a RemoteReport> {
        self.remotes.get(name).copied()
    }

    pub fn sync(&self, name: &str) -> Option<&'a FlowReport> {
        self.syncs.get(name).copied()
    }

    pub fn rejection(&self, kind: &str, name: &str) -> Option<&'a Problem> {
        self.rejected.get(&(kind, name)).copied()
    }

    /// Whether it confirmed a snapshot that holds the Remote's item exactly so.
    pub fn has_remote(&self, name: &str, mark: Mark) -> bool {
        self.state.confirmed.as_ref().is_some_and(|c| c.remote(name) == Some(mark))
    }

    /// Whether the Remote's item in the snapshot that it confirmed is this one, or differs from it in nothing but its roots.
    pub fn has_remote_but_for_roots(&self, name: &str, mark: Mark) -> bool {
        let confirmed = self.state.confirmed.as_ref().and_then(|c| c.remote(name));
        confirmed.is_some_and(|c| c.is_same_but_for_roots(mark))
    }

    pub fn has_sync(&self, name: &str, mark: Mark) -> bool {
        self.state.confirmed.as_ref().is_some_and(|c| c.sync(name) == Some(mark))
    }
}

/// The objects of a namespace.
pub fn in_namespace<'a, V>(
    all: &'a BTreeMap<Name, V>,
    namespace: &str,
) -> impl Iterator<Item = (&'a Name, &'a V)> + use<'a, V> {
    let prefix = format!("{namespace}/");
    let from: (Bound<&str>, Bound<&str>) = (Bound::Included(&prefix), Bound::Unbounded);
    all.range::<str, _>(from).take_while(move |(n, _)| n.starts_with(prefix.as_str()))
}
