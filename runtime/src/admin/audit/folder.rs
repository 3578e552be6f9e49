//! Who owns what, and who else may read or change it.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::{Audit, Severity};
use crate::install::farewell::shell_quoted;
use crate::install::render::SECRETS;

/// What others may not read, and how bad it is if they can. Where they get in is decided further up; each is closed by itself
/// nevertheless, so that one mistake is not enough.
const CLOSED: [(&str, Severity); 4] =
    [(SECRETS, Severity::Critical), ("conf", Severity::Warning), ("run", Severity::Warning), ("storage", Severity::Warning)];

/// Looks at a data folder and all that the launcher has made in it. Of the storage, which may hold millions of files, no more than two
/// levels.
pub fn look(audit: &mut Audit, root: &Path) {
    check(audit, root, Severity::Critical);
    for (place, severity) in CLOSED {
        let depth = if place == "storage" { 2 } else { 8 };
        walk(audit, &root.join(place), severity, depth);
    }
    for folder in ["update", "update.draft", "previous"] {
        walk(audit, &root.join(folder), Severity::Warning, 8);
    }
}

fn walk(audit: &mut Audit, path: &Path, severity: Severity, depth: usize) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    // A link has no mode; what it leads to is somebody else's, unless it is where the storage was put.
    let meta = if meta.is_symlink() { fs::metadata(path) } else { Ok(meta) };
    let Ok(meta) = meta else { return };
    let severity = if meta.file_type().is_socket() { Severity::Critical } else { severity };
    check_one(audit, path, &meta, severity);
    // The secrets have their own turn.
    if meta.is_dir() && depth > 0 {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let path = entry.path();
            if severity == Severity::Critical || !path.ends_with(SECRETS) {
                walk(audit, &path, severity, depth - 1);
            }
        }
    }
}

fn check(audit: &mut Audit, path: &Path, severity: Severity) {
    if let Ok(meta) = fs::metadata(path) {
        check_one(audit, path, &meta, severity);
    }
}

fn check_one(audit: &mut Audit, path: &Path, meta: &Metadata, severity: Severity) {
    audit.looked += 1;
    let (mode, shown) = (meta.mode() & 0o7777, path.display().to_string());
    let mend = || format!("chmod go= {}", shell_quoted(&shown));
    if mode & 0o022 != 0 {
        audit.find("mode", Severity::Critical, &shown, "others may change it: mode ", &format!("{mode:04o}"), &mend());
    } else if mode & 0o077 != 0 {
        audit.find("mode", severity, &shown, "others may look into it: mode ", &format!("{mode:04o}"), &mend());
    }
    if meta.uid() != audit.owner {
        let severity = if meta.uid() == 0 { Severity::Warning } else { Severity::Critical };
        let mend = format!("chown {} {}", audit.owner, shell_quoted(&shown));
        audit.find(
            "owner",
            severity,
            &shown,
            "it does not belong to the data folder's owner, but to user ",
            &meta.uid().to_string(),
            &mend,
        );
    }
}

/// A file that only its owner, who is the data folder's, may read.
pub fn private_file(audit: &mut Audit, path: &Path, what: &str) {
    let Ok(meta) = fs::metadata(path) else { return };
    let shown = path.display().to_string();
    if meta.mode() & 0o077 != 0 && !audit.has("mode", &shown) {
        audit.find("mode", Severity::Critical, &shown, what, "", &format!("chmod go= {}", shell_quoted(&shown)));
    }
}

/// Looks at what is above a folder: whoever may change that can put another in its place.
pub fn above(audit: &mut Audit, folder: &Path) {
    for path in folder.ancestors().skip(1) {
        let Ok(meta) = fs::metadata(path) else { continue };
        let (mode, shown) = (meta.mode(), path.display().to_string());
        let sticky = mode & 0o1000 != 0;
        if audit.has("parent", &shown) {
            continue;
        }
        let quoted = shell_quoted(&shown);
        if mode & 0o002 != 0 && !sticky {
            audit.find(
                "parent",
                Severity::Critical,
                &shown,
                "everybody may put another folder in the place of what is below",
                "",
                &format!("chmod o-w {quoted}"),
            );
        } else if mode & 0o020 != 0 && !sticky && meta.gid() != 0 {
            audit.find(
                "parent",
                Severity::Warning,
                &shown,
                "a group may put another folder in the place of what is below: ",
                &meta.gid().to_string(),
                &format!("chmod g-w {quoted}"),
            );
        } else if meta.uid() != 0 && meta.uid() != audit.owner {
            audit.find(
                "parent",
                Severity::Warning,
                &shown,
                "somebody else may put another folder in the place of what is below: user ",
                &meta.uid().to_string(),
                &format!("chown root {quoted}, or use another place"),
            );
        }
    }
}

/// Looks at the bundle's folders and programs: who may change them decides what runs.
pub fn programs(audit: &mut Audit, bundle: &Path) {
    let folders = ["", "bin", "conf", "lib", "share", "static"].map(|folder| bundle.join(folder));
    let programs = fs::read_dir(bundle.join("bin")).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in folders.into_iter().chain(programs) {
        // Several names may lead to one program.
        let Ok(path) = path.canonicalize() else { continue };
        let Ok(meta) = fs::metadata(&path) else { continue };
        let shown = path.display().to_string();
        if audit.has("program", &shown) {
            continue;
        }
        audit.looked += 1;
        if meta.mode() & 0o022 != 0 {
            let mend = format!("chmod go-w {}", shell_quoted(&shown));
            audit.find(
                "program",
                Severity::Critical,
                &shown,
                "others may change what the services run: mode ",
                &format!("{:04o}", meta.mode() & 0o7777),
                &mend,
            );
        }
        if meta.uid() != 0 && meta.uid() != audit.owner {
            let mend = format!("chown {} {}", audit.owner, shell_quoted(&shown));
            audit.find(
                "program",
                Severity::Critical,
                &shown,
                "somebody else may change what the services run: user ",
                &meta.uid().to_string(),
                &mend,
            );
        }
    }
}
