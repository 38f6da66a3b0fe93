//! Container images without an engine: a static binary, a layer, an archive that engines load, and what is in it.
//!
//! The same sources give the same bytes: nothing here reads a clock, an owner or the order of a directory.

pub mod archive;
pub mod compile;
pub mod elf;
pub mod layer;
pub mod sbom;

use anyhow::{Context, Result, bail};
use archive::Image;
use layer::Layer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Nobody's number: clusters that demand non-root let it pass, and it needs no name.
pub const USER: u32 = 65532;
/// Of the unpacked layer: what a node keeps and a reviewer counts. 30 MB leaves the binary some room to grow; a jump
/// shows that something came along that nobody wanted.
pub const LIMIT: usize = 30_000_000;
/// Where the binary is, and the only directory of PATH: `kubectl exec … -- mew` finds it.
const BIN: &str = "usr/bin";

/// The image of one static binary and nothing else that runs: no shell, no libraries, no certificates (the program
/// trusts only what it is given).
pub fn single_binary(file: &Path, name: &str, tag: &str) -> Result<Image> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let elf = elf::inspect(&bytes).with_context(|| file.display().to_string())?;
    if elf.interpreted {
        bail!("{} is linked dynamically, and the image has no libraries; build it as `mew-image` does", file.display());
    }
    let image = Image {
        name: archive::full_name(tag)?,
        architecture: elf.architecture,
        layer: tree(name, &bytes)?,
        compressed: true,
        config: config(name),
    };
    check_size(&image.layer, bytes.len())?;
    Ok(image)
}

fn tree(name: &str, binary: &[u8]) -> Result<Vec<u8>> {
    let mut l = Layer::default();
    l.dir("etc", 0o755)?;
    let nobody = format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n");
    l.file("etc/passwd", 0o644, nobody.as_bytes())?;
    l.file("etc/group", 0o644, format!("root:x:0:\nnonroot:x:{USER}:\n").as_bytes())?;
    // A static glibc has these two built in (since 2.34), and no others.
    l.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    l.dir("tmp", 0o1777)?;
    l.dir("usr", 0o755)?;
    l.dir(BIN, 0o755)?;
    l.file(format!("{BIN}/{name}"), 0o755, binary)?;
    l.finish()
}

fn config(name: &str) -> Value {
    json!({
        "Entrypoint": [format!("/{BIN}/{name}")],
        "Env": [format!("PATH=/{BIN}")],
        "User": format!("{USER}:{USER}"),
        "WorkingDir": "/",
        "Labels": {"org.opencontainers.image.title": name, "org.opencontainers.image.licenses": "Apache-2.0"},
    })
}

fn check_size(layer: &[u8], binary: usize) -> Result<()> {
    let mb = |bytes: usize| bytes as f64 / 1e6;
    if layer.len() > LIMIT {
        bail!(
            "the image would have {:.1} MB unpacked, of which the binary has {:.1} MB; the limit is {:.0} MB. Compare \
             `cargo tree -p mew-cli -e normal` with that of the last release",
            mb(layer.len()),
            mb(binary),
            mb(LIMIT)
        );
    }
    Ok(())
}

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_binary_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mew");
        std::fs::write(&file, elf::tests::fake(62, &[1, 3])).unwrap();
        let e = single_binary(&file, "mew", "mew:dev").unwrap_err();
        assert!(e.to_string().contains("linked dynamically"), "{e}");
    }

    #[test]
    fn what_is_too_large_is_refused_and_says_by_how_much() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mew");
        let mut binary = elf::tests::fake(62, &[1]);
        binary.resize(LIMIT, 0);
        std::fs::write(&file, &binary).unwrap();
        let e = single_binary(&file, "mew", "mew:dev").unwrap_err().to_string();
        assert!(e.contains("30.0 MB") && e.contains("limit"), "{e}");
        binary.truncate(LIMIT / 2);
        std::fs::write(&file, &binary).unwrap();
        single_binary(&file, "mew", "mew:dev").unwrap();
    }
}
