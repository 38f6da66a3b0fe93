//! A kernel whose store has numbered nearly as many entities as it can: a transaction that needs more fails by itself, with a
//! reason, and everything else goes on.

use mew_kernel::{Kernel, KernelError};
use mew_model::name::number;
use mew_model::{Draft, KernelKey, Ontology};
use mew_store::{Disk, MOST_ENTITIES, MemDisk, Options, Store, Upkeep};
use std::sync::Arc;

const NOW_MS: u64 = 1_700_000_000_000;
/// Each commit closes the segment before it.
const SEGMENT_BYTES: u32 = 1;
/// In a segment each, of which the last is not compacted.
const FIRST: [&[&str]; 4] = [&["a", "b"], &["a"], &[], &[]];

fn open(disk: &MemDisk) -> Kernel {
    let o = Options { kernel_id: "k".into(), new_incarnation: "i".into(), segment_bytes: SEGMENT_BYTES };
    Kernel::new(Store::open(Arc::new(disk.clone()), Arc::new(Ontology::default()), o).expect("the store opens").0)
}

/// Writes what is new or there already, in one transaction.
fn put(k: &Kernel, ids: &'static [&'static str]) -> Result<(), KernelError> {
    let write = k.write(NOW_MS, move |tx| {
        for id in ids {
            let mut d = Draft::new(number("Task"), (*id).to_owned());
            d.stamp(KernelKey::of("k"), NOW_MS, None);
            let old = match tx.find(id)? {
                Some(ent) => tx.get(ent)?,
                None => None,
            };
            tx.put(d.encode().into(), KernelKey(0), old.as_ref())?;
        }
        tx.set_fact(b"f".to_vec(), ids.concat().into_bytes());
        Ok(())
    });
    write.map(|_| ())
}

/// The header of the last compacted segment says how many numbers were given out, and how many changes there were.
fn with_one_number_left() -> MemDisk {
    let disk = MemDisk::new();
    let k = open(&disk);
    for ids in FIRST {
        put(&k, ids).expect("there are many numbers");
    }
    let kept = k.maintain(&Upkeep::thorough(k.head(), 0)).expect("upkeep succeeds");
    assert!(kept.rewritten > 0 && kept.checkpoint_bytes > 0, "{kept:?}");
    drop(k);
    disk.remove("checkpoint").expect("it was written");
    let names = disk.list().expect("a disk in memory");
    let mut last: Option<(u8, &String)> = None;
    for name in names.iter().filter(|n| n.ends_with(".seg")) {
        disk.edit(name, |b| {
            if b[12] == 1 {
                last = last.max(Some((b[16], name)));
            }
        });
    }
    let (_, name) = last.expect("a compacted segment");
    disk.edit(name, |b| {
        b[32..40].copy_from_slice(&(1_u64 << 33).to_le_bytes());
        b[40..44].copy_from_slice(&(MOST_ENTITIES - 1).to_le_bytes());
        let crc = crc32c::crc32c(&b[..44]);
        b[44..48].copy_from_slice(&crc.to_le_bytes());
    });
    disk
}

#[test]
fn a_transaction_that_needs_more_numbers_than_are_left_fails_by_itself() {
    let k = open(&with_one_number_left());
    let refused = |ids: &'static [&'static str]| {
        let head = k.head();
        let e = put(&k, ids).expect_err("there are not so many numbers");
        assert!(matches!(e, KernelError::Limit(_)) && e.to_string().contains("can number no more"), "{ids:?}: {e}");
        assert!(k.head() == head && k.stuck().is_none(), "{ids:?}");
    };
    assert_eq!((k.view().next_entity(), k.usage().1), (MOST_ENTITIES - 1, 2));
    refused(&["c", "d"]);
    refused(&["c", "a", "d", "e"]);
    assert_eq!((k.view().next_entity(), k.usage().1), (MOST_ENTITIES - 1, 2));
    put(&k, &["c", "a"]).expect("one is left");
    assert_eq!((k.view().next_entity(), k.usage().1), (MOST_ENTITIES, 3));
    refused(&["d"]);
    put(&k, &["b", "c"]).expect("nothing new is in it");
    let find = |id: &str| k.view().find(id).expect("an id can be looked up");
    assert_eq!([find("a"), find("b"), find("c"), find("d")], [Some(0), Some(1), Some(MOST_ENTITIES - 1), None]);
}
