#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmm_judge::pci_config::judge(input));
