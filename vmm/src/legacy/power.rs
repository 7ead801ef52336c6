//! The registers by which ACPI puts the machine to sleep and resets it (ACPI 6.5, sections 4.8.3.6 and 4.8.3.7).

use crate::bus::BusDevice;
use crate::machine::{Ending, StopSwitch};

/// Where the guest writes to sleep.
pub const SLEEP_CONTROL: u16 = 0x600;
/// Where it reads whether it woke up; it never does.
pub const SLEEP_STATUS: u16 = 0x601;
/// Where it writes to be reset.
pub const RESET: u16 = 0x602;
/// What it must write there.
pub const RESET_VALUE: u8 = 1;
/// What S5, soft off, is called in the sleep control register.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Sleep control: go to sleep now.
const SLEEP_ENABLE: u8 = 1 << 5;

/// The three registers.
#[derive(Debug)]
pub struct Power {
    stop: StopSwitch,
}

impl Power {
    /// How many ports there are, from [`SLEEP_CONTROL`] on.
    pub const PORTS: u64 = 3;

    /// Registers that end the machine by this switch.
    pub const fn new(stop: StopSwitch) -> Self {
        Self { stop }
    }
}

impl BusDevice for Power {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let control = u64::from(SLEEP_CONTROL);
        match data {
            [value] if control + offset == control && *value == SLEEP_TYPE_S5 << 2 | SLEEP_ENABLE => {
                self.stop.end(Ending::PowerOff);
            }
            [RESET_VALUE] if control + offset == u64::from(RESET) => self.stop.end(Ending::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_off_ends_the_machine() {
        let stop = StopSwitch::new().unwrap();
        let power = Power::new(stop.clone());
        for (offset, value) in [(0, 0), (0, 5 << 2), (0, 3 << 2 | 1 << 5), (1, 0x34), (2, 0)] {
            power.write(offset, &[value]);
        }
        power.write(0, &[0x34, 0]);
        assert_eq!(stop.ending(), None);
        power.write(0, &[5 << 2 | 1 << 5]);
        assert_eq!(stop.ending(), Some(Ending::PowerOff));
    }

    #[test]
    fn the_reset_register_resets() {
        let stop = StopSwitch::new().unwrap();
        Power::new(stop.clone()).write(2, &[1]);
        assert_eq!(stop.ending(), Some(Ending::Reset));
    }
}
