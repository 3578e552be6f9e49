//! The bundle as a package of Debian's and of Red Hat's kind, by nfpm.
//!
//! Promises: the tree is installed as it is, to `/opt/<product>/<version>/`, owned by root; `/opt/<product>/current` leads to the newest version
//! that is installed. Nothing is started, no user is made, no configuration is touched: that is the installer's business. The same tree
//! and time give the same bytes.
//!
//! The version is part of a package's name, as a kernel's is: a data folder uses the version that it was made or updated by, so that a new
//! one must not take the old one's files away. Both are installed until the old one is removed, which a running monitor of its prevents
//! ([`scripts`]).

use super::{Product, With, nfpm};
use crate::archive::{self, Format};
use crate::dirs::Dirs;
use crate::environment;
use crate::fingerprint::{self, EntryKind};
use crate::report::PROJECT;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Who answers for it. Nobody can be written to there: packages want an address.
const MAINTAINER: &str = "The dkumonitor project <nobody@dkumonitor.invalid>";

/// In a line, and what else there is to say.
const DESCRIPTION: &str = "monitoring for a machine or a cluster, in one folder\n\
    Go-carbon, carbonapi, Grafana and collectd, and what installs and supervises\n\
    them. Nothing is started by installing it: the installer in it makes a data\n\
    folder for any user.";

/// What is written for Debian: under which licences it is, what changed, what lintian need not say.
const COPYRIGHT: &str = "copyright";
const CHANGES: &str = "changes.gz";
const OVERRIDES: &str = "overrides";

/// Where products are installed.
const OPT: &str = "/opt";

/// What the scripts of packages consist of.
const BEGIN: &str = "#!/bin/sh\nset -e\n";
const LINK: &str = include_str!("link.sh");
const MONITORS: &str = include_str!("monitors.sh");
const REFUSE: &str = include_str!("refuse.sh");
const TELL: &str = include_str!("tell.sh");

/// What both kinds of packages run, by nfpm's names for when: before the removal what refuses it while monitors run by this version, after
/// an installation what tells which run by another, and after both what leads to the newest version.
fn scripts(product: &str, version: &str) -> [(&'static str, String); 3] {
    let parts: [(_, &[&str]); 3] =
        [("postinstall", &[LINK, MONITORS, TELL]), ("preremove", &[MONITORS, REFUSE]), ("postremove", &[LINK])];
    parts.map(|(when, parts)| {
        let text = BEGIN.to_owned() + &parts.join("\n");
        (when, text.replace("@PRODUCT@", product).replace("@VERSION@", version))
    })
}

impl Product<'_> {
    /// Writes the package as `target`; gives size and checksum.
    ///
    /// # Errors
    /// [`crate::error::Kind::Preflight`] where nfpm cannot be had; else when the package cannot be written.
    pub(super) fn package(&self, format: Format, target: &Path, with: &With<'_>) -> anyhow::Result<(u64, String)> {
        let nfpm = nfpm::tool(with.dirs, with.supply)?;
        self.run_nfpm(&nfpm, format, target, with.dirs)
    }

    fn run_nfpm(&self, nfpm: &Path, format: Format, target: &Path, dirs: &Dirs) -> anyhow::Result<(u64, String)> {
        let folder = tempfile::Builder::new().prefix(".package-").tempdir_in(dirs.tmp())?;
        let (config, made) = (folder.path().join("nfpm.json"), folder.path().join("made"));
        for (when, script) in scripts(self.name, &self.version) {
            std::fs::write(folder.path().join(when), script)?;
        }
        std::fs::write(&config, serde_json::to_vec_pretty(&self.package_config(folder.path())?)?)?;
        let shell = xshell::Shell::new()?;
        let packager = format.to_string();
        std::fs::write(folder.path().join(COPYRIGHT), self.copyright())?;
        std::fs::write(folder.path().join(OVERRIDES), self.overrides())?;
        std::fs::write(folder.path().join(CHANGES), self.changes()?)?;
        let mut command =
            xshell::cmd!(shell, "{nfpm} package --config {config} --packager {packager} --target {made}").env_clear();
        for (name, value) in environment::base(dirs, self.epoch) {
            command = command.env(name, value);
        }
        let output = command.quiet().ignore_status().output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "nfpm says: {}", said.trim());
        archive::adopt(&made, target)
    }

    /// What nfpm is told. Each file is named, so that nothing depends on how the tree lies on this disk.
    fn package_config(&self, papers: &Path) -> anyhow::Result<Value> {
        let time = jiff::Timestamp::from_second(i64::try_from(self.epoch)?)?.to_string();
        let root = format!("{OPT}/{}/{}", self.name, self.version);
        let info = |mode: u32| json!({"owner": "root", "group": "root", "mode": mode, "mtime": time});
        let mut contents = Vec::new();
        let mut folders = std::collections::BTreeSet::from([String::new()]);
        for entry in fingerprint::scan(self.tree)? {
            let path = entry.path.to_str().with_context(|| format!("{} is not UTF-8", entry.path.display()))?;
            let ancestors = entry.path.ancestors().skip(1).map(|folder| folder.to_string_lossy().into_owned());
            folders.extend(ancestors);
            let dst = format!("{root}/{path}");
            contents.push(match entry.kind {
                EntryKind::Link { target } => {
                    json!({"src": target, "dst": dst, "type": "symlink", "file_info": {"mtime": time}})
                }
                EntryKind::File { mode, .. } => {
                    let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
                    json!({"src": self.tree.join(path), "dst": dst, "type": "file", "file_info": info(mode)})
                }
            });
        }
        let folder = |name: &String| {
            let dst = format!("{root}/{name}");
            json!({"dst": dst.trim_end_matches('/'), "type": "dir", "file_info": info(0o755)})
        };
        contents.extend(folders.iter().map(folder));
        // What Debian wants of every package. Red Hat's kind has fields for it.
        let package = format!("{}-{}", self.name, self.version);
        let doc = format!("/usr/share/doc/{package}");
        let places = [
            (COPYRIGHT, format!("{doc}/copyright")),
            (CHANGES, format!("{doc}/changelog.Debian.gz")),
            (OVERRIDES, format!("/usr/share/lintian/overrides/{package}")),
        ];
        contents.extend(places.into_iter().map(|(paper, dst)| {
            json!({"src": papers.join(paper), "dst": dst, "type": "file", "packager": "deb", "file_info": info(0o644)})
        }));
        let scripts = scripts(self.name, &self.version).into_iter().map(|(when, _)| (when, papers.join(when)));
        let glibc = self.glibc.as_deref().filter(|_| !self.dynamic.is_empty());
        let needs =
            |deb: bool| glibc.map(|floor| if deb { format!("libc6 (>= {floor})") } else { format!("glibc >= {floor}") });
        Ok(json!({
            "name": package,
            "arch": self.architecture(),
            "platform": "linux",
            "version": self.version,
            "version_schema": "semver",
            "release": "1",
            "section": "admin",
            "priority": "optional",
            "maintainer": MAINTAINER,
            "vendor": PROJECT,
            "description": DESCRIPTION,
            "license": self.license,
            "provides": [self.name],
            "disable_globbing": true,
            "mtime": time,
            "umask": 0o022,
            "contents": contents,
            "scripts": scripts.collect::<BTreeMap<_, _>>(),
            "overrides": {
                "deb": {"depends": Vec::from_iter(needs(true))},
                "rpm": {"depends": Vec::from_iter(needs(false))},
            },
            "deb": {"compression": "gzip"},
            "rpm": {"compression": "gzip", "buildhost": "dkumonitor", "group": "Applications/System"},
        }))
    }
}

impl Product<'_> {
    /// Under which licences it is, as Debian wants to be told.
    fn copyright(&self) -> String {
        format!(
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: {}\nUpstream-Contact: {MAINTAINER}\n\
             Source: what it was compiled from is in {OPT}/{0}/{1}/sbom.cdx.json\n\nFiles: *\nCopyright: those who are named in \
             {OPT}/{0}/{1}/licenses\nLicense: Apache-2.0 and others\n This package is {2}.\n .\n Which part is under which licence, and the texts \
             of all of them, is in\n {OPT}/{0}/{1}/licenses.\n .\n The Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0 too.\n",
            self.name, self.version, self.license
        )
    }

    /// What lintian would say of every package of this kind, with why it is so.
    fn overrides(&self) -> String {
        let package = format!("{}-{}", self.name, self.version);
        let tags = [
            ("it is a product of its own, as the hierarchy of file systems has it", "dir-or-file-in-opt"),
            ("Go's and the launcher's programs need nothing of the system", "statically-linked-binary"),
            ("as their upstream's linkers leave them", "unstripped-binary-or-object"),
            ("plugins find what they need in the program that loads them", "shared-library-lacks-prerequisites"),
            ("templates, which are no scripts as they stand", "script-not-executable"),
            ("templates, which are no scripts as they stand", "shell-script-fails-syntax-check"),
        ];
        tags.iter().map(|(why, tag)| format!("# {why}\n{package}: {tag}\n")).collect()
    }

    /// The changes of Debian's packaging, of which there are none, compressed as Debian wants it.
    fn changes(&self) -> anyhow::Result<Vec<u8>> {
        let time = jiff::Timestamp::from_second(i64::try_from(self.epoch)?)?;
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_string(&time)?.replace("-0000", "+0000");
        let text = format!(
            "{0}-{1} ({1}-1) unstable; urgency=medium\n\n  * A release of the project, whose notes say what has changed.\n\n -- {MAINTAINER}  {date}\n",
            self.name, self.version
        );
        let mut packer = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packer, text.as_bytes())?;
        Ok(packer.finish()?)
    }
}
