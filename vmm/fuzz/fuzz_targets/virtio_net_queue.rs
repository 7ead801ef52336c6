#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmm_judge::virtio_net_queue::judge(input));
