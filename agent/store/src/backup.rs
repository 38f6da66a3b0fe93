//! A copy of a store that goes on: its log as it is after one commit.

use crate::disk::DiskFile;
use crate::segment::{Segment, segment_name};
use crate::store::{FACT_INCARNATION, Store};
use crate::types::{Batch, Result, StoreError};
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// What belongs to the copy. It can be read without holding anything up, for as long as it takes: compaction may take names
/// away meanwhile, and what is open stays readable.
pub struct Backup {
    pub kernel_id: String,
    pub incarnation: String,
    /// The newest seq in it.
    pub head: u64,
    pub entries: Vec<Entry>,
}

/// A file of the copy.
pub struct Entry {
    pub name: String,
    pub len: u64,
    file: Arc<dyn DiskFile>,
}

impl Entry {
    /// Reads at `offset`; fewer bytes than asked for only at the end.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = buf.len().min(left);
        match self.file.read_at(&mut buf[..want], offset)? {
            n if n == want => Ok(n),
            n => {
                let m = format!("{} ends at {}, and was {} bytes", self.name, offset + n as u64, self.len);
                Err(io::Error::new(ErrorKind::UnexpectedEof, m))
            }
        }
    }
}

impl Store {
    /// Everything that is committed now and nothing of what comes later. No checkpoint is in it: that is made from the log.
    pub fn backup(&self) -> Result<Backup> {
        let (kernel_id, incarnation) = (self.kernel_id().to_owned(), self.incarnation().to_owned());
        let (head, entries) = {
            let _held = self.hold_segments();
            let st = self.read();
            let entry = |s: &Segment| Entry { name: segment_name(s.id), len: s.end.into(), file: s.file.clone() };
            (st.index.last_seq, st.segments.values().map(entry).collect::<Vec<_>>())
        };
        for e in &entries {
            let len = e.file.len()?;
            if len < e.len {
                let m = format!("{} has {len} bytes, and {} were written to it", e.name, e.len);
                return Err(StoreError::Inconsistent(m));
            }
        }
        Ok(Backup { kernel_id, incarnation, head, entries })
    }

    /// Gives the log another incarnation, durably, and closes it. After going back to an earlier state: others may know more
    /// of the old incarnation than it does now, and must not take what is written next for that.
    pub fn renew_incarnation(self, incarnation: &str) -> Result<()> {
        let facts = vec![(FACT_INCARNATION.to_vec(), incarnation.as_bytes().to_vec())];
        self.commit(Batch { changes: vec![], facts })?;
        Ok(())
    }
}
