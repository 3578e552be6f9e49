//! A package of Debian's kind (deb(5)): an `ar` of a version, a tar of what the package says, and a tar of what it holds.

use super::{Package, Script, plain, section};
use crate::archive::content::Content;
use crate::archive::read::{Member, MemberKind, Take, tar_members};
use anyhow::{Context as _, ensure};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// What dpkg runs.
const SCRIPTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "config"];

/// What says how a member of an `ar` is called and how large it is, in bytes.
const HEADER: usize = 60;

/// A member of the `ar`: its name, where it begins, how large it is.
type Part = (String, u64, u64);

/// Gives all that it would install, and what it says of itself.
pub fn read(path: &Path, take: &mut Take<'_>) -> anyhow::Result<Package> {
    let parts = parts(path)?;
    ensure!(parts.first().is_some_and(|(name, ..)| name == "debian-binary"), "it is no .deb: its first part is another");
    let part = |start: &str| {
        let found = parts.iter().find(|(name, ..)| name.starts_with(start));
        found.with_context(|| format!("it is no .deb: it has no {start}"))
    };
    let tar = |(_, from, size): &Part| plain(section(path, *from, *size)?);
    let package = control(tar(part("control.tar")?)?)?;
    tar_members(tar(part("data.tar")?)?, 0, take).context("its data.tar is damaged")?;
    Ok(package)
}

fn parts(path: &Path) -> anyhow::Result<Vec<Part>> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    let (mut at, mut parts) = (8_u64, Vec::new());
    while at + HEADER as u64 <= end {
        let mut header = [0; HEADER];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header)?;
        let text = |from: usize, to: usize| String::from_utf8_lossy(&header[from..to]).trim_end().to_owned();
        ensure!(&header[58..] == b"`\n", "its part at byte {at} is damaged");
        let size: u64 = text(48, 58).parse().with_context(|| format!("its part at byte {at} is damaged"))?;
        let from = at + HEADER as u64;
        ensure!(from.checked_add(size).is_some_and(|to| to <= end), "it is cut short");
        parts.push((text(0, 16).trim_end_matches('/').to_owned(), from, size));
        // Each begins at an even place.
        at = from + size + size % 2;
    }
    Ok(parts)
}

fn control(tar: impl std::io::Read) -> anyhow::Result<Package> {
    let (mut files, mut failed) = (Vec::new(), None);
    let mut keep = |_, member: Member, content: Content| {
        if matches!(member.kind, MemberKind::File(_)) {
            match content.whole() {
                Ok(whole) => files.push((super::from_root(&member.name), String::from_utf8_lossy(&whole).into_owned())),
                Err(error) => failed = Some(error),
            }
        }
        failed.is_none()
    };
    tar_members(tar, 0, &mut keep).context("its control.tar is damaged")?;
    failed.map_or(Ok(()), Err)?;
    let (_, text) = files.iter().find(|(name, _)| name == "control").context("it does not say what it is (control)")?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let needed = |name: &str| field(name).map(str::to_owned).with_context(|| format!("its control has no {name}"));
    let list = ["Pre-Depends", "Depends"].into_iter().filter_map(field).flat_map(|text| text.split(','));
    // [EPOCH:]VERSION[-RELEASE]
    let version = needed("Version")?;
    let version = version.split_once(':').map_or(version.as_str(), |(_, rest)| rest);
    let scripts = files.iter().filter(|(name, _)| SCRIPTS.contains(&name.as_str())).map(|(name, text)| Script {
        when: name.clone(),
        interpreter: text.lines().next().and_then(|line| line.strip_prefix("#!")).unwrap_or_default().trim().to_owned(),
        text: text.clone(),
    });
    Ok(Package {
        name: needed("Package")?,
        version: version.rsplit_once('-').map_or(version, |(version, _)| version).to_owned(),
        arch: needed("Architecture")?,
        requires: list.map(|one| one.trim().to_owned()).collect(),
        scripts: scripts.collect(),
    })
}
