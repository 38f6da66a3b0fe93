//! Runs a scenario under many schedules: shuttle decides at each lock, atomic and file operation which thread goes on.

use shuttle::scheduler::UncontrolledNondeterminismCheckScheduler;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, Runner};

/// Schedules of each scenario, unless `MEW_SCHEDULES` says how many.
const SCHEDULES: usize = 150;
/// Most that it may take to find a planted bug.
const MOST: usize = 1500;
/// The same ones each time; `SHUTTLE_RANDOM_SEED` gives others.
const SEED: u64 = 4;

fn config() -> Config {
    let mut c = Config::new();
    c.stack_size = 1 << 20;
    // It tells every atomic as if it were `SeqCst`, and says so.
    c.silence_warnings = true;
    c
}

fn run(scenario: fn(), scheduler: impl Scheduler + 'static) {
    Runner::new(scheduler, config()).run(scenario);
}

/// Two thirds change threads at few places, so that one does much while another stands still; the rest at any.
fn run_some(scenario: fn(), n: usize) {
    let n = n.div_ceil(3);
    run(scenario, PctScheduler::new_from_seed(SEED, 2, n));
    run(scenario, PctScheduler::new_from_seed(SEED, 4, n));
    run(scenario, RandomScheduler::new_from_seed(SEED, n));
}

/// Says how to run what failed once more.
struct Hint;

impl Drop for Hint {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let test = thread.name().unwrap_or("<test>");
            eprintln!(
                "or run it again: MEW_REPLAY='<that string>' cargo test -p mew-store-schedules -- --exact {test}"
            );
        }
    }
}

/// Whether `MEW_REPLAY` said what to run.
fn replayed(scenario: fn()) -> bool {
    let Ok(schedule) = std::env::var("MEW_REPLAY") else { return false };
    run(scenario, ReplayScheduler::new_from_encoded(&schedule));
    true
}

pub fn explore(scenario: fn()) {
    let _hint = Hint;
    if replayed(scenario) {
        return;
    }
    let n = std::env::var("MEW_SCHEDULES").map_or(SCHEDULES, |n| n.parse().expect("MEW_SCHEDULES is a number"));
    run_some(scenario, n);
}

/// Lets the scenario's first thread stand still once, for as long as others can go on: at each of its steps beside them, one in
/// each schedule. This finds what can go wrong at one step of very many; the others are best begun late.
pub fn at_each_step(scenario: fn()) {
    let _hint = Hint;
    if !replayed(scenario) {
        run(scenario, OneStop::default());
    }
}

#[derive(Default)]
struct OneStop {
    /// The step at which it stands still, of those at which another thread could go on.
    at: usize,
    /// Such steps that are left until then.
    left: usize,
}

impl Scheduler for OneStop {
    fn new_execution(&mut self) -> Option<Schedule> {
        // The last time there was no such step any more.
        if self.left > 0 {
            return None;
        }
        self.at += 1;
        self.left = self.at;
        Some(Schedule::new(SEED))
    }

    fn next_task(&mut self, runnable: &[&Task], _current: Option<TaskId>, _is_yielding: bool) -> Option<TaskId> {
        let first = TaskId::from(0);
        if runnable.len() > 1 && runnable.iter().any(|t| t.id() == first) {
            self.left = self.left.saturating_sub(1);
        }
        let goes_first = self.left > 0;
        let next = runnable.iter().find(|t| (t.id() == first) == goes_first).or(runnable.first());
        next.map(|t| t.id())
    }

    /// No scenario draws one.
    fn next_u64(&mut self) -> u64 {
        SEED
    }
}

/// How it fails, under the first schedule that is found under which it does.
pub fn failure(scenario: fn()) -> String {
    let Err(why) = std::panic::catch_unwind(|| run_some(scenario, MOST)) else { return "it does not fail".to_owned() };
    match why.downcast::<String>() {
        Ok(text) => *text,
        Err(why) => why.downcast_ref::<&str>().copied().unwrap_or("it is not said why").to_owned(),
    }
}

/// Runs each schedule twice, and fails if it is not the same again: then what failed could not be run again, either.
pub fn repeat(scenario: fn()) {
    run(scenario, UncontrolledNondeterminismCheckScheduler::new(RandomScheduler::new_from_seed(SEED, 10)));
}
