//! A DHCP client that this project did not write: the one of smoltcp, which reads every field that it needs itself.

use std::collections::VecDeque;

use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::dhcpv4::{Event, Socket};
use smoltcp::time::Instant as GuestInstant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpCidr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use super::*;

/// A network card: frames in, frames out.
#[derive(Default)]
struct Card {
    inbox: VecDeque<Vec<u8>>,
    outbox: Vec<Vec<u8>>,
}

struct Inbound(Vec<u8>);

struct Outbound<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Inbound {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Inbound;
    type TxToken<'a> = Outbound<'a>;

    fn receive(&mut self, _: GuestInstant) -> Option<(Inbound, Outbound<'_>)> {
        Some((Inbound(self.inbox.pop_front()?), Outbound(&mut self.outbox)))
    }

    fn transmit(&mut self, _: GuestInstant) -> Option<Outbound<'_>> {
        Some(Outbound(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest with smoltcp's client, and the server.
struct Rig {
    link: Link,
    mac: MacAddr,
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    client: SocketHandle,
    /// The types of the messages that were sent each way, in order.
    seen: Vec<M>,
}

impl Rig {
    fn new() -> Self {
        let mac = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let mut card = Card::default();
        let config = InterfaceConfig::new(EthernetAddress(mac.0).into());
        let interface = Interface::new(config, &mut card, GuestInstant::ZERO);
        let mut sockets = SocketSet::new(Vec::new());
        let client = sockets.add(Socket::new());
        Self { link: Link::new(|_| {}), mac, card, interface, sockets, client, seen: Vec::new() }
    }

    /// Lets `steps` of so many seconds pass. Returns the last news of the client.
    fn run(&mut self, steps: u64, seconds: u64) -> Option<Event<'_>> {
        for _ in 0..steps {
            // Twice, so that the client sees the answer in the same step.
            for _ in 0..2 {
                let now = GuestInstant::from_micros(self.link.now.as_micros() as i64);
                self.interface.poll(now, &mut self.card, &mut self.sockets);
                for frame in std::mem::take(&mut self.card.outbox) {
                    let answer = self.serve(&frame);
                    self.card.inbox.extend(answer);
                }
            }
            self.link.later(seconds);
        }
        self.sockets.get_mut::<Socket<'_>>(self.client).poll()
    }

    /// What the engine does around the server: unwraps a datagram to port 67 and wraps the answer.
    fn serve(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let ethernet = EthernetFrame::new_checked(frame).unwrap();
        let ip = Ipv4Packet::new_checked((ethernet.ethertype() == EthernetProtocol::Ipv4).then(|| ethernet.payload())?).unwrap();
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        if udp.dst_port() != 67 {
            return None;
        }
        self.seen.extend(Message::decode(&mut Decoder::new(udp.payload())).unwrap().opts().msg_type());
        let got = self.link.send_bytes(MacAddr(ethernet.src_addr().0), udp.payload()).unwrap()?;
        self.seen.extend(got.kind());

        let checksums = ChecksumCapabilities::default();
        let udp = UdpRepr { src_port: 67, dst_port: got.to.port };
        let ip = Ipv4Repr {
            src_addr: GATEWAY,
            dst_addr: got.to.to,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + got.bytes.len(),
            hop_limit: 64,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(MacAddr::of_virtual_host(GATEWAY.into()).0),
            dst_addr: EthernetAddress(got.to.mac.0),
            ethertype: EthernetProtocol::Ipv4,
        };
        let mut frame = vec![0; ethernet.buffer_len() + ip.buffer_len() + ip.payload_len];
        let mut outer = EthernetFrame::new_unchecked(&mut frame);
        ethernet.emit(&mut outer);
        let mut middle = Ipv4Packet::new_unchecked(outer.payload_mut());
        ip.emit(&mut middle, &checksums);
        let mut inner = UdpPacket::new_unchecked(middle.payload_mut());
        let bytes = got.bytes;
        udp.emit(
            &mut inner,
            &GATEWAY.into(),
            &got.to.to.into(),
            bytes.len(),
            |payload| payload.copy_from_slice(&bytes),
            &checksums,
        );
        Some(frame)
    }
}

#[test]
fn another_client_gets_an_address_and_keeps_it_for_days() {
    let mut rig = Rig::new();
    let mac = rig.mac;
    match rig.run(10, 1) {
        Some(Event::Configured(configured)) => {
            assert_eq!(configured.address.to_string(), "10.0.2.15/24");
            assert_eq!(configured.router, Some(GATEWAY));
            assert_eq!(configured.dns_servers.to_vec(), [ip(3)]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.seen, [M::Discover, M::Offer, M::Request, M::Ack]);
    assert_eq!(rig.link.server.lease_of(ip(15)).unwrap().mac, mac);

    // From now on the client has the address, and its renewals come from it.
    rig.interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(ip(15).into(), 24)).unwrap());
    for day in 1..=3 {
        assert!(rig.run(1440, 60).is_none(), "the client lost its lease on day {day}");
        assert!(rig.link.server.lease_of(ip(15)).unwrap().is_in_force(rig.link.now));
    }
    assert!(rig.seen.len() >= 4 + 2 * 3, "{:?}", rig.seen);
    assert!(rig.seen[4..].chunks(2).all(|exchange| exchange == [M::Request, M::Ack]), "{:?}", rig.seen);
}
