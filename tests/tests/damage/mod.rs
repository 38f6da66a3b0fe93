//! Damage to bytes and text, the same in every run: for everything that reads what others wrote.
#![allow(dead_code)]

#[path = "../../src/sim/rng.rs"]
mod rng;

use rng::Rng;

/// Bytes that mean something to some reader.
const BYTES: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'-', b' ', b'\n'];
/// Characters that do, of one to four bytes.
const CHARS: [char; 20] = [
    '\0', '"', '\\', '#', '$', '@', '-', '(', ')', '{', '[', ']', ':', '9', '\n', '\t', 'é', '\u{a0}', '\u{2028}', '😀',
];
/// Most of what one change moves or takes away.
const PIECE: usize = 24;

pub struct Damage(Rng);

impl Damage {
    pub fn new(seed: u64) -> Self {
        Damage(Rng::new(seed))
    }

    /// 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u64) as usize
    }

    /// A place, and the end of a piece that begins there.
    fn piece(&mut self, len: usize) -> (usize, usize) {
        let at = self.below(len + 1);
        (at, at + self.below((len - at).min(PIECE) + 1))
    }

    /// One to four changes anywhere; never what it was.
    pub fn bytes(&mut self, good: &[u8]) -> Vec<u8> {
        loop {
            let mut b = good.to_vec();
            for _ in 0..self.0.between(1, 4) {
                self.change_bytes(&mut b);
            }
            if b != good {
                return b;
            }
        }
    }

    fn change_bytes(&mut self, b: &mut Vec<u8>) {
        let (at, to) = self.piece(b.len());
        let (byte, bit) = (BYTES[self.below(BYTES.len())], self.below(8));
        match self.below(9) {
            0 => b.truncate(at),
            1 => drop(b.drain(at..to)),
            2 => {
                let (piece, here) = (b[at..to].to_vec(), self.below(b.len() + 1));
                b.splice(here..here, piece);
            }
            3 => b[at..to].fill(byte),
            4 => b.insert(at, byte),
            5 if at < b.len() => b[at] = byte,
            6 | 7 if at < b.len() => b[at] ^= 1 << bit,
            _ => b.push(self.0.draw() as u8),
        }
    }

    /// The same for text, which stays UTF-8; `words` come in where they do not belong.
    pub fn text(&mut self, good: &str, words: &[&str]) -> String {
        loop {
            let mut c: Vec<char> = good.chars().collect();
            for _ in 0..self.0.between(1, 4) {
                self.change_text(&mut c, words);
            }
            let text: String = c.into_iter().collect();
            if text != good {
                return text;
            }
        }
    }

    fn change_text(&mut self, c: &mut Vec<char>, words: &[&str]) {
        let (at, to) = self.piece(c.len());
        let (char, word) = (CHARS[self.below(CHARS.len())], self.below(words.len()));
        match self.below(9) {
            0 if self.0.chance(30) => c.truncate(at),
            0 | 1 => drop(c.drain(at..to)),
            2 => {
                let (piece, here) = (c[at..to].to_vec(), self.below(c.len() + 1));
                c.splice(here..here, piece);
            }
            3 | 4 if word < words.len() => {
                c.splice(at..at, words[word].chars());
            }
            5 if at < c.len() => c[at] = char,
            6 if at + 1 < c.len() => c.swap(at, at + 1),
            _ => c.insert(at, char),
        }
    }
}
