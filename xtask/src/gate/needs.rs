//! What the programs and libraries of a bundle want of the machine that they run on: that they are for it, that every library will be
//! found, that its system is not too old for them, and on macOS that they are signed, or it would not run them.

use super::checks::{Bundle, Finding, inside};
use super::policy::{Platform, Policy};
use crate::elf::{Binary, Format, Version};
use crate::macho::{Image, Role, Signature, System};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

impl Bundle {
    /// What is wrong with programs and libraries on machines that have this.
    pub(super) fn needs(&self, platform: &Platform) -> Vec<Finding> {
        let search = Search::of(self, platform);
        let damaged = self.seen.iter().filter_map(|seen| Some(Finding::new(&seen.path, seen.binary.as_ref()?.as_ref().err()?)));
        let mut findings: Vec<Finding> = damaged.collect();
        for (path, binary) in self.binaries() {
            let mut find = |what: String| findings.push(Finding::new(path, what));
            wrong_processors(binary, &self.manifest.platform.arch).into_iter().for_each(&mut find);
            if (binary.format == Format::Elf) != (self.manifest.platform.os == "linux") {
                find(format!("is a program for another system than {}", self.manifest.platform.os));
                continue;
            }
            binary.images().iter().flat_map(will_not_be_run).for_each(&mut find);
            if let Some(interpreter) = binary.interpreter.as_ref().filter(|one| !platform.interpreters.contains(one)) {
                find(format!("is loaded by {interpreter}, which other machines do not have there"));
            }
            let mut folders = Vec::new();
            for rpath in &binary.rpaths {
                match search.places(path, binary, rpath) {
                    Ok(places) => folders.extend(places),
                    Err(why) => find(format!("looks for libraries in \"{rpath}\", {why}")),
                }
            }
            for library in &binary.needed {
                search.find(library, path, binary, &folders).into_iter().for_each(&mut find);
            }
        }
        findings
    }

    /// The newest glibc that is wanted, from the programs themselves.
    pub fn glibc(&self) -> Option<Version> {
        self.binaries().filter_map(|(_, binary)| binary.glibc()).max()
    }

    /// The newest macOS that is wanted.
    pub fn macos(&self) -> Option<Version> {
        self.binaries().filter_map(|(_, binary)| binary.macos()).max()
    }

    /// Whether a system is as old as is said and allowed.
    pub(super) fn floors(&self, policy: &Policy) -> Vec<Finding> {
        let mut findings = Vec::new();
        let of_components = self.manifest.components.iter().filter_map(|one| one.glibc.as_ref()?.parse::<Version>().ok()).max();
        let said = self.manifest.platform.glibc.as_ref().and_then(|floor| floor.parse::<Version>().ok());
        if said != self.glibc() || of_components != said {
            let words = |version: Option<Version>| version.map_or_else(|| "none".to_owned(), |version| version.to_string());
            let what = format!("the manifest says that glibc {} is needed, and it is {}", words(said), words(self.glibc()));
            findings.push(Finding::new("", what));
        }
        for (path, binary) in self.binaries() {
            let wanted = [("glibc", binary.glibc(), &policy.glibc), ("macOS", binary.macos(), &policy.macos)];
            for (what, floor, ceiling) in wanted {
                if let (Some(floor), Some(ceiling)) = (floor, ceiling)
                    && floor > *ceiling
                {
                    let what = format!("needs {what} {floor}; gate.toml allows no newer one than {ceiling}");
                    findings.push(Finding::new(path, what));
                }
            }
        }
        findings
    }

    /// How old systems may be, in a few words.
    pub(super) fn floor_in_short(&self) -> String {
        match (self.glibc(), self.macos()) {
            (Some(floor), _) => format!("glibc {floor} or newer"),
            (None, Some(floor)) => format!("macOS {floor} or newer"),
            (None, None) if self.manifest.platform.os == "linux" => "no glibc needed".to_owned(),
            (None, None) => "for any macOS".to_owned(),
        }
    }

    /// What needs which of them; none where nothing needs any.
    pub(super) fn floor_in_full(&self) -> Option<String> {
        let by_component =
            self.manifest.components.iter().filter_map(|one| Some(format!("{} {}", one.name, one.glibc.as_ref()?)));
        let by_component: Vec<String> = by_component.collect();
        if !by_component.is_empty() {
            return Some(format!("oldest glibc by component: {}; the others need none", by_component.join(", ")));
        }
        let mut files: BTreeMap<Version, Vec<&str>> = BTreeMap::new();
        for (path, binary) in self.binaries() {
            if let Some(floor) = binary.macos() {
                files.entry(floor).or_default().push(path);
            }
        }
        let said = files.iter().rev().map(|(floor, files)| match files.as_slice() {
            [] => floor.to_string(),
            [one] => format!("{floor} ({one})"),
            [one, more @ ..] => format!("{floor} ({one} and {} more)", more.len()),
        });
        let said: Vec<String> = said.collect();
        (!said.is_empty()).then(|| format!("oldest macOS by program: {}", said.join(", ")))
    }
}

/// What is wrong with the processors that a file is for.
fn wrong_processors(binary: &Binary, wanted: &str) -> Option<String> {
    let foreign: BTreeSet<&str> = binary.arch.split('+').filter(|arch| *arch != wanted).collect();
    if foreign.is_empty() {
        return None;
    }
    let foreign = foreign.into_iter().collect::<Vec<_>>().join(" and ");
    Some(match binary.arch.split('+').any(|arch| arch == wanted) {
        true => format!("is for {foreign} too, and the bundle for {wanted} alone"),
        false => format!("is for {foreign}, and the bundle for {wanted}"),
    })
}

/// Why macOS would not run it.
fn will_not_be_run(image: &Image) -> Vec<String> {
    let mut found = Vec::new();
    if let System::Other(system) = &image.system {
        found.push(format!("is for {system}, not for macOS"));
    }
    match &image.signature {
        Signature::None if image.role != Role::Other && image.arch == "aarch64" => {
            found.push("has no code signature, without which Apple's processors run nothing (codesign -s -)".to_owned());
        }
        Signature::Bad(why) => {
            found.push(format!("has a code signature that is not its own, so that macOS ends it: {why}"));
        }
        Signature::None | Signature::Good => {}
    }
    found
}

/// Where the loaders of a platform look for libraries.
struct Search<'a> {
    platform: &'a Platform,
    /// What lies in the bundle.
    own: BTreeSet<&'a str>,
    /// On macOS a program helps the libraries that it loads: the folders of all programs, and where those look themselves.
    programs: BTreeSet<&'a str>,
    helped: Vec<String>,
}

impl<'a> Search<'a> {
    fn of(bundle: &'a Bundle, platform: &'a Platform) -> Self {
        let own = bundle.seen.iter().map(|seen| seen.path.as_str()).collect();
        let programs: Vec<(&str, &Binary)> = bundle.binaries().filter(|(_, binary)| is_program(binary)).collect();
        let folders = programs.iter().map(|(path, _)| folder(path)).collect();
        let mut search = Self { platform, own, programs: folders, helped: Vec::new() };
        let helped = programs.iter().flat_map(|(path, binary)| binary.rpaths.iter().map(move |rpath| (path, binary, rpath)));
        search.helped = helped.filter_map(|(path, binary, rpath)| search.places(path, binary, rpath).ok()).flatten().collect();
        search
    }

    /// The places in the bundle that a path means which begins where the file lies, or its program.
    fn places(&self, path: &str, binary: &Binary, text: &str) -> Result<Vec<String>, String> {
        if text.is_empty() {
            return Err("which is wherever it is started".to_owned());
        }
        let (words, own): (&[(&str, bool)], _) = match binary.format {
            Format::Elf => (&[("$ORIGIN", true), ("${ORIGIN}", true)], "$ORIGIN"),
            Format::MachO(_) => (&[("@loader_path", true), ("@executable_path", is_program(binary))], "@loader_path"),
        };
        let begin = words.iter().find_map(|(word, is_own)| Some((text.strip_prefix(word)?, *is_own)));
        let Some((rest, is_own)) = begin.filter(|(rest, _)| rest.is_empty() || rest.starts_with('/')) else {
            return Err(format!("not relative to where it lies itself ({own})"));
        };
        let from: Vec<&str> = if is_own { vec![folder(path)] } else { self.programs.iter().copied().collect() };
        let places = from.iter().filter_map(|folder| inside(&Path::new(folder).join(rest.trim_start_matches('/'))));
        let places: Vec<String> = places.collect();
        if places.is_empty() { Err("which is outside of the bundle".to_owned()) } else { Ok(places) }
    }

    /// What is wrong with a library that a file needs, which looks in these folders first; nothing where it will be found.
    fn find(&self, library: &str, path: &str, binary: &Binary, folders: &[String]) -> Option<String> {
        let allowed = |known: &String| known == library || (known.ends_with('/') && library.starts_with(known.as_str()));
        if self.platform.libraries.iter().any(allowed) {
            return None;
        }
        let by_name = match binary.format {
            Format::Elf => Some(library).filter(|name| !name.contains('/')),
            Format::MachO(_) => library.strip_prefix("@rpath/"),
        };
        let has = |place: &str| self.own.contains(place);
        let Some(name) = by_name else {
            let is_there = self.places(path, binary, library).is_ok_and(|places| places.iter().any(|place| has(place)));
            return (!is_there).then(|| format!("needs {library}, which is neither in the bundle nor on every machine"));
        };
        let helped: &[String] = if binary.format == Format::Elf || is_program(binary) { &[] } else { &self.helped };
        let joined = |folder: &String| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        if folders.iter().chain(helped).any(|folder| has(&joined(folder))) {
            return None;
        }
        let elsewhere = self.own.iter().find(|own| Path::new(own).file_name().is_some_and(|file| file == name));
        Some(match elsewhere {
            Some(place) => format!("needs {name}, which is in the bundle as {place}, but not where it looks for it (RPATH)"),
            None => format!("needs {name}, which is neither in the bundle nor on every machine"),
        })
    }
}

/// Whether it is started, not loaded by a program: of macOS's files alone.
fn is_program(binary: &Binary) -> bool {
    binary.images().iter().any(|image| image.role == Role::Program)
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}
