//! See `xtask::fuzzing::lock`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xtask::fuzzing::lock(data));
