//! A database of advisories: a JSON file of one or of a list of them, a zip of such files, or a folder of all of these.

use super::osv::Advisory;
use crate::error::{Kind, WithKind as _};
use crate::parallel;
use crate::zip::Zip;
use anyhow::Context as _;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// No advisory is longer, in bytes: what unpacks to more is no such thing.
const LONGEST: u64 = 64 * 1024 * 1024;

/// What was read.
#[derive(Debug, Default)]
pub struct Database {
    /// The advisories that could matter.
    pub advisories: Vec<Advisory>,
    /// How many there are in all.
    pub total: usize,
}

/// Advisories as one file may hold them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    One(Box<Advisory>),
    Several(Vec<Advisory>),
}

/// Reads a database; keeps what tells of any of these, given by ecosystem and name.
///
/// # Errors
/// [`Kind::Usage`] when there is none, or a file of it is no advisory; what cannot be read must not be taken for "nothing known".
pub fn read(path: &Path, wanted: &BTreeMap<String, BTreeSet<String>>) -> anyhow::Result<Database> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in WalkDir::new(path).sort_by_file_name() {
        let entry = entry.kind(Kind::Usage, || format!("cannot read the database {} (--db FILE|DIR)", path.display()))?;
        let ending = entry.path().extension().map(std::ffi::OsStr::to_ascii_lowercase);
        if entry.file_type().is_file() && ending.is_some_and(|ending| ending == "json" || ending == "zip") {
            files.push(entry.into_path());
        }
    }
    let parts = parallel::each_on(parallel::cores(), &files, |file| {
        let cannot = || format!("cannot read {}", file.display());
        let read = if file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip")) {
            of_zip(File::open(file).kind(Kind::Usage, cannot)?, wanted)
        } else {
            of_json(&std::fs::read(file).kind(Kind::Usage, cannot)?, wanted)
        };
        read.kind(Kind::Usage, || format!("cannot use {} as advisories of OSV", file.display()))
    })?;
    let mut database = Database::default();
    for part in parts {
        database.total += part.total;
        database.advisories.extend(part.advisories);
    }
    if database.total == 0 {
        return Err(Kind::Usage.error(format!("the database {} holds no advisory (--db FILE|DIR)", path.display())));
    }
    Ok(database)
}

fn of_json(bytes: &[u8], wanted: &BTreeMap<String, BTreeSet<String>>) -> anyhow::Result<Database> {
    let all = match serde_json::from_slice(bytes)? {
        Content::One(one) => vec![*one],
        Content::Several(all) => all,
    };
    let total = all.len();
    Ok(Database { advisories: all.into_iter().filter(|advisory| advisory.is_wanted(wanted)).collect(), total })
}

fn of_zip(file: File, wanted: &BTreeMap<String, BTreeSet<String>>) -> anyhow::Result<Database> {
    let zip = Zip::of_file(file)?;
    let names: Vec<&String> = zip.members().keys().filter(|name| name.to_ascii_lowercase().ends_with(".json")).collect();
    let parts = parallel::each_on(parallel::cores(), &names, |name| {
        of_json(&zip.read(name, LONGEST)?, wanted).with_context(|| format!("{name} is no advisory"))
    })?;
    let mut database = Database::default();
    for part in parts {
        database.total += part.total;
        database.advisories.extend(part.advisories);
    }
    Ok(database)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn advisory(id: &str, name: &str) -> String {
        format!(r#"{{"id":"{id}","affected":[{{"package":{{"ecosystem":"npm","name":"{name}"}},"versions":["1"]}}]}}"#)
    }

    #[test]
    fn files_lists_and_zips_are_read_and_what_nobody_has_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = BTreeMap::from([("npm".to_owned(), BTreeSet::from(["x".to_owned()]))]);
        let read = || read(folder.path(), &wanted);
        assert!(read().unwrap_err().to_string().contains("no advisory"));
        fs::write(folder.path().join("one.json"), advisory("A", "x")).unwrap();
        fs::write(folder.path().join("list.json"), format!("[{},{}]", advisory("B", "x"), advisory("C", "y"))).unwrap();
        let mut zip = crate::zip::tests::zip(&[("D.json", &advisory("D", "x"))]);
        fs::create_dir(folder.path().join("npm")).unwrap();
        fs::write(folder.path().join("npm/all.zip"), &zip).unwrap();
        let database = read().unwrap();
        let names: BTreeSet<String> = database.advisories.iter().flat_map(Advisory::names).collect();
        assert_eq!((database.total, names), (4, ["A", "B", "D"].map(str::to_owned).into()));
        let at = zip.len() / 3;
        zip[at] ^= 0xff;
        fs::write(folder.path().join("npm/all.zip"), &zip).unwrap();
        assert!(format!("{:#}", read().unwrap_err()).contains("all.zip"));
    }
}
