//! The kind `go`: `go build`, `go run` and `go generate` by exactly the version that the recipe pins.

use super::Build;
use crate::environment;
use crate::error::Kind;
use crate::shell::{Command, Network};
use crate::stack::recipe::{Go, Step};
use crate::toolchain::go::{go_toolchain, toolchain_module, variables};
use std::path::{Path, PathBuf};

/// The go of the pinned version in the environment of a step, without words yet.
fn tool(build: &Build<'_>, step: &Step, dir: &Path, network: Network) -> anyhow::Result<Command> {
    let (supply, dirs) = (build.session.supply, build.session.dirs);
    let version = build.planned.recipe.toolchain.go.as_deref().unwrap_or_default();
    let modules = supply.go(dirs);
    let mut env = build.env(step, &variables(version, network, supply, dirs)?);
    env.entry("CGO_CFLAGS".to_owned()).or_insert_with(|| format!("-O2 -ffile-prefix-map={}=.", build.src.display()).into());
    let tool = build.session.host.tool("go").ok_or_else(|| Kind::Preflight.error("go is not on PATH"))?;
    if network != Network::Closed || go_toolchain(&tool.version) == go_toolchain(version) {
        return Ok(Command::new(tool.path, dir, &env));
    }
    // Called by the host's go it would be looked up in the checksum database each time.
    let bin = modules.join(toolchain_module(version)).join("bin");
    Ok(Command::new(bin.join("go"), dir, &environment::with_path(env, &bin)))
}

/// Fetches the toolchain itself, which go does whenever it is asked anything, and the modules that go.mod names.
pub(super) fn dependencies(build: &Build<'_>, step: &Step, go: &Go, dir: &Path) -> anyhow::Result<Vec<Command>> {
    let tool = tool(build, step, dir, build.session.supply.network())?;
    let mut commands = vec![tool.clone().arg("version")];
    if go.r#mod.as_deref() != Some("vendor") {
        commands.push(tool.clone().args(["mod", "download"]));
    }
    if build.session.supply.gathered().is_some() {
        // This machine's go may be the one that is wanted; that of the machine that a mirror is for may be another.
        let mut command = Command { dir: build.session.dirs.home(), ..tool };
        command.env.insert("GOTOOLCHAIN".to_owned(), "local".into());
        let version = build.planned.recipe.toolchain.go.as_deref().unwrap_or_default();
        commands.push(command.args(["mod", "download", &toolchain_module(version)]));
    }
    Ok(commands)
}

/// Where the licence of the pinned go may lie: with the toolchain that go has obtained, or with the machine's own.
pub(super) fn roots(build: &Build<'_>) -> Vec<PathBuf> {
    let version = build.planned.recipe.toolchain.go.as_deref().unwrap_or_default();
    let obtained = build.session.supply.go(build.session.dirs).join(toolchain_module(version));
    let own = build.session.host.tool("go").and_then(|tool| tool.path.canonicalize().ok());
    let own = own.and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    std::iter::once(obtained).chain(own).collect()
}

pub(super) fn commands(build: &Build<'_>, step: &Step, go: &Go, dir: &Path) -> anyhow::Result<Vec<Command>> {
    let mut command = tool(build, step, dir, Network::Closed)?;
    let module = go.r#mod.as_ref().map(|module| format!("-mod={module}"));
    let tags = (!go.tags.is_empty()).then(|| format!("-tags={}", go.tags.join(",")));
    if let (Some(package), Some(output)) = (&go.package, &go.output) {
        let target = build.session.target;
        if target.is_crossed() {
            // What is run while building is for this machine, so that only this command gets them.
            let (os, arch) = target.go();
            command.env.insert("GOOS".to_owned(), os.into());
            command.env.insert("GOARCH".to_owned(), arch.into());
        }
        let mut ldflags = build.fill_all(&go.ldflags);
        // The build id is a hash over paths and inputs of this machine's cache; nothing needs it.
        ldflags.insert(0, "-buildid=".to_owned());
        command = command.args(["build", "-trimpath", "-buildvcs=false", "-p"]).arg(build.session.jobs.to_string());
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

/// A list of flags as the go tool splits it: words with blanks in quotes.
fn go_words(words: &[String]) -> String {
    words
        .iter()
        .map(|word| if word.contains([' ', '\t']) { format!("'{word}'") } else { word.clone() })
        .collect::<Vec<_>>()
        .join(" ")
}
