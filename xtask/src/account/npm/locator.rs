//! What Yarn calls a package since 2: `name@protocol:…`, patches and instances of it included. And how all package managers
//! write repositories.

use crate::account::{Origin, unescape};

/// No package is patched on top of patches more often.
const DEEPEST: usize = 8;

/// A package, as far as its name in Yarn tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// Where it comes from, if not from a registry.
    pub origin: Option<Origin>,
    /// Its version, where it comes from a registry.
    pub version: Option<String>,
    /// What was changed in it, the first change first.
    pub patches: Vec<Change>,
    /// Whether it is a part of the project itself.
    pub is_own: bool,
}

/// Where the text of a patch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// In Yarn itself, by its name there.
    Builtin(String),
    /// A path from the project's root.
    Project(String),
    /// A path from the folder of the workspace that asks for it.
    Workspace {
        /// The workspace's path from the project's root.
        workspace: String,
        /// The path from there.
        path: String,
    },
    /// Somewhere else: in another package.
    Elsewhere(String),
}

/// Divides `name@reference`; a name may begin with an @ itself.
pub fn split(locator: &str) -> Option<(&str, &str)> {
    let at = locator.char_indices().skip(1).find(|(_, c)| *c == '@')?.0;
    Some((&locator[..at], &locator[at + 1..]))
}

/// The reference of which this is an instance with other peers, or itself.
pub fn plain(reference: &str) -> &str {
    match reference.strip_prefix("virtual:").and_then(|rest| rest.split_once('#')) {
        Some((_, rest)) => rest,
        None => reference,
    }
}

/// What the part behind the name means.
pub fn read(reference: &str) -> Reference {
    read_at(reference, 0)
}

fn read_at(reference: &str, depth: usize) -> Reference {
    let reference = plain(reference);
    if let Some(rest) = reference.strip_prefix("patch:") {
        return patched(rest, depth);
    }
    let bare = reference.split("::").next().unwrap_or(reference);
    if let Some(version) = bare.strip_prefix("npm:") {
        return Reference { version: Some(version.to_owned()), ..Reference::default() };
    }
    let is_own = ["workspace:", "link:", "portal:"].iter().any(|protocol| reference.starts_with(protocol));
    let origin = git(reference).or_else(|| bare.contains("://").then(|| Origin::Download(without_secrets(bare))));
    let origin = origin.or_else(|| (!is_own).then(|| Origin::Source(bare.split('#').next().unwrap_or(bare).to_owned())));
    Reference { origin, is_own, ..Reference::default() }
}

/// `left-pad@npm%3A1.3.0#./x.patch&./y.patch::version=1.3.0&hash=…&locator=page%40workspace%3A.`
fn patched(rest: &str, depth: usize) -> Reference {
    let (source, rest) = rest.split_once('#').unwrap_or((rest, ""));
    let (paths, parameters) = rest.split_once("::").unwrap_or((rest, ""));
    let source = unescape(source);
    let mut found = match split(&source) {
        Some((_, reference)) if depth < DEEPEST => read_at(reference, depth + 1),
        _ => Reference { origin: Some(Origin::Source(source)), ..Reference::default() },
    };
    let parent = parameters.split('&').find_map(|one| one.strip_prefix("locator=")).map(unescape);
    let workspace = parent.as_deref().and_then(split).and_then(|(_, reference)| plain(reference).strip_prefix("workspace:"));
    found.patches.extend(paths.split('&').filter(|path| !path.is_empty()).map(|path| change(path, workspace)));
    found
}

fn change(path: &str, workspace: Option<&str>) -> Change {
    let path = path.strip_prefix("optional!").unwrap_or(path);
    let builtin = path.strip_prefix('~').unwrap_or(path).strip_prefix("builtin<").and_then(|name| name.strip_suffix('>'));
    match (builtin, path.strip_prefix("~/"), workspace) {
        (Some(name), _, _) => Change::Builtin(name.to_owned()),
        (None, Some(path), _) => Change::Project(path.to_owned()),
        (None, None, Some(workspace)) => Change::Workspace { workspace: workspace.to_owned(), path: path.to_owned() },
        (None, None, None) => Change::Elsewhere(path.to_owned()),
    }
}

/// The commit that an address in a lock file means, if it means one.
pub fn git(address: &str) -> Option<Origin> {
    let commit_of = |url: &str, commit: &str| {
        let url = url.strip_prefix("git+").unwrap_or(url);
        // `git@host:path`, as git itself allows it.
        let url = match url.split_once("://") {
            None => format!("ssh://{}", url.replacen(':', "/", 1)),
            Some(_) => url.to_owned(),
        };
        Origin::Git { url: without_secrets(&url), commit: commit.to_owned() }
    };
    if let Some(path) = address.strip_prefix("https://codeload.github.com/") {
        let (repository, commit) = path.split_once("/tar.gz/")?;
        return Some(commit_of(&format!("https://github.com/{repository}"), commit.split('#').next()?));
    }
    let (url, fragment) = address.split_once('#')?;
    // Yarn since 2 says what the fragment is; the others have repositories behind their protocol.
    let named = fragment.split("::").next()?.split('&').find_map(|one| one.strip_prefix("commit="));
    let is_repository = url.ends_with(".git") || ["git+", "git:", "git@"].iter().any(|begin| url.starts_with(begin));
    let commit = named.or_else(|| is_repository.then_some(fragment))?;
    Some(commit_of(url, commit))
}

/// An address without what only its owner may know.
fn without_secrets(address: &str) -> String {
    let Ok(mut url) = reqwest::Url::parse(address) else { return address.to_owned() };
    let _ = url.set_password(None);
    if url.scheme() != "ssh" {
        // Tokens stand there too.
        let _ = url.set_username("");
    }
    url.set_query(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packages_are_understood() {
        assert_eq!(split("@s/n@npm:1.0.0"), Some(("@s/n", "npm:1.0.0")));
        assert_eq!(split("n@patch:n@npm%3A1"), Some(("n", "patch:n@npm%3A1")));
        assert_eq!(split("@s"), None);
        let npm = read("virtual:abc#npm:1.2.3::__archiveUrl=https%3A%2F%2Fme%3Aword%40host%2Fx");
        assert_eq!(npm, Reference { version: Some("1.2.3".to_owned()), ..Reference::default() });
        assert!(read("virtual:abc#workspace:packages/ui").is_own && read("link:./x::locator=a%40workspace%3A.").is_own);
        let git = |url: &str, commit: &str| Some(Origin::Git { url: url.to_owned(), commit: commit.to_owned() });
        assert_eq!(
            read("https://me:word@github.com/x/y.git#commit=ab&workspace=z").origin,
            git("https://github.com/x/y.git", "ab")
        );
        assert_eq!(read("git@github.com:x/y.git#commit=ab").origin, git("ssh://git@github.com/x/y.git", "ab"));
        assert_eq!(read("https://word@h/x.tgz?key=1").origin, Some(Origin::Download("https://h/x.tgz".to_owned())));
        assert_eq!(read("file:./x.tgz#./x.tgz::hash=1").origin, Some(Origin::Source("file:./x.tgz".to_owned())));
    }

    #[test]
    fn patches_are_found_with_what_they_change() {
        let text = "patch:left-pad@npm%3A1.3.0#./x.patch&~/.yarn/patches/y.patch::version=1.3.0&hash=c4&locator=%40own%2Fui%40workspace%3Apackages%2Fui";
        let found = read(text);
        assert_eq!(found.version.as_deref(), Some("1.3.0"));
        let workspace = Change::Workspace { workspace: "packages/ui".to_owned(), path: "./x.patch".to_owned() };
        assert_eq!(found.patches, [workspace, Change::Project(".yarn/patches/y.patch".to_owned())]);
        for builtin in ["~builtin<compat/resolve>", "optional!builtin<compat/resolve>"] {
            let found = read(&format!("virtual:x#patch:resolve@npm%3A1.22.1#{builtin}::version=1.22.1&hash=07"));
            assert_eq!(
                (found.version.as_deref(), found.patches),
                (Some("1.22.1"), vec![Change::Builtin("compat/resolve".to_owned())])
            );
        }
        let twice = read(
            "patch:n@patch%3An@npm%253A1.0.0%23.%2Fa.patch%3A%3Aversion=1.0.0%26hash=1%26locator=p%2540workspace%253A.#./b.patch::locator=p%40workspace%3A.",
        );
        assert_eq!((twice.version.as_deref(), twice.patches.len()), (Some("1.0.0"), 2));
        let mut endless = "n@npm:1".to_owned();
        for _ in 0..DEEPEST + 4 {
            endless = format!(
                "n@patch:{}#./x.patch",
                endless.replace('%', "%25").replace('@', "%40").replace('#', "%23").replace(':', "%3A")
            );
        }
        assert!(matches!(read(split(&endless).unwrap().1).origin, Some(Origin::Source(_))));
    }
}
