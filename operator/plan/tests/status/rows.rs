//! Rows of the table as they are expected, and reports as they are fed.

use crate::common::{Kstatus, World, flow, link, problem, up};
use mew_contract::{FlowReport, FlowState, LinkState, Problem, Reason, Rejection, RemoteReport};

fn rows(ready: &str, also: &'static str, k: Kstatus) -> (String, &'static str, Kstatus) {
    (ready.to_owned(), also, k)
}

pub fn in_progress(ready: &str) -> (String, &'static str, Kstatus) {
    rows(ready, "Reconciling", Kstatus::InProgress)
}

pub fn failed(ready: &str) -> (String, &'static str, Kstatus) {
    rows(ready, "Stalled", Kstatus::Failed)
}

pub fn current(ready: &str) -> (String, &'static str, Kstatus) {
    rows(ready, "", Kstatus::Current)
}

pub fn live() -> FlowReport {
    flow(FlowState::Live, None)
}

pub fn waiting() -> FlowReport {
    flow(FlowState::Waiting, None)
}

/// The link was up and is not, for a reason.
pub fn down(reason: Reason) -> RemoteReport {
    link(LinkState::Disconnected, problem(reason))
}

/// An agent that refuses one item and knows nothing of it.
pub fn rejected(w: &mut World, kind: &str, name: &str) {
    let (remotes, syncs) = if kind == "Sync" { (vec![up()], vec![]) } else { (vec![], vec![]) };
    w.report_all(remotes, syncs);
    let problem = Problem::new(Reason::UnsupportedField, "the agent does not know the field quota");
    w.last_report().rejected = vec![Rejection { kind: kind.to_owned(), name: name.to_owned(), problem }];
}
