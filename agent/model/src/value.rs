//! Scalar values and their kinds.

use std::cmp::Ordering;
use std::fmt;

/// A scalar kind of the ontology language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    String,
    Int,
    Float,
    Bool,
    Timestamp,
    Duration,
    Id,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::String, Kind::Int, Kind::Float, Kind::Bool, Kind::Timestamp, Kind::Duration, Kind::Id];

    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "String",
            Kind::Int => "Int",
            Kind::Float => "Float",
            Kind::Bool => "Bool",
            Kind::Timestamp => "Timestamp",
            Kind::Duration => "Duration",
            Kind::Id => "ID",
        }
    }

    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value of an attribute or an expression. `Null` is never stored: an attribute without a value is absent.
#[derive(Clone, Debug)]
pub enum Value {
    Null,
    String(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// Milliseconds since 1970, UTC.
    Timestamp(i64),
    /// Milliseconds.
    Duration(i64),
    /// The `sync_id` of the entity that is referred to, so that the reference means the same in every kernel.
    Id(String),
}

/// Equality of stored values, bit for bit: a NaN equals itself here. Queries compare with [`Value::query_eq`].
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        use Value::*;
        match (self, other) {
            (Null, Null) => true,
            (String(a), String(b)) | (Id(a), Id(b)) => a == b,
            (Int(a), Int(b)) | (Timestamp(a), Timestamp(b)) | (Duration(a), Duration(b)) => a == b,
            (Float(a), Float(b)) => a.to_bits() == b.to_bits(),
            (Bool(a), Bool(b)) => a == b,
            _ => false,
        }
    }
}

/// A value where it lies, in the bytes of an entity or in a [`Value`].
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    Null,
    String(&'a str),
    Int(i64),
    Float(f64),
    Bool(bool),
    Timestamp(i64),
    Duration(i64),
    Id(&'a str),
}

impl<'a> ValueRef<'a> {
    pub fn kind(self) -> Option<Kind> {
        Some(match self {
            ValueRef::Null => return None,
            ValueRef::String(_) => Kind::String,
            ValueRef::Int(_) => Kind::Int,
            ValueRef::Float(_) => Kind::Float,
            ValueRef::Bool(_) => Kind::Bool,
            ValueRef::Timestamp(_) => Kind::Timestamp,
            ValueRef::Duration(_) => Kind::Duration,
            ValueRef::Id(_) => Kind::Id,
        })
    }

    pub fn is_null(self) -> bool {
        matches!(self, ValueRef::Null)
    }

    pub fn to_value(self) -> Value {
        match self {
            ValueRef::Null => Value::Null,
            ValueRef::String(s) => Value::String(s.to_owned()),
            ValueRef::Int(i) => Value::Int(i),
            ValueRef::Float(x) => Value::Float(x),
            ValueRef::Bool(b) => Value::Bool(b),
            ValueRef::Timestamp(t) => Value::Timestamp(t),
            ValueRef::Duration(d) => Value::Duration(d),
            ValueRef::Id(s) => Value::Id(s.to_owned()),
        }
    }

    /// Equality as `=` in a query: Int and Float compare as numbers, NaN equals nothing, null equals null.
    pub fn query_eq(self, other: ValueRef<'_>) -> bool {
        match (self, other) {
            (ValueRef::Null, ValueRef::Null) => true,
            _ => self.query_cmp(other) == Some(Ordering::Equal),
        }
    }

    /// A number that never sorts against [`ValueRef::query_cmp`] among values of one kind: of two that differ the lower is of
    /// the lower value, two that are equal say nothing (long texts share their first bytes). `None` of what compares
    /// with nothing: null and NaN.
    pub fn order_key(self) -> Option<u64> {
        const SIGN: u64 = 1 << 63;
        Some(match self {
            ValueRef::Null => return None,
            ValueRef::String(s) | ValueRef::Id(s) => {
                let mut first = [0; 8];
                let n = s.len().min(8);
                first[..n].copy_from_slice(&s.as_bytes()[..n]);
                u64::from_be_bytes(first)
            }
            ValueRef::Int(i) | ValueRef::Timestamp(i) | ValueRef::Duration(i) => i as u64 ^ SIGN,
            ValueRef::Bool(b) => b.into(),
            ValueRef::Float(x) if x.is_nan() => return None,
            // Adding zero turns minus zero, which equals zero, into it.
            ValueRef::Float(x) => match (x + 0.0).to_bits() {
                bits if bits & SIGN == 0 => bits ^ SIGN,
                bits => !bits,
            },
        })
    }

    /// Order as `<` in a query; `None` with null, NaN or kinds that do not compare.
    pub fn query_cmp(self, other: ValueRef<'_>) -> Option<Ordering> {
        use ValueRef::*;
        match (self, other) {
            (String(a), String(b)) | (Id(a), Id(b)) | (String(a), Id(b)) | (Id(a), String(b)) => Some(a.cmp(b)),
            (Int(a), Int(b)) | (Timestamp(a), Timestamp(b)) | (Duration(a), Duration(b)) => Some(a.cmp(&b)),
            (Float(a), Float(b)) => a.partial_cmp(&b),
            (Int(a), Float(b)) => (a as f64).partial_cmp(&b),
            (Float(a), Int(b)) => a.partial_cmp(&(b as f64)),
            (Bool(a), Bool(b)) => Some(a.cmp(&b)),
            _ => None,
        }
    }
}

impl Value {
    pub fn borrowed(&self) -> ValueRef<'_> {
        match self {
            Value::Null => ValueRef::Null,
            Value::String(s) => ValueRef::String(s),
            Value::Int(i) => ValueRef::Int(*i),
            Value::Float(x) => ValueRef::Float(*x),
            Value::Bool(b) => ValueRef::Bool(*b),
            Value::Timestamp(t) => ValueRef::Timestamp(*t),
            Value::Duration(d) => ValueRef::Duration(*d),
            Value::Id(s) => ValueRef::Id(s),
        }
    }

    pub fn kind(&self) -> Option<Kind> {
        self.borrowed().kind()
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// As [`ValueRef::query_eq`].
    pub fn query_eq(&self, other: &Value) -> bool {
        self.borrowed().query_eq(other.borrowed())
    }

    /// As [`ValueRef::query_cmp`].
    pub fn query_cmp(&self, other: &Value) -> Option<Ordering> {
        self.borrowed().query_cmp(other.borrowed())
    }

    /// A total order for ORDER BY: nulls greatest, so last ascending and first descending; NaN just before null.
    pub fn sort_cmp(&self, other: &Value) -> Ordering {
        let rank = |v: &Value| match v {
            Value::Null => 2u8,
            Value::Float(f) if f.is_nan() => 1,
            _ => 0,
        };
        rank(self).cmp(&rank(other)).then_with(|| self.query_cmp(other).unwrap_or(Ordering::Equal))
    }

    /// Converts to what an attribute of `kind` stores, where that loses nothing: Int → Float, String → ID.
    pub fn coerce(self, kind: Kind) -> Result<Value, Value> {
        match (self, kind) {
            (Value::Int(i), Kind::Float) => Ok(Value::Float(i as f64)),
            (Value::String(s), Kind::Id) => Ok(Value::Id(s)),
            (v, k) if v.kind().is_none_or(|have| have == k) => Ok(v),
            (v, _) => Err(v),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrowed().fmt(f)
    }
}

impl fmt::Display for ValueRef<'_> {
    /// As it would be written in the language.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ValueRef::Null => f.write_str("null"),
            ValueRef::String(s) => write_quoted(f, s),
            ValueRef::Int(i) => write!(f, "{i}"),
            ValueRef::Float(x) => write!(f, "{x:?}"),
            ValueRef::Bool(b) => write!(f, "{b}"),
            ValueRef::Timestamp(ms) => write!(f, "@{}", format_timestamp(ms)),
            ValueRef::Duration(ms) => write!(f, "{ms}.ms"),
            ValueRef::Id(s) => {
                f.write_str("#")?;
                write_quoted(f, s)
            }
        }
    }
}

fn write_quoted(f: &mut fmt::Formatter<'_>, s: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in s.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if (c as u32) < 0x20 => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

/// RFC 3339 in UTC with milliseconds, for example `2008-05-01T12:00:00.000Z`.
pub fn format_timestamp(ms: i64) -> String {
    let (days, rest) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (y, m, d) = civil_from_days(days);
    let (h, min, s, milli) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000);
    format!("{y:04}-{m:02}-{d:02}T{h:02}:{min:02}:{s:02}.{milli:03}Z")
}

/// Days since 1970 to (year, month, day), proleptic Gregorian; works in 400-year eras that begin on 1 March.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(m <= 2), m, doy - (153 * mp + 2) / 5 + 1)
}

/// The inverse of [`civil_from_days`]; `None` for a date that does not exist.
pub fn days_from_civil(y: i64, m: i64, d: i64) -> Option<i64> {
    if !(1..=12).contains(&m) || !(1..=31).contains(&d) || !(-200_000..=200_000).contains(&y) {
        return None;
    }
    let y2 = y - i64::from(m <= 2);
    let (era, yoe) = (y2.div_euclid(400), y2.rem_euclid(400));
    let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + d - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    (civil_from_days(days) == (y, m, d)).then_some(days)
}
