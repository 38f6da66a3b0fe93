//! Entities and their versions.

use mew_model::entity::{MAX_ENDS, MAX_ENTITY, MAX_WRITERS, is_sync_id};
use mew_model::{Causality, EntityRef, Value};
use mew_wire as wire;
use prost::Message;

/// One entity. What is valid has one form, can be read in place, and is the message that the protocol says it is.
pub fn entity(data: &[u8]) {
    let read = EntityRef::read(data);
    if let Ok(e) = &read {
        // What is on disk is read without being validated again.
        let _ = (e.version(), e.vector(), e.ends().count(), e.to_draft(), e.attr(0), e.same_content(e));
        for (key, _) in e.attr_refs() {
            let _ = e.attr_ref(key).query_cmp(e.attr_ref(key));
        }
    }
    let e = match EntityRef::validate(data) {
        Ok(e) => e,
        Err(why) => {
            assert!(!why.to_string().is_empty());
            return;
        }
    };
    assert!(read.is_ok(), "valid, and cannot be read");
    assert_eq!(e.to_draft().encode(), data, "valid, and a second form of the same entity");
    assert!(is_sync_id(e.sync_id) && e.ends().all(is_sync_id) && e.ends().count() <= MAX_ENDS);
    assert!(e.vector().iter().count() <= MAX_WRITERS && e.vector().get(e.kernel) == e.time);
    assert!(e.same_content(&e));
    for (key, v) in e.attrs() {
        assert_eq!(e.attr(key), v, "attribute {key:#010x} read in place");
        assert!(!v.is_null() && v.borrowed().kind() == v.kind());
    }
    is_what_the_protocol_says(&e);
}

fn is_what_the_protocol_says(e: &EntityRef<'_>) {
    let m = wire::Entity::decode(e.bytes).expect("a valid entity is a message");
    assert_eq!((m.time, m.kernel, m.flags, m.r#type), (e.time.0, e.kernel.0, u32::from(e.deleted), e.ty));
    assert_eq!(m.sync_id, e.sync_id);
    assert!(m.ends.iter().map(String::as_str).eq(e.ends()));
    let others: Vec<(u64, u64)> = m.seen.iter().map(|s| (s.kernel, s.time)).collect();
    let vector = e.vector();
    let seen = vector.iter().filter(|(k, _)| *k != e.kernel).map(|(k, t)| (k.0, t.0));
    assert!(seen.eq(others));
    let said: Vec<(u32, Value)> = m.attrs.iter().map(|a| (a.key, value_of(a))).collect();
    assert!(e.attrs().eq(said));
}

fn value_of(a: &wire::Attr) -> Value {
    use wire::attr::Value as W;
    match &a.value {
        None => Value::Null,
        Some(W::String(s)) => Value::String(s.clone()),
        Some(W::Int(i)) => Value::Int(*i),
        Some(W::Float(x)) => Value::Float(*x),
        Some(W::Bool(b)) => Value::Bool(*b),
        Some(W::Timestamp(t)) => Value::Timestamp(*t),
        Some(W::Duration(d)) => Value::Duration(*d),
        Some(W::Id(s)) => Value::Id(s.clone()),
    }
}

/// Two entities, the length of the first before both: what their vectors say of each other, and of both together.
pub fn versions(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let Some((a, b)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))) else { return };
    let (Ok(a), Ok(b)) = (EntityRef::validate(a), EntityRef::validate(b)) else { return };
    let (x, y) = (a.vector(), b.vector());
    let forth = x.compare(&y);
    let back = match forth {
        Causality::Before => Causality::After,
        Causality::After => Causality::Before,
        same => same,
    };
    assert_eq!(y.compare(&x), back, "{x:?} and {y:?}");
    // The invariant dominates-implies-later.
    match forth {
        Causality::After => assert!(a.version() >= b.version(), "{a:?} includes {b:?}"),
        Causality::Before => assert!(a.version() <= b.version(), "{b:?} includes {a:?}"),
        Causality::Equal => assert_eq!(a.version(), b.version(), "{a:?} is {b:?}"),
        Causality::Concurrent => {}
    }
    let (mut both, mut other) = (x.clone(), y.clone());
    both.merge(&y);
    other.merge(&x);
    assert_eq!(both, other, "the order of merging matters");
    for v in [&x, &y] {
        assert!(matches!(both.compare(v), Causality::After | Causality::Equal));
        other.merge(v);
    }
    assert_eq!(both, other, "merging again matters");
    for most in [0, 1, MAX_WRITERS] {
        let mut few = both.clone();
        few.keep_newest(most);
        assert!(few.iter().count() <= most);
        assert!(matches!(few.compare(&both), Causality::Before | Causality::Equal));
    }
    // What is taken over from the other stays valid, as long as it is the later one that takes it.
    let (later, knows) = if a.version() > b.version() { (a, &y) } else { (b, &x) };
    let mut d = later.to_draft();
    d.learn(knows);
    if let Err(why) = EntityRef::validate(&d.encode()) {
        assert!(d.encode().len() > MAX_ENTITY, "{why}: {d:?}");
    }
}
