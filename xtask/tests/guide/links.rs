//! Links between the pages: to files that are there, to headings that are there.

use crate::common::workspace;
use crate::page;
use std::fs;
use std::path::Path;

/// The targets of a page's links, with their lines; code is no place for links.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut code = false;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        code ^= line.starts_with("```");
        if code {
            continue;
        }
        for piece in line.split("](").skip(1) {
            found.extend(piece.split_once(')').map(|(target, _)| (at + 1, target.to_owned())));
        }
    }
    found
}

/// The anchors of a page's headings, as GitHub and most others make them.
fn anchors(text: &str) -> Vec<String> {
    let mut code = false;
    let mut found: Vec<String> = Vec::new();
    for line in text.lines() {
        code ^= line.starts_with("```");
        if code || !line.starts_with('#') {
            continue;
        }
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let plain: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = found.iter().filter(|other| **other == plain).count();
        found.push(if again == 0 { plain } else { format!("{plain}-{again}") });
    }
    found
}

/// What is wrong with a link, if anything.
fn broken(page: &str, text: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let root = workspace();
    let path = root.join(page).parent().unwrap_or(Path::new("")).join(file);
    if !file.is_empty() && !path.exists() {
        return Some(format!("{target} is not there"));
    }
    let there = if file.is_empty() { text.to_owned() } else { fs::read_to_string(&path).unwrap_or_default() };
    let anchor = anchor?;
    (!anchors(&there).iter().any(|found| found == anchor)).then(|| format!("{target} has no such heading"))
}

#[test]
fn no_link_leads_nowhere() {
    let mut wrong = Vec::new();
    for page in page::all() {
        let text = fs::read_to_string(workspace().join(&page)).unwrap();
        for (line, target) in links(&text) {
            wrong.extend(broken(&page, &text, &target).map(|why| format!("{page}:{line}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_link_that_leads_nowhere_is_seen() {
    let text = "# A `b`: c\n[x](docs/nothing.md) [y](#a-b-c) [z](#no) [w](docs/dkm.md#ends)\n```\n[no](link)\n```\n";
    let found: Vec<_> = links(text).iter().filter_map(|(_, target)| broken("README.md", text, target)).collect();
    assert_eq!(found, ["docs/nothing.md is not there", "#no has no such heading"]);
}

#[test]
fn readme_leads_to_every_page() {
    let text = fs::read_to_string(workspace().join("README.md")).unwrap();
    let linked: Vec<String> = links(&text).into_iter().map(|(_, target)| target).collect();
    let lonely: Vec<_> = page::all().into_iter().filter(|page| page.starts_with("docs/") && !linked.contains(page)).collect();
    assert!(lonely.is_empty(), "README.md has no link to {lonely:?}");
}
