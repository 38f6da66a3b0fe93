//! One file that is both an OCI layout (containerd, podman, kind) and what `docker load` reads.

use crate::digest;
use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use tar::{Builder, Header};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Images say when they were made; this one says that it does not matter.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

#[derive(Debug)]
pub struct Image {
    /// With host and tag; see [`full_name`].
    pub name: String,
    pub architecture: &'static str,
    /// A tar archive.
    pub layer: Vec<u8>,
    /// For those that travel. What is imported at once need not be.
    pub compressed: bool,
    /// How it is run.
    pub config: Value,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// `sha256:…`: the same for the same image, whatever it is called.
    pub manifest: String,
    pub archive_bytes: u64,
}

/// A name without a host means another registry to each engine; `localhost` is understood by all and pulled by none.
pub fn full_name(tag: &str) -> Result<String> {
    let (path, version) =
        tag.rsplit_once(':').filter(|(_, v)| !v.contains('/')).context("--tag is not NAME:VERSION")?;
    let good = |s: &str| s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c));
    ensure!(!path.is_empty() && good(path) && !version.is_empty(), "--tag {tag:?} is no name of an image");
    let host = path.split_once('/').map(|(h, _)| h);
    let named = host.is_some_and(|h| h == "localhost" || h.contains(['.', ':']));
    Ok(if named { tag.to_owned() } else { format!("localhost/{tag}") })
}

/// Writes the archive in one go: an interrupted run leaves no half of one.
pub fn write(i: &Image, out: &Path) -> Result<Written> {
    let part = out.with_extension("part");
    let (bytes, manifest) = pack(i)?;
    fs::write(&part, &bytes).with_context(|| part.display().to_string())?;
    fs::rename(&part, out).with_context(|| out.display().to_string())?;
    Ok(Written { manifest, archive_bytes: bytes.len() as u64 })
}

fn pack(i: &Image) -> Result<(Vec<u8>, String)> {
    let layer = if i.compressed {
        let mut gz = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
        gz.write_all(&i.layer)?;
        Blob::new(format!("{LAYER}+gzip"), gz.finish()?)
    } else {
        Blob::new(LAYER.to_owned(), i.layer.clone())
    };
    let plain = if i.compressed { digest(&i.layer) } else { layer.digest.clone() };
    let config = Blob::json(
        CONFIG,
        &json!({
            "architecture": i.architecture, "os": "linux", "created": NO_TIME, "config": i.config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{plain}")]},
            "history": [{"created": NO_TIME, "created_by": "mew-image"}],
        }),
    )?;
    let manifest = Blob::json(
        MANIFEST,
        &json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": config.descriptor(), "layers": [layer.descriptor()],
        }),
    )?;
    let mut entry = manifest.descriptor();
    entry["platform"] = json!({"architecture": i.architecture, "os": "linux"});
    // containerd reads the first of the two, podman the second one.
    entry["annotations"] = json!({"io.containerd.image.name": i.name, "org.opencontainers.image.ref.name": i.name});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    let docker = json!([{"Config": config.path(), "RepoTags": [i.name], "Layers": [layer.path()]}]);

    let mut t = Builder::new(Vec::new());
    file(&mut t, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    file(&mut t, "index.json", &serde_json::to_vec(&index)?)?;
    file(&mut t, "manifest.json", &serde_json::to_vec(&docker)?)?;
    for b in [&config, &manifest, &layer] {
        file(&mut t, &b.path(), &b.bytes)?;
    }
    Ok((t.into_inner()?, format!("sha256:{}", manifest.digest)))
}

/// A part of an image, under the name that its contents give it.
struct Blob {
    media: String,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media: String, bytes: Vec<u8>) -> Self {
        Blob { media, digest: digest(&bytes), bytes }
    }

    fn json(media: &str, value: &Value) -> Result<Self> {
        Ok(Blob::new(media.to_owned(), serde_json::to_vec(value)?))
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len()})
    }
}

fn file(t: &mut Builder<Vec<u8>>, path: &str, data: &[u8]) -> Result<()> {
    let mut h = Header::new_gnu();
    h.set_mode(0o644);
    h.set_size(data.len() as u64);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    Ok(t.append_data(&mut h, path, data)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{elf, single_binary};
    use anyhow::bail;
    use flate2::read::GzDecoder;
    use std::collections::BTreeMap;
    use std::io::Read;

    fn fake(name: &str) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mew");
        fs::write(&file, elf::tests::fake(62, &[1])).unwrap();
        single_binary(&file, "mew", name).unwrap()
    }

    /// Every digest and size is right, down to the layer as it was before it was compressed.
    fn verify(archive: &[u8]) -> Result<()> {
        let mut files = BTreeMap::new();
        for e in tar::Archive::new(archive).entries()? {
            let mut e = e?;
            let name = e.path()?.display().to_string();
            let mut data = Vec::new();
            e.read_to_end(&mut data)?;
            files.insert(name, data);
        }
        let parse = |name: &str| -> Result<Value> {
            Ok(serde_json::from_slice(files.get(name).with_context(|| format!("no {name}"))?)?)
        };
        ensure!(parse("oci-layout")?["imageLayoutVersion"] == "1.0.0", "no OCI layout");
        let index = parse("index.json")?;
        let manifest: Value = serde_json::from_slice(blob(&files, &index["manifests"][0])?)?;
        let config_bytes = blob(&files, &manifest["config"])?;
        let config: Value = serde_json::from_slice(config_bytes)?;
        let layer = blob(&files, &manifest["layers"][0])?;
        let mut plain = Vec::new();
        match manifest["layers"][0]["mediaType"].as_str() {
            Some(m) if m.ends_with("+gzip") => {
                GzDecoder::new(layer.as_slice()).read_to_end(&mut plain)?;
            }
            Some(LAYER) => plain.clone_from(layer),
            other => bail!("a layer of the type {other:?}"),
        }
        ensure!(config["rootfs"]["diff_ids"] == json!([format!("sha256:{}", digest(&plain))]), "diff_ids do not match");
        let docker = parse("manifest.json")?;
        ensure!(
            docker[0]["Config"] == format!("blobs/sha256/{}", digest(config_bytes)),
            "manifest.json names another config"
        );
        ensure!(
            docker[0]["Layers"] == json!([format!("blobs/sha256/{}", digest(layer))]),
            "manifest.json names another layer"
        );
        let name = &index["manifests"][0]["annotations"]["io.containerd.image.name"];
        ensure!(docker[0]["RepoTags"] == json!([name]), "the two parts have two names");
        Ok(())
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, d: &Value) -> Result<&'a Vec<u8>> {
        let hex =
            d["digest"].as_str().and_then(|d| d.strip_prefix("sha256:")).context("a descriptor without digest")?;
        let b = files.get(&format!("blobs/sha256/{hex}")).with_context(|| format!("no blob {hex}"))?;
        ensure!(digest(b) == hex && d["size"] == b.len(), "blob {hex} is not what its descriptor says");
        Ok(b)
    }

    #[test]
    fn the_layout_is_valid() {
        let mut i = fake("mew:dev");
        verify(&pack(&i).unwrap().0).unwrap();
        i.compressed = false;
        verify(&pack(&i).unwrap().0).unwrap();
    }

    #[test]
    fn a_change_is_noticed() {
        let (mut bytes, _) = pack(&fake("mew:dev")).unwrap();
        let at = bytes.windows(10).position(|w| w == b"\"linux\",\"r").unwrap();
        bytes[at + 1] = b'L';
        assert!(verify(&bytes).is_err());
    }

    #[test]
    fn the_same_binary_gives_the_same_bytes_and_its_name_does_not_count() {
        let (a, digest_a) = pack(&fake("mew:dev")).unwrap();
        let (b, digest_b) = pack(&fake("mew:dev")).unwrap();
        assert!(a == b && digest_a == digest_b);
        assert_eq!(pack(&fake("example.com/mew:1")).unwrap().1, digest_a);
    }

    #[test]
    fn it_runs_as_nobody_and_holds_one_program() {
        let i = fake("mew:dev");
        assert_eq!(i.config["User"], "65532:65532");
        assert_eq!(i.config["Entrypoint"], json!(["/usr/bin/mew"]));
        let mut programs = Vec::new();
        for e in tar::Archive::new(i.layer.as_slice()).entries().unwrap() {
            let e = e.unwrap();
            let h = e.header();
            assert_eq!(h.mtime().unwrap(), 0);
            if h.entry_type().is_file() && h.mode().unwrap() & 0o111 != 0 {
                programs.push(e.path().unwrap().display().to_string());
            }
        }
        assert_eq!(programs, ["usr/bin/mew"]);
    }

    #[test]
    fn names() {
        for (tag, name) in [
            ("mew:dev", "localhost/mew:dev"),
            ("team/mew:1.0", "localhost/team/mew:1.0"),
            ("localhost/mew:dev", "localhost/mew:dev"),
            ("images.example.com:5000/mew:1", "images.example.com:5000/mew:1"),
        ] {
            assert_eq!(full_name(tag).unwrap(), name);
        }
        for bad in ["mew", "", ":dev", "Mew:dev", "localhost:5000/mew", "mew:"] {
            assert!(full_name(bad).is_err(), "{bad}");
        }
    }
}
