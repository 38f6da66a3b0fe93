//! What is done with a data directory while no agent runs on it.

use crate::SEGMENT_BYTES;
use crate::ontology;
use crate::state::StateDir;
use crate::upkeep::tombstones;
use anyhow::{Context, Result, bail, ensure};
use mew_kernel::Kernel;
use mew_model::Ontology;
use mew_net::archive::{MANIFEST, MAX_MANIFEST, Manifest};
use mew_store::disk::{make_dir, sync_dir};
use mew_store::inspect::{Report, check};
use mew_store::{DirDisk, Disk, Kept, Options, ReadOnlyDir, Store, Upkeep};
use mew_sync::OpenTime;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A log that is being restored.
const UNFINISHED: &str = "restore.new";
/// What a compressed archive begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The log in a data directory.
pub fn log_of(data: &Path) -> Result<PathBuf> {
    let log = StateDir::at(data).log();
    ensure!(log.is_dir(), "{} is not the data directory of an agent: it has no directory `log`", data.display());
    Ok(log)
}

/// Says what to do about a directory that an agent is running on.
pub fn explain_busy(e: anyhow::Error) -> anyhow::Error {
    match crate::is_busy(&e) {
        true => e.context("stop the agent first; or take a backup of it (`mew store backup`), and look at that"),
        false => e,
    }
}

/// Damage in words, the first of it.
fn listed(r: &Report) -> String {
    let mut all: Vec<String> = r.damages.iter().chain(&r.torn).map(ToString::to_string).collect();
    let more = all.len().saturating_sub(5);
    all.truncate(5);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all.join("; ")
}

// ---------------------------------------------------------------- restore

pub struct Restored {
    pub manifest: Manifest,
    /// The one that the directory has now.
    pub incarnation: String,
    /// Where the log is that was there before.
    pub set_aside: Option<PathBuf>,
}

/// Refuses a directory whose log was set aside by a restore that was cut off then: an empty one in its place would look as
/// if all were lost.
pub fn check_restored(data: &Path, dir: &StateDir) -> Result<()> {
    if data.join(UNFINISHED).exists() && !dir.log().exists() {
        bail!(
            "a restore to {} was cut off and the kernel's log is set aside there; run `mew store restore` again, or give the log its name back",
            data.display()
        );
    }
    Ok(())
}

/// Makes a data directory of a backup: the same kernel, and a new incarnation of it, as others may have more of the old one
/// than the backup has. Whole or not at all. A log that is there is refused, or kept beside the new one.
pub fn restore(backup: impl Read, data: &Path, set_aside: bool) -> Result<Restored> {
    let dir = StateDir::renewed(data)?;
    let log = dir.log();
    let is_there = fs::read_dir(&log).is_ok_and(|mut entries| entries.next().is_some());
    if is_there && !set_aside {
        bail!(
            "{} has data in it already; restore to another directory, move that away, or let --set-aside do so",
            log.display()
        );
    }
    // Nobody else's until it has its other name, and not that of an agent that runs.
    let lock = is_there.then(|| DirDisk::new(&log)?.lock()).transpose()?;
    let new = data.join(UNFINISHED);
    let unpacked = unpack_and_check(backup, &dir, &new).and_then(|manifest| {
        dir.save_incarnation()?;
        let old = is_there.then(|| free_name(data));
        if let Some(old) = &old {
            fs::rename(&log, old)?;
        }
        // Durably under its other name before the new one takes its place: of the two, the old one must not be lost.
        if let Err(e) = sync_dir(data).and_then(|()| fs::rename(&new, &log)) {
            if let Some(old) = &old {
                let _ = fs::rename(old, &log); // better than nothing
            }
            return Err(e.into());
        }
        sync_dir(data)?;
        Ok(Restored { manifest, incarnation: dir.incarnation().to_owned(), set_aside: old })
    });
    drop(lock);
    if unpacked.is_err() && new.exists() {
        // It is no use to anybody, and the next attempt begins with taking it away.
        let _ = fs::remove_dir_all(&new);
    }
    unpacked.with_context(|| format!("nothing was restored to {}", data.display()))
}

/// `log.old-1` and so on: what was set aside before stays, as nobody else may have it.
fn free_name(data: &Path) -> PathBuf {
    let mut n = 1;
    loop {
        let name = data.join(format!("log.old-{n}"));
        if !name.exists() {
            return name;
        }
        n += 1;
    }
}

fn unpack_and_check(backup: impl Read, dir: &StateDir, new: &Path) -> Result<Manifest> {
    if new.exists() {
        fs::remove_dir_all(new).with_context(|| new.display().to_string())?;
    }
    make_dir(new).with_context(|| new.display().to_string())?;
    let manifest = unpack(backup, new).context("the backup")?;
    if let Some(i) = dir.identity()?.filter(|i| i.kernel_id != manifest.kernel_id) {
        bail!("the directory belongs to kernel {}, and the backup is of kernel {}", i.kernel_id, manifest.kernel_id);
    }
    let report = check(&DirDisk::new(new)?)?;
    ensure!(report.damages.is_empty() && report.torn.is_none(), "the backup is damaged: {}", listed(&report));
    ensure!(
        report.last_seq == manifest.head,
        "the backup is not whole: it ends at seq {}, not {}",
        report.last_seq,
        manifest.head
    );
    // Opened as an agent does. Which values are unique decides about nothing that is kept here.
    let store = Options {
        kernel_id: manifest.kernel_id.clone(),
        new_incarnation: dir.incarnation().to_owned(),
        segment_bytes: SEGMENT_BYTES,
    };
    let (store, _) = Store::open(Arc::new(DirDisk::new(new)?), Arc::new(Ontology::default()), store)?;
    store.renew_incarnation(dir.incarnation())?;
    Ok(manifest)
}

/// Puts the segments of an archive into a directory, durably, and returns what the archive says of itself.
fn unpack(backup: impl Read, to: &Path) -> Result<Manifest> {
    let mut backup = BufReader::new(backup);
    if backup.fill_buf()?.starts_with(&GZIP) {
        bail!("it is compressed; give what `gunzip -c` makes of it");
    }
    let mut manifest = None;
    let mut there = BTreeMap::new();
    let mut archive = tar::Archive::new(backup);
    for entry in archive.entries()? {
        let mut e = entry.context("it cannot be read; is it a backup, and whole?")?;
        let kind = e.header().entry_type();
        if kind.is_dir() {
            continue; // `tar` adds them when a person packs a backup again
        }
        let name = e.path()?.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        if name == MANIFEST {
            let mut text = Vec::new();
            (&mut e).take(MAX_MANIFEST as u64).read_to_end(&mut text)?;
            manifest = Some(Manifest::parse(&text).map_err(anyhow::Error::msg)?);
        } else if kind.is_file() && is_segment(&name) {
            let mut file = File::create_new(to.join(&name)).with_context(|| name.clone())?;
            let n = io::copy(&mut e, &mut file).with_context(|| name.clone())?;
            file.sync_all().with_context(|| name.clone())?;
            there.insert(name, n);
        } else {
            bail!("{name:?} does not belong in it");
        }
    }
    sync_dir(to)?;
    let m = manifest.with_context(|| format!("it has no {MANIFEST}; is it a backup?"))?;
    for f in &m.files {
        let n = there.remove(&f.name);
        ensure!(
            n == Some(f.bytes),
            "it is not whole: of {} {} bytes are there, not {}",
            f.name,
            n.unwrap_or(0),
            f.bytes
        );
    }
    if let Some((name, _)) = there.first_key_value() {
        bail!("{name} is in it and not in its {MANIFEST}");
    }
    Ok(m)
}

/// As the store names them: a name from an archive must not lead anywhere else.
fn is_segment(name: &str) -> bool {
    name.strip_suffix(".seg").is_some_and(|id| id.len() == 10 && id.bytes().all(|b| b.is_ascii_digit()))
}

// ---------------------------------------------------------------- compaction

pub struct Compacted {
    /// Bytes of the log.
    pub before: u64,
    pub after: u64,
    pub kept: Kept,
}

/// Compacts a log as far as that is possible without losing what a flow still needs.
pub fn compact(data: &Path, ontology: &Path) -> Result<Compacted> {
    let log = log_of(data)?;
    let (_, ontology) = ontology::read(ontology)?;
    let report = check(&ReadOnlyDir::new(&log))?;
    ensure!(report.damages.is_empty(), "the log is damaged, and stays as it is: {}", listed(&report));
    let kernel_id = report.kernel_id.with_context(|| format!("{} holds no kernel yet", log.display()))?;
    // Of a kernel that exists it stays what it is.
    let new_incarnation = StateDir::renewed(data)?.incarnation().to_owned();
    let options = Options { kernel_id, new_incarnation, segment_bytes: SEGMENT_BYTES };
    let (store, _) = Store::open(Arc::new(DirDisk::new(&log)?), Arc::new(ontology), options)?;
    let kernel = Kernel::new(store);
    let before = kernel.usage().0;
    // Nobody could come while it was stopped, so no flow is abandoned for that.
    let floor = mew_sync::floor(&kernel, &mut OpenTime::default())?;
    let old = tombstones::old(&kernel)?;
    let kept = kernel.maintain(&Upkeep::thorough(floor, old))?;
    Ok(Compacted { before, after: kernel.usage().0, kept })
}

#[cfg(test)]
mod tests {
    use super::{StateDir, UNFINISHED, check_restored};
    use std::fs::create_dir;

    #[test]
    fn a_log_that_a_cut_off_restore_has_set_aside_is_not_begun_anew() {
        let tmp = tempfile::tempdir().expect("a directory");
        let dir = StateDir::open(tmp.path()).expect("a data directory");
        assert!(check_restored(tmp.path(), &dir).is_ok(), "nothing is there yet");
        create_dir(tmp.path().join(UNFINISHED)).expect("a directory");
        let why = check_restored(tmp.path(), &dir).expect_err("there is no log");
        assert!(why.to_string().contains("mew store restore"), "{why}");
        // One that was cut off before it set anything aside.
        create_dir(dir.log()).expect("a directory");
        assert!(check_restored(tmp.path(), &dir).is_ok());
    }
}
