//! A region is lost: every agent in it says at once that its peers are gone, or is gone itself.

use super::agents::{Fate, REGIONS};
use super::board::{Reached, Want};
use super::fleet::{Fleet, PATIENCE, QUIET, well};
use super::objects::{is_remote, remote_of};
use anyhow::Result;

fn cut_off(_: &str) -> Want {
    ("False", "Unreachable")
}

fn gone(_: &str) -> Want {
    ("Unknown", "AgentUnresponsive")
}

fn region(name: &str) -> usize {
    remote_of(name).unwrap_or(0) % REGIONS
}

impl Fleet<'_> {
    /// What becomes of all regions, one thing after the other; all is well in the end.
    pub async fn lose_regions(&mut self, say: &dyn Fn(&str)) -> Result<()> {
        say("all links lost");
        let r = self.when("all links lost", [Fate::CutOff; REGIONS], cut_off).await?;
        self.remotes_first("all links lost", &r);
        say("all links back");
        self.when("all links back", [Fate::Well; REGIONS], well).await?;
        say("one region's links lost, then the other's as they come back");
        let first_lost = |name: &str| if region(name) == 0 { cut_off(name) } else { well(name) };
        self.when("one region's links lost", [Fate::CutOff, Fate::Well], first_lost).await?;
        let other_lost = |name: &str| if region(name) == 0 { well(name) } else { cut_off(name) };
        let what = "one region's links back, the other's lost";
        let r = self.when(what, [Fate::Well, Fate::CutOff], other_lost).await?;
        self.worsening_first(what, &r);
        self.when("the other region's links back", [Fate::Well; REGIONS], well).await?;
        say("all agents gone");
        let r = self.when("all agents gone", [Fate::Gone; REGIONS], gone).await?;
        self.remotes_first("all agents gone", &r);
        say("all agents back");
        self.when("all agents back", [Fate::Well; REGIONS], well).await?;
        Ok(())
    }

    /// Gives the regions their fates at once, and waits until all statuses say so.
    async fn when(
        &mut self,
        what: &str,
        fates: [Fate; REGIONS],
        goal: impl Fn(&str) -> Want + Send + 'static,
    ) -> Result<Reached> {
        self.board.quiet(QUIET, PATIENCE).await?;
        let since = self.board.expect(goal);
        for (region, fate) in fates.into_iter().enumerate() {
            self.agents.set(region, fate);
        }
        let r = self.reached(what, since).await?;
        self.insert(what, &r);
        Ok(r)
    }

    /// How much of all was right when the last Remote was: little, if people are told first what is the matter.
    fn remotes_first(&mut self, what: &str, r: &Reached) {
        if let Some(last) = r.order.iter().rposition(|name| is_remote(name)) {
            let percent = 100.0 * (last + 1) as f64 / r.order.len() as f64;
            self.f.insert(format!("{what}: the last Remote's status, at % of all"), percent);
        }
    }

    /// Where in all that changed the middle one of what became worse was, and of what became better.
    fn worsening_first(&mut self, what: &str, r: &Reached) {
        for (name, of) in [("worse", 1), ("better", 0)] {
            let places: Vec<usize> =
                r.order.iter().enumerate().filter(|(_, n)| region(n) == of).map(|(place, _)| place).collect();
            if let Some(middle) = places.get(places.len() / 2) {
                let percent = 100.0 * (middle + 1) as f64 / r.order.len() as f64;
                self.f.insert(format!("{what}: the middle one that became {name}, at % of all"), percent);
            }
        }
    }
}
