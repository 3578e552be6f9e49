//! A bundle is accounted for: its bill of materials, licences, provenance and vulnerabilities, on the miniature stack and on
//! stacks made on the spot. Each check sees the fault that it is there for.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

#[path = "accounts/bill.rs"]
mod bill;
mod common;
#[path = "accounts/licences.rs"]
mod licences;
#[path = "accounts/provenance.rs"]
mod provenance;
#[path = "accounts/sources.rs"]
mod sources;
#[path = "accounts/vulnerabilities.rs"]
mod vulnerabilities;
#[path = "accounts/yarn.rs"]
mod yarn;

use common::{Outcome, Place, ministack_place, workspace};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One build at a time: what is built is shared.
static BUILDING: Mutex<()> = Mutex::new(());

fn ministack(stack: &Path, dist: &Path, args: &[&str]) -> Outcome {
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("package").arg("--stack").arg(stack).arg("--build-dir").arg(ministack_place("build"));
    command.arg("--dist-dir").arg(dist).args(args);
    Outcome::of(&command.output().unwrap())
}

/// The folder of the miniature stack's bundle and archive.
static DIST: LazyLock<PathBuf> = LazyLock::new(|| {
    let dist = ministack_place("accounted dist");
    ministack(&workspace().join("examples/ministack"), &dist, &[]).good();
    dist
});

fn name() -> String {
    format!("dkumonitor-ministack-{VERSION}")
}

fn tree() -> PathBuf {
    DIST.join(name())
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

fn purls(bill: &Value) -> BTreeSet<String> {
    bill["components"].as_array().unwrap().iter().filter_map(|one| Some(one["purl"].as_str()?.to_owned())).collect()
}

/// A copy of the miniature stack, of the same name, in which something can be changed.
fn copy_of_ministack(folder: &Path) -> PathBuf {
    let stack = folder.join("ministack");
    let copied = Command::new("cp").arg("-R").arg(workspace().join("examples/ministack")).arg(&stack).status().unwrap();
    assert!(copied.success());
    stack
}
