//! Checksums that fit, whatever the bytes are: what lies behind them would never be reached by a changed byte otherwise.

use tar::Header;

/// As in the store: headers of a segment, of a frame and of a record.
const SEGMENT: usize = 48;
const FRAME: usize = 24;
const RECORD: usize = 32;
const FRAME_MAGIC: u32 = 0xF2AE_3EB7;
/// Of a tar archive.
const BLOCK: usize = 512;

fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|x| x.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn put(b: &mut [u8], at: usize, v: u32, bytes: usize) {
    b[at..at + bytes].copy_from_slice(&v.to_le_bytes()[..bytes]);
}

/// Of a segment: its header, and each record and frame as far as their lengths lead.
pub fn segment(b: &mut [u8]) {
    if b.len() < SEGMENT {
        return;
    }
    let crc = crc32c::crc32c(&b[..SEGMENT - 4]);
    put(b, SEGMENT - 4, crc, 4);
    let mut at = SEGMENT;
    while u32_at(b, at) == FRAME_MAGIC {
        let end = at + FRAME + u32_at(b, at + 4) as usize;
        if end > b.len() {
            return;
        }
        frame(&mut b[at..end]);
        at = end;
    }
}

fn frame(b: &mut [u8]) {
    let (mut crc, mut at) = (0, FRAME);
    while at + RECORD <= b.len() {
        let end = at + RECORD + u32_at(b, at) as usize;
        if end > b.len() {
            break;
        }
        let body = crc32c::crc32c(&b[at + RECORD..end]);
        put(b, at + 28, body, 4);
        let check = crc32c::crc32c_append(crc32c::crc32c(&b[at..at + 5]), &b[at + 8..at + RECORD]) >> 8;
        put(b, at + 5, check, 3);
        crc = crc32c::crc32c_append(crc, &b[at..at + RECORD]);
        at = end;
    }
    let crc = crc32c::crc32c_append(crc, &b[..20]);
    put(b, 20, crc, 4);
}

/// Of a checkpoint.
pub fn checkpoint(b: &mut [u8]) {
    if let Some(body) = b.len().checked_sub(4) {
        let crc = crc32c::crc32c(&b[..body]);
        put(b, body, crc, 4);
    }
}

/// Whether a checkpoint's checksum fits as it is.
pub fn fits(checkpoint: &[u8]) -> bool {
    checkpoint.split_last_chunk::<4>().is_some_and(|(body, crc)| crc32c::crc32c(body).to_le_bytes() == *crc)
}

/// A compacted segment says how many entities there ever were, and a checkpoint how many changes, which are no fewer. Both are
/// believed: the store takes any of their numbers for one of an entity, and what is read here is asked for by each. They are
/// the lengths that no input bears out, so inputs that claim many are passed over.
pub fn claims_many(file: &[u8]) -> bool {
    const MANY: u32 = 1 << 16;
    // Where the last seq is, and the upper half of it.
    let changes = (u32_at(file, 44), u32_at(file, 48));
    if file.starts_with(b"MEWCKP") {
        return fits(file) && (changes.0 > MANY || changes.1 > 0);
    }
    file.len() >= SEGMENT && u32_at(file, 12) == 1 && u32_at(file, 40) > MANY
}

/// Of the headers of a tar archive, as far as the sizes in them lead.
pub fn archive(b: &mut [u8]) {
    let mut at = 0;
    while at + BLOCK <= b.len() && b[at] != 0 {
        let block = &mut b[at..at + BLOCK];
        let mut h = Header::new_old();
        h.as_mut_bytes().copy_from_slice(block);
        h.set_cksum();
        block.copy_from_slice(h.as_bytes());
        let Ok(size) = h.entry_size() else { return };
        let Some(next) = size.checked_next_multiple_of(BLOCK as u64).and_then(|n| usize::try_from(n).ok()) else {
            return;
        };
        let Some(next) = next.checked_add(at + BLOCK) else { return };
        at = next;
    }
}
