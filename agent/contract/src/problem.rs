//! A problem with its reason, and a refused item.

use crate::reason::Reason;
use serde::{Deserialize, Serialize};

/// What is wrong, for people and for conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Problem {
    pub reason: Reason,
    pub message: String,
}

impl Problem {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Problem { reason, message: message.into() }
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
