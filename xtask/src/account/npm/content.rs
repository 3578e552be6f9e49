//! A package's manifest and licence texts, from a folder or a zip.

use crate::account::texts;
use crate::error::{Kind, WithKind as _};
use crate::zip::Zip;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// The manifest's file.
pub const MANIFEST: &str = "package.json";

/// No manifest is longer, in bytes.
const LONGEST: u64 = 8 * 1024 * 1024;

/// A package's manifest, as far as it matters.
#[derive(Debug, Default, Deserialize)]
pub struct Manifest {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    license: Value,
    #[serde(default)]
    licenses: Value,
    // Manifests in registries are of every shape; what is no list of names is none.
    /// What it needs to run.
    #[serde(default)]
    pub dependencies: Value,
    /// What it can do without.
    #[serde(default, rename = "optionalDependencies")]
    pub optional: Value,
    /// What it needs to be worked on.
    #[serde(default, rename = "devDependencies")]
    pub development: Value,
    /// What whoever uses it has to bring along.
    #[serde(default, rename = "peerDependencies")]
    pub peers: Value,
}

impl Manifest {
    /// Reads the one in a folder.
    ///
    /// # Errors
    /// When it is not there or is none.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(MANIFEST);
        let text = std::fs::read(&path).kind(Kind::Stage, || format!("cannot read {}", path.display()))?;
        Self::parse(&text).kind(Kind::Stage, || format!("cannot understand {}", path.display()))
    }

    fn parse(text: &[u8]) -> serde_json::Result<Self> {
        // Some editors begin files by this mark; npm does not mind.
        serde_json::from_slice(text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text))
    }

    /// The licence as it is declared: an expression, one in an object, or a list of them to choose from.
    pub fn declared(&self) -> Option<String> {
        let word = |value: &Value| value.as_str().or_else(|| value["type"].as_str()).map(|word| word.trim().to_owned());
        let several = |value: &Value| {
            let words: Vec<String> = value.as_array()?.iter().filter_map(word).collect();
            (!words.is_empty()).then(|| words.join(" OR "))
        };
        let found = word(&self.license).or_else(|| several(&self.license)).or_else(|| several(&self.licenses));
        found.or_else(|| word(&self.licenses)).filter(|word| !word.is_empty())
    }
}

/// The names in a manifest's table.
pub fn names(value: &Value) -> Vec<String> {
    value.as_object().map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

/// What matters of a package.
pub struct Content {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its licence and notice files, by name, sorted.
    pub texts: Vec<(String, Vec<u8>)>,
}

/// Reads a package in a folder.
///
/// # Errors
/// When something of it cannot be read.
pub fn of_folder(folder: &Path) -> anyhow::Result<Content> {
    let manifest = Manifest::read(folder)?;
    let declared = manifest.declared();
    let mut names: Vec<String> = Vec::new();
    for entry in folder.read_dir().kind(Kind::Stage, || format!("cannot read {}", folder.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // By its target: a link to a text is a text.
        if is_text(&name, declared.as_deref()) && folder.join(&name).is_file() {
            names.push(name);
        }
    }
    names.sort();
    let read = |name: String| Ok((name.clone(), texts::read(&folder.join(name))?));
    let texts = names.into_iter().map(read).collect::<anyhow::Result<_>>()?;
    Ok(Content { manifest, texts })
}

/// Reads the package below `root/` in a zip.
///
/// # Errors
/// When it is not there, or what matters of it is damaged.
pub fn of_zip(zip: &Zip<'_>, root: &str) -> anyhow::Result<Content> {
    let manifest = zip.read(&format!("{root}/{MANIFEST}"), LONGEST)?;
    let manifest =
        Manifest::parse(&manifest).kind(Kind::Stage, || format!("cannot understand its member {root}/{MANIFEST}"))?;
    let declared = manifest.declared();
    let mut texts = Vec::new();
    for (path, member) in zip.members() {
        let Some(name) = path.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')) else { continue };
        if name.contains('/') || !is_text(name, declared.as_deref()) {
            continue;
        }
        let content = zip.read(path, texts::MAX_TEXT)?;
        if !member.is_link() {
            texts.push((name.to_owned(), content));
            continue;
        }
        // A link to a text is a text, if it stays in the package.
        let target = format!("{root}/{}", String::from_utf8_lossy(&content));
        if zip.members().get(&target).is_some_and(|target| !target.is_link()) {
            texts.push((name.to_owned(), zip.read(&target, texts::MAX_TEXT)?));
        }
    }
    Ok(Content { manifest, texts })
}

/// Whether a file of this name is a licence or a notice: by its name, or because the manifest says that the licence is there.
fn is_text(name: &str, declared: Option<&str>) -> bool {
    let named = declared
        .and_then(|word| word.get(..15).filter(|begin| begin.eq_ignore_ascii_case("see license in ")).map(|_| &word[15..]));
    texts::is_text(name) || named.is_some_and(|file| file.trim().trim_start_matches("./") == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zip::tests::zip;

    #[test]
    fn a_package_is_read_alike_from_a_folder_and_from_a_zip() {
        let files = [
            ("package.json", r#"{"name":"a","version":"1.0.0","license":"SEE LICENSE IN terms.txt"}"#),
            ("terms.txt", "terms"),
            ("LICENSE.md", "licence"),
            ("index.js", "1"),
            ("sub/LICENSE", "another"),
        ];
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let packed: Vec<_> = files.iter().map(|(name, content)| (format!("node_modules/a/{name}"), *content)).collect();
        let bytes = zip(&packed.iter().map(|(name, content)| (name.as_str(), *content)).collect::<Vec<_>>());
        let zip = Zip::new(&bytes).unwrap();
        let both = [of_folder(folder.path()).unwrap(), of_zip(&zip, "node_modules/a").unwrap()];
        for content in both {
            assert_eq!(content.manifest.name, "a");
            let texts: Vec<_> = content.texts.iter().map(|(name, text)| (name.as_str(), text.as_slice())).collect();
            assert_eq!(texts, [("LICENSE.md", b"licence".as_slice()), ("terms.txt", b"terms")]);
        }
        assert!(of_zip(&zip, "node_modules/b").is_err());
    }
}
