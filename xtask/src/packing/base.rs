//! A system's image that lies below the bundle's: what brings the C library, where a program of the bundle needs one.
//!
//! Its layers become the image's lowest, byte for byte. It is whatever the person has chosen: none of it is in the bill of materials.

use crate::archive::content::Content;
use crate::archive::read::Member;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use crate::gate::packed::{self, Form, Image};
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// Such an image, in a file.
#[derive(Clone, Debug)]
pub struct Base {
    path: PathBuf,
    sha256: String,
}

/// What is in it.
pub struct Below {
    /// What it says of itself, with its layers.
    pub image: Image,
    /// Its `/etc/passwd`, if it has one.
    pub users: String,
    /// Its `/etc/group`, if it has one.
    pub groups: String,
}

impl Base {
    /// Takes an OCI image layout in a tar.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it is none.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let fail = || format!("cannot use {} as --base", path.display());
        let form = Form::of(path).kind(Kind::Usage, fail)?;
        if form != Form::Oci {
            let way = "it is no OCI image layout in a tar; `skopeo copy … oci-archive:FILE` writes one of any image";
            return Err(Kind::Usage.error(format!("{}: {way}", fail())));
        }
        Ok(Self { path: path.to_owned(), sha256: fingerprint::hash_file(path).kind(Kind::Usage, fail)? })
    }

    /// The hash of the file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it, and checks all of it against its hashes.
    ///
    /// # Errors
    /// When it is damaged, or for another platform.
    pub(super) fn read(&self, architecture: &str) -> anyhow::Result<Below> {
        let (mut users, mut groups) = (Ok(String::new()), Ok(String::new()));
        let mut keep = |_, member: Member, content: Content| {
            let text = || content.whole().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            match member.name.trim_start_matches("./").trim_start_matches('/') {
                "etc/passwd" => users = text(),
                "etc/group" => groups = text(),
                _ => {}
            }
            true
        };
        let image = packed::image(&self.path, &mut keep).with_context(|| format!("cannot use {}", self.path.display()))?;
        if (image.os.as_str(), image.architecture.as_str()) != ("linux", architecture) {
            let (path, os, other) = (self.path.display(), &image.os, &image.architecture);
            return Err(Kind::Usage.error(format!("{path} is for {os} on {other}, and the bundle for linux on {architecture}")));
        }
        Ok(Below { image, users: users?, groups: groups? })
    }
}
