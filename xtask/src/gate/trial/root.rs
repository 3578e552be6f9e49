//! The root of another system, to try a bundle in: whether a folder can be that, found out before anything else is done.

use super::packed::Form;
use crate::error::{Kind, WithKind as _};
use anyhow::ensure;
use std::path::{Path, PathBuf};

/// What is put over folders of it: the devices, its processes, what is written to.
const NEEDED: [&str; 3] = ["dev", "proc", "tmp"];

/// Where packages are installed to.
const OPT: &str = "opt";

/// The folder whose system a file of this form is to be tried in, if it can be.
///
/// # Errors
/// [`Kind::Usage`] when it cannot, with the way out.
pub fn usable(root: &Path, form: Form) -> anyhow::Result<PathBuf> {
    ensure!(cfg!(target_os = "linux"), Kind::Usage.error("--root needs Linux"));
    if form == Form::Oci {
        return Err(Kind::Usage.error("--root is for archives and packages: an image brings its own system (`package --base`)"));
    }
    let cannot = || format!("cannot use --root {}", root.display());
    let path = root.canonicalize().kind(Kind::Usage, cannot)?;
    let refuse = |why: String| Err(Kind::Usage.error(format!("{}: {why}", cannot())));
    if !path.is_dir() {
        return refuse("it is no folder".to_owned());
    }
    if path == Path::new("/") {
        return refuse("that is this system itself; leave --root away".to_owned());
    }
    let needed = NEEDED.into_iter().chain((form != Form::Archive).then_some(OPT));
    let missing: Vec<&str> = needed.filter(|name| !is_folder(&path.join(name))).collect();
    match missing.as_slice() {
        [] => Ok(path),
        [OPT] => refuse(format!("it has no /opt, where packages are installed; mkdir {}", path.join(OPT).display())),
        missing => refuse(format!(
            "it has no /{}: it is not the root of a system; debootstrap makes one (docs/gate.md)",
            missing.join(", /")
        )),
    }
}

/// A folder, and no link to one: a link would lead to this system's.
fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_the_root_of_a_system_is_refused_with_the_way_out() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let refused = |path: &Path, form| {
            let error = usable(path, form).unwrap_err();
            assert_eq!(crate::error::kind_of(&error), Kind::Usage);
            format!("{error:#}")
        };
        assert!(refused(&root.join("nothing"), Form::Archive).contains("cannot use --root"));
        assert!(refused(Path::new("/"), Form::Archive).contains("leave --root away"));
        assert!(refused(&root, Form::Archive).contains("it has no /dev, /proc, /tmp: it is not the root of a system"));
        std::os::unix::fs::symlink("/tmp", root.join("tmp")).unwrap();
        for name in ["dev", "proc"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        assert!(refused(&root, Form::Archive).contains("it has no /tmp:"));
        std::fs::remove_file(root.join("tmp")).unwrap();
        std::fs::create_dir(root.join("tmp")).unwrap();
        assert_eq!(usable(&root, Form::Archive).unwrap(), root);
        assert!(refused(&root, Form::Deb).contains("it has no /opt"));
        std::fs::create_dir(root.join("opt")).unwrap();
        assert!(usable(&root, Form::Rpm).is_ok());
        assert!(refused(&root, Form::Oci).contains("an image brings its own system"));
        std::fs::write(root.join("file"), "").unwrap();
        assert!(refused(&root.join("file"), Form::Deb).contains("it is no folder"));
    }
}
