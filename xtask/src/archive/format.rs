//! The forms in which an archive is compressed, and how one block of it is.
//!
//! Each form lets whole compressed files stand one behind the other (gzip: RFC 1952, 2.2; xz: its format's "streams"; zstd:
//! RFC 8878, 3), so a block is one of these and knows of no other. The same block gives the same bytes wherever it is made.

use anyhow::Context as _;
use libdeflater::{CompressionLvl, Compressor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::Path;
use xz2::stream::{Action, Check, Filters, LzmaOptions, Status, Stream};

/// libdeflate's level, of 1 to 12: smaller than gzip's 6 in a fraction of its time.
const GZ_LEVEL: i32 = 6;

/// xz's preset, of 0 to 9.
const XZ_PRESET: u32 = 6;

/// How far back xz looks, in bytes. It needs about 12 times as much memory for each core, which at the preset's own 8 MiB is
/// 94 MB; with blocks of 2 MiB this costs one percent.
const XZ_WINDOW: u32 = 512 * 1024;

/// zstd's level, of 1 to 19.
#[cfg(feature = "zstd")]
const ZST_LEVEL: i32 = 6;

/// A form of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `.tar.gz`, by libdeflate: what every machine reads.
    Gz,
    /// `.tar.xz`, by liblzma: the smallest, and slow to write.
    Xz,
    /// `.tar.zst`, by zstd: fast both ways; only where the feature `zstd` was compiled in.
    Zst,
    /// `.deb`, for Debian and its kin ([`crate::packing`]).
    Deb,
    /// `.rpm`, for Red Hat's, SUSE's and their kin.
    Rpm,
    /// `.oci.tar`, a container image.
    Oci,
}

impl Format {
    /// All of them, whether or not this program can write them.
    pub const ALL: [Self; 6] = [Self::Gz, Self::Xz, Self::Zst, Self::Deb, Self::Rpm, Self::Oci];

    /// What `--format` takes.
    ///
    /// # Errors
    /// In words, for an unknown form, and for one that this program was compiled without.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "gz" => Ok(Self::Gz),
            "xz" => Ok(Self::Xz),
            "zst" if cfg!(feature = "zstd") => Ok(Self::Zst),
            "zst" => Err("this program was compiled without zstd, whose library takes long to compile; run `cargo run \
                          --package xtask --features zstd -- package --format zst`"
                .to_owned()),
            "deb" => Ok(Self::Deb),
            "rpm" => Ok(Self::Rpm),
            "oci" => Ok(Self::Oci),
            _ => Err("a bundle is written as gz, xz, zst, deb, rpm or oci".to_owned()),
        }
    }

    /// Whether it is the tree as a compressed tar, and not something that is installed by other means.
    pub fn is_archive(self) -> bool {
        matches!(self, Self::Gz | Self::Xz | Self::Zst)
    }

    /// The form of the archive of this name; none where it is none of ours.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let archives = Self::ALL.into_iter().filter(|format| format.is_archive());
        archives.into_iter().find(|format| name.strip_suffix(format.ending()).is_some_and(|rest| rest.ends_with('.')))
    }

    /// What is added to the bundle's name.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Gz => "tar.gz",
            Self::Xz => "tar.xz",
            Self::Zst => "tar.zst",
            Self::Deb => "deb",
            Self::Rpm => "rpm",
            Self::Oci => "oci.tar",
        }
    }

    /// What a thread that makes blocks holds at most, in bytes: its compressor, a plain block, the compressed one in work and those
    /// that wait to be written.
    pub(super) fn memory(self) -> usize {
        match self {
            Self::Gz => 7 * 1024 * 1024,
            _ => 13 * 1024 * 1024,
        }
    }

    /// All that a block's compressed form depends on, beside the block. To be changed whenever the same plain block would
    /// give other bytes, as by another version of a library.
    pub(super) fn making(self) -> String {
        match self {
            Self::Gz => format!("gzip, libdeflate 1.26, level {GZ_LEVEL}"),
            Self::Xz => format!("xz, liblzma 5.8, x86, preset {XZ_PRESET}, window {XZ_WINDOW}, crc32"),
            #[cfg(feature = "zstd")]
            Self::Zst => format!("zstd, libzstd 1.5.7, level {ZST_LEVEL}, checksum"),
            #[cfg(not(feature = "zstd"))]
            Self::Zst => String::new(),
            Self::Deb | Self::Rpm | Self::Oci => String::new(),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.ending().trim_start_matches("tar.").trim_end_matches(".tar"))
    }
}

/// Compresses blocks; each thread has its own.
pub(super) enum Packer {
    Gz(Compressor),
    Xz(Filters),
    #[cfg(feature = "zstd")]
    Zst(zstd::bulk::Compressor<'static>),
}

impl Packer {
    pub(super) fn new(format: Format) -> anyhow::Result<Self> {
        match format {
            Format::Gz => {
                let level = CompressionLvl::new(GZ_LEVEL);
                Ok(Self::Gz(Compressor::new(level.map_err(|_| anyhow::anyhow!("libdeflate has no level {GZ_LEVEL}"))?)))
            }
            Format::Xz => {
                let mut options = LzmaOptions::new_preset(XZ_PRESET).context("xz has no such preset")?;
                options.dict_size(XZ_WINDOW);
                let mut filters = Filters::new();
                // Machine code of the usual processor becomes a tenth smaller; what is none hardly changes.
                filters.x86().lzma2(&options);
                Ok(Self::Xz(filters))
            }
            #[cfg(feature = "zstd")]
            Format::Zst => {
                let mut compressor = zstd::bulk::Compressor::new(ZST_LEVEL).context("cannot set up zstd")?;
                compressor.include_checksum(true).context("cannot set up zstd")?;
                Ok(Self::Zst(compressor))
            }
            #[cfg(not(feature = "zstd"))]
            Format::Zst => Err(anyhow::anyhow!("this program was compiled without zstd")),
            Format::Deb | Format::Rpm | Format::Oci => Err(anyhow::anyhow!("{format} is not made of blocks")),
        }
    }

    /// Compresses `plain` into `packed`, which is emptied first.
    pub(super) fn pack(&mut self, plain: &[u8], packed: &mut Vec<u8>) -> anyhow::Result<()> {
        packed.clear();
        match self {
            Self::Gz(compressor) => {
                packed.resize(compressor.gzip_compress_bound(plain.len()), 0);
                let count =
                    compressor.gzip_compress(plain, packed).map_err(|error| anyhow::anyhow!("cannot compress: {error:?}"))?;
                packed.truncate(count);
                Ok(())
            }
            Self::Xz(filters) => xz(filters, plain, packed).context("cannot compress"),
            #[cfg(feature = "zstd")]
            Self::Zst(compressor) => {
                packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
                compressor.compress_to_buffer(plain, packed).map(drop).context("cannot compress")
            }
        }
    }
}

/// One whole xz stream. CRC-32 is the check that even the smallest readers know.
fn xz(filters: &Filters, plain: &[u8], packed: &mut Vec<u8>) -> io::Result<()> {
    let mut stream = Stream::new_stream_encoder(filters, Check::Crc32)?;
    // What cannot be compressed becomes hardly larger. At once: a buffer that grows leaves smaller ones behind.
    packed.reserve_exact(plain.len() + plain.len() / 64 + 4096);
    loop {
        packed.reserve(4096);
        let read = usize::try_from(stream.total_in()).map_err(io::Error::other)?;
        if stream.process_vec(&plain[read..], packed, Action::Finish)? == Status::StreamEnd {
            return Ok(());
        }
    }
}
