//! What a store does to stay small and to open soon, beside commits and readers.

use super::refusal::{because, full_or, full_or_io};
use super::{Store, lock};
use crate::checkpoint::{self, CHECKPOINT, Image, UNFINISHED};
use crate::compact::{self, Group, Rewritten};
use crate::log::LogError;
use crate::recover::{NEW, SPARE};
use crate::segment::segment_name;
use crate::state::State;
use crate::sync::atomic::Ordering;
use crate::types::{Batch, Kept, Result, StoreError, Upkeep};
use crate::view::PART;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

/// A spare file is zeroed in pieces of this size: larger ones make the system use pages of which each small commit would
/// later write the whole.
const ZEROES: [u8; 4096] = [0; 4096];

/// One that this store has not made is read in pieces of this size.
const SPARE_CHUNK: usize = 1 << 20;

/// A batch from a peer has half of it.
const ROOM: u64 = 1 << 20;

/// Bytes of segments that are rewritten before the next checkpoint: until then they take room twice, and where each of their
/// records went is kept in memory.
const MOST_REWRITTEN: u64 = 1 << 30;
/// The same in records that stay: small ones are many.
const MOST_MOVED: u64 = 4 << 20;
/// Of a checkpoint beside commits.
const CHECKPOINT_TRIES: usize = 2;

/// Never there.
const FACT_TRIAL: &[u8] = b"trial";

/// What is worth rewriting.
#[derive(Default)]
struct Due {
    groups: Vec<Group>,
    /// Bytes that this makes free, about.
    gain: u64,
    /// Bytes that the first group leaves, about.
    least: u64,
    /// Some of it has to wait.
    is_more: bool,
}

/// Closed segments that cannot be read. They stay, and hold up nothing but what takes away something that they may hold.
#[derive(Default)]
struct Damaged {
    segments: BTreeSet<u32>,
    /// What is wrong with the first of them.
    why: Option<StoreError>,
}

impl Damaged {
    /// Of what compaction failed for: without a segment that is damaged it goes on, and after anything else it does not.
    fn found(&mut self, e: StoreError) -> Result<()> {
        let segment = match &e {
            StoreError::Log(LogError::Damaged { segment, .. }) => Some(*segment),
            _ => None,
        };
        if segment.is_none_or(|s| !self.segments.insert(s)) {
            return Err(e);
        }
        self.why.get_or_insert(e);
        Ok(())
    }
}

#[derive(Default)]
struct Compacted {
    rewritten: Vec<Rewritten>,
    /// Why the rest is not.
    failed: Option<StoreError>,
    /// Files of what failed that could not be removed.
    unfinished: Vec<String>,
}

impl Store {
    /// Prepares a spare segment, compacts, writes a checkpoint: whatever is due. Commits and readers go on meanwhile; it
    /// blocks only whoever else calls it. When it fails, nothing that counts is lost, and it can be called again.
    pub fn maintain(&self, u: &Upkeep) -> Result<Kept> {
        let mut rubbish = lock(&self.upkeep);
        if let Some(why) = self.broken() {
            return Err(StoreError::Broken(why));
        }
        let is_refused = lock(&self.refused).is_some();
        if is_refused && (!self.full.load(Ordering::Relaxed) || self.has_room()) {
            self.full.store(false, Ordering::Relaxed);
            // Who waits for a sign that writing works may send no write; this one changes nothing.
            let _ = self.commit(Batch { changes: vec![], facts: vec![(FACT_TRIAL.to_vec(), vec![])] });
        }
        let kept = self.compact_and_checkpoint(u, &mut rubbish);
        // Last: compaction may have made the room for it. On a full disk commits do without.
        let spare = self.prepare_spare();
        let kept = kept?;
        match spare {
            Err(StoreError::Full) | Ok(()) => Ok(kept),
            Err(e) => Err(e),
        }
    }

    fn compact_and_checkpoint(&self, u: &Upkeep, rubbish: &mut Vec<String>) -> Result<Kept> {
        let (mut done, mut damaged) = (Kept::default(), Damaged::default());
        while self.round(u, rubbish, &mut done, &mut damaged)? {}
        damaged.why.map_or(Ok(done), Err)
    }

    /// Returns whether there is more to compact.
    fn round(&self, u: &Upkeep, rubbish: &mut Vec<String>, done: &mut Kept, damaged: &mut Damaged) -> Result<bool> {
        // Segments of two compactions must not lie beside each other.
        self.sweep(rubbish)?;
        // Writing a checkpoint, which compaction ends with, must not cost much more than what it is good for.
        let dear = self.size_of_checkpoint()? / 100 * u.checkpoint_percent;
        let behind = self.behind.load(Ordering::Relaxed);
        let is_due = behind > u.checkpoint_bytes && behind > dear;
        let Due { groups, gain, least, is_more } = self.groups(u, &damaged.segments)?;
        if !is_due && (groups.is_empty() || gain < dear) {
            return Ok(false);
        }
        let Compacted { mut rewritten, failed, mut unfinished } = self.compact(&groups, u, rubbish);
        if rewritten.is_empty()
            && !is_due
            && let Some(e) = failed
        {
            *rubbish = unfinished;
            return damaged.found(self.or_no_room(e, least)).map(|()| true);
        }
        rubbish.append(&mut unfinished);
        let all = rewritten.len();
        let written = self.checkpoint_with(&mut rewritten, is_due, rubbish);
        done.checkpoint_bytes = written.map_err(|e| self.or_no_room(e, least))?;
        rubbish.drain(..rewritten.len());
        let was_full = rewritten.len() < all || matches!(failed, Some(StoreError::Full));
        let freed_before = done.freed_bytes;
        for x in rewritten {
            done.rewritten += x.old.len() as u64;
            done.freed_bytes += x.freed_bytes;
            done.forgotten += x.forgotten.len() as u64;
            let _held = self.hold_segments();
            // These need not go with the segment, and there may be many.
            for part in x.forgotten.chunks(PART) {
                self.changed(|st| compact::forget(st, part));
            }
            rubbish.extend(x.old.iter().copied().map(segment_name));
            self.changed(|st| {
                for id in &x.old {
                    if let Some(file) = st.remove_segment(*id) {
                        st.history.put_away(*id, file);
                    }
                }
                let id = x.new.id;
                st.add_segment(x.new);
                compact::apply(st, &x.moves, id);
            });
        }
        self.sweep(rubbish)?;
        match failed {
            // There is room for more now.
            _ if was_full && done.freed_bytes > freed_before => Ok(true),
            _ if was_full => Err(self.no_room(least)),
            Some(e) => damaged.found(e).map(|()| true),
            None => Ok(is_more),
        }
    }

    fn or_no_room(&self, e: StoreError, least: u64) -> StoreError {
        if matches!(e, StoreError::Full) { self.no_room(least) } else { e }
    }

    /// A checkpoint does not fit with a group that leaves so many bytes.
    fn no_room(&self, least: u64) -> StoreError {
        let before = self.size_of_checkpoint().unwrap_or(0);
        StoreError::NoRoom(least + before.max(checkpoint::about(&self.read())))
    }

    /// Changes where things are, which counts as a commit: looks that are open see them where they were.
    fn changed(&self, f: impl FnOnce(&mut State)) {
        let mut st = self.write();
        let dropped = self.look_out(&mut st.history);
        st.history.begin();
        f(&mut st);
        drop(st);
        drop(dropped);
    }

    /// 0 if there is none.
    fn size_of_checkpoint(&self) -> Result<u64> {
        match self.disk.open(CHECKPOINT) {
            Ok(file) => Ok(file.len()?),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    fn groups(&self, u: &Upkeep, damaged: &BTreeSet<u32>) -> Result<Due> {
        let st = self.read();
        let active = st.last()?.id;
        let closed = st.segments.values().filter(|s| s.id != active);
        let mut due = Due::default();
        let (mut bytes, mut records) = (0, 0);
        for group in compact::groups(closed, u, self.options.segment_bytes, damaged) {
            for s in group.of.iter().filter_map(|first| st.segments.get(first)) {
                let gone = s.gone(group.clean, u.tombstones_up_to);
                due.gain += s.bytes_of(gone);
                bytes += u64::from(s.end);
                records += u64::from(s.records - s.dead.min(s.records));
                if due.groups.is_empty() {
                    due.least += s.bytes_of(s.records - gone);
                }
            }
            // At least one: it is bounded by itself.
            if !due.groups.is_empty() && (bytes > MOST_REWRITTEN || records > MOST_MOVED) {
                due.is_more = true;
                break;
            }
            due.groups.push(group);
        }
        Ok(due)
    }

    /// As far as that goes: what was rewritten before something failed is good without the rest. `rubbish` becomes what to remove
    /// if it does not come to count: a name for each.
    fn compact(&self, groups: &[Group], u: &Upkeep, rubbish: &mut Vec<String>) -> Compacted {
        let mut out = Compacted::default();
        for group in groups {
            let id = self.new_id();
            let name = segment_name(id);
            match compact::rewrite(self, &*self.disk, group, id, u) {
                Ok(x) => out.rewritten.push(x),
                Err(e) => {
                    // What it took is better free.
                    let part = format!("{name}{NEW}");
                    let mut made = vec![name, part];
                    let _ = self.sweep(&mut made);
                    (out.failed, out.unfinished) = (Some(full_or(e)), made);
                    break;
                }
            }
            rubbish.push(name);
        }
        out
    }

    /// A checkpoint with as much of what was rewritten as leaves room for it, or, if it is due, with nothing of that. The newest
    /// is given back first, as the older is good without it, and half of it each time, so that few checkpoints are begun in vain.
    /// `rubbish` begins with a name for each; when nothing comes to count, all of it is removed, or else before the next
    /// compaction.
    fn checkpoint_with(&self, rewritten: &mut Vec<Rewritten>, is_due: bool, rubbish: &mut Vec<String>) -> Result<u64> {
        loop {
            rubbish.push(UNFINISHED.to_owned());
            let e = match self.checkpoint(rewritten) {
                Ok(bytes) => {
                    rubbish.pop();
                    return Ok(bytes);
                }
                Err(e) => full_or(e),
            };
            let is_full = matches!(e, StoreError::Full);
            let left = if is_full { rewritten.len() / 2 } else { 0 };
            let goes_on = left > 0 || is_full && is_due && !rewritten.is_empty();
            // This closes the files: one that is open keeps its room.
            rewritten.truncate(left);
            let swept = self.sweep_to(left, rubbish);
            if !goes_on {
                return Err(e);
            }
            swept?;
        }
    }

    /// Of the newest commit, after what compaction left out was replaced: nothing that it points to may be gone. If more is
    /// committed meanwhile than is kept for it, it begins again, and in the end commits wait.
    fn checkpoint(&self, rewritten: &[Rewritten]) -> Result<u64> {
        for _ in 0..CHECKPOINT_TRIES {
            match self.checkpoint_once(rewritten, false) {
                Err(StoreError::Outdated) => {}
                done => return done,
            }
        }
        self.checkpoint_once(rewritten, true)
    }

    fn checkpoint_once(&self, rewritten: &[Rewritten], alone: bool) -> Result<u64> {
        let writer = lock(&self.writer);
        // Memory may not be what the log says.
        if let Some(why) = self.broken() {
            return Err(StoreError::Broken(why));
        }
        let covered = self.behind.load(Ordering::Relaxed);
        let image = Image::of(self.view(), &self.read(), writer.next_frame)?;
        let made_for = image.fingerprint();
        let writer = alone.then_some(writer);
        let bytes = checkpoint::write(&*self.disk, image, rewritten, || drop(writer))?;
        // Under another ontology than it was made for it covers nothing.
        let o = self.read().ontology.clone();
        if checkpoint::fingerprint(&o) == made_for {
            // Another ontology that came meanwhile, and went again, may have counted less than was covered.
            let left = |n: u64| Some(n.saturating_sub(covered));
            let _ = self.behind.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        }
        Ok(bytes)
    }

    /// From the last to the first, each durably before the next: of what a compaction made in vain, a newer segment may leave
    /// out the tombstone of what only an older one leaves out.
    fn sweep(&self, rubbish: &mut Vec<String>) -> Result<()> {
        self.sweep_to(0, rubbish)
    }

    /// All but the first so many.
    fn sweep_to(&self, kept: usize, rubbish: &mut Vec<String>) -> Result<()> {
        while rubbish.len() > kept
            && let Some(name) = rubbish.last()
        {
            if let Err(e) = self.disk.remove(name) {
                // Where the directory is lost nothing is found, and it may come back with everything.
                if e.kind() != ErrorKind::NotFound || self.disk.list().is_err() {
                    return Err(e.into());
                }
            }
            self.disk.sync_names()?;
            rubbish.pop();
        }
        Ok(())
    }

    /// Whether a large commit would find room: on a disk that is nearly full small ones fit and others do not, and who asks
    /// would be told one thing and the other in turn. What is behind the end is never read.
    fn has_room(&self) -> bool {
        let _no_commits = lock(&self.writer);
        let (file, end) = {
            let st = self.read();
            let Ok(s) = st.last() else { return false };
            (s.file.clone(), u64::from(s.end))
        };
        let Ok(len) = file.len() else { return false };
        let has_room = (0..ROOM).step_by(ZEROES.len()).all(|at| file.write_at(&ZEROES, end + at).is_ok());
        // Compaction needs it more. If it stays, it is behind the end.
        let _ = if len < end + ROOM { file.set_len(len) } else { Ok(()) };
        has_room
    }

    /// Before the segment in use is full: a file of zeroes to go on in, so that commits neither wait for a new file nor
    /// write its growing length with each sync, and that a full disk is met here and not there.
    fn prepare_spare(&self) -> Result<()> {
        let used = self.read().last()?.end;
        if used < self.options.segment_bytes / 2 || self.has_spare()? {
            return Ok(());
        }
        let part = format!("{SPARE}{NEW}");
        let make = || -> io::Result<()> {
            let file = self.disk.create(&part)?;
            for at in (0..u64::from(self.options.segment_bytes)).step_by(ZEROES.len()) {
                file.write_at(&ZEROES, at)?;
            }
            file.sync()?;
            // The name is not synced: if it is lost, another one is made.
            self.disk.rename(&part, SPARE)
        };
        make().map_err(|e| {
            let _ = self.disk.remove(&part); // what it took is better free
            full_or_io(e)
        })?;
        self.blank.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether there is a spare to go on in. One that this store has not made may be anything, and is read once: here, as
    /// neither opening nor a commit should wait for that. What is none is removed.
    fn has_spare(&self) -> Result<bool> {
        if !self.disk.list()?.iter().any(|n| n == SPARE) {
            return Ok(false);
        }
        if self.blank.load(Ordering::Relaxed) {
            return Ok(true);
        }
        match self.is_blank() {
            Ok(true) => {
                self.blank.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Ok(false) => match self.disk.remove(SPARE) {
                // A commit has just gone on in it.
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
                _ => Ok(false),
            },
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(because(e, "the file `spare` in the data directory cannot be used, and should be removed")),
        }
    }

    /// Whether the file is what [`Store::prepare_spare`] makes.
    fn is_blank(&self) -> io::Result<bool> {
        let file = self.disk.open(SPARE)?;
        let size = u64::from(self.options.segment_bytes).next_multiple_of(ZEROES.len() as u64);
        if file.len()? != size {
            return Ok(false);
        }
        let mut buf = vec![0; SPARE_CHUNK];
        let mut at = 0;
        while at < size {
            let n = file.read_at(&mut buf, at)?;
            if n == 0 || buf[..n].iter().any(|b| *b != 0) {
                return Ok(false);
            }
            at += n as u64;
        }
        Ok(true)
    }
}
