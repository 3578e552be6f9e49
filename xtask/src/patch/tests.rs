//! Patches as git and diff write them, good and bad, on real files.

use super::*;
use crate::error::kind_of;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A folder with these files.
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("pat ch ").tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tree")).unwrap();
        for (name, content) in files {
            let path = folder.path().join("tree").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
        Self { folder }
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn apply(&self, patch: &str) -> anyhow::Result<Applied> {
        let path = self.folder.path().join("01-why.patch");
        std::fs::write(&path, patch).unwrap();
        apply(&path, &self.tree())
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.tree().join(name)).unwrap()
    }

    /// Everything in the tree: name, mode, content.
    fn all(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        let files = walkdir::WalkDir::new(self.tree()).sort_by_file_name().into_iter().map(Result::unwrap);
        let files = files.filter(|entry| entry.file_type().is_file());
        files
            .map(|file| {
                (file.path().into(), file.metadata().unwrap().permissions().mode(), std::fs::read(file.path()).unwrap())
            })
            .collect()
    }

    /// The patch is refused in these words, and the tree stays as it was.
    fn refused(&self, patch: &str, words: &str) {
        let before = self.all();
        let error = self.apply(patch).expect_err(words);
        let text = format!("{error:#}");
        assert!(text.contains(words) && text.contains("01-why.patch"), "{text}\ndoes not say: {words}");
        assert_eq!(kind_of(&error), Kind::Patch);
        assert_eq!(self.all(), before);
    }
}

const TEN: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n";
const CHANGE_FIVE: &str = "--- a/ten\n+++ b/ten\n@@ -4,3 +4,4 @@ anything\n 4\n-5\n+five\n+5½\n 6\n";

#[test]
fn a_gits_patch_of_many_files_does_all_that_it_says() {
    let place = Place::with(&[("ten", TEN), ("old/name", "a\nb\nc\n"), ("gone", "x\n"), ("run.sh", "#!\n"), ("empty", "")]);
    let patch = format!(
        "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n\
        Subject: [PATCH] why\n\nBecause.\n---\n ten | 3 +-\n\n\
        diff --git a/ten b/ten\nindex 1111111..2222222 100644\n{CHANGE_FIVE}\
        diff --git a/old/name b/new name\nsimilarity index 66%\nrename from old/name\nrename to new name\n\
        --- a/old/name\t\n+++ b/new name\t\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n\
        diff --git a/gone b/gone\ndeleted file mode 100644\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\
        diff --git a/run.sh b/run.sh\nold mode 100644\nnew mode 100755\n\
        diff --git a/empty b/empty\ndeleted file mode 100644\nindex e69de29..0000000\n\
        diff --git a/made/here b/made/here\nnew file mode 100755\n--- /dev/null\n+++ b/made/here\n@@ -0,0 +1,2 @@\n+one\n+two\n\\ No newline at end of file\n\
        diff --git a/ten b/copy\nsimilarity index 100%\ncopy from ten\ncopy to copy\n\
        -- \n2.39.0\n\n"
    );
    let applied = place.apply(&patch).unwrap();
    assert_eq!((applied.hunks, applied.moved.len(), applied.files.len()), (4, 0, 8));
    assert_eq!(place.text("ten"), TEN.replace("5\n", "five\n5½\n"));
    assert_eq!(place.text("copy"), place.text("ten"));
    assert_eq!(place.text("new name"), "a\nB\nc\n");
    assert_eq!(place.text("made/here"), "one\ntwo");
    assert!(!["old/name", "gone", "empty"].iter().any(|name| place.tree().join(name).exists()));
    let mode = |name: &str| place.tree().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run.sh"), mode("made/here"), mode("new name")), (0o755, 0o755, 0o644));
}

#[test]
fn a_plain_diff_changes_makes_and_keeps_modes() {
    let place = Place::with(&[("ten", TEN)]);
    std::fs::set_permissions(place.tree().join("ten"), Permissions::from_mode(0o750)).unwrap();
    let patch = format!(
        "Only words.\nIndex: ten\n{CHANGE_FIVE}--- x.orig/new\t1970-01-01 00:00:00 +0000\n+++ x/new\t2020-01-01 00:00:00 +0000\n@@ -0,0 +1 @@\n+made\n"
    );
    place.apply(&patch).unwrap();
    assert_eq!(place.text("new"), "made\n");
    assert_eq!(place.tree().join("ten").metadata().unwrap().permissions().mode() & 0o777, 0o750);
    let place = Place::with(&[("ten", TEN)]);
    place.apply(&CHANGE_FIVE.replace("a/ten", "a/ten.orig")).unwrap();
    assert!(place.text("ten").contains("five"));
}

#[test]
fn a_hunk_moves_only_to_the_one_place_where_it_fits_exactly() {
    let place = Place::with(&[("ten", &format!("0\n0\n{TEN}"))]);
    let applied = place.apply(CHANGE_FIVE).unwrap();
    assert_eq!(applied.moved, ["ten: hunk 1 stands 2 lines further down than it says"]);
    assert_eq!(place.text("ten"), format!("0\n0\n{}", TEN.replace("5\n", "five\n5½\n")));
    // At two places, and at neither where it says.
    Place::with(&[("ten", &format!("0\n{TEN}{TEN}"))]).refused(CHANGE_FIVE, "fits at 2 places (lines 5, 15");
    // Where it says is right even when it would fit elsewhere, too.
    let place = Place::with(&[("ten", &format!("{TEN}{TEN}"))]);
    assert!(place.apply(CHANGE_FIVE).unwrap().moved.is_empty());
    // Once one hunk has moved, the numbers of the next are not to be trusted either.
    let twice = format!("{CHANGE_FIVE}@@ -8,1 +9,1 @@\n-8\n+eight\n");
    Place::with(&[("ten", &format!("0\n{TEN}8\n"))]).refused(&twice, "hunk 2 of 2");
    let place = Place::with(&[("ten", &format!("0\n{TEN}"))]);
    assert_eq!(place.apply(&twice).unwrap().moved.len(), 2);
    // Not even when they seem to fit.
    Place::with(&[("ten", &format!("0\n{}", TEN.replace('7', "8")))]).refused(&twice, "hunk 2 of 2");
    let insert = "--- a/ten\n+++ b/ten\n@@ -2,0 +3 @@\n+new\n";
    let place = Place::with(&[("ten", TEN)]);
    place.apply(insert).unwrap();
    assert!(place.text("ten").starts_with("1\n2\nnew\n3\n"));
    Place::with(&[("ten", "1\n")]).refused(insert, "only adds lines");
}

#[test]
fn a_reject_names_patch_file_hunk_and_line_and_changes_nothing() {
    let two = format!("--- a/other\n+++ b/other\n@@ -1 +1 @@\n-x\n+y\n{CHANGE_FIVE}");
    let place = Place::with(&[("other", "x\n"), ("ten", &TEN.replace('6', "six"))]);
    place.refused(&two, "ten: hunk 1 of 1 (@@ -4,3 +4,4 @@) does not fit: line 6 is \"six\", the patch wants \"6\"");
    let place = Place::with(&[("ten", TEN)]);
    place.apply(CHANGE_FIVE).unwrap();
    place.refused(CHANGE_FIVE, "applied already");
    Place::with(&[("ten", &TEN.replace('\n', "\r\n"))]).refused(CHANGE_FIVE, "differs only in its blanks or line end");
    Place::with(&[("ten", "1\n2\n3\n4\n")]).refused(CHANGE_FIVE, "line 5 does not exist (the file has 4)");
    Place::with(&[("ten", &TEN.replace("5\n", "5 \n"))]).refused(CHANGE_FIVE, "differs only in its blanks");
    // The end of the file without a line end is a difference, too.
    Place::with(&[("ten", "4\n5\n6")]).refused(CHANGE_FIVE, "does not fit");
    Place::with(&[]).refused(CHANGE_FIVE, "ten: there is no such file");
}

#[test]
fn what_cannot_be_checked_is_refused() {
    let place = Place::with(&[("ten", TEN), ("bin", "x")]);
    std::os::unix::fs::symlink("/etc", place.tree().join("link")).unwrap();
    place.refused("", "no unified diff");
    place.refused("just words\n", "no unified diff");
    place.refused(&CHANGE_FIVE.replace("@@ -4,3 +4,4 @@", "@@ -4,3 +4,9 @@"), "no unified diff");
    place.refused(&format!("{CHANGE_FIVE}junk\n@@ -8 +9 @@\n-8\n+eight\n"), "2 hunk headers, but only 1");
    place.refused(&CHANGE_FIVE.replace("b/ten", "b/../ten").replace("a/ten", "a/../ten"), "leads out");
    place.refused(&CHANGE_FIVE.replace("b/ten", "/etc//passwd").replace("a/ten", "//etc/passwd"), "leads out");
    place.refused(&CHANGE_FIVE.replace("b/ten", "b/link/passwd").replace("a/ten", "a/link/passwd"), "is a link");
    place.refused(&CHANGE_FIVE.replace("b/ten", "ten").replace("a/ten", "ten"), "-p1");
    place.refused("diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n", "symbolic link");
    place.refused("diff --git a/bin b/bin\nindex 1..2 100644\nBinary files a/bin and b/bin differ\n", "binary");
    place.refused(
        "diff --git a/ten b/ten\nnew file mode 100644\n--- /dev/null\n+++ b/ten\n@@ -0,0 +1 @@\n+x\n",
        "is there already",
    );
    place.refused("diff --git a/bin b/ten\nsimilarity index 100%\nrename from bin\nrename to ten\n", "is there already");
    place.refused("--- a/ten\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-1\n-2\n", "holds more than the patch knows");
}

#[test]
fn one_patch_may_touch_a_file_twice() {
    let place = Place::with(&[("ten", TEN)]);
    let again = CHANGE_FIVE.replace("-5\n+five\n+5½\n", "-five\n+FIVE\n 5½\n").replace("@@ -4,3 +4,4 @@", "@@ -4,4 +4,4 @@");
    place.apply(&format!("{CHANGE_FIVE}{again}")).unwrap();
    assert_eq!(place.text("ten"), TEN.replace("5\n", "FIVE\n5½\n"));
}

/// A text of few different lines, so that hunks find many wrong places.
fn text() -> impl Strategy<Value = String> {
    (prop::collection::vec(prop::sample::select(vec!["a", "b", "", "c c", "--- x", "@@ y"]), 0..40), any::<bool>())
        .prop_map(|(lines, ended)| lines.join("\n") + if ended { "\n" } else { "" })
}

// The same cases in every run, so that none fails by luck.
proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// What a diff of two texts says makes the second of the first, always.
    #[test]
    fn a_diff_applied_gives_the_other_text(old in text(), new in text()) {
        prop_assume!(old != new);
        let place = Place::with(&[("f", &old)]);
        let diff = diffy::create_patch(&old, &new).to_string();
        let diff = diff.replacen("--- original", "--- a/f", 1).replacen("+++ modified", "+++ b/f", 1);
        place.apply(&diff).unwrap();
        prop_assert_eq!(place.text("f"), new);
    }

    /// On another text it is refused, or its old lines are all there in order: never a line lost that it did not name.
    #[test]
    fn on_another_text_it_loses_nothing(old in text(), new in text(), other in text()) {
        prop_assume!(old != new);
        let place = Place::with(&[("f", &other)]);
        let diff = diffy::create_patch(&old, &new).to_string();
        let removed = diff.lines().skip(2).filter(|line| line.starts_with('-')).count();
        let added = diff.lines().skip(2).filter(|line| line.starts_with('+')).count();
        let diff = diff.replacen("--- original", "--- a/f", 1).replacen("+++ modified", "+++ b/f", 1);
        let count = |text: &str| text.split_inclusive('\n').count();
        if place.apply(&diff).is_ok() {
            prop_assert_eq!(count(&place.text("f")) + removed, count(&other) + added);
        } else {
            prop_assert_eq!(place.text("f"), other);
        }
    }
}
