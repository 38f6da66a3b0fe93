//! A problem with its reason, and a refused item.

use crate::reason::Reason;
use serde::{Deserialize, Serialize};

/// Most bytes of a message: it may hold a peer's words, and all messages of an agent travel in one report.
pub const MAX_TEXT: usize = 2048;

/// The text, or as much of its beginning as a message may have.
pub fn shortened(text: impl Into<String>) -> String {
    let mut text = text.into();
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What is wrong, for people and for conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Problem {
    pub reason: Reason,
    pub message: String,
}

impl Problem {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Problem { reason, message: shortened(message) }
    }
}

/// An item of the snapshot that the agent refuses, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    pub kind: String,
    pub name: String,
    pub problem: Problem,
}
