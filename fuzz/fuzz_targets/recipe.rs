//! See `xtask::fuzzing::recipe`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xtask::fuzzing::recipe(data));
