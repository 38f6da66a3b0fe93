//! Versions, vectors and clocks: the laws of causality, and by simulation the invariant **dominates-implies-later** and
//! that kernels with skewed clocks agree under last-write-wins, whatever the order of arrival.

use mew_model::clock::MAX_AHEAD_MS;
use mew_model::{Causality, Draft, Hlc, KernelKey, Value, Vector, Version};
use proptest::prelude::*;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Few kernels and few times, so that every relation is common.
fn vectors() -> impl Strategy<Value = Vector> {
    prop::collection::btree_map(0_u64..4, 1_u64..4, 0..4).prop_map(|m| {
        let mut v = Vector::default();
        for (k, t) in m {
            v.raise(KernelKey(k), Hlc(t));
        }
        v
    })
}

fn merged(a: &Vector, b: &Vector) -> Vector {
    let mut out = a.clone();
    out.merge(b);
    out
}

fn mirror(c: Causality) -> Causality {
    match c {
        Causality::Before => Causality::After,
        Causality::After => Causality::Before,
        other => other,
    }
}

/// Whether `a` includes all of `b`.
fn covers(a: &Vector, b: &Vector) -> bool {
    matches!(a.compare(b), Causality::After | Causality::Equal)
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn compare_is_antisymmetric(a in vectors(), b in vectors()) {
        prop_assert_eq!(b.compare(&a), mirror(a.compare(&b)));
        prop_assert_eq!(a.compare(&b) == Causality::Equal, a == b);
        prop_assert_eq!(a.compare(&a), Causality::Equal);
    }

    #[test]
    fn compare_is_by_element(a in vectors(), b in vectors()) {
        let all = |x: &Vector, y: &Vector| (0..4).all(|k| x.get(KernelKey(k)) >= y.get(KernelKey(k)));
        prop_assert_eq!(covers(&a, &b), all(&a, &b));
    }

    #[test]
    fn compare_is_transitive(a in vectors(), b in vectors(), c in vectors()) {
        if covers(&a, &b) && covers(&b, &c) {
            prop_assert!(covers(&a, &c));
        }
    }

    #[test]
    fn merge_is_commutative_associative_and_idempotent(a in vectors(), b in vectors(), c in vectors()) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a.clone());
        prop_assert_eq!(merged(&a, &Vector::default()), a);
    }

    #[test]
    fn merge_is_the_least_that_dominates_both(a in vectors(), b in vectors(), c in vectors()) {
        let m = merged(&a, &b);
        prop_assert!(covers(&m, &a) && covers(&m, &b));
        if covers(&c, &a) && covers(&c, &b) {
            prop_assert!(covers(&c, &m));
        }
    }

    #[test]
    fn raise_never_lowers(v in vectors(), k in 0_u64..4, t in 1_u64..5) {
        let k = KernelKey(k);
        let mut r = v.clone();
        r.raise(k, Hlc(t));
        prop_assert_eq!(r.get(k), v.get(k).max(Hlc(t)));
        prop_assert!(covers(&r, &v));
        prop_assert!(r.iter().map(|e| e.0).is_sorted());
    }

    #[test]
    fn the_next_time_is_later_than_what_it_replaces_and_not_before_now(
        now_ms in 0_u64..1 << 48,
        replaced in prop_oneof![0..u64::MAX, (0_u64..1 << 47).prop_map(|ms| ms << 16)],
    ) {
        let (now, replaced) = (Hlc::from_ms(now_ms), Hlc(replaced));
        let next = Hlc::next(now_ms, Some(replaced));
        prop_assert!(next > replaced && next >= now);
        // And no later than needed: the clock does not run away.
        prop_assert!(next == now || next.0 == replaced.0 + 1);
        prop_assert_eq!(Hlc::next(now_ms, None), now);
        prop_assert_eq!(now.ms(), now_ms);
    }
}

#[test]
fn a_time_is_believed_up_to_a_minute_ahead() {
    let now = 1_700_000_000_000;
    assert!(!Hlc::from_ms(now).is_too_far_ahead(now));
    assert!(!Hlc::from_ms(0).is_too_far_ahead(now));
    assert!(!Hlc(Hlc::from_ms(now + MAX_AHEAD_MS + 1).0 - 1).is_too_far_ahead(now));
    assert!(Hlc::from_ms(now + MAX_AHEAD_MS + 1).is_too_far_ahead(now));
    assert!(!Hlc(u64::MAX).is_too_far_ahead(u64::MAX));
}

/// One kernel's copy of the one entity, and how wrong its clock is.
struct Kernel {
    key: KernelKey,
    ahead_ms: u64,
    held: Option<Draft>,
}

impl Kernel {
    /// A local write; `content` tells it from every other write.
    fn write(&mut self, now_ms: u64, content: i64) {
        let replaced = self.held.as_ref().map(|d| d.time);
        let mut d = self.held.take().unwrap_or_else(|| Draft::new(1, "x".to_owned()));
        d.set(1, Value::Int(content));
        d.stamp(self.key, now_ms + self.ahead_ms, replaced);
        self.held = Some(d);
    }

    /// Last-write-wins: the later of two concurrent versions stays, with everything that either has seen.
    fn receive(&mut self, incoming: &Draft) {
        let Some(mine) = &mut self.held else {
            self.held = Some(incoming.clone());
            return;
        };
        match mine.vector.compare(&incoming.vector) {
            Causality::Equal | Causality::After => {}
            Causality::Before => *mine = incoming.clone(),
            Causality::Concurrent => {
                let vector = merged(&mine.vector, &incoming.vector);
                if version(incoming) > version(mine) {
                    *mine = incoming.clone();
                }
                mine.vector = vector;
            }
        }
    }
}

fn version(d: &Draft) -> Version {
    Version { time: d.time, kernel: d.kernel }
}

/// A pair that breaks dominates-implies-later. A version that only learned of losers is still the same write; every
/// other version that dominates must be later.
fn violation(ever: &[Draft]) -> Option<(Draft, Draft)> {
    let ok = |a: &Draft, b: &Draft| {
        let same_write = version(a) == version(b) && a.attrs == b.attrs;
        match a.vector.compare(&b.vector) {
            Causality::Equal => same_write,
            Causality::After => same_write || version(a) > version(b),
            Causality::Before | Causality::Concurrent => true,
        }
    };
    ever.iter()
        .flat_map(|a| ever.iter().map(move |b| (a, b)))
        .find(|(a, b)| !ok(a, b))
        .map(|(a, b)| (a.clone(), b.clone()))
}

#[derive(Clone, Debug)]
enum Step {
    Write { at: usize, tick_ms: u64 },
    Deliver { to: usize, which: prop::sample::Index },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_usize..4, 0_u64..3).prop_map(|(at, tick_ms)| Step::Write { at, tick_ms }),
        (0_usize..4, any::<prop::sample::Index>()).prop_map(|(to, which)| Step::Deliver { to, which }),
    ];
    prop::collection::vec(step, 1..40)
}

/// A permutation of `0..n` drawn from a seed.
fn shuffled(n: usize, mut seed: u64) -> Vec<usize> {
    let mut out: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.swap(i, (seed >> 33) as usize % (i + 1));
    }
    out
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn kernels_with_skewed_clocks_agree_and_dominating_is_later(
        skews in prop::collection::vec(prop_oneof![Just(0_u64), 0_u64..5, 0_u64..120_000], 2..5),
        steps in steps(),
        seed in any::<u64>(),
    ) {
        let mut kernels: Vec<Kernel> = skews
            .iter()
            .enumerate()
            .map(|(i, s)| Kernel { key: KernelKey(100 - i as u64), ahead_ms: *s, held: None })
            .collect();
        let count = kernels.len();
        // Every version that any kernel ever held; each may arrive anywhere, at any time, in any order, repeatedly.
        let mut ever: Vec<Draft> = Vec::new();
        let (mut now_ms, mut content) = (1_700_000_000_000, 0);
        for step in steps {
            let k = match step {
                Step::Write { at, tick_ms } => {
                    now_ms += tick_ms;
                    content += 1;
                    kernels[at % count].write(now_ms, content);
                    &kernels[at % count]
                }
                Step::Deliver { to, which } => {
                    if !ever.is_empty() {
                        kernels[to % count].receive(&ever[which.index(ever.len())]);
                    }
                    &kernels[to % count]
                }
            };
            if let Some(held) = &k.held && !ever.contains(held) {
                ever.push(held.clone());
            }
        }
        prop_assert_eq!(violation(&ever), None);

        let everything = ever.clone();
        for (i, k) in kernels.iter_mut().enumerate() {
            for n in shuffled(everything.len(), seed.wrapping_add(i as u64)) {
                k.receive(&everything[n]);
                ever.extend(k.held.clone().filter(|h| !ever.contains(h)));
            }
        }
        prop_assert_eq!(violation(&ever), None);
        let all = everything.iter().fold(Vector::default(), |v, d| merged(&v, &d.vector));
        let last = everything.iter().map(version).max();
        for k in &kernels {
            prop_assert_eq!(&k.held, &kernels[0].held, "{:?} and {:?} differ", k.key, kernels[0].key);
            prop_assert_eq!(k.held.as_ref().map(version), last);
            prop_assert_eq!(k.held.as_ref().map_or_else(Vector::default, |d| d.vector.clone()), all.clone());
        }
    }
}

/// The simulation would notice: a kernel whose clock is behind, and that ignores what it replaces, breaks the invariant
/// and with it agreement.
#[test]
fn the_check_notices_a_clock_that_ignores_what_it_replaces() {
    let mut ahead = Kernel { key: KernelKey(1), ahead_ms: 1000, held: None };
    ahead.write(10, 1);
    let first = ahead.held.clone().expect("written");
    let mut careless = first.clone();
    careless.set(1, Value::Int(2));
    careless.stamp(KernelKey(2), 10, None);
    assert!(violation(&[first.clone(), careless]).is_some());

    let mut careful = first.clone();
    careful.set(1, Value::Int(2));
    careful.stamp(KernelKey(2), 10, Some(first.time));
    assert_eq!(violation(&[first, careful]), None);
}

#[test]
fn a_tie_of_times_goes_to_the_greater_kernel_everywhere() {
    let mut kernels = [1, 2].map(|k| Kernel { key: KernelKey(k), ahead_ms: 0, held: None });
    for (i, k) in kernels.iter_mut().enumerate() {
        k.write(10, i as i64);
    }
    let sent = [0, 1].map(|i: usize| kernels[i].held.clone().expect("written"));
    assert_eq!(sent[0].time, sent[1].time);
    kernels[0].receive(&sent[1]);
    kernels[1].receive(&sent[0]);
    for k in &kernels {
        let held = k.held.as_ref().expect("written");
        assert_eq!(held.kernel, KernelKey(2));
        assert_eq!(held.attrs, sent[1].attrs);
        assert_eq!(held.vector.iter().count(), 2);
    }
    assert_eq!(kernels[0].held, kernels[1].held);
}
