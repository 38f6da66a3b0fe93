//! An AdmissionReview (admission.k8s.io/v1) and its answer.

use crate::{Injected, Settings, bounded, cut, inject, joined, patch, text};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

const API_VERSION: &str = "admission.k8s.io/v1";
/// The API server cuts warnings itself, and less kindly.
const WARNINGS: usize = 4;
/// What became of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Injected,
    Unchanged,
    Refused,
    /// It was no review that can be answered.
    Malformed,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    pub outcome: Outcome,
    /// The answer, a whole AdmissionReview.
    pub answer: Value,
}

/// Answers whatever comes.
pub fn review(body: &[u8], s: &Settings) -> Review {
    match read(body) {
        Err(why) => denied("", Outcome::Malformed, &format!("this is no AdmissionReview that can be answered: {why}")),
        Ok((uid, None)) => allowed(&uid, None, &[]),
        Ok((uid, Some(pod))) => match inject(&pod, s) {
            Ok(Injected { pod: new, warnings }) => allowed(&uid, Some((&pod, &new)), &warnings),
            Err(refusals) => denied(&uid, Outcome::Refused, &joined(&refusals)),
        },
    }
}

/// The number of the request, and the pod if one is being created.
fn read(body: &[u8]) -> Result<(String, Option<Value>), String> {
    let mut review = bounded::parse(body).map_err(|e| e.to_string())?;
    let version = text(&review, "apiVersion");
    if (version, text(&review, "kind")) != (API_VERSION, "AdmissionReview") {
        return Err(format!("it is a {:?} of {:?}", cut(text(&review, "kind")), cut(version)));
    }
    let Some(request) = review.get_mut("request") else { return Err("it has no request".to_owned()) };
    let uid = text(request, "uid").to_owned();
    if uid.is_empty() {
        return Err("its request has no uid".to_owned());
    }
    let resource = &request["resource"];
    let pods = (text(resource, "group"), text(resource, "resource"), text(request, "subResource")) == ("", "pods", "");
    if !pods || text(request, "operation") != "CREATE" {
        return Ok((uid, None));
    }
    let pod = request["object"].take();
    if pod.is_object() { Ok((uid, Some(pod))) } else { Err("its request has no object".to_owned()) }
}

fn allowed(uid: &str, change: Option<(&Value, &Value)>, warnings: &[String]) -> Review {
    let mut response = json!({"uid": uid, "allowed": true});
    let operations = change.map(|(from, to)| patch(from, to)).unwrap_or_default();
    let outcome = if operations.is_empty() { Outcome::Unchanged } else { Outcome::Injected };
    if !operations.is_empty() {
        let bytes = Value::Array(operations).to_string().into_bytes();
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(ByteString(bytes));
    }
    if !warnings.is_empty() {
        response["warnings"] = warnings.iter().take(WARNINGS).map(|w| json!(w)).collect();
    }
    answer(outcome, response)
}

fn denied(uid: &str, outcome: Outcome, message: &str) -> Review {
    // As `Invalid`, kubectl would expect a list of causes and show less.
    let status = json!({"status": "Failure", "code": 400, "reason": "BadRequest", "message": message});
    answer(outcome, json!({"uid": uid, "allowed": false, "status": status}))
}

fn answer(outcome: Outcome, response: Value) -> Review {
    Review { outcome, answer: json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}) }
}
