//! The bundle in forms that something else than `tar` installs: packages of Debian's and Red Hat's kind ([`system`]), a container image
//! ([`image`]). All are made from the staged tree; its manifest says what it is.

mod base;
mod image;
pub mod nfpm;
mod system;

pub use base::Base;

use crate::archive::Format;
use crate::dirs::Dirs;
use crate::error::{Kind, WithKind as _};
use crate::supply::Supply;
use anyhow::Context as _;
use dkumonitor_interface::manifest::{FileKind, Manifest};
use dkumonitor_interface::service::InstallType;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Raised whenever the same tree gives another package or image, so that what was packed before is packed again.
pub const VERSION: u32 = 5;

/// How this machine may be used.
pub struct With<'a> {
    /// The build's folders.
    pub dirs: &'a Dirs,
    /// Where tools come from.
    pub supply: &'a Supply,
    /// Cores to use.
    pub jobs: usize,
    /// What lies below the bundle in an image.
    pub base: Option<&'a Base>,
}

/// A staged tree and what it is.
struct Product<'a> {
    tree: &'a Path,
    /// The bundle's name without version and platform: `dkumonitor`.
    name: &'a str,
    version: String,
    /// The processor architecture, in the words of `std::env::consts`.
    arch: String,
    /// The licence of all that is in it, as an SPDX expression.
    license: String,
    /// The programs that a system's loader has to start, since they need its libraries.
    dynamic: Vec<String>,
    /// The oldest glibc that they run with.
    glibc: Option<String>,
    /// The type of installation that uses most of it and needs nobody else; none where none has all its components.
    kind: Option<InstallType>,
    /// The time of everything in it, seconds since 1970.
    epoch: u64,
}

/// Writes the tree of the bundle of this name in such a form as `target`; gives size and checksum.
///
/// # Errors
/// [`Kind::Archive`] when it cannot be written; else those of [`system`] and [`image`].
pub fn write(
    tree: &Path,
    bundle: &str,
    format: Format,
    target: &Path,
    epoch: u64,
    with: &With<'_>,
) -> anyhow::Result<(u64, String)> {
    let fail = || format!("cannot write {}", target.display());
    let product = Product::of(tree, bundle, epoch).kind(Kind::Archive, fail)?;
    let made = match format {
        Format::Oci => product.image(target, with),
        _ => product.package(format, target, with),
    };
    made.with_context(fail)
}

impl<'a> Product<'a> {
    fn of(tree: &'a Path, bundle: &'a str, epoch: u64) -> anyhow::Result<Self> {
        let manifest = Manifest::read(tree)?;
        let name = bundle.split_once(&format!("-{}", manifest.version)).map_or(bundle, |(name, _)| name);
        let mut dynamic = Vec::new();
        for file in manifest.files.iter().filter(|file| matches!(file.kind, FileKind::File { .. })) {
            if has_interpreter(&tree.join(&file.path)).with_context(|| format!("cannot read {}", file.path))? {
                dynamic.push(file.path.clone());
            }
        }
        let has = |name: &&str| manifest.services.iter().any(|service| service.name == **name);
        let kinds = [InstallType::All, InstallType::Server, InstallType::BackendAgent, InstallType::Backend];
        let kind = kinds.into_iter().find(|kind| kind.components().iter().all(has));
        Ok(Self {
            tree,
            name,
            arch: manifest.platform.arch,
            glibc: manifest.platform.glibc,
            version: manifest.version,
            license: all_of(manifest.components.iter().map(|component| component.license.as_str())),
            dynamic,
            kind,
            epoch,
        })
    }

    /// The processor architecture in the words of Debian and of OCI, which are Go's.
    fn architecture(&self) -> &str {
        match self.arch.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }
}

/// The licence of what holds parts under each of these, every one named once.
fn all_of<'a>(licenses: impl Iterator<Item = &'a str>) -> String {
    let mut all = BTreeSet::new();
    for text in licenses.filter(|text| !text.is_empty()) {
        if text.contains(['(', ')']) || text.contains(" OR ") {
            all.insert(format!("({text})"));
        } else {
            all.extend(text.split(" AND ").map(str::to_owned));
        }
    }
    Vec::from_iter(all).join(" AND ")
}

/// Whether this is a program that names the loader which has to start it (PT_INTERP in a 64-bit ELF file of this byte order).
fn has_interpreter(path: &Path) -> anyhow::Result<bool> {
    const HEADER: usize = 64;
    const INTERPRETER: u32 = 3;
    let mut head = Vec::new();
    // The table of segments stands at the front.
    File::open(path)?.take(64 * 1024).read_to_end(&mut head)?;
    if head.len() < HEADER || !head.starts_with(b"\x7fELF\x02\x01") {
        return Ok(false);
    }
    let number =
        |at: usize, bytes: usize| head[at..at + bytes].iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let segments = (0..count).filter_map(|index| head.get(table.checked_add(index * size)?..)?.first_chunk::<4>());
    Ok(segments.into_iter().any(|kind| u32::from_le_bytes(*kind) == INTERPRETER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_licence_of_a_package_is_named_once() {
        let all = ["Apache-2.0", "Apache-2.0 AND MIT AND BSD-3-Clause", "", "MIT OR Apache-2.0", "GPL-2.0-only WITH x AND MIT"];
        let said = all_of(all.into_iter());
        assert_eq!(said, "(MIT OR Apache-2.0) AND Apache-2.0 AND BSD-3-Clause AND GPL-2.0-only WITH x AND MIT");
    }

    #[test]
    fn programs_that_need_a_loader_are_told_from_static_ones_and_from_other_files() {
        assert_eq!(has_interpreter(Path::new("/bin/sh")).unwrap(), cfg!(target_os = "linux"));
        assert!(!has_interpreter(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap());
    }
}
