//! Which collectd is used: the bundle's, or the host's.

use std::path::{Path, PathBuf};

use crate::manifest::Manifest;
use crate::service::Service;

/// A collectd and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collectd {
    /// The program.
    pub program: PathBuf,
    /// The folder of its plugins.
    pub plugins: PathBuf,
    /// Its `types.db`.
    pub types: PathBuf,
}

/// The plugins that the shipped configuration loads.
pub const PLUGINS: [&str; 9] = ["cpu", "df", "disk", "interface", "load", "memory", "processes", "swap", "write_graphite"];

/// Where distributions put the program.
const PROGRAMS: [&str; 5] = [
    "/usr/sbin/collectd",
    "/usr/local/sbin/collectd",
    "/opt/collectd/sbin/collectd",
    "/opt/homebrew/sbin/collectd",
    "/usr/bin/collectd",
];

/// Plugin folders relative to the prefix that holds the program's `sbin`.
const PLUGIN_FOLDERS: [&str; 4] =
    ["lib/collectd", "lib64/collectd", "lib/x86_64-linux-gnu/collectd", "lib/aarch64-linux-gnu/collectd"];

/// How the host's collectd is run when the bundle has none: the same definition as the recipe's.
const DEFINITION: &str = include_str!("../../assets/services/collectd.toml");

impl Collectd {
    /// The bundle's own.
    #[must_use]
    pub fn of_bundle(bundle: &Path) -> Self {
        Self {
            program: bundle.join("bin/collectd"),
            plugins: bundle.join("lib/collectd"),
            types: bundle.join("share/collectd/types.db"),
        }
    }

    /// The host's.
    ///
    /// # Errors
    /// Everything that is missing, in words.
    pub fn of_host() -> Result<Self, Vec<String>> {
        Self::search(&PROGRAMS.map(PathBuf::from))
    }

    fn search(programs: &[PathBuf]) -> Result<Self, Vec<String>> {
        let Some(program) = programs.iter().find(|path| path.is_file()) else {
            let places: Vec<String> = programs.iter().map(|path| path.display().to_string()).collect();
            return Err(vec![format!(
                "--system-collectd: there is no collectd in {}. Install it (Debian: apt-get install collectd-core), or leave \
                 the option out to use the bundle's",
                places.join(", ")
            )]);
        };
        let prefix = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let Some(plugins) = PLUGIN_FOLDERS.iter().map(|folder| prefix.join(folder)).find(|path| path.is_dir()) else {
            return Err(vec![format!(
                "--system-collectd: {} has no folder of plugins in {}",
                program.display(),
                PLUGIN_FOLDERS.map(|folder| prefix.join(folder).display().to_string()).join(", ")
            )]);
        };
        let mut problems = Vec::new();
        let types = prefix.join("share/collectd/types.db");
        if !types.is_file() {
            problems.push(format!("--system-collectd: there is no {}", types.display()));
        }
        let missing: Vec<&str> = PLUGINS.into_iter().filter(|plugin| !plugins.join(format!("{plugin}.so")).is_file()).collect();
        if !missing.is_empty() {
            problems.push(format!(
                "--system-collectd: {} lacks the plugin{} {}",
                plugins.display(),
                if missing.len() == 1 { "" } else { "s" },
                missing.join(", ")
            ));
        }
        if problems.is_empty() { Ok(Self { program: program.clone(), plugins, types }) } else { Err(problems) }
    }

    /// The service's definition: the bundle's if it has one, else the launcher's own copy.
    ///
    /// # Errors
    /// Never in a program that passed its tests.
    pub fn service(manifest: &Manifest) -> anyhow::Result<Service> {
        #[derive(serde::Deserialize)]
        struct Part {
            service: Service,
        }
        if let Some(service) = manifest.services.iter().find(|service| service.name == "collectd") {
            return Ok(service.clone());
        }
        let mut service = toml::from_str::<Part>(DEFINITION)?.service;
        service.name = "collectd".to_owned();
        Ok(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn everything_that_is_missing_is_said() {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("sbin/collectd");
        let search = || Collectd::search(std::slice::from_ref(&program));
        assert!(search().unwrap_err()[0].contains("there is no collectd in"));
        fs::create_dir_all(temp.path().join("sbin")).unwrap();
        fs::write(&program, "").unwrap();
        assert!(search().unwrap_err()[0].contains("no folder of plugins"));
        let plugins = temp.path().join("lib/collectd");
        fs::create_dir_all(&plugins).unwrap();
        for plugin in PLUGINS.iter().filter(|plugin| !["df", "swap"].contains(plugin)) {
            fs::write(plugins.join(format!("{plugin}.so")), "").unwrap();
        }
        let problems = search().unwrap_err();
        assert!(problems[0].contains("types.db") && problems[1].ends_with("the plugins df, swap"), "{problems:?}");
    }

    #[test]
    fn the_own_definition_is_good_and_loads_these_plugins() {
        let manifest: Manifest =
            Manifest::parse(r#"{"schema":1,"name":"x","version":"1","platform":{"os":"linux","arch":"x86_64"}}"#).unwrap();
        let service = Collectd::service(&manifest).unwrap();
        service.validate().unwrap();
        for plugin in PLUGINS {
            let named = service.config.iter().any(|file| file.to == format!("conf/collectd.d/{plugin}.conf"));
            assert!(named, "{plugin} has no configuration");
        }
    }
}
