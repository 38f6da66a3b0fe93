//! Hybrid logical clock: 48 bits of milliseconds since 1970, 16 bits of counter.

/// How far ahead of our own clock a peer's time may be before its change is refused.
pub const MAX_AHEAD_MS: u64 = 60_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    pub fn from_ms(ms: u64) -> Self {
        Hlc(ms << 16)
    }

    /// Milliseconds since 1970.
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// The time of a local write at `now_ms` that replaces a version of time `replaced`. Always later than what it
    /// replaces, so that a version whose vector dominates another's also has the later time.
    pub fn next(now_ms: u64, replaced: Option<Hlc>) -> Self {
        let now = Hlc::from_ms(now_ms);
        replaced.map_or(now, |r| now.max(Hlc(r.0.saturating_add(1))))
    }

    /// Whether a peer's time is too far ahead of `now_ms` to be believed.
    pub fn is_too_far_ahead(self, now_ms: u64) -> bool {
        self.ms() > now_ms.saturating_add(MAX_AHEAD_MS)
    }
}
