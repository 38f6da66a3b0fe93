//! The log as the feed of changes.

use crate::log::{Kind, Loc, LogError, RECORD, for_each_record};
use crate::segment::SEGMENT_HEADER;
use crate::store::Store;
use crate::types::{Place, Result, StoreError, Stored};
use bytes::BytesMut;
use mew_model::KernelKey;
use mew_model::entity::MAX_ENTITY;

/// The feed is read in pieces of this size.
const FEED_CHUNK: usize = 1 << 20;

impl Store {
    /// The next piece of the feed: each entity once, at its newest seq. Returns false when there is nothing after
    /// `place`.
    pub fn feed(&self, place: &mut Place, out: &mut Vec<Stored>) -> Result<bool> {
        self.scan(place, out, false)
    }

    /// As [`Store::feed`], with the versions that were superseded since, as far as compaction has left them.
    pub fn history(&self, place: &mut Place, out: &mut Vec<Stored>) -> Result<bool> {
        self.scan(place, out, true)
    }

    fn scan(&self, place: &mut Place, out: &mut Vec<Stored>, superseded: bool) -> Result<bool> {
        loop {
            let (start, from) = (out.len(), *place);
            match self.scan_once(place, out, superseded)? {
                Some(more) => return Ok(more),
                // Compaction has put the segment away meanwhile: what was read cannot be told from what is replaced.
                None => {
                    out.truncate(start);
                    *place = Place::after(from.seq);
                }
            }
        }
    }

    fn scan_once(&self, place: &mut Place, out: &mut Vec<Stored>, superseded: bool) -> Result<Option<bool>> {
        let (file, end) = {
            let st = self.read();
            if place.seq >= st.index.last_seq {
                return Ok(Some(false));
            }
            let here = st.segment(place.segment).filter(|s| place.offset > 0 && place.offset < s.end);
            let s = match here {
                Some(s) => s,
                None => match st.segments.values().find(|s| s.last_seq > place.seq && s.end > SEGMENT_HEADER) {
                    Some(s) => {
                        (place.segment, place.offset) = (s.id, s.seek(place.seq));
                        s
                    }
                    None => return Ok(Some(false)),
                },
            };
            (s.file.clone(), s.end)
        };
        let mut chunk = BytesMut::zeroed(((end - place.offset) as usize).min(FEED_CHUNK + 2 * MAX_ENTITY));
        let n = file.read_at(&mut chunk, place.offset.into())?;
        if n < chunk.len() {
            return Err(StoreError::Inconsistent(format!("segment {} is shorter than it was", place.segment)));
        }
        let chunk = chunk.freeze();
        let start = out.len();
        let base = place.offset;
        // What the checkpoint covers was not checked when the store was opened.
        let mut damaged = None;
        let used = for_each_record(&chunk, |at, r| {
            if damaged.is_none() && r.kind == Kind::Entity && r.seq > place.seq {
                let bytes = chunk.slice(at + RECORD..at + RECORD + r.len as usize);
                if crc32c::crc32c(&bytes) != r.crc {
                    damaged = Some(at);
                    return;
                }
                place.seq = r.seq;
                let found = Loc::new(place.segment, base + at as u32);
                out.push(Stored {
                    ent: r.ent,
                    seq: r.seq,
                    origin: KernelKey(r.origin),
                    crc: r.crc,
                    bytes,
                    place: found,
                });
            }
        });
        // What comes before it is read first.
        let used = damaged.unwrap_or(used);
        if used == 0 {
            let why = "the record cannot be read".to_owned();
            return Err(LogError::Damaged { segment: place.segment, offset: base.into(), why }.into());
        }
        place.offset += used as u32;
        let st = self.read();
        let Some(s) = st.segment(place.segment) else { return Ok(None) };
        if place.offset >= s.end {
            // The records that had its last seqs may be gone, or never were there: a checkpoint is believed.
            place.seq = place.seq.max(s.last_seq);
        }
        if !superseded {
            // Its newer version comes later in the feed.
            let mut i = 0;
            out.retain(|c| {
                i += 1;
                i <= start || st.index.loc(c.ent) == c.place
            });
        }
        Ok(Some(true))
    }
}
