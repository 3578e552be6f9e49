//! Lays out members in a folder, as a package's tool or a container's engine would below `/`.
//!
//! Promises: nothing is written outside of that folder: names are plain, and no link is followed on the way to a member.

use super::oci::LAYER;
use crate::archive::content::Content;
use crate::archive::read::{Member, MemberKind};
use crate::dirs::remove_all;
use anyhow::{Context as _, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Component, Path, PathBuf};

/// A whiteout's name begins so: it removes what has the rest of its name.
pub const WHITEOUT: &str = ".wh.";

/// Removes all that lower layers have in its folder.
pub const OPAQUE: &str = ".wh..wh..opq";

/// A folder that fills.
pub struct Laying {
    root: PathBuf,
    /// The current layer, and what its members have made: what it removes is of those below it.
    layer: usize,
    made: BTreeSet<PathBuf>,
    /// Folders whose modes are set in the end, since they may not be written to.
    modes: Vec<(PathBuf, u32)>,
    give: bool,
    failed: Option<anyhow::Error>,
}

impl Laying {
    /// Begins with an empty folder.
    pub fn new(root: &Path) -> Self {
        let give = rustix::process::geteuid().is_root();
        Self { root: root.to_owned(), layer: 0, made: BTreeSet::new(), modes: Vec::new(), give, failed: None }
    }

    /// Lays out one member, by whose number its layer is known; whether to go on.
    pub fn take(&mut self, at: usize, member: &Member, content: &Content) -> bool {
        if at >> LAYER != self.layer {
            self.layer = at >> LAYER;
            self.made.clear();
        }
        let done = self.lay(member, content).with_context(|| format!("cannot lay out {}", member.name));
        self.failed = done.err();
        self.failed.is_none()
    }

    /// Sets what can be set only now, or says what failed.
    pub fn finish(self) -> anyhow::Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.modes.iter().rev().try_for_each(|(path, mode)| Ok(fs::set_permissions(path, fs::Permissions::from_mode(*mode))?))
    }

    fn lay(&mut self, member: &Member, content: &Content) -> anyhow::Result<()> {
        let name = super::from_root(&member.name);
        if name.is_empty() {
            return Ok(());
        }
        let name = Path::new(&name);
        ensure!(name.components().all(|part| matches!(part, Component::Normal(_))), "it would lie elsewhere");
        let (folder, file) = (name.parent().unwrap_or(Path::new("")), name.file_name().unwrap_or_default().to_string_lossy());
        self.folder(folder)?;
        let path = self.root.join(name);
        if file == OPAQUE {
            let entries = self.root.join(folder).read_dir()?.collect::<Result<Vec<_>, _>>()?;
            return entries.iter().try_for_each(|entry| self.whiteout(&entry.path()));
        }
        if let Some(gone) = file.strip_prefix(WHITEOUT) {
            return self.whiteout(&self.root.join(folder).join(gone));
        }
        if !(matches!(member.kind, MemberKind::Folder) && path.symlink_metadata().is_ok_and(|meta| meta.is_dir())) {
            remove_all(&path)?;
        }
        match &member.kind {
            MemberKind::Folder => {
                fs::create_dir_all(&path)?;
                self.modes.push((path.clone(), member.mode & 0o1777));
            }
            MemberKind::File(_) => content.write_to(&mut fs::File::create(&path)?)?,
            MemberKind::Link(target) => symlink(target, &path)?,
            MemberKind::Hard(target) => return Ok(fs::hard_link(self.inside(target)?, &path)?),
            MemberKind::Other(what) => bail!("it is {what}"),
        }
        if self.give {
            let number = |number: u64| u32::try_from(number).ok();
            lchown(&path, number(member.owner.0), number(member.owner.1))?;
        }
        if matches!(member.kind, MemberKind::File(_)) {
            // Nobody else on this machine shall gain anything by what lies here for a while.
            fs::set_permissions(&path, fs::Permissions::from_mode(member.mode & 0o777))?;
        }
        self.made.insert(path);
        Ok(())
    }

    /// Sees to it that a folder is there, and that no link leads to it.
    fn folder(&mut self, folder: &Path) -> anyhow::Result<()> {
        let mut path = self.root.clone();
        for part in folder.components() {
            path.push(part);
            match path.symlink_metadata() {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => bail!("{} on the way to it is no folder", path.display()),
                Err(_) => fs::create_dir(&path)?,
            }
        }
        Ok(())
    }

    /// Removes what lower layers have there.
    fn whiteout(&self, path: &Path) -> anyhow::Result<()> {
        if self.made.iter().any(|made| made.starts_with(path)) { Ok(()) } else { Ok(remove_all(path)?) }
    }

    /// Where a member lies that another one names, which no link may lead to.
    fn inside(&mut self, name: &str) -> anyhow::Result<PathBuf> {
        let name = PathBuf::from(super::from_root(name));
        ensure!(name.components().all(|part| matches!(part, Component::Normal(_))), "it leads elsewhere");
        self.folder(name.parent().unwrap_or(Path::new("")))?;
        Ok(self.root.join(name))
    }
}
