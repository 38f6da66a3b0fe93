//! The one form of an entity: what is stored is what travels (`Entity` in `agent/wire/proto/mew.proto`).
//!
//! Written by hand in canonical order (fields ascending, attribute keys ascending), so the version sits at a fixed
//! offset, an attribute is found by a short scan in place, and nothing is re-encoded on the way to a peer.

mod reader;

use crate::{Hlc, KernelKey, Number, Value, ValueRef, Vector, Version};
use reader::Reader;
use thiserror::Error;

/// Most bytes of one entity: one gRPC message must hold it, with room.
pub const MAX_ENTITY: usize = 1 << 20;
/// Most bytes of a `sync_id`.
pub const MAX_SYNC_ID: usize = 255;
/// Most kernels in one entity's version vector; a bound on what a peer can make us store.
pub const MAX_WRITERS: usize = 64;
/// Ends of an edge. More would be looked up one by one before the ontology is asked.
pub const MAX_ENDS: usize = 2;

const FLAG_DELETED: u64 = 1;
const FLAGS_KNOWN: u64 = FLAG_DELETED;

const TAG_TIME: u8 = 0x09;
const TAG_KERNEL: u8 = 0x11;
const TAG_FLAGS: u8 = 0x18;
const TAG_TYPE: u8 = 0x25;
const TAG_SYNC_ID: u8 = 0x2a;
const TAG_SEEN: u8 = 0x32;
const TAG_END: u8 = 0x3a;
const TAG_ATTR: u8 = 0x42;
const SEEN_LEN: usize = 18;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    #[error("not an entity in canonical form")]
    Head,
    #[error("entity of {0} bytes; at most {MAX_ENTITY} are allowed")]
    TooLarge(usize),
    #[error("sync_id must be 1 to {MAX_SYNC_ID} bytes of UTF-8 without NUL")]
    SyncId,
    #[error("malformed version vector")]
    Vector,
    #[error("malformed edge endpoint")]
    End,
    #[error("malformed attribute after key {0:#010x}")]
    Attribute(u32),
}

/// NUL separates the parts of keys that ids are made into.
pub fn is_sync_id(s: &str) -> bool {
    !s.is_empty() && s.len() <= MAX_SYNC_ID && !s.contains('\0')
}

/// An entity read in place. Cheap to make; attributes are looked up on demand.
#[derive(Clone, Copy, Debug)]
pub struct EntityRef<'a> {
    pub bytes: &'a [u8],
    pub time: Hlc,
    pub kernel: KernelKey,
    pub deleted: bool,
    pub ty: Number,
    pub sync_id: &'a str,
    /// Encoded `Seen` entries, then edge ends, then attributes.
    rest: &'a [u8],
}

impl<'a> EntityRef<'a> {
    /// Reads the head. Trusts nothing, but leaves vector, ends and attributes unread; bytes from a peer go through
    /// [`EntityRef::validate`] first.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read_opt(bytes).ok_or(Malformed::Head)
    }

    fn read_opt(bytes: &'a [u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        r.tag(TAG_TIME)?;
        let time = Hlc(r.fixed64()?);
        r.tag(TAG_KERNEL)?;
        let kernel = KernelKey(r.fixed64()?);
        let mut flags = 0;
        if r.peek() == Some(TAG_FLAGS) {
            r.byte()?;
            flags = r.varint()?;
            // A zero would be a second form of the same entity; an unknown flag might change its meaning.
            if flags == 0 || flags & !FLAGS_KNOWN != 0 {
                return None;
            }
        }
        r.tag(TAG_TYPE)?;
        let ty = r.fixed32()?;
        r.tag(TAG_SYNC_ID)?;
        let sync_id = std::str::from_utf8(r.bytes()?).ok()?;
        Some(EntityRef { bytes, time, kernel, deleted: flags & FLAG_DELETED != 0, ty, sync_id, rest: r.0 })
    }

    /// The check for bytes from a peer or a damaged disk: structure, order, lengths and UTF-8, all of it.
    pub fn validate(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_ENTITY {
            return Err(Malformed::TooLarge(bytes.len()));
        }
        let e = Self::read(bytes)?;
        if !is_sync_id(e.sync_id) {
            return Err(Malformed::SyncId);
        }
        let mut r = Reader(e.rest);
        let (mut last, mut writers) = (None, 1);
        if e.time.0 == 0 {
            return Err(Malformed::Vector);
        }
        while r.peek() == Some(TAG_SEEN) {
            let (kernel, time) = r.seen().ok_or(Malformed::Vector)?;
            writers += 1;
            // The version is the latest in its own vector, or a vector could dominate a later version.
            if last.is_some_and(|l| kernel <= l)
                || kernel == e.kernel
                || time.0 == 0
                || (time, kernel) > (e.time, e.kernel)
                || writers > MAX_WRITERS
            {
                return Err(Malformed::Vector);
            }
            last = Some(kernel);
        }
        let mut ends = 0;
        while r.peek() == Some(TAG_END) {
            let end = r.end().ok_or(Malformed::End)?;
            ends += 1;
            if !is_sync_id(end) || ends > MAX_ENDS {
                return Err(Malformed::End);
            }
        }
        let mut last = None;
        while !r.0.is_empty() {
            match r.attr() {
                Some((key, _)) if last.is_none_or(|l| key > l) => last = Some(key),
                _ => return Err(Malformed::Attribute(last.unwrap_or(0))),
            }
        }
        Ok(e)
    }

    pub fn version(&self) -> Version {
        Version { time: self.time, kernel: self.kernel }
    }

    pub fn vector(&self) -> Vector {
        let mut v = Vector::of(self.version());
        let mut r = Reader(self.rest);
        while r.peek() == Some(TAG_SEEN) {
            let Some((k, t)) = r.seen() else { break };
            v.raise(k, t);
        }
        v
    }

    /// The `sync_id`s of an edge's ends, in order; empty for a node.
    pub fn ends(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut r = Reader(self.rest);
        while r.peek() == Some(TAG_SEEN) && r.seen().is_some() {}
        std::iter::from_fn(move || if r.peek() == Some(TAG_END) { r.end() } else { None })
    }

    fn attr_bytes(&self) -> Reader<'a> {
        let mut r = Reader(self.rest);
        while r.peek() == Some(TAG_SEEN) && r.seen().is_some() {}
        while r.peek() == Some(TAG_END) && r.end().is_some() {}
        r
    }

    /// One attribute, found in place; null if absent.
    pub fn attr(&self, key: Number) -> Value {
        self.attr_ref(key).to_value()
    }

    pub fn attr_ref(&self, key: Number) -> ValueRef<'a> {
        let mut r = self.attr_bytes();
        while let Some((k, v)) = r.attr_raw() {
            if k == key {
                return Reader(v).value().unwrap_or(ValueRef::Null);
            }
            if k > key {
                break;
            }
        }
        ValueRef::Null
    }

    /// All attributes, ascending by key.
    pub fn attrs(&self) -> impl Iterator<Item = (Number, Value)> + use<'a> {
        self.attr_refs().map(|(k, v)| (k, v.to_value()))
    }

    pub fn attr_refs(&self) -> impl Iterator<Item = (Number, ValueRef<'a>)> + use<'a> {
        let mut r = self.attr_bytes();
        std::iter::from_fn(move || r.attr())
    }

    /// A copy that can be changed and written again.
    pub fn to_draft(&self) -> Draft {
        Draft {
            time: self.time,
            kernel: self.kernel,
            deleted: self.deleted,
            ty: self.ty,
            sync_id: self.sync_id.to_owned(),
            vector: self.vector(),
            ends: self.ends().map(str::to_owned).collect(),
            attrs: self.attrs().collect(),
        }
    }

    /// The bytes of a local write by `kernel` at `now_ms` that only changes attributes (ascending by key; null removes).
    /// What is not changed is copied as it is.
    pub fn rewritten(&self, kernel: KernelKey, now_ms: u64, changes: &[(Number, ValueRef<'_>)]) -> Vec<u8> {
        let time = Hlc::next(now_ms, Some(self.time));
        let mut vector = self.vector();
        vector.raise(kernel, time);
        vector.keep_newest(MAX_WRITERS);
        let mut out = Vec::with_capacity(self.bytes.len() + 64);
        put_head(&mut out, Version { time, kernel }, self.deleted, self.ty, self.sync_id, &vector);
        for e in self.ends() {
            put_bytes(&mut out, TAG_END, e.as_bytes());
        }
        let (mut old, mut new) = (self.attr_bytes(), changes.iter().peekable());
        let mut copy_from = old.0;
        while let Some((key, _)) = old.attr_raw() {
            while let Some((k, v)) = new.next_if(|c| c.0 < key) {
                put_attr(&mut out, *k, *v);
            }
            match new.next_if(|c| c.0 == key) {
                Some((k, v)) => put_attr(&mut out, *k, *v),
                None => out.extend_from_slice(&copy_from[..copy_from.len() - old.0.len()]),
            }
            copy_from = old.0;
        }
        new.for_each(|(k, v)| put_attr(&mut out, *k, *v));
        out
    }

    /// Whether two versions say the same: type, deletion, ends and attributes, whatever their history.
    pub fn same_content(&self, other: &EntityRef<'_>) -> bool {
        self.ty == other.ty
            && self.deleted == other.deleted
            && self.ends().eq(other.ends())
            && self.attr_bytes().0 == other.attr_bytes().0
    }
}

/// An entity under construction; [`Draft::encode`] writes the canonical form.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub time: Hlc,
    pub kernel: KernelKey,
    pub deleted: bool,
    pub ty: Number,
    pub sync_id: String,
    /// Includes (kernel, time) itself.
    pub vector: Vector,
    pub ends: Vec<String>,
    pub attrs: Vec<(Number, Value)>,
}

impl Draft {
    pub fn new(ty: Number, sync_id: String) -> Self {
        Draft {
            time: Hlc(0),
            kernel: KernelKey(0),
            deleted: false,
            ty,
            sync_id,
            vector: Vector::default(),
            ends: Vec::new(),
            attrs: Vec::new(),
        }
    }

    /// Sets or (with null) removes an attribute.
    pub fn set(&mut self, key: Number, value: Value) {
        match (self.attrs.binary_search_by_key(&key, |a| a.0), value) {
            (Ok(i), Value::Null) => drop(self.attrs.remove(i)),
            (Ok(i), v) => self.attrs[i].1 = v,
            (Err(_), Value::Null) => {}
            (Err(i), v) => self.attrs.insert(i, (key, v)),
        }
    }

    /// Stamps a local write by `kernel` at `now_ms`; `self` still carries the version that it replaces, if any.
    pub fn stamp(&mut self, kernel: KernelKey, now_ms: u64, replaces: Option<Hlc>) {
        self.time = Hlc::next(now_ms, replaces);
        self.kernel = kernel;
        self.vector.raise(kernel, self.time);
        self.vector.keep_newest(MAX_WRITERS);
    }

    /// Includes what another version knew.
    pub fn learn(&mut self, other: &Vector) {
        self.vector.merge(other);
        self.vector.keep_newest(MAX_WRITERS);
    }

    /// Turns it into a tombstone: identity, version and ends stay, attributes go.
    pub fn delete(&mut self) {
        self.deleted = true;
        self.attrs.clear();
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.sync_id.len() + 24 * self.attrs.len());
        let version = Version { time: self.time, kernel: self.kernel };
        put_head(&mut out, version, self.deleted, self.ty, &self.sync_id, &self.vector);
        for e in &self.ends {
            put_bytes(&mut out, TAG_END, e.as_bytes());
        }
        for (key, v) in &self.attrs {
            put_attr(&mut out, *key, v.borrowed());
        }
        out
    }
}

fn put_head(out: &mut Vec<u8>, version: Version, deleted: bool, ty: Number, sync_id: &str, vector: &Vector) {
    out.push(TAG_TIME);
    out.extend_from_slice(&version.time.0.to_le_bytes());
    out.push(TAG_KERNEL);
    out.extend_from_slice(&version.kernel.0.to_le_bytes());
    if deleted {
        out.extend_from_slice(&[TAG_FLAGS, FLAG_DELETED as u8]);
    }
    out.push(TAG_TYPE);
    out.extend_from_slice(&ty.to_le_bytes());
    put_bytes(out, TAG_SYNC_ID, sync_id.as_bytes());
    for (k, t) in vector.iter().filter(|(k, _)| *k != version.kernel) {
        out.extend_from_slice(&[TAG_SEEN, SEEN_LEN as u8, TAG_TIME]);
        out.extend_from_slice(&k.0.to_le_bytes());
        out.push(TAG_KERNEL);
        out.extend_from_slice(&t.0.to_le_bytes());
    }
}

/// Nothing for null.
fn put_attr(out: &mut Vec<u8>, key: Number, v: ValueRef<'_>) {
    if v.is_null() {
        return;
    }
    out.push(TAG_ATTR);
    put_varint(out, (5 + value_len(v)) as u64);
    out.push(0x0d);
    out.extend_from_slice(&key.to_le_bytes());
    put_value(out, v);
}

fn varint_len(v: u64) -> usize {
    (64 - (v | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes that [`put_value`] writes.
fn value_len(v: ValueRef<'_>) -> usize {
    match v {
        ValueRef::Null => 0,
        ValueRef::String(s) | ValueRef::Id(s) => 1 + varint_len(s.len() as u64) + s.len(),
        ValueRef::Int(i) | ValueRef::Timestamp(i) | ValueRef::Duration(i) => 1 + varint_len(zigzag(i)),
        ValueRef::Float(_) => 9,
        ValueRef::Bool(_) => 2,
    }
}

fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, b: &[u8]) {
    out.push(tag);
    put_varint(out, b.len() as u64);
    out.extend_from_slice(b);
}

fn put_signed(out: &mut Vec<u8>, tag: u8, v: i64) {
    out.push(tag);
    put_varint(out, zigzag(v));
}

fn put_value(out: &mut Vec<u8>, v: ValueRef<'_>) {
    match v {
        ValueRef::Null => {}
        ValueRef::String(s) => put_bytes(out, 0x12, s.as_bytes()),
        ValueRef::Int(i) => put_signed(out, 0x18, i),
        ValueRef::Float(x) => {
            out.push(0x21);
            out.extend_from_slice(&x.to_bits().to_le_bytes());
        }
        ValueRef::Bool(b) => out.extend_from_slice(&[0x28, u8::from(b)]),
        ValueRef::Timestamp(t) => put_signed(out, 0x30, t),
        ValueRef::Duration(d) => put_signed(out, 0x38, d),
        ValueRef::Id(s) => put_bytes(out, 0x42, s.as_bytes()),
    }
}

/// Bytes that identify a value, for unique indexes: equal values of an attribute give equal bytes.
pub fn value_key(v: ValueRef<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match v {
        ValueRef::Float(0.0) => put_value(&mut out, ValueRef::Float(0.0)), // also of minus zero
        v => put_value(&mut out, v),
    }
    out
}
