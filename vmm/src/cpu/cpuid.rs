//! CPUID: what KVM can do on this host, with what only the machine knows: which processor this is, and of how many.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaves with something to fill in.
mod leaf {
    pub(super) const FEATURES: u32 = 0x1;
    pub(super) const CACHES: u32 = 0x4;
    pub(super) const TOPOLOGY: u32 = 0xb;
    pub(super) const TOPOLOGY_V2: u32 = 0x1f;
    pub(super) const AMD_SIZES: u32 = 0x8000_0008;
    pub(super) const AMD_CACHES: u32 = 0x8000_001d;
    pub(super) const AMD_IDENTITY: u32 = 0x8000_001e;
    pub(super) const AMD_TOPOLOGY: u32 = 0x8000_0026;
}

/// ECX of leaf 1: the timer of the local APIC can be given a deadline; a hypervisor is there.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// EDX of leaf 1: the package has several logical processors.
const HTT: u32 = 1 << 28;
/// EBX of leaf 1: CLFLUSH works on 8 times 8 bytes.
const CLFLUSH: u32 = 8 << 8;
/// Level types of leaf 0xB.
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// The CPUID of processor `id` of `count`: all are cores of one package, with one thread each. `deadline` says whether KVM's local APIC has
/// that timer.
pub(crate) fn for_vcpu(supported: &CpuId, id: u8, count: u8, deadline: bool) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = supported
        .as_slice()
        .iter()
        // The host's own topology, which the guest's is not.
        .filter(|entry| !matches!(entry.function, leaf::TOPOLOGY | leaf::TOPOLOGY_V2 | leaf::AMD_CACHES | leaf::AMD_TOPOLOGY))
        .copied()
        .collect();
    let (apic, count) = (u32::from(id), u32::from(count));
    let width = count.next_power_of_two().trailing_zeros();
    for entry in &mut entries {
        match entry.function {
            leaf::FEATURES => {
                entry.ebx = entry.ebx & 0xff | CLFLUSH | count << 16 | apic << 24;
                entry.ecx |= HYPERVISOR | if deadline { TSC_DEADLINE } else { 0 };
                entry.edx = entry.edx & !HTT | if count > 1 { HTT } else { 0 };
            }
            // No cache is shared, as far as the guest knows; all cores are in one package.
            leaf::CACHES if entry.eax & 0x1f != 0 => entry.eax = entry.eax & 0x3fff | (count - 1) << 26,
            leaf::AMD_SIZES => entry.ecx = width << 12 | (count - 1),
            leaf::AMD_IDENTITY => {
                entry.eax = apic;
                entry.ebx = apic;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    entries.push(topology(0, [0, 1, LEVEL_SMT, apic]));
    entries.push(topology(1, [width, count, LEVEL_CORE | 1, apic]));
    entries
}

fn topology(index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    let flags = kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    kvm_cpuid_entry2 { function: leaf::TOPOLOGY, index, flags, eax, ebx, ecx, edx, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> CpuId {
        let entry = |function, eax, ebx| kvm_cpuid_entry2 { function, eax, ebx, edx: HTT, ..Default::default() };
        let entries = [
            entry(0, 0xd, 0),
            entry(leaf::FEATURES, 0x306a9, 0xff10_0000),
            entry(leaf::CACHES, 0x1c00_4121, 0),
            entry(leaf::TOPOLOGY, 1, 2),
            entry(leaf::AMD_SIZES, 0x3028, 0),
            entry(leaf::AMD_IDENTITY, 99, 99),
            entry(leaf::AMD_TOPOLOGY, 1, 1),
        ];
        CpuId::from_entries(&entries).unwrap()
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries.iter().find(|entry| entry.function == function && entry.index == index).unwrap()
    }

    #[test]
    fn every_processor_knows_its_number() {
        for id in 0..4 {
            let entries = for_vcpu(&host(), id, 4, true);
            let features = find(&entries, leaf::FEATURES, 0);
            assert_eq!(features.ebx, u32::from(id) << 24 | 4 << 16 | 8 << 8);
            assert_eq!(features.ecx & (HYPERVISOR | TSC_DEADLINE), HYPERVISOR | TSC_DEADLINE);
            assert_eq!(find(&entries, leaf::AMD_IDENTITY, 0).eax, u32::from(id));
            assert_eq!(find(&entries, leaf::TOPOLOGY, 1).edx, u32::from(id));
        }
    }

    #[test]
    fn all_are_cores_of_one_package() {
        let entries = for_vcpu(&host(), 0, 3, false);
        let cores = find(&entries, leaf::TOPOLOGY, 1);
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (2, 3, 0x201));
        assert_eq!(find(&entries, leaf::AMD_SIZES, 0).ecx, 2 << 12 | 2);
        assert_eq!(find(&entries, leaf::CACHES, 0).eax >> 26, 2);
        assert_eq!(find(&entries, leaf::FEATURES, 0).edx & HTT, HTT);
    }

    #[test]
    fn a_single_processor_has_no_neighbours() {
        let entries = for_vcpu(&host(), 0, 1, true);
        assert_eq!(find(&entries, leaf::FEATURES, 0).edx & HTT, 0);
        assert!(entries.iter().all(|entry| entry.function != leaf::AMD_TOPOLOGY));
        assert_eq!(entries.iter().filter(|entry| entry.function == leaf::TOPOLOGY).count(), 2);
    }
}
