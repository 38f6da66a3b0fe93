//! Batches: one that cannot be applied as a whole ends its flow, one version that may not come is left out.

use crate::common::NOW_MS;
use crate::peer::{OTHERS, TASKS, batch, bytes, draft, open, task};
use crate::side::{Did, Side, content, ids, position};
use bytes::Bytes;
use mew_contract::Reason;
use mew_contract::samples::THERE;
use mew_kernel::Params;
use mew_model::entity::MAX_ENTITY;
use mew_model::name::number;
use mew_model::{Hlc, KernelKey, Value};
use mew_sync::records;
use mew_wire as wire;
use prost::Message;

/// One that cannot be applied as a whole: nothing of it is, its flow ends, and can be opened again where it was.
#[test]
fn a_batch_that_is_wrong_ends_its_flow_and_no_other() {
    let good = || batch(1, 2, 4, vec![task(3), task(4)]);
    let mut flipped = good();
    flipped.crcs[1] ^= 1;
    let unchecked = wire::SyncPush { crcs: Vec::new(), ..good() };
    let too_many = wire::SyncPush { leaves: vec![wire::Leave::default(); 10_001], ..good() };
    let long = wire::SyncPush { revision: "r".repeat(1 << 20), ..good() };
    let mut early = draft("Task", &format!("{THERE}/4"));
    early.stamp(KernelKey::of(THERE), NOW_MS + 600_000, None);
    let wrong = [
        ("a wrong checksum", flipped, Reason::SourceError, "checksum"),
        ("no checksum", unchecked, Reason::SourceError, "checksum"),
        ("a clock ten minutes ahead", batch(1, 2, 4, vec![task(3), bytes(&early)]), Reason::ClockSkew, "600 s ahead"),
        ("one before it is missing", batch(1, 3, 4, vec![task(4)]), Reason::SourceError, "missing"),
        ("one again", batch(1, 1, 2, vec![task(2)]), Reason::SourceError, "already"),
        ("one that goes back", batch(1, 0, 4, vec![task(4)]), Reason::SourceError, "already"),
        ("its end is before its beginning", batch(1, 2, 1, vec![task(4)]), Reason::SourceError, "ends at 1"),
        ("more than anybody sends", too_many, Reason::SourceError, "too large"),
        ("a revision that is a novel", long, Reason::SourceError, "too large"),
    ];
    for (what, p, why, word) in wrong {
        let mut s = Side::new(Vec::new());
        s.greet();
        s.open(open(1, TASKS));
        s.open(open(3, OTHERS));
        s.takes(1, 0, 1);
        s.takes(1, 1, 2);
        let before = content(&s.kernel);
        let did = s.push(p);
        let nack = did.nacked().unwrap_or_else(|| panic!("{what}: {did:?}"));
        assert!(nack.flow == 1 && nack.code == why.code() && nack.message.contains(word), "{what}: {nack:?}");
        assert!(!did.closed && did.acked().is_none(), "{what}: {did:?}");
        assert_eq!(content(&s.kernel), before, "{what}");
        assert_eq!(position(&s.kernel, TASKS), Some(2), "{what}");
        assert_eq!(s.report().0.inbound.failed, 1, "{what}");
        // What was on its way behind it is not heard.
        assert!(s.push(good()).is_nothing(), "{what}");
        assert_eq!(content(&s.kernel), before, "{what}");
        s.takes(3, 0, 7);
        let at = s.open(open(5, TASKS)).position.expect("it has a position");
        assert_eq!(at.seq, 2, "{what}");
        s.takes(5, 2, 3);
    }
}

/// The source was told where the sink is: before that it has nothing to send, unless a reset was asked for.
#[test]
fn a_new_flow_does_not_go_back_without_a_reset() {
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    s.takes(1, 0, 1);
    s.takes(1, 1, 2);
    s.greet();
    assert_eq!(s.open(open(1, TASKS)).position.map(|p| p.seq), Some(2));
    let did = s.push(batch(1, 0, 1, vec![task(1)]));
    assert!(did.nacked().is_some_and(|n| n.message.contains("already")), "{did:?}");
    assert_eq!(position(&s.kernel, TASKS), Some(2));
    let again = wire::FlowOpen { reset: "again".into(), ..open(3, TASKS) };
    assert_eq!(s.open(again).position, None);
    s.takes(3, 0, 1);
    assert_eq!(position(&s.kernel, TASKS), Some(1));
}

/// One version that may not come is counted, and what comes with it is applied.
#[test]
fn a_version_that_may_not_come_is_rejected_and_the_flow_goes_on() {
    let mut second_form = draft("Task", &format!("{THERE}/9")).encode();
    second_form.splice(18..18, [0x18, 0]);
    let mut seen_later = draft("Task", &format!("{THERE}/9"));
    seen_later.vector.raise(KernelKey(9), Hlc(u64::MAX));
    let mut huge = draft("Task", &format!("{THERE}/9"));
    huge.set(number("name"), Value::String("x".repeat(MAX_ENTITY)));
    let wrong = [
        ("a type that may not come", bytes(&draft("Secret", &format!("{THERE}/9")))),
        ("a type that nobody knows", bytes(&draft("Nothing", &format!("{THERE}/9")))),
        ("an id of a third kernel", bytes(&draft("Task", "plant.third/9"))),
        ("an id that is too long", bytes(&draft("Task", &"x".repeat(256)))),
        ("no id", bytes(&draft("Task", ""))),
        ("no entity", Bytes::from_static(b"\x09 not an entity")),
        ("nothing", Bytes::new()),
        ("a second form of an entity", second_form.into()),
        ("a vector that is ahead of its version", bytes(&seen_later)),
        ("an entity that is too large", bytes(&huge)),
    ];
    for (what, b) in wrong {
        let mut s = Side::new(Vec::new());
        s.greet();
        s.open(open(1, TASKS));
        let did = s.push(batch(1, 0, 2, vec![b, task(1)]));
        let counts = did.acked().and_then(|a| a.counts).unwrap_or_else(|| panic!("{what}: {did:?}"));
        assert_eq!((counts.applied, counts.rejected, counts.held), (1, 1, 0), "{what}");
        let told = did.acked().map(|a| a.refusal.clone()).unwrap_or_default();
        assert!(!told.is_empty() && !told.contains("Secret"), "{what}: {told:?} is why");
        assert_eq!(ids(&s.kernel), [format!("{THERE}/1")], "{what}");
        s.takes(1, 2, 2);
    }
}

/// Whoever declares the flow shows it, so it is said with the acknowledgement: the last one, without what this side's rules are.
#[test]
fn why_an_entity_is_refused_for_good_is_told_once() {
    let mut s = Side::new(Vec::new());
    s.kernel.execute(NOW_MS, r#"SPAWN Task {name = "ours"}"#, &Params::new()).expect("a statement of this ontology");
    let ours = ids(&s.kernel).remove(0);
    s.greet();
    s.open(wire::FlowOpen { delete_on_unmatch: true, ..open(1, TASKS) });
    let third = |n: u32| bytes(&draft("Task", &format!("plant.third/{n}")));
    let left = wire::Leave { sync_id: ours.clone(), time: Hlc::from_ms(NOW_MS).0, kernel: KernelKey::of(THERE).0 };
    let told = |did: &Did| did.acked().map(|a| (a.counts.map(|c| c.rejected), a.refusal.clone()));
    let did = s.push(batch(1, 0, 1, vec![third(1), third(2)]));
    let (rejected, why) = told(&did).unwrap_or_else(|| panic!("{did:?}"));
    assert!(rejected == Some(2) && why.contains("plant.third/2") && why.contains("forwarding"), "{why:?}");
    let did = s.push(wire::SyncPush { leaves: vec![left], ..batch(1, 1, 2, Vec::new()) });
    let (rejected, why) = told(&did).unwrap_or_else(|| panic!("{did:?}"));
    assert!(rejected == Some(3) && why.contains(&ours) && !why.contains("may not"), "{why:?}");
    let did = s.push(batch(1, 2, 3, vec![task(1)]));
    assert_eq!(told(&did), Some((Some(3), String::new())), "nothing is refused in this one");
}

/// Two versions of it, or it and what is said of it, are more than one record holds.
#[test]
fn a_conflict_of_large_versions_is_logged_as_far_as_there_is_room() {
    let mut s = Side::new(Vec::new());
    s.greet();
    s.open(open(1, TASKS));
    s.takes(1, 0, 1);
    let large = |letter: &str| Value::String(letter.repeat(700_000));
    let params = Params::from([("n".to_owned(), large("x"))]);
    let script = format!(r#"MATCH t: Task WHERE t._sync_id = "{THERE}/1" SET t.name = $n"#);
    s.kernel.execute(NOW_MS, &script, &params).expect("a statement of this ontology");
    let mut theirs = draft("Task", &format!("{THERE}/1"));
    theirs.set(number("name"), large("y"));
    theirs.stamp(KernelKey::of(THERE), NOW_MS - 500, None);
    let did = s.push(batch(1, 1, 2, vec![bytes(&theirs)]));
    let counts = did.acked().and_then(|a| a.counts).unwrap_or_else(|| panic!("{did:?}"));
    assert_eq!((counts.conflicts, counts.rejected), (1, 0));
    let all = s.kernel.view().facts(records::CONFLICT).expect("a disk in memory");
    let logged = wire::Conflict::decode(all[0].1.clone()).expect("a conflict");
    assert!(logged.resolution == records::LOCAL_KEPT && logged.local.is_empty() && logged.incoming == bytes(&theirs));
    s.takes(1, 2, 2);
}
