//! Injection: a pod that is labelled as a kernel gets an agent beside its application.
//!
//! Pure: a pod and [`Settings`] in, the same pod with the agent out, or everything that is wrong with it. Pods are JSON as
//! the API server has them, because a typed pod would lose the fields of a newer Kubernetes. The webhook ([`review`]) and
//! `mew inject` ([`manifest`]) go through the same code.

mod agent;
mod annotations;
mod bounded;
mod conflicts;
mod documents;
mod origin;
mod patch;
mod present;
mod quantity;
mod review;
mod settings;
mod workload;

pub use agent::{CONTAINER, audience};
pub use documents::{Manifest, manifest};
pub use patch::patch;
pub use review::{Outcome, Review, review};
pub use settings::{Bounds, Resources, Settings, check_roots};

use mew_crds::annotations::{KERNEL, PREFIX, pod as names};
use origin::Origin;
use serde_json::{Map, Value};

/// What is wrong with a field of a pod.
pub use mew_crds::validate::FieldError as Refusal;

/// A pod as it is to be, which is as it was if nothing is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    pub pod: Value,
    /// What its author should know, and does no harm.
    pub warnings: Vec<String>,
}

/// Gives a pod its agent, if it is labelled as a kernel and has none yet.
pub fn inject(pod: &Value, settings: &Settings) -> Result<Injected, Vec<Refusal>> {
    inject_from(pod, &Origin::of_pod(pod), settings)
}

fn inject_from(pod: &Value, origin: &Origin, settings: &Settings) -> Result<Injected, Vec<Refusal>> {
    let Some(label) = label(pod) else {
        return Ok(Injected { pod: pod.clone(), warnings: unlabelled(pod) });
    };
    let label = label.map_err(|r| vec![r])?;
    let none = Map::new();
    let given = annotations_of(pod).unwrap_or(&none);
    if annotations::opts_out(given).map_err(|r| vec![r])? {
        return Ok(Injected { pod: pod.clone(), warnings: Vec::new() });
    }
    let found = present::find(pod);
    if found.is_some() && !annotations::ask(given) {
        // Somebody wrote an agent by hand. It only gets the roots, if it wants them.
        return Ok(Injected { pod: present::with_roots(pod, settings), warnings: Vec::new() });
    }
    let mut refusals = unknown_labels(pod);
    let wishes = match annotations::read(label, given) {
        Ok(w) => w,
        Err(more) => {
            refusals.extend(more);
            return Err(refusals);
        }
    };
    let kernel = match origin.kernel(label, wishes.scope, wishes.ordinals_start) {
        Ok(k) => k,
        Err(r) => {
            refusals.push(r);
            return Err(refusals);
        }
    };
    if let Some(found) = found {
        return if refusals.is_empty() {
            present::keep(pod, &found, &kernel, &wishes, settings)
        } else {
            Err(refusals)
        };
    }
    refusals.extend(conflicts::find(pod, origin, &wishes));
    if !refusals.is_empty() {
        return Err(refusals);
    }
    Ok(Injected { pod: agent::add(pod, &kernel, &wishes, settings), warnings: conflicts::warnings(pod) })
}

/// Whether a pod is labelled as a kernel and did not opt out.
fn holds_kernel(pod: &Value) -> bool {
    let inject = annotations_of(pod).and_then(|a| a.get(names::INJECT));
    label(pod).is_some() && inject.is_none_or(|v| v != "false")
}

fn labels_of(pod: &Value) -> Option<&Map<String, Value>> {
    pod.pointer("/metadata/labels")?.as_object()
}

fn annotations_of(pod: &Value) -> Option<&Map<String, Value>> {
    pod.pointer("/metadata/annotations")?.as_object()
}

fn label_field(name: &str) -> String {
    format!("metadata.labels[{name}]")
}

fn annotation_field(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

/// The label that says which kernel a pod holds.
fn label(pod: &Value) -> Option<Result<&str, Refusal>> {
    let value = labels_of(pod)?.get(KERNEL)?;
    let wrong = || Refusal {
        field: label_field(KERNEL),
        message: format!("{} is not a string; quote it", cut(&value.to_string())),
    };
    Some(value.as_str().ok_or_else(wrong))
}

/// A slip in a label is not seen by the webhook, which selects by it; where it can be seen it is said.
fn unknown_labels(pod: &Value) -> Vec<Refusal> {
    let ours = labels_of(pod).into_iter().flat_map(Map::keys).filter(|k| k.starts_with(PREFIX) && *k != KERNEL);
    ours.map(|k| Refusal { field: label_field(k), message: format!("is not known; the label of a pod is {KERNEL}") })
        .collect()
}

fn unlabelled(pod: &Value) -> Vec<String> {
    let annotated = annotations_of(pod).into_iter().flat_map(Map::keys).find(|k| k.starts_with(PREFIX));
    let labelled = labels_of(pod).into_iter().flat_map(Map::keys).find(|k| k.starts_with(PREFIX));
    match (annotated.map(|k| annotation_field(k)), labelled.map(|k| label_field(k))) {
        (Some(field), _) | (None, Some(field)) => {
            vec![format!("{field}: nothing is injected, since the pod has no label {KERNEL}")]
        }
        (None, None) => Vec::new(),
    }
}

/// Text of others, as a message quotes it: short.
fn cut(text: &str) -> String {
    /// Longer than any name that is right.
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Messages are read by people, in one line of an event.
fn joined(refusals: &[Refusal]) -> String {
    /// The rest is seen when these are mended.
    const SHOWN: usize = 8;
    let mut text = refusals.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if refusals.len() > SHOWN {
        text.push_str(&format!("; and {} more", refusals.len() - SHOWN));
    }
    text
}

/// The items of a list, which may be absent or null.
fn items<'a>(of: &'a Value, field: &str) -> &'a [Value] {
    of.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The text of a field, empty if there is none.
fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of.get(field).and_then(Value::as_str).unwrap_or_default()
}
