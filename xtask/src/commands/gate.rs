//! `gate`: whether an archive would run on somebody else's machine.

use super::Workshop;
use crate::cli;
use crate::error::Kind;
use crate::gate::{Gate, Wishes};

/// Lets an archive pass, or says why not.
///
/// # Errors
/// [`Kind::Gate`] with everything that is wrong.
pub fn run(args: &cli::Gate) -> anyhow::Result<()> {
    let common = cli::Common {
        stack: args.stack.clone(),
        build_dir: args.build_dir.clone(),
        target: None,
        only: Vec::new(),
        talk: args.talk,
    };
    let workshop = Workshop::open(&common, None)?;
    if !args.archive.is_file() {
        return Err(
            Kind::Usage.error(format!("there is no archive {}; `cargo xtask package` makes one", args.archive.display()))
        );
    }
    let gate = Gate::of(&workshop.stack, &workshop.dirs, &workshop.workspace)?;
    let wishes = Wishes {
        still: args.still,
        against: args.against.clone(),
        growth: args.growth,
        root: args.root.clone(),
        record: args.record,
    };
    let ui = &workshop.ui;
    let step = ui.step("bundle", "gate");
    step.announce();
    let outcome = gate.pass(&args.archive, &wishes, &step);
    let passed = step.close(outcome, |passed| passed.short.clone())?;
    passed.notes.iter().for_each(|note| ui.line(&format!("  · {note}")));
    passed.lacks.iter().for_each(|lack| ui.line(&format!("  ! {lack}")));
    ui.line(&format!("  ✓ {} passes", args.archive.display()));
    Ok(())
}
