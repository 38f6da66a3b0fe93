//! JSON of others, read into a bounded amount of memory: a megabyte of `{"a":0}` would take a hundred as values.

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Deserializer, Map, Number, Value};
use std::fmt;

/// Bytes that the values of one text may take, about. A pod of 3 MiB, the most that an API server takes, needs half of it.
const MEMORY: usize = 32 << 20;
/// Of an element of a list, which grows by doubling.
const ELEMENT: usize = 2 * size_of::<Value>();
/// Of an object beside its fields: room for eleven of them is made at once.
const OBJECT: usize = 11 * FIELD;
const FIELD: usize = size_of::<String>() + size_of::<Value>();

pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    parse_within(text, MEMORY)
}

fn parse_within(text: &[u8], mut left: usize) -> Result<Value, serde_json::Error> {
    let mut d = Deserializer::from_slice(text);
    let value = Bounded { left: &mut left }.deserialize(&mut d)?;
    d.end()?;
    Ok(value)
}

struct Bounded<'a> {
    left: &'a mut usize,
}

impl Bounded<'_> {
    fn take<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                *self.left = left;
                Ok(())
            }
            None => Err(E::custom(format_args!("it would take more than {} MiB of memory", MEMORY >> 20))),
        }
    }

    fn inner(&mut self) -> Bounded<'_> {
        Bounded { left: self.left }
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(mut self, v: &str) -> Result<Value, E> {
        self.take(v.len())?;
        Ok(Value::String(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(v) = list.next_element_seed(self.inner())? {
            self.take(ELEMENT)?;
            out.push(v);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let room = if out.is_empty() { OBJECT } else { 2 * FIELD };
            self.take(room + key.len())?;
            let v = fields.next_value_seed(self.inner())?;
            out.insert(key, v);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_serde_reads() {
        for text in [
            r#"{"a": [1, -2, 3.5, 1e300, 18446744073709551615, true, false, null, "x\ny\u00e4"], "b": {"c": {}}, "a": 7}"#,
            "[]",
            "\"alone\"",
            " 7 ",
        ] {
            let expected: Value = serde_json::from_str(text).expect("it is JSON");
            assert_eq!(parse(text.as_bytes()).expect("it is JSON"), expected);
        }
        for text in ["", "{", "[1,]", "{\"a\" 1}", "7 8", "\u{0}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse(b"\"\xff\"").is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err(), "as deep as that is too deep");
    }

    #[test]
    fn what_would_take_too_much_is_refused() {
        let list = |one: &str, n: usize| format!("[{}]", vec![one; n].join(","));
        for (one, bytes) in [("0", ELEMENT), ("{\"a\":0}", OBJECT + ELEMENT), ("\"text\"", ELEMENT + 4)] {
            let text = list(one, 1000);
            assert!(parse_within(text.as_bytes(), 1010 * bytes).is_ok(), "{one}");
            let e = parse_within(text.as_bytes(), 900 * bytes).expect_err("it is too much");
            assert!(e.to_string().contains("memory"), "{e}");
        }
        assert!(parse(list("{\"a\":0}", 800_000).as_bytes()).is_err());
    }
}
