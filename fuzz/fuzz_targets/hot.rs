#![no_main]
//! The target `hot`: see `portolan::fuzz`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| portolan::fuzz::target("hot")(input));
