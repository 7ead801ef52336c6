//! Just enough TCP to move bytes through a network card under test and an engine behind it, super-frames and all.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use netstack::config::Config;
use netstack::engine::{Attachment, Engine, Handle};
use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind};
use netstack::port::Port;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::bell::Bell;

pub(crate) const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const HEADERS: usize = 54;
const MSS: u16 = 1460;

/// A guest's driver of a network card.
pub(crate) trait Nic {
    /// Transmits a frame.
    fn send(&mut self, frame: &[u8], meta: FrameMeta);

    /// Takes a frame that was received.
    fn receive(&mut self) -> Option<(Vec<u8>, FrameMeta)>;

    /// What rings when something was received.
    fn bell(&self) -> Arc<Bell>;
}

/// An engine with one port.
pub(crate) struct Network {
    pub(crate) handle: Handle,
    pub(crate) _attachment: Attachment,
    engine: JoinHandle<()>,
}

impl Network {
    pub(crate) async fn with(port: impl Port + 'static) -> Self {
        let engine = Engine::new(&Config::default()).unwrap();
        let handle = engine.handle();
        let engine = tokio::spawn(engine.run());
        let attachment = handle.attach(Box::new(port)).await.unwrap();
        Self { handle, _attachment: attachment, engine }
    }

    pub(crate) async fn shut_down(self) {
        self.handle.shutdown();
        self.engine.await.unwrap();
    }
}

/// The guest's end of a TCP connection to this machine.
struct Connection<'n, N> {
    nic: &'n mut N,
    from: u16,
    to: u16,
    seq: TcpSeqNumber,
    ack: Option<TcpSeqNumber>,
}

impl<N: Nic> Connection<'_, N> {
    fn segment(&mut self, control: TcpControl, payload: &[u8], gso: bool) {
        let tcp = TcpRepr {
            src_port: self.from,
            dst_port: self.to,
            control,
            seq_number: self.seq,
            ack_number: self.ack,
            window_len: 0xffff,
            window_scale: (control == TcpControl::Syn).then_some(7),
            max_seg_size: (control == TcpControl::Syn).then_some(MSS),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let ip = Ipv4Repr {
            src_addr: GUEST,
            dst_addr: GATEWAY,
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let mut frame = EthernetFrame::new_unchecked(vec![0; 14 + ip.buffer_len() + tcp.buffer_len()]);
        frame.set_src_addr(EthernetAddress(GUEST_MAC));
        frame.set_dst_addr(EthernetAddress(GATEWAY_MAC));
        frame.set_ethertype(EthernetProtocol::Ipv4);
        let checksums = ChecksumCapabilities::ignored();
        ip.emit(&mut Ipv4Packet::new_unchecked(frame.payload_mut()), &checksums);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        packet.fill_checksum();
        tcp.emit(
            &mut TcpPacket::new_unchecked(packet.payload_mut()),
            &IpAddress::Ipv4(GUEST),
            &IpAddress::Ipv4(GATEWAY),
            &checksums,
        );
        let mut frame = frame.into_inner();
        // The sum of the pseudo-header, as a driver leaves it for the device to finish.
        let sum = pseudo_header(tcp.buffer_len());
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
        let meta = FrameMeta {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: gso.then_some(Gso { kind: GsoKind::TcpV4, size: MSS, ecn: false }),
        };
        self.nic.send(&frame, meta);
        self.seq += payload.len() + control.len();
    }

    /// The next segment of this connection: its payload, and its meta.
    async fn next(&mut self) -> (TcpSeqNumber, TcpControl, Vec<u8>, FrameMeta) {
        loop {
            let Some((frame, meta)) = self.nic.receive() else {
                self.nic.bell().rings().await;
                continue;
            };
            let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
            if ethernet.ethertype() != EthernetProtocol::Ipv4 {
                continue;
            }
            let packet = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
            if packet.next_header() != IpProtocol::Tcp {
                continue;
            }
            let tcp = TcpPacket::new_checked(packet.payload()).unwrap();
            if meta.checksum == Checksum::Complete {
                assert!(tcp.verify_checksum(&IpAddress::Ipv4(GATEWAY), &IpAddress::Ipv4(GUEST)), "a wrong checksum");
            }
            // The last words of a connection before this one.
            if (tcp.src_port(), tcp.dst_port()) != (self.to, self.from) {
                continue;
            }
            let control = match (tcp.syn(), tcp.fin(), tcp.rst()) {
                (true, ..) => TcpControl::Syn,
                (_, true, _) => TcpControl::Fin,
                (_, _, true) => TcpControl::Rst,
                _ => TcpControl::None,
            };
            return (tcp.seq_number(), control, tcp.payload().to_vec(), meta);
        }
    }

    async fn connect(nic: &mut N, to: u16) -> Connection<'_, N> {
        // Ports of the host are used once in a test, so a port of its own for each makes a connection unlike all others.
        let mut connection = Connection { nic, from: to ^ 1, to, seq: TcpSeqNumber(1000), ack: None };
        connection.segment(TcpControl::Syn, &[], false);
        let (seq, control, ..) = connection.next().await;
        assert_eq!(control, TcpControl::Syn);
        connection.ack = Some(seq + 1);
        connection.segment(TcpControl::None, &[], false);
        connection
    }
}

fn pseudo_header(len: usize) -> u16 {
    use smoltcp::wire::checksum;
    checksum::pseudo_header_v4(&GUEST, &GATEWAY, IpProtocol::Tcp, u32::try_from(len).unwrap())
}

/// Bytes that differ from their neighbours at any distance.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(step).collect()
}

/// The guest sends `len` bytes in frames of at most `frame` bytes of payload; all of them arrive.
pub(crate) async fn upload(nic: &mut impl Nic, len: usize, frame: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!() };
    let mut guest = Connection::connect(nic, address.port()).await;
    let (mut host, _) = listener.accept().await.unwrap();
    let sent = pattern(len);
    let mut received = vec![0; len];
    let mut at = 0;
    for part in sent.chunks(frame) {
        guest.segment(TcpControl::Psh, part, part.len() > usize::from(MSS));
        // The window is respected by not running ahead.
        host.read_exact(&mut received[at..at + part.len()]).await.unwrap();
        at += part.len();
    }
    assert!(received == sent, "not what was sent");
    guest.segment(TcpControl::Rst, &[], false);
}

/// The host sends `len` bytes; all of them arrive. Returns the longest payload of a frame, and whether one was a super-frame.
pub(crate) async fn download(nic: &mut impl Nic, len: usize) -> (usize, bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut guest = Connection::connect(nic, port).await;
    let (mut host, _) = listener.accept().await.unwrap();
    let sent = pattern(len);
    let writer = {
        let sent = sent.clone();
        tokio::spawn(async move { host.write_all(&sent).await.map(|()| host) })
    };
    let mut received = Vec::new();
    let (mut longest, mut super_frames) = (0, false);
    while received.len() < len {
        let (seq, _, payload, meta) = guest.next().await;
        if Some(seq) != guest.ack {
            continue;
        }
        longest = longest.max(payload.len());
        super_frames |= meta.gso.is_some();
        assert!(payload.len() <= 65535 - (HEADERS - 14));
        guest.ack = Some(seq + payload.len());
        received.extend(payload);
        guest.segment(TcpControl::None, &[], false);
        // The engine runs in this thread too, and the card has room for so many frames only.
        tokio::task::yield_now().await;
    }
    assert!(received == sent, "not what was sent");
    drop(writer.await.unwrap().unwrap());
    guest.segment(TcpControl::Rst, &[], false);
    (longest, super_frames)
}
