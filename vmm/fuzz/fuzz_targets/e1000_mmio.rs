#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmm_judge::e1000_mmio::judge(input));
