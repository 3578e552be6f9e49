//! A recipe: how one component is made from its source and what of it goes into the bundle.
//!
//! Recipes are data. The few kinds of build ([`Action`]) are code in [`crate::build`]; a new component of a known kind
//! needs no Rust. Unknown keys are refused with their line, since an option that is silently ignored is a package that is
//! silently different.

use crate::elf::Version;
use crate::error::Kind;
use crate::stack::lock::{is_plain_name, stays_inside};
use dkumonitor_interface::service::Service;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The `source` that means the cargo workspace that xtask itself belongs to.
pub const WORKSPACE: &str = "workspace";

/// One component: `recipes/<name>.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// The file's name without its ending; not a key of the file.
    #[serde(skip)]
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// The lock entry, [`WORKSPACE`], or by default the recipe's own name.
    #[serde(default)]
    pub source: String,
    /// Files in `patches/<name>/`, applied in this order.
    #[serde(default)]
    pub patches: Vec<String>,
    /// Compilers that must be exactly so.
    #[serde(default)]
    pub toolchain: Toolchain,
    /// What the preflight must find beyond what the kinds of build imply.
    #[serde(default)]
    pub needs: Needs,
    /// Commands, in order.
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
    /// What goes from where to where.
    #[serde(default, rename = "install")]
    pub installs: Vec<Install>,
    /// How the launcher runs it.
    pub service: Option<Service>,
}

/// The toolchains that a recipe pins.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Toolchain {
    /// Go's exact version; the host's go (1.21 or newer) obtains it by GOTOOLCHAIN.
    pub go: Option<String>,
    /// Node's major version, or `major.minor` as a minimum within that major.
    pub node: Option<String>,
    /// The registry's platform package to take where the host's node does not fit.
    pub node_package: Option<NodePackage>,
    /// On Linux, the C compiler of autotools steps instead of the host's, for the sake of an old glibc and of other processors;
    /// and what links Rust programs for macOS there.
    pub zig: Option<Zig>,
}

/// Zig as a C compiler that links against a glibc of one's choice, and for other platforms: the package `ziglang` of the Python
/// registry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zig {
    /// The package's version.
    pub version: String,
    /// The glibc that programs are linked against, and the oldest that they then run with. Autotools steps need it.
    pub glibc: Option<String>,
    /// SHA-256 of the package's wheel by platform: `linux-x64`, `linux-arm64`.
    pub sha256: BTreeMap<String, String>,
}

/// Node as an npm package for each platform.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePackage {
    /// The packages' version.
    pub version: String,
    /// Subresource integrity (`sha512-…`) by platform: `linux-x64`, `linux-arm64`, `darwin-arm64`.
    pub integrity: BTreeMap<String, String>,
}

/// What a component needs of the machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Needs {
    /// Peak of the hungriest step, in MB (10^6 bytes).
    #[serde(default)]
    pub memory_mb: u64,
    /// The work folder at its fullest, in MB.
    #[serde(default)]
    pub disk_mb: u64,
    /// Programs beyond those that the kinds of build imply.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Programs needed only where an autotools source comes without `configure`.
    #[serde(default)]
    pub bootstrap_tools: Vec<String>,
}

/// One build command with what surrounds it. Exactly one of the kinds is given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    /// The step's name in plans and logs.
    pub name: String,
    /// Folder inside the source in which it runs.
    #[serde(default = "here")]
    pub dir: PathBuf,
    /// Environment on top of the fixed one. Values may use the placeholders that arguments may use.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Peak memory in MB, for the preflight and the scheduler.
    pub memory_mb: Option<u64>,
    /// Cores that it keeps busy, for the scheduler.
    pub cores: Option<u32>,
    go: Option<Go>,
    node: Option<Node>,
    autotools: Option<Autotools>,
    cargo: Option<Cargo>,
    manual: Option<Manual>,
}

fn here() -> PathBuf {
    PathBuf::from(".")
}

/// The kind of a step with its settings.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// The go tool.
    Go(&'a Go),
    /// npm or yarn.
    Node(&'a Node),
    /// `./configure && make`.
    Autotools(&'a Autotools),
    /// cargo.
    Cargo(&'a Cargo),
    /// This program's own writing.
    Manual,
}

/// Settings of a `go` step: one of `package` (`go build`), `run` (`go run`) and `generate` (`go generate`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Go {
    /// The package to build.
    pub package: Option<String>,
    /// Where `go build` puts the program, relative to the step's folder.
    pub output: Option<String>,
    /// A program of the source to run, with its arguments.
    pub run: Option<Vec<String>>,
    /// Packages to run `go generate` for.
    pub generate: Option<Vec<String>>,
    /// Build tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Linker flags; `-buildid=` is always among them.
    #[serde(default)]
    pub ldflags: Vec<String>,
    /// `-mod`: `vendor`, `readonly` (default) or `mod`.
    pub r#mod: Option<String>,
}

/// Settings of a `node` step. The package manager and its version are those that the source names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Node {
    /// Whether to install the locked dependencies (`npm ci`, `yarn install --immutable`) first.
    #[serde(default)]
    pub install: bool,
    /// Scripts of `package.json` to run, in order.
    #[serde(default)]
    pub run: Vec<String>,
    /// NODE_OPTIONS.
    pub node_options: Option<String>,
}

/// Settings of an `autotools` step.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Autotools {
    /// What makes `configure` where the source comes without it.
    #[serde(default = "autoreconf")]
    pub bootstrap: Vec<String>,
    /// Arguments of `configure`.
    #[serde(default)]
    pub configure: Vec<String>,
    /// Make's targets; none means the default one.
    #[serde(default)]
    pub targets: Vec<String>,
    /// Targets after those, which run what was made: not made where it is for another platform.
    #[serde(default)]
    pub checks: Vec<String>,
    /// Whether `make install` into `{dest}` follows.
    #[serde(default = "yes")]
    pub install: bool,
}

fn autoreconf() -> Vec<String> {
    ["autoreconf", "--force", "--install"].map(String::from).to_vec()
}

fn yes() -> bool {
    true
}

/// Settings of a `cargo` step; the programs end up in `dest/bin/`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cargo {
    /// The package to build.
    pub package: String,
    /// Its programs to take.
    pub bins: Vec<String>,
    /// Features to switch on.
    #[serde(default)]
    pub features: Vec<String>,
    /// On Linux, whether to link statically against musl.
    #[serde(default)]
    pub r#static: bool,
}

/// A `manual` step writes the launcher's manual pages and completions to `dest/share/`. It has no settings.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manual {}

impl Step {
    /// What the step does. A recipe that was read has exactly one kind in each step.
    pub fn action(&self) -> Action<'_> {
        match (&self.go, &self.node, &self.autotools, &self.cargo, &self.manual) {
            (Some(go), ..) => Action::Go(go),
            (_, Some(node), ..) => Action::Node(node),
            (_, _, Some(autotools), ..) => Action::Autotools(autotools),
            (_, _, _, Some(cargo), _) => Action::Cargo(cargo),
            (_, _, _, _, Some(_)) => Action::Manual,
            (None, None, None, None, None) => unreachable!("checked when the recipe was read"),
        }
    }

    /// All texts in which placeholders are replaced.
    fn texts(&self) -> impl Iterator<Item = &String> {
        let go = self.go.iter().flat_map(|go| {
            let words = go.run.iter().chain(&go.generate).flatten();
            go.package.iter().chain(&go.output).chain(words).chain(&go.ldflags)
        });
        let node = self.node.iter().flat_map(|node| &node.run);
        let autotools = self.autotools.iter().flat_map(|autotools| {
            let Autotools { bootstrap, configure, targets, checks, .. } = autotools;
            [bootstrap, configure, targets, checks].into_iter().flatten()
        });
        self.env.values().chain(go).chain(node).chain(autotools)
    }

    fn kinds(&self) -> usize {
        usize::from(self.go.is_some())
            + usize::from(self.node.is_some())
            + usize::from(self.autotools.is_some())
            + usize::from(self.cargo.is_some())
            + usize::from(self.manual.is_some())
    }
}

/// One piece of the bundle.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Install {
    /// What to take: below `src/` (the patched source), `dest/` (what `make install` made) or `recipe/` (the folder
    /// `recipes/<name>/`). Its last part may be a pattern. A folder is taken whole.
    pub from: Option<PathBuf>,
    /// Instead of `from`: a path of the bundle that `to` is to be a symbolic link to.
    pub link: Option<PathBuf>,
    /// Where it goes in the bundle; with a `/` at the end, into that folder under its own name.
    pub to: String,
    /// Patterns relative to a folder `from` that are left out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Permissions in octal, where they should not be those of the source.
    pub mode: Option<String>,
    /// Whether a missing `from` is passed over.
    #[serde(default)]
    pub optional: bool,
}

impl Recipe {
    /// Reads `recipes/<name>.toml`.
    ///
    /// # Errors
    /// [`Kind::Usage`], with the file's name, the line of an unknown key, or everything else that is wrong in it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let fail = |why: String| Kind::Usage.error(format!("cannot use {}: {why}", path.display()));
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if !is_plain_name(name) {
            return Err(fail("a recipe's file name may hold only a-z, 0-9, '-', '_' and '.'".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        Self::parse(name, &text).map_err(fail)
    }

    /// Parses and checks the text of the recipe called `name`.
    ///
    /// # Errors
    /// A text for people.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut recipe: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        name.clone_into(&mut recipe.name);
        if recipe.source.is_empty() {
            name.clone_into(&mut recipe.source);
        }
        if let Some(service) = recipe.service.as_mut().filter(|service| service.name.is_empty()) {
            name.clone_into(&mut service.name);
        }
        let problems = recipe.problems();
        if problems.is_empty() { Ok(recipe) } else { Err(problems.join("; ")) }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        for step in &self.steps {
            let name = &step.name;
            if !is_plain_name(name) {
                problems.push(format!("step name \"{name}\" may hold only a-z, 0-9, '-', '_' and '.'"));
            }
            if !names.insert(name) {
                problems.push(format!("two steps are named \"{name}\""));
            }
            problems.extend(step_problems(step, &self.toolchain).into_iter().map(|why| format!("step \"{name}\": {why}")));
        }
        for (tool, version, is_right) in
            [("go", &self.toolchain.go, is_go_version as fn(&str) -> bool), ("node", &self.toolchain.node, is_node_version)]
        {
            if let Some(version) = version.as_deref().filter(|version| !is_right(version)) {
                problems.push(format!("[toolchain] {tool} = \"{version}\" is no version of {tool}"));
            }
        }
        if let Some(zig) = &self.toolchain.zig {
            let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if let Some(glibc) = zig.glibc.as_ref().filter(|glibc| glibc.parse::<Version>().is_err()) {
                problems.push(format!("[toolchain] zig: glibc \"{glibc}\" is no version such as 2.17"));
            }
            if zig.sha256.is_empty() || !zig.sha256.values().all(is_hash) {
                problems.push("[toolchain] zig: sha256 has to give each platform's wheel 64 hexadecimal digits".to_owned());
            }
        }
        for install in &self.installs {
            problems.extend(install.problem().map(|why| format!("install to \"{}\": {why}", install.to)));
        }
        for patch in &self.patches {
            if patch.contains('/') || patch.starts_with('.') {
                problems.push(format!("patch \"{patch}\" must be a file's name in patches/{}/", self.name));
            }
        }
        if let Some(Err(error)) = self.service.as_ref().map(Service::validate) {
            problems.push(format!("[service]: {error:#}"));
        }
        problems
    }

    /// The most memory that any of its steps needs, in MB.
    pub fn memory_mb(&self) -> u64 {
        self.steps.iter().filter_map(|step| step.memory_mb).fold(self.needs.memory_mb, u64::max)
    }
}

/// `1.26`, `1.26.8`, `1.27rc1`.
fn is_go_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (release, candidate) = ["rc", "beta"].into_iter().find_map(|word| text.split_once(word)).unwrap_or((text, "0"));
    number(candidate) && (2..=3).contains(&release.split('.').count()) && release.split('.').all(number)
}

/// `24`, `24.11`.
fn is_node_version(text: &str) -> bool {
    text.split('.').count() <= 2 && text.split('.').all(|part| part.parse::<u16>().is_ok())
}

/// The placeholders that stand for something in a step's words.
const PLACEHOLDERS: [&str; 5] = ["version", "src", "dest", "jobs", "epoch"];

/// What looks like a placeholder in a text and is none: it would go to the tool as it stands.
fn unknown_placeholders(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(word, _)| word));
    let looks = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    words.filter(looks).filter(|word| !PLACEHOLDERS.contains(word))
}

fn step_problems(step: &Step, toolchain: &Toolchain) -> Vec<String> {
    let mut problems = Vec::new();
    for word in step.texts().flat_map(|text| unknown_placeholders(text)) {
        problems.push(format!("{{{word}}} stands for nothing; there are {{{}}}", PLACEHOLDERS.join("}, {")));
    }
    if step.kinds() != 1 {
        problems.push(format!(
            "needs exactly one of [step.go], [step.node], [step.autotools], [step.cargo] and [step.manual], has {}",
            step.kinds()
        ));
        return problems;
    }
    if !stays_inside(&step.dir) {
        problems.push(format!("dir {} leads out of the source", step.dir.display()));
    }
    match step.action() {
        Action::Go(go) => {
            if toolchain.go.is_none() {
                problems.push("a go step needs [toolchain] go = \"VERSION\"".to_owned());
            }
            let given = usize::from(go.package.is_some()) + usize::from(go.run.is_some()) + usize::from(go.generate.is_some());
            if given != 1 {
                problems.push("needs exactly one of package, run and generate".to_owned());
            }
            if go.package.is_some() != go.output.is_some() {
                problems.push("package and output go together".to_owned());
            }
            if go.run.as_ref().is_some_and(Vec::is_empty) || go.generate.as_ref().is_some_and(Vec::is_empty) {
                problems.push("run and generate need at least one word".to_owned());
            }
        }
        Action::Node(node) => {
            if toolchain.node.is_none() {
                problems.push("a node step needs [toolchain] node = \"VERSION\"".to_owned());
            }
            if !node.install && node.run.is_empty() {
                problems.push("does nothing: set install or run".to_owned());
            }
        }
        Action::Autotools(autotools) => {
            if autotools.bootstrap.is_empty() {
                problems.push("bootstrap must name a command".to_owned());
            }
            if toolchain.zig.as_ref().is_some_and(|zig| zig.glibc.is_none()) {
                problems.push("[toolchain] zig has no glibc, such as \"2.17\"".to_owned());
            }
        }
        Action::Cargo(cargo) => {
            if cargo.bins.is_empty() {
                problems.push("bins is empty".to_owned());
            }
        }
        Action::Manual => {}
    }
    problems
}

impl Install {
    fn problem(&self) -> Option<String> {
        if self.to.is_empty() || self.to.starts_with('/') || !stays_inside(Path::new(&self.to)) {
            return Some("leads out of the bundle".to_owned());
        }
        if let Some(mode) = &self.mode
            && !u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o777)
        {
            return Some(format!("mode \"{mode}\" is not octal permissions such as \"0755\""));
        }
        let last = self.from.as_deref().and_then(Path::file_name).map(std::ffi::OsStr::to_string_lossy);
        let last = last.as_deref().filter(|name| name.contains(['*', '?', '[', '{']));
        for pattern in self.exclude.iter().map(String::as_str).chain(last) {
            if let Err(error) = globset::Glob::new(pattern) {
                return Some(format!("\"{pattern}\" is no pattern: {}", error.kind()));
            }
        }
        match (&self.from, &self.link) {
            (Some(from), None) => {
                let root = from.components().next().map(|part| part.as_os_str().to_owned());
                let known = root.as_deref().is_some_and(|root| ["src", "dest", "recipe"].iter().any(|name| root == *name));
                (!known || !stays_inside(from))
                    .then(|| format!("from {} must begin with src/, dest/ or recipe/", from.display()))
            }
            (None, Some(link)) => (!stays_inside(link) || self.to.ends_with('/'))
                .then(|| "a link and its target are paths of files in the bundle".to_owned()),
            _ => Some("needs exactly one of from and link".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_name() {
        let error = Recipe::parse("x", "summary = \"s\"\n[toolchain]\ngoo = \"1.24.1\"\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("goo"), "{error}");
    }

    #[test]
    fn what_would_fail_after_hours_of_compiling_is_told_when_the_recipe_is_read() {
        let parse = |change: (&str, &str)| {
            let text = "summary = \"s\"\n[toolchain]\ngo = \"1.26.8\"\nnode = \"24\"\n[[step]]\nname = \"x\"\n[step.env]\nV = \"{version}\"\n\
                        [step.autotools]\nconfigure = [\"--with={dest}/x\"]\n[[install]]\nfrom = \"dest/*.so\"\nto = \"lib/\"\nexclude = [\"x\"]\n";
            assert!(text.contains(change.0), "{}", change.0);
            Recipe::parse("x", &text.replacen(change.0, change.1, 1)).map(drop)
        };
        for good in [("1.26.8", "1.27rc1"), ("1.26.8", "1.21"), ("\"24\"", "\"24.11\""), ("{version}", "{{ x }} {} ${A}")] {
            assert_eq!(parse(good), Ok(()), "{good:?}");
        }
        for (change, part) in [
            (("1.26.8", "banana"), "go = \"banana\" is no version"),
            (("1.26.8", "go1.26.8"), "no version of go"),
            (("1.26.8", "1"), "no version of go"),
            (("\"24\"", "\"v24\""), "no version of node"),
            (("\"x\"]", "\"[a\"]"), "to \"lib/\": \"[a\" is no pattern"),
            (("*.so", "*.{so"), "is no pattern"),
            (("{version}", "{versoin}"), "step \"x\": {versoin} stands for nothing; there are {version}, {src}"),
            (("{dest}", "{prefix}"), "{prefix} stands for nothing"),
        ] {
            let error = parse(change).unwrap_err();
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn every_mistake_of_a_recipe_is_told_at_once() {
        let text = "summary = \"s\"\npatches = [\"../x\"]\n[[step]]\nname = \"A\"\n[[step]]\nname = \"b\"\n[step.go]\npackage = \".\"\n\
                    [[install]]\nfrom = \"etc/passwd\"\nto = \"../out\"\n";
        let error = Recipe::parse("x", text).unwrap_err();
        for part in [
            "../x",
            "step name \"A\"",
            "exactly one of [step.go]",
            "toolchain",
            "package and output",
            "leads out of the bundle",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}
