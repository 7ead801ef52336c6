//! The halves on a socket pair, which like a device keeps frames apart; and all of it on a real device, in a namespace of its own.

use std::env;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use rtnetlink::{LinkUnspec, packet_route::link::LinkMessage};
use rustix::io::{read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use smoltcp::wire::{IpProtocol, checksum::pseudo_header_v4};
use tokio::net::UdpSocket;

use super::*;
use crate::frame::{Checksum, Gso, GsoKind};

const PLAIN: [u8; HEADER] = [0; HEADER];

/// A port on one end of a socket pair, and the other end as the device.
fn port() -> (TapIngress, TapEgress, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (ours, device) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let (ingress, egress) = Tap { fd: ours, name: "tap0".to_owned(), mtu: 1500, offloads: Offloads::ALL }.split().unwrap();
    (ingress, egress, device)
}

fn frame(header: [u8; HEADER], frame: &[u8]) -> Vec<u8> {
    [&header, frame].concat()
}

/// Receives until `wanted` frames have come.
async fn receive(ingress: &mut dyn Ingress, wanted: usize) -> Vec<(Vec<u8>, FrameMeta)> {
    let mut frames = Vec::new();
    while frames.len() < wanted {
        poll_fn(|cx| ingress.poll_readable(cx)).await;
        let mut sink = |frame: Frame<'_>| {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(0, &mut bytes);
            frames.push((bytes, frame.meta));
        };
        ingress.receive(16, &mut sink).unwrap();
    }
    frames
}

fn send(egress: &mut dyn Egress, frame: &[u8], meta: FrameMeta) -> Sent {
    egress.send(frame.len(), &mut |room| {
        assert_eq!(room.copy_from(0, frame), frame.len());
        Some((frame.len(), meta))
    })
}

#[tokio::test]
async fn what_the_device_has_arrives_in_order() {
    let (mut ingress, _egress, device) = port();
    write(&device, &frame(PLAIN, b"one")).unwrap();
    write(&device, &frame([2, 0, 0, 0, 0, 0, 0, 0, 0, 0], b"two")).unwrap();
    let frames = receive(&mut ingress, 2).await;
    let verified = FrameMeta { checksum: Checksum::Verified, gso: None };
    assert_eq!(frames, [(b"one".to_vec(), FrameMeta::default()), (b"two".to_vec(), verified)]);

    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(ingress.poll_readable(&mut cx).is_pending(), "a drained device is not polled again and again");
    write(&device, &frame(PLAIN, b"three")).unwrap();
    assert_eq!(receive(&mut ingress, 1).await[0].0, b"three");
}

#[tokio::test]
async fn nonsense_is_dropped_and_counted_and_uses_up_the_budget() {
    let (mut ingress, _egress, device) = port();
    let gso_without_size = [1, 1, 0, 0, 0, 0, 34, 0, 16, 0];
    write(&device, b"short").unwrap();
    write(&device, &frame(gso_without_size, &[0; 100])).unwrap();
    write(&device, &frame(PLAIN, &vec![0; MAX_FRAME + 1])).unwrap();
    write(&device, &frame(PLAIN, &vec![7; MAX_FRAME])).unwrap();
    poll_fn(|cx| ingress.poll_readable(cx)).await;
    assert_eq!(ingress.receive(2, &mut |_| panic!("nonsense was handed out")).unwrap(), 2);
    assert_eq!(receive(&mut ingress, 1).await[0].0.len(), MAX_FRAME);
    assert_eq!(ingress.dropped(), 3);
}

#[tokio::test]
async fn a_closed_device_ends_the_port() {
    let (mut ingress, _egress, device) = port();
    drop(device);
    poll_fn(|cx| ingress.poll_readable(cx)).await;
    assert_eq!(ingress.receive(1, &mut |_| {}).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn frames_carry_their_header() {
    let (_ingress, mut egress, device) = port();
    let meta = FrameMeta {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::TcpV4, size: 1460, ecn: false }),
    };
    let mut bytes = vec![0; 3000];
    bytes[46] = 0x50;
    assert_eq!(send(&mut egress, &bytes, meta), Sent::Yes);
    let mut seen = vec![0; 4000];
    assert_eq!(read(&device, &mut seen).unwrap(), 3010);
    assert_eq!(seen[..HEADER], [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0]);
    assert_eq!(seen[HEADER..3010], bytes);
}

#[tokio::test]
async fn a_device_without_room_makes_the_port_full_and_loses_nothing() {
    let (_ingress, mut egress, device) = port();
    let mut sent = 0_u32;
    while send(&mut egress, &sent.to_be_bytes(), FrameMeta::default()) == Sent::Yes {
        sent += 1;
    }
    let full = egress.send(1, &mut |_| panic!("asked to fill a full port"));
    assert_eq!(full, Sent::Full);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(egress.poll_writable(&mut cx).is_pending());
    assert!(!egress.is_flushed());

    let mut seen = 0_u32;
    let mut take = |device: &OwnedFd| {
        let mut bytes = [0; 100];
        while let Ok(len) = read(device, &mut bytes) {
            assert_eq!(bytes[HEADER..len], seen.to_be_bytes());
            seen += 1;
        }
        seen
    };
    take(&device);
    poll_fn(|cx| egress.poll_writable(cx)).await;
    assert_eq!(take(&device), sent, "the frame that had to wait was written without another one to push it");
    assert!(egress.is_flushed());
    assert_eq!(send(&mut egress, &sent.to_be_bytes(), FrameMeta::default()), Sent::Yes);
}

#[tokio::test]
async fn a_frame_longer_than_any_is_declined() {
    let (_ingress, mut egress, _device) = port();
    assert_eq!(egress.send(MAX_FRAME + 1, &mut |_| panic!("there is no such room")), Sent::Declined);
    assert_eq!(egress.send(MAX_FRAME, &mut |room| (room.len() < MAX_FRAME).then_some((0, FrameMeta::default()))), Sent::Declined);
}

#[tokio::test]
async fn a_descriptor_that_is_no_tap_device_is_refused() {
    let (_, _, device) = port();
    assert!(matches!(Tap::from_fd(device, 1500), Err(TapError::ForeignDescriptor(_))));
    let control = device::open_control().unwrap();
    assert!(matches!(Tap::from_fd(control, 1500), Err(TapError::ForeignDescriptor(_))));
}

#[test]
fn impossible_names_are_refused_before_anything_is_made() {
    for name in ["a/b", "a b", "a:b", "..", "sixteen-or-more-", "nul\0"] {
        let control = device::open_control().unwrap();
        assert!(matches!(device::attach(&control, name), Err(TapError::BadName(_))), "{name}");
    }
}

/// Runs [`real_device`] in a user and network namespace of its own: a process of its own, because only one with a single thread may make
/// a user namespace. `unshare` is of util-linux.
#[test]
fn the_kernel_behind_a_real_device_is_a_guest() {
    const INSIDE: &str = "SLIPWAY_TEST_INSIDE_NAMESPACE";
    if env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), real_device()).await.unwrap() });
        return;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "port::tap::tests::the_kernel_behind_a_real_device_is_a_guest"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

const GUEST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 1000);
const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 2), 2000);
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

async fn real_device() {
    let tap = Tap::open("", 1500).unwrap();
    let name = tap.interface().to_owned();
    assert!(matches!(Tap::open(&name, 1500), Err(TapError::Busy { .. })));
    assert!(matches!(Tap::open("lo", 1500), Err(TapError::NotATap { .. })));
    let Tap { fd, mtu, .. } = tap;
    let tap = Box::new(Tap::from_fd(fd, mtu).unwrap());
    assert_eq!(tap.interface(), name);
    let offloads = tap.offloads();
    let Halves { mut ingress, mut egress } = tap.attach().unwrap();

    // While the interface is down, frames to it are lost as on any network.
    assert_eq!(send(&mut *egress, &[0; 60], FrameMeta::default()), Sent::Yes);
    egress.flush().unwrap();
    assert_eq!(egress.dropped(), 1);

    let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let index = rustix::net::netdevice::name_to_index(UdpSocket::bind("0.0.0.0:0").await.unwrap().as_fd(), &name).unwrap();
    netlink.address().add(index, (*GUEST.ip()).into(), 24).execute().await.unwrap();
    let up: LinkMessage = LinkUnspec::new_with_index(index).address(vec![2, 0, 0, 0, 0, 1]).up().build();
    netlink.link().set(up).execute().await.unwrap();
    netlink.neighbours().add(index, (*PEER.ip()).into()).link_layer_address(&PEER_MAC).execute().await.unwrap();
    let socket = UdpSocket::bind(GUEST).await.unwrap();

    // The guest leaves checksums to us,
    socket.send_to(b"to the peer", PEER).await.unwrap();
    let (payload, meta) = receive_datagram(&mut *ingress).await;
    assert_eq!(payload, b"to the peer");
    assert_eq!(meta, FrameMeta { checksum: Checksum::Partial { start: 34, offset: 6 }, gso: None });

    // and takes frames from us whose checksums it shall not look at.
    let to_guest = datagram(b"to the guest");
    assert_eq!(send(&mut *egress, &to_guest, meta), Sent::Yes);
    let mut bytes = [0; 1000];
    let (len, from) = socket.recv_from(&mut bytes).await.unwrap();
    assert_eq!((&bytes[..len], from), (&b"to the guest"[..], PEER.into()));

    // Where the kernel can, it leaves datagrams in one frame for us to cut, and cuts ours.
    if offloads.uso {
        let gso = Some(Gso { kind: GsoKind::Udp, size: 100, ecn: false });
        cut_into(&socket, 100);
        socket.send_to(&[1; 250], PEER).await.unwrap();
        let (payload, meta) = receive_datagram(&mut *ingress).await;
        assert_eq!((payload.len(), meta.gso), (250, gso));
        assert_eq!(send(&mut *egress, &datagram(&[2; 250]), meta), Sent::Yes);
        for expected in [100, 100, 50] {
            assert_eq!(socket.recv_from(&mut bytes).await.unwrap().0, expected);
        }
    }
    assert_eq!((ingress.dropped(), egress.dropped()), (0, 1));

    // A device that is deleted is the end of the guest, in both directions.
    netlink.link().del(index).execute().await.unwrap();
    loop {
        poll_fn(|cx| ingress.poll_readable(cx)).await;
        if let Err(error) = ingress.receive(16, &mut |_| {}) {
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            break;
        }
    }
    send(&mut *egress, &to_guest, FrameMeta::default());
    assert_eq!(egress.flush().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

/// Has what is sent to a socket cut into datagrams of `size` bytes.
fn cut_into(socket: &UdpSocket, size: libc::c_int) {
    let len = size_of_val(&size) as libc::socklen_t;
    // SAFETY: the option is an `int`, which lives through the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), len) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// The next datagram to the peer; other things that the kernel says unasked are passed over.
async fn receive_datagram(ingress: &mut dyn Ingress) -> (Vec<u8>, FrameMeta) {
    loop {
        for (bytes, meta) in receive(ingress, 1).await {
            if let Some(TransportSlice::Udp(udp)) = SlicedPacket::from_ethernet(&bytes).unwrap().transport
                && udp.destination_port() == PEER.port()
            {
                return (udp.payload().to_vec(), meta);
            }
        }
    }
}

/// A datagram from the peer to the guest, with the sum of the pseudo-header in place of its checksum.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, [2, 0, 0, 0, 0, 1])
        .ipv4(PEER.ip().octets(), GUEST.ip().octets(), 64)
        .udp(PEER.port(), GUEST.port())
        .write(&mut frame, payload)
        .unwrap();
    let sum = pseudo_header_v4(PEER.ip(), GUEST.ip(), IpProtocol::Udp, 8 + payload.len() as u32);
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}
