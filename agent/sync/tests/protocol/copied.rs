//! What a flow says of itself on a new connection: one whose copy was made before lags, and does not begin anew.

use crate::common::{NOW_MS, local};
use crate::peer::{accept, ack, batch, task};
use crate::side::{Did, Side, remote};
use mew_contract::report::FlowState;
use mew_contract::samples::sync_item;
use mew_contract::snapshot::Direction;
use mew_contract::{FlowReport, RemoteItem, SyncItem};
use mew_kernel::Params;
use mew_sync::{Event, Link};
use mew_wire as wire;
use wire::frame::Body;

/// The number of this side's flow, as the peer has dialled.
const OURS: u32 = 2;
const LATER_MS: u64 = 5_000;

impl Side {
    /// The agent ends and starts on its data; the peer dials it again.
    fn starts_anew(&mut self, item: SyncItem) -> Did {
        self.link = Link::new(local(10), remote(), &self.kernel);
        self.mono_ms += LATER_MS;
        self.handle(Event::Configure(Box::new(remote()), vec![item]));
        self.greet()
    }

    fn flow(&self) -> FlowReport {
        self.report().1.remove(0)
    }
}

fn sent(did: &Did) -> &wire::SyncPush {
    did.pushed().unwrap_or_else(|| panic!("nothing is sent: {did:?}"))
}

#[test]
fn a_source_that_starts_anew_makes_no_copy_that_the_sink_has() {
    for (complete, state, percent) in [(true, FlowState::Live, 100), (false, FlowState::Copying, 0)] {
        let mut s = Side::with_own_flow();
        s.greet();
        let first = sent(&s.hear(accept(OURS))).clone();
        assert_eq!(s.flow().state, FlowState::Copying, "the sink has not confirmed it");
        s.hear(ack(OURS, first.upto));
        assert_eq!((s.flow().state, s.flow().lag_ms), (FlowState::Live, Some(0)));

        let spawned = s.kernel.execute(NOW_MS, r#"SPAWN Task {name = "while it was away"}"#, &Params::new());
        spawned.expect("a statement of this ontology");
        s.starts_anew(sync_item());
        let position = Some(wire::Position {
            incarnation: s.kernel.incarnation().to_owned(),
            seq: first.upto,
            revision: first.revision.clone(),
            start: first.start,
            complete,
            ..wire::Position::default()
        });
        let accept =
            wire::FlowAccept { flow: OURS, types: vec!["Task".into()], position, ..wire::FlowAccept::default() };
        let did = s.hear(Body::FlowAccept(accept));
        let (flow, second) = (s.flow(), sent(&did));
        assert_eq!((flow.state, flow.initial_percent), (state, Some(percent)));
        assert_eq!(second.entities.len(), 1, "only what was written since");
        let lag = complete.then_some(LATER_MS);
        assert_eq!(flow.lag_ms, lag, "as old as what waits");
        s.hear(ack(OURS, second.upto));
        assert_eq!((s.flow().state, s.flow().lag_ms), (FlowState::Live, Some(0)));
    }
}

#[test]
fn a_sink_that_starts_anew_knows_that_it_has_the_copy() {
    let item = || SyncItem { direction: Direction::Pull, ..sync_item() };
    let mut s = Side::new(vec![item()]);
    s.greet();
    s.hear(accept(OURS));
    s.push(batch(OURS, 0, 1, vec![task(1)]));
    assert_eq!((s.flow().state, s.flow().initial_percent), (FlowState::Copying, Some(10)));
    s.push(wire::SyncPush { live: true, ..batch(OURS, 1, 2, vec![task(2)]) });
    assert_eq!((s.flow().state, s.flow().initial_percent), (FlowState::Live, Some(100)));

    let did = s.starts_anew(item());
    let asked = did.frames.iter().find_map(|b| if let Body::FlowOpen(o) = b { o.position.as_ref() } else { None });
    assert!(asked.is_some_and(|p| p.complete && p.seq == 2), "{did:?}");
    s.hear(accept(OURS));
    assert_eq!((s.flow().state, s.flow().lag_ms), (FlowState::Live, None), "the source has not said how far it is");
    s.push(wire::SyncPush { pending: 7, oldest_ms: NOW_MS, ..batch(OURS, 2, 3, vec![task(3)]) });
    let flow = s.flow();
    assert_eq!((flow.state, flow.lag_ms, flow.pending), (FlowState::Live, Some(LATER_MS), Some(7)));
    assert_eq!(flow.initial_percent, Some(100));

    // What the source sends under another definition is a copy again.
    s.push(wire::SyncPush { revision: "another".into(), pending: 7, ..batch(OURS, 0, 1, vec![task(1)]) });
    assert_eq!((s.flow().state, s.flow().initial_percent), (FlowState::Copying, Some(10)));
    s.push(wire::SyncPush { revision: "another".into(), live: true, ..batch(OURS, 1, 2, vec![task(2)]) });
    assert_eq!(s.flow().state, FlowState::Live);
}

/// What was there before a reset is compared again: that it was complete says nothing of the new copy.
#[test]
fn a_copy_after_a_reset_is_not_complete_because_one_before_was() {
    let item = |reset: &str| SyncItem { direction: Direction::Pull, reset: Some(reset.to_owned()), ..sync_item() };
    let mut s = Side::new(vec![item("1")]);
    s.greet();
    s.hear(accept(OURS));
    s.push(wire::SyncPush { live: true, ..batch(OURS, 0, 2, vec![task(1), task(2)]) });
    assert_eq!(s.flow().state, FlowState::Live);

    s.starts_anew(item("2"));
    s.hear(accept(OURS));
    s.push(batch(OURS, 0, 1, vec![task(1)]));
    assert_eq!((s.flow().state, s.flow().initial_percent), (FlowState::Copying, Some(10)));
    // Also when the connection breaks in the middle of it.
    s.starts_anew(item("2"));
    s.hear(accept(OURS));
    assert_eq!((s.flow().state, s.flow().initial_percent), (FlowState::Copying, Some(0)));
}

/// Where the sink was is known from this process on; how old the oldest change is that it would take is not.
#[test]
fn what_waits_for_a_sink_that_is_away_is_counted_if_it_is_known() {
    let write = |s: &mut Side| {
        let spawned = s.kernel.execute(NOW_MS, r#"SPAWN Task {name = "while it is away"}"#, &Params::new());
        spawned.expect("a statement of this ontology");
        s.handle(Event::Wake);
    };
    let said = |s: &Side| (s.flow().state, s.flow().lag_ms, s.flow().pending);
    let mut s = Side::with_own_flow();
    assert_eq!(said(&s), (FlowState::Waiting, None, None), "it has never said where it is");
    s.greet();
    let upto = sent(&s.hear(accept(OURS))).upto;
    s.hear(ack(OURS, upto));
    assert_eq!(said(&s), (FlowState::Live, Some(0), Some(0)));
    s.handle(Event::Closed(s.conn, None));
    for waiting in 1..=3 {
        write(&mut s);
        assert_eq!(said(&s), (FlowState::Waiting, None, Some(waiting)));
    }
    // Nothing waits for a sink that is kept away on purpose.
    for (suspend, pending) in [(true, None), (false, Some(3))] {
        s.handle(Event::Configure(Box::new(RemoteItem { suspend, ..remote() }), vec![sync_item()]));
        assert_eq!(s.flow().pending, pending, "suspended: {suspend}");
    }
    // It comes back, and has not said yet whether it takes the flow.
    s.greet();
    assert_eq!(s.flow().pending, Some(3));
}
