//! Questions to whoever sits at the terminal.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};

use crate::cli::Installer;

/// Whether they agree: by `--yes` at once, else at the terminal.
///
/// # Errors
/// When there is nobody to ask; `instead` says which options do without.
pub fn agreed(arguments: &Installer, question: &str, instead: &str) -> Result<bool> {
    if arguments.yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        bail!("cannot ask \"{question}\": there is no terminal; give {instead}");
    }
    eprint!("{question} Go on? [y/N] ");
    std::io::stderr().flush().ok();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
