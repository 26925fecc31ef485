#![no_main]
//! The target `complete`: see `portolan::fuzz`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| portolan::fuzz::target("complete")(input));
