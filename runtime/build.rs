//! How the shipped program is linked: small.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Relocations of a static program that runs from any address, packed (DT_RELR, which musl knows since 1.2.4): 105 KB less. A
    // linker that is too old for it ignores the word.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
