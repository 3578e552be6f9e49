//! An archive, unpacked to be changed and packed again.

use super::sha256;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What an archive holds, by path in the bundle: content and mode of files, targets of links.
#[derive(Clone)]
pub struct Unpacked {
    /// The name of its folder.
    name: String,
    pub files: BTreeMap<String, (Vec<u8>, u32)>,
    pub links: BTreeMap<String, String>,
}

impl Unpacked {
    /// Unpacks it.
    pub fn of(archive: &Path) -> Self {
        let mut tar = tar::Archive::new(flate2::read::MultiGzDecoder::new(fs::File::open(archive).unwrap()));
        let mut unpacked = Self { name: String::new(), files: BTreeMap::new(), links: BTreeMap::new() };
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let (name, path) = path.split_once('/').map(|(name, path)| (name.to_owned(), path.to_owned())).unwrap();
            unpacked.name = name;
            if let Some(target) = entry.link_name().unwrap() {
                unpacked.links.insert(path, target.to_str().unwrap().to_owned());
            } else if entry.header().entry_type().is_file() {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                unpacked.files.insert(path, (content, entry.header().mode().unwrap()));
            }
        }
        unpacked
    }

    /// Puts a script in the place of a program, which it finds under the same name with `.real`.
    pub fn wrap(&mut self, path: &str, script: &str) {
        let real = self.files.insert(path.to_owned(), (format!("#!/bin/sh\n{script}\n").into_bytes(), 0o755)).unwrap();
        self.files.insert(format!("{path}.real"), real);
    }

    /// Packs it again, with a manifest that fits.
    pub fn pack(mut self, folder: &Path) -> PathBuf {
        let mut manifest: Value = serde_json::from_slice(&self.files.remove("manifest.json").unwrap().0).unwrap();
        let files = self.files.iter().map(|(path, (content, mode))| {
            json!({"path": path, "type": "file", "size": content.len(), "mode": format!("{mode:04o}"), "sha256": sha256(content)})
        });
        let links = self.links.iter().map(|(path, target)| json!({"path": path, "type": "link", "target": target}));
        manifest["files"] = files.chain(links).collect();
        self.files.insert("manifest.json".to_owned(), (manifest.to_string().into_bytes(), 0o644));
        let archive = folder.join(format!("{}.tar.gz", self.name));
        let packer = flate2::write::GzEncoder::new(fs::File::create(&archive).unwrap(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(packer);
        let header = |size: usize, mode| {
            let mut header = tar::Header::new_gnu();
            header.set_size(size as u64);
            header.set_mode(mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            header
        };
        for (path, (content, mode)) in &self.files {
            tar.append_data(&mut header(content.len(), *mode), format!("{}/{path}", self.name), content.as_slice()).unwrap();
        }
        for (path, target) in &self.links {
            let mut header = header(0, 0o777);
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, format!("{}/{path}", self.name), target).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        archive
    }
}
