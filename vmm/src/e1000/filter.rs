//! Which frames the driver wants: by address and by VLAN.

use super::register::{self, ctrl, rctl};
use super::shared::Shared;

/// What has to be known of a frame: addresses, and a VLAN tag if there is one.
pub(super) const NEEDED: usize = 18;

const ADDRESSES: u32 = 16;

/// Whether the driver wants a frame that begins with `head`: at least the two addresses and the type.
pub(super) fn accepts(shared: &Shared, head: &[u8; NEEDED]) -> bool {
    let control = shared.get(register::RCTL);
    if let Some(vlan) = vlan(shared, head)
        && control & rctl::VFE != 0
        && !bit(shared, register::VFTA, vlan & 0xfff)
    {
        return false;
    }
    let [a, b, c, d, e, f, ..] = *head;
    let multicast = a & 1 != 0;
    let broadcast = [a, b, c, d, e, f] == [0xff; 6];
    if broadcast && control & rctl::BAM != 0 {
        return true;
    }
    let promiscuous = if multicast { rctl::MPE } else { rctl::UPE };
    if control & promiscuous != 0 {
        return true;
    }
    let (low, high) = (u32::from_le_bytes([a, b, c, d]), u32::from(u16::from_le_bytes([e, f])));
    let ours = |index| {
        let at = register::RA + 8 * index;
        shared.get(at + 4) & (register::RAH_AV | 0xffff) == register::RAH_AV | high && shared.get(at) == low
    };
    if (0..ADDRESSES).any(ours) {
        return true;
    }
    // Twelve bits of the address, which ones is configured, say which bit of the table to look at.
    let shift = match control >> rctl::MO_SHIFT & 3 {
        0 => 4,
        1 => 3,
        2 => 2,
        _ => 0,
    };
    multicast && bit(shared, register::MTA, u16::from_le_bytes([e, f]) >> shift & 0xfff)
}

/// The tag control information of a frame that has a VLAN tag, if the driver has enabled those.
pub(super) fn vlan(shared: &Shared, head: &[u8; NEEDED]) -> Option<u16> {
    let [.., type_high, type_low, tag_high, tag_low, _, _] = *head;
    let tagged = u32::from(u16::from_be_bytes([type_high, type_low])) == shared.get(register::VET);
    tagged.then_some(u16::from_be_bytes([tag_high, tag_low]))
}

/// Whether the driver wants tags to be taken off and put on by the card.
pub(super) fn handles_tags(shared: &Shared) -> bool {
    shared.get(register::CTRL) & ctrl::VME != 0
}

fn bit(shared: &Shared, table: u32, index: u16) -> bool {
    let word = shared.get(table + 4 * u32::from(index >> 5));
    word >> (index & 31) & 1 != 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::irq::fake::FakeLine;

    const OURS: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const OTHER: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x57];
    const MULTICAST: [u8; 6] = [0x33, 0x33, 0xff, 0x12, 0x34, 0x56];
    const BROADCAST: [u8; 6] = [0xff; 6];

    fn card(control: u32) -> Shared {
        let shared = Shared::new(Arc::new(FakeLine::default())).unwrap();
        shared.set(register::RCTL, control);
        shared.set(register::VET, 0x8100);
        shared.set(register::RA + 24, 0x1200_5452);
        shared.set(register::RA + 28, 0x8000_5634);
        shared
    }

    fn frame(destination: [u8; 6], rest: [u8; 6]) -> [u8; NEEDED] {
        let mut head = [0; NEEDED];
        head[..6].copy_from_slice(&destination);
        head[12..].copy_from_slice(&rest);
        head
    }

    fn plain(destination: [u8; 6]) -> [u8; NEEDED] {
        frame(destination, [8, 0, 0x45, 0, 0, 0])
    }

    #[test]
    fn by_default_only_what_is_addressed_to_it() {
        let card = card(0);
        let wanted = [OURS, OTHER, MULTICAST, BROADCAST].map(|to| accepts(&card, &plain(to)));
        assert_eq!(wanted, [true, false, false, false]);
        card.set(register::RA + 28, 0x5634);
        assert!(!accepts(&card, &plain(OURS)), "an address that is not valid");
    }

    #[test]
    fn each_kind_of_address_can_be_let_through() {
        for (control, expected) in [
            (rctl::UPE, [true, true, false, false]),
            (rctl::MPE, [true, false, true, true]),
            (rctl::BAM, [true, false, false, true]),
        ] {
            let card = card(control);
            assert_eq!([OURS, OTHER, MULTICAST, BROADCAST].map(|to| accepts(&card, &plain(to))), expected, "{control:#x}");
        }
    }

    #[test]
    fn a_multicast_address_is_looked_up_by_twelve_of_its_bits() {
        // 0x5634, shifted: 0x563, 0xac6, 0x58d, 0x634.
        for (offset, hash) in [(0, 0x563), (1, 0xac6), (2, 0x58d), (3, 0x634)] {
            let card = card(offset << rctl::MO_SHIFT);
            card.set(register::MTA + 4 * (hash >> 5), 1 << (hash & 31));
            assert!(accepts(&card, &plain(MULTICAST)), "{offset}");
            assert!(!accepts(&card, &plain([0x33, 0x33, 0, 0, 0, 1])));
            assert!(!accepts(&card, &plain(OTHER)), "not for unicast");
        }
    }

    #[test]
    fn a_vlan_has_to_be_one_of_those_wanted() {
        let card = card(rctl::VFE);
        let tagged = frame(OURS, [0x81, 0, 0xa0, 42, 8, 0]);
        assert!(accepts(&card, &plain(OURS)));
        assert!(!accepts(&card, &tagged));
        card.set(register::VFTA + 4, 1 << 10);
        assert!(accepts(&card, &tagged));
        assert_eq!(vlan(&card, &tagged), Some(0xa02a));
    }
}
