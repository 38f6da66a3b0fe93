//! An agent that acts as an older one, for rehearsals and tests: `MEW_UNKNOWN_FIELDS=<field>[,<field>…]` names fields of a
//! snapshot's items that it is to refuse as any agent refuses what is newer than itself. It can only refuse more, never less.
//!
//! An operator writes a newer field only where it says something, so one that is null or an empty list is none.

use mew_contract::Snapshot;
use serde_json::Value;

/// Before the name of such a field: no field of ours is called like that, so the item is refused by the usual way.
const NEWER: &str = "newer.";

#[derive(Clone, Debug, Default)]
pub struct UnknownFields(Vec<String>);

impl UnknownFields {
    pub fn from_env() -> Self {
        let fields = Self::named(&std::env::var("MEW_UNKNOWN_FIELDS").unwrap_or_default());
        if !fields.0.is_empty() {
            tracing::warn!(fields = fields.0.join(","), "MEW_UNKNOWN_FIELDS makes this agent an older one");
        }
        fields
    }

    fn named(list: &str) -> Self {
        UnknownFields(list.split(',').map(str::trim).filter(|f| !f.is_empty()).map(str::to_owned).collect())
    }

    /// Makes the items ones of a newer operator.
    pub fn mark(&self, s: &mut Snapshot) {
        if !self.0.is_empty() {
            s.remotes.iter_mut().chain(&mut s.syncs).for_each(|i| self.mark_in(i));
        }
    }

    fn mark_in(&self, v: &mut Value) {
        match v {
            Value::Array(all) => all.iter_mut().for_each(|v| self.mark_in(v)),
            Value::Object(fields) => {
                fields.values_mut().for_each(|v| self.mark_in(v));
                for f in &self.0 {
                    if fields.get(f).is_some_and(says_something)
                        && let Some(value) = fields.remove(f)
                    {
                        fields.insert(format!("{NEWER}{f}"), value);
                    }
                }
            }
            _ => {}
        }
    }
}

fn says_something(v: &Value) -> bool {
    !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn snapshot(reset: Value) -> Snapshot {
        let sync = json!({
            "name": "shop/tasks", "remote": "shop/eu", "direction": "Push", "match": "t: Task", "initial": "Full",
            "edges": "None", "deleteAtSink": true, "deleteOnUnmatch": false, "suspend": false, "reset": reset,
            "blocked": null,
        });
        Snapshot {
            kernel_id: "shop.shop".into(),
            trust_domain: "us.example.com".into(),
            remotes: vec![],
            syncs: vec![sync],
        }
    }

    #[test]
    fn a_field_that_says_something_refuses_its_item_by_name() {
        let mut s = snapshot(json!("again"));
        UnknownFields::named("deny, reset").mark(&mut s);
        let (_, syncs, rejected) = s.items();
        assert!(syncs.is_empty());
        assert_eq!(rejected[0].name, "shop/tasks");
        assert!(rejected[0].problem.message.contains("newer.reset"), "{}", rejected[0].problem.message);
    }

    #[test]
    fn a_field_that_says_nothing_is_none() {
        let mut s = snapshot(Value::Null);
        UnknownFields::named("reset").mark(&mut s);
        assert_eq!(s, snapshot(Value::Null));
    }

    #[test]
    fn fields_are_found_at_any_depth() {
        let unknown = UnknownFields::named("deny");
        let mut v = json!({"import": {"allow": ["A"], "deny": ["B"]}, "export": {"deny": []}, "list": [{"deny": 1}]});
        unknown.mark_in(&mut v);
        let want = json!({
            "import": {"allow": ["A"], "newer.deny": ["B"]}, "export": {"deny": []}, "list": [{"newer.deny": 1}],
        });
        assert_eq!(v, want);
    }

    #[test]
    fn without_the_variable_nothing_changes() {
        let mut s = snapshot(json!("again"));
        UnknownFields::named("").mark(&mut s);
        assert_eq!(s, snapshot(json!("again")));
    }
}
