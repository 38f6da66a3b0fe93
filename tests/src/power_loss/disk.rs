//! The bytes of a disk with a cache that forgets. What was flushed is there for good. Of what was written since, a power loss
//! leaves, sector by sector, anything: what was flushed, or what any write since put there, whatever it leaves of the others.
//! So writes are dropped, reordered and torn.

use crate::sim::rng::Rng;
use std::collections::BTreeMap;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// How much of what was not flushed survives, in percent; drawn for each loss, so that all and nothing are among what happens.
const KEPT: [u64; 5] = [0, 25, 50, 75, 100];

pub struct Disk {
    now: Vec<u8>,
    flushed: Vec<u8>,
    /// Of the sectors that were written to since, by their numbers: what each write made of it, the last one last.
    since: BTreeMap<usize, Vec<Vec<u8>>>,
}

/// What a power loss did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    /// Sectors that were not flushed,
    pub at_risk: usize,
    /// and those of them in which something else is left than was written last.
    pub lost: usize,
}

impl Disk {
    pub fn new(image: Vec<u8>) -> Self {
        Disk { now: image.clone(), flushed: image, since: BTreeMap::new() }
    }

    pub fn size(&self) -> usize {
        self.now.len()
    }

    /// What is there; less than was asked for only at the end.
    pub fn read(&self, at: usize, size: usize) -> &[u8] {
        let end = at.saturating_add(size).min(self.now.len());
        self.now.get(at..end).unwrap_or_default()
    }

    /// Returns whether it fits on the disk.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> bool {
        let end = at.saturating_add(bytes.len());
        let Some(place) = self.now.get_mut(at..end) else { return false };
        place.copy_from_slice(bytes);
        for n in at / SECTOR..end.div_ceil(SECTOR) {
            let sector = self.read(n * SECTOR, SECTOR).to_vec();
            self.since.entry(n).or_default().push(sector);
        }
        true
    }

    pub fn flush(&mut self) {
        for n in std::mem::take(&mut self.since).into_keys() {
            let end = ((n + 1) * SECTOR).min(self.now.len());
            self.flushed[n * SECTOR..end].copy_from_slice(&self.now[n * SECTOR..end]);
        }
    }

    /// What is on it when the power is back.
    pub fn after_loss(self, rng: &mut Rng) -> (Vec<u8>, Loss) {
        let Disk { now, flushed: mut image, since } = self;
        let percent = rng.pick(&KEPT).unwrap_or_default();
        let mut loss = Loss { at_risk: since.len(), lost: 0 };
        for (n, versions) in since {
            let at = n * SECTOR;
            if rng.chance(percent)
                && let Some(left) = rng.pick(&versions)
            {
                image[at..at + left.len()].copy_from_slice(&left);
            }
            let end = (at + SECTOR).min(now.len());
            loss.lost += usize::from(image[at..end] != now[at..end]);
        }
        (image, loss)
    }
}

#[cfg(test)]
mod tests {
    use super::{Disk, SECTOR};
    use crate::sim::rng::Rng;
    use std::collections::BTreeSet;

    const SEEDS: u64 = 1_000;

    /// Two sectors: one was flushed with a 1, and both were written to twice since, in one write and in two.
    fn disk() -> Disk {
        let mut disk = Disk::new(vec![0; 3 * SECTOR]);
        assert!(disk.write(0, &[1; SECTOR]));
        disk.flush();
        assert!(disk.write(0, &[2; 2 * SECTOR]));
        assert!(disk.write(SECTOR, &[3; SECTOR]));
        assert!(disk.write(0, &[4; SECTOR]));
        disk
    }

    #[test]
    fn what_was_not_flushed_is_lost_or_kept_sector_by_sector() {
        let mut left = BTreeSet::new();
        for seed in 0..SEEDS {
            let (image, loss) = disk().after_loss(&mut Rng::new(seed));
            for sector in image.chunks(SECTOR) {
                assert!(sector.iter().all(|b| *b == sector[0]), "a sector is torn");
            }
            let (first, second) = (image[0], image[SECTOR]);
            assert_eq!(loss.at_risk, 2);
            assert_eq!(loss.lost, usize::from(first != 4) + usize::from(second != 3));
            left.insert((first, second, image[2 * SECTOR]));
        }
        let all: BTreeSet<(u8, u8, u8)> =
            [1, 2, 4].into_iter().flat_map(|first| [0, 2, 3].map(|second| (first, second, 0))).collect();
        assert_eq!(left, all);
    }

    #[test]
    fn what_was_flushed_stays() {
        for seed in 0..SEEDS {
            let mut disk = disk();
            disk.flush();
            let (image, loss) = disk.after_loss(&mut Rng::new(seed));
            assert_eq!((image[0], image[SECTOR], loss.at_risk, loss.lost), (4, 3, 0, 0));
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_beyond_the_end() {
        let mut disk = disk();
        assert!(disk.write(SECTOR - 1, &[7, 8]));
        assert_eq!(disk.read(SECTOR - 2, 4), [4_u8, 7, 8, 3]);
        assert_eq!(disk.read(3 * SECTOR - 1, 10), [0_u8]);
        assert!(disk.read(4 * SECTOR, 10).is_empty());
        assert!(!disk.write(3 * SECTOR - 1, &[9, 9]));
        assert_eq!(disk.read(3 * SECTOR - 1, 1), [0_u8]);
    }
}
