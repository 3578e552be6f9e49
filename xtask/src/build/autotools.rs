//! The kind `autotools`: bootstrap where the source has no `configure`, then configure, make, make install.

use super::{Build, zig};
use crate::environment;
use crate::shell::Command;
use crate::source::lacks_configure;
use crate::stack::recipe::{Autotools, Step};
use std::path::Path;

/// Fetches the compiler, where it is not the host's.
pub(super) fn dependencies(build: &Build<'_>) -> anyhow::Result<()> {
    zig::fetch(build).map(drop)
}

pub(super) fn commands(build: &Build<'_>, step: &Step, autotools: &Autotools, dir: &Path) -> anyhow::Result<Vec<Command>> {
    // Paths of the build must not end up in programs (`__FILE__` in assertions), nor debug information in the bundle.
    let flags = format!("-O2 -ffile-prefix-map={}=.", build.src.display());
    let mut env = build.env(step, &[("CFLAGS", flags.clone()), ("CXXFLAGS", flags)]);
    if let Some(compiler) = zig::compiler(build)? {
        env = environment::with_path(env, &compiler.folder);
        for (name, value) in compiler.variables {
            // What the step says itself stays.
            env.entry(name.to_owned()).or_insert(value);
        }
    }
    let command = |words: &[String]| Command::new(&words[0], dir, &env).args(build.fill_all(&words[1..]));
    let mut commands = Vec::new();
    if lacks_configure(dir) {
        commands.push(command(&autotools.bootstrap));
    }
    commands.push(Command::new("./configure", dir, &env).args(build.fill_all(&autotools.configure)));
    let jobs = format!("-j{}", build.session.jobs);
    commands.push(Command::new("make", dir, &env).arg(jobs).args(build.fill_all(&autotools.targets)));
    if autotools.install {
        let dest = format!("DESTDIR={}", build.dest().display());
        commands.push(Command::new("make", dir, &env).args(["install".to_owned(), dest]));
    }
    Ok(commands)
}
