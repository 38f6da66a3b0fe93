//! A layer: a tar archive in which nothing depends on when, by whom or where it was made.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// Everything belongs to root; what is written to at run time is mounted.
pub struct Layer(Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Layer(Builder::new(Vec::new()))
    }
}

impl Layer {
    pub fn dir(&mut self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let mut h = header(EntryType::Directory, mode, 0);
        Ok(self.0.append_data(&mut h, path, std::io::empty())?)
    }

    pub fn file(&mut self, path: impl AsRef<Path>, mode: u32, data: &[u8]) -> Result<()> {
        let mut h = header(EntryType::Regular, mode, data.len());
        Ok(self.0.append_data(&mut h, path, data)?)
    }

    pub fn symlink(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
        let mut h = header(EntryType::Symlink, 0o777, 0);
        Ok(self.0.append_link(&mut h, path, target)?)
    }

    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.0.into_inner()?)
    }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut h = Header::new_gnu();
    h.set_entry_type(kind);
    h.set_mode(mode);
    h.set_size(size as u64);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    h
}

/// The layer of a directory: its files, directories and links, in the order of their names.
pub fn of_directory(root: &Path) -> Result<Vec<u8>> {
    let mut l = Layer::default();
    add(&mut l, root, Path::new(""))?;
    l.finish()
}

fn add(l: &mut Layer, root: &Path, dir: &Path) -> Result<()> {
    let here = root.join(dir);
    let entries = fs::read_dir(&here).with_context(|| here.display().to_string())?;
    let mut names = entries.map(|e| Ok(e?.file_name())).collect::<Result<Vec<OsString>>>()?;
    names.sort();
    for name in names {
        let path = dir.join(name);
        let at = root.join(&path);
        let meta = fs::symlink_metadata(&at)?;
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            l.dir(&path, mode)?;
            add(l, root, &path)?;
        } else if meta.is_symlink() {
            l.symlink(&path, fs::read_link(&at)?)?;
        } else if meta.is_file() {
            l.file(&path, mode, &fs::read(&at)?)?;
        } else {
            bail!("{} is neither file, directory nor link", at.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn make(root: &Path, order: &[&str]) {
        for name in order {
            fs::write(root.join(name), name).unwrap();
        }
        fs::create_dir(root.join("bin")).unwrap();
        fs::write(root.join("bin/tool"), "x").unwrap();
        fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("tool", root.join("bin/link")).unwrap();
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(a.path(), &["one", "two"]);
        make(b.path(), &["two", "one"]);
        let layer = of_directory(a.path()).unwrap();
        assert!(layer == of_directory(b.path()).unwrap());
        let mut seen = Vec::new();
        for e in tar::Archive::new(layer.as_slice()).entries().unwrap() {
            let e = e.unwrap();
            let h = e.header();
            assert_eq!((h.uid().unwrap(), h.gid().unwrap(), h.mtime().unwrap()), (0, 0, 0));
            let link = e.link_name().unwrap().map(|l| l.display().to_string());
            seen.push((e.path().unwrap().display().to_string(), h.mode().unwrap() & 0o111 != 0, link));
        }
        let names: Vec<&str> = seen.iter().map(|s| s.0.trim_end_matches('/')).collect();
        assert_eq!(names, ["bin", "bin/link", "bin/tool", "one", "two"]);
        assert_eq!(seen[1].2.as_deref(), Some("tool"));
        assert!(seen[2].1 && !seen[3].1);
    }
}
