//! What is said when sources could not be had: each address with its reason, the ways out, and the exit status.

use super::{Options, reach};
use crate::error::Kind;
use crate::progress::bytes;
use crate::stack::lock::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Why one address did not give the archive.
#[derive(Debug)]
pub(super) enum Failure {
    /// This machine has no such file.
    Absent(String),
    /// The server has no such file.
    NotFound(String),
    /// It will not be given, or not safely.
    Refused(String),
    /// What may pass by itself did not pass in time.
    GaveUp(String),
    /// The host cannot be connected to.
    Unreachable {
        /// `host:port`.
        host: String,
        why: String,
    },
    /// Something came, but not what was pinned.
    Wrong {
        /// What it seems to be.
        what: String,
        /// Where it can be looked at.
        evidence: PathBuf,
    },
    /// Not tried: `--offline`.
    Offline,
    /// This machine's fault: no use trying other addresses.
    Local(String),
}

impl Failure {
    /// An error of the store's own disk.
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    pub(super) fn local(error: std::io::Error) -> Self {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let way_out = if full { "; make room or choose another --build-dir" } else { "" };
        Self::Local(format!("cannot write to the store: {error}{way_out}"))
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Absent(why) | Self::NotFound(why) | Self::Refused(why) | Self::GaveUp(why) | Self::Local(why) => why.clone(),
            Self::Unreachable { host, why } => format!("cannot connect to {host}: {why}"),
            Self::Wrong { what, evidence } => format!("wrong content: {what} (kept: {})", evidence.display()),
            Self::Offline => "not tried (--offline)".to_owned(),
        }
    }
}

/// A source that could not be had.
pub(super) struct Failed<'a> {
    pub(super) source: &'a Source,
    /// Each address as people may see it, and its failure.
    pub(super) tries: Vec<(String, Failure)>,
}

impl Failed<'_> {
    /// Whether hosts that cannot be reached are all that stands in the way.
    pub(super) fn is_unreachable(&self) -> bool {
        let failures = || self.tries.iter().map(|(_, failure)| failure);
        failures().any(|failure| matches!(failure, Failure::Unreachable { .. }))
            && failures().all(|failure| matches!(failure, Failure::Unreachable { .. } | Failure::Absent(_)))
    }

    /// Whether it failed only because what came was wrong.
    fn is_wrong(&self) -> bool {
        let failures = || self.tries.iter().map(|(_, failure)| failure);
        failures().any(|failure| matches!(failure, Failure::Wrong { .. }))
            && failures().all(|failure| matches!(failure, Failure::Wrong { .. } | Failure::Absent(_) | Failure::NotFound(_)))
    }

    /// Whether it only lacks permission to use the network.
    fn is_offline(&self) -> bool {
        let failures = || self.tries.iter().map(|(_, failure)| failure);
        failures().any(|failure| matches!(failure, Failure::Offline))
            && failures().all(|failure| matches!(failure, Failure::Offline | Failure::Absent(_)))
    }

    /// Whether it is this machine that stands in the way.
    fn is_local(&self) -> bool {
        self.tries.iter().any(|(_, failure)| matches!(failure, Failure::Local(_)))
    }

    /// One line for the step.
    pub(super) fn summary(&self) -> String {
        let what = if self.is_offline() {
            "is not in the store"
        } else if self.is_local() {
            "could not be stored"
        } else if self.is_wrong() {
            "came with wrong content"
        } else {
            "could not be had from any address"
        };
        format!("{} {what}", self.source.version)
    }

    fn title(&self) -> String {
        format!("{} {}", self.source.name, self.source.version)
    }

    /// How the archive has to be called in a mirror.
    fn mirror_name(&self) -> String {
        self.source.file_names().into_iter().next().unwrap_or_default()
    }
}

/// The report on all failed sources out of `count` that were missing, and the kind of the failure.
pub(super) fn report(failed: &[Failed<'_>], count: usize, options: &Options) -> (Kind, String) {
    let kind = if failed.iter().any(Failed::is_wrong) { Kind::Integrity } else { Kind::Fetch };
    let text = if failed.iter().all(Failed::is_unreachable) {
        nothing_reachable(failed)
    } else if options.offline && failed.iter().all(Failed::is_offline) {
        offline(failed, options)
    } else {
        each(failed, count, options)
    };
    (kind, text)
}

/// No address of any source can be reached: most likely the machine has no way out, so that is said, and said once.
fn nothing_reachable(failed: &[Failed<'_>]) -> String {
    let mut hosts: BTreeMap<&str, &str> = BTreeMap::new();
    for (_, failure) in failed.iter().flat_map(|failed| &failed.tries) {
        if let Failure::Unreachable { host, why } = failure {
            hosts.insert(host, why);
        }
    }
    let titles: Vec<String> = failed.iter().map(Failed::title).collect();
    let names: BTreeSet<String> = failed.iter().map(Failed::mirror_name).collect();
    let mut text = format!("cannot reach any address of {}:", titles.join(", "));
    for (host, why) in hosts {
        let _ = write!(text, "\n  {host}: {why}");
    }
    let proxy = match reach::proxy_variable() {
        Some(name) => format!("check the proxy that {name} gives (it was used; NO_PROXY excepts hosts)"),
        None => "behind a proxy: set HTTPS_PROXY=http://HOST:PORT (NO_PROXY excepts hosts)".to_owned(),
    };
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    let _ = write!(
        text,
        "\nways out:\n  {proxy}\n  with the archives at hand: --mirror FOLDER or --mirror URL that has {names}\
        \n  to try the tool without any of them: --stack examples/ministack"
    );
    text
}

fn offline(failed: &[Failed<'_>], options: &Options) -> String {
    let mut text = format!("cannot work offline: {} lacks {} of the sources", options.store.display(), failed.len());
    for source in failed {
        let size = source.source.size.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
        let hash = source.source.sha256.as_deref().unwrap_or_default();
        let _ = write!(text, "\n  {}: {} (sha256 {hash}{size})", source.title(), source.source.file_names().join(" or "));
    }
    text += "\nput these files into a folder and give it with --mirror FOLDER, or run once without --offline";
    text
}

/// Every source with every address.
fn each(failed: &[Failed<'_>], count: usize, options: &Options) -> String {
    let mut text = format!("cannot fetch {} of the {count} missing sources", failed.len());
    for source in failed {
        let _ = write!(text, "\n  {}", source.title());
        for (address, failure) in &source.tries {
            let _ = write!(text, "\n    {address}: {}", failure.text());
        }
    }
    if failed.iter().any(Failed::is_wrong) {
        text += "\nif upstream really published something new under the same address, look at it, then change sha256 and size in vendor.lock";
    }
    if !options.offline && failed.iter().any(|failed| !failed.is_wrong() && !failed.is_local()) {
        text += "\nif the archives can be had elsewhere, give the folder or address with --mirror FOLDER|URL";
    }
    text
}
