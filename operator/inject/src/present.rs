//! A pod that holds an agent already: it stays as it is, and what would be different now is said.

use crate::agent::{CONTAINER, KERNEL_VARIABLE, ROOTS_VOLUME, container, set_roots, volumes};
use crate::annotations::Wishes;
use crate::{Injected, Refusal, Settings, annotations_of, cut, items, quantity, text};
use mew_crds::annotations::pod as names;
use serde_json::Value;

pub struct Found<'a> {
    path: String,
    container: &'a Value,
}

pub fn find(pod: &Value) -> Option<Found<'_>> {
    let spec = pod.get("spec")?;
    ["initContainers", "containers"].into_iter().find_map(|list| {
        let (i, container) = items(spec, list).iter().enumerate().find(|(_, c)| text(c, "name") == CONTAINER)?;
        Some(Found { path: format!("spec.{list}[{i}]"), container })
    })
}

/// A CA's rotation must reach pods whose manifests were injected long ago: the roots are always the newest.
pub fn with_roots(pod: &Value, s: &Settings) -> Value {
    let mut pod = pod.clone();
    let asks = annotations_of(&pod).is_some_and(|a| a.contains_key(names::ROOTS));
    let mounts = volume(&pod, ROOTS_VOLUME).is_some();
    if asks || mounts {
        set_roots(&mut pod, s);
    }
    pod
}

pub fn keep(pod: &Value, found: &Found<'_>, kernel: &str, w: &Wishes, s: &Settings) -> Result<Injected, Vec<Refusal>> {
    let path = &found.path;
    let variable = items(found.container, "env").iter().find(|e| text(e, "name") == KERNEL_VARIABLE);
    if let Some(other) = variable.and_then(|e| e.get("value")?.as_str()).filter(|v| *v != kernel) {
        let message = format!(
            "holds an agent of kernel {:?}, and by its label this pod holds {kernel:?}; remove the container and the volumes \
             that begin with {CONTAINER}, so that they are injected anew",
            cut(other)
        );
        return Err(vec![Refusal { field: path.clone(), message }]);
    }
    let mut differ = Vec::new();
    compare(&container(pod, kernel, w, s), found.container, "", &mut differ);
    for wanted in volumes(kernel, w, s) {
        let name = text(&wanted, "name");
        match volume(pod, name) {
            Some(there) => compare(&wanted, there, &format!("volumes[{name}]"), &mut differ),
            None => differ.push(format!("volumes[{name}]")),
        }
    }
    let warnings = if differ.is_empty() {
        Vec::new()
    } else {
        vec![format!("{path}: the agent stays as it is, and would now differ in {}", cut(&differ.join(", ")))]
    };
    Ok(Injected { pod: with_roots(pod, s), warnings })
}

fn volume<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    items(pod.get("spec")?, "volumes").iter().find(|v| text(v, "name") == name)
}

/// Paths of what is wanted and is not there. What is there beyond it (the API server's defaults, what others injected) does
/// not count, and amounts may be written in another way.
fn compare(wanted: &Value, there: &Value, path: &str, differ: &mut Vec<String>) {
    match (wanted, there) {
        (Value::Object(w), Value::Object(t)) => {
            for (k, v) in w {
                let at = if path.is_empty() { k.clone() } else { format!("{path}.{k}") };
                match t.get(k) {
                    Some(t) => compare(v, t, &at, differ),
                    None => differ.push(at),
                }
            }
        }
        (Value::Array(w), Value::Array(t)) => {
            for (i, v) in w.iter().enumerate() {
                if !t.iter().any(|t| is_within(v, t)) {
                    let name = v.get("name").and_then(Value::as_str).map_or_else(|| i.to_string(), str::to_owned);
                    differ.push(format!("{path}[{name}]"));
                }
            }
        }
        (Value::String(w), Value::String(t)) if w != t => {
            let same = quantity::parse(w).is_some_and(|a| quantity::parse(t) == Some(a));
            if !same {
                differ.push(path.to_owned());
            }
        }
        (w, t) if w != t => differ.push(path.to_owned()),
        _ => {}
    }
}

fn is_within(wanted: &Value, there: &Value) -> bool {
    let mut differ = Vec::new();
    compare(wanted, there, "", &mut differ);
    differ.is_empty()
}
