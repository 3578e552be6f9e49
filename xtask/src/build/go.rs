//! The kind `go`: `go build`, `go run` and `go generate` by exactly the version that the recipe pins.

use super::Build;
use crate::environment;
use crate::error::{Kind, WithKind as _};
use crate::shell::{Command, Network};
use crate::stack::recipe::{Go, Step};
use crate::toolchain::go_toolchain;
use std::path::{Path, PathBuf};

/// The go of the pinned version in the environment of a step, without words yet.
fn tool(build: &Build<'_>, step: &Step, dir: &Path, network: Network) -> anyhow::Result<Command> {
    let (supply, dirs) = (build.session.supply, build.session.dirs);
    let version = build.planned.recipe.toolchain.go.as_deref().unwrap_or_default();
    let modules = supply.go(dirs);
    // Without cgo the programs need no library of the host at all. A step that needs it (SQLite in C) says so.
    let mut additions = vec![("GOTOOLCHAIN", go_toolchain(version)), ("CGO_ENABLED", "0".to_owned())];
    additions.push(("GOMODCACHE", modules.to_string_lossy().into_owned()));
    if network != Network::Open {
        // What is in the module cache was checked when it came there.
        additions.extend([("GOSUMDB", "off".to_owned()), ("GONOPROXY", "none".to_owned()), ("GOPRIVATE", String::new())]);
    }
    match network {
        Network::Open if supply.gathered().is_some() => {
            let usual = dirs.cache("go").join("pkg/mod");
            additions.push(("GOPROXY", format!("{},{}", proxy(&usual)?, usual_proxy(build)?)));
        }
        Network::Open => {}
        // Only with a proxy of files alone does go take a toolchain that no checksum database vouches for.
        Network::Offline => additions.push(("GOPROXY", proxy(&modules)?)),
        // Compiling must not find modules that nobody pinned, even if they are in the cache.
        Network::Closed => additions.push(("GOPROXY", "off".to_owned())),
    }
    let mut env = build.env(step, &additions);
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

/// The module that holds a go for this platform.
fn toolchain_module(version: &str) -> String {
    let os = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("golang.org/toolchain@v0.0.1-{}.{os}-{arch}", go_toolchain(version))
}

/// Where the licence of the pinned go may lie: with the toolchain that go has obtained, or with the machine's own.
pub(super) fn roots(build: &Build<'_>) -> Vec<PathBuf> {
    let version = build.planned.recipe.toolchain.go.as_deref().unwrap_or_default();
    let obtained = build.session.supply.go(build.session.dirs).join(toolchain_module(version));
    let own = build.session.host.tool("go").and_then(|tool| tool.path.canonicalize().ok());
    let own = own.and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    std::iter::once(obtained).chain(own).collect()
}

/// A module cache as a proxy: what go has downloaded lies there as a proxy would serve it.
fn proxy(modules: &Path) -> anyhow::Result<String> {
    let folder: PathBuf = modules.join("cache/download");
    let url = reqwest::Url::from_file_path(&folder);
    url.map(String::from).map_err(|()| Kind::Preflight.error(format!("{} is no path that go can use", folder.display())))
}

/// Where this user's go takes modules from.
fn usual_proxy(build: &Build<'_>) -> anyhow::Result<String> {
    let shell = xshell::Shell::new()?;
    let command = xshell::cmd!(shell, "go env GOPROXY").quiet().env_clear();
    let env = environment::base(build.session.dirs, build.epoch);
    let command = env.iter().fold(command, |command, (name, value)| command.env(name, value)).env("GOTOOLCHAIN", "local");
    command.read().kind(Kind::Fetch, || "cannot ask go for its proxy".to_owned())
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
