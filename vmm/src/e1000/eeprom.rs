//! The EEPROM: 64 words of 16 bits, read by its four wires (EECD) or by the word (EERD).
//!
//! It cannot be written to; nobody needs that.

use netstack::addr::MacAddr;

/// Words that it has, and how many bits address one.
const WORDS: usize = 64;
const ADDRESS_BITS: u32 = 6;

/// What all words add up to, or a driver will not believe the address.
const CHECKSUM: u16 = 0xbaba;

/// Bits of EECD: clock, chip select, data in and out as the EEPROM sees them, access requested and granted, and that there is one.
const SK: u32 = 1 << 0;
const CS: u32 = 1 << 1;
const DI: u32 = 1 << 2;
const DO: u32 = 1 << 3;
const REQUEST: u32 = 1 << 6;
const GRANT: u32 = 1 << 7;
const PRESENT: u32 = 1 << 8;
/// What the driver sets and reads back.
const DRIVEN: u32 = SK | CS | DI | 3 << 4 | REQUEST;

/// Bits of EERD.
const START: u32 = 1 << 0;
const DONE: u32 = 1 << 4;

/// A start bit and the operation, before the address: read.
const READ: u32 = 0b110;
const OPCODE_BITS: u32 = 3;

#[derive(Debug)]
pub(super) struct Eeprom {
    words: [u16; WORDS],
    eecd: u32,
    wire: Wire,
}

/// Where a transaction on the wires is.
#[derive(Debug, Clone, Copy)]
enum Wire {
    /// Bits of the command so far, and how many.
    Command { bits: u32, count: u32 },
    /// Which bit, counted from that of the first word's most significant one, is on the data wire; none before the first falling edge.
    Reading { bit: usize, begun: bool },
}

const IDLE: Wire = Wire::Command { bits: 0, count: 0 };

impl Eeprom {
    /// That of a card with this address.
    pub(super) fn new(mac: MacAddr, device: u16, vendor: u16) -> Self {
        let mut words = [0xffff; WORDS];
        let [a, b, c, d, e, f] = mac.0;
        words[0] = u16::from_le_bytes([a, b]);
        words[1] = u16::from_le_bytes([c, d]);
        words[2] = u16::from_le_bytes([e, f]);
        // LEDs as they are by default; no wake-up, no pause frames.
        words[0x04] = 0;
        words[0x0b] = device;
        words[0x0c] = vendor;
        words[0x0d] = device;
        words[0x0e] = vendor;
        words[0x0f] = 0;
        words[0x14] = 0;
        words[0x24] = 0;
        let sum = words[..WORDS - 1].iter().fold(0_u16, |sum, word| sum.wrapping_add(*word));
        words[WORDS - 1] = CHECKSUM.wrapping_sub(sum);
        Self { words, eecd: 0, wire: IDLE }
    }

    /// The wires go to their state after power-on.
    pub(super) fn reset(&mut self) {
        (self.eecd, self.wire) = (0, IDLE);
    }

    /// What EECD reads as.
    pub(super) fn eecd(&self) -> u32 {
        let out = match self.wire {
            Wire::Reading { bit, begun: true } => self.words[bit / 16 % WORDS] >> (15 - bit % 16) & 1 != 0,
            // The EEPROM holds its wire high while it has nothing to say, as after a write that is done.
            _ => true,
        };
        let grant = if self.eecd & REQUEST != 0 { GRANT } else { 0 };
        self.eecd | PRESENT | grant | if out { DO } else { 0 }
    }

    /// Moves the wires.
    pub(super) fn set_eecd(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.eecd, value & DRIVEN);
        if value & CS == 0 || before & CS == 0 {
            self.wire = IDLE;
        }
        if value & CS == 0 {
            return;
        }
        match (before & SK != 0, value & SK != 0) {
            (false, true) => self.rise(value & DI != 0),
            (true, false) => self.fall(),
            _ => {}
        }
    }

    fn rise(&mut self, data: bool) {
        let Wire::Command { bits, count } = self.wire else { return };
        // The start bit is the first that is set.
        if count == 0 && !data {
            return;
        }
        let (bits, count) = (bits << 1 | u32::from(data), count + 1);
        self.wire = Wire::Command { bits, count };
        if count == OPCODE_BITS + ADDRESS_BITS {
            let word = (bits & ((1 << ADDRESS_BITS) - 1)) as usize;
            self.wire = if bits >> ADDRESS_BITS == READ { Wire::Reading { bit: word * 16, begun: false } } else { IDLE };
        }
    }

    fn fall(&mut self) {
        if let Wire::Reading { bit, begun } = &mut self.wire {
            // The first falling edge puts the first bit on the wire, and each one after it the next; words follow one another.
            *bit = (*bit + usize::from(*begun)) % (16 * WORDS);
            *begun = true;
        }
    }

    /// What EERD reads as after `value` was written to it.
    pub(super) fn read_word(&self, value: u32) -> u32 {
        if value & START == 0 {
            return value & !DONE;
        }
        let address = value >> 8 & 0xff;
        let word = self.words.get(address as usize).copied().unwrap_or(0);
        u32::from(word) << 16 | address << 8 | DONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

    /// Reads words as Linux does, from `e1000_acquire_eeprom` to `e1000_release_eeprom`.
    fn read_like_linux(eeprom: &mut Eeprom, offset: u32, count: usize) -> Vec<u16> {
        let mut eecd = eeprom.eecd() | REQUEST;
        eeprom.set_eecd(eecd);
        assert!(eeprom.eecd() & GRANT != 0);
        // Ready: clock and data low, then selected.
        eecd = eeprom.eecd() & !(DI | SK);
        eeprom.set_eecd(eecd);
        eecd |= CS;
        eeprom.set_eecd(eecd);
        let words = (0..count as u32).map(|word| {
            shift_out(eeprom, READ, 3);
            shift_out(eeprom, offset + word, 6);
            let data = shift_in(eeprom);
            // Standby: deselected for a clock.
            let mut eecd = eeprom.eecd() & !(CS | SK);
            for change in [0, SK, CS, SK] {
                eecd ^= change;
                eeprom.set_eecd(eecd);
            }
            data
        });
        let words = words.collect();
        eeprom.set_eecd(eeprom.eecd() & !(CS | DI | REQUEST));
        words
    }

    fn clock(eeprom: &mut Eeprom, high: bool) {
        let eecd = eeprom.eecd();
        eeprom.set_eecd(if high { eecd | SK } else { eecd & !SK });
    }

    fn shift_out(eeprom: &mut Eeprom, data: u32, count: u32) {
        for bit in (0..count).rev() {
            let eecd = eeprom.eecd() & !(DO | DI);
            eeprom.set_eecd(if data >> bit & 1 != 0 { eecd | DI } else { eecd });
            clock(eeprom, true);
            clock(eeprom, false);
        }
        eeprom.set_eecd(eeprom.eecd() & !DI);
    }

    fn shift_in(eeprom: &mut Eeprom) -> u16 {
        eeprom.set_eecd(eeprom.eecd() & !(DO | DI));
        let mut data = 0;
        for _ in 0..16 {
            data <<= 1;
            clock(eeprom, true);
            if eeprom.eecd() & DO != 0 {
                data |= 1;
            }
            clock(eeprom, false);
        }
        data
    }

    #[test]
    fn linux_finds_the_address_and_the_checksum() {
        let mut eeprom = Eeprom::new(MAC, 0x100e, 0x8086);
        let words = read_like_linux(&mut eeprom, 0, 64);
        assert_eq!(words.iter().fold(0_u16, |sum, word| sum.wrapping_add(*word)), CHECKSUM);
        assert_eq!(words[..3], [0x5452, 0x1200, 0x5634]);
        assert_eq!(words[0x0d], 0x100e);
        assert_eq!(read_like_linux(&mut eeprom, 11, 1), [0x100e]);
        assert_eq!(eeprom.eecd() & (1 << 9), 0, "a small one: six bits of address");
    }

    #[test]
    fn words_can_be_read_by_number() {
        let eeprom = Eeprom::new(MAC, 0x100e, 0x8086);
        assert_eq!(eeprom.read_word(1), 0x5452_0010);
        assert_eq!(eeprom.read_word(2 << 8 | 1), 0x5634_0210);
        assert_eq!(eeprom.read_word(0xff << 8 | 1), 0x0000_ff10, "there is no such word");
        assert_eq!(eeprom.read_word(2 << 8) & 0x10, 0, "not started");
    }

    #[test]
    fn no_movement_of_the_wires_is_out_of_order() {
        let mut eeprom = Eeprom::new(MAC, 0x100e, 0x8086);
        let mut state = 1_u32;
        for _ in 0..100_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            eeprom.set_eecd(state >> 20 | if state & 0x8000 != 0 { CS } else { 0 });
            eeprom.eecd();
        }
        eeprom.set_eecd(0);
        assert_eq!(read_like_linux(&mut eeprom, 0, 1), [0x5452]);
    }
}
