//! The process on the disk: it opens a store, says what is in it, then commits one after the other and says which is
//! acknowledged, with upkeep beside, until the power goes.

use super::rows::{KERNEL, ONTOLOGY, batch, commits};
use anyhow::{Result, anyhow, ensure};
use mew_lang::parse_ontology;
use mew_store::inspect::check;
use mew_store::{DirDisk, Disk, DiskFile, Options, Store, Upkeep};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Some commits, so that segments are begun all the time.
const SEGMENT_BYTES: u32 = 64 << 10;
/// Of commits between two upkeeps. An upkeep goes on during some of them.
const UPKEEP_EVERY: u64 = 6;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub dir: PathBuf,
    pub seed: u64,
    /// Commits that the store must hold, at least. The one after them may be there or not.
    pub acknowledged: u64,
    /// If not, what is written to a file is never synced.
    pub syncs: bool,
}

/// One line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Said {
    /// The store is looked at now, then opened.
    Opening,
    /// It holds so many commits: what was acknowledged, and nothing but commits.
    Holds(u64),
    Acknowledged(u64),
    /// The store does not hold what it must, or cannot go on.
    Wrong(String),
}

impl Said {
    /// `None` if it is not the writer that said it: it is run by a program that says something, too.
    pub fn read(line: &str) -> Option<Said> {
        serde_json::from_str(line).ok()
    }

    fn say(&self) -> Result<()> {
        // The program may have begun a line.
        let text = format!("\n{}\n", serde_json::to_string(self)?);
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

pub fn run(job: &Job) -> Result<()> {
    Said::Opening.say()?;
    match open(job).and_then(|(store, held)| write(job, &store, held)) {
        Ok(()) => Ok(()),
        Err(e) => Said::Wrong(format!("{e:#}")).say(),
    }
}

fn open(job: &Job) -> Result<(Store, u64)> {
    let dir = DirDisk::new(&job.dir)?;
    let disk: Arc<dyn Disk> = if job.syncs { Arc::new(dir) } else { Arc::new(Hasty(dir)) };
    let damages = check(&*disk)?.damages;
    ensure!(damages.is_empty(), "it is damaged: {damages:?}");
    let ontology = parse_ontology(ONTOLOGY).map_err(|d| anyhow!("{d:?}"))?;
    let options =
        Options { kernel_id: KERNEL.to_owned(), new_incarnation: "first".to_owned(), segment_bytes: SEGMENT_BYTES };
    let (store, _) = Store::open(disk, Arc::new(ontology), options)?;
    let held = commits(&store, job.seed)?;
    let allowed = job.acknowledged..=job.acknowledged + 1;
    ensure!(allowed.contains(&held), "{} commits were acknowledged, and it holds {held}", job.acknowledged);
    Said::Holds(held).say()?;
    Ok((store, held))
}

fn write(job: &Job, store: &Store, held: u64) -> Result<()> {
    thread::scope(|s| -> Result<()> {
        let (due, upkeeps) = sync_channel(1);
        s.spawn(move || keep(store, &upkeeps));
        for commit in held + 1.. {
            store.commit(batch(store, job.seed, commit)?)?;
            Said::Acknowledged(commit).say()?;
            if commit % UPKEEP_EVERY == 0 {
                let _ = due.try_send(()); // one is due already
            }
        }
        Ok(())
    })
}

/// Does all that there is to do, whenever it is due.
fn keep(store: &Store, upkeeps: &Receiver<()>) -> Result<()> {
    for () in upkeeps {
        let everything = Upkeep::thorough(store.view().last_seq(), u64::MAX);
        if let Err(e) = store.maintain(&everything) {
            return Said::Wrong(format!("upkeep: {e}")).say();
        }
    }
    Ok(())
}

/// A directory where a file's sync does nothing.
struct Hasty(DirDisk);

struct HastyFile(Arc<dyn DiskFile>);

impl Disk for Hasty {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HastyFile(self.0.open(name)?)))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HastyFile(self.0.create(name)?)))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.0.sync_names()
    }
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock()
    }
}

impl DiskFile for HastyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
