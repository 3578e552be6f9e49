//! What a bundle was packed into: an archive, a package of Debian's ([`deb`]) or Red Hat's ([`rpm`]) kind, a container image ([`oci`]).
//!
//! Promises: the form is known by the file's content, not by its name. Whatever the form, its members come as those of an archive do,
//! with names as they would lie below `/`; those of an image as they are when all layers lie on each other. What the form says of
//! itself beside them ([`Wrapping`]) is read too. A damaged file is an error.
//!
//! No tool is needed for that: packages have to be looked at where nobody can install them.
//!
//! Left to others: what may be in it ([`super::wrapping`], [`super::checks`]).

mod deb;
mod lay;
mod oci;
mod rpm;

pub use oci::{Config, Image, read as image};

use crate::archive::content::Content;
use crate::archive::read::{self, Member, Take};
use anyhow::Context as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A tar, usually compressed.
    Archive,
    /// `.deb`.
    Deb,
    /// `.rpm`.
    Rpm,
    /// An OCI image layout in a tar.
    Oci,
}

impl Form {
    /// The form of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> anyhow::Result<Self> {
        let mut head = Vec::new();
        let open = || File::open(path).with_context(|| format!("cannot read {}", path.display()));
        open()?.take(8).read_to_end(&mut head)?;
        Ok(match head.as_slice() {
            b"!<arch>\n" => Self::Deb,
            [0xed, 0xab, 0xee, 0xdb, ..] => Self::Rpm,
            // What a layout is called by stands anywhere in its tar, which has few members.
            _ if !compressed(&head) && oci::is_layout(open()?) => Self::Oci,
            _ => Self::Archive,
        })
    }

    /// What it is called.
    pub fn words(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Deb => ".deb",
            Self::Rpm => ".rpm",
            Self::Oci => "image",
        }
    }
}

/// What a form has beside the bundle.
#[derive(Clone, Debug)]
pub enum Wrapping {
    /// Nothing.
    None,
    /// That of a package.
    Package(Package),
    /// That of an image.
    Image(Box<Image>),
}

/// What a package says of itself.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, without epoch and release.
    pub version: String,
    /// For which architecture, in its format's own words.
    pub arch: String,
    /// What has to be installed with it, in its format's own words.
    pub requires: Vec<String>,
    /// What is run when it is installed or removed: when, by which program, the script.
    pub scripts: Vec<Script>,
}

/// What a package has run.
#[derive(Clone, Debug)]
pub struct Script {
    /// When, in its format's own words.
    pub when: String,
    /// By which program.
    pub interpreter: String,
    /// Its text.
    pub text: String,
}

/// Reads all members, with what `look` makes of each, and what the form has beside them.
///
/// # Errors
/// As [`read::each`].
pub fn each<T: Send>(
    path: &Path,
    form: Form,
    look: impl Fn(&Member, &Content) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<(Vec<(Member, T)>, Wrapping)> {
    let read = match form {
        Form::Archive => return Ok((read::each(path, look)?, Wrapping::None)),
        Form::Deb | Form::Rpm => read::each_of(|take| package(path, form, take), look).map(|(members, package)| {
            (members.into_iter().map(|(_, member, seen)| (member, seen)).collect(), Wrapping::Package(package))
        }),
        Form::Oci => read::each_of(|take| oci::read(path, take), look)
            .map(|(members, image)| (oci::flatten(members), Wrapping::Image(Box::new(image)))),
    };
    read.map_err(|error| read::cannot("read", path, error))
}

/// Gives the members of a package.
fn package(path: &Path, form: Form, take: &mut Take<'_>) -> anyhow::Result<Package> {
    let mut rooted = |at, member: Member, content| {
        let name = from_root(&member.name);
        // The root itself is everybody's.
        name.is_empty() || take(at, Member { name, ..member }, content)
    };
    match form {
        Form::Deb => deb::read(path, &mut rooted),
        _ => rpm::read(path, &mut rooted),
    }
}

/// Lays a package or an image out in a folder as it would lie below `/`. Owners are kept where this process may give files away.
///
/// # Errors
/// [`Integrity`](crate::error::Kind::Integrity) when it is damaged or something in it would lie elsewhere; else when it cannot be written.
pub fn lay_out(path: &Path, form: Form, root: &Path) -> anyhow::Result<()> {
    let mut laying = lay::Laying::new(root);
    let read = match form {
        Form::Archive => anyhow::bail!("{} is laid out by unpacking it", path.display()),
        Form::Deb | Form::Rpm => package(path, form, &mut |at, member, content| laying.take(at, &member, &content)).map(drop),
        Form::Oci => oci::read(path, &mut |at, member, content| laying.take(at, &member, &content)).map(drop),
    };
    laying.finish().and(read).map_err(|error| read::cannot("unpack", path, error))
}

/// A name as it is below `/`: packages write it with one of two beginnings, or with none.
fn from_root(name: &str) -> String {
    name.strip_prefix("./").or_else(|| name.strip_prefix('/')).unwrap_or(name).trim_end_matches('/').to_owned()
}

fn compressed(head: &[u8]) -> bool {
    matches!(head, [0x1f, 0x8b, ..] | [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', ..] | [0x28, 0xb5, 0x2f, 0xfd, ..])
}

/// What was compressed by whatever its first bytes say.
fn plain<'a>(mut reader: impl BufRead + Send + 'a) -> anyhow::Result<Box<dyn Read + Send + 'a>> {
    Ok(match reader.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
        [0xfd, b'7', b'z', b'X', ..] => Box::new(xz2::bufread::XzDecoder::new_multi_decoder(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => anyhow::bail!("it is compressed by zstd, which is not known here"),
        _ => Box::new(reader),
    })
}

/// So many bytes of a file from one place on.
fn section(path: &Path, from: u64, size: u64) -> anyhow::Result<BufReader<std::io::Take<File>>> {
    let mut file = File::open(path)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(from))?;
    Ok(BufReader::with_capacity(256 * 1024, file.take(size)))
}

#[cfg(test)]
mod tests;
