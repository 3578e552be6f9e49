//! The parts of the bundle: which services a type has, and whether what they need is there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Problems;
use crate::cli::Installer;
use crate::install::collectd::Collectd;
use crate::install::context::{Context, environment};
use crate::manifest::Manifest;
use crate::service::{InstallType, Service};

/// The collectd that will be used.
pub fn which_collectd(arguments: &Installer, bundle: &Path, problems: &mut Problems) -> Collectd {
    if arguments.system_collectd {
        let kind = arguments.kind();
        if !kind.components().contains(&"collectd") {
            problems.0.push(format!("--system-collectd: the type {kind} has no collectd"));
        }
        match Collectd::of_host() {
            Ok(collectd) => return collectd,
            Err(missing) => problems.0.extend(missing),
        }
    }
    Collectd::of_bundle(bundle)
}

/// The definitions that the type includes; what it consists of and the bundle lacks is a problem.
pub fn definitions(arguments: &Installer, manifest: &Manifest, problems: &mut Problems) -> Vec<Service> {
    let kind = arguments.kind();
    let mut services: Vec<Service> = manifest.services.clone();
    if arguments.system_collectd && !services.iter().any(|service| service.name == "collectd") {
        services.extend(problems.note(Collectd::service(manifest)));
    }
    services.retain(|service| service.types.contains(&kind) || kind.components().contains(&service.name.as_str()));
    let lacks = |name: &str| !services.iter().any(|service| service.name == name);
    let missing: Vec<&str> = kind.components().iter().copied().filter(|name| lacks(name)).collect();
    if !missing.is_empty() {
        let has = |name: &&str| manifest.services.iter().any(|service| service.name == **name);
        let possible: Vec<String> = <InstallType as clap::ValueEnum>::value_variants()
            .iter()
            .filter(|&&other| other.components().iter().all(has))
            .map(ToString::to_string)
            .collect();
        problems.0.push(format!(
            "the type {kind} needs {}, and this bundle has no such component. It can be installed as: {}",
            missing.join(", "),
            if possible.is_empty() { "nothing".to_owned() } else { possible.join(", ") }
        ));
    }
    services
}

/// The services with their templates filled in, their programs and files looked at.
pub fn rendered(definitions: &[Service], context: &Context, bundle: &Path, problems: &mut Problems) -> Vec<Service> {
    let environment = environment();
    let values = minijinja::Value::from(minijinja::value::Serde(context));
    let mut out = Vec::new();
    for definition in definitions {
        let service = definition.map_strings(|text| Ok(environment.render_str(text, values.clone())?));
        let Some(service) = problems.note(service.and_then(|service| service.validate().map(|()| service))) else { continue };
        // The link through which the services reach the bundle may not be there yet.
        let program = Path::new(&service.command[0]);
        let inside = program.strip_prefix(&context.bundle).map_or_else(|_| program.to_owned(), |rest| bundle.join(rest));
        let executable = fs::metadata(&inside).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if !executable {
            problems.0.push(format!("the bundle is not whole: {} is not a program", inside.display()));
        }
        for file in &service.config {
            if !bundle.join(&file.template).is_file() {
                problems.0.push(format!("the bundle is not whole: it has no {}", file.template));
            }
        }
        out.push(service);
    }
    out
}
