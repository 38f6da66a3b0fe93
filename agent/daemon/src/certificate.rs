//! The agent's own certificate: the key is made and kept here, the operator signs, and it is renewed long before its end.

use crate::operator::{OperatorChannel, Refusal};
use crate::state::StateDir;
use anyhow::{Context, Result};
use mew_net::Hub;
use mew_tls::{Material, not_after_ms, root_of_chain, server_config};
use mew_wire::SignRequest;
use mew_wire::control_client::ControlClient;
use std::time::{Duration, Instant};

/// Renewed when less than this part of its life is left (of 72 hours: with 48 left).
const RENEW_LEFT: (u64, u64) = (2, 3);
/// Reports wait while a signature does: not for as long as makes this agent look dead.
const SIGN: Duration = Duration::from_secs(10);
/// Between tries to get one signed.
const AGAIN: Duration = Duration::from_secs(2);
/// Agents that learn at the same moment that they need another certificate, as another root signs, ask within this time and not
/// all at once. Of ten thousand that is a few hundred in a second, each with a token that the API server has to review: with
/// some milliseconds for each, nobody waits for as long as [`SIGN`]. People wait this long between two steps of a rotation.
const SPREAD: Duration = Duration::from_secs(30);
/// And within this part of what is left of the certificate's life, as short ones are not to end meanwhile.
const SPREAD_LEFT: u64 = 10;

#[derive(Clone, Debug, Default)]
pub struct Validity {
    pub since_ms: u64,
    pub until_ms: u64,
    /// Which root of the own trust domain it comes from, if it is known.
    pub root: Option<String>,
}

impl Validity {
    pub fn is_due(&self, now_ms: u64) -> bool {
        let life = self.until_ms.saturating_sub(self.since_ms);
        now_ms + life / RENEW_LEFT.1 * RENEW_LEFT.0 >= self.until_ms
    }

    /// Whether it comes from another root than certificates do now.
    fn is_of_another(&self, own: Option<&OwnTrust>) -> bool {
        self.root.as_ref().is_some_and(|root| own.is_some_and(|o| o.signer != *root))
    }

    /// For how long it serves as well as another one, as far as that matters here. One of a root that nobody trusts any more, or
    /// that is not known, may be refused by everybody.
    fn spread(&self, own: Option<&OwnTrust>, now_ms: u64) -> Duration {
        let is_trusted = |root: &String| own.is_none_or(|o| o.trusted.contains(root));
        if !self.root.as_ref().is_some_and(is_trusted) {
            return Duration::ZERO;
        }
        SPREAD.min(Duration::from_millis(self.until_ms.saturating_sub(now_ms) / SPREAD_LEFT))
    }
}

/// The roots of the own trust domain, as the operator says.
#[derive(Clone, Debug)]
pub struct OwnTrust {
    /// Certificates come from it now.
    pub signer: String,
    /// Among them that one.
    pub trusted: Vec<String>,
}

/// When another certificate is asked for.
#[derive(Debug, Default)]
pub struct Renewal {
    /// Since when one is needed, and the number that chose this agent's place among all.
    needed: Option<(Instant, u64)>,
    tried: Option<Instant>,
}

impl Renewal {
    /// Whether to ask now; then it counts as tried. `random` is any fresh number, of which all bits count.
    pub fn is_due(
        &mut self,
        has: Option<&Validity>,
        own: Option<&OwnTrust>,
        now_ms: u64,
        now: Instant,
        random: u64,
    ) -> bool {
        if has.is_some_and(|v| !v.is_due(now_ms) && !v.is_of_another(own)) {
            *self = Renewal::default();
            return false;
        }
        let (since, place) = *self.needed.get_or_insert((now, random));
        // Anew each time: while it waits, its root may go.
        let spread = has.map_or(Duration::ZERO, |v| v.spread(own, now_ms));
        let is_early = now.saturating_duration_since(since) < part(spread, place);
        if is_early || self.tried.is_some_and(|t| now.saturating_duration_since(t) < AGAIN) {
            return false;
        }
        self.tried = Some(now);
        true
    }
}

/// As much of it as `place` is of all numbers.
fn part(of: Duration, place: u64) -> Duration {
    let ms = (of.as_millis() * u128::from(place)) >> u64::BITS;
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// Gives the certificate on disk to the hub; `None` if another one is needed at once.
pub fn load(dir: &StateDir, hub: &Hub, now_ms: u64) -> Option<Validity> {
    let (chain_pem, key_pem) = dir.certificate()?;
    let until_ms = not_after_ms(&chain_pem).ok()?;
    let own = Material { chain_pem, key_pem };
    // The key and the certificate of two different pairs, if writing was cut off between them.
    server_config(&own, None).ok()?;
    let roots = dir.roots();
    let root = roots.as_deref().and_then(|roots| root_of_chain(&own.chain_pem, roots));
    // Also an expired one: peers refuse it, and then say what is wrong.
    hub.set_material(own);
    hub.set_own_root(root.clone());
    // When it was made is not known any more; renewing soon does no harm. One of a root that is not trusted any more is due
    // at once.
    let since_ms = if root.is_none() && roots.is_some() { 0 } else { now_ms };
    (until_ms > now_ms).then_some(Validity { since_ms, until_ms, root })
}

pub async fn renew(kernel: &str, channel: OperatorChannel, dir: &StateDir, hub: &Hub, now_ms: u64) -> Result<Validity> {
    let request = mew_tls::new_request()?;
    let mut client = ControlClient::new(channel);
    let signing = client.sign(SignRequest { kernel: kernel.to_owned(), csr_pem: request.pem });
    let signed = tokio::time::timeout(SIGN, signing)
        .await
        .ok()
        .context("no new certificate: the operator does not answer in time; this agent tries again")?
        .map_err(|s| Refusal::of(&s))
        .context("no new certificate")?
        .into_inner();
    let until_ms = not_after_ms(&signed.chain_pem)?;
    let saved = dir.save_certificate(&signed.chain_pem, &request.key_pem, &signed.ca_pem);
    let root = root_of_chain(&signed.chain_pem, &signed.ca_pem);
    hub.set_material(Material { chain_pem: signed.chain_pem, key_pem: request.key_pem });
    hub.set_own_root(root.clone());
    // A disk that is full must not cut this kernel off from its peers.
    if let Err(e) = saved {
        tracing::warn!("the new certificate is in use, and the next start will ask for another one: {e:#}");
    }
    tracing::info!(until = %mew_model::value::format_timestamp(until_ms as i64), "new certificate");
    Ok(Validity { since_ms: now_ms, until_ms, root })
}

#[cfg(test)]
mod tests {
    use super::{AGAIN, OwnTrust, Renewal, SPREAD, Validity};
    use std::time::{Duration, Instant};

    const NOW_MS: u64 = 1_700_000_000_000;
    const DAY_MS: u64 = 24 * 3600 * 1000;

    /// Of three days, made just now.
    fn fresh(root: &str) -> Validity {
        Validity { since_ms: NOW_MS, until_ms: NOW_MS + 3 * DAY_MS, root: Some(root.to_owned()) }
    }

    fn says(signer: &str, trusted: &[&str]) -> OwnTrust {
        OwnTrust { signer: signer.to_owned(), trusted: trusted.iter().map(|r| (*r).to_owned()).collect() }
    }

    /// As the attachment looks every now and then: how long it takes until this agent asks.
    fn asks_after(has: Option<&Validity>, own: &OwnTrust, now_ms: u64, place: u64) -> Duration {
        let (mut r, began) = (Renewal::default(), Instant::now());
        let step = Duration::from_millis(50);
        let mut passed = Duration::ZERO;
        // The number of the first look counts.
        while !r.is_due(
            has,
            Some(own),
            now_ms + passed.as_millis() as u64,
            began + passed,
            place ^ passed.as_nanos() as u64,
        ) {
            passed += step;
            assert!(passed <= 2 * SPREAD, "it never asks");
        }
        passed
    }

    #[test]
    fn agents_of_a_domain_whose_root_is_replaced_do_not_ask_all_at_once() {
        const AGENTS: u64 = 600;
        let (old, own) = (fresh("old"), says("new", &["old", "new"]));
        let mut in_second = vec![0_u64; SPREAD.as_secs() as usize + 1];
        for n in 0..AGENTS {
            let after = asks_after(Some(&old), &own, NOW_MS, n * (u64::MAX / AGENTS));
            in_second[after.as_secs() as usize] += 1;
        }
        let most = in_second.iter().max().copied().unwrap_or_default();
        assert!(most <= 2 * AGENTS / SPREAD.as_secs(), "{most} of {AGENTS} ask in one second: {in_second:?}");
        assert_eq!(in_second.iter().sum::<u64>(), AGENTS);
    }

    #[test]
    fn who_has_no_certificate_that_anybody_takes_asks_at_once() {
        let published = says("new", &["old", "new"]);
        let expired = Validity { until_ms: NOW_MS - 1, ..fresh("old") };
        let of_nobody = Validity { root: None, since_ms: 0, ..fresh("old") };
        for has in [None, Some(&expired), Some(&of_nobody)] {
            assert_eq!(asks_after(has, &published, NOW_MS, u64::MAX), Duration::ZERO, "{has:?}");
        }
        assert_eq!(asks_after(Some(&fresh("old")), &says("new", &["new"]), NOW_MS, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn a_root_that_goes_ends_the_wait_for_it() {
        let (mut r, old, now) = (Renewal::default(), fresh("old"), Instant::now());
        let later = now + Duration::from_secs(1);
        assert!(!r.is_due(Some(&old), Some(&says("new", &["old", "new"])), NOW_MS, now, u64::MAX));
        assert!(r.is_due(Some(&old), Some(&says("new", &["new"])), NOW_MS + 1_000, later, 0));
    }

    #[test]
    fn a_short_life_is_not_spent_waiting() {
        let short = Validity { until_ms: NOW_MS + 6_000, ..fresh("old") };
        let own = says("old", &["old"]);
        assert!(!Renewal::default().is_due(Some(&short), Some(&own), NOW_MS + 1_900, Instant::now(), 0));
        let after = asks_after(Some(&short), &own, NOW_MS + 2_000, u64::MAX);
        assert!(after > Duration::ZERO && after <= Duration::from_millis(400), "{after:?}");
    }

    #[test]
    fn it_is_tried_again_until_there_is_one_and_each_need_has_its_own_wait() {
        let (mut r, now) = (Renewal::default(), Instant::now());
        let (old, own) = (fresh("old"), says("new", &["old", "new"]));
        let mut looks = |has: Option<&Validity>, after: Duration, place: u64| {
            r.is_due(has, Some(&own), NOW_MS + after.as_millis() as u64, now + after, place)
        };
        assert!(looks(None, Duration::ZERO, u64::MAX));
        assert!(!looks(None, AGAIN / 2, u64::MAX), "it has asked just now");
        assert!(looks(None, AGAIN, u64::MAX));
        assert!(!looks(Some(&fresh("new")), 2 * AGAIN, u64::MAX), "there is one");
        assert!(!looks(Some(&old), 3 * AGAIN, u64::MAX / 2), "the old one signed for a moment");
        assert!(looks(Some(&old), 3 * AGAIN + SPREAD / 2, 0));
    }
}
