//! `dkmadmin audit`: an installed folder against everything that is known to make one unsafe.
//!
//! It looks and changes nothing. Every [`Finding`] has its mend. What could not be looked at is said, and is no finding. The end is for
//! monitoring, in the sense of Nagios' plugins: 0 nothing found, 1 warnings, 2 something critical, 3 it could not look.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::admin;
use crate::commands::exit;
use crate::home::Home;
use crate::install::switch;
use crate::os;
use crate::service::{Service, Umask, matches};
use crate::supervise::environment::surroundings;
use crate::text::{harmless_line, json};

mod folder;
mod look;
mod processes;
mod rules;

/// How bad it is. The number is what the verb ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It weakens what protects.
    Warning = 1,
    /// Somebody gets in, or gets more than he should.
    Critical = 2,
}

impl Severity {
    fn word(found: Option<Self>) -> &'static str {
        match found {
            None => "OK",
            Some(Self::Warning) => "WARNING",
            Some(Self::Critical) => "CRITICAL",
        }
    }
}

/// Something that should be otherwise.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Which check found it; docs/admin.md explains each.
    check: &'static str,
    severity: Severity,
    /// Where: a path, a setting, a service.
    place: String,
    /// What it is.
    what: String,
    /// What to do.
    mend: String,
}

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Audit {
    /// Who should own everything.
    owner: u32,
    findings: Vec<Finding>,
    /// How many things have been looked at.
    looked: usize,
    not_looked: Vec<String>,
}

impl Audit {
    /// Notes a finding. `what` and `detail` together say what it is.
    fn find(&mut self, check: &'static str, severity: Severity, place: &str, what: &str, detail: &str, mend: &str) {
        let what = [what, detail].concat();
        self.findings.push(Finding { check, severity, place: place.to_owned(), what, mend: mend.to_owned() });
    }

    /// Notes what cannot be told.
    fn unsure(&mut self, place: &str, why: &str) {
        self.find(
            "unclear",
            Severity::Warning,
            place,
            "nobody can tell whether it is safe: ",
            why,
            "write it in a plain way, or look yourself",
        );
    }

    fn has(&self, check: &str, place: &str) -> bool {
        self.findings.iter().any(|finding| finding.check == check && finding.place == place)
    }
}

/// Looks at a data folder.
///
/// # Errors
/// When it cannot be looked at; that ends with 3.
pub fn run(options: &admin::Audit, home: Result<Home>) -> Result<ExitCode> {
    let looked = home.and_then(|home| Ok((look(&home)?, home)));
    let (mut audit, home) = looked.map_err(|error| exit::ending(exit::STOPPED, format!("UNKNOWN: {error:#}")))?;
    audit.findings.retain(|found| {
        let name = format!("{} {}", found.check, found.place);
        !options.ignore.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
    });
    // The worst first; within that as they were found.
    audit.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let worst = audit.findings.iter().map(|finding| finding.severity).max();
    show(options, &audit, &home, worst)?;
    Ok(ExitCode::from(worst.map_or(0, |severity| severity as u8)))
}

fn show(options: &admin::Audit, audit: &Audit, home: &Home, worst: Option<Severity>) -> Result<()> {
    let word = Severity::word(worst);
    if options.json {
        let all = json!({
            "v": 1,
            "data": home.root(),
            "status": word.to_lowercase(),
            "looked-at": audit.looked,
            "findings": audit.findings,
            "not-looked-at": audit.not_looked,
        });
        println!("{}", json(&all, true)?);
        return Ok(());
    }
    let count = |severity| audit.findings.iter().filter(|finding| finding.severity == severity).count();
    println!(
        "{word}: {} critical, {} warnings in {}; {} things looked at",
        count(Severity::Critical),
        count(Severity::Warning),
        home.root().display(),
        audit.looked
    );
    for finding in &audit.findings {
        let Finding { check, severity, place, what, mend } = finding;
        let line = format!("{:8} {check} {place}: {what}", Severity::word(Some(*severity)));
        println!("{}\n         → {}", harmless_line(line.as_bytes()), harmless_line(mend.as_bytes()));
    }
    audit.not_looked.iter().for_each(|what| println!("not looked at: {what}"));
    Ok(())
}

fn look(home: &Home) -> Result<Audit> {
    let root = home.root();
    let owner = fs::metadata(root).with_context(|| format!("cannot look at {}", root.display()))?.uid();
    let me = nix::unistd::geteuid();
    if !me.is_root() && me.as_raw() != owner {
        bail!("cannot look into {}: it belongs to user {owner}; look as that one, or as root", root.display());
    }
    let mut audit = Audit { owner, ..Audit::default() };
    let bundle = root.join("bundle").canonicalize().with_context(|| format!("cannot find the bundle of {}", root.display()))?;
    folder::look(&mut audit, root);
    folder::above(&mut audit, root);
    folder::above(&mut audit, &bundle);
    folder::programs(&mut audit, &bundle);
    let definitions = home.definitions()?;
    for fault in &definitions.faults {
        audit.unsure("conf/services.d", &fault.to_string());
    }
    for service in &definitions.services {
        masks(&mut audit, service);
    }
    let running = processes::look(&mut audit, home, &definitions.services);
    let environment = |name: &str| {
        let service = definitions.services.iter().find(|service| service.name == name);
        let mut out: Vec<_> = running
            .iter()
            .filter(|(other, _)| other == name)
            .flat_map(|(_, pids)| pids)
            .flat_map(|&pid| os::environment_of(pid))
            .collect();
        let written = service.and_then(|service| surroundings(home, service).ok());
        out.extend(written.map(|written| written.environment).unwrap_or_default());
        out.sort();
        out.dedup();
        out
    };
    rules::Rules::read(&bundle)?.apply(&mut audit, root, environment);
    if root.join(switch::DECIDED).exists() {
        audit.find(
            "update",
            Severity::Warning,
            &root.display().to_string(),
            "an update was decided and is not finished",
            "",
            "any start of its services finishes it",
        );
    }
    Ok(audit)
}

/// New files are private unless somebody has wanted otherwise.
fn masks(audit: &mut Audit, service: &Service) {
    audit.looked += 1;
    if let Some(Umask(mask)) = service.umask.filter(|mask| mask.0 & 0o077 != 0o077) {
        let severity = if mask & 0o022 == 0o022 { Severity::Warning } else { Severity::Critical };
        let mend = "remove umask from its definition, or write \"077\"";
        audit.find("umask", severity, &service.name, "others get at its new files: umask ", &format!("{mask:03o}"), mend);
    }
}
