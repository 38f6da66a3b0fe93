//! What names in a script stand for.

use mew_model::Value;
use std::collections::BTreeMap;

/// Values of `$name`.
pub type Params = BTreeMap<String, Value>;

/// Entities that earlier statements of the script bound.
pub type Bound = BTreeMap<String, u32>;
