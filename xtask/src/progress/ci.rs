//! What continuous integration services make of certain lines: groups that can be folded, and failures that are shown at the
//! top. Which service it is, is told by the variables that it sets itself.

use std::ffi::OsString;
use std::fmt::Write as _;

/// A service whose lines are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// GitHub Actions, and what takes its words: Gitea, Forgejo.
    GitHub,
    /// GitLab.
    GitLab,
    /// Buildkite.
    Buildkite,
    /// Azure Pipelines.
    Azure,
}

impl Service {
    /// The one that runs this program.
    pub fn of_this_run() -> Option<Self> {
        Self::detect(|name| std::env::var_os(name))
    }

    fn detect(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let all = [
            ("GITHUB_ACTIONS", Self::GitHub),
            ("GITLAB_CI", Self::GitLab),
            ("BUILDKITE", Self::Buildkite),
            ("TF_BUILD", Self::Azure),
        ];
        let is_set = |name: &str| variable(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        all.into_iter().find_map(|(name, service)| is_set(name).then_some(service))
    }

    /// Lines of somebody else's under a title, folded where the service folds. `now` is in seconds since 1970; a failure's
    /// group is open where the service can open it.
    pub fn group(self, title: &str, lines: &str, failed: bool, now: i64) -> String {
        let mut text = match self {
            Self::GitHub => format!("::group::{title}\n"),
            Self::Azure => format!("##[group]{title}\n"),
            Self::Buildkite => format!("{} {title}\n", if failed { "+++" } else { "---" }),
            Self::GitLab => {
                let fold = if failed { "" } else { "[collapsed=true]" };
                format!("\u{1b}[0Ksection_start:{now}:{}{fold}\r\u{1b}[0K{title}\n", section(title))
            }
        };
        for line in lines.lines() {
            let _ = writeln!(text, "  | {}", self.harmless(line));
        }
        match self {
            Self::GitHub => text.push_str("::endgroup::\n"),
            Self::Azure => text.push_str("##[endgroup]\n"),
            // The next group, or the next `---`, ends it.
            Self::Buildkite => {}
            Self::GitLab => {
                let _ = write!(text, "\u{1b}[0Ksection_end:{now}:{}\r\u{1b}[0K\n", section(title));
            }
        }
        text
    }

    /// A line of a tool, which must not give orders to the service. Words of the kind `::error::` count at a line's begin
    /// only, which no such line has; the older kind counts anywhere.
    pub fn harmless(self, line: &str) -> String {
        match self {
            Self::GitHub | Self::Azure => line.replace("##[", "# #[").replace("##vso[", "# #vso["),
            Self::GitLab | Self::Buildkite => line.to_owned(),
        }
    }

    /// The line that puts a failure where it is seen first, if the service has such a place.
    pub fn failure(self, title: &str, text: &str) -> Option<String> {
        match self {
            Self::GitHub => {
                let title = escape(title, &[('%', "%25"), ('\r', "%0D"), ('\n', "%0A"), (':', "%3A"), (',', "%2C")]);
                Some(format!("::error title={title}::{}", escape(text, &[('%', "%25"), ('\r', "%0D"), ('\n', "%0A")])))
            }
            Self::Azure => {
                let text = escape(&format!("{title}: {text}"), &[('%', "%AZP25"), ('\r', "%0D"), ('\n', "%0A")]);
                Some(format!("##vso[task.logissue type=error]{text}"))
            }
            Self::GitLab | Self::Buildkite => None,
        }
    }
}

fn escape(text: &str, pairs: &[(char, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match pairs.iter().find(|(from, _)| *from == c) {
            Some((_, to)) => out.push_str(to),
            None => out.push(c),
        }
    }
    out
}

/// GitLab's name of a section: letters, digits, dots, underscores and dashes.
fn section(title: &str) -> String {
    title.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_known_by_their_own_variables() {
        let detect = |set: &'static str, value: &'static str| Service::detect(|name| (name == set).then(|| value.into()));
        assert_eq!(detect("GITHUB_ACTIONS", "true"), Some(Service::GitHub));
        assert_eq!(detect("GITLAB_CI", "true"), Some(Service::GitLab));
        assert_eq!(detect("BUILDKITE", "true"), Some(Service::Buildkite));
        assert_eq!(detect("TF_BUILD", "True"), Some(Service::Azure));
        assert_eq!(detect("CI", "true"), None);
        assert_eq!(detect("GITHUB_ACTIONS", "false"), None);
    }

    #[test]
    fn groups_are_as_each_service_wants_them() {
        let group = |service: Service, failed| service.group("a compile", "one\ntwo\n", failed, 17);
        assert_eq!(group(Service::GitHub, true), "::group::a compile\n  | one\n  | two\n::endgroup::\n");
        assert_eq!(group(Service::Azure, true), "##[group]a compile\n  | one\n  | two\n##[endgroup]\n");
        assert_eq!(group(Service::Buildkite, true), "+++ a compile\n  | one\n  | two\n");
        assert_eq!(group(Service::Buildkite, false), "--- a compile\n  | one\n  | two\n");
        assert_eq!(
            group(Service::GitLab, false),
            "\u{1b}[0Ksection_start:17:a_compile[collapsed=true]\r\u{1b}[0Ka compile\n  | one\n  | two\n\
             \u{1b}[0Ksection_end:17:a_compile\r\u{1b}[0K\n"
        );
    }

    #[test]
    fn a_failure_is_one_line_whatever_it_holds_and_a_tool_gives_no_orders() {
        let line = Service::GitHub.failure("a, b: c", "50%\nof it").unwrap();
        assert_eq!(line, "::error title=a%2C b%3A c::50%25%0Aof it");
        assert_eq!(Service::GitLab.failure("a", "b"), None);
        let text = Service::GitHub.group("t", "::add-mask::x\n##[error]y\n", false, 0);
        assert!(text.lines().all(|line| !line.trim_start().starts_with("::add-mask")), "{text}");
        assert!(!text.contains("##[error]"), "{text}");
    }
}
