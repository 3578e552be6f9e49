//! The kind `go`: `go build`, `go run` and `go generate` by exactly the version that the recipe pins.

use super::Build;
use crate::error::Kind;
use crate::shell::Command;
use crate::stack::recipe::{Go, Step};
use std::path::Path;

/// The go of the pinned version in the environment of a step, without words yet.
fn tool(build: &Build<'_>, step: &Step, dir: &Path, offline: bool) -> anyhow::Result<Command> {
    let version = build.planned.recipe.toolchain.go.as_deref().unwrap_or_default();
    // Without cgo the programs need no library of the host at all. A step that needs it (SQLite in C) says so.
    let mut additions = vec![("GOTOOLCHAIN", go_toolchain(version)), ("CGO_ENABLED", "0".to_owned())];
    if offline {
        additions.push(("GOPROXY", "off".to_owned()));
    }
    let mut env = build.env(step, &additions);
    env.entry("CGO_CFLAGS".to_owned()).or_insert_with(|| format!("-O2 -ffile-prefix-map={}=.", build.src.display()).into());
    let tool = build.session.host.tool("go").ok_or_else(|| Kind::Preflight.error("go is not on PATH"))?;
    Ok(Command::new(tool.path, dir, &env))
}

/// Fetches the toolchain itself, which go does whenever it is asked anything, and the modules that go.mod names.
pub(super) fn dependencies(build: &Build<'_>, step: &Step, go: &Go, dir: &Path) -> anyhow::Result<Vec<Command>> {
    let tool = tool(build, step, dir, build.session.offline)?;
    let mut commands = vec![tool.clone().arg("version")];
    if go.r#mod.as_deref() != Some("vendor") {
        commands.push(tool.args(["mod", "download"]));
    }
    Ok(commands)
}

pub(super) fn commands(build: &Build<'_>, step: &Step, go: &Go, dir: &Path) -> anyhow::Result<Vec<Command>> {
    let mut command = tool(build, step, dir, true)?;
    let module = go.r#mod.as_ref().map(|module| format!("-mod={module}"));
    let tags = (!go.tags.is_empty()).then(|| format!("-tags={}", go.tags.join(",")));
    if let (Some(package), Some(output)) = (&go.package, &go.output) {
        let mut ldflags = build.fill_all(&go.ldflags);
        // The build id is a hash over paths and inputs of this machine's cache; nothing needs it.
        ldflags.insert(0, "-buildid=".to_owned());
        command = command.args(["build", "-trimpath", "-buildvcs=false", "-p"]).arg(build.jobs.to_string());
        command = command.args(module).args(tags).arg(format!("-ldflags={}", go_words(&ldflags)));
        command = command.arg("-o").arg(build.fill(output)).arg(build.fill(package));
    } else if let Some(words) = &go.run {
        command = command.args(["run"]).args(module).args(tags).args(build.fill_all(words));
    } else if let Some(packages) = &go.generate {
        // `go generate` knows no -mod; the environment carries it to what the generators run.
        if let Some(module) = module {
            command.env.insert("GOFLAGS".to_owned(), module.into());
        }
        command = command.arg("generate").args(tags).args(build.fill_all(packages));
    }
    Ok(vec![command])
}

/// What GOTOOLCHAIN wants for a version as recipes write it: `1.24.1` or `go1.24.1`.
pub(crate) fn go_toolchain(version: &str) -> String {
    if version.starts_with("go") { version.to_owned() } else { format!("go{version}") }
}

/// A list of flags as the go tool splits it: words with blanks in quotes.
fn go_words(words: &[String]) -> String {
    words
        .iter()
        .map(|word| if word.contains([' ', '\t']) { format!("'{word}'") } else { word.clone() })
        .collect::<Vec<_>>()
        .join(" ")
}
