//! The bundle as a container image: an OCI image layout in a tar, which every engine loads.
//!
//! Promises: nothing but the bundle is in it, no distribution, no shell; so only programs that need no shared library can be, and others
//! are refused by name, unless a system's image lies below ([`super::Base`]). It runs as an unprivileged user, with the supervisor as process 1: it reaps what is left by others, stops all on
//! SIGTERM, and is the health check's judge. What it keeps is in one volume; what it and its services say is
//! on its standard output. The same tree and time give the same bytes.
//!
//! The first start makes the data folder in the volume, and that of a newer image updates it, as `installer` does by hand (`--run`).
//!
//! Layout: a small layer with folders, users and the link to the version; a layer with the tree, which is an ordinary archive. Beside the
//! layout's own index stands the `manifest.json` that Docker before 25 reads. OCI knows no health check: the one in the configuration is
//! Docker's extension.

use super::base::Below;
use super::{Product, With};
use crate::archive::{self, Format};
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

/// What a system's image has for a search path.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is listened on: who reaches a container is decided by who publishes its ports.
const EVERY_ADDRESS: &str = "0.0.0.0";

/// What services print belongs into the engine's log too, since whoever runs a container looks there.
const FORWARD: &str = "DKM_FORWARD_LOGS=1";

/// The first of the ports.
const PORT: u16 = 27600;

/// A layer, plain and by gzip, in OCI's words; and the beginning of Docker's words for it.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZ: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

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
    /// So many bytes of a file from one on.
    Part(PathBuf, u64, u64),
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
    pub(super) fn image(&self, target: &Path, with: &With<'_>) -> anyhow::Result<(u64, String)> {
        if !self.dynamic.is_empty() && with.base.is_none() {
            return Err(Kind::Usage.error(format!(
                "an image has nothing but the bundle, and {} needs shared libraries of a system; leave its component out with --only, or \
                 say with --base what system's image lies below",
                self.dynamic.join(", ")
            )));
        }
        let below = with.base.map(|base| base.read(self.architecture())).transpose()?;
        let dirs = with.dirs;
        let folder = tempfile::Builder::new().prefix(".image-").tempdir_in(dirs.tmp())?;
        let layer = folder.path().join("layer.tar.gz");
        let prefix = format!("opt/{}/{}", self.name, self.version);
        let cache = dirs.archive_cache();
        let options = archive::Options { format: Format::Gz, mtime: self.epoch, jobs: with.jobs, cache: Some(&cache) };
        let written = archive::write(self.tree, &prefix, &layer, &options)?;
        let ground = self.ground(below.as_ref())?;
        let mut ids = vec![hex(&Sha256::digest(&ground)), plain_hash(&layer)?];
        let mut layers =
            vec![Blob::of(ground), Blob { digest: written.sha256, size: written.bytes, content: Content::File(layer) }];
        let mut kinds = [LAYER, LAYER_GZ].map(str::to_owned).to_vec();
        if let (Some(below), Some(base)) = (&below, with.base) {
            let plain = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
            let lower = below.image.layers.iter();
            ids.splice(0..0, lower.clone().map(|layer| plain(&layer.plain)));
            kinds.splice(0..0, lower.clone().map(|layer| layer.kind.replace(DOCKER_LAYER, LAYER_GZ)));
            layers.splice(
                0..0,
                lower.map(|layer| {
                    let content = Content::Part(base.path().to_owned(), layer.place.0, layer.place.1);
                    Blob { digest: plain(&layer.digest), size: layer.place.1, content }
                }),
            );
        }
        let config = Blob::json(&self.image_config(&ids, below.as_ref())?)?;
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": layers.iter().zip(&kinds).map(|(blob, kind)| blob.descriptor(kind)).collect::<Vec<_>>(),
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
            Content::Part(path, from, size) => {
                let mut file = File::open(path)?;
                io::Seek::seek(&mut file, io::SeekFrom::Start(*from))?;
                tar.append_data(&mut header, name, BufReader::new(io::Read::take(file, *size)))?;
            }
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

    /// The layer below the bundle's: what any program expects, and no more; a system's own users stay.
    fn ground(&self, below: Option<&Below>) -> anyhow::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let product = format!("opt/{}", self.name);
        let folders = [("data", 0o755, USER), ("etc", 0o755, 0), ("opt", 0o755, 0), (&product, 0o755, 0), ("tmp", 0o1777, 0)];
        for (name, mode, owner) in folders {
            let mut header = self.header(tar::EntryType::Directory, mode, owner);
            tar.append_data(&mut header, format!("{name}/"), io::empty())?;
        }
        let with = |known: Option<&String>, root: &str, own: String| {
            let known = known.filter(|known| !known.is_empty()).map_or(root, String::as_str);
            let line = if known.ends_with('\n') { "" } else { "\n" };
            format!("{known}{line}dkumonitor:x:{USER}:{own}\n")
        };
        let users = with(below.map(|below| &below.users), "root:x:0:0::/:/\n", format!("{USER}::{VOLUME}:/"));
        let groups = with(below.map(|below| &below.groups), "root:x:0:\n", String::new());
        let files = [("etc/passwd", users), ("etc/group", groups)];
        for (name, text) in files {
            let mut header = self.header(tar::EntryType::Regular, 0o644, 0);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes())?;
        }
        let mut header = self.header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("{product}/current"), &self.version)?;
        Ok(tar.into_inner()?)
    }

    fn image_config(&self, ids: &[String], below: Option<&Below>) -> anyhow::Result<Value> {
        let created = jiff::Timestamp::from_second(i64::try_from(self.epoch)?)?.to_string();
        let current = format!("/opt/{}/current", self.name);
        let none = "an image runs by itself, and no type of installation that does can be made of this bundle; leave fewer components out";
        let kind = self.kind.ok_or_else(|| Kind::Usage.error(none))?;
        let listens = [("grafana", 0, "tcp"), ("go-carbon", 1, "tcp"), ("go-carbon", 1, "udp"), ("carbonapi", 2, "tcp")];
        let ports = listens.iter().filter(|(name, ..)| kind.components().contains(name));
        let ports = ports.map(|(_, at, protocol)| format!("{}/{protocol}", PORT + at));
        let ports: BTreeMap<_, _> = ports.map(|port| (port, json!({}))).collect();
        let path = format!("PATH={DATA}/bin:{current}/bin") + &below.map_or_else(String::new, |_| format!(":{SYSTEM_PATH}"));
        let port = PORT.to_string();
        let kind = kind.to_string();
        let words = ["--run", "-d", DATA, "-p", &port, "-t", &kind];
        let listen = ["--carbon-listen", "--carbonapi-listen"].map(|flag| [flag, EVERY_ADDRESS]).concat();
        let entry: Vec<&str> = words.into_iter().chain(listen).collect();
        let mut labels = BTreeMap::from([
            ("org.opencontainers.image.title", self.name),
            ("org.opencontainers.image.version", &self.version),
            ("org.opencontainers.image.licenses", &self.license),
            ("org.opencontainers.image.created", &created),
        ]);
        labels.extend(below.map(|below| ("org.opencontainers.image.base.digest", below.image.digest.as_str())));
        let lower = below.map_or(0, |below| below.image.layers.len());
        let step = |what: &str| json!({"created": created, "created_by": what});
        Ok(json!({
            "created": created,
            "architecture": self.architecture(),
            "os": "linux",
            "config": {
                "User": format!("{USER}:{USER}"),
                "Env": [path, format!("DKM_HOME={DATA}"), "TZ=UTC".to_owned(), FORWARD.to_owned()],
                "Entrypoint": std::iter::once(format!("{current}/installer").as_str()).chain(entry).collect::<Vec<_>>(),
                "WorkingDir": VOLUME,
                "Volumes": {(VOLUME): {}},
                "ExposedPorts": ports,
                "StopSignal": "SIGTERM",
                "Labels": labels,
                "Healthcheck": {
                    "Test": ["CMD", format!("{DATA}/bin/dkm"), "status"],
                    "Interval": 30 * SECOND, "Timeout": 10 * SECOND, "StartPeriod": 180 * SECOND, "Retries": 3,
                },
            },
            "rootfs": {"type": "layers", "diff_ids": ids.iter().map(|id| format!("sha256:{id}")).collect::<Vec<_>>()},
            "history": std::iter::repeat_n("the base", lower).chain(["folders and users", "cargo xtask package"]).map(step).collect::<Vec<_>>(),
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
