//! Manifests, and the small texts in them and beside them.

use mew_crds::common::{KernelUri, is_kernel_id, is_object_name, is_trust_domain, is_type_name};
use mew_crds::manifest::{Object, object, read};
use mew_crds::quantities::duration_ms;
use mew_crds::validate;
use mew_sync::records;
use mew_tls::SpiffeId;
use serde_json::Value as Json;

fn written(o: &Object) -> Json {
    let v = match o {
        Object::Remote(o) => serde_json::to_value(&**o),
        Object::Sync(o) => serde_json::to_value(&**o),
        Object::Policy(o) => serde_json::to_value(&**o),
        Object::ConfigMap(o) => serde_json::to_value(&**o),
    };
    v.expect("an object is JSON")
}

/// A file of manifests. Each error names a line of it; each object can be kept, and is then the same.
pub fn manifest(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (objects, errors) = read("file.yaml", &text);
    for e in &errors {
        let at = e.at.strip_prefix("file.yaml:").and_then(|at| at.split(' ').next()).and_then(|n| n.parse().ok());
        let line: usize = at.unwrap_or_else(|| panic!("no line in {e:?}"));
        assert!((1..=text.lines().count() + 1).contains(&line), "{e:?} of {text:?}");
        assert!(!e.errors.is_empty() && e.errors.iter().all(|f| !f.message.is_empty()), "{e:?} of {text:?}");
    }
    for o in &objects {
        // As an operator without Kubernetes keeps them.
        let kept = written(o);
        let again = match object(&kept) {
            Ok(Some(again)) => again,
            other => panic!("{kept} is taken once, and then {other:?}"),
        };
        let other = written(&again);
        for part in ["/kind", "/metadata/name", "/metadata/namespace", "/spec", "/data"] {
            assert_eq!(other.pointer(part), kept.pointer(part), "{part} of {kept}");
        }
        let changed = match o {
            Object::Remote(o) => validate::remote_update(&o.spec, &o.spec),
            Object::Sync(o) => validate::sync_update(&o.spec, &o.spec),
            Object::Policy(_) | Object::ConfigMap(_) => Vec::new(),
        };
        assert!(changed.is_empty(), "it is no change of itself: {changed:?}");
    }
}

/// Names, addresses, durations and keys: what is taken apart can be put together again.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = text.as_ref();
    if let Some(u) = KernelUri::parse(text) {
        assert_eq!(format!("mew://{}:{}/{}", u.host, u.port, u.kernel_id), text);
        assert!(is_kernel_id(&u.kernel_id));
    }
    if is_kernel_id(text) {
        assert!(KernelUri::parse(&format!("mew://host:1/{text}")).is_some(), "{text:?}");
        let id = SpiffeId::kernel("there.example", text);
        assert_eq!(SpiffeId::parse(&id.to_string()).as_ref().and_then(SpiffeId::kernel_id), Some(text));
    }
    if let Some(id) = SpiffeId::parse(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Some(ms) = duration_ms(text) {
        assert!(text.len() <= 28 && ms <= 4 * 99_999 * 3_600_000, "{text:?} is {ms} ms");
        assert!(text.bytes().all(|b| b.is_ascii_digit() || b"hms".contains(&b)), "{text:?}");
    }
    let ascii = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    assert!(ascii || !(is_object_name(text) || is_trust_domain(text) || is_type_name(text) || is_kernel_id(text)));
    assert!(!is_object_name(text) || is_trust_domain(text), "a name of an object is one of a trust domain: {text:?}");
    keys(text);
}

fn keys(text: &str) {
    let Some((flow, id)) = text.split_once('\n') else { return };
    if !flow.contains('\0') && !id.contains('\0') {
        let both = Some((flow.to_owned(), id.to_owned()));
        assert_eq!(records::parse_held_key(&records::held_key(flow, id)), both);
        assert_eq!(records::parse_blocked_key(&records::blocked_key("blocker", flow, id)), both);
        assert!(records::held_key(flow, id).starts_with(&records::held_prefix(flow)));
    }
    if !flow.contains('|') {
        let key = records::flow_key(flow, "declarer", id);
        assert_eq!(records::parse_flow_key(&key), Some((flow, id)));
    }
    let _ = (records::parse_held_key(text.as_bytes()), records::parse_flow_key(text));
}
