//! The JSON of the API, and backups.

use crate::contract::has_a_place;
use crate::seal;
use mew_agent::offline;
use mew_lang::lexer::parse_timestamp;
use mew_model::Value;
use mew_model::value::format_timestamp;
use mew_net::archive::{MANIFEST, Manifest};
use mew_net::json::{from_json, to_json};
use mew_store::ReadOnlyDir;
use mew_store::inspect::check;
use serde_json::Value as Json;

/// A parameter, or a value of a result. What is read can be written, and is then read as the same.
pub fn value_json(data: &[u8]) {
    let j = match serde_json::from_slice::<Json>(data) {
        Ok(j) => j,
        Err(e) => return has_a_place(&e, data),
    };
    let v = match from_json(&j) {
        Ok(v) => v,
        Err(why) => return assert!(!why.is_empty()),
    };
    if let (Json::Number(_), Value::Float(x)) = (&j, &v) {
        let exact = std::str::from_utf8(data).ok().and_then(|t| t.trim().parse::<f64>().ok());
        assert_eq!(exact.map(f64::to_bits), Some(x.to_bits()), "{j} is read as its neighbour");
    }
    if matches!(v, Value::Timestamp(t) if parse_timestamp(&format_timestamp(t)).is_none()) {
        return; // its year has more than four digits
    }
    let text = to_json(&v).to_string();
    let again = serde_json::from_str(&text).map_err(|e| e.to_string()).and_then(|j| from_json(&j));
    match (again, &v) {
        (Ok(Value::Float(x)), Value::Float(y)) if x.is_nan() && y.is_nan() => {}
        (again, v) => assert_eq!(again.as_ref(), Ok(v), "{j} is written as {text}"),
    }
}

/// The beginning of a backup, as it arrives.
pub fn archive(data: &[u8]) {
    let mut sealed = data.to_vec();
    seal::archive(&mut sealed);
    for b in [data, sealed.as_slice()] {
        let all = Manifest::begins(b);
        if let Err(e) = &all {
            assert!(!e.is_empty());
        }
        // What is said early is not taken back.
        for n in [0, 511, 512, 513, b.len() / 2, b.len().saturating_sub(1)] {
            match Manifest::begins(&b[..n.min(b.len())]) {
                Ok(None) => {}
                early => assert_eq!(early, all, "after {n} of {} bytes", b.len()),
            }
        }
        if let Ok(Some(m)) = all {
            let text = serde_json::to_vec(&m).expect("it is JSON");
            assert_eq!(Manifest::parse(&text).as_ref(), Ok(&m));
        }
    }
    if let Err(e) = Manifest::parse(data) {
        assert!(e.contains(MANIFEST) || e.contains("format"), "{e}");
    }
}

/// A whole backup: it is restored whole or not at all.
pub fn restore(data: &[u8]) {
    one_restore(data);
    let mut sealed = data.to_vec();
    seal::archive(&mut sealed);
    if sealed != data {
        one_restore(&sealed);
    }
}

fn one_restore(data: &[u8]) {
    let tmp = tempfile::tempdir().expect("a directory");
    let dir = tmp.path().join("data");
    match offline::restore(data, &dir, false) {
        Err(e) => {
            assert!(!format!("{e:#}").is_empty());
            for left in ["log", "restore.new"] {
                assert!(!dir.join(left).exists(), "{left} is left of what failed: {e:#}");
            }
        }
        Ok(r) => {
            let found = check(&ReadOnlyDir::new(dir.join("log"))).expect("what was restored can be looked at");
            assert!(found.damages.is_empty() && found.torn.is_none(), "{:?} {:?}", found.damages, found.torn);
            assert_eq!(found.last_seq, r.manifest.head);
            assert_eq!(found.kernel_id.as_ref(), Some(&r.manifest.kernel_id));
            assert_eq!(found.incarnation.as_ref(), Some(&r.incarnation));
            assert_ne!(r.incarnation, r.manifest.incarnation, "others know more of the old one");
        }
    }
}
