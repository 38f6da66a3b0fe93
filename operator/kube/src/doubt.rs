//! Whether a list may lack what nobody withdrew. When a CustomResourceDefinition goes, what its objects declare stays in force,
//! and the leader that saw it go remembers them. A leader that begins later finds an empty list, and cannot know what was
//! there: it must not take from agents what they have (`mew_plan::Doubts`). See docs/adr/0009.

use crate::declared::GRACE;
use crate::definitions::Definition;
use jiff::Timestamp;
use mew_plan::Incomplete;
use std::time::{Duration, Instant};

/// Whether a list may lack objects that nobody withdrew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    None,
    /// Its definition came back a short time ago.
    Until {
        end: Instant,
        /// When it came back, for people.
        back: Timestamp,
    },
    /// Its definition is gone.
    Away,
}

impl Doubt {
    /// As it is planned by, and said in statuses: by times that stay the same, whenever they are asked for.
    pub fn incomplete(self) -> Option<Incomplete> {
        match self {
            Doubt::None => None,
            Doubt::Away => Some(Incomplete::Away),
            Doubt::Until { back, .. } => {
                let since_ms = u64::try_from(back.as_millisecond()).unwrap_or(0);
                Some(Incomplete::Back { since_ms, until_ms: since_ms + GRACE.as_millis() as u64 })
            }
        }
    }
}

/// Of the first list that this leader has of a kind. `in_use` is when the first leader ever began: a definition that is older
/// was never away.
pub fn of_list(definition: &Definition, in_use: Option<Timestamp>, wall: Timestamp, now: Instant) -> Doubt {
    let Definition::Here { created, .. } = definition else { return Doubt::Away };
    let Some(created) = created.filter(|c| in_use.is_none_or(|began| began < *c)) else { return Doubt::None };
    // A clock behind the API server's is no reason to wait longer than that.
    let age = Duration::try_from(wall.duration_since(created)).unwrap_or_default();
    if age >= GRACE { Doubt::None } else { Doubt::Until { end: now + (GRACE - age), back: created } }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let back = "2026-11-21T09:00:00Z";
        let until = |left: u64| Doubt::Until { end: now + Duration::from_secs(left), back: at(back) };
        assert_eq!(of(&here(back), began, "2026-11-21T09:02:00Z"), until(480));
        assert_eq!(of(&here(back), began, "2026-11-21T09:10:00Z"), Doubt::None, "the grace is over");
        assert_eq!(of(&here(back), began, "2026-11-21T08:59:00Z"), until(600), "this clock is behind");
        assert_eq!(of(&Definition::Gone, began, began), Doubt::Away);
        assert!(Doubt::None < until(480) && until(480) < until(481) && until(481) < Doubt::Away);
    }

    #[test]
    fn what_people_are_told_does_not_move_with_the_clock() {
        let back = at("2026-11-21T09:00:00Z");
        let since_ms = 1_795_251_600_000;
        let told = Some(Incomplete::Back { since_ms, until_ms: since_ms + 600_000 });
        for left in [1, 480] {
            assert_eq!(Doubt::Until { end: Instant::now() + Duration::from_secs(left), back }.incomplete(), told);
        }
        assert_eq!((Doubt::Away.incomplete(), Doubt::None.incomplete()), (Some(Incomplete::Away), None));
    }
}
