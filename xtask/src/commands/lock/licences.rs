//! Licence texts of two versions: which are new or gone, and what changed in them.

use crate::progress::printable;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What licence texts are called, in upper case.
const WORDS: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// Endings of files that deal with licences and are none.
const OTHER: [&str; 12] = ["go", "rs", "js", "ts", "tsx", "py", "sh", "c", "h", "json", "yml", "yaml"];

/// How much of a text is read, in bytes. Grafana's notices are a tenth of that.
const MAX_TEXT: u64 = 4 * 1024 * 1024;

/// How many lines of a difference are shown; more is read in the files.
const MAX_LINES: usize = 24;

/// The licence texts in the top folder of a tree, sorted.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn in_top(tree: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in tree.read_dir()? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // By its target: a link to a text is a text.
        if is_licence(&name) && tree.join(&name).is_file() {
            found.push(PathBuf::from(name));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file of this name holds a licence, or notices that go with one.
fn is_licence(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    let rest = WORDS.iter().find_map(|word| upper.strip_prefix(word));
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic() && c != 'S')) && !OTHER.contains(&&*ending)
}

/// One line on how a listed text changed from tree to tree, and the difference where there is one.
pub(super) fn change(file: &Path, old: &Path, new: &Path) -> (String, String) {
    let shown = file.display();
    let (Ok(before), Ok(after)) = (text(&old.join(file)), text(&new.join(file))) else {
        return (format!("{shown} cannot be compared: the old archive has no such text"), String::new());
    };
    if before == after {
        return (format!("{shown} is as before"), String::new());
    }
    (format!("{shown} changed; see whether the expression in `license` still holds"), difference(&before, &after))
}

fn text(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The difference, short and without what could move a terminal's cursor.
fn difference(before: &str, after: &str) -> String {
    let patch = diffy::DiffOptions::new().set_context_len(1).create_patch(before, after).to_string();
    // The first two lines name the two texts.
    let lines: Vec<&str> = patch.lines().skip(2).collect();
    let mut out = String::new();
    for line in lines.iter().take(MAX_LINES) {
        let _ = writeln!(out, "      {}", printable(line));
    }
    if lines.len() > MAX_LINES {
        let _ = writeln!(out, "      … and {} lines more", lines.len() - MAX_LINES);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_texts_are_known_by_their_names() {
        for name in ["LICENSE", "license.md", "LICENSE-APACHE", "LICENSE_2.0.txt", "COPYING3.LIB", "NOTICE", "Notices.txt"] {
            assert!(is_licence(name), "{name}");
        }
        for name in ["LICENSING", "licensed.md", "noticeboard", "license.go", "README.md", "license_test.py"] {
            assert!(!is_licence(name), "{name}");
        }
    }

    #[test]
    fn a_difference_is_short_and_harmless() {
        let before: String = (0..200).map(|n| format!("line {n}\n")).collect();
        let after = before.replace("line 7\n", "line \u{1b}[2J seven\n");
        let shown = difference(&before, &after);
        assert!(shown.contains("-line 7\n") && shown.contains("+line  seven\n"), "{shown}");
        assert!(!shown.contains("more") && !shown.contains("line 100"), "{shown}");
        assert!(difference(&before, "").contains("lines more"));
    }
}
