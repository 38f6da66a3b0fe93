//! Who wants a directory that another one has is told who that may be.

use mew_store::{DirDisk, Disk, ReadOnlyDir};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

fn refused(disk: &impl Disk) -> String {
    let e = disk.lock().err().expect("somebody else has it");
    assert_eq!(e.kind(), ErrorKind::ResourceBusy);
    e.to_string()
}

#[test]
fn who_took_a_directory_is_named() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("who_took_a_directory");
    let _ = fs::remove_dir_all(&dir); // of an earlier run
    let disk = || DirDisk::new(&dir).expect("a directory");
    let (first, second) = (disk().held_by("a pod with a long name"), disk().held_by("pod-2"));
    let held = first.lock().expect("it is free");
    for said in [refused(&second), refused(&ReadOnlyDir::new(&dir))] {
        assert!(said.ends_with("by another process (the last to take it: a pod with a long name)"), "{said}");
    }
    drop(held);
    let held = second.lock().expect("it is free");
    assert!(refused(&first).contains("(the last to take it: pod-2)"));
    drop(held);
    // Who only looks takes nothing.
    let looks = ReadOnlyDir::new(&dir).lock().expect("it is free");
    assert!(refused(&first).contains("(the last to take it: pod-2)"));
    drop(looks);
    // One without a name takes the place of the one before.
    let _held = disk().lock().expect("it is free");
    assert!(refused(&first).ends_with("is in use by another process"));
}
