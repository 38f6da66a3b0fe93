//! Messages as they cross a process boundary or lie in the store as facts.

use mew_model::shape::incompatibilities;
use mew_sync::shapes;
use mew_wire as wire;
use prost::Message;
use std::fmt::Debug;
use wire::frame::Body;

/// What can be read can be written, and what is written is read as the same. Compared by bytes: a NaN equals nothing.
pub(crate) fn fixpoint<T: Message + Default + Debug>(data: &[u8]) -> Option<T> {
    let m = match T::decode(data) {
        Ok(m) => m,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return None;
        }
    };
    let written = m.encode_to_vec();
    assert_eq!(written.len(), m.encoded_len());
    let again = T::decode(written.as_slice()).expect("what was written can be read");
    assert_eq!(again.encode_to_vec(), written, "{m:?} and {again:?}");
    Some(m)
}

/// One frame of a session between agents.
pub fn frame(data: &[u8]) {
    let Some(f) = fixpoint::<wire::Frame>(data) else { return };
    match f.body {
        Some(Body::FlowOpen(o)) => {
            let types: Vec<_> = o.types.iter().map(shapes::from_wire).collect();
            let _ = incompatibilities(&types, &types);
        }
        Some(Body::SyncPush(p)) => p.entities.iter().for_each(|b| crate::entity(b)),
        _ => {}
    }
}

/// Any other message; the first byte says which.
pub fn message(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    match which % 16 {
        0 => drop(fixpoint::<wire::Entity>(data)),
        1 => drop(fixpoint::<wire::Position>(data)),
        2 => drop(fixpoint::<wire::SinkState>(data)),
        3 => drop(fixpoint::<wire::FlowDefinition>(data)),
        4 => drop(fixpoint::<wire::FlowMembers>(data)),
        5 => drop(fixpoint::<wire::Held>(data)),
        6 => drop(fixpoint::<wire::Conflict>(data)),
        7 => request(data),
        8 => drop(fixpoint::<wire::ExecuteResponse>(data)),
        9 => drop(fixpoint::<wire::RecordsRequest>(data)),
        10 => drop(fixpoint::<wire::RecordsResponse>(data)),
        11 => value(data),
        12 => drop(fixpoint::<wire::SignRequest>(data)),
        13 => drop(fixpoint::<wire::SignResponse>(data)),
        14 => drop(fixpoint::<wire::ObjectsRequest>(data)),
        _ => drop(fixpoint::<wire::TypeShape>(data)),
    }
}

fn value(data: &[u8]) {
    let Some(w) = fixpoint::<wire::Value>(data) else { return };
    let v = shapes::value_from_wire(w.clone());
    assert_eq!(shapes::value_from_wire(shapes::value_to_wire(&v)), v);
    assert_eq!(shapes::value_to_wire(&v).encode_to_vec(), w.encode_to_vec());
}

/// Its parameters have no order, so two messages of the same meaning may differ in their bytes.
fn request(data: &[u8]) {
    let Ok(m) = wire::ExecuteRequest::decode(data) else { return };
    let written = m.encode_to_vec();
    assert_eq!(written.len(), m.encoded_len());
    let again = wire::ExecuteRequest::decode(written.as_slice()).expect("what was written can be read");
    let ordered = |m: &wire::ExecuteRequest| {
        let mut params: Vec<_> = m.params.iter().map(|(k, v)| (k.clone(), v.encode_to_vec())).collect();
        params.sort_unstable();
        (m.text.clone(), params, m.row_names.clone(), m.rows.iter().map(Message::encode_to_vec).collect::<Vec<_>>())
    };
    assert_eq!(ordered(&m), ordered(&again));
}
