//! A backup as a file: a tar archive of `manifest.json` and the segments of the log, which `tar` can read as well.

use bytes::Bytes;
use mew_store::{Backup, Entry};
use serde::{Deserialize, Serialize};
use std::io;
use tar::Header;

/// A reader refuses what is newer.
pub const FORMAT: u32 = 1;
pub const MANIFEST: &str = "manifest.json";
/// A segment has a line of some 60 bytes: this is more than fits on a disk.
pub const MAX_MANIFEST: usize = 16 << 20;
/// Of a tar archive: everything begins at a multiple of it.
const BLOCK: u64 = 512;
/// Two empty blocks.
const END: usize = 2 * BLOCK as usize;
/// Files are read in pieces of this size.
const PIECE: usize = 256 << 10;

/// What a backup is of. Without everything that it lists it is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub format: u32,
    pub kernel_id: String,
    pub incarnation: String,
    /// The newest seq.
    pub head: u64,
    /// In milliseconds since 1970.
    pub taken_at_ms: u64,
    pub files: Vec<File>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub name: String,
    pub bytes: u64,
}

impl Manifest {
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let wrong = |e: serde_json::Error| format!("{MANIFEST}: {e}");
        match serde_json::from_slice::<Format>(text).map_err(wrong)?.format {
            FORMAT => serde_json::from_slice(text).map_err(wrong),
            f => Err(format!("the backup has format {f}, of a newer version of this program; this one reads {FORMAT}")),
        }
    }

    /// The manifest at the beginning of an archive, once enough of it is there.
    pub fn begins(archive: &[u8]) -> Result<Option<Self>, String> {
        let Some((header, rest)) = archive.split_at_checked(BLOCK as usize) else { return Ok(None) };
        let header = Header::from_byte_slice(header);
        let size = header.entry_size().map_err(|e| e.to_string())?;
        if *header.path_bytes() != *MANIFEST.as_bytes() || size > MAX_MANIFEST as u64 {
            return Err(format!("it does not begin with {MANIFEST}"));
        }
        rest.get(..size as usize).map(Self::parse).transpose()
    }
}

/// An archive that is made while it is read.
pub struct Archive {
    pub manifest: Manifest,
    text: Vec<u8>,
    entries: Vec<Entry>,
}

impl Archive {
    pub fn new(b: Backup, now_ms: u64) -> io::Result<Self> {
        let files = b.entries.iter().map(|e| File { name: e.name.clone(), bytes: e.len }).collect();
        let (kernel_id, incarnation) = (b.kernel_id, b.incarnation);
        let manifest = Manifest { format: FORMAT, kernel_id, incarnation, head: b.head, taken_at_ms: now_ms, files };
        let mut text = serde_json::to_vec_pretty(&manifest)?;
        text.push(b'\n');
        Ok(Archive { manifest, text, entries: b.entries })
    }

    /// Bytes of all of it.
    pub fn size(&self) -> u64 {
        let of = |len: u64| BLOCK + len.next_multiple_of(BLOCK);
        of(self.text.len() as u64) + self.entries.iter().map(|e| of(e.len)).sum::<u64>() + END as u64
    }

    /// Gives it to `to` piece by piece, as long as that takes them.
    pub fn pieces(&self, mut to: impl FnMut(Bytes) -> io::Result<()>) -> io::Result<()> {
        to(self.header(MANIFEST, self.text.len() as u64)?)?;
        to(padded(self.text.clone()))?;
        for e in &self.entries {
            to(self.header(&e.name, e.len)?)?;
            let mut at = 0;
            while at < e.len {
                let mut piece = vec![0; PIECE.min(usize::try_from(e.len - at).unwrap_or(PIECE))];
                let n = e.read_at(&mut piece, at)?;
                at += n as u64;
                to(if at < e.len { piece.into() } else { padded(piece) })?;
            }
        }
        to(Bytes::from_static(&[0; END]))
    }

    fn header(&self, name: &str, len: u64) -> io::Result<Bytes> {
        let mut h = Header::new_ustar();
        h.set_path(name)?;
        h.set_size(len);
        h.set_mode(0o644);
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(self.manifest.taken_at_ms / 1000);
        h.set_entry_type(tar::EntryType::Regular);
        h.set_cksum();
        Ok(Bytes::copy_from_slice(h.as_bytes()))
    }
}

/// Up to the next block. Pieces are whole blocks, so only the last one of a file grows.
fn padded(mut b: Vec<u8>) -> Bytes {
    b.resize(b.len().next_multiple_of(BLOCK as usize), 0);
    b.into()
}
