#![no_main]
//! The target `forward`: see `portolan::fuzz`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| portolan::fuzz::target("forward")(input));
