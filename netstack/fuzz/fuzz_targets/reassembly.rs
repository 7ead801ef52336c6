#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| netstack_judge::reassembly::judge(input));
