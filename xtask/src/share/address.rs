//! Where a shared cache is: an address without secrets, since it stands in command lines, logs and error messages.

use crate::error::Kind;
use reqwest::Url;
use std::path::{Path, PathBuf};

/// Schemes of clouds; their names are those of `object_store`.
const CLOUDS: [&str; 8] = ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"];

const WAY_OUT: &str = "give s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, http(s)://HOST/PATH or a folder";

/// The place of a shared cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder of this machine, or one that is mounted.
    Folder(PathBuf),
    /// A bucket, container, or web folder.
    Url(Url),
}

impl Place {
    /// Understands `text`; `from` names the flag or variable that it comes from.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it is no place, or holds what may be secret; the text is not repeated then.
    pub fn parse(text: &str, from: &str) -> anyhow::Result<Self> {
        if !text.contains("://") {
            if text.is_empty() || text.starts_with("file:") {
                return Err(Kind::Usage.error(format!("{from} names no folder; {WAY_OUT}")));
            }
            return absolute(Path::new(text), from);
        }
        let url = Url::parse(text).map_err(|error| Kind::Usage.error(format!("{from} is no address: {error}; {WAY_OUT}")))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Kind::Usage
                .error(format!("{from} must not have a '?' or '#': tokens come from the environment, see docs/cache.md")));
        }
        // abfss://CONTAINER@ACCOUNT.… is no user.
        let user = !url.username().is_empty() && !url.scheme().starts_with("abfs");
        if user || url.password().is_some() {
            return Err(Kind::Usage.error(format!(
                "{from} must not have a user or password; let {} and {} hold them",
                super::http::USER_VARIABLE,
                super::http::PASSWORD_VARIABLE
            )));
        }
        match url.scheme() {
            "file" => match url.to_file_path() {
                Ok(path) => absolute(&path, from),
                Err(()) => Err(Kind::Usage.error(format!("{from} names no folder of this machine; {WAY_OUT}"))),
            },
            "http" | "https" => Ok(Self::Url(url)),
            scheme if CLOUDS.contains(&scheme) && url.host_str().is_some_and(|host| !host.is_empty()) => Ok(Self::Url(url)),
            scheme if CLOUDS.contains(&scheme) => Err(Kind::Usage.error(format!("{from} names no bucket; {WAY_OUT}"))),
            scheme => Err(Kind::Usage.error(format!("{from}: {scheme}:// is not known here; {WAY_OUT}"))),
        }
    }

    /// Whether asking it needs the network.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Url(_))
    }

    /// The place for people.
    pub fn shown(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Url(url) => url.to_string(),
        }
    }
}

fn absolute(path: &Path, from: &str) -> anyhow::Result<Place> {
    std::path::absolute(path)
        .map(Place::Folder)
        .map_err(|error| Kind::Usage.error(format!("{from} names no folder: {error}; {WAY_OUT}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_understood_and_others_refused_without_repeating_what_may_be_secret() {
        let parse = |text: &str| Place::parse(text, "--cache");
        assert_eq!(parse("/a b/c").unwrap(), Place::Folder("/a b/c".into()));
        assert_eq!(parse("file:///a%20b/c").unwrap(), Place::Folder("/a b/c".into()));
        assert!(matches!(parse("here").unwrap(), Place::Folder(path) if path.is_absolute()));
        for good in
            ["s3://bucket/a/b", "gs://bucket", "az://box/x", "abfss://box@account.dfs.core.windows.net/x", "http://h:1/"]
        {
            assert!(parse(good).unwrap().is_remote(), "{good}");
        }
        let bad = [
            ("", "names no folder"),
            ("file:x", "names no folder"),
            ("ftp://host/x", "ftp:// is not known"),
            ("memory:///x", "memory:// is not known"),
            ("s3:///x", "names no bucket"),
            ("https://me:hunter2@host/x", "DKUMONITOR_CACHE_PASSWORD"),
            ("https://host/x?sig=hunter2", "tokens come from the environment"),
            ("https://host/x#hunter2", "tokens come from the environment"),
            ("s3://AKIA:hunter2@bucket/x", "must not have a user"),
        ];
        for (text, why) in bad {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(why) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
