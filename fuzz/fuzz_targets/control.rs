#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mew_fuzz::control(data));
