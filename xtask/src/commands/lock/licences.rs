//! Licence texts of two versions: which are new or gone, and what changed in them.

use crate::account::texts;
use crate::progress::printable;
use std::fmt::Write as _;
use std::path::Path;

pub(super) use texts::in_top;

/// How many lines of a difference are shown; more is read in the files.
const MAX_LINES: usize = 24;

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
    Ok(String::from_utf8_lossy(&texts::read(path)?).into_owned())
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
    fn a_difference_is_short_and_harmless() {
        let before: String = (0..200).map(|n| format!("line {n}\n")).collect();
        let after = before.replace("line 7\n", "line \u{1b}[2J seven\n");
        let shown = difference(&before, &after);
        assert!(shown.contains("-line 7\n") && shown.contains("+line  seven\n"), "{shown}");
        assert!(!shown.contains("more") && !shown.contains("line 100"), "{shown}");
        assert!(difference(&before, "").contains("lines more"));
    }
}
