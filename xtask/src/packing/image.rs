//! The bundle as a container image: an OCI image layout in a tar, which every engine loads.
//!
//! Promises: nothing but the bundle is in it, no distribution, no shell; so only programs that need no shared library can be, and others
//! are refused by name. It runs as an unprivileged user, with the supervisor as process 1: it reaps what is left by others, stops all on
//! SIGTERM, and is the health check's judge. What it keeps is in one volume. The same tree and time give the same bytes.
//!
//! The first start makes the data folder in the volume, and that of a newer image updates it, as `installer` does by hand (`--run`).
//!
//! Layout: a small layer with folders, users and the link to the version; a layer with the tree, which is an ordinary archive. Beside the
//! layout's own index stands the `manifest.json` that Docker before 25 reads. OCI knows no health check: the one in the configuration is
//! Docker's extension.

use super::Product;
use crate::archive::{self, Format};
use crate::dirs::Dirs;
use crate::error::Kind;
use crate::fingerprint::hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};

/// The user and group: unprivileged, and none of the host's usual ones.
const USER: u64 = 65532;

/// Where the volume is.
const VOLUME: &str = "/data";

/// The data folder: below the volume, because it is made beside its place and renamed.
const DATA: &str = "/data/monitor";

/// The type that is installed: a container measures no machine.
const TYPE: &str = "server";

/// The first of the ports.
const PORT: u16 = 27600;

/// A nanosecond's multiple, as Docker wants times.
const SECOND: u64 = 1_000_000_000;

/// A blob of the layout.
struct Blob {
    digest: String,
    size: u64,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl Blob {
    fn of(bytes: Vec<u8>) -> Self {
        Self { digest: hex(&Sha256::digest(&bytes)), size: bytes.len() as u64, content: Content::Bytes(bytes) }
    }

    fn json(value: &Value) -> anyhow::Result<Self> {
        Ok(Self::of(serde_json::to_vec(value)?))
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, kind: &str) -> Value {
        json!({"mediaType": kind, "digest": format!("sha256:{}", self.digest), "size": self.size})
    }
}

impl Product<'_> {
    /// Writes the image as `target`; gives size and checksum.
    ///
    /// # Errors
    /// [`Kind::Usage`] when a program in the tree needs shared libraries; else when the image cannot be written.
    pub(super) fn image(&self, target: &Path, dirs: &Dirs, jobs: usize) -> anyhow::Result<(u64, String)> {
        if !self.dynamic.is_empty() {
            return Err(Kind::Usage.error(format!(
                "an image has nothing but the bundle, and {} needs shared libraries of a system; leave its component out with --only",
                self.dynamic.join(", ")
            )));
        }
        let folder = tempfile::Builder::new().prefix(".image-").tempdir_in(dirs.tmp())?;
        let layer = folder.path().join("layer.tar.gz");
        let prefix = format!("opt/{}/{}", self.name, self.version);
        let cache = dirs.archive_cache();
        let options = archive::Options { format: Format::Gz, mtime: self.epoch, jobs, cache: Some(&cache) };
        let written = archive::write(self.tree, &prefix, &layer, &options)?;
        let ground = self.ground()?;
        let ids = [hex(&Sha256::digest(&ground)), plain_hash(&layer)?];
        let layers = [Blob::of(ground), Blob { digest: written.sha256, size: written.bytes, content: Content::File(layer) }];
        let config = Blob::json(&self.image_config(&ids)?)?;
        let kinds = ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip"];
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": layers.iter().zip(kinds).map(|(blob, kind)| blob.descriptor(kind)).collect::<Vec<_>>(),
        }))?;
        let mut index = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        index["platform"] = json!({"os": "linux", "architecture": self.architecture()});
        index["annotations"] = json!({
            "org.opencontainers.image.ref.name": self.version,
            "io.containerd.image.name": format!("docker.io/library/{}:{}", self.name, self.version),
        });
        let docker = json!([{
            "Config": config.path(),
            "RepoTags": [format!("{}:{}", self.name, self.version)],
            "Layers": layers.iter().map(Blob::path).collect::<Vec<_>>(),
        }]);
        let kind = "application/vnd.oci.image.index.v1+json";
        let top = [
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
            ("index.json", json!({"schemaVersion": 2, "mediaType": kind, "manifests": [index]})),
            ("manifest.json", docker),
        ];
        let made = folder.path().join("image");
        let mut tar = tar::Builder::new(File::create(&made)?);
        for (name, value) in top {
            self.add(&mut tar, name, &Blob::json(&value)?)?;
        }
        for blob in layers.iter().chain([&config, &manifest]) {
            self.add(&mut tar, &blob.path(), blob)?;
        }
        tar.into_inner()?.flush()?;
        archive::adopt(&made, target)
    }

    fn add(&self, tar: &mut tar::Builder<File>, name: &str, blob: &Blob) -> anyhow::Result<()> {
        let mut header = self.header(tar::EntryType::Regular, 0o644, 0);
        header.set_size(blob.size);
        match &blob.content {
            Content::Bytes(bytes) => tar.append_data(&mut header, name, bytes.as_slice())?,
            Content::File(path) => tar.append_data(&mut header, name, BufReader::new(File::open(path)?))?,
        }
        Ok(())
    }

    fn header(&self, kind: tar::EntryType, mode: u32, owner: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(0);
        header.set_mtime(self.epoch);
        header
    }

    /// The layer below the bundle's: what any program expects, and no more.
    fn ground(&self) -> anyhow::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let product = format!("opt/{}", self.name);
        let folders = [("data", 0o755, USER), ("etc", 0o755, 0), ("opt", 0o755, 0), (&product, 0o755, 0), ("tmp", 0o1777, 0)];
        for (name, mode, owner) in folders {
            let mut header = self.header(tar::EntryType::Directory, mode, owner);
            tar.append_data(&mut header, format!("{name}/"), io::empty())?;
        }
        let user = format!("root:x:0:0::/:/\ndkumonitor:x:{USER}:{USER}::{VOLUME}:/\n");
        let files = [("etc/passwd", user), ("etc/group", format!("root:x:0:\ndkumonitor:x:{USER}:\n"))];
        for (name, text) in files {
            let mut header = self.header(tar::EntryType::Regular, 0o644, 0);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes())?;
        }
        let mut header = self.header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("{product}/current"), &self.version)?;
        Ok(tar.into_inner()?)
    }

    fn image_config(&self, ids: &[String]) -> anyhow::Result<Value> {
        let created = jiff::Timestamp::from_second(i64::try_from(self.epoch)?)?.to_string();
        let current = format!("/opt/{}/current", self.name);
        let ports =
            [format!("{PORT}/tcp"), format!("{}/tcp", PORT + 1), format!("{}/udp", PORT + 1), format!("{}/tcp", PORT + 2)];
        let ports: BTreeMap<_, _> = ports.into_iter().map(|port| (port, json!({}))).collect();
        let step = |what: &str| json!({"created": created, "created_by": what});
        Ok(json!({
            "created": created,
            "architecture": self.architecture(),
            "os": "linux",
            "config": {
                "User": format!("{USER}:{USER}"),
                "Env": [format!("PATH={DATA}/bin:{current}/bin"), format!("DKM_HOME={DATA}"), "TZ=UTC"],
                "Entrypoint": [format!("{current}/installer"), "--run", "-d", DATA, "-p", PORT.to_string(), "-t", TYPE, "--carbonapi-listen", "0.0.0.0"],
                "WorkingDir": VOLUME,
                "Volumes": {(VOLUME): {}},
                "ExposedPorts": ports,
                "StopSignal": "SIGTERM",
                "Labels": {
                    "org.opencontainers.image.title": self.name,
                    "org.opencontainers.image.version": self.version,
                    "org.opencontainers.image.licenses": self.license,
                    "org.opencontainers.image.created": created,
                },
                "Healthcheck": {
                    "Test": ["CMD", format!("{DATA}/bin/dkm"), "status"],
                    "Interval": 30 * SECOND, "Timeout": 10 * SECOND, "StartPeriod": 180 * SECOND, "Retries": 3,
                },
            },
            "rootfs": {"type": "layers", "diff_ids": ids.iter().map(|id| format!("sha256:{id}")).collect::<Vec<_>>()},
            "history": [step("folders and users"), step("cargo xtask package")],
        }))
    }
}

/// The hash of what a layer holds, decompressed.
fn plain_hash(layer: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut plain = flate2::bufread::MultiGzDecoder::new(BufReader::new(File::open(layer)?));
    let mut piece = vec![0; 256 * 1024];
    loop {
        match io::Read::read(&mut plain, &mut piece)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&piece[..count]),
        }
    }
}
