//! The keyboard controller, of which only the reset line is left: `reboot=k` and old kernels pull it.

use std::io;
use std::sync::{Mutex, PoisonError};

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;
use crate::machine::{Ending, StopSwitch};

/// The data port; the command port is 4 higher.
pub const BASE: u16 = 0x60;
/// From the one to the other.
const COMMAND: u64 = 4;

/// The controller, on the two ports that it has.
#[derive(Debug)]
pub struct KeyboardController {
    device: Mutex<I8042Device<ResetLine>>,
    /// How far this window is from the data port.
    window: u64,
}

/// What is at the other end of the reset line.
#[derive(Debug)]
struct ResetLine(StopSwitch);

impl Trigger for ResetLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.end(Ending::Reset);
        Ok(())
    }
}

impl KeyboardController {
    /// The data port (`command` is false) or the command port. Between them are ports of others.
    pub fn new(stop: StopSwitch, command: bool) -> Self {
        Self { device: Mutex::new(I8042Device::new(ResetLine(stop))), window: if command { COMMAND } else { 0 } }
    }

    /// Where its port is.
    pub fn port(&self) -> u64 {
        u64::from(BASE) + self.window
    }
}

impl BusDevice for KeyboardController {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let ([value], Ok(offset)) = (data, u8::try_from(self.window + offset)) {
            *value = self.device.lock().unwrap_or_else(PoisonError::into_inner).read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let ([value], Ok(offset)) = (data, u8::try_from(self.window + offset))
            && let Err(err) = self.device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, *value)
        {
            tracing::warn!("the keyboard controller cannot reset the machine: {err}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_command_resets() {
        let stop = StopSwitch::new().unwrap();
        let controller = KeyboardController::new(stop.clone(), true);
        let mut status = [0xff];
        controller.read(0, &mut status);
        assert_eq!(status, [0], "never busy, so that nobody waits for it");
        KeyboardController::new(stop.clone(), false).write(0, &[0xfe]);
        assert_eq!(stop.ending(), None, "that was data");
        controller.write(0, &[0xfe]);
        assert_eq!(stop.ending(), Some(Ending::Reset));
    }
}
