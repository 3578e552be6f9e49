//! The platform that a bundle is for, and whether it can be made on this one.
//!
//! What is crossed: programs of Go (by GOOS and GOARCH, without C); Rust programs for static Linux, with the linker that comes with
//! Rust, and for macOS, with zig as linker; what configure and make compile for Linux, with zig as compiler. What only makes files
//! for every platform, as a page's steps do, is not crossed and is made once for all. Everything else is refused before anything
//! is made, by name and with the way out.

use crate::error::Kind;
use crate::stack::recipe::{Action, Recipe, Step, Zig};
use crate::toolchain;
use dkumonitor_interface::manifest::Platform;
use std::fmt;

/// The platforms, by the names that Rust has for them.
const TRIPLES: [(&str, &str, &str); 4] = [
    ("x86_64-unknown-linux-musl", "linux", "x86_64"),
    ("aarch64-unknown-linux-musl", "linux", "aarch64"),
    ("aarch64-apple-darwin", "macos", "aarch64"),
    ("x86_64-apple-darwin", "macos", "x86_64"),
];

/// A platform that a bundle is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    triple: &'static str,
    os: &'static str,
    arch: &'static str,
    named: bool,
}

impl Target {
    /// What `--target` takes.
    ///
    /// # Errors
    /// In words, for a platform that no bundle is made for.
    pub fn parse(text: &str) -> Result<Self, String> {
        let found = TRIPLES.iter().find(|(triple, ..)| *triple == text);
        let (triple, os, arch) = found.ok_or_else(|| {
            let known: Vec<_> = TRIPLES.iter().map(|(triple, ..)| *triple).collect();
            format!("bundles are made for {}", known.join(", "))
        })?;
        Ok(Self { triple, os, arch, named: true })
    }

    /// The platform of this machine, where none is given.
    pub fn of_this_machine() -> Self {
        let here = Platform::current();
        let found = TRIPLES.iter().find(|(_, os, arch)| (*os, *arch) == (here.os.as_str(), here.arch.as_str()));
        // Elsewhere the tools have to know by themselves what they compile for.
        let (triple, os, arch) = found.copied().unwrap_or(("", std::env::consts::OS, std::env::consts::ARCH));
        Self { triple, os, arch, named: false }
    }

    /// Whether it is another platform than this machine's.
    pub fn is_crossed(self) -> bool {
        (self.os, self.arch) != (std::env::consts::OS, std::env::consts::ARCH)
    }

    /// What it adds to a bundle's name.
    pub fn suffix(self) -> String {
        if self.named { format!("-{}", self.triple) } else { String::new() }
    }

    /// The platform as the manifest has it.
    pub fn platform(self) -> Platform {
        Platform { os: self.os.to_owned(), arch: self.arch.to_owned(), glibc: None }
    }

    /// Whether it is Linux.
    pub fn is_linux(self) -> bool {
        self.os == "linux"
    }

    /// GOOS and GOARCH.
    pub fn go(self) -> (&'static str, &'static str) {
        let os = if self.os == "macos" { "darwin" } else { self.os };
        let arch = match self.arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        (os, arch)
    }

    /// What Rust calls it, where a program has to be compiled for it by name.
    pub fn rust(self, is_static: bool) -> Option<&'static str> {
        (self.is_crossed() || (is_static && self.is_linux() && !self.triple.is_empty())).then_some(self.triple)
    }

    /// What zig calls it, with the oldest system that programs are to run on.
    pub fn zig(self, zig: &Zig) -> String {
        match (self.os, self.arch) {
            // As Rust has it.
            ("macos", "aarch64") => "aarch64-macos.11.0".to_owned(),
            ("macos", arch) => format!("{arch}-macos.10.12"),
            (_, arch) => {
                let glibc = zig.glibc.as_ref().map(|glibc| format!(".{glibc}")).unwrap_or_default();
                format!("{arch}-linux-gnu{glibc}")
            }
        }
    }

    /// What `configure` is told where it has to compile for another Linux: that it does, and for which.
    pub fn configure(self) -> Option<[String; 2]> {
        let words = || [format!("--build={}-linux-gnu", std::env::consts::ARCH), format!("--host={}-linux-gnu", self.arch)];
        self.is_crossed().then(words)
    }

    /// The zig that a step uses, if it uses one.
    pub fn zig_of<'a>(self, recipe: &'a Recipe, step: &Step) -> Option<&'a Zig> {
        match step.action() {
            Action::Autotools(_) => toolchain::zig(recipe),
            Action::Cargo(_) if self.is_crossed() && !self.is_linux() => toolchain::zig(recipe),
            _ => None,
        }
    }

    /// What a step's result depends on beside this machine's platform; none where it is the same for all.
    pub fn part(self, step: &Step) -> Option<&'static str> {
        let crossed = match step.action() {
            Action::Go(go) => go.package.is_some(),
            Action::Cargo(_) | Action::Autotools(_) => true,
            Action::Node(_) | Action::Manual => false,
        };
        (crossed && self.is_crossed()).then_some(self.triple)
    }

    /// Fails where one of these recipes cannot be crossed to it.
    ///
    /// # Errors
    /// [`Kind::Usage`] with each that cannot, why, and the way out.
    pub fn require(self, recipes: &[&Recipe]) -> anyhow::Result<()> {
        if !self.is_crossed() {
            return Ok(());
        }
        let cannot: Vec<_> = recipes
            .iter()
            .filter_map(|recipe| Some((recipe, recipe.steps.iter().find_map(|step| self.obstacle(recipe, step))?)))
            .map(|(recipe, why)| format!("\n  {} {why}", recipe.name))
            .collect();
        if cannot.is_empty() {
            return Ok(());
        }
        Err(Kind::Usage.error(format!(
            "cannot make a bundle for {self} on this machine:{}\npackage on such a machine, or name with --only the components that can be crossed",
            cannot.concat()
        )))
    }

    /// Why a step cannot be crossed to it.
    fn obstacle(self, recipe: &Recipe, step: &Step) -> Option<&'static str> {
        let has_zig = self.zig_of(recipe, step).is_some();
        match step.action() {
            Action::Go(_) if step.env.get("CGO_ENABLED").is_some_and(|value| value == "1") => {
                Some("is Go with C in it, which needs a C compiler for that platform")
            }
            Action::Cargo(_) if !self.is_linux() => (!has_zig).then_some(
                "is a Rust program for macOS, which needs a linker for that: on Linux, [toolchain.zig] in its recipe",
            ),
            Action::Cargo(cargo) if !cargo.r#static => {
                Some("is a Rust program that is not static, which needs that platform's C library")
            }
            Action::Autotools(_) if !self.is_linux() => {
                Some("is compiled by configure and make, which need Apple's headers and libraries")
            }
            Action::Autotools(_) if !has_zig => Some(
                "is compiled by configure and make, which need a C compiler for that platform: on Linux, [toolchain.zig] in its recipe",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.triple)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str, step: &str) -> Recipe {
        made(name, "", step)
    }

    fn with_zig(name: &str, step: &str) -> Recipe {
        let zig =
            format!("[toolchain.zig]\nversion = \"1\"\nglibc = \"2.17\"\nsha256 = {{ linux-x64 = \"{}\" }}\n", "0".repeat(64));
        made(name, &zig, step)
    }

    fn made(name: &str, zig: &str, step: &str) -> Recipe {
        let text = format!(
            "summary = \"x\"\n[toolchain]\ngo = \"1.24.1\"\nnode = \"20\"\n{zig}[[step]]\nname = \"s\"\n{step}\n[[install]]\nfrom = \"src/x\"\nto = \"x\"\n"
        );
        Recipe::parse(name, &text).unwrap()
    }

    /// Another platform than this machine's.
    fn other() -> Target {
        let other =
            if std::env::consts::ARCH == "aarch64" { "x86_64-unknown-linux-musl" } else { "aarch64-unknown-linux-musl" };
        Target::parse(other).unwrap()
    }

    #[test]
    fn what_cannot_be_crossed_is_named_and_what_needs_no_crossing_is_made_once_for_all() {
        let go = recipe("go", "[step.go]\npackage = \".\"\noutput = \"x\"");
        let c = recipe("c", "[step.autotools]");
        let cgo = recipe("cgo", "[step.env]\nCGO_ENABLED = \"1\"\n[step.go]\npackage = \".\"\noutput = \"x\"");
        let page = recipe("page", "[step.node]\nrun = [\"build\"]");
        let rust = recipe("rust", "[step.cargo]\npackage = \"x\"\nbins = [\"x\"]\nstatic = true");
        let all = [&go, &c, &cgo, &page, &rust];
        assert!(Target::of_this_machine().require(&all).is_ok());
        assert!(other().require(&[&go, &page, &rust]).is_ok());
        let text = other().require(&all).unwrap_err().to_string();
        assert!(
            text.contains("\n  c is compiled by configure") && text.contains("\n  cgo is Go with C") && text.contains("--only"),
            "{text}"
        );
        assert!(!text.contains("\n  go ") && !text.contains("\n  page "), "{text}");
        let parts: Vec<_> = all.iter().map(|recipe| other().part(&recipe.steps[0]).is_some()).collect();
        assert_eq!(parts, [true, true, true, false, true]);
        if cfg!(target_os = "linux") {
            let zig_c = with_zig("c", "[step.autotools]");
            assert!(other().require(&[&zig_c]).is_ok());
            let said = other().zig(zig_c.toolchain.zig.as_ref().unwrap());
            assert!(said.ends_with("-linux-gnu.2.17") && !said.starts_with(std::env::consts::ARCH), "{said}");
        }
        assert!(all.iter().all(|recipe| Target::of_this_machine().part(&recipe.steps[0]).is_none()));
        if cfg!(target_os = "linux") {
            let mac = Target::parse("aarch64-apple-darwin").unwrap();
            let text = mac.require(&[&rust]).unwrap_err().to_string();
            assert!(text.contains("needs a linker") && text.contains("[toolchain.zig]"), "{text}");
            let zig_rust = with_zig("rust", "[step.cargo]\npackage = \"x\"\nbins = [\"x\"]\nstatic = true");
            assert!(mac.require(&[&zig_rust]).is_ok() && mac.zig_of(&zig_rust, &zig_rust.steps[0]).is_some());
            assert!(other().zig_of(&zig_rust, &zig_rust.steps[0]).is_none());
            let text = mac.require(&[&with_zig("c", "[step.autotools]")]).unwrap_err().to_string();
            assert!(text.contains("c is compiled by configure") && text.contains("Apple's headers"), "{text}");
        }
        assert!(Target::parse("sparc64-sun-solaris").unwrap_err().contains("aarch64-apple-darwin"));
    }
}
