//! A guest whose card finishes and cuts frames, and takes unfinished ones.

use netstack::frame::{Checksum, FrameMeta, Gso, GsoKind};

use crate::story::Story;
use crate::story::frame::leave_checksum;
use crate::story::guest::{Goes, Guest};
use crate::story::link::{Datagrams, Stream, pattern_of};
use crate::story::tcp::Connection;

const WIRE: &str = "a wire takes finished frames";

pub(super) const STORIES: &[Story] = &[
    Story::new("offload/upload", "the guest sends forty thousand bytes in two super-frames", upload).offloading().spared(WIRE),
    Story::new("offload/upload-v6", "the guest sends twelve thousand bytes in two super-frames of IPv6", upload6)
        .offloading()
        .spared(WIRE),
    Story::new("offload/download", "the guest gets sixty thousand bytes in super-frames", download).offloading().spared(WIRE),
    Story::new("offload/download-v6", "the guest gets twelve thousand bytes in super-frames of IPv6", download6)
        .offloading()
        .spared(WIRE),
    Story::new("offload/large-mtu", "a link with an MTU of 65520 moves the same in whole packets", large)
        .mtu(65_520)
        .spared("QEMU cannot change libslirp's MTU"),
    Story::new("offload/datagrams", "the guest sends eight datagrams in one frame, and they come back", datagrams)
        .offloading()
        .spared(WIRE),
    Story::new("offload/checksums", "the guest leaves the checksums of small frames to others", checksums)
        .offloading()
        .spared(WIRE),
];

fn send_super(guest: &mut Guest<'_>, connection: &mut Connection, data: &[u8]) {
    let ipv6 = connection.remote.is_ipv6();
    let (kind, size, start) = if ipv6 { (GsoKind::TcpV6, 1440, 54) } else { (GsoKind::TcpV4, 1460, 34) };
    let segment = connection.data_at(0, data);
    let mut frame = connection.frame(guest, &segment);
    leave_checksum(&mut frame);
    guest.send_with(
        &frame,
        FrameMeta { checksum: Checksum::Partial { start, offset: 16 }, gso: Some(Gso { kind, size, ecn: false }) },
    );
    connection.sent(data.len());
}

fn upload_with(guest: &mut Guest<'_>, ipv6: bool, len: usize) -> Goes {
    let server = guest.serve(ipv6, Stream::Sink);
    let mut connection = Connection::open(guest, 42_000, server)?;
    let data = pattern_of(len);
    for half in data.chunks(len / 2) {
        send_super(guest, &mut connection, half);
    }
    connection.is_acknowledged(guest)?;
    connection.close(guest)
}

fn upload(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    upload_with(guest, false, 40_000)
}

fn upload6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    upload_with(guest, true, 12_000)
}

fn download_with(guest: &mut Guest<'_>, ipv6: bool, len: u64) -> Goes {
    let server = guest.serve(ipv6, Stream::Pattern(len));
    let mut connection = Connection::open(guest, 42_000, server)?;
    connection.read_to_end(guest)?;
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn download(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    download_with(guest, false, 60_000)
}

fn download6(guest: &mut Guest<'_>) -> Goes {
    guest.arrive6()?;
    download_with(guest, true, 12_000)
}

fn large(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve(false, Stream::Pattern(60_000));
    // MSS 65480, window scale 7.
    let mut connection = Connection::syn(guest, 42_000, server, &[2, 4, 0xff, 0xc8, 1, 3, 3, 7]);
    connection.complete(guest)?;
    connection.read_to_end(guest)?;
    connection.send(guest, &pattern_of(30_000));
    connection.finish(guest);
    connection.is_acknowledged(guest)?;
    Ok(())
}

fn datagrams(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let data = pattern_of(8 * 100);
    let mut frame = guest.datagram_frame(5000, server, &data);
    leave_checksum(&mut frame);
    let gso = Some(Gso { kind: GsoKind::Udp, size: 100, ecn: false });
    guest.send_with(&frame, FrameMeta { checksum: Checksum::Partial { start: 34, offset: 6 }, gso });
    let mut received = Vec::new();
    while received.len() < data.len() {
        received.extend(guest.datagram_to("the datagrams again", 5000)?.payload);
    }
    guest.check("all datagrams come back in order", received == data);
    Ok(())
}

fn checksums(guest: &mut Guest<'_>) -> Goes {
    guest.arrive()?;
    let server = guest.serve_datagrams(false, Datagrams::Echo);
    let mut frame = guest.datagram_frame(5000, server, b"finish me");
    leave_checksum(&mut frame);
    guest.send_with(&frame, FrameMeta { checksum: Checksum::Partial { start: 34, offset: 6 }, gso: None });
    guest.hear_datagram("the datagram again", 5000)?;
    let mut frame = guest.datagram_frame(5000, server, b"believe me");
    frame[40..42].copy_from_slice(&[0xba, 0xad]);
    guest.send_with(&frame, FrameMeta { checksum: Checksum::Verified, gso: None });
    guest.hear_datagram("the datagram again", 5000)?;
    Ok(())
}
