//! Licence texts: which files are such, and which licences they hold.

use super::Text;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::hex;
use crate::parallel;
use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use spdx::detection::scan::Scanner;
use spdx::detection::{LicenseType, Store, TextData};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What licence texts are called, in upper case.
const WORDS: [&str; 7] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT", "PATENTS"];

/// Endings of files that deal with licences and are none.
const OTHER: [&str; 13] = ["go", "rs", "js", "ts", "tsx", "py", "sh", "c", "h", "json", "yml", "yaml", "tmpl"];

/// How much of a text is read, in bytes. Grafana's notices are a tenth of that.
pub const MAX_TEXT: u64 = 4 * 1024 * 1024;

/// A text that is longer holds more than licences, and is not compared with them: bytes.
const LONGEST_LICENCE: usize = 200 * 1024;

/// How alike two texts have to be.
const CONFIDENCE: f32 = 0.9;

/// The licences that are looked for in texts: those that code is commonly under, whether or not they may be shipped. Of
/// licences with one text for "only" and "or later" the stricter one is named.
const LOOKED_FOR: [&str; 58] = [
    "0BSD",
    "AFL-2.1",
    "AGPL-3.0-only",
    "Apache-1.1",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-2-Clause-Patent",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSD-4-Clause",
    "BSL-1.0",
    "BUSL-1.1",
    "BlueOak-1.0.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDDL-1.0",
    "CDLA-Permissive-2.0",
    "ECL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.2",
    "Elastic-2.0",
    "GPL-1.0-only",
    "GPL-2.0-only",
    "GPL-3.0-only",
    "ISC",
    "JSON",
    "LGPL-2.0-only",
    "LGPL-2.1-only",
    "LGPL-3.0-only",
    "MIT",
    "MIT-0",
    "MPL-1.1",
    "MPL-2.0",
    "MS-PL",
    "NCSA",
    "OFL-1.1",
    "OpenSSL",
    "OSL-3.0",
    "PHP-3.01",
    "PostgreSQL",
    "PSF-2.0",
    "Python-2.0",
    "QPL-1.0",
    "Ruby",
    "SSPL-1.0",
    "UPL-1.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "WTFPL",
    "X11",
    "Zlib",
];

/// Licences whose texts are almost those of others, with the word that only they have and the other one: what is alike but has not
/// that word is the other.
const TWINS: [(&str, &str, &str); 4] = [
    ("BSD-2-Clause-Patent", "patent", "BSD-2-Clause"),
    ("BSD-3-Clause-Clear", "patent", "BSD-3-Clause"),
    ("ECL-2.0", "educational", "Apache-2.0"),
    ("JSON", "evil", "MIT"),
];

/// The text of a licence as SPDX has it.
pub fn standard(licence: &str) -> Option<&'static str> {
    let all = spdx::text::LICENSE_TEXTS;
    all.binary_search_by(|(name, _)| (*name).cmp(licence))
        .ok()
        .or_else(|| all.iter().position(|(name, _)| *name == licence))
        .map(|at| all[at].1)
}

/// Whether a file of this name holds a licence, or notices that go with one.
pub fn is_text(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    let rest = WORDS.iter().find_map(|word| upper.strip_prefix(word));
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic() && c != 'S')) && !OTHER.contains(&&*ending)
}

/// The licence texts in the top folder of a tree, sorted.
///
/// # Errors
/// When the folder cannot be read.
pub fn in_top(tree: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in tree.read_dir()? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // By its target: a link to a text is a text.
        if is_text(&name) && tree.join(&name).is_file() {
            found.push(PathBuf::from(name));
        }
    }
    found.sort();
    Ok(found)
}

/// A text, its beginning if it is very long.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.take(MAX_TEXT).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

/// The texts of an account: written to a folder as they are found, each once and by its hash. Threads may share it.
pub struct TextStore {
    folder: PathBuf,
    /// Hashes.
    kept: Mutex<BTreeSet<String>>,
}

impl TextStore {
    /// A store in a folder, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn below(folder: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder).kind(Kind::Stage, || format!("cannot write below {}", folder.display()))?;
        Ok(Self { folder, kept: Mutex::default() })
    }

    /// Keeps a text and gives what stands for it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, name: String, content: &[u8]) -> anyhow::Result<Text> {
        let sha256 = hex(&Sha256::digest(content));
        if self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(sha256.clone()) {
            let written = std::fs::write(self.folder.join(&sha256), content);
            written.kind(Kind::Stage, || format!("cannot write below {}", self.folder.display()))?;
        }
        Ok(Text { name, sha256 })
    }

    /// The licences that each text holds, by its hash.
    ///
    /// # Errors
    /// When one cannot be read any more.
    pub fn licences(self) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
        let hashes: Vec<String> = self.kept.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect();
        let recogniser = (!hashes.is_empty()).then(Recogniser::shared);
        let seen = parallel::each_on(parallel::cores(), &hashes, |hash| {
            let text = read(&self.folder.join(hash))?;
            Ok(recogniser.as_ref().map(|one| one.licences(&String::from_utf8_lossy(&text))).unwrap_or_default())
        })?;
        Ok(hashes.into_iter().zip(seen).collect())
    }
}

/// What knows licences by their texts. It takes ten megabytes: those who recognise texts at the same time share one, and it is gone
/// with the last of them.
pub struct Recogniser(Arc<Store>);

static SHARED: Mutex<Weak<Store>> = Mutex::new(Weak::new());

impl Recogniser {
    /// The one that there is, or else a new one.
    pub fn shared() -> Self {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let store = shared.upgrade().unwrap_or_else(|| {
            let made = Arc::new(store());
            *shared = Arc::downgrade(&made);
            made
        });
        Self(store)
    }

    /// The licences that a text holds, by their SPDX identifiers; none where nothing is known that is alike.
    pub fn licences(&self, text: &str) -> BTreeSet<String> {
        if text.len() > LONGEST_LICENCE {
            return BTreeSet::new();
        }
        let scanner = Scanner::new(&self.0).confidence_threshold(CONFIDENCE).optimize(true).max_passes(6);
        let found = scanner.scan(&TextData::new(text));
        let whole = found.license.into_iter().map(|licence| licence.name);
        let parts = found.containing.into_iter().map(|part| part.license.name);
        let lower = text.to_ascii_lowercase();
        whole.chain(parts).map(|name| told_apart(name, &lower).to_owned()).collect()
    }
}

/// The licences that are looked for, taken apart as texts are compared.
fn store() -> Store {
    let mut store = Store::new();
    for name in LOOKED_FOR {
        if let Some(text) = standard(name) {
            store.add_license(name.to_owned(), TextData::new(text).without_text());
        }
    }
    // SPDX has GPL's text behind it, which it builds on; files have the two apart.
    let alone = standard("LGPL-3.0-only").and_then(|text| text.split_once("\nGNU GENERAL PUBLIC LICENSE\n"));
    let _ =
        alone.map(|(text, _)| store.add_variant("LGPL-3.0-only", LicenseType::Alternate, TextData::new(text).without_text()));
    // How Apache's licence is often given: by the words that it wants to stand in each file.
    let header = "Licensed under the Apache License, Version 2.0 (the \"License\"); you may not use this file except in \
                  compliance with the License. You may obtain a copy of the License at \
                  http://www.apache.org/licenses/LICENSE-2.0 Unless required by applicable law or agreed to in writing, software \
                  distributed under the License is distributed on an \"AS IS\" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY \
                  KIND, either express or implied. See the License for the specific language governing permissions and limitations \
                  under the License.";
    // It was added above.
    let _ = store.add_variant("Apache-2.0", LicenseType::Header, TextData::new(header).without_text());
    store
}

/// The licence that a text holds which is alike to this one, or to its twin.
fn told_apart<'a>(found: &'a str, lower: &str) -> &'a str {
    let twin = TWINS.iter().find(|(name, word, _)| *name == found && !lower.contains(word));
    twin.map_or(found, |(_, _, twin)| twin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_texts_are_known_by_their_names() {
        for name in ["LICENSE", "license.md", "LICENSE-APACHE", "LICENSE_2.0.txt", "COPYING3.LIB", "NOTICE", "Notices.txt"] {
            assert!(is_text(name), "{name}");
        }
        for name in ["LICENSING", "licensed.md", "noticeboard", "license.go", "README.md", "license_test.py"] {
            assert!(!is_text(name), "{name}");
        }
    }

    #[test]
    fn licences_are_known_by_their_texts() {
        let recogniser = Recogniser::shared();
        let of = |text: &str| recogniser.licences(text).into_iter().collect::<Vec<_>>().join(" AND ");
        let mit = standard("MIT").unwrap();
        assert_eq!(of(&format!("The MIT License (MIT)\n\nCopyright (c) 2013 TOML authors\n\n{mit}")), "MIT");
        assert_eq!(of(standard("Apache-2.0").unwrap()), "Apache-2.0");
        assert_eq!(of(&standard("BSD-3-Clause").unwrap().replace("\n\n", "\n    ")), "BSD-3-Clause");
        assert_eq!(of(&format!("{mit}\n\n----\n\n{}", standard("ISC").unwrap())), "ISC AND MIT");
        assert_eq!(of(standard("SSPL-1.0").unwrap()), "SSPL-1.0");
        // Between the two, as some copies are: d3's.
        let d3 = standard("BSD-3-Clause")
            .unwrap()
            .replace("Neither the name of the copyright holder nor the names of its contributors", "* The name A B");
        assert_eq!(of(&d3.replace("\n\n", "\n")), "BSD-3-Clause");
        let (lesser, general) = standard("LGPL-3.0-only").unwrap().split_once("\nGNU GENERAL PUBLIC LICENSE\n").unwrap();
        assert_eq!((of(lesser), of(general)), ("LGPL-3.0-only".to_owned(), "GPL-3.0-only".to_owned()));
        for (name, _, twin) in TWINS {
            assert_eq!((of(standard(name).unwrap()).as_str(), told_apart(name, "x")), (name, twin));
        }
        assert_eq!(of("You may use this on Sundays if it does not rain, and tell nobody of it.\n"), "");
        assert!(LOOKED_FOR.iter().all(|name| standard(name).is_some() && spdx::license_id(name).is_some()));
    }

    #[test]
    fn the_recogniser_is_shared_and_gone_when_nobody_recognises() {
        let one = Recogniser::shared();
        let other = Recogniser::shared();
        assert!(Arc::ptr_eq(&one.0, &other.0));
        let weak = Arc::downgrade(&one.0);
        drop((one, other));
        // Another test may hold it at this moment.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(300);
        while weak.upgrade().is_some() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(weak.upgrade().is_none());
    }
}
