//! The little of an ELF header that says whether a binary can run alone, and on what.

use anyhow::{Context, Result, bail};

/// A segment that names the loader of a dynamically linked program.
const PT_INTERP: u32 = 3;

#[derive(Debug, PartialEq, Eq)]
pub struct Elf {
    /// As images name it.
    pub architecture: &'static str,
    /// It needs a loader, and with that libraries.
    pub interpreted: bool,
}

pub fn inspect(bytes: &[u8]) -> Result<Elf> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        bail!("no 64-bit little-endian ELF binary; images are for Linux");
    }
    let architecture = match u16_at(bytes, 18)? {
        62 => "amd64",
        183 => "arm64",
        m => bail!("a binary for the machine number {m}; known are x86-64 (62) and AArch64 (183)"),
    };
    let start = usize::try_from(u64::from_le_bytes(array(bytes, 32)?))?;
    let (size, count) = (usize::from(u16_at(bytes, 54)?), usize::from(u16_at(bytes, 56)?));
    let mut interpreted = false;
    for i in 0..count {
        let at = start.checked_add(i * size).context("a program header out of bounds")?;
        interpreted |= u32::from_le_bytes(array(bytes, at)?) == PT_INTERP;
    }
    Ok(Elf { architecture, interpreted })
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(array(bytes, at)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let end = at.checked_add(N).context("an offset out of bounds")?;
    let part = bytes.get(at..end).context("the file ends inside its header")?;
    Ok(part.try_into()?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A header with program headers of these types.
    pub(crate) fn fake(machine: u16, segments: &[u32]) -> Vec<u8> {
        let mut b = vec![0; 64];
        b[..6].copy_from_slice(b"\x7fELF\x02\x01");
        b[18..20].copy_from_slice(&machine.to_le_bytes());
        b[32..40].copy_from_slice(&64_u64.to_le_bytes());
        b[54..56].copy_from_slice(&56_u16.to_le_bytes());
        b[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for s in segments {
            let at = b.len();
            b.resize(at + 56, 0);
            b[at..at + 4].copy_from_slice(&s.to_le_bytes());
        }
        b
    }

    #[test]
    fn a_loader_is_seen() {
        assert_eq!(inspect(&fake(62, &[1, 2])).unwrap(), Elf { architecture: "amd64", interpreted: false });
        assert_eq!(inspect(&fake(183, &[6, 3, 1])).unwrap(), Elf { architecture: "arm64", interpreted: true });
    }

    #[test]
    fn anything_else_is_refused() {
        let cut = fake(62, &[1, 2]);
        for bytes in [&b"#!/bin/sh\n"[..], &[], &cut[..70], &fake(8, &[])] {
            assert!(inspect(bytes).is_err(), "{bytes:?}");
        }
    }
}
