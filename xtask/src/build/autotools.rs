//! The kind `autotools`: bootstrap where the source has no `configure`, then configure, make, make install.

use super::{Build, zig};
use crate::shell::Command;
use crate::source::lacks_configure;
use crate::stack::recipe::{Autotools, Step};
use std::path::Path;

pub(super) fn commands(build: &Build<'_>, step: &Step, autotools: &Autotools, dir: &Path) -> anyhow::Result<Vec<Command>> {
    // Paths of the build must not end up in programs (`__FILE__` in assertions), nor debug information in the bundle.
    let flags = format!("-O2 -ffile-prefix-map={}=.", build.src.display());
    let mut env = build.env(step, &[("CFLAGS", flags.clone()), ("CXXFLAGS", flags)]);
    if let Some(compiler) = zig::compiler(build, step)? {
        env = compiler.in_environment(env);
    }
    let command = |words: &[String]| Command::new(&words[0], dir, &env).args(build.fill_all(&words[1..]));
    let mut commands = Vec::new();
    if lacks_configure(dir) {
        commands.push(command(&autotools.bootstrap));
    }
    let target = build.session.target;
    let crossing = target.configure().filter(|_| !autotools.configure.iter().any(|word| word.starts_with("--host")));
    let configure = build.fill_all(&autotools.configure).into_iter().chain(crossing.into_iter().flatten());
    commands.push(Command::new("./configure", dir, &env).args(configure));
    let jobs = format!("-j{}", build.session.jobs);
    commands.push(Command::new("make", dir, &env).arg(&jobs).args(build.fill_all(&autotools.targets)));
    if !autotools.checks.is_empty() && !target.is_crossed() {
        commands.push(Command::new("make", dir, &env).arg(&jobs).args(build.fill_all(&autotools.checks)));
    }
    if autotools.install {
        let dest = format!("DESTDIR={}", build.dest().display());
        commands.push(Command::new("make", dir, &env).args(["install".to_owned(), dest]));
    }
    Ok(commands)
}
