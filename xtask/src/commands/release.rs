//! `release`: everything that is published of a version, in one folder.

use super::{Workshop, package};
use crate::cli;
use crate::error::{Kind, WithKind as _};
use crate::release::{self, REMOTE, Release, Remote, Repository};
use crate::sign::Signer;
use crate::stage::Extent;
use std::path::{Path, PathBuf};

/// Checks the repository, makes the package unless it was made elsewhere, and puts the release together.
///
/// # Errors
/// [`Kind::Usage`] with all that speaks against it; else those of [`package::run`] and of what cannot be put together.
pub fn run(args: &cli::Release) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.package.common, args.package.dist_dir.as_deref())?;
    let version = env!("CARGO_PKG_VERSION");
    let repository = Repository::look(&workshop.stack.root, &workshop.workspace, version, !args.package.network.offline)?;
    let mut problems = repository.problems(version, args.tag.as_deref());
    if args.package.sign.is_none() && !args.dry_run {
        problems.push("there is no key to sign it with: --sign KEY, or --dry-run to see all but the signatures".to_owned());
    }
    if !problems.is_empty() {
        let list: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
        return Err(Kind::Usage.error(format!("cannot release {version}:{list}")));
    }
    if let Remote::Silent(why) = &repository.remote {
        workshop
            .ui
            .line(&format!("  ! whether the tag {} is at {REMOTE} too was not to be learnt: {why}", release::tag(version)));
    }
    let signer = args.package.sign.as_deref().map(|key| Signer::open(key, &workshop.workspace)).transpose()?;
    let folder = match &args.from {
        Some(folder) => folder.clone(),
        None => {
            package::run(&args.package)?;
            workshop.dirs.dist.clone()
        }
    };
    let files = files(args, &workshop, &folder)?;
    let changelog = repository.changelog.unwrap_or_default();
    let release = Release {
        version,
        notes: release::notes(&changelog, version).unwrap_or_default(),
        signer: signer.as_ref(),
        epoch: package::bundle_epoch(&workshop)?,
    };
    let ending = if signer.is_some() { "" } else { "-dry-run" };
    let target = workshop.dirs.dist.join(format!("release-{version}{ending}"));
    let step = workshop.ui.step("release", "assemble");
    step.close(release.assemble(&files, &target), |()| format!("{} files", files.len()))?;
    workshop.ui.artifact(&target, None, None);
    workshop.ui.line(&what_next(args, version));
    Ok(())
}

/// The files that the release is made of.
fn files(args: &cli::Release, workshop: &Workshop, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = crate::stage::bundle_name(&workshop.stack, Extent::Whole);
    let version = concat!("-", env!("CARGO_PKG_VERSION"));
    // What was gathered is all meant: bundles of every platform, and of fewer components where not all can be made.
    let product = name.trim_end_matches(version);
    let fits = |file: &str| match args.from {
        None => file.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['.', '-'])),
        Some(_) => {
            file.split_once(version).is_some_and(|(start, rest)| start.starts_with(product) && rest.starts_with(['.', '-']))
        }
    };
    let files = release::files(folder, fits).kind(Kind::Usage, || "cannot find the files of the release".to_owned())?;
    if files.iter().any(|file| crate::archive::Format::of(file).is_some()) {
        return Ok(files);
    }
    let way_out = if args.from.is_some() {
        "give the folder with what `package` has written as --from"
    } else {
        "leave --skip-archive out"
    };
    Err(Kind::Usage
        .error(format!("cannot release without an archive: there is none of {name} in {}; {way_out}", folder.display())))
}

/// What is left to be done by a person.
fn what_next(args: &cli::Release, version: &str) -> String {
    let tag = release::tag(version);
    match (args.package.sign.is_some(), args.tag.is_some()) {
        (false, _) => format!("  nothing was signed or published; with --sign KEY it would be a release of {version}"),
        (true, true) => "  nothing was published: that is for whoever may upload this folder".to_owned(),
        (true, false) => {
            format!("  nothing was published: tag the commit (git tag -a {tag} -m {tag}), push the tag, upload this folder")
        }
    }
}
