//! The server with its sockets, and a test in the place of the engine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

/// As much as a queue of a socket holds on a machine that nobody has tuned.
const ROOM: usize = 212_992;

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    place: TempDir,
    tftp: Tftp,
}

/// A transfer's socket, with what the engine knows of it.
struct Client {
    socket: UdpSocket,
    id: TransferId,
    opening: TftpOpening,
}

impl Server {
    fn with_limit(limit: usize) -> Self {
        let place = TempDir::new().unwrap();
        fs::create_dir(place.path().join("served")).unwrap();
        fs::write(place.path().join("secret"), "secret").unwrap();
        fs::write(place.path().join("served/file"), content()).unwrap();
        let tftp = Tftp::start(&place.path().join("served"), limit).unwrap();
        Self { place, tftp }
    }

    fn new() -> Self {
        Self::with_limit(8)
    }

    fn request(&mut self, name: &str, options: &str) -> Result<TransferId, TftpRefusal> {
        self.tftp.request(format!("\0\x01{name}\0octet\0{options}").as_bytes(), 1468)
    }

    /// Begins a transfer; the request has been sent.
    fn begin(&mut self, name: &str, options: &str) -> Client {
        let id = self.request(name, options).unwrap();
        let socket = socket();
        let opening = self.tftp.start(id, socket.local_addr().unwrap(), ROOM).unwrap();
        socket.send_to(&opening.datagram, opening.server).unwrap();
        Client { socket, id, opening }
    }

    /// What the first datagram that comes means, and from where it is.
    fn first_answer(&mut self, client: &Client) -> (TftpAnswer, SocketAddr) {
        let (from, message) = receive(&client.socket);
        (self.tftp.answer(client.id, from, &message), from)
    }

    /// Acknowledges until the last block has come, and returns what was in all of them.
    fn load(&self, client: &Client, server: SocketAddr, block: usize, window: u16) -> Vec<u8> {
        let (mut bytes, mut expected) = (Vec::new(), 1_u16);
        loop {
            let (from, message) = receive(&client.socket);
            assert_eq!((from, &message[..4]), (server, &[[0, 3], expected.to_be_bytes()].concat()[..]));
            bytes.extend_from_slice(&message[4..]);
            let last = message.len() < 4 + block;
            if last || expected.is_multiple_of(window) {
                client.socket.send_to(&message::acknowledgement(expected), server).unwrap();
            }
            if last {
                return bytes;
            }
            expected += 1;
        }
    }

    /// Waits until the server knows of so many transfers only.
    fn until_alive(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.tftp.tickets.alive() > count {
            assert!(Instant::now() < deadline, "{} are alive", self.tftp.tickets.alive());
            std::thread::yield_now();
        }
    }
}

fn content() -> Vec<u8> {
    (0..30_000_u32).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut message = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut message).unwrap();
    message.truncate(len);
    (from, message)
}

fn told(message: &[u8]) -> Options {
    match Answer::parse(message) {
        Answer::Options(options) => options,
        other => panic!("{other:?}: {message:?}"),
    }
}

#[test]
fn a_file_is_sent_in_windows_of_blocks_with_its_true_length() {
    let mut server = Server::new();
    let client = server.begin("file", "tsize\x000\0blksize\x001000\0windowsize\x004\0");
    let (answer, from) = server.first_answer(&client);
    let TftpAnswer::ToGuest(message) = answer else { panic!("{answer:?}") };
    let expected = Options { block_size: Some(1000), transfer_size: Some(30_000), window_size: Some(4), timeout: None };
    assert_eq!(told(&message), expected);
    client.socket.send_to(&message::acknowledgement(0), from).unwrap();
    assert_eq!(server.load(&client, from, 1000, 4), content());
    server.until_alive(0);
    assert!(server.tftp.is_over(client.id));
    server.tftp.end(client.id);
    assert!(server.tftp.transfers.is_empty());
}

#[test]
fn a_client_without_options_gets_the_first_block_at_once() {
    let mut server = Server::new();
    for options in ["", "multicast\0\0", "blksize\x001\0"] {
        let client = server.begin("file", options);
        let (answer, from) = server.first_answer(&client);
        let TftpAnswer::ToServer(message) = answer else { panic!("{options:?}: {answer:?}") };
        client.socket.send_to(&message, from).unwrap();
        assert_eq!(server.load(&client, from, 512, 1), content());
    }
}

#[test]
fn what_is_too_much_is_granted_in_part() {
    let mut server = Server::new();
    let client = server.begin("file", "blksize\x0065464\0windowsize\x0065535\0timeout\x00255\0");
    let (answer, _) = server.first_answer(&client);
    let TftpAnswer::ToGuest(message) = answer else { panic!("{answer:?}") };
    let expected = Options { block_size: Some(1468), window_size: Some(64), timeout: None, transfer_size: None };
    assert_eq!(told(&message), expected);
}

#[test]
fn a_window_is_what_the_socket_holds() {
    assert_eq!(window_for(ROOM, 512), 166);
    assert_eq!(window_for(ROOM, 1468), 92);
    assert_eq!(window_for(ROOM, 65464), 2);
    assert_eq!(window_for(0, 65464), 1);
}

#[test]
fn who_has_no_key_gets_no_file() {
    let mut server = Server::new();
    let stranger = socket();
    let known = server.request("file", "").unwrap();
    let client = socket();
    let opening = server.tftp.start(known, client.local_addr().unwrap(), ROOM).unwrap();
    let requests: [&[u8]; 4] = [b"\0\x01file\0octet\0", b"\0\x01../secret\0octet\0", b"\0\x02file\0octet\0", &opening.datagram];
    for request in requests {
        stranger.send_to(request, server.tftp.address()).unwrap();
        let (_, message) = receive(&stranger);
        assert_eq!(message[..4], [0, 5, 0, 2], "{:?}", String::from_utf8_lossy(request));
    }
    assert_eq!(fs::read(server.place.path().join("served/file")).unwrap(), content());
    // The one whose key it is gets it, and only once.
    client.send_to(&opening.datagram, opening.server).unwrap();
    let client = Client { socket: client, id: known, opening };
    let (answer, from) = server.first_answer(&client);
    assert!(matches!(answer, TftpAnswer::ToServer(_)), "{answer:?}");
    client.socket.send_to(&message::acknowledgement(0), from).unwrap();
    assert_eq!(server.load(&client, from, 512, 1), content());
    server.until_alive(0);
    client.socket.send_to(&client.opening.datagram, client.opening.server).unwrap();
    assert_eq!(receive(&client.socket).1[..4], [0, 5, 0, 2]);
}

#[test]
fn an_answer_without_the_proof_is_not_the_servers() {
    let mut server = Server::new();
    let client = server.begin("file", "tsize\x000\0");
    let stranger = SocketAddr::from((Ipv4Addr::LOCALHOST, 5353));
    let guess = message::option_acknowledgement(&Options { transfer_size: Some(30_000), ..Options::default() });
    for message in [&b"\0\x03\0\x01evil"[..], b"\0\x05\0\x01no\0", b"\0\x06", b"", &guess] {
        assert_eq!(server.tftp.answer(client.id, stranger, message), TftpAnswer::Stranger, "{message:?}");
    }
    let (from, proof) = receive(&client.socket);
    assert!(matches!(server.tftp.answer(client.id, from, &proof), TftpAnswer::ToGuest(_)));
    // Not even with what the server has said: it is with one port, once it is.
    assert_eq!(server.tftp.answer(client.id, stranger, &proof), TftpAnswer::Stranger);
    assert_eq!(server.tftp.answer(client.id, stranger, b"\0\x03\0\x01evil"), TftpAnswer::Stranger);
    assert_eq!(server.tftp.answer(client.id, from, b"\0\x03\0\x01good"), TftpAnswer::Data);
}

#[test]
fn a_file_that_a_guest_may_not_have_is_refused_by_its_number() {
    let mut server = Server::new();
    std::os::unix::fs::symlink("../secret", server.place.path().join("served/link")).unwrap();
    for (name, code) in [("nothing", 1), ("../secret", 2), ("link", 2), ("/etc/passwd", 1), (".", 2)] {
        let client = server.begin(name, "");
        let (answer, _) = server.first_answer(&client);
        let TftpAnswer::Refused(message) = answer else { panic!("{name}: {answer:?}") };
        assert_eq!(message[..4], [0, 5, 0, code], "{name}");
        server.tftp.end(client.id);
    }
    server.until_alive(0);
    for (request, code) in [(&b"\0\x02file\0octet\0"[..], 2), (b"\0\x01file\0netascii\0", 4), (b"\0\x01file", 4)] {
        let Err(TftpRefusal::Refused(message)) = server.tftp.request(request, 1468) else { panic!("{request:?}") };
        assert_eq!(message[..4], [0, 5, 0, code], "{request:?}");
    }
    assert_eq!(server.tftp.request(b"\0\x04\0\0", 1468), Err(TftpRefusal::Nonsense));
}

#[test]
fn there_are_as_many_transfers_as_the_limit_says_and_a_guest_that_gives_up_makes_room() {
    let mut server = Server::with_limit(2);
    let (one, two) =
        (server.begin("file", "tsize\x000\0timeout\x0010\0"), server.begin("file", "windowsize\x0016\0timeout\x0010\0"));
    assert!(matches!(server.request("file", ""), Err(TftpRefusal::Busy(_))));
    // One has only asked for the length, as firmware does; the other has gone in the middle.
    for client in [&one, &two] {
        let (answer, from) = server.first_answer(client);
        assert!(matches!(answer, TftpAnswer::ToGuest(_)), "{answer:?}");
        if client.id == two.id {
            client.socket.send_to(&message::acknowledgement(0), from).unwrap();
            server.tftp.hears(client.id, &message::acknowledgement(0));
            receive(&client.socket);
        }
        assert!(server.tftp.hears(client.id, b"\0\x05\0\0"));
        for parting in server.tftp.end(client.id) {
            client.socket.send_to(&parting, from).unwrap();
        }
    }
    // It does not send everything again first, which would take it a minute and a half.
    server.until_alive(0);
    server.request("file", "").unwrap();
}

#[test]
fn a_request_that_the_server_has_not_seen_makes_room_at_once() {
    let mut server = Server::with_limit(1);
    let id = server.request("file", "").unwrap();
    server.tftp.start(id, socket().local_addr().unwrap(), ROOM).unwrap();
    server.tftp.end(id);
    server.request("file", "").unwrap();
}

#[test]
fn a_file_that_has_to_come_from_a_disk_is_the_same_file() {
    let server = Server::new();
    let root = Root::open(&server.place.path().join("served")).unwrap().without_telling();
    let ticket = server.tftp.tickets.issue(b"file".to_vec()).unwrap();
    let mut reader = reader::Reader::new(Arc::new(root), ticket);
    let mut bytes = Vec::new();
    let read = futures_lite::io::AsyncReadExt::read_to_end(&mut reader, &mut bytes);
    assert_eq!(futures_lite::future::block_on(read).unwrap(), content().len());
    assert_eq!(bytes, content());
}

#[test]
fn the_directory_is_named_when_it_cannot_be_served() {
    let error = Tftp::start(Path::new("/nowhere/at/all"), 1).unwrap_err();
    let expected = "tftp: cannot serve the files of `/nowhere/at/all`: there is no such directory; make it, or name another one";
    assert_eq!(error.to_string(), expected);
}
