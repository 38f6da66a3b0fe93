//! What a new leader may not withdraw. When a CustomResourceDefinition goes, what its objects declare stays in force, and the
//! leader that saw it go remembers them. A leader that begins later finds an empty list. It cannot know what was there;
//! the agents do: each has its last snapshot. So while a list may lack what nobody withdrew, an agent gets a new snapshot
//! only if it has nothing to lose by it. See docs/adr/0009.

use crate::declared::GRACE;
use crate::definitions::Definition;
use jiff::Timestamp;
use mew_contract::Snapshot;
use mew_plan::{AgentState, KernelName, empty_snapshot};
use std::time::{Duration, Instant};

/// Whether a list may lack objects that nobody withdrew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    None,
    /// Its definition came back a short time ago.
    Until(Instant),
    /// Its definition is gone.
    Away,
}

/// Of the first list that this leader has of a kind. `in_use` is when the first leader ever began: a definition that is older
/// was never away.
pub fn of_list(definition: &Definition, in_use: Option<Timestamp>, wall: Timestamp, now: Instant) -> Doubt {
    let Definition::Here { created, .. } = definition else { return Doubt::Away };
    let Some(created) = created.filter(|c| in_use.is_none_or(|began| began < *c)) else { return Doubt::None };
    // A clock behind the API server's is no reason to wait longer than that.
    let age = Duration::try_from(wall.duration_since(created)).unwrap_or_default();
    if age >= GRACE { Doubt::None } else { Doubt::Until(now + (GRACE - age)) }
}

/// Whether an agent can be given this snapshot though it may lack something: it has nothing in force, or exactly this, or
/// what this leader has given it before.
pub fn is_safe(trust_domain: &str, kernel: &KernelName, planned: &Snapshot, agent: Option<&AgentState>) -> bool {
    let Some(a) = agent else { return false };
    let Some(report) = &a.report else { return false };
    let is = |s: &Snapshot| report.snapshot == Snapshot::digest(&s.encode());
    report.snapshot.is_empty() || a.confirmed.is_some() || is(&empty_snapshot(trust_domain, kernel)) || is(planned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mew_contract::Report;
    use mew_plan::Items;
    use serde_json::json;
    use std::sync::Arc;

    const DOMAIN: &str = "us.example.com";

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn here(created: &str) -> Definition {
        Definition::Here { uid: "1".into(), created: Some(at(created)) }
    }

    #[test]
    fn only_a_definition_that_came_after_the_first_leader_is_doubtful() {
        let now = Instant::now();
        let of = |d: &Definition, in_use: &str, wall: &str| of_list(d, Some(at(in_use)), at(wall), now);
        let began = "2026-11-21T08:00:00Z";
        assert_eq!(of(&here("2026-11-21T07:59:58Z"), began, "2026-11-21T08:00:09Z"), Doubt::None, "a new installation");
        assert_eq!(of(&here(began), began, "2026-11-21T08:00:09Z"), Doubt::None, "in the same second");
        let again = here("2026-11-21T09:00:00Z");
        let left = Duration::from_secs(480);
        assert_eq!(of(&again, began, "2026-11-21T09:02:00Z"), Doubt::Until(now + left));
        assert_eq!(of(&again, began, "2026-11-21T09:10:00Z"), Doubt::None, "the grace is over");
        assert_eq!(of(&again, began, "2026-11-21T08:59:00Z"), Doubt::Until(now + GRACE), "this clock is behind");
        assert_eq!(of(&Definition::Gone, began, began), Doubt::Away);
        assert!(Doubt::None < Doubt::Until(now) && Doubt::Until(now) < Doubt::Away);
    }

    fn agent(in_force: &str) -> AgentState {
        let report = Report {
            kernel_id: "shop.till".into(),
            incarnation: "one".into(),
            agent_version: "0.1.0".into(),
            snapshot: in_force.into(),
            rejected: vec![],
            remotes: vec![],
            syncs: vec![],
            silent: None,
            certificate_not_after_ms: None,
            certificate_root: None,
            problem: None,
        };
        AgentState { attached: true, report: Some(Arc::new(report)), ..AgentState::default() }
    }

    /// What it reports of flows does not count: links that have just begun are not in a report yet.
    #[test]
    fn an_agent_loses_nothing_by_what_it_has_already() {
        let kernel = KernelName::new("shop", "till");
        let empty = empty_snapshot(DOMAIN, &kernel);
        let full = Snapshot { syncs: vec![json!({"name": "shop/tasks"})], ..empty.clone() };
        let digest = |s: &Snapshot| Snapshot::digest(&s.encode());
        let safe = |planned: &Snapshot, a: Option<&AgentState>| is_safe(DOMAIN, &kernel, planned, a);

        assert!(!safe(&empty, None), "an agent that has not come yet may have anything");
        let silent = AgentState { attached: true, ..AgentState::default() };
        assert!(!safe(&empty, Some(&silent)));

        let runs = agent(&digest(&full));
        assert!(!safe(&empty, Some(&runs)));
        assert!(safe(&full, Some(&runs)), "everything was applied again");
        let told = AgentState { confirmed: Some(Arc::new(Items::of(&full))), ..runs.clone() };
        assert!(safe(&empty, Some(&told)), "it is known what was withdrawn since");

        assert!(safe(&full, Some(&agent(""))), "a new agent has nothing");
        assert!(safe(&full, Some(&agent(&digest(&empty)))));
    }
}
