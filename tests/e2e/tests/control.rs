//! A network that is asked things and changed while it runs: over the socket of its API, and by `slipway ctl`.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use e2e::host::{LOOPBACK, free_ports};
use e2e::namespace::{Guest, Options, Process};
use e2e::programs::Stage;
use e2e::unprivileged::{Surroundings, command};
use e2e::wait::{limit, until_exists};

/// Where the API is, in the directory of a test.
const SOCKET: &str = "api.sock";

/// A guest whose network can be controlled, and the socket for that.
fn guest(options: Options) -> (Guest, PathBuf) {
    let guest = options.more(&["--api-socket", SOCKET]).shell();
    let socket = guest.directory().join(SOCKET);
    (guest, socket)
}

/// What `socat` gets for a request, as a user without rights.
fn socat(stage: &Stage, socket: &Path, request: &str) -> String {
    let address = format!("UNIX-CONNECT:{}", socket.display());
    let words = ["socat", "-t", "10", "-", &address];
    let mut socat = command(stage, Surroundings::default(), &words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    socat.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let told = socat.wait_with_output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8(told.stdout).unwrap()
}

fn ctl(stage: &Stage, words: &[&str]) -> Output {
    let words: Vec<_> = ["slipway", "ctl", SOCKET].iter().chain(words).copied().collect();
    command(stage, Surroundings::default(), &words).output().unwrap()
}

/// What `slipway ctl` prints when it succeeds.
fn told(stage: &Stage, words: &[&str]) -> String {
    let output = ctl(stage, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The requests of slirp4netns's manual page, and every mistake that it has a text for.
fn session(tcp: u16, udp: u16) -> Vec<String> {
    let add = |arguments: &str| format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#);
    let guest = r#""guest_addr":"10.0.2.100""#;
    let list = r#"{"execute":"list_hostfwd"}"#.to_owned();
    let remove = |id: u32| format!(r#"{{"execute":"remove_hostfwd","arguments":{{"id":{id}}}}}"#);
    vec![
        list.clone(),
        add(&format!(r#""proto":"tcp","host_addr":"127.0.0.1","host_port":{tcp},{guest},"guest_port":80"#)),
        add(&format!(r#""proto":"udp","host_addr":"0.0.0.0","host_port":{udp},{guest},"guest_port":53"#)),
        add(&format!(r#""proto":"udp","host_port":{},{guest},"guest_port":53"#, udp + 1)),
        list.clone(),
        add(&format!(r#""proto":"tcp","host_addr":"127.0.0.1","host_port":{tcp},{guest},"guest_port":81"#)),
        add(&format!(r#""proto":"sctp","host_port":{udp},"guest_port":80"#)),
        add(&format!(r#""proto":"tcp","host_addr":"host","host_port":{udp},"guest_port":80"#)),
        add(r#""proto":"tcp","guest_port":80"#),
        add(&format!(r#""proto":"tcp","host_port":{udp},"guest_addr":"guest","guest_port":80"#)),
        add(&format!(r#""proto":"tcp","host_port":{udp},{guest}"#)),
        remove(2),
        remove(2),
        remove(77),
        r#"{"execute":"remove_hostfwd","arguments":{}}"#.to_owned(),
        r#"{"execute":"remove_hostfwd","arguments":{"id":"1"}}"#.to_owned(),
        r#"{"execute":"remove_hostfwd"}"#.to_owned(),
        list.clone(),
        add(&format!(r#""proto":"udp","host_addr":"127.0.0.1","host_port":{udp},{guest},"guest_port":9"#)),
        r#" { "execute" : "list_hostfwd" , "arguments" : { } } "#.to_owned() + "\n",
        remove(1),
        remove(3),
        remove(4),
        list,
        r#"{"execute":"unheard_of"}"#.to_owned(),
        r#"{"execute":5}"#.to_owned(),
        "{}".to_owned(),
        "[1]".to_owned(),
        r#""text""#.to_owned(),
        "no JSON".to_owned(),
        "{\"execute\":".to_owned(),
    ]
}

#[test]
fn the_session_of_slirp4netns_is_answered_as_by_slirp4netns_to_the_byte() {
    let port = free_ports(3);
    let requests = session(port, port + 1);
    let theirs: Vec<String> = {
        let mut guest = Guest::alone();
        let pid = guest.succeed("echo $$");
        let socket = guest.directory().join(SOCKET);
        let words = ["slirp4netns", "--configure", "--api-socket", SOCKET, &pid, "tap0"];
        let process = command(guest.stage(), Surroundings::default(), &words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _slirp4netns = Process(process.unwrap());
        until_exists(&socket, || "slirp4netns makes no socket".to_owned());
        requests.iter().map(|request| socat(guest.stage(), &socket, request)).collect()
    };
    let (guest, socket) = guest(Options::default());
    for (request, theirs) in requests.iter().zip(&theirs) {
        let ours = socat(guest.stage(), &socket, request);
        assert_eq!(ours, *theirs, "{request}");
    }
    let answered = |what: &str| theirs.iter().any(|answer| answer == what);
    assert!(answered(r#"{"return":{"id":1}}"#) && answered(r#"{"return":{}}"#) && answered(r#"{"entries":[]}"#), "{theirs:?}");
}

#[test]
fn a_request_may_come_in_many_pieces_which_slirp4netns_does_not_understand() {
    let (_guest, socket) = guest(Options::default());
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(e2e::PATIENCE)).unwrap();
    for byte in br#"{"execute":"list_hostfwd"}"# {
        stream.write_all(&[*byte]).unwrap();
    }
    // Its end is seen by its last brace: nothing has to be shut down.
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, r#"{"entries":[]}"#);
}

#[test]
fn a_client_that_stalls_is_cut_off_and_keeps_nobody_waiting() {
    let (guest, socket) = guest(Options::default());
    let mut stalled = UnixStream::connect(&socket).unwrap();
    stalled.write_all(b"{\"execute\":\"list_host").unwrap();
    assert_eq!(socat(guest.stage(), &socket, r#"{"execute":"list_hostfwd"}"#), r#"{"entries":[]}"#);
    stalled.set_read_timeout(Some(e2e::PATIENCE)).unwrap();
    assert_eq!(stalled.read(&mut [0]).unwrap(), 0, "it is cut off");
    assert!(told(guest.stage(), &["counters"]).contains("api_stalled"));
}

#[test]
fn forwards_come_and_go_while_a_connection_lives() {
    let (mut guest, _) = guest(Options::default());
    assert_eq!(guest.background("e2e-guest mirror 10.0.2.15 80"), "ready");
    let stage = guest.stage();
    let added = told(stage, &["hostfwd", "add", "tcp:127.0.0.1:0-:80"]);
    let port = added.trim().strip_prefix("forward 1, from port ").unwrap().parse::<u16>().unwrap();

    let mut connection = TcpStream::connect((LOOPBACK, port)).unwrap();
    limit(&connection);
    let hear = |expected: &[u8], connection: &mut TcpStream| {
        let mut heard = vec![0; expected.len()];
        connection.read_exact(&mut heard).unwrap();
        assert_eq!(heard, expected);
    };
    let seen = format!("10.0.2.2:{}\n", connection.local_addr().unwrap().port());
    hear(seen.as_bytes(), &mut connection);
    let listed = told(stage, &["hostfwd", "list"]);
    assert!(listed.contains(&format!("127.0.0.1:{port}")) && listed.contains("10.0.2.15:80"), "{listed}");
    let flows = told(stage, &["flows"]);
    assert!(flows.contains("10.0.2.15:80") && flows.contains("ESTABLISHED"), "{flows}");

    assert_eq!(told(stage, &["hostfwd", "remove", "1"]), "");
    assert!(TcpStream::connect((LOOPBACK, port)).is_err(), "nobody listens any more");
    connection.write_all(b"still there?\n").unwrap();
    hear(b"still there?\n", &mut connection);
    assert_eq!(told(stage, &["hostfwd", "list"]), "no forwards\n");
}

#[test]
fn a_unix_socket_leads_to_the_guest() {
    let (mut guest, _) = guest(Options::default().user("hostfwd=unix:/tmp/slipway-e2e-none-:81"));
    assert_eq!(guest.background("e2e-guest mirror 10.0.2.15 80"), "ready");
    let path = guest.directory().join("web.sock");
    let rule = format!("unix:{}-:80", path.display());
    assert_eq!(told(guest.stage(), &["hostfwd", "add", &rule]), "forward 2\n");
    let mut connection = UnixStream::connect(&path).unwrap();
    connection.set_read_timeout(Some(e2e::PATIENCE)).unwrap();
    connection.write_all(b"over and back\n").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    connection.read_to_string(&mut heard).unwrap();
    assert!(heard.starts_with("10.0.2.2:") && heard.ends_with("\nover and back\n"), "{heard}");
    told(guest.stage(), &["hostfwd", "remove", "2"]);
    assert!(!path.exists());

    // A guest that refuses ends it for the client, which cannot take that for an answer: it has spoken already, or cannot any more.
    told(guest.stage(), &["hostfwd", "add", &format!("unix:{}-:9", path.display())]);
    let mut connection = UnixStream::connect(&path).unwrap();
    connection.set_read_timeout(Some(e2e::PATIENCE)).unwrap();
    let error = connection.write_all(b"anybody there?").and_then(|()| connection.read(&mut [0])).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert!(guest.leave().success());
    assert!(!path.exists() && !Path::new("/tmp/slipway-e2e-none").exists(), "they go with the network");
}

#[test]
fn a_link_that_is_taken_down_is_seen_by_its_guest_and_comes_back() {
    let (mut guest, _) = guest(Options::default());
    let is_up = |guest: &mut Guest| !guest.succeed("ip -o link show tap0").contains("NO-CARRIER");
    assert!(is_up(&mut guest));
    guest.succeed("ping -n -c 1 -W 5 10.0.2.2");
    assert_eq!(told(guest.stage(), &["link", "down", "tap0"]), "");
    assert!(!is_up(&mut guest));
    guest.run("ping -n -c 1 -W 1 10.0.2.2").failure();
    let ports = told(guest.stage(), &["ports"]);
    assert!(ports.contains("tap0") && ports.contains("down"), "{ports}");
    assert_eq!(told(guest.stage(), &["link", "up", "0"]), "", "by its number too");
    assert!(is_up(&mut guest));
    guest.succeed("ping -n -c 1 -W 5 10.0.2.2");
}

#[test]
fn a_recording_begins_and_ends_on_command() {
    let (mut guest, _) = guest(Options::default());
    assert_eq!(told(guest.stage(), &["captures", "start", "icmp.pcapng", "--filter", "icmp"]), "capture 1\n");
    guest.succeed("ping -n -c 2 -i 0.2 -W 5 10.0.2.2");
    let listed = told(guest.stage(), &["captures", "list"]);
    assert!(listed.contains("icmp.pcapng") && listed.contains("recording"), "{listed}");
    let stopped = told(guest.stage(), &["captures", "stop", "1"]);
    assert!(stopped.starts_with("4 frames, "), "{stopped}");
    assert!(guest.directory().join("icmp.pcapng").exists());
    assert_eq!(told(guest.stage(), &["captures", "list"]), "no captures\n");
}

#[test]
fn leases_and_names_are_told() {
    let (mut guest, _) = guest(Options::default().user("dns-server=192.0.2.53"));
    guest.succeed("busybox udhcpc -i tap0 -n -q -f -s /bin/true -x hostname:box");
    let leases = told(guest.stage(), &["leases"]);
    assert!(leases.contains("10.0.2.15") && leases.contains("box") && leases.contains("bound"), "{leases}");
    let dns = told(guest.stage(), &["dns"]);
    assert!(dns.contains("192.0.2.53:53") && dns.contains("box"), "{dns}");
}

#[test]
fn what_ctl_prints_in_json_is_what_the_api_says() {
    let (guest, socket) = guest(Options::default().user("net=10.7.0.0/24,ipv6=off"));
    let stage = guest.stage();
    for (words, request) in
        [(&["hostfwd", "list"][..], "list_hostfwd"), (&["counters"], "counters"), (&["flows"], "flows"), (&["info"], "info")]
    {
        let words: Vec<_> = words.iter().copied().chain(["--json"]).collect();
        let printed: serde_json::Value = serde_json::from_str(&told(stage, &words)).unwrap();
        let answered: serde_json::Value =
            serde_json::from_str(&socat(stage, &socket, &format!(r#"{{"execute":"{request}"}}"#))).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&printed), keys(&answered), "{request}");
    }
    let info = told(stage, &["info"]);
    assert!(info.contains("10.7.0.0/24, gateway 10.7.0.2, dns 10.7.0.3, leases from 10.7.0.15"), "{info}");
}

#[test]
fn mistakes_are_told_in_a_sentence_with_a_remedy() {
    let (guest, socket) = guest(Options::default());
    let stage = guest.stage();
    let failed = |words: &[&str]| {
        let output = ctl(stage, words);
        assert!(!output.status.success(), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let taken = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap();
    let rule = format!("tcp:127.0.0.1:{}-:80", taken.local_addr().unwrap().port());
    assert!(failed(&["hostfwd", "add", &rule]).contains("is taken by another program; choose another one"));
    assert!(failed(&["hostfwd", "add", "tcp:127.0.0.1:0-10.0.2.2:80"]).contains("the gateway's address"));
    assert!(failed(&["hostfwd", "add", "tcp:22"]).contains("--help"), "a wrong command line");
    assert!(failed(&["hostfwd", "remove", "9"]).contains("there is no forward 9"));

    let words = ["slipway", "ctl", "elsewhere.sock", "info"];
    let output = command(stage, Surroundings::default(), &words).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("elsewhere.sock: no such file or directory. Name the socket"), "{text}");

    assert_eq!(std::fs::symlink_metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let words = ["slipway", "shell", "--api-socket", SOCKET, "--", "true"];
    let again = command(stage, Surroundings::default(), &words).output().unwrap();
    let text = String::from_utf8(again.stderr).unwrap();
    assert!(!again.status.success() && text.contains("another program listens there already"), "{text}");
}

#[test]
fn the_network_ends_when_it_is_told_to() {
    let mut guest = Options::default().more(&["--api-socket", SOCKET]).attached();
    let socket = guest.directory().join(SOCKET);
    assert!(socket.exists(), "it is there when the network is ready");
    assert_eq!(told(guest.stage(), &["shutdown"]), "");
    let status = e2e::wait::ended(guest.slipway().unwrap());
    assert!(status.success(), "{status}");
    assert!(!socket.exists());
    guest.run("ip link show tap0").failure();
}
