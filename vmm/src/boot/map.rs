//! What the kernel is told of its memory, in the types that E820 and PVH share.

use crate::memory::{GuestMemory, layout};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// What a range of addresses may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapKind {
    /// Ordinary memory.
    Ram,
    /// Nothing: something is already there.
    Reserved,
}

impl MapKind {
    /// The number that E820 and PVH have for it.
    pub const fn number(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
        }
    }
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// Its first address.
    pub start: u64,
    /// How many bytes it has.
    pub len: u64,
    /// Its use.
    pub kind: MapKind,
}

/// The memory map of a guest, in ascending order. The window for PCI configuration accesses must be reserved, or Linux does not use it.
pub fn memory_map(memory: &GuestMemory) -> Vec<MapEntry> {
    let ram = |start, end: u64| MapEntry { start, len: end.saturating_sub(start), kind: MapKind::Ram };
    let reserved = |start, len| MapEntry { start, len, kind: MapKind::Reserved };
    let mut map = vec![ram(0, layout::LOW_RAM_END), reserved(layout::LOW_RAM_END, layout::HIGH_RAM - layout::LOW_RAM_END)];
    let mut regions: Vec<_> = memory.iter().map(|region| (region.start_addr().raw_value(), region.len())).collect();
    regions.sort_unstable();
    map.extend(regions.iter().filter(|(start, _)| *start == 0).map(|(_, len)| ram(layout::HIGH_RAM, *len)));
    map.push(reserved(layout::ECAM, layout::ECAM_SIZE));
    map.extend(regions.iter().filter(|(start, _)| *start != 0).map(|(start, len)| ram(*start, start + len)));
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn the_map_is_sorted_and_has_no_overlaps() {
        for size in [64 << 20, 512 << 20, 3 << 30, 6 << 30] {
            let map = memory_map(&memory::allocate(size).unwrap());
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].len <= pair[1].start, "{pair:x?}");
            }
            let ram: u64 = map.iter().filter(|entry| entry.kind == MapKind::Ram).map(|entry| entry.len).sum();
            assert_eq!(ram + (layout::HIGH_RAM - layout::LOW_RAM_END), size);
        }
    }

    #[test]
    fn configuration_space_and_the_tables_are_reserved() {
        let map = memory_map(&memory::allocate(64 << 20).unwrap());
        for address in [layout::ECAM, layout::ECAM + layout::ECAM_SIZE - 1, layout::ACPI, 0xa_0000] {
            let entry = map.iter().find(|entry| (entry.start..entry.start + entry.len).contains(&address));
            assert_eq!(entry.map(|entry| entry.kind), Some(MapKind::Reserved), "{address:#x}");
        }
    }
}
