//! The crates in a program that cargo has compiled, and what its compiler puts into every program.

use super::{Ecosystem, Evidence, Package, Taking};
use crate::error::{Kind, WithKind as _};
use crate::supply::crates::Crate;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What `cargo tree` is asked to say of a crate; nothing of it can hold the sign between.
pub const FORMAT: &str = "{p}\t{l}";

/// A crate that cargo resolves for a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resolved {
    name: String,
    version: String,
    licence: String,
}

/// Reads what `cargo tree` has said, in [`FORMAT`]. Crates that lie in the source itself are not among them.
pub fn parse(text: &str) -> BTreeSet<Resolved> {
    let one = |line: &str| {
        let (package, licence) = line.split_once('\t')?;
        let mut words = package.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        // `(/path)` stands behind those that lie in the source, `(proc-macro)` and `(*)` behind others.
        let is_local = package.contains(" (/") || package.contains(" (path+");
        let licence = licence.trim_end_matches(" (*)").trim().to_owned();
        (!is_local).then(|| Resolved { name: name.to_owned(), version: version.to_owned(), licence })
    };
    text.lines().filter_map(one).collect()
}

/// Notes crates. `pinned` are those of the lock file, `folders` those in which sources of crates lie.
///
/// # Errors
/// [`Kind::Fetch`] naming a crate whose source is not there.
pub fn take(
    taking: &mut Taking,
    resolved: &BTreeSet<Resolved>,
    within: &BTreeSet<String>,
    pinned: &[Crate],
    folders: &[PathBuf],
) -> anyhow::Result<()> {
    for krate in resolved {
        let inner = format!("{}-{}", krate.name, krate.version);
        let folder = folders.iter().map(|folder| folder.join(&inner)).find(|folder| folder.is_dir());
        let folder = folder.ok_or_else(|| {
            Kind::Fetch.error(format!("cargo resolves {} {}, but its source is not there", krate.name, krate.version))
        })?;
        let texts = taking.texts_in(&folder, [Path::new(""), Path::new("LICENSES"), Path::new("licenses")].into_iter())?;
        let pin = pinned.iter().find(|pin| pin.name == krate.name && pin.version == krate.version);
        taking.package(Package {
            ecosystem: Ecosystem::Cargo,
            name: krate.name.clone(),
            version: krate.version.clone(),
            sum: pin.map(|pin| pin.checksum.clone()),
            declared: Some(krate.licence.clone()).filter(|licence| !licence.is_empty()),
            texts,
            evidence: Evidence::CargoTree,
            within: within.clone(),
            replaces: None,
            origin: None,
            patches: BTreeSet::new(),
        });
    }
    Ok(())
}

/// Notes Rust's own library, whose notices the compiler brings along, and in static programs the C library musl.
///
/// # Errors
/// When the notices cannot be read.
pub fn take_std(
    taking: &mut Taking,
    version: &str,
    sysroot: &Path,
    is_static: bool,
    within: &BTreeSet<String>,
) -> anyhow::Result<()> {
    let notices = sysroot.join("share/doc/rust/COPYRIGHT-library.html");
    let mut texts = Vec::new();
    if notices.is_file() {
        let content = std::fs::read(&notices).kind(Kind::Stage, || format!("cannot read {}", notices.display()))?;
        texts.push(taking.texts().keep("COPYRIGHT-library.html".to_owned(), &content)?);
    }
    let package = |name: &str, version: &str, declared: &str, texts| Package {
        ecosystem: Ecosystem::Generic,
        name: name.to_owned(),
        version: version.to_owned(),
        sum: None,
        declared: Some(declared.to_owned()),
        texts,
        evidence: Evidence::Compiler,
        within: within.clone(),
        replaces: None,
        origin: None,
        patches: BTreeSet::new(),
    };
    taking.package(package("rust-std", version, "MIT OR Apache-2.0", texts));
    if is_static {
        // The compiler brings a copy of its own; no file says which one.
        let text = taking.texts().keep("COPYRIGHT".to_owned(), MUSL.as_bytes())?;
        taking.package(package("musl", "", "MIT", vec![text]));
    }
    Ok(())
}

/// What musl's licence wants to be kept: its own notice. The licence's text is MIT's.
const MUSL: &str = "musl as a whole is licensed under the following standard MIT license:\n\n\
----------------------------------------------------------------------\n\
Copyright © 2005-2020 Rich Felker, et al.\n\n\
Permission is hereby granted, free of charge, to any person obtaining\n\
a copy of this software and associated documentation files (the\n\
\"Software\"), to deal in the Software without restriction, including\n\
without limitation the rights to use, copy, modify, merge, publish,\n\
distribute, sublicense, and/or sell copies of the Software, and to\n\
permit persons to whom the Software is furnished to do so, subject to\n\
the following conditions:\n\n\
The above copyright notice and this permission notice shall be\n\
included in all copies or substantial portions of the Software.\n\n\
THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND,\n\
EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF\n\
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT.\n\
IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY\n\
CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT,\n\
TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE\n\
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.\n\
----------------------------------------------------------------------\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_from_what_cargo_says_without_those_of_the_source() {
        let text = "dkumonitor-runtime v0.1.0 (/root/x/runtime)\tApache-2.0\nserde v1.0.229\tMIT OR Apache-2.0\n\
                    serde_derive v1.0.229 (proc-macro)\tMIT OR Apache-2.0\nserde v1.0.229\tMIT OR Apache-2.0 (*)\nodd v0.1.0\t\n";
        let found: Vec<_> =
            parse(text).into_iter().map(|one| format!("{} {} {}", one.name, one.version, one.licence)).collect();
        assert_eq!(found, ["odd 0.1.0 ", "serde 1.0.229 MIT OR Apache-2.0", "serde_derive 1.0.229 MIT OR Apache-2.0"]);
    }
}
