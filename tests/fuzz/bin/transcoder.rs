#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sandbar_fuzz::targets::transcoder::run(input));
