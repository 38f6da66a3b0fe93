//! Manifests as text: every document that makes no agents' pods comes out byte for byte as it was.

use crate::settings::Settings;
use crate::workload::inject_object;
use crate::{cut, joined, text};
use serde_json::Value;

/// A manifest with its agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub text: String,
    /// Each with its place.
    pub warnings: Vec<String>,
    /// Documents that were changed.
    pub injected: usize,
}

/// Injects the documents of a file. If one is refused, all that is wrong with the file is returned instead, each with its
/// place: half a manifest is not for Git.
pub fn manifest(file: &str, source: &str, s: &Settings) -> Result<Manifest, Vec<String>> {
    let mut out = Manifest { text: String::new(), warnings: Vec::new(), injected: 0 };
    let mut wrong = Vec::new();
    for part in parts(source) {
        out.text.push_str(part.separator);
        let at = format!("{file}:{}", part.line);
        if is_blank(&part.body) {
            out.text.push_str(&part.body);
            continue;
        }
        let object: Value = match serde_saphyr::from_str(&part.body) {
            Ok(v) => v,
            Err(e) => {
                wrong.push(format!("{at}: not YAML: {e}"));
                continue;
            }
        };
        let name = cut(object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?"));
        let at = format!("{at} ({} {name})", cut(text(&object, "kind")));
        match inject_object(&object, s) {
            Err(refusals) => wrong.push(format!("{at}: {}", joined(&refusals))),
            Ok(done) => {
                out.warnings.extend(done.warnings.iter().map(|w| format!("{at}: {w}")));
                if done.pod == object {
                    out.text.push_str(&part.body);
                    continue;
                }
                match serde_saphyr::to_string(&done.pod) {
                    Ok(yaml) => {
                        out.injected += 1;
                        out.text.push_str(header(&part.body));
                        out.text.push_str(yaml.trim_end());
                        out.text.push('\n');
                    }
                    Err(e) => wrong.push(format!("{at}: cannot be written as YAML: {e}")),
                }
            }
        }
    }
    if wrong.is_empty() { Ok(out) } else { Err(wrong) }
}

/// One document with the line before it.
struct Part<'a> {
    separator: &'a str,
    /// Of its first line, from 1.
    line: usize,
    body: String,
}

/// Splits a stream of documents at lines that begin with `---`. What stands behind it, if it is no comment, belongs to the
/// document.
fn parts(source: &str) -> Vec<Part<'_>> {
    let mut out = vec![Part { separator: "", line: 1, body: String::new() }];
    for (i, line) in source.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---").filter(|r| r.is_empty() || r.starts_with(char::is_whitespace));
        match rest {
            Some(r) if is_blank(r) => out.push(Part { separator: line, line: i + 2, body: String::new() }),
            Some(r) => {
                let (separator, _) = line.split_at(line.len() - r.len());
                out.push(Part { separator, line: i + 1, body: r.to_owned() });
            }
            None => {
                if let Some(part) = out.last_mut() {
                    part.body.push_str(line);
                }
            }
        }
    }
    out
}

/// Whether there are only comments.
fn is_blank(text: &str) -> bool {
    text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'))
}

/// The comments before a document.
fn header(body: &str) -> &str {
    let end: usize = body.split_inclusive('\n').take_while(|l| is_blank(l)).map(str::len).sum();
    &body[..end]
}
