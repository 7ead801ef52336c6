//! The network card (virtio 1.2, section 5.1): two queues of the guest as one port of the engine.
//!
//! Nothing is copied and nothing is cut on the way. What the guest transmits is lent to the engine where it lies, up to 64 KiB with the
//! size of the segments that it stands for; what the guest receives is written by the engine, or by the kernel on its behalf, straight
//! into the buffers that the guest has posted.
//!
//! The port is attached once, for the life of the machine. While no driver is ready, it has no frames and no room; what a driver has
//! negotiated shows in its offloads and its MTU.

mod receive;
mod transmit;

use std::io;
use std::sync::Arc;

use netstack::addr::MacAddr;
use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind, Offloads};
use netstack::port::{Halves, Port};

use super::handover::{self, QueueSlot};
use super::queue::MAX_SIZE;
use super::{DeviceConfig, Parts};

/// The device type, and the class of an Ethernet controller.
const DEVICE_TYPE: u16 = 1;
const CLASS: u32 = 0x02_00_00;

/// `struct virtio_net_hdr` in front of each frame; always with its count of buffers in virtio 1.0 and later (section 5.1.6.1).
const HEADER: usize = netstack::frame::vnet::HEADER_WITH_BUFFERS;

/// The largest packet of a driver that was not told of another one.
const STANDARD_MTU: u16 = 1500;

/// Feature bits (section 5.1.3).
pub mod feature {
    /// The device fills in checksums.
    pub const CSUM: u64 = 1 << 0;
    /// So does the driver.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device says which MTU the link has.
    pub const MTU: u64 = 1 << 3;
    /// The device has an address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes super-frames of TCP over IPv4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// And over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The device takes super-frames of TCP over IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// And over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// A frame may fill several receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The device says whether the link is up.
    pub const STATUS: u64 = 1 << 16;
    /// The driver takes super-frames of UDP over IPv4.
    pub const GUEST_USO4: u64 = 1 << 54;
    /// And over IPv6.
    pub const GUEST_USO6: u64 = 1 << 55;
    /// The device takes super-frames of UDP.
    pub const HOST_USO: u64 = 1 << 56;

    /// All that is offered.
    pub(super) const ALL: u64 = CSUM
        | GUEST_CSUM
        | MTU
        | MAC
        | GUEST_TSO4
        | GUEST_TSO6
        | HOST_TSO4
        | HOST_TSO6
        | MRG_RXBUF
        | STATUS
        | GUEST_USO4
        | GUEST_USO6
        | HOST_USO;

    /// Section 5.1.3.1.
    pub(super) const REQUIRES: &[(u64, u64)] =
        &[(HOST_TSO4 | HOST_TSO6 | HOST_USO, CSUM), (GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6, GUEST_CSUM)];
}

/// What a network card is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// Its name in messages.
    pub name: String,
    /// Its address.
    pub mac: MacAddr,
    /// The largest IP packet on its link, after segmentation: 68 to 65535 bytes.
    pub mtu: u16,
}

/// Where the link status is in the configuration, and what it says of a link that is up.
const LINK_STATUS: usize = 6;
const LINK_UP: u16 = 1;

impl NetConfig {
    /// `struct virtio_net_config`: address, link status, pairs of queues, MTU (section 5.1.4).
    fn space(&self) -> Vec<u8> {
        const PAIRS: u16 = 1;
        let numbers = [LINK_UP, PAIRS, self.mtu].map(u16::to_le_bytes);
        [&self.mac.0[..], numbers.as_flattened()].concat()
    }
}

/// The data path of a network card, to be attached to an engine.
#[derive(Debug)]
pub struct NetPort {
    config: NetConfig,
    space: DeviceConfig,
    receive: QueueSlot,
    transmit: QueueSlot,
}

/// Makes a network card: what its PCI function is made of, and its data path.
///
/// # Errors
///
/// When the kernel has no descriptors left.
pub fn new(config: NetConfig) -> io::Result<(Parts, NetPort)> {
    // Queue 2n receives and queue 2n + 1 transmits (section 5.1.2); there is one pair.
    let (receive, receive_slot) = handover::queue(MAX_SIZE)?;
    let (transmit, transmit_slot) = handover::queue(MAX_SIZE)?;
    // An idle engine waits for the guest to transmit, so that is how it is told of anything.
    let receive = receive.waking(Arc::clone(transmit.kick()));
    let space = DeviceConfig::from(config.space());
    let parts = Parts {
        device_type: DEVICE_TYPE,
        class: CLASS,
        features: feature::ALL,
        requires: feature::REQUIRES,
        config: space.clone(),
        queues: vec![receive, transmit],
    };
    Ok((parts, NetPort { config, space, receive: receive_slot, transmit: transmit_slot }))
}

impl Port for NetPort {
    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn attach(self: Box<Self>) -> io::Result<Halves> {
        let ingress = transmit::NetIngress::new(self.transmit)?;
        let egress = receive::NetEgress::new(self.receive, self.space, self.config.mtu)?;
        Ok(Halves { ingress: Box::new(ingress), egress: Box::new(egress) })
    }
}

/// What a driver with these features takes; super-frames only if it has room for them.
const fn offloads(features: u64, room: bool) -> Offloads {
    const USO: u64 = feature::GUEST_USO4 | feature::GUEST_USO6;
    Offloads {
        checksum: features & feature::GUEST_CSUM != 0,
        tso4: room && features & feature::GUEST_TSO4 != 0,
        tso6: room && features & feature::GUEST_TSO6 != 0,
        uso: room && features & USO == USO,
    }
}

/// What is left of the meaning of a header if the driver may only use what it has negotiated; `None` if it used something else.
fn negotiated(meta: FrameMeta, features: u64) -> Option<FrameMeta> {
    let needed = match meta.gso {
        None => 0,
        Some(Gso { kind: GsoKind::TcpV4, .. }) => feature::HOST_TSO4,
        Some(Gso { kind: GsoKind::TcpV6, .. }) => feature::HOST_TSO6,
        Some(Gso { kind: GsoKind::Udp, .. }) => feature::HOST_USO,
    };
    let (checksum, needed) = match meta.checksum {
        Checksum::Partial { .. } => (meta.checksum, needed | feature::CSUM),
        // It is not for a driver to vouch for what it sends (section 5.1.6.2.1).
        Checksum::Verified | Checksum::Complete => (Checksum::Complete, needed),
    };
    (features & needed == needed).then_some(FrameMeta { checksum, ..meta })
}

#[cfg(test)]
mod tests;
