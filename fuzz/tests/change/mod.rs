//! Changes of bytes: bits, blocks, lengths, numbers, pieces of others. A seed means the same change everywhere and for ever.

/// Longer ones are cut.
const MOST: usize = 64 << 10;
/// Most of what one change moves.
const PIECE: usize = 64;
/// What lengths and numbers are wrong by, or at.
const EXTREMES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// xorshift64*, begun with what SplitMix64 makes of the seed, so that neighbours have nothing in common.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Rng((z ^ (z >> 31)).max(1))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `n` - 1; 0 if there is nothing.
    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() >> 16) as usize % n.max(1)
    }

    /// A place, and the end of a piece that begins there.
    fn piece(&mut self, len: usize) -> (usize, usize) {
        let at = self.below(len + 1);
        (at, at + self.below((len - at).min(PIECE) + 1))
    }
}

/// Names an input: FNV-1a.
pub fn hash(b: &[u8]) -> u64 {
    b.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// One to four changes.
pub fn changed(rng: &mut Rng, one: &[u8], other: &[u8], words: &[Vec<u8>]) -> Vec<u8> {
    let mut b = one.to_vec();
    for _ in 0..=rng.below(4) {
        change(rng, &mut b, other, words);
        b.truncate(MOST);
    }
    b
}

fn change(rng: &mut Rng, b: &mut Vec<u8>, other: &[u8], words: &[Vec<u8>]) {
    let (at, to) = rng.piece(b.len());
    let extreme = EXTREMES[rng.below(EXTREMES.len())];
    let width = [1, 2, 4, 8][rng.below(4)];
    match rng.below(15) {
        0 | 1 if at < b.len() => b[at] ^= 1 << rng.below(8),
        2 if at < b.len() => b[at] = extreme as u8,
        3 => b.truncate(at),
        4 => drop(b.drain(at..to)),
        5 => {
            let (piece, here) = (b[at..to].to_vec(), rng.below(b.len() + 1));
            b.splice(here..here, piece);
        }
        6 => {
            let here = rng.below(b.len() + 1);
            let n = (to - at).min(b.len() - here);
            b.copy_within(at..at + n, here);
        }
        // The beginning of one and the end of the other, at the same place or at any.
        7 => {
            let from = if rng.below(2) == 0 { at.min(other.len()) } else { rng.below(other.len() + 1) };
            b.truncate(at);
            b.extend_from_slice(&other[from..]);
        }
        8 => {
            let (from, end) = rng.piece(other.len());
            b.splice(at..at, other[from..end].iter().copied());
        }
        9 | 10 => number(rng, b, at, width, extreme),
        11 => {
            // The longest varint, for a shorter one.
            let mut varint = [0xff; 10];
            varint[9] = 1;
            let n = 1 + rng.below(varint.len());
            b.splice(at..to.min(at + 1), varint[varint.len() - n..].iter().copied());
        }
        12 if !words.is_empty() => {
            let word = &words[rng.below(words.len())];
            b.splice(at..at, word.iter().copied());
        }
        13 => b[at..to].fill(extreme as u8),
        _ => b.insert(at, rng.draw() as u8),
    }
}

/// Another number of `width` bytes: an extreme, one more or less, or the length of what is there.
fn number(rng: &mut Rng, b: &mut [u8], at: usize, width: usize, extreme: u64) {
    let len = b.len() as u64;
    let Some(place) = b.get_mut(at..at + width) else { return };
    let mut le = [0; 8];
    le[..width].copy_from_slice(place);
    let was = u64::from_le_bytes(le);
    let new = match rng.below(5) {
        0 => was.wrapping_add(1),
        1 => was.wrapping_sub(1),
        2 => len.wrapping_add(extreme & 3).wrapping_sub(2),
        _ => extreme,
    };
    let bytes = new.to_le_bytes();
    place.copy_from_slice(&bytes[..width]);
    if rng.below(4) == 0 {
        place.reverse();
    }
}
