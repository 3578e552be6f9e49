//! Versions within addresses: found as whole words, and replaced.
//!
//! An address may write a version as it is, percent-encoded (`%2B` for the `+` of Grafana's security releases), or with
//! `_` or `-` for its dots. `1.2` is not in `1.2.3`, `3.2.3` not in `13.2.3`, `1.0` not in `1.0-rc1` or `1.0+x`.

/// Behind a hyphen these make another version of it; `-src` and the like do not.
const EARLIER: [&str; 5] = ["-rc", "-alpha", "-beta", "-pre", "-dev"];

/// Whether `text` names `version`.
pub(super) fn is_in(text: &str, version: &str) -> bool {
    let (_, path) = behind_host(text);
    spellings(version, version).iter().any(|(old, _, dot)| find("", path, old, *dot).is_some())
}

/// `text` with `new` wherever it names `old`, in the same spelling; folders called by the first two numbers of a version
/// (`/5.12/thing-5.12.0.tar.gz`) follow. Nothing when it does not name `old`.
pub(super) fn replaced(text: &str, old: &str, new: &str) -> Option<String> {
    let spellings = spellings(old, new);
    let (host, mut rest) = behind_host(text);
    let mut out = String::new();
    while let Some((at, old, new)) = spellings
        .iter()
        .filter_map(|(old, new, dot)| Some((find(&out, rest, old, *dot)?, old, new)))
        .min_by_key(|(at, old, _)| (*at, usize::MAX - old.len()))
    {
        out += &rest[..at];
        out += new;
        rest = &rest[at + old.len()..];
    }
    if out.is_empty() {
        return None;
    }
    out += rest;
    Some(format!("{host}{}", with_series(&out, old, new)))
}

/// Scheme and host, which name no version whatever their digits, and the rest.
fn behind_host(text: &str) -> (&str, &str) {
    let Some(scheme) = text.find("://") else { return ("", text) };
    let end = text[scheme + 3..].find('/').map_or(text.len(), |at| scheme + 3 + at);
    text.split_at(end)
}

/// Each spelling of `old` with that of `new`, and what stands for a dot in it.
fn spellings(old: &str, new: &str) -> Vec<(String, String, char)> {
    let encoded = |version: &str| encode(version);
    // Where the old one needed no encoding, the new one is written in the form that is right in addresses and purls.
    let plain = if encoded(old) == old { encoded(new) } else { new.to_owned() };
    let mut all = vec![
        (old.to_owned(), plain, '.'),
        (encoded(old), encoded(new), '.'),
        (encoded(old).replace("%2B", "%2b"), encoded(new).replace("%2B", "%2b"), '.'),
    ];
    for dot in ['_', '-'] {
        let spelled = |version: &str| encode(&version.replace('.', &dot.to_string()));
        all.push((spelled(old), spelled(new), dot));
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|(old, ..)| seen.insert(old.clone()));
    all
}

/// Percent-encodes what has a meaning in addresses or purls.
fn encode(version: &str) -> String {
    let mut out = String::new();
    for byte in version.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// Where `version` stands in `text` as a whole word, given what stands before `text`.
fn find(before: &str, text: &str, version: &str, dot: char) -> Option<usize> {
    if version.is_empty() {
        return None;
    }
    text.match_indices(version).map(|(at, _)| at).find(|at| {
        let mut ahead = text[..*at].chars().rev().chain(before.chars().rev());
        let begins = match ahead.next() {
            Some(c) if c.is_ascii_digit() => false,
            Some(c) if c == dot => !ahead.next().is_some_and(|c| c.is_ascii_digit()),
            _ => true,
        };
        begins && ends(&text[at + version.len()..], dot)
    })
}

/// Whether a version may end where this goes on.
fn ends(rest: &str, dot: char) -> bool {
    let mut chars = rest.chars();
    match chars.next() {
        None => true,
        Some(c) if c.is_ascii_alphanumeric() || c == '+' => false,
        Some('%') => !rest[1..].starts_with("2B") && !rest[1..].starts_with("2b"),
        Some(c) if c == dot => !chars.next().is_some_and(|c| c.is_ascii_digit()),
        Some('-') => !EARLIER.iter().any(|earlier| rest.to_ascii_lowercase().starts_with(earlier)),
        Some(_) => true,
    }
}

/// Replaces folders that are called by the version's first two numbers.
fn with_series(address: &str, old: &str, new: &str) -> String {
    let series = |version: &str| {
        let mut parts = version.split('.');
        let first_two = format!("{}.{}", parts.next()?, parts.next()?);
        parts.next().map(|_| first_two)
    };
    let (Some(old), Some(new)) = (series(old), series(new)) else { return address.to_owned() };
    let with_v = format!("v{old}");
    let folder = |part: &str| match part {
        part if part == old => new.clone(),
        part if part == with_v => format!("v{new}"),
        part => part.to_owned(),
    };
    address.split('/').map(folder).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_as_a_whole_word_in_any_spelling() {
        for (text, version) in [
            ("https://h/archive/refs/tags/v13.2.3.tar.gz", "13.2.3"),
            ("https://h/collectd-5.12.0/collectd-5.12.0.tar.bz2", "5.12.0"),
            ("https://h/v12.4.2%2Bsecurity-01.tar.gz", "12.4.2+security-01"),
            ("https://h/v12.4.2%2bsecurity-01.tar.gz", "12.4.2+security-01"),
            ("https://h/v12.4.2+security-01.tar.gz", "12.4.2+security-01"),
            ("https://h/curl-8_1_0/x.tar.gz", "8.1.0"),
            ("https://h/R-2-7-1.zip", "2.7.1"),
            ("https://h/thing-1.0-src.tar.gz", "1.0"),
            ("v1.0", "1.0"),
        ] {
            assert!(is_in(text, version), "{version} is in {text}");
        }
        for (text, version) in [
            ("https://h/v13.2.3.tar.gz", "3.2.3"),
            ("https://h/v13.2.3.tar.gz", "13.2"),
            ("https://h/v13.2.3.tar.gz", "2.3"),
            ("https://h/v1.0-rc1.tar.gz", "1.0"),
            ("https://h/v1.0rc1.tar.gz", "1.0"),
            ("https://h/v12.4.2%2Bsecurity-01.tar.gz", "12.4.2"),
            ("https://h/v12.4.2+security-01.tar.gz", "12.4.2"),
            ("https://h/8_1_0_2.tar.gz", "8.1.0"),
        ] {
            assert!(!is_in(text, version), "{version} is not in {text}");
        }
    }

    #[test]
    fn a_version_is_replaced_everywhere_in_its_own_spelling() {
        for (text, old, new, wanted) in [
            ("https://h/c-5.12.0/c-5.12.0.tar.bz2", "5.12.0", "5.13.1", "https://h/c-5.13.1/c-5.13.1.tar.bz2"),
            ("https://h/5.12/c-5.12.0.tar.bz2", "5.12.0", "5.13.1", "https://h/5.13/c-5.13.1.tar.bz2"),
            ("https://h/v12.4.2%2Bs-01.tgz", "12.4.2+s-01", "12.4.3+s-02", "https://h/v12.4.3%2Bs-02.tgz"),
            ("https://h/v12.4.2+s-01.tgz", "12.4.2+s-01", "12.4.3+s-02", "https://h/v12.4.3+s-02.tgz"),
            ("pkg:github/g/g@v12.4.2", "12.4.2", "12.4.2+s-01", "pkg:github/g/g@v12.4.2%2Bs-01"),
            ("https://h/curl-8_1_0.tgz", "8.1.0", "8.10.0", "https://h/curl-8_10_0.tgz"),
            ("1.0/1.0/1.0.1", "1.0", "1.0.1", "1.0.1/1.0.1/1.0.1"),
            ("https://h1.org:1/v1/1.tgz", "1", "2", "https://h1.org:1/v2/2.tgz"),
        ] {
            assert_eq!(replaced(text, old, new).as_deref(), Some(wanted), "{text}: {old} to {new}");
        }
        assert_eq!(replaced("https://h/v13.2.3.tar.gz", "3.2.3", "4.0"), None);
    }
}
