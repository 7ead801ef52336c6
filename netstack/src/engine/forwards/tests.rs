use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use super::*;
use crate::config::{Config, Protocol};

/// An engine that runs in a thread of its own until this is dropped.
struct Running {
    handle: Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn new(config: &Config) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let config = config.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let engine = Engine::new(&config).unwrap();
                sender.send(engine.handle()).unwrap();
                engine.run().await;
            });
        });
        Self { handle: receiver.recv().unwrap(), thread: Some(thread) }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn add(&self, rule: &str) -> Result<BoundForward, ForwardRefused> {
        self.wait(self.handle.add_host_forward(rule.parse().unwrap()))
    }

    fn remove(&self, id: ForwardId) -> Option<BoundForward> {
        self.wait(self.handle.remove_host_forward(id, false)).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.shutdown();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn connects(forward: &BoundForward) -> bool {
    TcpStream::connect(forward.host.address().unwrap()).is_ok()
}

#[test]
fn forwards_come_and_go_and_no_number_is_given_twice() {
    let engine = Running::new(&Config::default());
    let first = engine.add("tcp:127.0.0.1:0-:22").unwrap();
    let second = engine.add("udp:[::1]:0-[fec0::15]:53").unwrap();
    assert_eq!((first.id, second.id), (ForwardId(1), ForwardId(2)));
    assert_eq!(first.guest, (Ipv4Addr::new(10, 0, 2, 15), 22).into());
    assert!(connects(&first));
    assert_eq!(engine.remove(first.id), Some(first.clone()));
    assert_eq!(engine.remove(first.id), None);
    assert!(!connects(&first));
    let third = engine.add(&format!("tcp:127.0.0.1:{}-10.0.2.20:22", first.host.address().unwrap().port())).unwrap();
    assert_eq!(third.id, ForwardId(3));
    assert!(connects(&third));
    assert_eq!(engine.wait(engine.handle.host_forwards()).unwrap(), [second, third]);
}

#[test]
fn a_range_is_taken_as_a_whole_or_not_at_all() {
    let engine = Running::new(&Config::default());
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let last = taken.local_addr().unwrap().port();
    let first = last - 2;
    let rule = format!("tcp:127.0.0.1:{first}-{last}-:8000");
    let refused = engine.add(&rule).unwrap_err();
    assert!(refused.to_string().contains(&format!("port {last} is taken")), "{refused}");
    drop(taken);
    let forward = engine.add(&rule).unwrap();
    assert_eq!(forward.id, ForwardId(1), "what was refused has no number");
    assert_eq!(forward.to_string(), format!("TCP 127.0.0.1:{first}-{last} to 10.0.2.15:8000-8002"));
    for port in first..=last {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
    engine.remove(forward.id).unwrap();
    for port in first..=last {
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }
}

#[test]
fn a_socket_in_the_file_system_is_made_replaced_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ssh.sock");
    drop(UnixListener::bind(&path).unwrap());
    let engine = Running::new(&Config::default());
    let rule = format!("unix:{}-:22", path.display());
    let forward = engine.add(&rule).unwrap();
    UnixStream::connect(&path).unwrap();
    let refused = engine.add(&rule).unwrap_err();
    assert!(refused.to_string().contains("another program listens there"), "{refused}");
    engine.remove(forward.id).unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    let refused = engine.add(&rule).unwrap_err();
    assert!(refused.to_string().contains("no socket"), "{refused}");
    let nowhere = engine.add("unix:/nowhere/at/all-:22").unwrap_err();
    assert!(nowhere.to_string().contains("make it first"), "{nowhere}");
    let other = engine.add(&format!("unix:{}-:22", directory.path().join("other").display())).unwrap();
    assert!(matches!(&other.host, HostSide::Unix(path) if path.exists()));
    drop(engine);
    assert!(matches!(&other.host, HostSide::Unix(path) if !path.exists()));
}

#[test]
fn a_client_of_a_socket_in_the_file_system_learns_that_nobody_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ssh.sock");
    let timeouts = crate::config::Timeouts { tcp_guest_connect: Duration::from_millis(50), ..Default::default() };
    let engine = Running::new(&Config { timeouts, ..Config::default() });
    engine.add(&format!("unix:{}-:22", path.display())).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"anybody there?").unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_forward_can_listen_on_one_interface() {
    let engine = Running::new(&Config::default());
    let forward = engine.add("tcp:0.0.0.0%lo:0-:22").unwrap();
    TcpStream::connect((Ipv4Addr::LOCALHOST, forward.host.address().unwrap().port())).unwrap();
    assert!(forward.to_string().ends_with("on lo to 10.0.2.15:22"), "{forward}");
    let refused = engine.add("udp:127.0.0.1%nowhere:0-:22").unwrap_err();
    assert!(refused.to_string().contains("no interface nowhere"), "{refused}");
}

#[test]
fn what_cannot_be_forwarded_is_said_in_a_sentence() {
    let engine = Running::new(&Config::default());
    for (rule, part) in [
        ("tcp:192.0.2.77:0-:22", "is no address of this machine"),
        ("tcp:127.0.0.1:0-10.0.2.2:22", "the gateway's address"),
        ("tcp:127.0.0.1:0-192.0.2.1:22", "not in the guests' network"),
        ("tcp:[fe80::1]:0-:22", "name the interface"),
    ] {
        let refused = engine.add(rule).unwrap_err();
        assert!(refused.to_string().contains(part), "{rule}: {refused}");
    }
    let without = Running::new(&Config { ipv4: None, ..Config::default() });
    let refused = without.add("tcp:127.0.0.1:0-:22").unwrap_err();
    assert!(refused.to_string().contains("without IPv4"), "{refused}");
    let forward = without.add("tcp:127.0.0.1:0-[fec0::15]:22").unwrap();
    assert_eq!(forward.host.protocol(), Protocol::Tcp);
}
