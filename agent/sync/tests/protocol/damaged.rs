//! Damage to an honest session: what arrives is what was sent, or nothing.

use crate::common::NOW_MS;
use crate::damage::Damage;
use crate::peer::{OTHERS, TASKS, accept, ack, batch, bytes, draft, edge, handshake, open, pull, task};
use crate::side::{Side, content};
use bytes::Bytes;
use mew_contract::samples::{HERE, THERE};
use mew_contract::{Problem, Reason};
use mew_model::name::{kernel_of_sync_id, number};
use mew_model::{EntityRef, Hlc, KernelKey};
use mew_sync::Event;
use mew_wire as wire;
use prost::Message;
use wire::frame::Body;

/// An honest session, and what its entities are.
fn session() -> (Vec<Vec<u8>>, Vec<Bytes>) {
    let entities = vec![task(1), task(2), edge(1, 2), task(3)];
    let e = |n: &[usize]| n.iter().map(|i| entities[*i].clone()).collect::<Vec<_>>();
    let bodies = [
        Body::Handshake(handshake()),
        Body::FlowOpen(open(1, TASKS)),
        accept(2),
        Body::SyncPush(batch(1, 0, 2, e(&[0, 1]))),
        Body::FlowOpen(pull(3, OTHERS)),
        ack(2, 1),
        Body::Ping(wire::Ping { nonce: 5 }),
        Body::SyncPush(batch(1, 2, 3, e(&[2]))),
        ack(3, 1),
        Body::RulesChanged(wire::RulesChanged {}),
        Body::Pong(wire::Pong { nonce: 1, now_ms: NOW_MS }),
        Body::SyncPush(batch(1, 3, 4, e(&[3]))),
        Body::SyncNack(wire::SyncNack { flow: 2, code: "SinkError".into(), message: "the disk is full".into() }),
        Body::FlowClose(wire::FlowClose { flow: 1 }),
    ];
    (bodies.into_iter().map(|b| wire::Frame { body: Some(b) }.encode_to_vec()).collect(), entities)
}

/// Plays frames as `agent/net/src/hub.rs` does: what is no frame ends the connection.
fn play(s: &mut Side, frames: &[Vec<u8>]) {
    s.connect();
    for f in frames {
        let event = match wire::Frame::decode(f.as_slice()) {
            Ok(f) => Event::Frame(s.conn, f),
            Err(e) => Event::Closed(s.conn, Some(Problem::new(Reason::Unreachable, e.to_string()))),
        };
        s.handle(event);
    }
}

#[test]
fn a_damaged_frame_brings_nothing_that_was_not_sent() {
    let (frames, entities) = session();
    let mut s = Side::with_own_flow();
    let own = content(&s.kernel).into_iter().map(|(_, b)| b).collect::<Vec<_>>();
    play(&mut s, &frames);
    assert_eq!(content(&s.kernel).len(), own.len() + entities.len(), "the honest session brings everything");

    let mut damage = Damage::new(11);
    let (mut less, mut no_frame) = (0, 0);
    for n in 0..1_200 {
        let mut frames = frames.clone();
        let which = n % frames.len();
        frames[which] = damage.bytes(&frames[which]);
        no_frame += usize::from(wire::Frame::decode(frames[which].as_slice()).is_err());
        let mut s = Side::with_own_flow();
        play(&mut s, &frames);
        let found: Vec<Bytes> = content(&s.kernel).into_iter().map(|(_, b)| b).collect();
        for b in &found {
            // The own task has another id and time in each kernel, and is the first.
            assert!(entities.contains(b) || found.first() == Some(b), "frame {which}: {:?}", EntityRef::read(b));
        }
        less += usize::from(found.len() < 1 + entities.len());
        s.greet();
        s.open(open(1, "there/again"));
        s.takes(1, 0, 8);
    }
    assert!(less > 120 && no_frame > 120, "{less} brought less, {no_frame} were no frames");
}

/// With the right checksum: only what is a valid entity, of a type and a kernel that may come, not from the future.
#[test]
fn a_damaged_entity_is_stored_only_as_a_valid_one_that_may_come() {
    let mut rich = draft("Task", &format!("{THERE}/77"));
    rich.vector.raise(KernelKey(5), Hlc::from_ms(NOW_MS - 2_000));
    rich.vector.raise(KernelKey::of(HERE), Hlc::from_ms(NOW_MS - 3_000));
    let samples = [task(1), edge(1, 1), bytes(&rich), edge(1, 2)];
    let mut damage = Damage::new(12);
    let mut s = Side::new(Vec::new());
    s.greet();
    let (mut flow, mut at, mut ahead) = (1, 0, 0);
    s.open(open(flow, TASKS));
    let mut counts = wire::Counts::default();
    for n in 0..4_000 {
        let b = Bytes::from(damage.bytes(&samples[n % samples.len()]));
        let did = s.push(batch(flow, at, at + 1, vec![b.clone()]));
        if let Some(a) = did.acked() {
            at += 1;
            counts = a.counts.unwrap_or_default();
            continue;
        }
        ahead += 1;
        let nack = did.nacked().unwrap_or_else(|| panic!("{b:?}: {did:?}"));
        assert_eq!(nack.code, Reason::ClockSkew.code(), "{b:?}: {nack:?}");
        flow += 2;
        assert_eq!(s.open(open(flow, TASKS)).position.map_or(0, |p| p.seq), at);
    }
    let types = [number("Task"), number("links")];
    for (_, b) in content(&s.kernel) {
        let e = EntityRef::validate(&b).unwrap_or_else(|why| panic!("stored and not valid: {why}: {b:?}"));
        assert!(types.contains(&e.ty) && !e.time.is_too_far_ahead(NOW_MS), "{e:?}");
        assert!(kernel_of_sync_id(e.sync_id).is_none_or(|k| k == THERE || k == HERE), "{e:?}");
    }
    assert!(counts.applied > 50 && counts.rejected > 1_000 && ahead > 20, "{counts:?}, {ahead} from the future");
}
