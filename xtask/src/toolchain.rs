//! Compilers and package managers of exactly the version that a recipe or a source asks for.
//!
//! Go brings its own (GOTOOLCHAIN). Node comes from the host where its version fits, else as the npm registry's package
//! for this platform; npm and Yarn as the package that the source names. Packages are fetched by the host's npm unless a
//! mirror had them, and checked against their pinned integrity where there is one. Their archives are kept in
//! `build/cache/packages/`, what they unpack to in `build/toolchains/`.

pub mod go;

use crate::dirs::Dirs;
use crate::environment::Environment;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::digest_of;
use crate::host::{self, Host, Tool};
use crate::stack::recipe::{Recipe, Zig};
use crate::supply::Supply;
use crate::unpack;
use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use sha2::{Sha256, Sha512};
use std::path::{Path, PathBuf};

/// A package of the npm registry.
#[derive(Clone, Debug)]
pub struct Package<'a> {
    /// Its name, with the scope if it has one.
    pub name: &'a str,
    /// Its exact version.
    pub version: &'a str,
    /// What its archive must hash to; none where only the registry's word is to be had.
    pub integrity: Option<Integrity>,
}

impl Package<'_> {
    /// Name and version as a file's name.
    fn plain_name(&self) -> String {
        format!("{}-{}", self.name.trim_start_matches('@').replace('/', "-"), self.version)
    }
}

/// A hash in one of the two ways of writing it that the npm world has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// SHA-512.
    Sha512(Vec<u8>),
    /// SHA-256.
    Sha256(Vec<u8>),
}

impl Integrity {
    /// Reads `sha512-<base64>`, as lock files have it, or `sha512.<hex>`, as `packageManager` has it.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, hash) = match (text.split_once('-'), text.split_once('.')) {
            (Some((kind, hash)), _) => (kind, BASE64.decode(hash).ok()?),
            (None, Some((kind, hash))) => (kind, crate::fingerprint::from_hex(hash)?),
            (None, None) => return None,
        };
        match (kind, hash.len()) {
            ("sha512", 64) => Some(Self::Sha512(hash)),
            ("sha256", 32) => Some(Self::Sha256(hash)),
            _ => None,
        }
    }

    /// Whether a file has this hash. Archives of node have half a hundred megabytes, so none is read whole.
    fn fits(&self, path: &Path) -> std::io::Result<bool> {
        let file = std::fs::File::open(path)?;
        Ok(match self {
            Self::Sha512(hash) => digest_of::<Sha512>(&file)? == *hash,
            Self::Sha256(hash) => digest_of::<Sha256>(&file)? == *hash,
        })
    }
}

/// The host's node, if its version is one that the recipe takes.
pub fn host_node(recipe: &Recipe, host: &Host) -> Option<Tool> {
    let wanted = recipe.toolchain.node.as_deref()?;
    host.tool("node").filter(|node| node_fits(&node.version, wanted))
}

/// The same major version, and within it at least the minor one that is asked for.
fn node_fits(have: &str, wanted: &str) -> bool {
    have.split('.').next() == wanted.split('.').next() && host::at_least(have, wanted)
}

/// The version of node that a recipe will get.
pub fn node_version(recipe: &Recipe, host: &Host) -> Option<String> {
    let pinned = || recipe.toolchain.node_package.as_ref().map(|package| package.version.clone());
    host_node(recipe, host).map(|node| node.version).or_else(pinned)
}

/// The folder with the `node` that a recipe will get, fetched if it has to be.
///
/// # Errors
/// [`Kind::Preflight`] where neither the host nor the recipe has one; else as [`fetch_package`].
pub fn node(recipe: &Recipe, host: &Host, source: &Registry<'_>) -> anyhow::Result<PathBuf> {
    if let Some(node) = host_node(recipe, host) {
        // The machine that a mirror is for may have another one.
        if let (Some(_), Ok(package)) = (source.supply.gathered(), node_package(recipe)) {
            source.archive(&package.borrowed())?;
        }
        return Ok(node.path.parent().unwrap_or(Path::new("/")).to_owned());
    }
    Ok(source.package(&node_package(recipe)?.borrowed())?.join("bin"))
}

/// A [`Package`] that owns its name.
struct NodePackage {
    name: String,
    version: String,
    integrity: Integrity,
}

impl NodePackage {
    fn borrowed(&self) -> Package<'_> {
        Package { name: &self.name, version: &self.version, integrity: Some(self.integrity.clone()) }
    }
}

/// The package that a recipe pins for this platform.
fn node_package(recipe: &Recipe) -> anyhow::Result<NodePackage> {
    let wanted = recipe.toolchain.node.as_deref().unwrap_or_default();
    let package = recipe.toolchain.node_package.as_ref().ok_or_else(|| {
        Kind::Preflight.error(format!("{} needs node {wanted}; install it, or add node-package to its recipe", recipe.name))
    })?;
    let platform = host::node_platform()?;
    let integrity = package.integrity.get(&platform).and_then(|text| Integrity::parse(text)).ok_or_else(|| {
        Kind::Preflight.error(format!(
            "recipes/{}.toml: node-package has no usable integrity (sha512-…) for {platform}; install node {wanted} by hand, or add it",
            recipe.name
        ))
    })?;
    Ok(NodePackage { name: host::node_package(&platform), version: package.version.clone(), integrity })
}

/// The C compiler that a recipe pins for this system.
pub fn zig(recipe: &Recipe) -> Option<&Zig> {
    recipe.toolchain.zig.as_ref().filter(|_| cfg!(target_os = "linux"))
}

/// Where packages come from, and where they are kept.
pub struct Registry<'a> {
    /// The build's folders.
    pub dirs: &'a Dirs,
    /// The environment for npm.
    pub env: &'a Environment,
    /// Whether it may be asked, and who wants to know what was taken.
    pub supply: &'a Supply,
}

impl Registry<'_> {
    /// The unpacked package, fetched unless it is there already.
    ///
    /// # Errors
    /// Those of [`Self::archive`].
    pub fn package(&self, package: &Package<'_>) -> anyhow::Result<PathBuf> {
        let target = self.dirs.toolchains().join(package.plain_name());
        if target.is_dir() && self.supply.gathered().is_none() {
            return Ok(target);
        }
        let archive = self.archive(package)?;
        if target.is_dir() {
            return Ok(target);
        }
        std::fs::create_dir_all(self.dirs.toolchains())?;
        let folder = tempfile::Builder::new().prefix(".npm-").tempdir_in(self.dirs.toolchains())?;
        let tree = folder.path().join("tree");
        unpack::unpack(&archive, &tree)?;
        match std::fs::rename(&tree, &target) {
            // Somebody else was faster; theirs was checked as ours was.
            Err(_) if target.is_dir() => Ok(target),
            other => other.map(|()| target.clone()).with_context(|| format!("cannot make {}", target.display())),
        }
    }

    /// The package's archive, fetched by npm unless it is there already.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when it cannot be had, [`Kind::Integrity`] when it is not what was pinned.
    pub fn archive(&self, package: &Package<'_>) -> anyhow::Result<PathBuf> {
        let Package { name, version, integrity } = package;
        let folder = self.dirs.packages();
        let target = folder.join(format!("{}.tgz", package.plain_name()));
        let is_right = |path: &Path| {
            let fits = integrity.as_ref().map_or(Ok(true), |integrity| integrity.fits(path));
            fits.with_context(|| format!("cannot read {}", path.display()))
        };
        if target.is_file() && is_right(&target)? {
            self.supply.note_package(&target);
            return Ok(target);
        }
        if self.supply.offline {
            let text = format!("the package {name}@{version} is not in {}", folder.display());
            return Err(Kind::Fetch.error(text));
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let draft = tempfile::Builder::new().prefix(".npm-").tempdir_in(&folder)?;
        let archive = self.npm_pack(name, version, draft.path())?;
        if !is_right(&archive)? {
            return Err(Kind::Integrity
                .error(format!("the package {name}@{version} is not the one that was pinned (its hash differs)")));
        }
        std::fs::rename(&archive, &target).with_context(|| format!("cannot make {}", target.display()))?;
        self.supply.note_package(&target);
        Ok(target)
    }

    /// The folder of the package `ziglang` of this version, fetched by pip and unpacked unless it is there already.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when it cannot be had, [`Kind::Integrity`] when it is not what was pinned, [`Kind::Preflight`] where the
    /// recipe pins none for this platform.
    pub fn zig(&self, zig: &Zig) -> anyhow::Result<PathBuf> {
        let platform = host::node_platform()?;
        let sha256 = zig.sha256.get(&platform).ok_or_else(|| {
            Kind::Preflight.error(format!("[toolchain] zig has no sha256 for {platform}; add that of the package's wheel"))
        })?;
        let name = format!("ziglang-{}-{platform}", zig.version);
        let target = self.dirs.toolchains().join(&name);
        let archive = self.dirs.packages().join(format!("{name}.whl"));
        if !(target.is_dir() && self.supply.gathered().is_none()) {
            self.wheel(zig, &platform, sha256, &archive)?;
        }
        if target.is_dir() {
            return Ok(target);
        }
        std::fs::create_dir_all(self.dirs.toolchains())?;
        let folder = tempfile::Builder::new().prefix(".zig-").tempdir_in(self.dirs.toolchains())?;
        let tree = folder.path().join("tree");
        let run = || -> anyhow::Result<()> {
            let shell = xshell::Shell::new()?;
            xshell::cmd!(shell, "python3 -m zipfile -e {archive} {tree}").quiet().run()?;
            // Which files are programs is lost on the way; this is the one.
            std::fs::set_permissions(tree.join("ziglang/zig"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            Ok(())
        };
        run().with_context(|| format!("cannot unpack {}", archive.display()))?;
        match std::fs::rename(&tree, &target) {
            // Somebody else was faster; theirs was checked as ours was.
            Err(_) if target.is_dir() => Ok(target),
            other => other.map(|()| target.clone()).with_context(|| format!("cannot make {}", target.display())),
        }
    }

    /// Gets the wheel, unless it is there already.
    fn wheel(&self, zig: &Zig, platform: &str, sha256: &str, target: &Path) -> anyhow::Result<()> {
        let is_right = |path: &Path| crate::fingerprint::hash_file(path).is_ok_and(|found| found == sha256);
        if is_right(target) {
            self.supply.note_package(target);
            return Ok(());
        }
        let what = format!("ziglang=={}", zig.version);
        let folder = self.dirs.packages();
        let other = || Kind::Integrity.error(format!("the package {what} is not the one that was pinned (its hash differs)"));
        if self.supply.offline && target.is_file() {
            return Err(other());
        }
        if self.supply.offline {
            return Err(Kind::Fetch.error(format!("the package {what} is not in {}", folder.display())));
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let draft = tempfile::Builder::new().prefix(".pip-").tempdir_in(&folder)?;
        let (path, tag) =
            (draft.path(), if platform.ends_with("arm64") { "manylinux2014_aarch64" } else { "manylinux2010_x86_64" });
        let run = || -> anyhow::Result<()> {
            let shell = xshell::Shell::new()?;
            let words = ["--no-deps", "--no-cache-dir", "--quiet", "--only-binary", ":all:", "--platform", tag];
            xshell::cmd!(shell, "python3 -m pip download {words...} --dest {path} {what}").quiet().ignore_stdout().run()?;
            Ok(())
        };
        run().kind(Kind::Fetch, || format!("cannot get the package {what} by pip (Debian: python3-pip)"))?;
        let wheel = std::fs::read_dir(path)?.flatten().map(|entry| entry.path()).find(|path| path.is_file());
        let wheel = wheel.ok_or_else(|| Kind::Fetch.error(format!("pip brought no {what}")))?;
        if !is_right(&wheel) {
            return Err(other());
        }
        std::fs::rename(&wheel, target).with_context(|| format!("cannot make {}", target.display()))?;
        self.supply.note_package(target);
        Ok(())
    }

    fn npm_pack(&self, name: &str, version: &str, folder: &Path) -> anyhow::Result<PathBuf> {
        let spec = format!("{name}@{version}");
        let run = || -> anyhow::Result<()> {
            let shell = xshell::Shell::new()?;
            let _dir = shell.push_dir(folder);
            let mut command = xshell::cmd!(shell, "npm pack --silent {spec}").quiet().env_clear().ignore_stdout();
            for (name, value) in self.env {
                command = command.env(name, value);
            }
            command.run()?;
            Ok(())
        };
        run().kind(Kind::Fetch, || format!("cannot get the package {spec} by npm"))?;
        let archives = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
        archives
            .into_iter()
            .find(|path| path.extension().is_some_and(|ending| ending == "tgz"))
            .ok_or_else(|| Kind::Fetch.error(format!("npm pack {spec} brought no archive")))
    }
}

/// Whether the toolchain in use can compile for `target`.
///
/// # Errors
/// When `rustc` cannot be asked.
pub fn rust_target_installed(target: &str) -> anyhow::Result<bool> {
    let shell = xshell::Shell::new()?;
    let folder = xshell::cmd!(shell, "rustc --print target-libdir --target {target}").quiet().ignore_stderr().read()?;
    Ok(Path::new(folder.trim()).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integrity_is_read_in_both_ways_of_writing_it_and_tells_right_from_wrong() {
        // `printf hello | openssl dgst -sha512 -binary | base64`, and sha256sum of the same.
        let base64 = "sha512-m3HSJL1i83hdltRq0+o9czGb+8KJDKra4t/3JRlnPKcjI8PZm6XBHXx6zG4UuMXaDEZjR1wuXDre9G9zvN7AQw==";
        let hex = "sha256.2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let folder = tempfile::tempdir().unwrap();
        let [right, wrong] = ["hello", "hullo"].map(|name| folder.path().join(name));
        std::fs::write(&right, "hello").unwrap();
        std::fs::write(&wrong, "hullo").unwrap();
        for text in [base64, hex] {
            let integrity = Integrity::parse(text).unwrap();
            assert!(integrity.fits(&right).unwrap() && !integrity.fits(&wrong).unwrap(), "{text}");
        }
        assert_eq!(Integrity::parse("sha512-short"), None);
        assert_eq!(Integrity::parse("md5-xx"), None);
    }

    #[test]
    fn node_fits_within_its_major_version() {
        assert!(node_fits("20.20.2", "20") && node_fits("20.20.2", "20.9"));
        assert!(!node_fits("20.8.0", "20.9") && !node_fits("22.1.0", "20") && !node_fits("2.1", "20"));
    }
}
