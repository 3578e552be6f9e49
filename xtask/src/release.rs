//! What a release needs and consists of: the state of the repository, the notes, the folder of its files.
//!
//! Promises: everything that speaks against a release is told at once, before anything is made. The folder is made beside its
//! place and renamed: it is there whole, checked, or not at all. The same inputs give the same files.
//!
//! Left to others: making the package, and publishing what was prepared (docs/release.md).

use crate::archive::SIGNATURE;
use crate::commands::sign;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use crate::report::provenance;
use crate::sign::Signer;
use crate::verify::{self, SUMS, With};
use anyhow::Context as _;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The file with what changed, for people.
pub const NOTES: &str = "RELEASE_NOTES.md";

/// How the name of a checksum beside a file ends.
const SUM: &str = "sha256";

/// The tag of a version.
pub fn tag(version: &str) -> String {
    format!("v{version}")
}

/// The repository that is asked whether a tag was published.
pub const REMOTE: &str = "origin";

/// What that one says of the version's tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Remote {
    /// There is no such repository, or nobody asked it.
    #[default]
    Unasked,
    /// It did not answer; why, in words.
    Silent(String),
    /// It has no such tag.
    Untagged,
    /// The commit that the tag is at there.
    Tagged(String),
}

impl Remote {
    /// Asks it. What asks for a password in turn, or does not answer in half a minute, is not waited for.
    fn ask(root: &Path, version: &str) -> Self {
        let reference = format!("refs/tags/{}", tag(version));
        let git = |words: &[&str]| {
            let mut command = std::process::Command::new("git");
            command.arg("-C").arg(root).args(words).stdin(std::process::Stdio::null());
            command.env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0");
            if std::env::var_os("GIT_SSH_COMMAND").is_none() {
                command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30");
            }
            command.output()
        };
        match git(&["remote", "get-url", REMOTE]) {
            Ok(output) if output.status.success() => {}
            _ => return Self::Unasked,
        }
        let slow = ["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30"];
        let peeled = format!("{reference}^{{}}");
        match git(&[slow.as_slice(), &["ls-remote", "--tags", REMOTE, &reference, &peeled]].concat()) {
            Ok(output) if output.status.success() => {
                // Of an annotated tag the second line has the commit, the first one the tag.
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let commit = text.lines().last().and_then(|line| line.split_whitespace().next());
                commit.map_or(Self::Untagged, |commit| Self::Tagged(commit.to_owned()))
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                Self::Silent(text.lines().next().unwrap_or("git says nothing").to_owned())
            }
            Err(error) => Self::Silent(error.to_string()),
        }
    }
}

/// What the repository says about the commit that is to be released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repository {
    /// The commit.
    pub head: String,
    /// Files that are not as committed, as `git status --porcelain` writes them.
    pub changed: Vec<String>,
    /// The commit that the version's tag is at, if there is one.
    pub tagged: Option<String>,
    /// What the remote repository says of that tag.
    pub remote: Remote,
    /// The text of CHANGELOG.md, if there is one.
    pub changelog: Option<String>,
}

impl Repository {
    /// Asks git about the repository that `root` lies in, and with `network` the one that it was cloned from.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it is no git repository, or git is missing.
    pub fn look(root: &Path, workspace: &Path, version: &str, network: bool) -> anyhow::Result<Self> {
        let git = |words: &[&str]| {
            let mut command = std::process::Command::new("git");
            let output = command.arg("-C").arg(root).args(words).env("LC_ALL", "C").output().context("git cannot be run")?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
            }
            // Of a repository that is somebody else's, git says what to do about it.
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
            Err(anyhow::anyhow!("git says \"{said}\""))
        };
        git(&["--version"]).kind(Kind::Usage, || format!("cannot release {}", root.display()))?;
        let head = git(&["rev-parse", "--verify", "HEAD"])
            .kind(Kind::Usage, || format!("cannot release {}: it lies in no git repository with a commit", root.display()))?;
        let changed = git(&["status", "--porcelain", "--untracked-files=normal"])?;
        let object = format!("refs/tags/{}^{{commit}}", tag(version));
        let changelog = [root, workspace].iter().map(|folder| folder.join("CHANGELOG.md")).find(|path| path.is_file());
        Ok(Self {
            head,
            changed: changed.lines().map(str::to_owned).collect(),
            tagged: git(&["rev-parse", "--verify", "--quiet", &object]).ok(),
            remote: if network { Remote::ask(root, version) } else { Remote::Unasked },
            changelog: changelog.map(fs::read_to_string).transpose()?,
        })
    }

    /// Everything that speaks against releasing this version; `for_tag` is the tag that it is made for, if that is there already.
    pub fn problems(&self, version: &str, for_tag: Option<&str>) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(first) = self.changed.first() {
            let more = self.changed.len() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            problems.push(format!("the work tree is not as committed (\"{}\"{more}): commit, or stash it", first.trim()));
        }
        let wanted = tag(version);
        match (for_tag, &self.tagged) {
            (None, Some(_)) => problems.push(format!(
                "the tag {wanted} is there already: raise the version in Cargo.toml; or, to make the files of that very tag again, check it \
                 out and say --tag {wanted}"
            )),
            (Some(given), _) if given != wanted => {
                problems.push(format!("--tag is {given}, but the version in Cargo.toml is {version}, whose tag is {wanted}"));
            }
            (Some(_), None) => problems.push(format!("there is no tag {wanted}; without --tag it need not be there yet")),
            (Some(_), Some(at)) if *at != self.head => {
                problems.push(format!("the tag {wanted} is at {}, and the work tree at {}: check the tag out", short(at), short(&self.head)));
            }
            _ => {}
        }
        match (for_tag, &self.remote) {
            (None, Remote::Tagged(_)) if self.tagged.is_none() => {
                problems.push(format!(
                    "the tag {wanted} is there already at {REMOTE}, and not here: raise the version in Cargo.toml; or fetch the tag"
                ));
            }
            (Some(_), Remote::Tagged(at)) if self.tagged.as_ref().is_some_and(|here| here != at) => {
                problems.push(format!("the tag {wanted} is at {} at {REMOTE}, and elsewhere here: was it moved?", short(at)));
            }
            _ => {}
        }
        match self.changelog.as_deref().map(|text| notes(text, version)) {
            None => problems.push("there is no CHANGELOG.md".to_owned()),
            Some(None) => {
                problems.push(format!("CHANGELOG.md has no entry \"## [{version}] - DATE\": give its [Unreleased] that name"));
            }
            Some(Some(text)) if text.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) => {
                problems.push(format!("the entry [{version}] of CHANGELOG.md is empty: say what changed"));
            }
            Some(Some(_)) => {}
        }
        problems
    }
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// What a changelog says about a version, without the heading; none where it has no such entry.
pub fn notes<'a>(changelog: &'a str, version: &str) -> Option<&'a str> {
    let heading = format!("## [{version}]");
    let mut at = 0;
    let mut from = None;
    for line in changelog.split_inclusive('\n') {
        let next = at + line.len();
        match from {
            None if line.trim_end() == heading || line.starts_with(&format!("{heading} ")) => from = Some(next),
            Some(from) if line.starts_with("## ") => return Some(changelog[from..at].trim()),
            _ => {}
        }
        at = next;
    }
    from.map(|from| changelog[from..].trim())
}

/// The text with links to files of the repository as their words alone: from a release's page they would lead nowhere.
fn without_relative_links(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        let link = from[1..].split_once("](").filter(|(words, _)| !words.contains(['[', ']', '\n']));
        let link = link.and_then(|(words, after)| Some((words, after.split_once(')')?)));
        rest = match link {
            Some((words, (target, after))) if !target.contains("://") && !target.starts_with('#') => {
                out.push_str(words);
                after
            }
            _ => {
                out.push('[');
                &from[1..]
            }
        };
    }
    out.push_str(rest);
    out
}

/// What a release is made of.
pub struct Release<'a> {
    /// The version.
    pub version: &'a str,
    /// What changed.
    pub notes: &'a str,
    /// Who signs it; nobody in a dry run.
    pub signer: Option<&'a Signer>,
    /// The time that signatures name, seconds since 1970.
    pub epoch: u64,
}

/// The files of a release that lie in a folder: those whose names fit, with what stands beside them left out.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(folder: &Path, fits: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot look into {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let beside = [SIGNATURE, SUM, "part"].iter().any(|ending| path.extension().is_some_and(|found| found == *ending));
        if fits(&name) && !beside && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl Release<'_> {
    /// Puts the files of a release together as the folder `target`: signs them, adds checksums and notes, and checks it all.
    ///
    /// # Errors
    /// When a file is not what stands beside it, or cannot be signed or written; `target` is then as it was.
    pub fn assemble(&self, files: &[PathBuf], target: &Path) -> anyhow::Result<()> {
        let fail = || format!("cannot put the release together in {}", target.display());
        self.put_together(files, target).with_context(fail)
    }

    fn put_together(&self, files: &[PathBuf], target: &Path) -> anyhow::Result<()> {
        let dist = target.parent().unwrap_or(Path::new("."));
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".draft-{name}-");
        forget_drafts(dist, &prefix)?;
        let draft = tempfile::Builder::new().prefix(&prefix).tempdir_in(dist)?;
        let new = draft.path().join("new");
        fs::create_dir(&new)?;
        // A statement names archives, which are other ones once they hold their manifest's signature.
        let (statements, others): (Vec<_>, Vec<_>) =
            files.iter().partition(|file| file.to_string_lossy().ends_with(provenance::ENDING));
        for file in others.into_iter().chain(statements) {
            self.add(file, &new)?;
        }
        let text = self.text();
        fs::write(new.join(NOTES), text)?;
        let sums = self.sums(&new)?;
        let key = self.signer.map(Signer::public_key).transpose()?;
        verify::verify(&sums, With { key: key.as_ref(), contents: false })?;
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        if target.symlink_metadata().is_ok() {
            fs::rename(target, draft.path().join("old")).with_context(|| format!("cannot move {} away", target.display()))?;
        }
        fs::rename(&new, target).with_context(|| format!("cannot make {}", target.display()))?;
        Ok(())
    }

    /// Adds a file with what stands beside it, checked or signed.
    fn add(&self, file: &Path, folder: &Path) -> anyhow::Result<()> {
        let place = |file: &Path| folder.join(file.file_name().unwrap_or_default());
        for path in [file.to_owned(), file.with_added_extension(SUM)] {
            match fs::hard_link(&path, place(&path)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && path != file => {}
                Err(_) => drop(fs::copy(&path, place(&path)).with_context(|| format!("cannot copy {}", path.display()))?),
                Ok(()) => {}
            }
        }
        let own = place(file);
        if own.with_added_extension(SUM).exists() {
            // Damage must not be signed.
            verify::verify(&own, With::default())?;
        }
        if own.to_string_lossy().ends_with(provenance::ENDING) {
            let sha256 = |name: &str| {
                let archive = folder.join(name);
                archive.is_file().then(|| fingerprint::hash_file(&archive).map_err(Into::into)).transpose()
            };
            let text = provenance::restated(&fs::read(&own)?, &sha256)?;
            // Not through the link: what was packaged stays as it is.
            fs::remove_file(&own)?;
            fs::write(&own, text)?;
        }
        match self.signer {
            Some(signer) => sign::sign(&own, signer, Some(self.epoch)),
            None => Ok(()),
        }
    }

    /// Writes the checksums of everything in a folder, signed.
    fn sums(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let path = folder.join(SUMS);
        let mut lines = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if [SIGNATURE, SUM].iter().all(|ending| path.extension().is_none_or(|found| found != *ending)) {
                lines.push((name, fingerprint::hash_file(&path)?));
            }
        }
        lines.sort();
        fs::write(&path, lines.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect::<String>())?;
        if let Some(signer) = self.signer {
            signer.sign_file(&path, self.epoch, None)?;
        }
        Ok(path)
    }

    /// The notes.
    fn text(&self) -> String {
        let mut text = format!("# dkumonitor {}\n\n{}\n", self.version, without_relative_links(self.notes));
        if let Some(signer) = self.signer {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "\n## Verify\n\nSigned by the minisign key {}, whose public part is published by the project; do not take it from here:\n\n\
                 ```\nminisign -V -P PUBLIC_KEY -m {SUMS} && sha256sum --ignore-missing -c {SUMS}\n```\n",
                signer.id()
            );
        }
        text
    }
}

/// Removes what killed runs have left.
fn forget_drafts(dist: &Path, prefix: &str) -> anyhow::Result<()> {
    fs::create_dir_all(dist)?;
    for entry in fs::read_dir(dist)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            crate::dirs::remove_all(&entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGELOG: &str = "# Changelog\n\n## [Unreleased]\n\n- x\n\n## [0.2.0] - 2026-01-02\n\n### Added\n\n- y\n\n## [0.1.0] - 2026-01-01\n\n### Added\n\n## [0.0.9]\n- z\n";

    #[test]
    fn notes_are_those_of_the_version_alone() {
        assert_eq!(notes(CHANGELOG, "0.2.0"), Some("### Added\n\n- y"));
        assert_eq!(notes(CHANGELOG, "0.1.0"), Some("### Added"));
        assert_eq!(notes(CHANGELOG, "0.0.9"), Some("- z"));
        assert_eq!(notes(CHANGELOG, "0.2"), None);
        assert_eq!(notes(CHANGELOG, "2.0.0"), None);
    }

    #[test]
    fn notes_lead_nowhere_that_is_not_there() {
        let plain = |text| without_relative_links(text);
        assert_eq!(plain("a [docs/x.md](docs/x.md), [y](../y), [z [1](z)"), "a docs/x.md, y, [z 1");
        let kept = "- [ ] todo [0.1] `a[1](2` [site](https://example.org/a) [here](#there) [";
        assert_eq!(plain(kept), kept);
    }

    #[test]
    fn everything_that_speaks_against_a_release_is_told_at_once() {
        let good = Repository { head: "a".repeat(40), changelog: Some(CHANGELOG.to_owned()), ..Repository::default() };
        assert!(good.problems("0.2.0", None).is_empty());
        let tagged = Repository { tagged: Some(good.head.clone()), ..good.clone() };
        assert!(tagged.problems("0.2.0", Some("v0.2.0")).is_empty());
        assert!(tagged.problems("0.2.0", None)[0].contains("the tag v0.2.0 is there already"));
        let elsewhere = Repository { tagged: Some("b".repeat(40)), ..good.clone() };
        assert!(elsewhere.problems("0.2.0", Some("v0.2.0"))[0].contains("is at bbbbbbbbbbbb"));
        assert!(good.problems("0.2.0", Some("v0.2.0"))[0].contains("there is no tag v0.2.0"));
        assert!(tagged.problems("0.2.0", Some("v0.2.1"))[0].contains("--tag is v0.2.1"));
        let changed = vec![" M a".to_owned(), "?? b".to_owned()];
        let all = Repository { changed, changelog: None, ..elsewhere }.problems("0.2.0", None);
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[0].contains("\"M a\" and 1 more") && all[2].contains("no CHANGELOG.md"), "{all:?}");
        let remote = |commit: &str| Remote::Tagged(commit.repeat(40));
        let published = Repository { remote: remote("c"), ..good.clone() };
        assert!(published.problems("0.2.0", None)[0].contains("at origin, and not here"));
        let moved = Repository { remote: remote("c"), ..tagged.clone() };
        assert!(moved.problems("0.2.0", Some("v0.2.0"))[0].contains("was it moved"));
        let same = Repository { remote: remote("a"), ..tagged.clone() };
        assert!(same.problems("0.2.0", Some("v0.2.0")).is_empty());
        assert!(Repository { remote: Remote::Silent("x".to_owned()), ..good.clone() }.problems("0.2.0", None).is_empty());
        assert!(good.problems("0.1.0", None)[0].contains("is empty"));
        assert!(good.problems("0.3.0", None)[0].contains("has no entry"));
    }
}
