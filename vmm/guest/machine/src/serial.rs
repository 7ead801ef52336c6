//! The serial port, for text to whoever watches the guest.

use core::fmt;

use crate::port;

/// The first serial port of a PC.
const BASE: u16 = 0x3f8;
const FIFO_CONTROL: u16 = BASE + 2;
const LINE_STATUS: u16 = BASE + 5;

/// The transmitter has room.
const EMPTY: u8 = 0x20;

/// What a 16550's FIFO holds.
const FIFO: usize = 16;

/// Writes text to the serial port, `\n` as `\r\n`.
#[derive(Debug)]
pub struct Serial {
    /// Bytes for which there is room without asking.
    room: usize,
}

impl Serial {
    /// Switches the FIFO on.
    pub fn new() -> Self {
        port::write_u8(FIFO_CONTROL, 1);
        Self { room: 0 }
    }

    fn byte(&mut self, byte: u8) {
        if self.room == 0 {
            while port::read_u8(LINE_STATUS) & EMPTY == 0 {}
            self.room = FIFO;
        }
        port::write_u8(BASE, byte);
        self.room -= 1;
    }
}

impl Default for Serial {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.byte(b'\r');
            }
            self.byte(byte);
        }
        Ok(())
    }
}
