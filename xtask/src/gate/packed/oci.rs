//! A container image: an OCI image layout in a tar. Its layers lie on each other, and what one of them removes is gone.

use super::lay::{OPAQUE, WHITEOUT};
use super::{plain, section};
use crate::archive::read::{Member, Take, tar_members};
use crate::fingerprint::Hashed;
use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// What marks a layout.
const MARK: &str = "oci-layout";

/// By so many bits a layer's number stands before those of its members.
pub const LAYER: u32 = 32;

/// No document of a layout is larger, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What an image says of itself.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// For which architecture, in Go's words.
    pub architecture: String,
    /// For which system.
    pub os: String,
    /// How it wants to be run.
    pub config: Config,
    /// Its documents by name, for what must not stand in them.
    pub documents: Vec<(String, Vec<u8>)>,
    /// What is wrong with how it is put together.
    pub faults: Vec<String>,
    /// The hash of its manifest.
    pub digest: String,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// A layer.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// Its media type.
    pub kind: String,
    /// The hash of it as it lies there.
    pub digest: String,
    /// The hash of what it holds, not compressed.
    pub plain: String,
    /// Where it lies in the file: the first byte, and how many.
    pub place: (u64, u64),
}

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    /// Who runs it: a user, or `user:group`.
    pub user: String,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// What is run.
    pub entrypoint: Option<Vec<String>>,
    /// Its words, unless others are given.
    pub cmd: Option<Vec<String>>,
    /// Where it is run.
    pub working_dir: String,
    /// What is kept beyond it.
    pub volumes: Option<BTreeMap<String, Value>>,
    /// On what it listens: `PORT/PROTOCOL`.
    pub exposed_ports: Option<BTreeMap<String, Value>>,
    /// What stops it.
    pub stop_signal: Option<String>,
    /// What tells whether it is well; Docker's extension.
    pub healthcheck: Option<Healthcheck>,
}

/// What tells whether an image is well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `CMD` and words, or `CMD-SHELL` and a script.
    pub test: Vec<String>,
}

impl Config {
    /// What is run, and its words.
    pub fn command(&self) -> Vec<&str> {
        self.entrypoint.iter().chain(&self.cmd).flatten().map(String::as_str).collect()
    }

    /// The numbers of its user and group; none where it names them, or nobody.
    pub fn owner(&self) -> Option<(u32, u32)> {
        let (user, group) = self.user.split_once(':').unwrap_or((&self.user, &self.user));
        Some((user.parse().ok()?, group.parse().ok()?))
    }

    /// The folders of its volumes, from `/`.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        self.volumes.iter().flat_map(|volumes| volumes.keys().map(String::as_str))
    }
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    kind: String,
    digest: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct About {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Config,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// Whether this tar is such a layout.
pub fn is_layout(file: File) -> bool {
    let mut tar = tar::Archive::new(BufReader::new(file));
    let Ok(entries) = tar.entries_with_seek() else { return false };
    entries.map_while(Result::ok).any(|entry| super::from_root(&String::from_utf8_lossy(&entry.path_bytes())) == MARK)
}

/// Gives the members of all layers, one layer after the other, and what the image says of itself.
pub fn read(path: &Path, take: &mut Take<'_>) -> anyhow::Result<Image> {
    let layout = Layout::open(path)?;
    let index: Index = serde_json::from_slice(&layout.document("index.json")?).context("its index.json")?;
    let [descriptor] = index.manifests.as_slice() else {
        bail!("it holds {} images, and not one", index.manifests.len());
    };
    let mut used = BTreeSet::new();
    let mut blob = |descriptor: &Descriptor| {
        let name = layout.blob(descriptor)?;
        used.insert(name.clone());
        anyhow::Ok(name)
    };
    let (manifest, mut documents) = (blob(descriptor)?, Vec::new());
    let parsed: Manifest = serde_json::from_slice(&layout.document(&manifest)?).context("its manifest")?;
    let config = blob(&parsed.config)?;
    let about: About = serde_json::from_slice(&layout.document(&config)?).context("its configuration")?;
    let blobs = parsed.layers.iter().map(&mut blob).collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(blobs.len() == about.rootfs.diff_ids.len(), "its manifest and its configuration name different layers");
    for name in ["index.json", &manifest, &config] {
        documents.push((name.to_owned(), layout.document(name)?));
    }
    let mut faults = layout.docker(&config, &blobs)?;
    faults.extend(layout.strays(&used));
    let mut image = Image {
        architecture: about.architecture,
        os: about.os,
        config: about.config,
        documents,
        faults,
        digest: descriptor.digest.clone(),
        layers: Vec::new(),
    };
    for (at, ((name, one), id)) in blobs.iter().zip(&parsed.layers).zip(&about.rootfs.diff_ids).enumerate() {
        let (from, size) = layout.places[name];
        let mut hashed = Hashed::new(plain(section(path, from, size)?)?);
        tar_members(&mut hashed, at << LAYER, take).with_context(|| format!("its layer {}", at + 1))?;
        let found = format!("sha256:{}", hashed.finish());
        ensure!(found == *id, "its layer {} holds something else than its configuration says", at + 1);
        let (kind, digest, plain) = (one.kind.clone(), one.digest.clone(), id.clone());
        image.layers.push(Layer { kind, digest, plain, place: (from, size) });
    }
    Ok(image)
}

/// A tar that is a layout: where everything in it lies.
struct Layout<'a> {
    path: &'a Path,
    places: BTreeMap<String, (u64, u64)>,
}

impl<'a> Layout<'a> {
    fn open(path: &'a Path) -> anyhow::Result<Self> {
        let mut tar = tar::Archive::new(BufReader::new(File::open(path)?));
        let mut places = BTreeMap::new();
        for entry in tar.entries_with_seek()? {
            let entry = entry?;
            let name = super::from_root(&String::from_utf8_lossy(&entry.path_bytes()));
            places.insert(name, (entry.raw_file_position(), entry.size()));
        }
        Ok(Self { path, places })
    }

    fn document(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let (from, size) = *self.places.get(name).with_context(|| format!("it has no {name}"))?;
        ensure!(size <= LARGEST, "its {name} is larger than any");
        let mut content = Vec::new();
        section(self.path, from, size)?.read_to_end(&mut content)?;
        Ok(content)
    }

    /// The name of a blob that is what its name says.
    fn blob(&self, descriptor: &Descriptor) -> anyhow::Result<String> {
        let digest = &descriptor.digest;
        let Some(sha256) = digest.strip_prefix("sha256:") else { bail!("{digest} is no hash that is known here") };
        let name = format!("blobs/sha256/{sha256}");
        let (from, size) = *self.places.get(&name).with_context(|| format!("it has no {name}"))?;
        let mut hashed = Hashed::new(section(self.path, from, size)?);
        io::copy(&mut hashed, &mut io::sink())?;
        ensure!(hashed.finish() == sha256, "{name} is not what its name says");
        Ok(name)
    }

    /// What Docker's own manifest.json, if there is one, says that is not so.
    fn docker(&self, config: &str, layers: &[String]) -> anyhow::Result<Vec<String>> {
        const NAME: &str = "manifest.json";
        if !self.places.contains_key(NAME) {
            return Ok(Vec::new());
        }
        let said: Value = serde_json::from_slice(&self.document(NAME)?).context("its manifest.json")?;
        let same = said[0]["Config"] == *config && said[0]["Layers"] == Value::from(layers);
        Ok(if same { Vec::new() } else { vec!["its manifest.json, which Docker reads, is of another image".to_owned()] })
    }

    /// What lies in it and belongs to nothing.
    fn strays(&self, used: &BTreeSet<String>) -> Vec<String> {
        let known = [MARK, "index.json", "manifest.json", "repositories", "blobs", "blobs/sha256", ""];
        let strays = self.places.keys().filter(|name| !known.contains(&name.as_str()) && !used.contains(*name));
        strays.map(|name| format!("{name} lies in it and belongs to nothing")).collect()
    }
}

/// The members of all layers as they are when these lie on each other, by name. Their numbers say of which layer they are.
pub fn flatten<T>(members: Vec<(usize, Member, T)>) -> Vec<(Member, T)> {
    let mut seen: BTreeMap<String, (usize, Member, T)> = BTreeMap::new();
    for (at, member, what) in members {
        let name = super::from_root(&member.name);
        if name.is_empty() {
            continue;
        }
        let layer = at >> LAYER;
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
        let below =
            |folder: &str, name: &str| folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        if file == OPAQUE {
            seen.retain(|name, (of, ..)| *of == layer || !below(folder, name));
        } else if let Some(gone) = file.strip_prefix(WHITEOUT) {
            let gone = if folder.is_empty() { gone.to_owned() } else { format!("{folder}/{gone}") };
            seen.retain(|name, (of, ..)| *of == layer || !(*name == gone || below(&gone, name)));
        } else {
            // What is no folder any more has nothing below it.
            if !matches!(member.kind, crate::archive::read::MemberKind::Folder) {
                seen.retain(|other, _| !below(&name, other));
            }
            seen.insert(name.clone(), (layer, Member { name, ..member }, what));
        }
    }
    seen.into_values().map(|(_, member, what)| (member, what)).collect()
}
