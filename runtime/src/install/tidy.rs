//! Nothing is left of a folder whose maker was killed.
//!
//! While the installer makes a folder beside its place, a second process waits for its end, and removes what is there should that have
//! come too early. What a machine that lost its power leaves is removed by the next installation into the same place.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use crate::os;

/// What the second process is told to do. No verb begins like this.
const WORD: &str = "@tidy";
/// What the name of such a folder has between that of its place and the number of the process that makes it.
const MARK: &str = ".new-";

/// The folder beside `place` that this process may make things in.
#[must_use]
pub fn beside(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    // A name may have 255 bytes, and ours has some more than that of the place.
    let end = (0..=name.len().min(200)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    place.with_file_name(format!(".{}{MARK}{}", &name[..end], std::process::id()))
}

/// Removes what killed processes left beside `place`.
pub fn remove_left(place: &Path) {
    let ours = beside(place);
    let ours = ours.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((stem, _)) = ours.rsplit_once(MARK) else { return };
    for entry in place.parent().and_then(|parent| fs::read_dir(parent).ok()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix(MARK)?.parse::<i32>().ok());
        if pid.is_some_and(|pid| os::start_time(pid).is_none()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The second process, from our side.
#[derive(Debug)]
pub struct Tidier(Option<Child>);

impl Tidier {
    /// Begins to wait for our end. Where that cannot be, nobody waits.
    #[must_use]
    pub fn begin(folder: &Path) -> Self {
        let program = std::env::current_exe();
        let start = program.and_then(|program| {
            let mut command = Command::new(program);
            command.arg0("dkm").arg(WORD).arg(folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            // What ends us by way of the terminal is not to end it.
            os::leave_terminal(&mut command);
            command.spawn()
        });
        Self(start.ok())
    }

    /// The folder is in its place, or removed: there is nothing to wait for.
    pub fn end(mut self) {
        if let Some(mut child) = self.0.take() {
            if let Some(mut stdin) = child.stdin.take() {
                let _ = stdin.write_all(b".");
            }
            let _ = child.wait();
        }
    }
}

/// The second process; none when these are no arguments for it.
pub fn help(arguments: &[OsString]) -> Option<ExitCode> {
    let [_, word, folder] = arguments else { return None };
    if word != WORD {
        return None;
    }
    let folder = Path::new(folder);
    let mut said = [0];
    let ended_early = std::io::stdin().read_exact(&mut said).is_err();
    if ended_early && folder.file_name().is_some_and(|name| name.to_string_lossy().contains(MARK)) {
        let _ = fs::remove_dir_all(folder);
    }
    Some(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_make_stays() {
        let temp = tempfile::tempdir().unwrap();
        let place = temp.path().join("the place");
        // No system gives out this number.
        let dead = temp.path().join(".the place.new-2147483646");
        let others = [temp.path().join(".the place.new-x"), temp.path().join(".another.new-2147483646"), beside(&place)];
        for folder in others.iter().chain([&dead]) {
            fs::create_dir(folder).unwrap();
        }
        remove_left(&place);
        assert!(!dead.exists());
        assert!(others.iter().all(|folder| folder.exists()));
    }

    #[test]
    fn long_names_stay_names() {
        let name = "ü".repeat(127);
        let beside = beside(Path::new("/").join(&name).as_path());
        assert!(beside.file_name().unwrap().len() <= 255);
    }
}
