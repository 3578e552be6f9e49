//! How the shipped program is linked: small.

use std::path::PathBuf;

/// Leaves the tables for unwinding out: a panic ends the program at once, and a stripped program could not name what a trace would
/// show. They would be an eighth of the program. What the C compiler's own first and last objects have is needed to link them.
const NO_UNWINDING: &str = "\
SECTIONS
{
  /DISCARD/ : { *(EXCLUDE_FILE(*crtbegin*.o *crtend*.o) .eh_frame) *(.gcc_except_table .gcc_except_table.*) }
}
INSERT AFTER .text;
";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Only the program that ships is static, against musl.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        // Relocations of a static program that runs from any address, packed (DT_RELR, which musl knows since 1.2.4): 105 KB less. A
        // linker that is too old for it ignores the word. Both words are such that a C compiler hands them on to the linker, and a
        // linker that is called without one, as when crossing, knows them too.
        println!("cargo::rustc-link-arg-bins=-zpack-relative-relocs");
        let script = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("no-unwinding.ld");
        match std::fs::write(&script, NO_UNWINDING) {
            Ok(()) => println!("cargo::rustc-link-arg-bins=-T"),
            Err(error) => println!("cargo::error=cannot write {}: {error}", script.display()),
        }
        println!("cargo::rustc-link-arg-bins={}", script.display());
    }
}
