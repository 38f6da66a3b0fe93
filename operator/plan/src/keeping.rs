//! Which agents keep what they have. When a CustomResourceDefinition goes, its objects go with it, and nobody has withdrawn
//! what they say. A leader that did not see them cannot know what was there; the agents can: each has its last snapshot, and
//! says by name what that holds. So while a list may lack something, an agent gets a new snapshot only if it loses nothing by
//! it that nobody withdrew. See docs/adr/0009.

use crate::gates::rfc3339;
use crate::{AgentState, Inputs, Items, KernelName, empty_snapshot};
use mew_contract::problem::shortened;
use mew_contract::{Report, Snapshot};
use mew_crds::GROUP;
use std::collections::BTreeMap;

/// Why a list may lack objects that nobody withdrew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// Its definition is gone.
    Away,
    /// Its definition came back; what is not applied again by the end counts as withdrawn.
    Back { since_ms: u64, until_ms: u64 },
}

/// Of which kinds the list may lack objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    pub remotes: Option<Incomplete>,
    pub syncs: Option<Incomplete>,
    pub policies: Option<Incomplete>,
}

/// A kind, as its objects and its definition are called.
#[derive(Clone, Copy)]
struct Kind(&'static str, &'static str);

const REMOTE: Kind = Kind("Remote", "remotes");
const SYNC: Kind = Kind("Sync", "syncs");
const POLICY: Kind = Kind("FederationPolicy", "federationpolicies");

/// The agents to which these snapshots must not be given, and why, for people.
pub(crate) fn kept(i: &Inputs<'_>, planned: &BTreeMap<KernelName, Snapshot>) -> BTreeMap<KernelName, String> {
    let d = &i.doubts;
    let all = [(POLICY, d.policies), (REMOTE, d.remotes), (SYNC, d.syncs)];
    let Some((kind, list)) = all.into_iter().find_map(|(kind, list)| Some((kind, list?))) else {
        return BTreeMap::new();
    };
    let of = |(k, s): (&KernelName, &Snapshot)| {
        let why = why(i, kind, list, k, s, i.agents.get(k))?;
        let why = format!("the agent of kernel {} keeps the configuration that it has: {why}", k.name);
        // The names in it are an agent's words.
        Some((k.clone(), shortened(why)))
    };
    planned.iter().filter_map(of).collect()
}

/// Why this agent might lose something by the planned snapshot, if so. `kind` is the first one whose list is incomplete.
fn why(
    i: &Inputs<'_>,
    kind: Kind,
    list: Incomplete,
    kernel: &KernelName,
    planned: &Snapshot,
    agent: Option<&AgentState>,
) -> Option<String> {
    let unknown = |what: &str| Some(format!("{}, and {what}. {}", became(kind, list), all_again(list)));
    let Some((state, report)) = agent.and_then(|a| Some((a, a.report.as_deref()?))) else {
        return unknown("it has not said yet what that is");
    };
    // Nothing, or exactly this.
    let has = |s: &Snapshot| report.snapshot == Snapshot::digest(&s.encode());
    if report.snapshot.is_empty() || has(&empty_snapshot(i.trust_domain, kernel)) || has(planned) {
        return None;
    }
    // What this leader has given it before: so it is known what was withdrawn since. While policies may be missing, no more
    // than that: what is new or another may be what they would deny.
    if let Some(given) = &state.confirmed
        && (i.doubts.policies.is_none() || given.has_all_of(&Items::of(planned)))
    {
        return None;
    }
    // With which policies an item was planned, no snapshot says: without one of them the same item allows other things.
    if i.doubts.policies.is_some() {
        return unknown("policies may be missing that went with it");
    }
    let Some(lost) = Lost::of(i, report) else { return unknown("this agent does not say by name what it might lose") };
    lost.map(Lost::told)
}

/// What an agent holds and nobody has declared since its definition went.
struct Lost<'a> {
    kind: Kind,
    list: Incomplete,
    /// The last one by name: while many are applied in order it is the same, and no status has to be written for each.
    name: &'a str,
    is_one: bool,
}

impl<'a> Lost<'a> {
    /// `None` if the agent does not say what it holds; `Some(None)` if that is all declared, in whatever way, or was withdrawn.
    fn of(i: &Inputs<'_>, report: &'a Report) -> Option<Option<Self>> {
        let (remotes, syncs) = (report.held_remotes()?, report.held_syncs()?);
        let remotes = remotes.filter(|n| !i.objects.remotes.contains_key(*n));
        let syncs = syncs.filter(|n| !i.objects.syncs.contains_key(*n));
        // What is not in a list that is complete was withdrawn.
        let remotes = i.doubts.remotes.and_then(|list| Self::last(REMOTE, list, remotes));
        Some(remotes.or_else(|| i.doubts.syncs.and_then(|list| Self::last(SYNC, list, syncs))))
    }

    fn last(kind: Kind, list: Incomplete, names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let (last, n) = names.fold((None::<&'a str>, 0_usize), |(last, n), name| (last.max(Some(name)), n + 1));
        Some(Lost { kind, list, name: last?, is_one: n == 1 })
    }

    fn told(self) -> String {
        let (Kind(kind, _), name, became) = (self.kind, self.name, became(self.kind, self.list));
        let (what, which, count) = if self.is_one {
            (format!("{kind} {name}, which the agent has, is not"), "it", "it counts")
        } else {
            (format!("{kind} {name} and others, which the agent has, are not"), "them", "they count")
        };
        match self.list {
            Incomplete::Away => format!("{became}, and {what} declared. Apply the definition again, and then {which}"),
            Incomplete::Back { until_ms, .. } => format!(
                "{became}, and {what} applied again. Apply {which}, or wait: at {} {count} as withdrawn",
                rfc3339(until_ms)
            ),
        }
    }
}

fn became(Kind(_, plural): Kind, list: Incomplete) -> String {
    let definition = format!("CustomResourceDefinition {plural}.{GROUP}");
    match list {
        Incomplete::Away => format!("{definition} is gone"),
        Incomplete::Back { since_ms, .. } => format!("{definition} was deleted and came back at {}", rfc3339(since_ms)),
    }
}

/// What to do where nobody knows what is missing.
fn all_again(list: Incomplete) -> String {
    match list {
        Incomplete::Away => "Apply the definition again, and then everything as it was".to_owned(),
        Incomplete::Back { until_ms, .. } => {
            format!("Apply everything again as it was, or wait until {}", rfc3339(until_ms))
        }
    }
}
