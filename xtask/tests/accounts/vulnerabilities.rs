//! The audit against a database of vulnerabilities, and its exceptions.

use super::{DIST, Outcome, copy_of_ministack};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// An advisory on a Go module that every version before `fixed` has.
fn advisory(id: &str, module: &str, fixed: &str, severity: &str) -> Value {
    json!({
        "id": id, "aliases": [format!("CVE-of-{id}")], "summary": "it goes wrong", "database_specific": { "severity": severity },
        "affected": [{ "package": { "ecosystem": "Go", "name": module },
            "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }, { "fixed": fixed }] }] }],
    })
}

fn audit(stack: &Path, database: &Path, more: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("audit").arg("--stack").arg(stack).arg("--dist-dir").arg(&*DIST).arg("--db").arg(database).args(more);
    Outcome::of(&command.output().unwrap())
}

#[test]
fn a_vulnerability_in_range_fails_the_audit_unless_it_is_excused_and_the_excuse_still_counts() {
    LazyLock::force(&DIST);
    let folder = tempfile::tempdir().unwrap();
    let stack = copy_of_ministack(folder.path());
    let database = folder.path().join("osv");
    fs::create_dir(&database).unwrap();
    let module = "github.com/BurntSushi/toml";
    let plant = |id: &str, fixed: &str, severity: &str| {
        fs::write(database.join(format!("{id}.json")), advisory(id, module, fixed, severity).to_string()).unwrap();
    };
    plant("GHSA-past", "1.6.0", "CRITICAL");
    plant("GHSA-low", "1.7.0", "LOW");
    let text = audit(&stack, &database, &[]).good();
    assert!(text.contains("GHSA-low") && !text.contains("GHSA-past"), "{text}");
    audit(&stack, &database, &["--fail-on", "low"]).bad(11, &["1 vulnerabilities are low or worse"]);
    plant("GHSA-now", "1.7.0", "HIGH");
    let text =
        audit(&stack, &database, &[]).bad(11, &["GHSA-now", "in go-carbon: it goes wrong", "fixed in 1.7.0", "audit.toml"]);
    assert!(text.contains("pkg:golang/github.com/BurntSushi/toml@v1.6.0"), "{text}");
    let excuse = |id: &str, until: &str| {
        let text = format!("[[exception]]\nid = \"{id}\"\nreason = \"files are ours\"\nuntil = \"{until}\"\n");
        fs::write(stack.join("audit.toml"), text).unwrap();
    };
    excuse("CVE-of-GHSA-now", "2999-12-31");
    let text = audit(&stack, &database, &[]).good();
    assert!(text.contains("excused until 2999-12-31: files are ours"), "{text}");
    excuse("GHSA-now", "2020-01-01");
    audit(&stack, &database, &[]).bad(11, &["was excused until 2020-01-01", "1 exceptions have expired"]);
    excuse("GHSA-other", "2999-12-31");
    let said = audit(&stack, &database, &["--json"]);
    assert_eq!(said.status, 11);
    let json: Value = serde_json::from_str(&said.text[..said.text.rfind("}\n").unwrap() + 1]).unwrap();
    assert_eq!(json["unused-exceptions"], json!(["GHSA-other"]));
    assert_eq!((&json["findings"][0]["fails"], &json["findings"][1]["fails"]), (&json!(true), &json!(false)));
    fs::write(database.join("broken.json"), "{\"id\": ").unwrap();
    audit(&stack, &database, &[]).bad(2, &["broken.json"]);
    audit(&stack, &folder.path().join("nowhere"), &[]).bad(2, &["--db"]);
}
