//! Where the newest record of each entity lies, by entity number.
//!
//! Numbers are given out in order and none twice, and most that were ever given out may be of what is long gone: memory follows
//! what is there. Numbers come in pages, and a page in which nothing lies any more is given back. Its entry in the table of
//! pages stays, so that a place is found in two steps: that is eight bytes for each page, and 8 MiB when all numbers are used up.

use crate::log::Loc;
use crate::types::MOST_ENTITIES;

/// Numbers of a page, 32 KiB of places: so few that what dies together gives pages back, so many that their table is small.
/// Fewer where schedules are explored, so that pages come and go.
pub const PAGE: u32 = if cfg!(feature = "shuttle") { 2 } else { 4096 };

struct Page {
    /// Places that are not [`Loc::NONE`].
    held: u32,
    locs: [Loc; PAGE as usize],
}

#[derive(Default)]
pub struct Locs {
    pages: Vec<Option<Box<Page>>>,
    next: u32,
    held: u32,
}

/// The page of a number, and which of the page's it is.
fn page_of(ent: u32) -> (usize, usize) {
    ((ent / PAGE) as usize, (ent % PAGE) as usize)
}

impl Locs {
    /// The number that the next new entity gets; [`MOST_ENTITIES`] if there is none left.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Numbers below this were given out.
    pub fn raise_next(&mut self, entities: u32) {
        self.next = self.next.max(entities);
    }

    /// How many entities lie somewhere.
    pub fn held(&self) -> u32 {
        self.held
    }

    pub fn get(&self, ent: u32) -> Loc {
        let (n, at) = page_of(ent);
        self.pages.get(n).and_then(Option::as_ref).map_or(Loc::NONE, |page| page.locs[at])
    }

    pub fn set(&mut self, ent: u32, loc: Loc) {
        let (n, at) = page_of(ent);
        if loc == Loc::NONE {
            self.take(n, at);
            return;
        }
        // Commits and replays are refused before they come to the number that has none behind it.
        debug_assert!(ent < MOST_ENTITIES);
        self.raise_next(ent.saturating_add(1));
        if self.pages.len() <= n {
            self.pages.resize_with(n + 1, || None);
        }
        let new = || Box::new(Page { held: 0, locs: [Loc::NONE; PAGE as usize] });
        let page = self.pages[n].get_or_insert_with(new);
        if page.locs[at] == Loc::NONE {
            page.held += 1;
            self.held += 1;
        }
        page.locs[at] = loc;
    }

    fn take(&mut self, n: usize, at: usize) {
        let Some(entry) = self.pages.get_mut(n) else { return };
        let Some(page) = entry.as_mut() else { return };
        if page.locs[at] == Loc::NONE {
            return;
        }
        page.locs[at] = Loc::NONE;
        page.held -= 1;
        self.held -= 1;
        if page.held == 0 {
            *entry = None;
        }
    }

    /// The first page that is there of those that hold this number or later ones: its first number, and all its places.
    pub fn page_from(&self, ent: u32) -> Option<(u32, &[Loc])> {
        let (n, _) = page_of(ent);
        let mut rest = self.pages.iter().enumerate().skip(n);
        rest.find_map(|(n, page)| Some((n as u32 * PAGE, &page.as_ref()?.locs[..])))
    }

    /// Numbers of all that lie somewhere, ascending.
    pub fn entities(&self) -> impl Iterator<Item = u32> + '_ {
        let pages = self.pages.iter().enumerate().filter_map(|(n, page)| Some((n as u32 * PAGE, page.as_ref()?)));
        pages.flat_map(|(first, page)| {
            let there = page.locs.iter().enumerate().filter(|(_, loc)| **loc != Loc::NONE);
            there.map(move |(at, _)| first + at as u32)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Locs, PAGE};
    use crate::log::Loc;
    use crate::types::MOST_ENTITIES;
    use std::collections::{BTreeMap, BTreeSet};

    fn pages(l: &Locs) -> usize {
        l.pages.iter().flatten().count()
    }

    fn loc(ent: u32) -> Loc {
        Loc::new(1, ent)
    }

    #[test]
    fn a_page_goes_with_the_last_that_lies_in_it_and_its_numbers_are_not_given_out_again() {
        let mut l = Locs::default();
        (0..3 * PAGE).for_each(|ent| l.set(ent, loc(ent)));
        assert_eq!((pages(&l), l.held(), l.next()), (3, 3 * PAGE, 3 * PAGE));
        (PAGE..2 * PAGE - 1).for_each(|ent| l.set(ent, Loc::NONE));
        assert_eq!((pages(&l), l.held(), l.get(2 * PAGE - 1)), (3, 2 * PAGE + 1, loc(2 * PAGE - 1)));
        l.set(2 * PAGE - 1, Loc::NONE);
        assert_eq!((pages(&l), l.held()), (2, 2 * PAGE));
        (2 * PAGE..3 * PAGE).for_each(|ent| l.set(ent, Loc::NONE));
        assert_eq!((pages(&l), l.held(), l.next()), (1, PAGE, 3 * PAGE), "the last numbers are not given out again");
        assert_eq!((l.get(PAGE), l.get(3 * PAGE), l.get(u32::MAX)), (Loc::NONE, Loc::NONE, Loc::NONE));
        // Forgotten once more, or never there.
        for ent in [PAGE, 2 * PAGE, 9 * PAGE] {
            l.set(ent, Loc::NONE);
        }
        assert_eq!((pages(&l), l.held(), l.next()), (1, PAGE, 3 * PAGE));
        // One that was forgotten may be written again.
        l.set(PAGE + 1, loc(7));
        assert_eq!((pages(&l), l.held(), l.get(PAGE + 1), l.get(PAGE)), (2, PAGE + 1, loc(7), Loc::NONE));
        l.set(PAGE + 1, loc(8));
        assert_eq!((l.held(), l.get(PAGE + 1)), (PAGE + 1, loc(8)), "moved, and counted once");
    }

    /// Only what is there is passed, in pages and one by one.
    #[test]
    fn pages_that_are_gone_are_stepped_over() {
        let mut l = Locs::default();
        let there = [1, PAGE - 1, 3 * PAGE, 3 * PAGE + 1, 7 * PAGE];
        there.iter().for_each(|ent| l.set(*ent, loc(*ent)));
        assert_eq!(l.entities().collect::<Vec<u32>>(), there);
        let first = |from: u32| l.page_from(from).map(|x| x.0);
        for (from, right) in [(0, 0), (PAGE - 1, 0), (PAGE, 3 * PAGE), (3 * PAGE + 1, 3 * PAGE), (4 * PAGE, 7 * PAGE)] {
            assert_eq!(first(from), Some(right), "from {from}");
        }
        assert_eq!((first(8 * PAGE), first(u32::MAX)), (None, None));
        let (_, locs) = l.page_from(2 * PAGE).expect("there is one");
        assert_eq!(locs.len(), PAGE as usize);
        assert_eq!(locs[..3], [loc(3 * PAGE), loc(3 * PAGE + 1), Loc::NONE]);
    }

    /// All numbers can be used up, and none is truncated.
    #[test]
    fn the_last_numbers_are_like_others() {
        let mut l = Locs::default();
        l.raise_next(MOST_ENTITIES - 1);
        assert_eq!((pages(&l), l.next(), l.held()), (0, MOST_ENTITIES - 1, 0));
        let last = MOST_ENTITIES - 1;
        l.set(last, loc(1));
        l.set(0, loc(2));
        assert_eq!((l.next(), l.get(last), l.get(0)), (MOST_ENTITIES, loc(1), loc(2)));
        assert_eq!(l.entities().collect::<Vec<u32>>(), [0, last]);
        let (first, locs) = l.page_from(PAGE).expect("there is one");
        assert_eq!((first, locs.len()), (last / PAGE * PAGE, PAGE as usize));
        l.raise_next(5);
        assert_eq!(l.next(), MOST_ENTITIES);
    }

    #[test]
    fn it_holds_what_a_map_holds() {
        let (mut l, mut map) = (Locs::default(), BTreeMap::new());
        let mut random = 1_u64;
        let mut fewest = usize::MAX;
        for step in 0..20_000_u32 {
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            let (page, at) = ((random >> 40) as u32 % 5, (random >> 50) as u32 % 4);
            let ent = page * PAGE + at;
            if (random >> 33).is_multiple_of(3) {
                l.set(ent, loc(step));
                map.insert(ent, loc(step));
            } else {
                l.set(ent, Loc::NONE);
                map.remove(&ent);
            }
            let there: BTreeSet<u32> = map.keys().map(|ent| ent / PAGE).collect();
            fewest = fewest.min(there.len());
            assert_eq!((pages(&l), l.held() as usize), (there.len(), map.len()), "after step {step}");
            assert!(l.entities().eq(map.keys().copied()), "after step {step}");
            assert_eq!(l.get(ent), map.get(&ent).copied().unwrap_or(Loc::NONE), "after step {step}");
        }
        assert!(fewest < 4, "pages come and go");
    }
}
