//! Reads the parts of an entity's byte form one after the other; `None` is what is not in canonical form.

use super::{SEEN_LEN, TAG_ATTR, TAG_END, TAG_KERNEL, TAG_SEEN, TAG_TIME};
use crate::{Hlc, KernelKey, Number, ValueRef};

#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (b, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*b)
    }
    pub(super) fn tag(&mut self, t: u8) -> Option<()> {
        (self.byte()? == t).then_some(())
    }
    /// Only the shortest form is accepted: a value has one encoding.
    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            let part = u64::from(b & 0x7f);
            if shift == 63 && part > 1 {
                return None;
            }
            v |= part << shift;
            if b < 0x80 {
                return (b != 0 || shift == 0).then_some(v);
            }
        }
        None
    }
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (a, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(a)
    }
    pub(super) fn fixed64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    pub(super) fn fixed32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.varint()?;
        self.take(usize::try_from(n).ok()?)
    }
    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
    fn signed(&mut self) -> Option<i64> {
        let z = self.varint()?;
        Some((z >> 1) as i64 ^ -((z & 1) as i64))
    }
    pub(super) fn seen(&mut self) -> Option<(KernelKey, Hlc)> {
        self.tag(TAG_SEEN)?;
        let mut b = Reader(self.bytes()?);
        if b.0.len() != SEEN_LEN {
            return None;
        }
        b.tag(TAG_TIME)?;
        let k = KernelKey(b.fixed64()?);
        b.tag(TAG_KERNEL)?;
        Some((k, Hlc(b.fixed64()?)))
    }
    pub(super) fn end(&mut self) -> Option<&'a str> {
        self.tag(TAG_END)?;
        self.text()
    }
    pub(super) fn attr_raw(&mut self) -> Option<(Number, &'a [u8])> {
        self.tag(TAG_ATTR)?;
        let mut a = Reader(self.bytes()?);
        a.tag(0x0d)?;
        Some((a.fixed32()?, a.0))
    }
    pub(super) fn attr(&mut self) -> Option<(Number, ValueRef<'a>)> {
        let (key, body) = self.attr_raw()?;
        let mut r = Reader(body);
        let v = r.value()?;
        r.0.is_empty().then_some((key, v))
    }
    pub(super) fn value(&mut self) -> Option<ValueRef<'a>> {
        Some(match self.byte()? {
            0x12 => ValueRef::String(self.text()?),
            0x18 => ValueRef::Int(self.signed()?),
            0x21 => ValueRef::Float(f64::from_bits(self.fixed64()?)),
            0x28 => match self.byte()? {
                0 => ValueRef::Bool(false),
                1 => ValueRef::Bool(true),
                _ => return None,
            },
            0x30 => ValueRef::Timestamp(self.signed()?),
            0x38 => ValueRef::Duration(self.signed()?),
            0x42 => ValueRef::Id(self.text()?),
            _ => return None,
        })
    }
}
