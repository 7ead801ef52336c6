//! How another VMM embeds the engine: one port a network card, and frames in and out of it.
//!
//! `cargo run --example embed` plays a guest that asks who the gateway is.

use netstack::config::Config;
use netstack::engine::Engine;
use netstack::frame::FrameMeta;
use netstack::port::memory::{MemoryConfig, MemoryPort};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Address};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The network is that of QEMU's `-netdev user`; `config::qemu::parse` reads the same options.
    let engine = Engine::new(&Config::default())?;
    let handle = engine.handle();
    let running = tokio::spawn(engine.run());

    // A real VMM implements `port::Port` over its virtqueues instead, and lends the engine guest memory.
    let (port, guest) = MemoryPort::pair(MemoryConfig::default());
    let attachment = handle.attach(Box::new(port)).await?;

    guest.send(who_has([10, 0, 2, 2]), FrameMeta::default())?;
    while let Some((frame, _meta)) = guest.received().await {
        let ethernet = EthernetFrame::new_checked(&frame)?;
        // The router has been advertised to the guest as well; that is not what we asked.
        if ethernet.ethertype() == EthernetProtocol::Arp {
            println!("10.0.2.2 is at {}", ethernet.src_addr());
            break;
        }
    }

    handle.detach(attachment.id).await?;
    handle.shutdown();
    running.await?;
    Ok(())
}

fn who_has(address: [u8; 4]) -> Vec<u8> {
    let mac = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    let mut frame = EthernetFrame::new_unchecked(vec![0; 42]);
    frame.set_src_addr(mac);
    frame.set_dst_addr(EthernetAddress::BROADCAST);
    frame.set_ethertype(EthernetProtocol::Arp);
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: Ipv4Address::new(10, 0, 2, 15),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address.into(),
    };
    request.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    frame.into_inner()
}
