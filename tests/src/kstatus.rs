//! What Flux and other tools think of an object: kstatus's algorithm for kinds that it does not know. It looks at the
//! generation that the status is about, then at the first of Reconciling, Stalled and Ready that says something.

use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Current,
    InProgress,
    Failed,
    Terminating,
}

pub fn kstatus(object: &Value) -> Status {
    if object["metadata"].get("deletionTimestamp").is_some() {
        return Status::Terminating;
    }
    let status = &object["status"];
    if let Some(observed) = status["observedGeneration"].as_i64()
        && Some(observed) != object["metadata"]["generation"].as_i64()
    {
        return Status::InProgress;
    }
    let conditions = || {
        let all = status["conditions"].as_array().into_iter().flatten();
        all.map(|c| (c["type"].as_str().unwrap_or(""), c["status"].as_str().unwrap_or("")))
    };
    for (kind, value) in conditions() {
        match (kind, value) {
            ("Reconciling", "True") => return Status::InProgress,
            ("Stalled", "True") => return Status::Failed,
            _ => {}
        }
    }
    match conditions().find(|(kind, _)| *kind == "Ready") {
        Some((_, "False" | "Unknown")) => Status::InProgress,
        // Nothing that it recognises is taken for fine.
        Some(_) | None => Status::Current,
    }
}

/// A condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}
