//! The C compiler of autotools steps whose recipe pins one: zig, which links against a glibc of one's choice, so that what is made
//! here runs on systems that are older than this one.
//!
//! It is called by scripts of the usual names on the step's PATH. So its own path is in no make file and no program, and `configure`
//! sees a compiler like any other.

use super::Build;
use crate::environment;
use crate::toolchain::{self, Registry};
use anyhow::Context as _;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// A compiler, ready to be called.
pub(super) struct Compiler {
    /// What is put in front of PATH.
    pub folder: PathBuf,
    /// Variables that name it.
    pub variables: Vec<(&'static str, OsString)>,
}

/// Gets the compiler that the recipe pins, if it pins one; the folder of its package.
pub(super) fn fetch(build: &Build<'_>) -> anyhow::Result<Option<PathBuf>> {
    let Some(zig) = toolchain::zig(build.planned.recipe) else { return Ok(None) };
    let env = environment::base(build.session.dirs, build.epoch);
    let registry = Registry { dirs: build.session.dirs, env: &env, supply: build.session.supply };
    registry.zig(zig).map(Some)
}

/// Writes the compiler's scripts, into a folder whose path holds nothing that make cannot bear.
pub(super) fn compiler(build: &Build<'_>) -> anyhow::Result<Option<Compiler>> {
    let (Some(package), Some(zig)) = (fetch(build)?, toolchain::zig(build.planned.recipe)) else { return Ok(None) };
    let program = package.join("ziglang/zig");
    let folder = build.session.dirs.home().join("compilers").join(&build.planned.recipe.name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let target = format!("{}-linux-gnu.{}", std::env::consts::ARCH, zig.glibc);
    for (name, verb) in [("dkm-cc", "cc"), ("dkm-c++", "c++")] {
        let path = folder.join(name);
        let script = script(&crate::shell::quote(program.as_os_str()), verb, &target);
        std::fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    let cache: OsString = build.session.dirs.cache("zig").into();
    let variables = vec![
        ("CC", "dkm-cc".into()),
        ("CXX", "dkm-c++".into()),
        ("ZIG_GLOBAL_CACHE_DIR", cache.clone()),
        ("ZIG_LOCAL_CACHE_DIR", cache),
    ];
    Ok(Some(Compiler { folder, variables }))
}

/// What stands for a compiler. Zig's own ways are set right: it would trap what C leaves undefined, make programs that always lie at
/// the same address, and link debug information of the C library's start files, which name where the compiler lies.
fn script(zig: &str, verb: &str, target: &str) -> String {
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
