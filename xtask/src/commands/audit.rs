//! `audit`: known vulnerabilities of what a bundle holds.

use crate::audit::bill::{self, Subject};
use crate::audit::exceptions::{Exceptions, Excused};
use crate::audit::severity::Severity;
use crate::audit::{self, Finding, database};
use crate::error::Kind;
use crate::progress::printable;
use crate::stack::Stack;
use crate::stage::Extent;
use crate::{cli, report, stage};
use jiff::civil::Date;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The number of the format of `--json`.
const SCHEMA: u32 = 1;

/// Checks a bill of materials against a database.
///
/// # Errors
/// [`Kind::Accounts`] when something is too severe or an exception has expired; [`Kind::Usage`] when one of the files cannot be used.
pub fn run(args: &cli::Audit) -> anyhow::Result<()> {
    let workspace = super::workspace();
    let stack = Stack::read(args.stack.as_deref().unwrap_or(&workspace), &workspace)?;
    let sbom = args.sbom.clone().unwrap_or_else(|| usual(args, &stack));
    let exceptions = Exceptions::read(&stack.root, &workspace)?;
    let (subjects, entries) = bill::read(&sbom)?;
    let database = database::read(&args.db, &audit::wanted(&subjects))?;
    let findings = audit::findings(&subjects, &database.advisories);
    let today = jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).date();
    let verdicts = findings.iter().map(|finding| Verdict::of(finding, &exceptions, args.fail_on, today)).collect();
    let audited = Audited { args, sbom, subjects: &subjects, entries, total: database.total, findings: &findings, verdicts };
    audited.tell(&exceptions)?;
    audited.conclude()
}

/// The bill of the bundle that `package` makes of the stack.
fn usual(args: &cli::Audit, stack: &Stack) -> PathBuf {
    let dist = args.dist_dir.clone().unwrap_or_else(|| super::workspace().join("dist"));
    dist.join(stage::bundle_name(stack, Extent::Whole)).join(report::SBOM)
}

/// What is to be done about a finding.
struct Verdict {
    excused: Excused,
    fails: bool,
}

impl Verdict {
    fn of(finding: &Finding, exceptions: &Exceptions, limit: Severity, today: Date) -> Self {
        let excused = exceptions.of(finding, today);
        let fails = match excused {
            Excused::Not => finding.severity.weight() >= limit.weight(),
            Excused::Until(..) => false,
            // Somebody has said that it must be looked at again, however severe it is.
            Excused::Expired(..) => true,
        };
        Self { excused, fails }
    }
}

struct Audited<'a> {
    args: &'a cli::Audit,
    sbom: PathBuf,
    subjects: &'a [Subject],
    entries: usize,
    total: usize,
    findings: &'a [Finding],
    verdicts: Vec<Verdict>,
}

impl Audited<'_> {
    fn tell(&self, exceptions: &Exceptions) -> anyhow::Result<()> {
        if self.args.json {
            println!("{}", serde_json::to_string_pretty(&self.json(exceptions))?);
            return Ok(());
        }
        for (finding, verdict) in self.findings.iter().zip(&self.verdicts) {
            let parts: Vec<&str> = finding.parts.iter().map(String::as_str).collect();
            let mark = if verdict.fails { "✗" } else { "·" };
            println!("{mark} {:8} {}  {}", finding.severity.word(), finding.names.join(" "), finding.purl);
            println!("    in {}: {}", parts.join(", "), printable(&finding.summary));
            if !finding.fixed.is_empty() {
                println!("    fixed in {}", finding.fixed.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
            }
            match &verdict.excused {
                Excused::Not => {}
                Excused::Until(reason, day) => println!("    excused until {day}: {}", printable(reason)),
                Excused::Expired(reason, day) => {
                    println!("    was excused until {day}, look at it again: {}", printable(reason));
                }
            }
        }
        for unused in exceptions.unused(self.findings) {
            println!("! {}: the exception for {} fits nothing any more; remove it", exceptions.path.display(), unused.id);
        }
        println!(
            "{} of {} entries of {} are of kinds that advisories know; {} advisories; {} vulnerabilities, {} of them excused",
            self.subjects.len(),
            self.entries,
            self.sbom.display(),
            self.total,
            self.findings.len(),
            self.verdicts.iter().filter(|verdict| matches!(verdict.excused, Excused::Until(..))).count()
        );
        Ok(())
    }

    fn json(&self, exceptions: &Exceptions) -> Value {
        let finding = |(finding, verdict): (&Finding, &Verdict)| {
            let (excused, reason, day) = match &verdict.excused {
                Excused::Not => ("no", None, None),
                Excused::Until(reason, day) => ("yes", Some(reason), Some(day.to_string())),
                Excused::Expired(reason, day) => ("expired", Some(reason), Some(day.to_string())),
            };
            json!({
                "names": finding.names, "purl": finding.purl, "components": finding.parts,
                "severity": finding.severity.word(), "summary": finding.summary, "fixed": finding.fixed,
                "excused": excused, "reason": reason, "until": day, "fails": verdict.fails,
            })
        };
        json!({
            "schema": SCHEMA,
            "sbom": self.sbom,
            "subjects": self.subjects.len(),
            "advisories": self.total,
            "fail-on": self.args.fail_on.word(),
            "findings": self.findings.iter().zip(&self.verdicts).map(finding).collect::<Vec<_>>(),
            "unused-exceptions": exceptions.unused(self.findings).map(|one| one.id.as_str()).collect::<Vec<_>>(),
        })
    }

    fn conclude(&self) -> anyhow::Result<()> {
        let failing = || self.verdicts.iter().filter(|verdict| verdict.fails);
        let expired = failing().filter(|verdict| matches!(verdict.excused, Excused::Expired(..))).count();
        let severe = failing().count() - expired;
        let mut why = Vec::new();
        if severe > 0 {
            why.push(format!("{severe} vulnerabilities are {} or worse, or of unknown severity", self.args.fail_on.word()));
        }
        if expired > 0 {
            why.push(format!("{expired} exceptions have expired"));
        }
        if why.is_empty() {
            return Ok(());
        }
        Err(Kind::Accounts.error(format!(
            "the audit fails: {}; take versions without them, or say in {} why they may be shipped and until when",
            why.join(", "),
            audit::exceptions::FILE
        )))
    }
}
