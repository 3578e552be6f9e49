//! Opens the place of a shared cache by the settings that `object_store` finds in the environment.

use super::address::Place;
use super::http::{self, Connector};
use super::remote::Patience;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use reqwest::Url;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

/// A place that is open.
pub struct Opened {
    /// What it is asked by.
    pub store: Arc<dyn ObjectStore>,
    /// What all names begin with.
    pub prefix: Path,
    /// The folder, where it is one.
    pub folder: Option<PathBuf>,
}

/// Opens a place; no network is used yet. A folder is made where it is missing and `writes` allows it.
///
/// # Errors
/// In words, when the settings do not suffice or a folder cannot be used.
pub fn open(place: &Place, writes: bool, patience: &Patience) -> Result<Opened, String> {
    match place {
        Place::Folder(path) => {
            if writes {
                fs::create_dir_all(path).map_err(|error| format!("cannot make it: {error}"))?;
            }
            let store = LocalFileSystem::new_with_prefix(path).map_err(|_| "there is no such folder".to_owned())?;
            Ok(Opened { store: Arc::new(store), prefix: Path::default(), folder: Some(path.clone()) })
        }
        Place::Url(url) => {
            let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|error| error.to_string())?;
            let store = cloud(url, &scheme, patience).map_err(|error| super::remote::brief(&error))?;
            Ok(Opened { store, prefix, folder: None })
        }
    }
}

fn cloud(url: &Url, scheme: &ObjectStoreScheme, patience: &Patience) -> object_store::Result<Arc<dyn ObjectStore>> {
    // Whether to try again is decided once and for all stores, in `remote`.
    let retry = RetryConfig { max_retries: 0, retry_timeout: patience.connect * 4, ..RetryConfig::default() };
    let connector = Connector { connect: patience.connect, authorization: None };
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => Arc::new(
            AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry).with_http_connector(connector).build()?,
        ),
        ObjectStoreScheme::GoogleCloudStorage => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str());
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
        _ => {
            let authorization = http::authorization(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
                .map_err(|why| object_store::Error::Generic { store: "HTTP", source: why.into() })?;
            // The path is part of every name, so that missing folders on the way to it are made, too.
            let mut host = url.clone();
            host.set_path("");
            let builder = HttpBuilder::new().with_url(host);
            let options = ClientOptions::new().with_allow_http(url.scheme() == "http");
            let connector = Connector { authorization, ..connector };
            Arc::new(builder.with_client_options(options).with_retry(retry).with_http_connector(connector).build()?)
        }
    })
}

/// Makes the folders on the way to a file of a shared folder, as open to others as that folder is: it may belong to a team,
/// while what this program makes is usually its user's alone.
///
/// # Errors
/// When one cannot be made.
pub fn make_parents(root: &FilePath, path: &Path) -> std::io::Result<()> {
    let mode = fs::metadata(root)?.permissions().mode() & 0o7777;
    let mut folder = root.to_owned();
    let parts: Vec<_> = path.parts().collect();
    for part in parts.iter().take(parts.len().saturating_sub(1)) {
        folder.push(part.as_ref());
        match fs::create_dir(&folder) {
            Ok(()) => fs::set_permissions(&folder, fs::Permissions::from_mode(mode))?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
