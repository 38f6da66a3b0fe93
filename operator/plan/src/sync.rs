//! A Sync: validate, resolve, plan its item, fold the reports into its status.

use crate::buckets;
use crate::gates::{Gate, GateStatus, Gates, rfc3339};
use crate::index::{Agent, Index};
use crate::items::Item;
use crate::policy::applicable;
use crate::{Inputs, KernelName, Name, Said, keeps_old_status, last_error, namespace_of, programmed, remote};
use mew_contract::report::{FlowState, LinkState};
use mew_contract::snapshot::{Direction, Edges, Initial};
use mew_contract::{FlowReport, Problem, Reason, SyncItem};
use mew_crds::annotations::RESET;
use mew_crds::policy::Operation;
use mew_crds::quantities::duration_ms;
use mew_crds::sync::{self as crd, Conflicts, Effective, LastHandled, ReadyWhen};
use mew_crds::{Sync, SyncStatus, validate};
use mew_lang::PatternText;
use std::collections::BTreeMap;

/// What is missing though everything has arrived.
const FORGOTTEN: &str = "the source does not know what the sink had before, so what was deleted or left the pattern since may still be there: compare both sides, then request a reset";

pub(crate) struct Planned {
    pub kernel: Option<KernelName>,
    /// `namespace/name` of the Remote.
    pub remote: Name,
    /// What the agent gets; `None` if there is nothing it could do with it.
    pub item: Option<Item>,
    pub problem: Option<Problem>,
    type_name: Option<String>,
}

pub(crate) fn plan(
    i: &Inputs<'_>,
    x: &Index<'_>,
    name: &Name,
    s: &Sync,
    remotes: &BTreeMap<&Name, remote::Planned>,
) -> Planned {
    let remote = format!("{}/{}", namespace_of(name), s.spec.remote_ref.name);
    let mut out = Planned { kernel: None, remote: remote.clone(), item: None, problem: None, type_name: None };
    let errors = validate::sync(&s.spec);
    if !errors.is_empty() {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        out.problem = Some(Problem::new(Reason::InvalidSpec, all.join("; ")));
        return out;
    }
    match PatternText::parse(&s.spec.match_) {
        Ok(p) => out.type_name = p.type_name,
        Err(d) => {
            let all: Vec<String> = d
                .iter()
                .map(|d| {
                    format!(
                        "at column {}: {}{}",
                        d.position(&s.spec.match_).1,
                        d.message,
                        d.help.as_deref().map(|h| format!(" ({h})")).unwrap_or_default()
                    )
                })
                .collect();
            out.problem = Some(Problem::new(Reason::InvalidPattern, format!("spec.match {}", all.join("; "))));
            return out;
        }
    }
    let (Some(r), Some(p)) = (i.objects.remotes.get(&remote), remotes.get(&remote)) else {
        out.problem = Some(Problem::new(
            Reason::RemoteNotFound,
            format!("Remote {} does not exist in this namespace", s.spec.remote_ref.name),
        ));
        return out;
    };
    out.kernel = Some(p.kernel.clone());
    let direction = match s.spec.direction {
        crd::Direction::Push => Direction::Push,
        crd::Direction::Pull => Direction::Pull,
    };
    let denied = applicable(i, &remote, &remote::labels(r))
        .decide(&remote, &r.spec, operation(direction), out.type_name.as_deref())
        .err();
    out.problem = x.same_flow(name, s).or_else(|| of_remote(p)).or(denied);
    if p.item.is_some() {
        out.item = Item::of(&SyncItem {
            name: name.clone(),
            remote,
            direction,
            pattern: s.spec.match_.clone(),
            initial: match s.spec.initial.as_ref().map(|i| i.mode) {
                Some(crd::InitialMode::None) => Initial::None,
                None | Some(crd::InitialMode::Full) => Initial::Full,
            },
            edges: match s.spec.edges.as_ref().map(|e| e.mode) {
                Some(crd::EdgesMode::Incident) => Edges::Incident,
                None | Some(crd::EdgesMode::None) => Edges::None,
            },
            delete_at_sink: s.spec.on_delete != Some(crd::OnDelete::Keep),
            delete_on_unmatch: s.spec.on_unmatch == Some(crd::OnUnmatch::Delete),
            suspend: s.spec.suspend.unwrap_or(false),
            reset: reset(s),
            blocked: out.problem.clone(),
        });
    }
    out
}

fn operation(d: Direction) -> Operation {
    match d {
        Direction::Push => Operation::Export,
        Direction::Pull => Operation::Import,
    }
}

fn reset(s: &Sync) -> Option<String> {
    s.metadata.annotations.as_ref().and_then(|a| a.get(RESET)).cloned()
}

/// What is wrong with the Remote is wrong with its Syncs too.
fn of_remote(p: &remote::Planned) -> Option<Problem> {
    p.problem.clone().map(|x| match x.reason {
        Reason::InvalidSpec | Reason::Conflicted => {
            Problem::new(Reason::RemoteNotAccepted, format!("the Remote is not accepted: {}", x.message))
        }
        _ => x,
    })
}

fn is_confirmed(a: Option<&Agent<'_>>, name: &str, p: &Planned) -> bool {
    a.zip(p.item.as_ref()).is_some_and(|(a, item)| a.has_sync(name, item.mark))
}

pub(crate) fn status(
    i: &Inputs<'_>,
    x: &Index<'_>,
    name: &Name,
    s: &Sync,
    p: &Planned,
    remote: Option<&remote::Planned>,
) -> SyncStatus {
    let old = s.status.clone().unwrap_or_default();
    let agent = p.kernel.as_ref().and_then(|k| x.agent(k));
    if p.kernel.is_some()
        && keeps_old_status(i, agent)
        && p.problem.is_none()
        && old.observed_generation == s.metadata.generation
        && !old.conditions.is_empty()
    {
        return old;
    }
    let nowhere = KernelName::new("", "");
    let kernel = p.kernel.as_ref().unwrap_or(&nowhere);
    let is_confirmed = is_confirmed(agent, name, p);
    let said = match p.item {
        Some(_) => programmed(i, kernel, agent, is_confirmed, agent.and_then(|a| a.sync(name))),
        None => Said::Not(GateStatus::unknown(Reason::Pending, "not given to an agent")),
    };
    let report = match &said {
        Said::Current(r) => Some(*r),
        Said::Not(_) => None,
    };
    let has_remote = remote.is_some_and(|r| remote::is_confirmed(i, agent, &p.remote, r));
    let link = match programmed(i, kernel, agent, has_remote, agent.and_then(|a| a.remote(&p.remote))) {
        Said::Current(r) => Some(r),
        Said::Not(_) => None,
    };
    let rejection = agent.filter(|_| is_confirmed).and_then(|a| a.rejection("Sync", name));
    let problem = problem(i, p, rejection, report, link.and_then(|l| remote::present(l)));
    let at = problem.as_ref().map(|x| Gate::of(x.reason));
    let own = |g: Gate, good: Reason| match &problem {
        Some(x) if at == Some(g) => GateStatus::no(x),
        Some(x) if at < Some(g) => GateStatus::unknown(x.reason, "not looked at yet"),
        _ => GateStatus::yes(good),
    };
    let (prog, conn, in_sync) = match (&said, link) {
        (Said::Current(f), Some(l)) => (GateStatus::yes(Reason::Programmed), remote::connected(l), in_sync(s, f)),
        (Said::Current(f), None) => {
            (GateStatus::yes(Reason::Programmed), GateStatus::unknown(Reason::Connecting, "connecting"), in_sync(s, f))
        }
        (Said::Not(g), _) => (
            g.clone(),
            GateStatus::unknown(g.reason, g.message.clone()),
            GateStatus::unknown(g.reason, g.message.clone()),
        ),
    };
    let link_suspended = link.is_some_and(|l| l.state == LinkState::Suspended);
    let gates = Gates {
        list: vec![
            (Gate::Accepted, own(Gate::Accepted, Reason::Accepted)),
            (Gate::ResolvedRefs, own(Gate::ResolvedRefs, Reason::Resolved)),
            (Gate::Programmed, prog),
            (Gate::Connected, conn),
            (Gate::InSync, in_sync.clone()),
        ],
        ready: if s.spec.ready_when == Some(ReadyWhen::Programmed) {
            GateStatus::yes(Reason::Programmed)
        } else {
            in_sync
        },
        up_to: if s.spec.ready_when == Some(ReadyWhen::Programmed) { Gate::Programmed } else { Gate::InSync },
        suspended: report.is_some_and(|r| r.state == FlowState::Suspended) || link_suspended,
        was_ready: old.first_ready_time.is_some(),
    };
    let error = problem.clone().or_else(|| report.and_then(|r| r.problem.clone().or_else(|| r.last_error.clone())));
    let policies = i
        .objects
        .remotes
        .get(&p.remote)
        .map(|r| applicable(i, &p.remote, &remote::labels(r)).names())
        .unwrap_or_default();
    SyncStatus {
        observed_generation: s.metadata.generation,
        phase: Some(phase(s, report, problem.as_ref()).into()),
        lag: Some(buckets::lag(report.and_then(|r| r.lag_ms), old.lag.as_deref())),
        // As the lag: what it was is no answer to how much waits now.
        pending: report.and_then(|r| r.pending).map(buckets::count),
        initial: report.and_then(|r| r.initial_percent).map(buckets::percent).or(old.initial),
        failed: Some(report.map_or(old.failed.unwrap_or(0), |r| total(r.rejected.saturating_add(r.held)))),
        held: Some(report.map_or(old.held.unwrap_or(0), |r| total(r.held))),
        needs_reconcile: needs_reconcile(report, old.needs_reconcile),
        conflicts: report.map(|r| Conflicts { total: total(r.conflicts) }).or(old.conflicts),
        effective: crate::some(Effective {
            policies,
            revision: report.map_or_else(String::new, |r| r.revision.clone()),
        }),
        last_handled: report
            .map(|r| LastHandled { reset: r.reset.clone() })
            .filter(|l| l.reset.is_some())
            .or(old.last_handled),
        first_ready_time: old.first_ready_time.clone().or_else(|| gates.is_ready().then(|| rfc3339(i.now_ms))),
        last_error: last_error(old.last_error.as_ref(), error.as_ref(), i.now_ms),
        conditions: gates.conditions(&old.conditions, s.metadata.generation, i.now_ms),
    }
}

/// What belongs to the first two gates: found here, or seen by the agent.
fn problem(
    i: &Inputs<'_>,
    p: &Planned,
    rejection: Option<&Problem>,
    f: Option<&FlowReport>,
    link: Option<&Problem>,
) -> Option<Problem> {
    if let Some(x) = rejection {
        return Some(x.clone());
    }
    if let Some(x) = &p.problem {
        return Some(x.clone());
    }
    let early = |x: &&Problem| Gate::of(x.reason) <= Gate::ResolvedRefs;
    let seen = f.and_then(|f| f.problem.as_ref()).filter(early).or_else(|| link.filter(early))?;
    // The agent knows that nothing may pass; which policy or list it is, only this side knows.
    match (seen.reason, i.objects.remotes.get(&p.remote), f) {
        (Reason::PermissionDenied, Some(r), Some(f)) => Some(applicable(i, &p.remote, &remote::labels(r)).explain(
            &p.remote,
            &r.spec,
            operation(f.direction),
            p.type_name.as_deref(),
        )),
        _ => Some(seen.clone()),
    }
}

/// Of a flow that is up. While it is not, nobody has asked the source.
fn needs_reconcile(f: Option<&FlowReport>, old: Option<bool>) -> Option<bool> {
    match f {
        Some(f) if matches!(f.state, FlowState::Copying | FlowState::Live) => f.needs_reconcile.then_some(true),
        _ => old,
    }
}

fn in_sync(s: &Sync, f: &FlowReport) -> GateStatus {
    let max_lag = s.spec.max_lag.as_ref().and_then(|d| duration_ms(d)).unwrap_or(60_000);
    match (f.state, &f.problem) {
        (FlowState::Suspended, _) => GateStatus::unknown(Reason::Suspended, "suspended; the position is kept"),
        (_, Some(p)) => GateStatus::no(p),
        (FlowState::Copying, _) => {
            let done = f.initial_percent.map(buckets::percent).unwrap_or_else(|| "0%".into());
            GateStatus::unknown(Reason::InitialCopy, format!("the initial copy is at {done}"))
        }
        (FlowState::Waiting | FlowState::Failed, None) => {
            GateStatus::unknown(Reason::Connecting, "the peer has not answered for this flow yet")
        }
        (FlowState::Live, None) => match f.lag_ms {
            None => GateStatus::unknown(Reason::Connecting, "the lag is not known"),
            Some(lag) if lag > max_lag => GateStatus::no(&Problem::new(
                Reason::Lagging,
                format!(
                    "the oldest change that has not arrived is older than maxLag ({})",
                    s.spec.max_lag.as_deref().unwrap_or("60s")
                ),
            )),
            _ => {
                let fails = f.held > 0 || f.rejected > 0;
                let failures = fails.then(|| {
                    format!(
                        "{} entities are held at the sink and {} were refused; see mew held there",
                        f.held, f.rejected
                    )
                });
                let said: Vec<String> =
                    failures.into_iter().chain(f.needs_reconcile.then(|| FORGOTTEN.to_owned())).collect();
                let reason = if fails { Reason::InSyncWithFailures } else { Reason::InSync };
                GateStatus { message: said.join("; "), ..GateStatus::yes(reason) }
            }
        },
    }
}

/// A count as a status has it. It may come from the peer, and be any.
fn total(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn phase(s: &Sync, f: Option<&FlowReport>, problem: Option<&Problem>) -> &'static str {
    if s.spec.suspend == Some(true) {
        return "Paused";
    }
    if problem.is_some() {
        return "Error";
    }
    match f.map(|f| f.state) {
        None | Some(FlowState::Waiting) => "Pending",
        Some(FlowState::Copying) => "Initializing",
        Some(FlowState::Live) => "Active",
        Some(FlowState::Suspended) => "Paused",
        Some(FlowState::Failed) => "Error",
    }
}
