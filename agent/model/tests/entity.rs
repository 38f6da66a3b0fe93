//! The entity codec: every draft survives encode → validate → to_draft, an entity has exactly one byte form, and no
//! bytes whatsoever make a reader panic.

use mew_model::entity::{MAX_ENTITY, MAX_SYNC_ID, MAX_WRITERS, Malformed};
use mew_model::{Draft, EntityRef, Hlc, KernelKey, Number, Value, Vector};
use proptest::prelude::*;

/// Where the flags would begin: behind time and kernel.
const FLAGS_AT: usize = 18;
/// The length of the sync_id, if there are no flags: behind the type (5 bytes) and the tag.
const SYNC_ID_LEN_AT: usize = 24;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("\0".to_owned()),
        Just("a\0b".to_owned()),
        Just("𝕏 and 😀 and \u{10ffff}".to_owned()),
        Just("x".repeat(300)),
        prop::collection::vec(any::<char>(), 0..20).prop_map(|c| c.into_iter().collect::<String>()),
    ]
}

/// 1 to [`MAX_SYNC_ID`] bytes, none of them NUL.
fn sync_ids() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("a".repeat(MAX_SYNC_ID)),
        1 => Just("\u{1}".to_owned()),
        8 => prop::collection::vec(any::<char>(), 1..40).prop_map(|c| c.into_iter().collect::<String>().replace('\0', "0")),
    ]
}

fn ints() -> impl Strategy<Value = i64> {
    prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(-1), Just(0), Just(1), any::<i64>()]
}

/// By their bits: NaN payloads, quiet and signalling, count.
fn floats() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(f64::NAN.to_bits()),
        Just(0x7ff0_0000_0000_0001),
        Just(0xfff8_dead_beef_cafe),
        Just(f64::INFINITY.to_bits()),
        Just(f64::NEG_INFINITY.to_bits()),
        Just((-0.0_f64).to_bits()),
        any::<u64>(),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        texts().prop_map(Value::String),
        texts().prop_map(Value::Id),
        ints().prop_map(Value::Int),
        ints().prop_map(Value::Timestamp),
        ints().prop_map(Value::Duration),
        floats().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        any::<bool>().prop_map(Value::Bool),
    ]
}

/// Any valid draft: nothing in its vector is later than its version.
fn drafts() -> impl Strategy<Value = Draft> {
    (
        (1..=u64::MAX, any::<u64>(), any::<bool>(), any::<u32>(), sync_ids()),
        prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..6),
        prop::collection::vec(sync_ids(), 0..3),
        prop::collection::btree_map(any::<u32>(), values(), 0..8),
    )
        .prop_map(|((time, kernel, deleted, ty, sync_id), seen, ends, attrs)| {
            let mut vector = Vector::default();
            for (k, t) in seen.into_iter().map(|(k, t)| (k, 1 + t % time)).filter(|(k, _)| *k != kernel) {
                if (t, k) < (time, kernel) {
                    vector.raise(KernelKey(k), Hlc(t));
                }
            }
            vector.raise(KernelKey(kernel), Hlc(time));
            Draft {
                time: Hlc(time),
                kernel: KernelKey(kernel),
                deleted,
                ty,
                sync_id,
                vector,
                ends,
                attrs: attrs.into_iter().collect(),
            }
        })
}

/// Has one of everything.
fn sample() -> Draft {
    let mut d = Draft::new(0x0102_0304, "plant/42".to_owned());
    d.vector.raise(KernelKey(7), Hlc(5));
    d.vector.raise(KernelKey(u64::MAX), Hlc(6));
    d.ends = vec!["plant/1".to_owned(), "é".to_owned()];
    d.set(1, Value::String("long enough, 𝕏".to_owned()));
    d.set(2, Value::Int(i64::MIN));
    d.set(3, Value::Float(-0.0));
    d.set(4, Value::Bool(true));
    d.set(5, Value::Timestamp(300));
    d.set(6, Value::Duration(-1));
    d.set(7, Value::Id("plant/9".to_owned()));
    d.stamp(KernelKey(9), 1_700_000_000_000, Some(Hlc(6)));
    d
}

/// A draft without vector, ends and attributes; what a test appends comes right behind its head.
fn bare() -> Draft {
    let mut d = Draft::new(3, "id".to_owned());
    d.stamp(KernelKey(9), 1000, None);
    d
}

fn seen_bytes(kernel: u64, time: u64) -> Vec<u8> {
    let mut out = vec![0x32, 18, 0x09];
    out.extend_from_slice(&kernel.to_le_bytes());
    out.push(0x11);
    out.extend_from_slice(&time.to_le_bytes());
    out
}

fn attr_bytes(key: Number, value: &[u8]) -> Vec<u8> {
    let mut out = vec![0x42, 5 + value.len() as u8, 0x0d];
    out.extend_from_slice(&key.to_le_bytes());
    out.extend_from_slice(value);
    out
}

fn with_tail(d: &Draft, tail: &[Vec<u8>]) -> Vec<u8> {
    let mut out = d.encode();
    out.extend(tail.concat());
    out
}

fn refusal(bytes: &[u8]) -> Option<Malformed> {
    EntityRef::validate(bytes).err()
}

/// Reads bytes in every way there is. Returns whether they are valid; if so, they must be canonical.
fn probe(bytes: &[u8]) -> bool {
    if let Ok(e) = EntityRef::read(bytes) {
        let _ = (e.version(), e.vector(), e.ends().count(), e.attrs().count(), e.to_draft(), e.same_content(&e));
        for key in [0, 1, 4, 7, u32::MAX] {
            let _ = e.attr(key);
        }
    }
    let Ok(e) = EntityRef::validate(bytes) else { return false };
    assert_eq!(e.to_draft().encode(), bytes, "valid, and yet a second form of the same entity");
    for (key, value) in e.attrs() {
        assert_eq!(e.attr(key), value, "attribute {key} read in place");
    }
    true
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn a_draft_survives_the_round_trip(draft in drafts()) {
        let bytes = draft.encode();
        let e = EntityRef::validate(&bytes).expect("a valid draft encodes to a valid entity");
        prop_assert_eq!(e.bytes, &bytes[..]);
        prop_assert_eq!(e.to_draft(), draft);
    }

    #[test]
    fn reading_in_place_agrees_with_the_draft(draft in drafts(), other in any::<u32>()) {
        let bytes = draft.encode();
        let e = EntityRef::read(&bytes).expect("a valid draft encodes to an entity");
        prop_assert_eq!((e.time, e.kernel, e.deleted, e.ty), (draft.time, draft.kernel, draft.deleted, draft.ty));
        prop_assert_eq!(e.sync_id, draft.sync_id.as_str());
        prop_assert_eq!(e.vector(), draft.vector.clone());
        prop_assert!(e.ends().eq(draft.ends.iter().map(String::as_str)));
        prop_assert!(e.attrs().eq(draft.attrs.iter().cloned()));
        for (key, value) in &draft.attrs {
            prop_assert_eq!(&e.attr(*key), value);
        }
        let expected = draft.attrs.iter().find(|(k, _)| *k == other).map_or(Value::Null, |(_, v)| v.clone());
        prop_assert_eq!(e.attr(other), expected);
    }

    #[test]
    fn encoding_is_canonical(draft in drafts()) {
        let bytes = draft.encode();
        let e = EntityRef::validate(&bytes).expect("a valid draft encodes to a valid entity");
        prop_assert_eq!(e.to_draft().encode(), bytes);
    }

    #[test]
    fn a_stamped_draft_is_always_valid(
        first in drafts(),
        writes in prop::collection::vec((0_u64..5, 0_u64..1 << 47), 1..8),
    ) {
        let mut d = Draft { time: Hlc(0), vector: Vector::default(), ..first };
        for (kernel, now_ms) in writes {
            let replaced = d.time;
            d.stamp(KernelKey(kernel), now_ms, Some(replaced));
            prop_assert!(d.time > replaced);
            prop_assert_eq!(d.vector.get(d.kernel), d.time);
            prop_assert_eq!(refusal(&d.encode()), None);
        }
    }

    #[test]
    fn mutated_entities_never_panic_and_stay_canonical(
        draft in drafts(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..4),
    ) {
        let mut bytes = draft.encode();
        for (at, byte, what) in changes {
            let at = at.index(bytes.len() + 1);
            match what {
                0 => bytes.insert(at, byte),
                1 => bytes.truncate(at),
                2 if at < bytes.len() => {
                    bytes.remove(at);
                }
                _ if at < bytes.len() => bytes[at] = byte,
                _ => {}
            }
        }
        probe(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        probe(&bytes);
        // And behind a head that is right.
        let mut whole = bare().encode();
        whole.extend_from_slice(&bytes);
        probe(&whole);
    }
}

#[test]
fn every_single_mutation_of_a_sample_is_refused_or_canonical() {
    let good = sample().encode();
    assert!(probe(&good));
    let (mut accepted, mut refused) = (0, 0);
    let mut count = |ok: bool| if ok { accepted += 1 } else { refused += 1 };
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut b = good.clone();
            b[at] ^= 1 << bit;
            count(probe(&b));
        }
        let mut b = good.clone();
        b.remove(at);
        count(probe(&b));
        count(probe(&good[..at]));
    }
    for at in 0..=good.len() {
        for byte in 0..=u8::MAX {
            let mut b = good.clone();
            b.insert(at, byte);
            count(probe(&b));
        }
    }
    assert!(accepted > 100, "flips inside times, numbers and texts give other entities; only {accepted} did");
    assert!(refused > 1000, "flips of tags and lengths must be refused; only {refused} were");
}

#[test]
fn the_byte_form_is_what_the_protocol_says() {
    let mut d = Draft::new(3, "a".to_owned());
    (d.time, d.kernel, d.deleted) = (Hlc(1), KernelKey(2), true);
    d.vector.raise(KernelKey(2), Hlc(1));
    d.vector.raise(KernelKey(8), Hlc(1));
    d.ends = vec!["b".to_owned()];
    d.attrs = vec![(4, Value::Int(-1))];
    let expected: &[&[u8]] = &[
        &[0x09, 1, 0, 0, 0, 0, 0, 0, 0],
        &[0x11, 2, 0, 0, 0, 0, 0, 0, 0],
        &[0x18, 1],
        &[0x25, 3, 0, 0, 0],
        &[0x2a, 1, b'a'],
        &[0x32, 18, 0x09, 8, 0, 0, 0, 0, 0, 0, 0, 0x11, 1, 0, 0, 0, 0, 0, 0, 0],
        &[0x3a, 1, b'b'],
        &[0x42, 7, 0x0d, 4, 0, 0, 0, 0x18, 1],
    ];
    assert_eq!(d.encode(), expected.concat());
}

#[test]
fn an_unknown_flag_is_refused() {
    let with_flags = |flags: &[u8]| {
        let mut b = bare().encode();
        b.splice(FLAGS_AT..FLAGS_AT, [&[0x18][..], flags].concat());
        b
    };
    assert!(EntityRef::validate(&with_flags(&[1])).expect("deleted is a known flag").deleted);
    let bad: [&[u8]; 6] = [&[0], &[2], &[3], &[0x40], &[0x80, 1], &[0x81, 0]];
    for flags in bad {
        assert_eq!(refusal(&with_flags(flags)), Some(Malformed::Head), "flags {flags:?}");
    }
}

#[test]
fn a_varint_that_is_not_minimal_is_refused() {
    let mut b = bare().encode();
    assert_eq!(b[SYNC_ID_LEN_AT], 2, "the length of the sync_id is here");
    b.splice(SYNC_ID_LEN_AT..=SYNC_ID_LEN_AT, [0x82, 0x00]);
    assert_eq!(refusal(&b), Some(Malformed::Head));

    let number = |value: &[u8]| refusal(&with_tail(&bare(), &[attr_bytes(7, value)]));
    assert_eq!(number(&[0x18, 0x00]), None);
    assert_eq!(number(&[0x18, 0x80, 0x00]), Some(Malformed::Attribute(0)));
    assert_eq!(number(&[0x18, 0x81, 0x80, 0x00]), Some(Malformed::Attribute(0)));

    let nine = |last: &[u8]| [&[0x18][..], &[0xff; 9], last].concat();
    assert_eq!(number(&nine(&[0x01])), None, "i64::MIN");
    assert_eq!(number(&nine(&[0x02])), Some(Malformed::Attribute(0)), "more than 64 bits");
    assert_eq!(number(&nine(&[0x81, 0x00])), Some(Malformed::Attribute(0)), "eleven bytes");

    // The length of an attribute.
    let mut long = attr_bytes(7, &[0x18, 0x00]);
    long.splice(1..2, [0x87, 0x00]);
    assert_eq!(refusal(&with_tail(&bare(), &[long])), Some(Malformed::Attribute(0)));
}

#[test]
fn attributes_out_of_order_or_twice_are_refused() {
    let yes = [0x28, 1];
    let keys = |keys: &[u32]| {
        let tail: Vec<Vec<u8>> = keys.iter().map(|k| attr_bytes(*k, &yes)).collect();
        refusal(&with_tail(&bare(), &tail))
    };
    assert_eq!(keys(&[5, 7, 9]), None);
    assert_eq!(keys(&[5, 9, 7]), Some(Malformed::Attribute(9)));
    assert_eq!(keys(&[7, 7]), Some(Malformed::Attribute(7)));
    assert_eq!(keys(&[0, 0]), Some(Malformed::Attribute(0)));
    assert_eq!(keys(&[0, u32::MAX]), None);
}

#[test]
fn malformed_attributes_are_refused() {
    let one = |value: &[u8]| refusal(&with_tail(&bare(), &[attr_bytes(7, value)]));
    assert_eq!(one(&[0x12, 1, b'x']), None);
    let bad: [(&[u8], &str); 8] = [
        (&[], "no value: null is absence"),
        (&[0x28, 2], "a truth value that is neither"),
        (&[0x28, 1, 0], "bytes behind the value"),
        (&[0x28, 1, 0x28, 1], "two values"),
        (&[0x21, 0, 0, 0], "half a float"),
        (&[0x12, 1, 0xff], "text that is not UTF-8"),
        (&[0x12, 5, b'x'], "text longer than its attribute"),
        (&[0x4a, 0], "an unknown kind"),
    ];
    for (value, why) in bad {
        assert_eq!(one(value), Some(Malformed::Attribute(0)), "{why}");
    }
}

#[test]
fn the_vector_is_checked() {
    let d = bare();
    let (writer, time) = (d.kernel.0, d.time.0);
    let seen = |entries: &[(u64, u64)]| {
        let tail: Vec<Vec<u8>> = entries.iter().map(|(k, t)| seen_bytes(*k, *t)).collect();
        refusal(&with_tail(&d, &tail))
    };
    assert_eq!(seen(&[(writer - 1, time), (writer + 1, 1)]), None);
    assert_eq!(seen(&[(writer, 1)]), Some(Malformed::Vector), "the writer itself");
    assert_eq!(seen(&[(1, time + 1)]), Some(Malformed::Vector), "later than the version");
    assert_eq!(seen(&[(writer + 1, time)]), Some(Malformed::Vector), "of the same time, and of a later kernel");
    assert_eq!(seen(&[(2, 1), (1, 1)]), Some(Malformed::Vector), "out of order");
    assert_eq!(seen(&[(1, 1), (1, 2)]), Some(Malformed::Vector), "one kernel twice");
    let mut short = seen_bytes(1, 1);
    short.pop();
    short[1] = 17;
    assert_eq!(refusal(&with_tail(&d, &[short])), Some(Malformed::Vector), "an entry of another length");
}

#[test]
fn a_sync_id_with_nul_is_refused() {
    for id in ["\0", "a\0b"] {
        let mut d = Draft::new(1, id.to_owned());
        d.stamp(KernelKey(1), 1, None);
        assert_eq!(EntityRef::validate(&d.encode()).err(), Some(Malformed::SyncId), "{id:?}");
    }
}

#[test]
fn an_edge_has_two_ends_and_a_version_a_time() {
    let with_ends = |n: usize| refusal(&with_tail(&bare(), &vec![vec![0x3a, 1, b'e']; n]));
    assert_eq!((with_ends(2), with_ends(3)), (None, Some(Malformed::End)));
    let mut d = bare();
    d.time = Hlc(0);
    assert_eq!(refusal(&d.encode()), Some(Malformed::Vector));
}

/// What is stamped here must be acceptable to every peer, however many kernels wrote it before.
#[test]
fn a_stamp_keeps_the_newest_writers() {
    let mut d = Draft::new(1, "a".to_owned());
    for k in 1..=200 {
        d.vector.raise(KernelKey(k), Hlc(k << 20));
    }
    d.stamp(KernelKey(7), 1, Some(Hlc(200 << 20)));
    let bytes = d.encode();
    let e = EntityRef::validate(&bytes).expect("not more writers than are allowed");
    assert_eq!(e.vector().get(KernelKey(200)), Hlc(200 << 20), "the newest stay");
    assert_eq!(e.vector().get(KernelKey(1)), Hlc(0), "the oldest go");
}

#[test]
fn more_writers_than_allowed_are_refused() {
    let by = |writers: u64| {
        let mut d = bare();
        for k in 1..writers {
            d.vector.raise(KernelKey(100 + k), Hlc(k));
        }
        assert_eq!(d.vector.iter().count() as u64, writers);
        refusal(&d.encode())
    };
    assert_eq!(by(MAX_WRITERS as u64), None);
    assert_eq!(by(MAX_WRITERS as u64 + 1), Some(Malformed::Vector));
}

#[test]
fn ids_have_1_to_255_bytes() {
    let id = |n: usize| {
        let mut d = bare();
        d.sync_id = "a".repeat(n);
        refusal(&d.encode())
    };
    let end = |n: usize| {
        let mut d = bare();
        d.ends = vec!["a".repeat(n), "b".to_owned()];
        refusal(&d.encode())
    };
    for n in [1, MAX_SYNC_ID] {
        assert_eq!((id(n), end(n)), (None, None), "{n} bytes");
    }
    for n in [0, MAX_SYNC_ID + 1] {
        assert_eq!((id(n), end(n)), (Some(Malformed::SyncId), Some(Malformed::End)), "{n} bytes");
    }
}

#[test]
fn fields_out_of_order_are_refused() {
    let end = vec![0x3a, 1, b'e'];
    let attr = attr_bytes(7, &[0x28, 1]);
    let seen = seen_bytes(1, 1);
    assert_eq!(refusal(&with_tail(&bare(), &[seen.clone(), end.clone(), attr.clone()])), None);
    assert_eq!(refusal(&with_tail(&bare(), &[end.clone(), seen])), Some(Malformed::Attribute(0)));
    assert_eq!(refusal(&with_tail(&bare(), &[attr, end])), Some(Malformed::Attribute(7)));
}

#[test]
fn an_entity_that_is_too_large_is_refused() {
    let of_size = |text: usize| {
        let mut d = bare();
        d.set(1, Value::String("x".repeat(text)));
        d.encode()
    };
    let overhead = of_size(MAX_ENTITY - 100).len() - (MAX_ENTITY - 100);
    let largest = of_size(MAX_ENTITY - overhead);
    assert_eq!((largest.len(), refusal(&largest)), (MAX_ENTITY, None));
    let larger = of_size(MAX_ENTITY - overhead + 1);
    assert_eq!(refusal(&larger), Some(Malformed::TooLarge(MAX_ENTITY + 1)));
}

#[test]
fn setting_null_removes_and_deleting_keeps_identity() {
    let mut d = sample();
    d.set(4, Value::Null);
    d.set(100, Value::Null);
    let bytes = d.encode();
    let e = EntityRef::validate(&bytes).expect("valid");
    assert_eq!(e.attr(4), Value::Null);
    assert_eq!(e.attrs().map(|a| a.0).collect::<Vec<_>>(), [1, 2, 3, 5, 6, 7]);
    d.delete();
    let tombstone = d.encode();
    let t = EntityRef::validate(&tombstone).expect("valid");
    assert!(t.deleted && t.attrs().next().is_none());
    assert_eq!((t.sync_id, t.version(), t.ends().count()), (e.sync_id, e.version(), 2));
    assert!(!t.same_content(&e));
}

#[test]
fn content_is_compared_without_history() {
    let (a, mut b) = (sample(), sample());
    b.stamp(KernelKey(77), 1_800_000_000_000, Some(b.time));
    let (x, y) = (a.encode(), b.encode());
    let (x, y) = (EntityRef::read(&x).expect("valid"), EntityRef::read(&y).expect("valid"));
    assert_ne!(x.version(), y.version());
    assert!(x.same_content(&y));
    b.set(2, Value::Int(0));
    let z = b.encode();
    assert!(!x.same_content(&EntityRef::read(&z).expect("valid")));
}
