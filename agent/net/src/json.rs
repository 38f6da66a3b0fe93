//! Values as JSON: exact where JSON allows, and said how where it does not.

use mew_model::value::format_timestamp;
use mew_model::{EntityRef, Ontology, Value};
use serde_json::{Value as Json, json};

/// Beyond this, doubles skip whole numbers: such integers travel as strings in an object.
const SAFE: u64 = 1 << 53;

/// `null`, strings, booleans and safe numbers as they are; everything else as an object with one field that names its
/// kind: `{"int": "9223372036854775807"}`, `{"float": "NaN"}`, `{"timestamp": "2026-…Z"}`, `{"duration": 1000}`,
/// `{"id": "…"}`.
pub fn to_json(v: &Value) -> Json {
    match v {
        Value::Null => Json::Null,
        Value::String(s) => json!(s),
        Value::Int(i) if i.unsigned_abs() <= SAFE => json!(i),
        Value::Int(i) => json!({"int": i.to_string()}),
        Value::Float(x) if x.is_finite() => json!(x),
        Value::Float(x) => json!({"float": x.to_string()}),
        Value::Bool(b) => json!(b),
        Value::Timestamp(t) => json!({"timestamp": format_timestamp(*t)}),
        Value::Duration(d) => json!({"duration": d}),
        Value::Id(s) => json!({"id": s}),
    }
}

/// The inverse; an error names what was found.
pub fn from_json(j: &Json) -> Result<Value, String> {
    match j {
        Json::Null => Ok(Value::Null),
        Json::String(s) => Ok(Value::String(s.clone())),
        Json::Bool(b) => Ok(Value::Bool(*b)),
        Json::Number(n) => n
            .as_i64()
            .map(Value::Int)
            .or_else(|| n.as_f64().map(Value::Float))
            .ok_or_else(|| format!("{n} does not fit in 64 bits")),
        Json::Object(o) if o.len() == 1 => {
            let (k, v) = o.iter().next().ok_or("an empty object")?;
            let text = || v.as_str().ok_or_else(|| format!("{k} takes a string"));
            match k.as_str() {
                "int" => text()?.parse().map(Value::Int).map_err(|e| format!("int: {e}")),
                "float" => text()?.parse().map(Value::Float).map_err(|e| format!("float: {e}")),
                "id" => Ok(Value::Id(text()?.to_owned())),
                "timestamp" => mew_lang::lexer::parse_timestamp(text()?)
                    .map(Value::Timestamp)
                    .ok_or_else(|| "not a timestamp".to_owned()),
                "duration" => v.as_i64().map(Value::Duration).ok_or_else(|| "duration takes milliseconds".to_owned()),
                other => Err(format!("unknown kind {other}; known: int, float, id, timestamp, duration")),
            }
        }
        other => Err(format!("{other} is no value")),
    }
}

/// A version of an entity; null if the bytes are none.
pub fn entity_json(o: &Ontology, bytes: &[u8]) -> Json {
    let Ok(e) = EntityRef::read(bytes) else { return Json::Null };
    let attrs: serde_json::Map<String, Json> = e
        .attrs()
        .map(|(k, v)| (o.attribute_name(k).map_or_else(|| format!("{k:#010x}"), str::to_owned), to_json(&v)))
        .collect();
    json!({
        "type": o.type_name(e.ty), "syncId": e.sync_id, "deleted": e.deleted, "ends": e.ends().collect::<Vec<_>>(),
        "updatedAt": format_timestamp(e.time.ms() as i64), "attributes": attrs,
    })
}
