//! The difference of two objects as a JSON patch (RFC 6902).

use serde_json::{Value, json};

/// What makes `to` of `from`. Lists are replaced as a whole: their items have no names that a path could use.
pub fn patch(from: &Value, to: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    walk(from, to, "", &mut out);
    out
}

fn walk(from: &Value, to: &Value, path: &str, out: &mut Vec<Value>) {
    let (Value::Object(old), Value::Object(new)) = (from, to) else {
        if from != to {
            out.push(json!({"op": "replace", "path": path, "value": to}));
        }
        return;
    };
    let at = |key: &str| format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        out.push(json!({"op": "remove", "path": at(key)}));
    }
    for (key, value) in new {
        match old.get(key) {
            Some(was) => walk(was, value, &at(key), out),
            None => out.push(json!({"op": "add", "path": at(key), "value": value})),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::patch;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_in_it() {
        let from = json!({"a": {"b": 1, "x/y~z": [1]}, "same": [1, 2], "gone": null});
        let to = json!({"a": {"b": 2, "x/y~z": [1, 2], "new": {}}, "same": [1, 2]});
        let expected = json!([
            {"op": "remove", "path": "/gone"},
            {"op": "replace", "path": "/a/b", "value": 2},
            {"op": "add", "path": "/a/new", "value": {}},
            {"op": "replace", "path": "/a/x~1y~0z", "value": [1, 2]},
        ]);
        assert_eq!(json!(patch(&from, &to)), expected);
        assert!(patch(&to, &to).is_empty());
    }
}
