//! Dials: how many are on their way, what becomes of the link when one fails or a connection goes, and when the next try is.

use super::{Effect, Link, Now, State};
use crate::backoff::wait_ms;
use mew_contract::{Problem, Reason};
use mew_kernel::Kernel;

impl Link {
    pub(super) fn dial(&mut self, out: &mut Vec<Effect>) {
        self.dials += 1;
        out.push(Effect::Dial);
    }

    /// The connection is gone. The peer may close it as soon as the one that replaces it is there, and before this side hears
    /// of that one.
    pub(super) fn closed(&mut self, now: Now, random: u64, why: Option<Problem>, kernel: &Kernel) {
        let is_replaced = self.dials > 0 && self.connection().is_some_and(|c| c.dialled);
        if !is_replaced {
            return self.lost(now, random, why);
        }
        self.begin_handover(now, kernel);
        self.drop_flows();
        if why.is_some() {
            self.problem = why;
        }
        self.state = State::Dialling;
    }

    /// One of the dials has come to nothing; why, unless it was given up, which says nothing of the peer.
    pub(super) fn dial_failed(&mut self, now: Now, random: u64, why: Option<Problem>) {
        match &self.state {
            // Another one may reach the peer.
            State::Dialling if self.dials > 0 => self.problem = why.or_else(|| self.problem.take()),
            State::Dialling => self.lost(now, random, why),
            // It should take the place of what is there, or was given up when the configuration changed.
            _ => self.redial_failed(now),
        }
    }

    /// The connection failed or broke: plan the next try.
    pub(super) fn lost(&mut self, now: Now, random: u64, why: Option<Problem>) {
        self.drop_flows();
        self.handover = None;
        self.latency_ms = None;
        if why.is_some() || self.problem.is_none() {
            self.problem =
                Some(why.unwrap_or_else(|| Problem::new(Reason::Unreachable, "the connection to the peer broke")));
        }
        if !self.enabled() || !self.config.dial {
            self.state = State::Idle;
            return;
        }
        let wait = wait_ms(&self.config.retry, self.attempt, random);
        self.attempt = self.attempt.saturating_add(1);
        self.state = State::Backoff { at: now.mono_ms + wait };
    }
}
