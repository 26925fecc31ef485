#![no_main]
//! The target `record`: see `portolan::fuzz`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| portolan::fuzz::target("record")(input));
