//! The marks that the figures are held against: what must be met, and what is aimed at.

/// Where a figure comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Ours by the peer's, in the race.
    Peer,
    /// As it is, of this part.
    Part(&'static str),
}

#[derive(Clone, Copy)]
pub enum Wants {
    AtLeast,
    AtMost,
}

pub struct Mark {
    pub figure: &'static str,
    pub of: Of,
    pub wants: Wants,
    pub pass: f64,
    pub aim: Option<f64>,
    /// It says nothing with fewer entities.
    pub entities: u64,
}

const fn race(figure: &'static str, wants: Wants, pass: f64, aim: f64) -> Mark {
    Mark { figure, of: Of::Peer, wants, pass, aim: Some(aim), entities: 0 }
}

const fn at_most(part: &'static str, figure: &'static str, pass: f64) -> Mark {
    Mark { figure, of: Of::Part(part), wants: Wants::AtMost, pass, aim: None, entities: 0 }
}

const fn memory(figure: &'static str) -> Mark {
    Mark { figure, of: Of::Part("store"), wants: Wants::AtMost, pass: 120.0, aim: Some(80.0), entities: 0 }
}

const fn at_ten_million(part: &'static str, figure: &'static str, pass: f64) -> Mark {
    Mark { figure, of: Of::Part(part), wants: Wants::AtMost, pass, aim: None, entities: 10_000_000 }
}

/// Figures by the names that the parts give them.
pub static MARKS: &[Mark] = &[
    race("copy rows/s", Wants::AtLeast, 1.5, 3.0),
    race("catch-up: matched changes/s", Wants::AtLeast, 3.0, 6.0),
    race("steady 100: matched rows/s", Wants::AtLeast, 3.0, 5.0),
    race("steady 1000: matched rows/s", Wants::AtLeast, 4.0, 9.0),
    race("lag at 1000/s: p99 ms", Wants::AtMost, 0.7, 0.25),
    race("lag at 10000/s: p99 ms", Wants::AtMost, 0.7, 0.25),
    race("copy CPU s per 1M", Wants::AtMost, 0.5, 0.3),
    race("catch-up: CPU s per 1M", Wants::AtMost, 0.5, 0.3),
    race("steady 100: CPU s per 1M", Wants::AtMost, 0.5, 0.3),
    race("steady 1000: CPU s per 1M", Wants::AtMost, 0.5, 0.3),
    memory("derived state, opened, two flows: bytes per entity"),
    memory("derived state, loaded: bytes per entity"),
    at_most("store", "commits of 1, during a checkpoint: p99 by alone", 2.0),
    at_most("store", "commits of 100, during a checkpoint: p99 by alone", 2.0),
    at_most("store", "open after kill -9, the tail taken off: s", 1.5),
    at_most("store", "disk less one segment, by live data", 2.0),
    at_ten_million("store", "loaded: resident MB", 3072.0),
    at_ten_million("soak", "most resident MB", 3072.0),
    at_most("soak", "most disk less one segment, by live data", 2.0),
    at_most("peers", "writes of 1, dead peer: p99 by no flow", 1.1),
    at_most("peers", "writes of 1, slow peer: p99 by no flow", 1.1),
    at_most("peers", "writes of 1, stopped peer: p99 by no flow", 1.1),
    at_most("peers", "writes of 1, peer catching up: p99 by no flow", 1.1),
    at_most("operator", "10000 Syncs: operator, most resident MB", 256.0),
    at_most("operator", "10 Syncs: status writes in 30 s at rest", 0.0),
    at_most("operator", "1000 Syncs: status writes in 30 s at rest", 0.0),
    at_most("operator", "10000 Syncs: status writes in 30 s at rest", 0.0),
];

impl Mark {
    pub fn is_met(&self, found: f64, mark: f64) -> bool {
        match self.wants {
            Wants::AtLeast => found >= mark,
            Wants::AtMost => found <= mark,
        }
    }

    /// `aim`, `pass` or `no`.
    pub fn verdict(&self, found: f64) -> &'static str {
        match self.aim {
            Some(aim) if self.is_met(found, aim) => "aim",
            _ if self.is_met(found, self.pass) => "pass",
            _ => "no",
        }
    }

    /// A mark as people write it.
    pub fn text(&self, mark: f64) -> String {
        let sign = match self.wants {
            Wants::AtLeast => "≥",
            Wants::AtMost => "≤",
        };
        format!("{sign} {mark}{}", if self.of == Of::Peer { "x" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_missed_passed_or_reached() {
        let more = race("copy rows/s", Wants::AtLeast, 1.5, 3.0);
        assert_eq!([1.4, 1.5, 3.0].map(|found| more.verdict(found)), ["no", "pass", "aim"]);
        let less = memory("bytes");
        assert_eq!([121.0, 120.0, 80.0].map(|found| less.verdict(found)), ["no", "pass", "aim"]);
        let none = at_most("operator", "writes at rest", 0.0);
        assert_eq!([1.0, 0.0].map(|found| none.verdict(found)), ["no", "pass"]);
        assert_eq!((more.text(1.5), none.text(0.0)), ("≥ 1.5x".to_owned(), "≤ 0".to_owned()));
    }
}
