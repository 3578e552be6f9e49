//! Downloads of what has no pin yet, with the patience, the client and the words of those that have one.
//!
//! Nobody can tell by a hash that such a file was not changed on its way. So plain http is for this very machine only, and
//! no redirect leads to it.

use super::account::Failure;
use super::http::{Download, Network};
use super::store::Part;
use super::{Retry, shown};
use crate::progress::Step;
use reqwest::Url;
use std::path::Path;

/// The way to the network for what has no pin.
pub struct Unpinned(Network);

/// Why there is nothing.
pub enum Unhad {
    /// The address is at fault; in words.
    Address(String),
    /// This machine is; in words.
    Machine(String),
}

impl Unpinned {
    /// For downloads from these addresses.
    pub fn new(retry: &Retry, urls: Vec<Url>) -> Self {
        Self(Network::new(retry, urls, refuse_unsafe))
    }

    /// Whether an address is safe enough for a file that nothing vouches for.
    pub fn is_safe(url: &Url) -> bool {
        url.scheme() == "https" || is_loopback(url)
    }

    /// Downloads what is at `url` to `path`, a new file; gives its size in bytes and its SHA-256.
    ///
    /// # Errors
    /// See [`Unhad`].
    pub fn get(&self, url: &Url, path: &Path, step: &Step) -> Result<(u64, String), Unhad> {
        let mut part = Part::open(path.to_owned()).map_err(|error| unhad(Failure::local(error)))?;
        Download::new(&self.0, url, step).and_then(|download| download.run(&mut part)).map_err(unhad)?;
        Ok((part.length(), part.sha256()))
    }
}

fn unhad(failure: Failure) -> Unhad {
    match failure {
        Failure::Local(why) => Unhad::Machine(why),
        other => Unhad::Address(other.text()),
    }
}

/// Plain http within this machine has nobody between.
fn is_loopback(url: &Url) -> bool {
    url.scheme() == "http" && matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"))
}

fn refuse_unsafe(from: &[Url], to: &Url) -> Option<String> {
    let safe = to.scheme() == "https" || (is_loopback(to) && from.iter().all(is_loopback));
    (!safe).then(|| format!("is redirected to {}, which is not https: anyone on the way could change it", shown(to)))
}
