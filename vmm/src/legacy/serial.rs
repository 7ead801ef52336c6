//! The serial port COM1, a 16550: the guest's console.
//!
//! What the guest sends is written where the program says, one byte at a time, as it comes. What is sent to the guest waits until the
//! 64 bytes of the receive queue have room: see [`SerialPort::receive`] and [`SerialPort::room`].

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;

/// Its first port.
pub const BASE: u16 = 0x3f8;

/// Its interrupt, edge-triggered.
pub const GSI: u32 = 4;

/// The serial port.
pub struct SerialPort {
    device: Mutex<Serial<Interrupt, Room, Box<dyn Write + Send>>>,
    room: Arc<EventFd>,
}

/// An eventfd that is the interrupt.
#[derive(Debug)]
struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells whoever feeds the port that the guest has read everything.
#[derive(Debug)]
struct Room(Arc<EventFd>);

impl SerialEvents for Room {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {
        tracing::debug!("a byte of the guest's console was lost");
    }

    fn in_buffer_empty(&self) {
        // A counter that is full is readable, which is all that counts.
        _ = self.0.write(1);
    }
}

impl SerialPort {
    /// How many ports there are, from [`BASE`] on.
    pub const PORTS: u64 = 8;

    /// A port that interrupts by this eventfd and whose guest's output goes to `out`.
    ///
    /// # Errors
    ///
    /// When no eventfd can be had.
    pub fn new(interrupt: EventFd, out: Box<dyn Write + Send>) -> io::Result<Self> {
        let room = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let device = Serial::with_events(Interrupt(interrupt), Room(Arc::clone(&room)), out);
        Ok(Self { device: Mutex::new(device), room })
    }

    /// Sends bytes to the guest; returns how many there was room for.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let len = bytes.len().min(device.fifo_capacity());
        device.enqueue_raw_bytes(&bytes[..len]).unwrap_or(0)
    }

    /// Becomes readable when the guest has read all that it was sent.
    pub fn room(&self) -> &EventFd {
        &self.room
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            *value = self.device.lock().unwrap_or_else(PoisonError::into_inner).read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // Output that nobody takes is lost, as on a line that nobody has plugged in.
        if let ([value], Ok(offset)) = (data, u8::try_from(offset))
            && let Err(err) = self.device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, *value)
        {
            tracing::debug!("the serial port: {err:?}");
        }
    }
}

impl fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers.
    const DATA: u64 = 0;
    const INTERRUPT_ENABLE: u64 = 1;
    const LINE_STATUS: u64 = 5;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn port() -> (SerialPort, EventFd, Shared) {
        let (interrupt, out) = (EventFd::new(EFD_NONBLOCK).unwrap(), Shared::default());
        let port = SerialPort::new(interrupt.try_clone().unwrap(), Box::new(out.clone())).unwrap();
        (port, interrupt, out)
    }

    fn read(port: &SerialPort, register: u64) -> u8 {
        let mut value = [0];
        port.read(register, &mut value);
        value[0]
    }

    #[test]
    fn what_the_guest_sends_comes_out() {
        let (port, _, out) = port();
        for byte in b"hello" {
            assert_eq!(read(&port, LINE_STATUS) & 0x20, 0x20);
            port.write(DATA, &[*byte]);
        }
        assert_eq!(*out.0.lock().unwrap(), b"hello");
    }

    #[test]
    fn what_is_typed_waits_for_room() {
        let (port, interrupt, _) = port();
        port.write(INTERRUPT_ENABLE, &[1]);
        let typed = [b'x'; 100];
        let taken = port.receive(&typed);
        assert!(taken > 0 && taken < typed.len(), "{taken}");
        assert!(interrupt.read().is_ok());
        assert_eq!(port.receive(&typed), 0);
        assert!(port.room().read().is_err());
        for _ in 0..taken {
            assert_eq!((read(&port, LINE_STATUS) & 1, read(&port, DATA)), (1, b'x'));
        }
        assert!(port.room().read().is_ok());
        assert_eq!(port.receive(&typed), taken);
    }

    #[test]
    fn wide_accesses_do_nothing() {
        let (port, _, out) = port();
        port.write(DATA, b"ab");
        let mut data = [0; 4];
        port.read(DATA, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert!(out.0.lock().unwrap().is_empty());
    }
}
