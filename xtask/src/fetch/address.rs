//! Where archives may be: addresses and mirrors, as they are written, asked and shown.

use crate::stack::lock::Source;
use std::path::PathBuf;

/// A place that may hold the archives, asked before their own addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// A folder with archives under any of [`Source::file_names`], `<sha256>` or `<sha256>.<anything>`.
    Folder(PathBuf),
    /// An address below which archives have any of [`Source::file_names`].
    Url(String),
}

impl std::str::FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let way_out = "give a folder, file:///FOLDER or http(s)://HOST/PATH";
        if text.starts_with("http://") || text.starts_with("https://") {
            let url =
                reqwest::Url::parse(text).map_err(|error| format!("the mirror {text} is no address: {error}; {way_out}"))?;
            return Ok(Self::Url(url.to_string()));
        }
        if let Some(path) = text.strip_prefix("file:") {
            return file_path(text)
                .or_else(|| (!path.is_empty() && !path.starts_with("//")).then(|| path.into()))
                .map(Self::Folder)
                .ok_or_else(|| format!("the mirror {text} names no folder of this machine; {way_out}"));
        }
        if text.is_empty() || text.contains("://") {
            return Err(format!("the mirror \"{text}\" is of no known kind; {way_out}"));
        }
        Ok(Self::Folder(text.into()))
    }
}

/// The path of a `file:///…` address of this machine.
fn file_path(address: &str) -> Option<PathBuf> {
    address.starts_with("file:///").then(|| reqwest::Url::parse(address).ok()?.to_file_path().ok()).flatten()
}

/// One place where an archive may be.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// A mirror folder, to be searched.
    Folder(PathBuf),
    /// A file of this machine.
    File(PathBuf),
    Url(reqwest::Url),
    /// One that cannot be understood, with the reason.
    Bad(String, String),
}

impl Address {
    fn parse(text: &str) -> Self {
        if text.starts_with("file:") {
            let bad = || Self::Bad(text.to_owned(), "names no file of this machine".to_owned());
            return file_path(text).map_or_else(bad, Self::File);
        }
        match reqwest::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Self::Url(url),
            Ok(url) => Self::Bad(text.to_owned(), format!("{}: is not known here", url.scheme())),
            Err(error) => Self::Bad(text.to_owned(), format!("is no address: {error}")),
        }
    }

    /// The address for people, without names and passwords.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Folder(path) | Self::File(path) => path.display().to_string(),
            Self::Url(url) => shown(url),
            Self::Bad(text, _) => text.clone(),
        }
    }
}

/// An address for people: without user, password and query, which may be secret.
pub fn shown(url: &reqwest::Url) -> String {
    let mut url = url.clone();
    // These fail only for addresses that can have no user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if url.query().is_some() {
        url.set_query(Some("…"));
    }
    url.to_string().replace("%E2%80%A6", "…")
}

/// Every place where the archive may be, in the order of trying.
pub(super) fn addresses(source: &Source, mirrors: &[Mirror]) -> Vec<Address> {
    let mut all = Vec::new();
    for mirror in mirrors {
        match mirror {
            Mirror::Folder(folder) => all.push(Address::Folder(folder.clone())),
            Mirror::Url(base) => all.extend(source.file_names().iter().map(|name| {
                let mut address = Address::parse(base);
                if let Address::Url(url) = &mut address
                    && let Ok(mut parts) = url.path_segments_mut()
                {
                    parts.pop_if_empty().push(name);
                }
                address
            })),
        }
    }
    all.extend(source.urls.iter().map(|url| Address::parse(url)));
    all
}
