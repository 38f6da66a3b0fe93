//! Who may send what to whom, through the planner. What the agent gets and what the owner of the objects reads must say the
//! same.

#[path = "../common/mod.rs"]
mod common;
mod policies;
mod table;

use common::World;
use mew_contract::{RemoteItem, SyncItem};
use serde_json::{Value, json};

fn rule(name: &str, action: &str, operation: &str, types: &[&str]) -> Value {
    json!({"name": name, "action": action, "operations": [operation], "types": types})
}

fn types(of: &[&str]) -> Vec<String> {
    of.iter().map(|t| (*t).to_owned()).collect()
}

fn only(w: &World) -> (RemoteItem, SyncItem) {
    let (mut remotes, mut syncs) = w.items();
    assert_eq!((remotes.len(), syncs.len()), (1, 1), "refused is not absent: the agent must close what is open");
    (remotes.remove(0), syncs.remove(0))
}
