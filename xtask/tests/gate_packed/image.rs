//! Images whose documents were written anew, with a fault or without.

use super::common::monitor::package;
use super::{VERSION, gate, ministack_place, run, says, sha256};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

/// The image, which has no collectd, with its archive beside it. What has passed it is seen in a test of its own.
pub static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    package(&["--only", "go-carbon,carbonapi,grafana", "--format", "gz,oci"], "dist image").good();
    ministack_place("dist image").join(format!("dkumonitor-ministack-partial-{VERSION}.oci.tar"))
});

/// An image's documents, to be changed; what names them by their hashes is written anew.
struct Image {
    folder: tempfile::TempDir,
    config: Value,
    manifest: Value,
    index: Value,
}

impl Image {
    fn unpack() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout");
        fs::create_dir(&layout).unwrap();
        run("tar", &["-xf", IMAGE.to_str().unwrap(), "-C", layout.to_str().unwrap()]).good();
        let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let blob = |descriptor: &Value| layout.join("blobs/sha256").join(&descriptor["digest"].as_str().unwrap()[7..]);
        let index = read(layout.join("index.json"));
        let manifest = read(blob(&index["manifests"][0]));
        let config = read(blob(&manifest["config"]));
        for document in [&index["manifests"][0], &manifest["config"]] {
            fs::remove_file(blob(document)).unwrap();
        }
        // Docker's is left out: a layout need not have it.
        fs::remove_file(layout.join("manifest.json")).unwrap();
        Self { folder, config, manifest, index }
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.folder.path().join(inner)
    }

    /// Packs it with these documents.
    fn pack(&self, config: &Value, manifest: &Value) -> PathBuf {
        let blob = |value: &Value| -> Value {
            let text = value.to_string();
            let hash = sha256(text.as_bytes());
            fs::write(self.path("layout/blobs/sha256").join(&hash), &text).unwrap();
            json!({"digest": format!("sha256:{hash}"), "size": text.len()})
        };
        let (mut manifest, mut index) = (manifest.clone(), self.index.clone());
        let config = blob(config);
        manifest["config"]["digest"] = config["digest"].clone();
        manifest["config"]["size"] = config["size"].clone();
        let manifest = blob(&manifest);
        index["manifests"][0]["digest"] = manifest["digest"].clone();
        index["manifests"][0]["size"] = manifest["size"].clone();
        fs::write(self.path("layout/index.json"), index.to_string()).unwrap();
        let made = self.path("made.tar");
        // In no order of ours: what marks it stands where it may.
        run(
            "tar",
            &["-cf", made.to_str().unwrap(), "-C", self.path("layout").to_str().unwrap(), "blobs", "index.json", "oci-layout"],
        )
        .good();
        for document in [&manifest, &config] {
            fs::remove_file(self.path("layout/blobs/sha256").join(&document["digest"].as_str().unwrap()[7..])).unwrap();
        }
        made
    }

    /// What the gate says of it when its configuration was changed like this.
    #[track_caller]
    fn finds(&self, change: impl FnOnce(&mut Value), args: &[&str], parts: &[&str]) {
        let mut config = self.config.clone();
        change(&mut config["config"]);
        gate(&self.pack(&config, &self.manifest), args).bad(10, parts);
    }
}

#[test]
fn an_image_passes_when_it_ran_as_it_says_itself() {
    let text = gate(&IMAGE, &[]).good();
    says(&text, &[&format!("all files are those of dkumonitor-ministack-partial-{VERSION}.tar.gz")]);
    if text.contains("the image was not run") {
        println!("passed over: no namespaces here");
        return;
    }
    says(
        &text,
        &[
            "started as user 65532 with its first program as process 1, well by its health check, its ports reachable",
            "a metric sent by tcp and udp and read back through carbonapi",
            "queries asked through Grafana",
            "stopped by SIGTERM with status 0, and started again with what its volumes kept",
        ],
    );
    // Written by another hand, without Docker's manifest, it is the same.
    let image = Image::unpack();
    gate(&image.pack(&image.config, &image.manifest), &["--still"]).good();
}

#[test]
fn what_an_image_says_wrong_of_itself_is_named() {
    let image = Image::unpack();
    let still = ["--still"];
    image.finds(|config| config["User"] = "".into(), &still, &["the image is run by \"\", which is no number"]);
    image.finds(|config| config["User"] = "0:0".into(), &still, &["the image is run by root"]);
    image.finds(
        |config| config["Entrypoint"] = json!(["/opt/nothing"]),
        &still,
        &["the image runs /opt/nothing, which is no program in it"],
    );
    image.finds(|config| config["WorkingDir"] = "/srv".into(), &still, &["names the folder /srv, which is not in it"]);
    image.finds(|config| config["User"] = "1000:1000".into(), &still, &["/data: is a volume that belongs to 65532:65532"]);
    let path = ministack_place("build").to_str().unwrap().to_owned();
    image.finds(|config| config["Env"] = json!([format!("X={path}")]), &still, &["names the build folder"]);
    let mut config = image.config.clone();
    config["architecture"] = "s390x".into();
    gate(&image.pack(&config, &image.manifest), &still).bad(10, &["the image is for linux on s390x"]);
    fs::write(image.path("layout/blobs/sha256/0123"), "x").unwrap();
    gate(&image.pack(&image.config, &image.manifest), &still).bad(10, &["blobs/sha256/0123 lies in it and belongs to nothing"]);
    fs::remove_file(image.path("layout/blobs/sha256/0123")).unwrap();
    // A layer that is not what its name says.
    let digest = image.manifest["layers"][1]["digest"].as_str().unwrap()[7..].to_owned();
    let layer = image.path("layout/blobs/sha256").join(&digest);
    let mut bytes = fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layer, bytes).unwrap();
    gate(&image.pack(&image.config, &image.manifest), &still).bad(5, &[&digest, "is not what its name says"]);
}

#[test]
fn what_an_upper_layer_removes_or_lets_others_write_is_named() {
    let image = Image::unpack();
    let root = format!("opt/dkumonitor-ministack-partial/{VERSION}");
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode) in [(format!("{root}/bin/.wh.carbonapi"), 0o644), ("etc/open".to_owned(), 0o666)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    let layer = tar.into_inner().unwrap();
    let hash = format!("sha256:{}", sha256(&layer));
    fs::write(image.path("layout/blobs/sha256").join(&hash[7..]), &layer).unwrap();
    let (mut config, mut manifest) = (image.config.clone(), image.manifest.clone());
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(hash.clone().into());
    let kind = "application/vnd.oci.image.layer.v1.tar";
    manifest["layers"].as_array_mut().unwrap().push(json!({"mediaType": kind, "digest": hash, "size": layer.len()}));
    gate(&image.pack(&config, &manifest), &["--still"])
        .bad(10, &["bin/carbonapi: is in the manifest and not in the image", "/etc/open: can be written to by anybody (0666)"]);
    // A layer that holds something else than the configuration says.
    config["rootfs"]["diff_ids"][2] = image.config["rootfs"]["diff_ids"][0].clone();
    gate(&image.pack(&config, &manifest), &["--still"]).bad(5, &["its layer 3 holds something else"]);
}

#[test]
fn an_image_that_does_not_run_as_it_says_is_named() {
    if gate(&IMAGE, &[]).good().contains("the image was not run") {
        println!("passed over: no namespaces here");
        return;
    }
    let image = Image::unpack();
    // Where it listens for itself alone nobody reaches it.
    let own = |config: &mut Value| {
        let words = config["Entrypoint"].as_array_mut().unwrap();
        let at = words.iter().position(|word| word == "--carbonapi-listen").unwrap();
        words[at + 1] = "127.0.0.1".into();
    };
    image.finds(own, &[], &["the image exposes port 27602, and nobody can reach it from outside of the container"]);
    // What it prints is told.
    let wrong = |config: &mut Value| config["Entrypoint"].as_array_mut().unwrap().push("--nonsense".into());
    image.finds(wrong, &[], &["the container ends by itself", "--nonsense"]);
}
