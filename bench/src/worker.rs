//! Work in a process of its own: it is killed, or its memory is looked at.

use crate::embedded::Indexes;
use crate::race::Figures;
use crate::{soak, store};
use anyhow::{Context, Result, bail};
use mew_tests::process::{Process, dying_with_us};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::ChildStdout;

/// What a process is started for, and on which data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// As an agent's data directory: the log is in `log`.
    pub data: PathBuf,
    /// That were loaded, or are to be.
    pub entities: u64,
    pub seconds: u64,
    pub job: Job,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Job {
    /// Loads; then changes so many; then changes until it is killed. Answers after each of the first two.
    Load { tail: u64 },
    /// As [`Job::Load`], of what is there, from a checkpoint on.
    Change { tail: u64 },
    /// Checkpoints and compaction, alone and beside a client.
    Upkeep,
    /// Opens.
    Open,
    /// Opens with these indexes, and with `flows` begins two of them to a peer: what each adds to the process.
    Memory { indexes: Indexes, flows: bool },
    /// Opens with these indexes, and writes a checkpoint.
    Checkpoint { indexes: Indexes },
    /// Loads, then changes without end while upkeep goes on; answers every second.
    Soak,
    /// A number that stands for everything that is derived.
    Canonical,
}

impl Work {
    pub fn log(&self) -> PathBuf {
        self.data.join("log")
    }

    pub fn with(&self, job: Job) -> Work {
        Work { job, ..self.clone() }
    }
}

/// In the worker: does it, and answers on standard output.
pub fn run(work: &str) -> Result<()> {
    let w: Work = serde_json::from_str(work).context("a worker's job")?;
    match w.job {
        Job::Load { tail } => store::jobs::load(&w, tail),
        Job::Change { tail } => store::jobs::change(&w, tail),
        Job::Upkeep => store::upkeep::run(&w),
        Job::Open => store::jobs::open(&w),
        Job::Memory { indexes, flows } => store::jobs::memory(&w, indexes, flows),
        Job::Checkpoint { indexes } => store::jobs::checkpoint(&w, indexes),
        Job::Soak => soak::job::run(&w),
        Job::Canonical => store::jobs::canonical(&w),
    }
}

/// One answer is one line.
pub fn answer(f: &Figures) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(f)?)?;
    Ok(out.flush()?)
}

/// In the parent: a worker that runs.
pub struct Worker {
    process: Process,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Its log is in `logs`.
    pub fn start(work: &Work, logs: &Path) -> Result<Self> {
        let mut c = dying_with_us(&std::env::current_exe()?);
        c.arg("--worker").arg(serde_json::to_string(work)?);
        if matches!(work.job, Job::Memory { .. }) {
            // Of what it frees, only small pieces stay with the process: what is left is what it keeps.
            c.env("MALLOC_MMAP_THRESHOLD_", "65536");
        }
        let (process, out) = Process::piped("worker", c, logs)?;
        Ok(Worker { process, answers: BufReader::new(out).lines() })
    }

    /// The next answer.
    pub fn answer(&mut self) -> Result<Figures> {
        match self.answers.next() {
            Some(line) => Ok(serde_json::from_str(&line?)?),
            None => bail!("the worker ended without an answer; {}", self.process.tail()),
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// SIGKILL: what it did not sync itself is the system's matter.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

/// The only answer of a worker that then ends.
pub fn done(work: &Work, logs: &Path) -> Result<Figures> {
    Worker::start(work, logs)?.answer()
}
