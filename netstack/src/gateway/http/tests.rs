use std::fs;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream as Stream;

use super::*;

const GUEST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 15)), 4000);

struct Server {
    place: TempDir,
    http: Http,
}

impl Server {
    fn new() -> Self {
        let place = TempDir::new().unwrap();
        fs::create_dir(place.path().join("served")).unwrap();
        fs::write(place.path().join("secret"), "secret").unwrap();
        fs::write(place.path().join("served/a file.efi"), "0123456789").unwrap();
        let http = Http::start(&place.path().join("served"), 2).unwrap();
        Self { place, http }
    }

    fn connect(&self) -> io::Result<Stream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        self.http.stream(theirs, GUEST)?;
        Stream::from_std(ours)
    }

    /// What is answered to `request` on a connection of its own, which the guest closes after it.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

fn status(answer: &str) -> &str {
    answer.split_whitespace().nth(1).unwrap_or_default()
}

#[tokio::test]
async fn a_file_is_sent_with_its_length_and_kind() {
    let answer = Server::new().ask("GET /a%20file.efi HTTP/1.1\r\nHost: 10.0.2.2\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
    for header in ["content-length: 10\r\n", "content-type: application/efi\r\n", "accept-ranges: bytes\r\n", "last-modified: "] {
        assert!(answer.contains(header), "{header}: {answer}");
    }
    assert!(answer.ends_with("\r\n\r\n0123456789"), "{answer}");
}

#[tokio::test]
async fn a_file_that_has_to_come_from_a_disk_is_the_same_file() {
    let mut server = Server::new();
    let root = Root::open(&server.place.path().join("served")).unwrap().without_telling();
    server.http.root = Arc::new(root);
    let answer = server.ask("GET /a%20file.efi HTTP/1.1\r\nHost: 10.0.2.2\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\n0123456789"), "{answer}");
}

#[tokio::test]
async fn the_head_is_that_of_the_file_without_the_file() {
    let answer = Server::new().ask("HEAD /a%20file.efi HTTP/1.1\r\nHost: 10.0.2.2\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
    assert!(answer.contains("content-length: 10\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_part_is_sent_as_a_part() {
    let server = Server::new();
    let ask = |range: &str| format!("GET /a%20file.efi HTTP/1.1\r\nHost: a\r\nRange: {range}\r\n\r\n");
    let answer = server.ask(&ask("bytes=2-4")).await;
    assert_eq!(status(&answer), "206");
    assert!(answer.contains("content-range: bytes 2-4/10\r\n") && answer.ends_with("\r\n\r\n234"), "{answer}");
    let answer = server.ask(&ask("bytes=10-")).await;
    assert_eq!(status(&answer), "416");
    assert!(answer.contains("content-range: bytes */10\r\n"), "{answer}");
    let other_version = "GET /a%20file.efi HTTP/1.1\r\nHost: a\r\nRange: bytes=2-4\r\nIf-Range: \"another\"\r\n\r\n";
    assert_eq!(status(&server.ask(other_version).await), "200");
}

#[tokio::test]
async fn what_is_no_file_and_what_is_no_reading_is_refused() {
    let server = Server::new();
    std::os::unix::fs::symlink("../secret", server.place.path().join("served/link")).unwrap();
    for (request, expected) in [
        ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "403"),
        ("GET /../secret HTTP/1.1\r\nHost: a\r\n\r\n", "403"),
        ("GET /%2e%2e/secret HTTP/1.1\r\nHost: a\r\n\r\n", "403"),
        ("GET /..%2fsecret HTTP/1.1\r\nHost: a\r\n\r\n", "403"),
        ("GET /link HTTP/1.1\r\nHost: a\r\n\r\n", "403"),
        ("PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "405"),
        ("DELETE /a%20file.efi HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        assert_eq!(status(&server.ask(request).await), expected, "{request}");
    }
    assert!(server.place.path().join("served/a file.efi").exists());
}

#[tokio::test]
async fn several_requests_come_over_one_connection_in_pieces() {
    let server = Server::new();
    let mut stream = server.connect().unwrap();
    for _ in 0..2 {
        for piece in ["GET /a%20", "file.efi HT", "TP/1.1\r\nHost: a\r", "\n\r\n"] {
            stream.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = String::new();
        while !answer.ends_with("0123456789") {
            let mut piece = [0; 256];
            let len = stream.read(&mut piece).await.unwrap();
            assert_ne!(len, 0, "closed after {answer}");
            answer.push_str(std::str::from_utf8(&piece[..len]).unwrap());
        }
        assert_eq!(status(&answer), "200");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_closed_and_so_is_who_takes_nothing() {
    let server = Server::new();
    let mut silent = server.connect().unwrap();
    silent.write_all(b"GET /").await.unwrap();
    assert_eq!(silent.read_to_end(&mut Vec::new()).await.unwrap(), 0);

    let large = fs::File::create(server.place.path().join("served/large")).unwrap();
    large.set_len(64 << 20).unwrap();
    let mut stalled = server.connect().unwrap();
    stalled.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let before = tokio::time::Instant::now();
    server.until_free(2).await;
    assert!(before.elapsed() < 3 * STALL);
}

#[tokio::test]
async fn there_are_as_many_connections_as_the_limit_says() {
    let server = Server::new();
    let (_one, two) = (server.connect().unwrap(), server.connect().unwrap());
    assert_eq!(server.connect().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(two);
    server.until_free(1).await;
    server.connect().unwrap();
}

#[tokio::test]
async fn a_file_that_becomes_shorter_ends_the_connection_early() {
    let server = Server::new();
    let path = server.place.path().join("served/shrinking");
    let file = fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut stream = server.connect().unwrap();
    stream.write_all(b"GET /shrinking HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut start = [0; 1024];
    stream.read_exact(&mut start).await.unwrap();
    file.set_len(0).unwrap();
    let mut rest = Vec::new();
    // Closed or reset: either way there is less than was promised.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 63 << 20, "{}", rest.len());
}

impl Server {
    /// Waits until so many connections are free again.
    async fn until_free(&self, count: u32) {
        drop(self.http.connections.acquire_many(count).await.unwrap());
    }
}
