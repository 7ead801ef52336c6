use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tokio::io::AsyncReadExt;

use super::*;
use crate::config::Config;
use crate::engine::Engine;

/// An engine and its API, in the runtime of the test.
struct Stage {
    directory: tempfile::TempDir,
    handle: Handle,
}

impl Stage {
    fn new() -> Self {
        Self::with(&Config::default())
    }

    fn with(config: &Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::new(config).unwrap();
        let handle = engine.handle();
        let server = Server::bind(&directory.path().join("api.sock"), &config.limits, &config.timeouts).unwrap();
        tokio::spawn(engine.run());
        tokio::spawn(server.run(handle.clone()));
        Self { directory, handle }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    /// The whole answer to a request.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut UnixStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A port of the loopback that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn forwards_are_added_listed_and_removed_as_by_slirp4netns() {
    let stage = Stage::new();
    let (first, second) = (free_port(), free_port());
    let add = format!(
        r#"{{"execute":"add_hostfwd","arguments":{{"proto":"tcp","host_addr":"127.0.0.1","host_port":{first},"guest_port":80}}}}"#
    );
    assert_eq!(stage.ask(&add).await, r#"{"return":{"id":1}}"#);
    let add = format!(
        r#"{{"execute":"add_hostfwd","arguments":{{"proto":"udp","host_port":{second},"guest_addr":"10.0.2.100","guest_port":53}}}}"#
    );
    assert_eq!(stage.ask(&add).await, r#"{"return":{"id":2}}"#);
    assert_eq!(
        stage.ask(r#"{"execute":"list_hostfwd"}"#).await,
        format!(
            r#"{{"entries":[{{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":{first},"guest_addr":"10.0.2.15","guest_port":80}},{{"id":2,"proto":"udp","host_addr":"0.0.0.0","host_port":{second},"guest_addr":"10.0.2.100","guest_port":53}}]}}"#
        )
    );
    assert_eq!(stage.ask(r#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#).await, r#"{"return":{}}"#);
    assert_eq!(
        stage.ask(r#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#).await,
        r#"{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"}}"#
    );
    assert_eq!(stage.ask(r#"{"execute":"remove_hostfwd","arguments":{"id":2}}"#).await, r#"{"return":{}}"#);
    assert_eq!(stage.ask(r#"{"execute":"list_hostfwd"}"#).await, r#"{"entries":[]}"#);
}

#[tokio::test]
async fn mistakes_have_the_texts_of_slirp4netns() {
    let stage = Stage::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken =
        format!(r#""proto":"tcp","host_addr":"127.0.0.1","host_port":{},"guest_port":1"#, taken.local_addr().unwrap().port());
    let add = |arguments: &str| format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#);
    for (request, text) in [
        ("foo".to_owned(), "cannot parse JSON"),
        (String::new(), "cannot parse JSON"),
        ("[1]".to_owned(), "json_object() failed"),
        ("{}".to_owned(), "no execute found"),
        (r#"{"execute":5}"#.to_owned(), "no execute found"),
        (r#"{"execute":"bogus"}"#.to_owned(), "unknown execute"),
        (add(r#""proto":"sctp","host_port":1,"guest_port":80"#), "add_hostfwd: bad arguments.proto"),
        (add(""), "add_hostfwd: bad arguments.proto"),
        (add(r#""proto":"tcp","host_addr":"x","host_port":1,"guest_port":1"#), "add_hostfwd: bad arguments.host_addr"),
        (add(r#""proto":"tcp","guest_port":1"#), "add_hostfwd: bad arguments.host_port"),
        (add(r#""proto":"tcp","host_port":70000,"guest_port":1"#), "add_hostfwd: bad arguments.host_port"),
        (add(r#""proto":"tcp","host_port":1,"guest_addr":"x","guest_port":1"#), "add_hostfwd: bad arguments.guest_addr"),
        (add(r#""proto":"tcp","host_port":1,"guest_port":0"#), "add_hostfwd: bad arguments.guest_port"),
        (add(r#""proto":"tcp","host_port":1"#), "add_hostfwd: bad arguments.guest_port"),
        (add(&taken), "add_hostfwd: slirp_add_hostfwd failed"),
        (r#"{"execute":"remove_hostfwd"}"#.to_owned(), "remove_hostfwd: bad arguments.id"),
        (r#"{"execute":"remove_hostfwd","arguments":{"id":"1"}}"#.to_owned(), "remove_hostfwd: bad arguments.id"),
    ] {
        assert_eq!(stage.ask(&request).await, format!(r#"{{"error":{{"desc":"bad request: {text}"}}}}"#), "{request}");
    }
    let explained = stage.ask(&format!(r#"{{"execute":"add_hostfwd","explain":true,"arguments":{{{taken}}}}}"#)).await;
    assert!(explained.contains("slirp_add_hostfwd failed") && explained.contains("is taken by another program"), "{explained}");
}

#[tokio::test]
async fn what_slirp4netns_has_not_is_said_with_more_keys() {
    let stage = Stage::new();
    let path = stage.directory.path().join("ssh.sock");
    let ask = async |arguments: &str| stage.ask(&format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#)).await;
    let any = ask(r#""proto":"tcp","host_addr":"127.0.0.1","host_port":0,"guest_port":22"#).await;
    let port = any.strip_prefix(r#"{"return":{"id":1,"host_port":"#).and_then(|rest| rest.strip_suffix("}}")).unwrap();
    let port: u16 = port.parse().unwrap();
    let unix = format!(r#""proto":"unix","host_path":"{}","guest_port":22"#, path.display());
    assert_eq!(ask(&unix).await, r#"{"return":{"id":2}}"#);
    let six = format!(
        r#""proto":"udp","host_addr":"::1","host_port":{},"interface":"lo","guest_addr":"fec0::15","guest_port":9"#,
        free_port()
    );
    assert_eq!(ask(&six).await, r#"{"return":{"id":3}}"#);
    let listed = stage.ask(r#"{"execute":"list_hostfwd"}"#).await;
    assert!(listed.contains(&format!(r#"{{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":{port},"#)), "{listed}");
    let socket = format!(r#"{{"id":2,"proto":"unix","host_path":"{}","guest_addr":"10.0.2.15","guest_port":22}}"#, path.display());
    assert!(listed.contains(&socket), "{listed}");
    assert!(listed.contains(r#""guest_addr":"fec0::15","guest_port":9,"interface":"lo"}"#), "{listed}");
    for (arguments, name) in [
        (r#""proto":"unix","guest_port":22"#, "host_path"),
        (r#""proto":"unix","host_path":"relative","guest_port":22"#, "host_path"),
        (r#""proto":"tcp","host_port":1,"count":0,"guest_port":22"#, "count"),
        (r#""proto":"tcp","host_port":65535,"count":2,"guest_port":22"#, "count"),
        (r#""proto":"tcp","host_port":1,"count":2,"guest_port":65535"#, "count"),
        (r#""proto":"tcp","host_port":0,"count":2,"guest_port":22"#, "count"),
        (r#""proto":"tcp","host_port":1,"interface":"","guest_port":22"#, "interface"),
    ] {
        let refused = format!(r#"{{"error":{{"desc":"bad request: add_hostfwd: bad arguments.{name}"}}}}"#);
        assert_eq!(ask(arguments).await, refused, "{arguments}");
    }
}

#[tokio::test]
async fn a_request_may_come_in_pieces_and_need_not_end_but_with_its_object() {
    let stage = Stage::new();
    for closes in [true, false] {
        let mut stream = stage.connect().await;
        for byte in br#" {"execute":"list_hostfwd","arguments":{"}":"\"}"}}"# {
            stream.write_all(&[*byte]).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        if closes {
            stream.shutdown().await.unwrap();
        }
        assert_eq!(rest(&mut stream).await, r#"{"entries":[]}"#);
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_while_it_comes() {
    let config = Config { limits: Limits { api_request_bytes: 4096, ..Limits::default() }, ..Config::default() };
    let stage = Stage::with(&config);
    let mut stream = stage.connect().await;
    stream.write_all(format!(r#"{{"execute":"{}"#, "x".repeat(5000)).as_bytes()).await.unwrap();
    assert_eq!(rest(&mut stream).await, r#"{"error":{"desc":"bad request: too large message"}}"#);
    assert_eq!(stage.handle.counters().await.unwrap().api_limit_request_bytes, 1);
}

#[tokio::test]
async fn clients_that_say_nothing_are_cut_off_and_keep_nobody_waiting() {
    let mut config = Config { limits: Limits { api_clients: 2, ..Limits::default() }, ..Config::default() };
    config.timeouts.api_stall = Duration::from_millis(300);
    let stage = Stage::with(&config);
    let mut silent = [stage.connect().await, stage.connect().await];
    silent[1].write_all(b"{\"execute\":").await.unwrap();
    let third = stage.ask(r#"{"execute":"list_hostfwd"}"#).await;
    assert!(third.contains("too many clients at once"), "{third}");
    for stream in &mut silent {
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0, "cut off without an answer");
    }
    assert_eq!(stage.ask(r#"{"execute":"list_hostfwd"}"#).await, r#"{"entries":[]}"#);
    let counters = stage.handle.counters().await.unwrap();
    assert_eq!((counters.api_stalled, counters.api_limit_clients, counters.api_commands), (2, 1, 1));
}

#[tokio::test]
async fn the_socket_is_private_and_goes_with_the_engine() {
    let stage = Stage::new();
    let mode = std::fs::symlink_metadata(stage.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let limits = Limits::default();
    let again = Server::bind(&stage.path(), &limits, &Timeouts::default()).unwrap_err();
    assert!(again.to_string().contains("another program listens there"), "{again}");
    let mut waiting = stage.connect().await;
    assert_eq!(stage.ask(r#"{"execute":"shutdown"}"#).await, r#"{"return":{}}"#, "the last answer comes");
    assert_eq!(waiting.read(&mut [0; 10]).await.unwrap(), 0);
    while stage.path().exists() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_asked_of_the_network_is_what_the_handle_tells() {
    let stage = Stage::new();
    let client = crate::control::client::Client::new(stage.path());
    let asked = tokio::task::spawn_blocking(move || {
        (client.call(&crate::control::GetInfo {}).unwrap(), client.call(&crate::control::GetCounters {}).unwrap())
    });
    let (info, counters) = asked.await.unwrap();
    let ours = stage.handle.run(crate::control::GetInfo {}).await.unwrap();
    assert_eq!((&info.ipv4, &info.ipv6, &info.limits, &info.timeouts), (&ours.ipv4, &ours.ipv6, &ours.limits, &ours.timeouts));
    assert_eq!(info.limits["tcp_flows"], 65_536);
    assert_eq!(info.timeouts["udp_idle"], 300.0);
    assert_eq!(counters.0[0].0, "frames_in");
    let unknown = stage.ask(r#"{"execute":"info","arguments":{"colour":"blue"}}"#).await;
    assert!(unknown.starts_with(r#"{"error":{"desc":"bad request: info: bad arguments: unknown field `colour`"#), "{unknown}");
}

#[tokio::test]
async fn commands_may_be_asked_by_many_at_once() {
    let stage = Stage::new();
    let path = stage.path();
    let mut clients = JoinSet::new();
    for _ in 0..32 {
        let path = path.clone();
        clients.spawn(async move {
            for _ in 0..20 {
                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(br#"{"execute":"list_hostfwd"}"#).await.unwrap();
                assert_eq!(rest(&mut stream).await, r#"{"entries":[]}"#);
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert_eq!(stage.handle.counters().await.unwrap().api_commands, 640);
}

#[tokio::test]
async fn a_link_that_is_down_carries_nothing_and_its_guest_sees_it() {
    use crate::frame::FrameMeta;
    use crate::port::memory::{MemoryConfig, MemoryPort};
    let stage = Stage::new();
    let pair = |name: &str| MemoryPort::pair(MemoryConfig { name: name.to_owned(), ..MemoryConfig::default() });
    let ((port, guest), (other_port, other)) = (pair("eth0"), pair("eth1"));
    stage.handle.attach(Box::new(port)).await.unwrap();
    stage.handle.attach(Box::new(other_port)).await.unwrap();
    // The router makes itself known to both.
    for guest in [&guest, &other] {
        guest.received().await.unwrap();
    }
    let set = async |arguments: &str| stage.ask(&format!(r#"{{"execute":"set_link","arguments":{{{arguments}}}}}"#)).await;
    assert_eq!(set(r#""port":"eth0","up":false"#).await, r#"{"return":{}}"#);
    assert!(!guest.link_is_up() && other.link_is_up());
    let ports = stage.ask(r#"{"execute":"ports"}"#).await;
    assert!(ports.contains(r#""id":0,"name":"eth0","up":false,"mtu":1500"#), "{ports}");
    assert!(ports.contains(r#""id":1,"name":"eth1","up":true"#), "{ports}");

    // A broadcast of one guest reaches another, but not over a link that is down.
    let frame = |from: u8| {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, from, 0x88, 0xb5]);
        frame.resize(60, from);
        frame
    };
    guest.send(frame(1), FrameMeta::default()).unwrap();
    other.send(frame(2), FrameMeta::default()).unwrap();
    let counters = loop {
        let counters = stage.handle.counters().await.unwrap();
        if counters.drop_link_down == 1 && counters.switch_dropped == 1 {
            break counters;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(counters.switch_forwarded, 0);
    assert_eq!(set(r#""port":0,"up":true"#).await, r#"{"return":{}}"#);
    assert!(guest.link_is_up());
    let (advertisement, _) = guest.received().await.unwrap();
    assert_eq!(advertisement[12..14], [0x86, 0xdd], "as to every guest that is new");
    other.send(frame(3), FrameMeta::default()).unwrap();
    assert_eq!(guest.received().await.unwrap().0[..12], frame(3)[..12]);

    let unknown = set(r#""port":"eth7","up":true"#).await;
    assert!(unknown.contains("bad arguments.port: there is no port eth7; there are 0 (eth0), 1 (eth1)"), "{unknown}");
}

#[tokio::test]
async fn frames_are_recorded_from_and_until_a_command() {
    let stage = Stage::new();
    let file = stage.directory.path().join("net.pcapng");
    let start = format!(
        r#"{{"execute":"start_capture","arguments":{{"file":"{}","filter":"tcp port 80","snaplen":128}}}}"#,
        file.display()
    );
    assert_eq!(stage.ask(&start).await, r#"{"return":{"id":1}}"#);
    let listed = stage.ask(r#"{"execute":"captures"}"#).await;
    assert!(listed.contains(r#""id":1"#) && listed.contains(r#""filter":"tcp port 80""#), "{listed}");
    let stopped = stage.ask(r#"{"execute":"stop_capture","arguments":{"id":1}}"#).await;
    assert!(stopped.contains(r#""records":0"#) && stopped.contains(r#""failure":null"#), "{stopped}");
    assert!(std::fs::metadata(&file).unwrap().len() > 0, "the file is written");
    for (name, arguments, told) in [
        ("start_capture", r#"{"file":"relative.pcapng"}"#, "bad arguments.file"),
        ("start_capture", r#"{"file":"/nowhere/at/all.pcapng"}"#, "No such file or directory"),
        ("start_capture", r#"{"file":"/tmp/x","filter":"colour blue"}"#, "bad arguments.filter"),
        ("start_capture", r#"{"file":"/tmp/x","rotate_bytes":1}"#, "bad arguments.rotate_bytes"),
        ("start_capture", r#"{"file":"/tmp/x","rotate_bytes":9999,"rotate_files":0}"#, "bad arguments.rotate_files"),
        ("stop_capture", r#"{"id":1}"#, "there is no capture 1"),
    ] {
        let answer = stage.ask(&format!(r#"{{"execute":"{name}","arguments":{arguments}}}"#)).await;
        assert!(answer.contains(told), "{name} {arguments}: {answer}");
    }
}

#[tokio::test]
async fn guests_names_and_connections_are_told() {
    let config = Config {
        dns: crate::config::DnsConfig { servers: vec!["192.0.2.53:53".parse().unwrap()], ..Default::default() },
        ..Config::default()
    };
    let stage = Stage::with(&config);
    let dns = stage.ask(r#"{"execute":"dns"}"#).await;
    assert!(
        dns.starts_with(r#"{"return":{"servers":[{"address":"192.0.2.53:53","up":true}],"names":[],"cached":[],"counts":{"#),
        "{dns}"
    );
    assert_eq!(stage.ask(r#"{"execute":"leases"}"#).await, r#"{"return":{"leases":[]}}"#);
    assert_eq!(stage.ask(r#"{"execute":"flows"}"#).await, r#"{"return":{"tcp":[],"udp":[]}}"#);
    assert_eq!(stage.ask(r#"{"execute":"ports"}"#).await, r#"{"return":{"ports":[]}}"#);
}
