//! Every decoder on its kept inputs, and on changes of them that are the same in every run.
//!
//! `MEW_FUZZ_SEED` is the seed of the first round (each round has the next), `MEW_FUZZ_ROUNDS` says how many there are: with
//! the seed of a failure and one round it is replayed. `MEW_FUZZ_TRACE=1` writes each input to a file before it is read, for
//! what ends the process: a stack that overflows, or memory that is refused.
//!
//! Memory is measured, not guessed: a call may allocate [`BASE`] and [`FACTOR`] bytes for each byte of its input. A decoder
//! that believes a length of four bytes asks for up to 4 GiB, and is found.

mod alloc;
mod change;

use change::{Rng, changed};
use mew_fuzz::{DECODERS, samples, seal};
use std::collections::BTreeSet;
use std::fs;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// A store in memory with the cache of what it read, a kernel and a link have about 1 MiB, and some decoders open several.
const BASE: usize = 16 << 20;
/// Two bytes are an empty message in a list of messages, and that is a structure of 200 bytes in a list that doubles when it
/// grows; read, written, and read again.
const FACTOR: usize = 1024;
/// Of an input that is printed.
const SHORT: usize = 512;

struct Kept {
    name: String,
    bytes: Vec<u8>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names of what is in a folder, ascending.
fn listed(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn kept(decoder: &str) -> Vec<Kept> {
    let dir = root().join("corpus").join(decoder);
    let read = |name: String| {
        let bytes = fs::read(dir.join(&name)).expect("a kept input");
        Kept { name, bytes }
    };
    let all: Vec<Kept> = listed(&dir).into_iter().map(read).collect();
    assert!(!all.is_empty(), "{decoder} has no kept inputs; `cargo run -p mew-fuzz --example seed` writes them");
    all
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text:?} is no number")))
}

/// Where an input is put so that it can be looked at.
fn file_for(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&dir).expect("a directory");
    dir.join(name)
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads one input, and says all about it if that goes wrong.
fn read(decoder: &str, decode: fn(&[u8]), input: &[u8], from: &str, is_traced: bool) {
    if is_traced {
        fs::write(file_for(&format!("{decoder}.now")), input).expect("the input is written");
    }
    let (result, peak) = alloc::peak(|| catch_unwind(AssertUnwindSafe(|| decode(input))));
    let allowed = BASE + FACTOR * input.len();
    let why = match result {
        Err(_) => "it panicked; see above".to_owned(),
        Ok(()) if peak > allowed => format!("it allocated {peak} bytes, and {allowed} are allowed"),
        Ok(()) => return,
    };
    let path = file_for(&format!("{decoder}-{:016x}", change::hash(input)));
    fs::write(&path, input).expect("the input is written");
    let shown = if input.len() <= SHORT { hex(input) } else { format!("{} bytes", input.len()) };
    panic!("{decoder}, {from}: {why}\nthe input is in {}; keep it in fuzz/corpus/{decoder}\n{shown}", path.display());
}

/// Words that come in where they do not belong: lines in quotes, with `\\`, `\"` and `\xNN` as libFuzzer has them.
fn words(dictionary: &str) -> Vec<Vec<u8>> {
    if dictionary.is_empty() {
        return Vec::new();
    }
    let path = root().join("dictionaries").join(format!("{dictionary}.dict"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().filter_map(|l| l.strip_prefix('"')?.strip_suffix('"')).map(unescaped).collect()
}

fn unescaped(word: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), word.as_bytes());
    while let Some((b, more)) = rest.split_first() {
        rest = more;
        match (b, more.split_first()) {
            (b'\\', Some((b'x', digits))) => {
                let two = std::str::from_utf8(&digits[..2]).expect("two hex digits");
                out.push(u8::from_str_radix(two, 16).expect("two hex digits"));
                rest = &digits[2..];
            }
            (b'\\', Some((c, more))) => {
                out.push(*c);
                rest = more;
            }
            _ => out.push(*b),
        }
    }
    out
}

fn run(decoder: &str, decode: fn(&[u8]), rounds: u64, dictionary: &str) {
    let (files, words) = (kept(decoder), words(dictionary));
    let is_traced = number("MEW_FUZZ_TRACE").is_some_and(|n| n > 0);
    for f in &files {
        read(decoder, decode, &f.bytes, &format!("corpus/{decoder}/{}", f.name), is_traced);
    }
    let first = number("MEW_FUZZ_SEED").unwrap_or(1);
    let rounds = number("MEW_FUZZ_ROUNDS").unwrap_or(rounds);
    for seed in first..first.saturating_add(rounds) {
        let mut rng = Rng::new(seed);
        let (one, other) = (&files[rng.below(files.len())], &files[rng.below(files.len())]);
        let input = changed(&mut rng, &one.bytes, &other.bytes, &words);
        let from = format!("MEW_FUZZ_SEED={seed} MEW_FUZZ_ROUNDS=1 (of {} and {})", one.name, other.name);
        read(decoder, decode, &input, &from, is_traced);
    }
}

/// Decoder, rounds, and dictionary. The rounds are for about two seconds each without optimization.
macro_rules! decoders {
    ($($name:ident $rounds:literal $dictionary:literal;)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                run(stringify!($name), mew_fuzz::$name, $rounds, $dictionary);
            }
        )*
    };
}

decoders! {
    archive 3_000 "";
    bundle 200 "pem";
    certificate 1_500 "";
    checkpoint 300 "";
    control 2_000 "json";
    directory 120 "";
    entity 20_000 "";
    fact 500 "";
    frame 6_000 "";
    literal 6_000 "statements";
    manifest 500 "yaml";
    message 10_000 "";
    names 20_000 "names";
    ontology 1_500 "ontology";
    pattern 2_500 "statements";
    report 800 "json";
    request 500 "pem";
    restore 100 "";
    script 2_000 "statements";
    segment 500 "";
    session 400 "";
    snapshot 2_000 "json";
    timestamp 20_000 "names";
    value_json 8_000 "json";
    versions 10_000 "";
}

/// A decoder that is forgotten somewhere is not fuzzed there.
#[test]
fn every_decoder_is_run_everywhere() {
    let names: BTreeSet<String> = DECODERS.iter().map(|d| d.0.to_owned()).collect();
    assert_eq!(names.len(), DECODERS.len(), "a name twice");
    assert_eq!(TESTED.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>(), names, "in this file");
    assert_eq!(listed(&root().join("corpus")), names, "in fuzz/corpus");
    let targets: BTreeSet<String> =
        listed(&root().join("fuzz_targets")).iter().map(|f| f.trim_end_matches(".rs").to_owned()).collect();
    assert_eq!(names, targets, "in fuzz/fuzz_targets");
    let manifest = fs::read_to_string(root().join("cargo-fuzz/Cargo.toml")).expect("its manifest");
    let bins: BTreeSet<String> = manifest
        .lines()
        .filter_map(|l| Some(l.strip_prefix("path = \"../fuzz_targets/")?.strip_suffix(".rs\"")?.to_owned()))
        .collect();
    assert_eq!(bins, names, "in fuzz/cargo-fuzz/Cargo.toml");
    for name in &names {
        let target = fs::read_to_string(root().join(format!("fuzz_targets/{name}.rs"))).expect("a target");
        assert!(target.contains(&format!("mew_fuzz::{name}(data)")), "fuzz_targets/{name}.rs runs something else");
    }
}

/// Otherwise nothing behind a checksum would be reached, and nobody would notice.
#[test]
fn the_seals_are_those_of_the_encoders() {
    /// In the number of the first commit of a segment.
    const AT: usize = 60;
    let mut segments = 0;
    for (name, bytes) in samples::contents(&samples::directory()) {
        let mut sealed = bytes.clone();
        if name == "checkpoint" {
            seal::checkpoint(&mut sealed);
        } else if name.ends_with(".seg") && bytes.len() > AT {
            segments += 1;
            seal::segment(&mut sealed);
            let mut damaged = bytes.clone();
            damaged[AT] ^= 1;
            let before = damaged.clone();
            seal::segment(&mut damaged);
            assert!(damaged != before, "{name} is not sealed");
        }
        assert!(sealed == bytes, "{name} is sealed otherwise");
    }
    assert!(segments > 2, "{segments} segments");
    for k in kept("archive").iter().filter(|k| k.name.starts_with("whole")) {
        let mut sealed = k.bytes.clone();
        seal::archive(&mut sealed);
        assert!(sealed == k.bytes, "archive/{} is sealed otherwise", k.name);
    }
}

/// The allocator counts, or nothing would be measured.
#[test]
fn what_is_allocated_is_counted() {
    let (v, peak) = alloc::peak(|| {
        drop(black_box(vec![1_u8; 3 << 20]));
        black_box(vec![0_u8; 1 << 20])
    });
    assert!((3 << 20..4 << 20).contains(&peak) && v.len() == 1 << 20, "{peak} bytes");
}
