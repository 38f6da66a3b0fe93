//! Another ontology, while a kernel runs and when it is opened: what only adds is taken, and a start takes whatever the data
//! fits; anything else is refused by name, nothing changes, and it is known what the data was written under.

use mew_kernel::{Kernel, Params, Unfit};
use mew_lang::parse_ontology;
use mew_model::Ontology;
use mew_store::{Disk, Fault, MemDisk, Options, Store};
use std::sync::Arc;

const NOW_MS: u64 = 1_700_000_000_000;
const BASE: &str = "
node Base { name: String? }
node Task: Base { n: Int? [1..9] m: Int? state: String [in: [\"open\", \"paid\"]] = \"open\" }
node Note { text: String? }
edge about(a: Note, b: Base)
";

fn parsed(text: &str) -> Ontology {
    parse_ontology(text).unwrap_or_else(|e| panic!("{text}: {e:?}"))
}

/// As an agent opens it.
fn opened(disk: &MemDisk, text: &str) -> Kernel {
    let options = Options { kernel_id: "test.k".into(), new_incarnation: "i1".into(), segment_bytes: 1 << 20 };
    let (store, _) = Store::open(Arc::new(disk.clone()), Arc::new(parsed(text)), options).expect("the store opens");
    Kernel::new(store)
}

/// Of a store whose text can be read.
fn adopt(k: &Kernel, text: &str) -> Option<Unfit> {
    k.adopt(text, |e| panic!("the text cannot be read: {e}"))
}

fn adopted(disk: &MemDisk, text: &str) -> Result<Kernel, Box<Unfit>> {
    let k = opened(disk, text);
    match adopt(&k, text) {
        None => Ok(k),
        Some(unfit) => Err(Box::new(unfit)),
    }
}

fn must_adopt(disk: &MemDisk, text: &str, when: &str) -> Kernel {
    adopted(disk, text).unwrap_or_else(|u| panic!("{when}: {}", u.why.join("; ")))
}

fn execute(k: &Kernel, text: &str) {
    k.execute(NOW_MS, text, &Params::new()).unwrap_or_else(|e| panic!("{text}: {e}"));
}

/// A kernel under the base with this data.
fn with(data: &str) -> MemDisk {
    let disk = MemDisk::new();
    let k = must_adopt(&disk, BASE, "a new store");
    if !data.is_empty() {
        execute(&k, data);
    }
    disk
}

/// What is there, whatever it is called.
fn content(k: &Kernel) -> Vec<Vec<u8>> {
    let view = k.view();
    let all = (0..view.next_entity()).filter_map(|n| view.get(n).expect("a disk in memory"));
    all.map(|s| s.bytes.to_vec()).collect()
}

/// A part of the base in another form.
fn changed(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "{from}");
    BASE.replace(from, to)
}

#[test]
fn a_start_takes_what_the_data_fits_and_names_what_it_does_not() {
    let two = "SPAWN Task {name = \"a\", n = 3, m = 7}; SPAWN Task {name = \"b\", n = 5, state = \"paid\"}";
    let linked = "SPAWN x: Note {text = \"x\"}; SPAWN t: Task {name = \"a\"}; LINK about(x, t)";
    // What changes; data that it does not fit, with what is said; data that it fits.
    let cases: [(&str, String, &str, &[&str], &str); 12] = [
        (
            "a narrower range",
            changed("[1..9]", "[1..4]"),
            two,
            &["attribute Task.n changed", "n: 5 is above the range"],
            "SPAWN Task {n = 4}",
        ),
        (
            "a shorter list",
            changed("\"open\", \"paid\"", "\"open\""),
            two,
            &["attribute Task.state changed", "is not in ["],
            "SPAWN Task {n = 9}",
        ),
        ("another kind", changed("m: Int?", "m: String?"), two, &["attribute Task.m changed", "expected type String"], ""),
        (
            "an attribute that is gone",
            changed("m: Int?", ""),
            two,
            &["attribute Task.m is gone", "it has no attribute"],
            "SPAWN Task {n = 1}",
        ),
        (
            "a value that must be there",
            changed("m: Int?", "m: Int [required]"),
            two,
            &["attribute Task.m changed", "m: it is required and has no value"],
            "SPAWN Task {m = 1}; SPAWN Note {text = \"x\"}",
        ),
        (
            "a new value that must be there",
            changed("text: String?", "text: String? by: String"),
            linked,
            &["new attribute Note.by must be nullable", "by: it is required"],
            two,
        ),
        (
            "a unique value",
            changed("m: Int?", "m: Int? [unique]"),
            "SPAWN Task {m = 7}; SPAWN Task {m = 7}",
            &["attribute Task.m changed", "m is unique and #"],
            "SPAWN Task {m = 7}; SPAWN Task {m = 8}; SPAWN Task {n = 1}",
        ),
        (
            "a type that is gone",
            "node Base { name: String? }\nnode Task: Base { n: Int? [1..9] m: Int? state: String [in: [\"open\", \"paid\"]] = \"open\" }".into(),
            linked,
            &["type Note is gone", "type about is gone", "is unknown here"],
            two,
        ),
        (
            "another end of an edge",
            changed("b: Base)", "b: Note)"),
            linked,
            &["the signature of edge about changed", "end b must be a Note"],
            "SPAWN x: Note {text = \"x\"}; SPAWN y: Note {text = \"y\"}",
        ),
        (
            "a parent that is gone",
            changed("node Task: Base {", "node Task { name: String?"),
            linked,
            &["type Task lost a parent", "end b must be a Base"],
            two,
        ),
        // These everything fits, and a running kernel refuses them all the same: peers and queries rely on what was.
        ("a longer list", changed("\"open\", \"paid\"", "\"open\", \"paid\", \"sent\""), "", &[], two),
        ("a wider range", changed("[1..9]", "[1..99]"), "", &[], two),
    ];
    for (what, next, misfit, says, fit) in cases {
        if !misfit.is_empty() {
            let disk = with(misfit);
            let before = content(&must_adopt(&disk, BASE, what));
            for _ in 0..2 {
                let Err(unfit) = adopted(&disk, &next) else { panic!("{what}: it was taken") };
                let why = unfit.why.join("; ");
                assert!(says.iter().all(|s| why.contains(s)), "{what}: {why}");
                assert!(unfit.by_data && unfit.before.is_some_and(|(text, _)| text == BASE), "{what}");
            }
            let k = must_adopt(&disk, BASE, what);
            assert_eq!(content(&k), before, "{what}: nothing has changed");
            execute(&k, "SPAWN Note {text = \"it goes on\"}");
        }
        let disk = with(fit);
        {
            let k = must_adopt(&disk, BASE, what);
            let refused = k.set_ontology(&next, parsed(&next)).expect_err(what);
            assert!(!refused.is_empty() && adopt(&k, BASE).is_none(), "{what}: the old one stays");
        }
        let before = content(&must_adopt(&disk, BASE, what));
        assert_eq!(content(&must_adopt(&disk, &next, what)), before, "{what}");
        // It is the one that others are held against from now on, also after a power loss.
        disk.crash(0);
        let k = must_adopt(&disk, &next, what);
        assert!(adopt(&k, &next).is_none(), "{what}");
    }
}

#[test]
fn what_is_unique_since_a_start_is_unique() {
    let disk = with("SPAWN Task {m = 7}; SPAWN Task {m = 8}");
    let k = must_adopt(&disk, &changed("m: Int?", "m: Int? [unique]"), "no value is there twice");
    let e = k.execute(NOW_MS, "SPAWN Task {m = 7}", &Params::new()).expect_err("it is there");
    assert!(e.to_string().contains("unique"), "{e}");
}

/// What a running kernel has taken is what the next start is held against.
#[test]
fn a_live_change_is_known_to_the_next_start() {
    let disk = with("SPAWN Task {n = 1}");
    let wider = changed("text: String?", "text: String? more: Int?");
    {
        let k = must_adopt(&disk, BASE, "as it was");
        k.set_ontology(&wider, parsed(&wider)).expect("it only adds");
        execute(&k, "SPAWN Note {more = 1}");
    }
    let Err(unfit) = adopted(&disk, BASE) else { panic!("it was taken back though it is in use") };
    assert!(unfit.why.join("; ").contains("attribute Note.more is gone"), "{:?}", unfit.why);
    assert!(unfit.before.is_some_and(|(text, _)| text == wider));
    execute(&must_adopt(&disk, &wider, "it is still there"), "MATCH x: Note KILL x");
    must_adopt(&disk, BASE, "nothing uses it any more");
}

/// Of a store that does not say what it was written under, everything is looked at.
#[test]
fn what_nobody_knows_the_ontology_of_is_looked_at() {
    let disk = MemDisk::new();
    execute(&opened(&disk, BASE), "SPAWN Task {n = 5}");
    let Err(unfit) = adopted(&disk, &changed("[1..9]", "[1..4]")) else { panic!("it was taken") };
    assert!(unfit.before.is_none() && unfit.why.join("; ").contains("above the range"), "{:?}", unfit.why);
    must_adopt(&disk, &changed("[1..9]", "[1..5]"), "the data fits it");
}

/// There may be millions.
#[test]
fn some_of_what_does_not_fit_is_named() {
    let disk = with(&["SPAWN Task {n = 9}"; 40].join("; "));
    let Err(unfit) = adopted(&disk, &changed("[1..9]", "[1..4]")) else { panic!("it was taken") };
    let named = unfit.why.iter().filter(|w| w.contains("does not fit")).count();
    assert!((1..10).contains(&named), "{:?}", unfit.why);
    assert!(unfit.why.last().is_some_and(|w| w.contains("more")), "{:?}", unfit.why);
}

/// The text cannot be kept, so the kernel goes on under the one that is known: reads must go on.
#[test]
fn a_full_disk_keeps_the_old_one() {
    let disk = with("SPAWN Task {n = 5}");
    let wider = changed("text: String?", "text: String? more: Int?");
    let k = opened(&disk, &wider);
    disk.set_fault(Fault { room: Some(0), ..Fault::default() });
    let unfit = adopt(&k, &wider).expect("it cannot be kept");
    assert!(!unfit.by_data && unfit.why.join("; ").contains("the disk is full"), "{:?}", unfit.why);
    assert!(unfit.before.is_some_and(|(text, _)| text == BASE));
    drop(k);
    disk.set_fault(Fault::default());
    let k = must_adopt(&disk, BASE, "as it was");
    k.set_ontology(&wider, parsed(&wider)).expect("there is room again");
}

/// Breaks whatever holds these bytes, wherever that is.
fn damage(disk: &MemDisk, holds: &str) {
    let mut found = 0;
    for name in disk.list().expect("a disk in memory") {
        disk.edit(&name, |b| {
            let at = b.windows(holds.len()).position(|w| w == holds.as_bytes());
            if let Some(at) = at {
                b[at] ^= 0x10;
                found += 1;
            }
        });
    }
    assert_eq!(found, 1, "{holds} is there once");
}

/// What cannot be read does not fit, by its place: everything else can be, and somebody wants to.
#[test]
fn a_record_that_cannot_be_read_keeps_the_old_one() {
    let disk = with("SPAWN Task {n = 5}; SPAWN Note {text = \"a marked one\"}");
    let narrower = changed("[1..9]", "[1..5]");
    let k = opened(&disk, &narrower);
    damage(&disk, "a marked one");
    let unfit = adopt(&k, &narrower).expect("nobody knows whether it fits");
    let why = unfit.why.join("; ");
    assert!(
        unfit.by_data && why.contains("cannot be read to its end") && why.contains("is damaged at offset"),
        "{why}"
    );
    assert!(unfit.before.is_some_and(|(text, _)| text == BASE));
    assert!(k.execute(NOW_MS, "MATCH t: Task RETURN t.n", &Params::new()).is_ok(), "the rest can be read");
    // Of one that only adds, there is nothing to look for.
    let wider = changed("text: String?", "text: String? more: Int?");
    drop(k);
    let disk = with("SPAWN Note {text = \"a marked one\"}");
    let k = opened(&disk, &wider);
    damage(&disk, "a marked one");
    assert!(adopt(&k, &wider).is_none());
}

#[test]
fn a_text_that_cannot_be_read_is_unknown() {
    for (next, fits) in [(changed("[1..9]", "[1..5]"), true), (changed("[1..9]", "[1..4]"), false)] {
        let disk = with("SPAWN Task {n = 5}");
        let k = opened(&disk, &next);
        damage(&disk, "edge about(");
        let mut unread = None;
        let unfit = k.adopt(&next, |e| unread = Some(e.to_string()));
        assert!(unread.is_some_and(|why| why.contains("is damaged at offset")));
        assert_eq!(unfit.is_none(), fits);
        if let Some(u) = unfit {
            assert!(u.before.is_none() && u.by_data && u.why.join("; ").contains("above the range"), "{:?}", u.why);
        } else {
            assert!(adopt(&k, &next).is_none(), "it is kept anew");
        }
    }
}

/// Who follows a file tries again every other second, whatever it was that refused.
#[test]
fn a_text_that_is_kept_is_not_written_again() {
    let disk = with("");
    let k = must_adopt(&disk, BASE, "as it was");
    disk.set_fault(Fault { room: Some(0), ..Fault::default() });
    k.set_ontology(BASE, parsed(BASE)).expect("there is nothing to write");
}
