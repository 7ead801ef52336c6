//! The crate's driver as a card of the body, and the crate's view of the machine.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ptr::NonNull;

use probe_body::card::{Nic, Offloads, Receive, Transmit, Wanted};
use probe_body::report::Mac;
use probe_machine::interrupt::{self, Interrupts};
use probe_machine::{memory, port};
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Descriptors of each queue, and bytes of each buffer: a header and a frame.
const QUEUE: usize = 64;
const BUFFER: usize = 2048;

/// Frames that may be under way. A chain of the driver's may take two descriptors.
const SENDING: usize = QUEUE / 2;

type Driver = VirtIONetRaw<Identity, PciTransport, QUEUE>;

/// A virtio-net device, driven by the crate.
pub(crate) struct VirtioDriversNet {
    mac: Mac,
    receive: Receiving,
    transmit: Sending,
}

impl VirtioDriversNet {
    /// The first virtio-net device of the machine, in use.
    pub(crate) fn find() -> Result<Self, &'static str> {
        const VENDOR: u16 = 0x1af4;
        const DEVICES: [u16; 2] = [0x1000, 0x1041];
        let mut root = PciRoot::new(Ports);
        let mut functions = root.enumerate_bus(0);
        let found = functions.find(|(_, info)| info.vendor_id == VENDOR && DEVICES.contains(&info.device_id));
        let (function, _) = found.ok_or("the machine has no such card")?;
        root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
        let transport = PciTransport::new::<Identity, _>(&mut root, function).map_err(|_| "the transport does not come up")?;
        let mut driver = Driver::new(transport).map_err(|_| "the device does not come up")?;
        driver.disable_interrupts();
        let mac = Mac(driver.mac_address());
        let driver = Rc::new(RefCell::new(driver));
        let mut receive = Receiving { driver: Rc::clone(&driver), buffers: [const { None }; QUEUE] };
        for _ in 0..QUEUE {
            receive.post(Box::leak(Box::new([0; BUFFER])))?;
        }
        let free = (0..SENDING).map(|_| &mut *Box::leak(Box::new([0; BUFFER]))).collect();
        let transmit = Sending { driver, free, under_way: [const { None }; QUEUE] };
        Ok(Self { mac, receive, transmit })
    }
}

impl Nic for VirtioDriversNet {
    type Receive = Receiving;
    type Transmit = Sending;

    fn name(&self) -> &'static str {
        "virtio-drivers"
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn mtu(&self) -> usize {
        1500
    }

    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn halves(&mut self) -> (&mut Receiving, &mut Sending) {
        (&mut self.receive, &mut self.transmit)
    }

    /// The driver rings its doorbells itself.
    fn flush(&mut self) {}
}

/// The driver leaves MSI-X alone: its guest polls.
impl Interrupts for VirtioDriversNet {
    const VECTOR: u8 = interrupt::MSI;

    fn arm(&mut self) {}

    fn disarm(&mut self) {}
}

/// Frames from the device: buffers by the token under which the driver has them.
pub(crate) struct Receiving {
    driver: Rc<RefCell<Driver>>,
    buffers: [Option<&'static mut [u8; BUFFER]>; QUEUE],
}

impl Receiving {
    fn post(&mut self, buffer: &'static mut [u8; BUFFER]) -> Result<(), &'static str> {
        // SAFETY: nobody looks at the buffer before it has come back.
        let token = unsafe { self.driver.borrow_mut().receive_begin(buffer) };
        let token = token.map_err(|_| "the driver takes no buffer")?;
        *self.buffers.get_mut(usize::from(token)).ok_or("the driver has named a buffer that is none")? = Some(buffer);
        Ok(())
    }
}

impl Receive for Receiving {
    fn poll(&mut self) -> bool {
        self.driver.borrow().poll_receive().is_some()
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        let token = self.driver.borrow().poll_receive().expect("a frame, as the caller was told");
        let buffer = self.buffers.get_mut(usize::from(token)).and_then(Option::take).expect("the buffer of the token");
        // SAFETY: the buffer that was posted under the token.
        let (header, len) = unsafe { self.driver.borrow_mut().receive_complete(token, buffer) }.expect("a frame that was received");
        let result = look(&buffer[header..][..len]);
        self.post(buffer).expect("room for a buffer that has just come back");
        result
    }
}

/// Frames to the device.
pub(crate) struct Sending {
    driver: Rc<RefCell<Driver>>,
    free: Vec<&'static mut [u8; BUFFER]>,
    /// Buffers that the device has, and the length of what is in them, by token.
    under_way: [Option<(&'static mut [u8; BUFFER], usize)>; QUEUE],
}

impl Transmit for Sending {
    fn poll(&mut self) -> bool {
        let mut driver = self.driver.borrow_mut();
        while let Some(token) = driver.poll_transmit() {
            let (buffer, len) = self.under_way.get_mut(usize::from(token)).and_then(Option::take).expect("the buffer of the token");
            // SAFETY: what was sent under the token.
            unsafe { driver.transmit_complete(token, &buffer[..len]) }.expect("a frame that was sent");
            self.free.push(buffer);
        }
        !self.free.is_empty() && driver.can_send()
    }

    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> (R, Wanted)) -> R {
        let buffer = self.free.pop().expect("room, as the caller was told");
        let mut driver = self.driver.borrow_mut();
        let header = driver.fill_buffer_header(&mut buffer[..]).expect("room for a header");
        let (result, _) = write(&mut buffer[header..][..len]);
        let len = header + len;
        // SAFETY: nobody looks at the buffer before it has come back.
        let token = unsafe { driver.transmit_begin(&buffer[..len]) }.expect("room in the queue");
        *self.under_way.get_mut(usize::from(token)).expect("a token of the queue") = Some((buffer, len));
        result
    }
}

/// The machine as the crate sees it: virtual is physical.
struct Identity;

// SAFETY: memory of the arena is handed out once and zeroed, and all memory is mapped to its own address.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = NonNull::new(memory::leak(pages * PAGE_SIZE, PAGE_SIZE)).expect("memory for a queue");
        (memory.as_ptr() as PhysAddr, memory)
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        memory::map(paddr, size as u64);
        NonNull::new(paddr as *mut u8).expect("registers that are not at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// PCI configuration space by ports CF8 and CFC.
struct Ports;

impl Ports {
    fn select(function: DeviceFunction, register: u8) {
        let DeviceFunction { bus, device, function } = function;
        let address =
            1 << 31 | u32::from(bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8 | u32::from(register & 0xfc);
        port::write_u32(0xcf8, address);
    }
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        Self::select(function, register);
        port::read_u32(0xcfc)
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        Self::select(function, register);
        port::write_u32(0xcfc, data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}
