//! Zig, where a recipe pins it: the C compiler of autotools steps, which links against a glibc of one's choice, so that what is made
//! here runs on systems that are older than this one, and compiles for other processors; and what links Rust programs for macOS.
//!
//! It is called by scripts of the usual names on the step's PATH. So its own path is in no make file and no program, and `configure`
//! sees a compiler like any other.

use super::Build;
use crate::environment::{self, Environment};
use crate::stack::recipe::{Action, Step, Zig};
use crate::toolchain::Registry;
use anyhow::Context as _;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The script that stands for a C compiler, and for a linker.
pub(super) const CC: &str = "dkm-cc";

/// What stands for libiconv, which every macOS has and zig does not know: Rust's `libc` names it for whoever may want it.
const ICONV: &str = "--- !tapi-tbd\n\
    tbd-version: 4\n\
    targets: [ x86_64-macos, arm64-macos ]\n\
    install-name: '/usr/lib/libiconv.2.dylib'\n\
    ...\n";

/// Scripts that are ready to be called.
pub(super) struct Scripts {
    /// What is put in front of PATH.
    folder: PathBuf,
    /// Variables that name them.
    variables: Vec<(&'static str, OsString)>,
}

impl Scripts {
    /// The environment in which they are found. What the step says itself stays.
    pub(super) fn in_environment(self, env: Environment) -> Environment {
        let mut env = environment::with_path(env, &self.folder);
        for (name, value) in self.variables {
            env.entry(name.to_owned()).or_insert(value);
        }
        env
    }

    /// Writes one.
    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

/// Gets zig, if the step uses it; the folder of its package.
pub(super) fn fetch(build: &Build<'_>, step: &Step) -> anyhow::Result<Option<PathBuf>> {
    let Some(zig) = of(build, step) else { return Ok(None) };
    let env = environment::base(build.session.dirs, build.epoch);
    let registry = Registry { dirs: build.session.dirs, env: &env, supply: build.session.supply };
    registry.zig(zig).map(Some)
}

fn of<'a>(build: &'a Build<'_>, step: &Step) -> Option<&'a Zig> {
    build.session.target.zig_of(build.planned.recipe, step)
}

/// The C compiler of an autotools step, if its recipe pins one.
pub(super) fn compiler(build: &Build<'_>, step: &Step) -> anyhow::Result<Option<Scripts>> {
    let (Some(package), Some(zig)) = (fetch(build, step)?, of(build, step)) else { return Ok(None) };
    let program = program(&package);
    let mut scripts = scripts(build)?;
    let target = build.session.target.zig(zig);
    scripts.write(CC, &compiling(&program, "cc", &target))?;
    scripts.write("dkm-c++", &compiling(&program, "c++", &target))?;
    scripts.variables.extend([("CC", CC.into()), ("CXX", "dkm-c++".into())]);
    if build.session.target.is_crossed() {
        // Those of this machine need not know the other one's format.
        scripts.write("dkm-ar", &format!("#!/bin/sh\nexec {program} ar \"$@\"\n"))?;
        scripts.write("dkm-ranlib", &format!("#!/bin/sh\nexec {program} ranlib \"$@\"\n"))?;
        scripts.variables.extend([("AR", "dkm-ar".into()), ("RANLIB", "dkm-ranlib".into())]);
        // Programs that only help to build are for this machine.
        scripts.variables.push(("CC_FOR_BUILD", "cc".into()));
    }
    Ok(Some(scripts))
}

/// The linker of a Rust program, if the step uses one.
pub(super) fn linker(build: &Build<'_>, step: &Step) -> anyhow::Result<Option<Scripts>> {
    let Action::Cargo(_) = step.action() else { return Ok(None) };
    let (Some(package), Some(zig)) = (fetch(build, step)?, of(build, step)) else { return Ok(None) };
    let mut scripts = scripts(build)?;
    let libraries = scripts.folder.join("lib");
    std::fs::create_dir_all(&libraries).with_context(|| format!("cannot make {}", libraries.display()))?;
    std::fs::write(libraries.join("libiconv.tbd"), ICONV)?;
    let (target, program) = (build.session.target.zig(zig), program(&package));
    let folder = crate::shell::quote(libraries.as_os_str());
    scripts.write(CC, &format!("#!/bin/sh\nexec {program} cc -target {target} -g0 -L{folder} \"$@\"\n"))?;
    // Rust would look for Apple's, and warn.
    scripts.variables.push(("SDKROOT", libraries.into()));
    Ok(Some(scripts))
}

fn program(package: &Path) -> String {
    crate::shell::quote(package.join("ziglang/zig").as_os_str())
}

/// A folder for scripts, whose path holds nothing that make cannot bear.
fn scripts(build: &Build<'_>) -> anyhow::Result<Scripts> {
    let folder = build.session.dirs.home().join("compilers").join(&build.planned.recipe.name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let cache: OsString = build.session.dirs.cache("zig").into();
    Ok(Scripts { folder, variables: vec![("ZIG_GLOBAL_CACHE_DIR", cache.clone()), ("ZIG_LOCAL_CACHE_DIR", cache)] })
}

/// What stands for a compiler. Zig's own ways are set right: it would trap what C leaves undefined, make programs that always lie at
/// the same address, and link debug information of the C library's start files, which name where the compiler lies.
fn compiling(zig: &str, verb: &str, target: &str) -> String {
    format!(
        "#!/bin/sh\n\
         case \" $* \" in\n\
         *' -c '* | *' -E '* | *' -S '*) set -- -fPIE \"$@\" ;;\n\
         *' -shared '*) set -- \"$@\" -s ;;\n\
         *) set -- -fPIE -pie \"$@\" -s ;;\n\
         esac\n\
         exec {zig} {verb} -target {target} -fno-sanitize=undefined -g0 \"$@\"\n"
    )
}
