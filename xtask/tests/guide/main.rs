//! The guide keeps what it says: the commands in its pages are run, page by page, with the miniature stack, and what they print is
//! compared with what the pages show. How a page is read is told in [`page`].

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

#[path = "../common/mod.rs"]
mod common;
mod links;
mod page;

use common::workspace;
use page::run;

/// A test for each page, so that one that fails is told by its name and the others are seen too.
macro_rules! pages {
    ($($name:ident: $path:literal,)*) => {
        $(
            #[test]
            fn $name() {
                run($path);
            }
        )*

        /// The pages with tests of their own.
        const TESTED: &[&str] = &[$($path),*];
    };
}

pages! {
    readme: "README.md",
    install: "docs/install.md",
    agents: "docs/agents.md",
    dss: "docs/dss.md",
    upgrade: "docs/upgrade.md",
    backup: "docs/backup.md",
    scaling: "docs/scaling.md",
    security: "docs/security.md",
    troubleshooting: "docs/troubleshooting.md",
}

#[test]
fn no_page_has_commands_that_nobody_runs() {
    for path in page::all() {
        let text = std::fs::read_to_string(workspace().join(&path)).unwrap();
        let runs = page::parse(&path, &text).iter().any(page::Part::runs);
        assert!(!runs || TESTED.contains(&path.as_str()), "{path} has commands in ```sh, and no test: add it to main.rs");
    }
}
