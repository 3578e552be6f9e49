//! What a package or an image has beside the bundle, looked at without running anything of it: what it puts where, what it runs
//! when it is installed, what it wants to be installed with it, how it wants to be run; and whether the bundle in it is that of the
//! archive that lies beside it.

use super::checks::{self, Bundle, Finding, Seen};
use super::packed::{Form, Image, Package, Wrapping};
use super::policy::{Platform, Policy};
use super::traces::{self, Mark};
use crate::archive::read::MemberKind;
use dkumonitor_interface::manifest::SIGNATURE_NAME;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Where a package may put files beside its bundle; `*` stands for its name.
const PLACES: [&str; 6] = [
    "usr/share/doc/*",
    "usr/share/licenses/*",
    "usr/share/lintian/overrides",
    "usr/share/man",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// What runs a package's scripts: the shell that every system has.
const SHELL: &str = "/bin/sh";

/// Where the loader looks for libraries by itself.
const LIBRARY_FOLDERS: [&str; 4] = ["lib64", "usr/lib64", "lib", "usr/lib"];

/// No chain of links is longer.
const LONGEST_CHAIN: usize = 40;

impl Bundle {
    /// What is wrong with what it was packed in.
    pub(super) fn wrapped(&self, policy: &Policy) -> Vec<Finding> {
        let mut findings = match &self.wrapping {
            Wrapping::None => return Vec::new(),
            Wrapping::Package(package) => self.package(package),
            Wrapping::Image(image) => self.image(image),
        };
        findings.extend(self.around.iter().filter_map(|seen| checks::unprintable(&seen.member.name)));
        // A system below the bundle was made elsewhere, and speaks of homes and folders that this machine happens to have too.
        let product = self.root.rsplit_once('/').map_or("", |(product, _)| product);
        let made_here = |seen: &&Seen| self.form != Form::Oci || Path::new(&seen.path).starts_with(product);
        findings.extend(checks::found_traces(self.around.iter().filter(made_here), policy));
        findings
    }

    /// What names the machine that built it in the words of a package or an image.
    pub fn named(&self, marks: &[Mark]) -> Vec<Finding> {
        let mut texts: Vec<(&str, &[u8])> = Vec::new();
        match &self.wrapping {
            Wrapping::None => {}
            Wrapping::Package(package) => {
                texts.extend(package.scripts.iter().map(|script| (script.when.as_str(), script.text.as_bytes())));
            }
            Wrapping::Image(image) => texts.extend(image.documents.iter().map(|(name, text)| (name.as_str(), text.as_slice()))),
        }
        let found = |(name, text): (&str, &[u8])| {
            let traces = traces::find(text, marks).into_iter();
            traces.map(|trace| Finding::new(name, checks::said(&trace))).collect::<Vec<_>>()
        };
        texts.into_iter().flat_map(found).collect()
    }

    /// What the bundle's programs find where they run: of an image what is in it, and nothing else.
    pub(super) fn has(&self, platform: &Platform) -> Platform {
        if self.form != Form::Oci {
            return platform.clone();
        }
        let tree = self.tree();
        let folders: Vec<String> = LIBRARY_FOLDERS.iter().filter_map(|folder| tree.resolve(folder)).collect();
        let is_there = |path: &str| {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            // Debian has folders of architectures below.
            folders.iter().any(|known| {
                folder == known || folder.strip_prefix(known.as_str()).is_some_and(|rest| rest.ends_with("-linux-gnu"))
            }) && !name.is_empty()
        };
        let paths = self.around.iter().map(|seen| seen.path.as_str()).filter(|path| is_there(path));
        let libraries = paths.filter_map(|path| Some(path.rsplit_once('/')?.1.to_owned())).collect();
        let interpreters = platform.interpreters.iter().filter(|path| tree.resolve(path).is_some()).cloned().collect();
        Platform { libraries, interpreters }
    }

    /// How its files differ from those of the archive of the same release: nothing where it is the same bundle.
    pub fn unlike(&self, archive: &Self) -> Vec<Finding> {
        let list = |bundle: &Self| -> BTreeMap<String, String> {
            let files = bundle.seen.iter().filter(|seen| seen.member.kind != MemberKind::Folder);
            let said = |seen: &Seen| match &seen.member.kind {
                MemberKind::Link(target) => format!("a link to {target}"),
                _ => format!("{:04o} {}", seen.member.mode, seen.sha256),
            };
            files.map(|seen| (seen.path.clone(), said(seen))).collect()
        };
        let (own, mut theirs) = (list(self), list(archive));
        // Signed in the archive alone, where archives were signed after all was packaged.
        theirs.remove(SIGNATURE_NAME);
        let beside = "the archive beside it";
        let mut findings = Vec::new();
        for (path, what) in own.iter().filter(|(path, _)| *path != SIGNATURE_NAME) {
            match theirs.remove(path) {
                None => findings.push(Finding::new(path, format!("is not in {beside}"))),
                Some(other) if other != *what => findings.push(Finding::new(path, format!("is another one in {beside}"))),
                Some(_) => {}
            }
        }
        findings.extend(theirs.keys().map(|path| Finding::new(path, format!("is in {beside}, and not here"))));
        findings
    }

    /// What there is to say of an image that is not wrong: the set-uid programs of a system below the bundle.
    pub fn wrapping_note(&self) -> Option<String> {
        let set =
            self.around.iter().filter(|seen| seen.member.mode & 0o6000 != 0 && matches!(seen.member.kind, MemberKind::File(_)));
        let paths: Vec<String> = set.map(|seen| format!("/{}", seen.path)).collect();
        let what = "programs of the base are set-uid or set-gid";
        (!paths.is_empty()).then(|| format!("{} {what}: {}", paths.len(), paths.join(", ")))
    }

    /// Everything in it, as it lies below `/`.
    fn tree(&self) -> Tree<'_> {
        let own = self.seen.iter().map(|seen| (seen.member.name.trim_end_matches('/'), seen));
        Tree { members: self.around.iter().map(|seen| (seen.path.as_str(), seen)).chain(own).collect() }
    }

    fn package(&self, package: &Package) -> Vec<Finding> {
        let product = self.root.rsplit_once('/').map_or("", |(product, _)| product);
        let mut findings = Vec::new();
        for seen in &self.around {
            let is_folder = seen.member.kind == MemberKind::Folder;
            let places = PLACES.iter().map(|place| place.replace('*', &package.name)).chain([product.to_owned()]);
            let fits = |place: String| {
                let (path, place) = (Path::new(&seen.path), Path::new(&place));
                // Folders on the way there may be in it too.
                path.starts_with(place) || (is_folder && place.starts_with(path))
            };
            if !places.into_iter().any(fits) {
                findings.push(Finding::new(&format!("/{}", seen.path), "lies where this package has no business"));
            }
            if let Some(what) = checks::odd_kind(&seen.member.kind) {
                findings.push(Finding::new(&format!("/{}", seen.path), format!("is {what}")));
            }
            findings.extend(seen.permissions(&format!("/{}", seen.path), (0, 0), 0));
        }
        findings.extend(self.tree().links());
        findings.extend(package.scripts.iter().filter(|script| script.interpreter != SHELL).map(|script| {
            let what = format!("is run by \"{}\"; every system has {SHELL} alone", script.interpreter);
            Finding::new(&script.when, what)
        }));
        findings.extend(self.says(package));
        findings
    }

    /// Whether a package says of itself what its bundle is.
    fn says(&self, package: &Package) -> Vec<Finding> {
        let mut findings = Vec::new();
        let (version, arch) = (&self.manifest.version, &self.manifest.platform.arch);
        let root = Path::new(&self.root).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // A hyphen parts versions from releases in these formats, and `~` stands for what comes before a release.
        let same = |said: &str| said == version || said.replace(['~', '_'], "-") == *version;
        if !same(&package.version) || root != version {
            let what = format!("the package is {} in /{}, and its bundle {version}", package.version, self.root);
            findings.push(Finding::new("", what));
        }
        let known: &[&str] = match arch.as_str() {
            "x86_64" => &["amd64", "x86_64"],
            "aarch64" => &["arm64", "aarch64"],
            other => &[other],
        };
        if !known.contains(&package.arch.as_str()) {
            findings.push(Finding::new("", format!("the package is for {}, and its bundle for {arch}", package.arch)));
        }
        let library = if self.form == Form::Deb { "libc6" } else { "glibc" };
        let required = package.requires.iter().find(|one| one.split([' ', '(']).next() == Some(library));
        let is_dynamic = self.binaries().any(|(_, binary)| binary.interpreter.is_some());
        match (required, self.glibc().filter(|_| is_dynamic)) {
            (None, Some(floor)) => {
                findings.push(Finding::new("", format!("the package requires no {library}, and its programs need {floor}")));
            }
            (Some(said), Some(floor)) if !said.contains(&format!(">= {floor}")) => {
                findings.push(Finding::new(
                    "",
                    format!("the package requires \"{said}\", and its programs need {library} {floor}"),
                ));
            }
            _ => {}
        }
        findings
    }

    fn image(&self, image: &Image) -> Vec<Finding> {
        let tree = self.tree();
        let mut findings: Vec<Finding> = image.faults.iter().map(|fault| Finding::new("", fault.as_str())).collect();
        // Those of a system below the bundle are that system's.
        findings.extend(tree.links().into_iter().filter(|link| Path::new(&link.path).starts_with("/opt")));
        let owner = image.config.owner().map(|(user, group)| (u64::from(user), u64::from(group)));
        for seen in &self.around {
            let path = format!("/{}", seen.path);
            if let MemberKind::Other(what) = &seen.member.kind {
                findings.push(Finding::new(&path, format!("is {what}")));
            }
            let mode = seen.member.mode;
            let is_shared = seen.member.kind == MemberKind::Folder && mode & 0o1000 != 0;
            if mode & 0o002 != 0 && !is_shared && !matches!(seen.member.kind, MemberKind::Link(_)) {
                findings.push(Finding::new(&path, format!("can be written to by anybody ({mode:04o})")));
            }
            // A system below the bundle has its own users; a volume is for who runs the image.
            if image.config.volumes().any(|volume| path == volume) && Some(seen.member.owner) != owner {
                let (user, group) = seen.member.owner;
                findings.push(Finding::new(
                    &path,
                    format!("is a volume that belongs to {user}:{group}, not to who runs the image"),
                ));
            }
        }
        findings.extend(self.image_says(image, &tree));
        findings
    }

    /// Whether an image can be run as it says.
    fn image_says(&self, image: &Image, tree: &Tree<'_>) -> Vec<Finding> {
        let config = &image.config;
        let mut findings = Vec::new();
        let mut find = |what: String| findings.push(Finding::new("", what));
        let arch = match image.architecture.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            other => other,
        };
        if (arch, image.os.as_str()) != (&self.manifest.platform.arch, &self.manifest.platform.os) {
            let platform = &self.manifest.platform;
            find(format!(
                "the image is for {} on {}, and its bundle for {} on {}",
                image.os, image.architecture, platform.os, platform.arch
            ));
        }
        match config.owner() {
            None => {
                find(format!("the image is run by \"{}\", which is no number: who that is depends on its files", config.user));
            }
            Some((0, _)) => find("the image is run by root".to_owned()),
            Some(_) => {}
        }
        let health = config.healthcheck.iter().filter_map(|check| check.test.get(1)).map(String::as_str);
        let first = config.command().first().copied();
        if first.is_none() {
            find("the image says nothing that is to be run".to_owned());
        }
        for program in first.into_iter().chain(health) {
            // What lies in a volume is there when it was started first.
            if config.volumes().any(|volume| Path::new(program).starts_with(volume)) {
                continue;
            }
            let found = tree.resolve(program).and_then(|path| tree.members.get(path.as_str()).copied());
            if found.is_none_or(|seen| seen.member.mode & 0o111 == 0) {
                find(format!("the image runs {program}, which is no program in it"));
            }
        }
        let folders = config.volumes().chain(Some(config.working_dir.as_str()).filter(|folder| !folder.is_empty()));
        for folder in folders {
            let found = tree.resolve(folder).and_then(|path| tree.members.get(path.as_str()).copied());
            if found.is_none_or(|seen| seen.member.kind != MemberKind::Folder) {
                find(format!("the image names the folder {folder}, which is not in it"));
            }
        }
        findings
    }
}

/// Members by their paths below `/`.
struct Tree<'a> {
    members: BTreeMap<&'a str, &'a Seen>,
}

impl Tree<'_> {
    /// What a path means, all links followed; none where it means nothing in here.
    fn resolve(&self, path: &str) -> Option<String> {
        let mut rest: Vec<String> = parts(path);
        let (mut found, mut links) = (Vec::<String>::new(), 0);
        while !rest.is_empty() {
            let part = rest.remove(0);
            if part == ".." {
                found.pop();
                continue;
            }
            found.push(part);
            let here = found.join("/");
            match self.members.get(here.as_str()).map(|seen| &seen.member.kind) {
                Some(MemberKind::Link(target)) => {
                    links += 1;
                    found.pop();
                    if target.starts_with('/') {
                        found.clear();
                    }
                    let mut ahead = parts(target);
                    ahead.append(&mut rest);
                    rest = ahead;
                }
                Some(_) => {}
                // Folders need no members of their own.
                None if self.is_folder(&here) => {}
                None => return None,
            }
            if links > LONGEST_CHAIN {
                return None;
            }
        }
        Some(found.join("/"))
    }

    fn is_folder(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.members.range(below.as_str()..).next().is_some_and(|(next, _)| next.starts_with(&below))
    }

    /// Links outside of the bundle's folder that lead to nothing in here. (Those inside of it are looked at as in any bundle.)
    fn links(&self) -> Vec<Finding> {
        let own: BTreeSet<&str> =
            self.members.iter().filter(|(path, seen)| **path != seen.path).map(|(path, _)| *path).collect();
        let mut findings = Vec::new();
        for (path, seen) in self.members.iter().filter(|(path, _)| !own.contains(*path)) {
            let MemberKind::Link(target) = &seen.member.kind else { continue };
            // What engines and kernels put there is nobody's file.
            if ["/proc", "/run", "/dev"].iter().any(|place| target.starts_with(place)) {
                continue;
            }
            if self.resolve(path).is_none() {
                findings.push(Finding::new(&format!("/{path}"), format!("is a link to {target}, which is not there")));
            }
        }
        findings
    }
}

fn parts(path: &str) -> Vec<String> {
    let path = PathBuf::from(path);
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}
