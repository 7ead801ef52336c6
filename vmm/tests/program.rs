//! `slipway-vm` as its users meet it: what it says to a wrong command line, how it ends, and what it leaves of the terminal.

#![expect(clippy::unwrap_used, reason = "what fails in a test is to be seen where it fails")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use netstack::control::client::Client;
use netstack::control::{AddHostfwd, ListLeases, ListPorts, SetLink, Shutdown};
use netstack::engine::PortName;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

/// A guest that waits for a connection that nobody makes.
const WAITING: [&str; 3] = ["run", "--append", "probe serve=7"];

fn program(words: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_slipway-vm"));
    program.args(words).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    program
}

fn run(words: &[&str]) -> Output {
    program(words).output().unwrap()
}

fn has_kvm() -> bool {
    let usable = File::options().read(true).write(true).open("/dev/kvm");
    if let Err(err) = &usable {
        eprintln!("SKIPPED: this test needs /dev/kvm, which cannot be opened: {err}");
    }
    usable.is_ok()
}

#[test]
fn a_mistake_is_told_in_one_paragraph_with_exit_code_2() {
    for (words, told) in [
        (&["run", "--kernel", "/etc/passwd"][..], "is no kernel"),
        (&["run", "--kernel", "/no/such/file"], "no such file"),
        (&["run", "--kernel", "/etc/passwd", "--initrd", "/no/such/file"], "is no kernel"),
        (&["run", "--memory", "1M"], "from 16M to 1024G"),
        (&["run", "--memory", "17M"], "needs"),
        (&["run", "--cpus", "100"], "100"),
        (&["run", "--drive", "file=/no/such/disk"], "/no/such/disk"),
        (&["run", "--netdev", "user,id=a", "--netdev", "user,id=a"], "two networks are called a"),
        (&["run", "--device", "ne2000,netdev=a"], "there is no device `ne2000`"),
        (&["run", "--device", "e1000,netdev=a"], "no network is called a"),
        (&["run", "--netdev", "user,id=a,hostfwd=nonsense"], "hostfwd"),
    ] {
        let output = run(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(told), "{words:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_guest_that_is_done_ends_the_program_with_success() {
    if !has_kvm() {
        return;
    }
    for device in ["virtio-net,netdev=n", "e1000,netdev=n"] {
        let output = run(&["run", "--netdev", "user,id=n", "--device", device]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("probe: ping to=10.0.2.2") && said.contains("probe: done"), "{device}: {said}");
        assert!(output.status.success() && output.stderr.is_empty(), "{device}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_machine_has_as_many_cards_and_networks_as_it_was_given() {
    if !has_kvm() {
        return;
    }
    let two_networks = ["--netdev", "user,id=a", "--netdev", "user,id=b,net=10.0.9.0/24"];
    for (second, nic, lease) in [
        ("e1000,netdev=b", "virtio-net", "lease address=10.0.2.15/24"),
        ("e1000,netdev=b", "e1000", "lease address=10.0.9.15/24"),
        ("e1000,netdev=a,mac=52:54:00:00:00:09", "e1000", "lease address=10.0.2.15/24"),
    ] {
        let plan = format!("probe nic={nic}");
        let cards = ["--device", "virtio-net,netdev=a", "--device", second, "--append", &plan];
        let output = run(&[&["run"], &two_networks[..], &cards].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains(lease), "{nic} beside {second}: {said}");
    }
}

#[test]
fn signals_end_a_machine_whose_guest_goes_on() {
    if !has_kvm() {
        return;
    }
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut child = program(&WAITING).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().any(|line| line.unwrap().starts_with("probe: serving")));
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert!(child.wait().unwrap().success(), "{signal:?}");
    }
}

#[test]
fn output_that_nobody_takes_does_not_keep_a_machine_from_ending() {
    if !has_kvm() {
        return;
    }
    // The pipe is filled before the guest comes to it.
    let (mut end, pipe) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    while rustix::io::write(&pipe, &[b'x'; 4096]).is_ok() {}
    while rustix::io::write(&pipe, b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&pipe, false).unwrap();
    let mut child = program(&WAITING).stdout(pipe).spawn().unwrap();
    // Its processor is in the write by the time that its thread is there; either way the program ends.
    while !std::fs::read_dir(format!("/proc/{}/task", child.id()))
        .unwrap()
        .flatten()
        .any(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "vcpu0"))
    {
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let mut rest = Vec::new();
    end.read_to_end(&mut rest).unwrap();
    assert!(rest.iter().all(|byte| *byte == b'x'), "the guest's first word did not fit");
}

/// A terminal, and the program in it.
struct Session {
    keyboard: File,
    screen: BufReader<File>,
    /// The program's end, to look at its settings.
    terminal: OwnedFd,
    child: Child,
}

impl Session {
    fn start(words: &[&str]) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let terminal =
            rustix::fs::open(name, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY, rustix::fs::Mode::empty()).unwrap();
        let child = program(words)
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal.try_clone().unwrap())
            .spawn()
            .unwrap();
        let keyboard = File::from(keyboard);
        Self { screen: BufReader::new(keyboard.try_clone().unwrap()), keyboard, terminal, child }
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.terminal).unwrap()
    }

    fn until_said(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(self.screen.read_line(&mut line).unwrap(), 0, "the program has ended");
        }
    }

    fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

fn is_raw(settings: &Termios) -> bool {
    !settings.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

/// A way in which a machine ends, how it is brought about, and the program's exit status.
type Way = (&'static str, fn(&mut Session), Option<i32>);

#[test]
fn the_terminal_is_as_it_was_however_the_machine_ends() {
    if !has_kvm() {
        return;
    }
    let by_keys = |session: &mut Session| session.keyboard.write_all(b"\x01x").unwrap();
    let by_signal = |session: &mut Session| kill_process(Pid::from_child(&session.child), Signal::TERM).unwrap();
    let by_crash = |session: &mut Session| kill_process(Pid::from_child(&session.child), Signal::SEGV).unwrap();
    let ways: [Way; 3] = [("Ctrl-A x", by_keys, Some(0)), ("SIGTERM", by_signal, Some(0)), ("SIGSEGV", by_crash, None)];
    for (way, end, code) in ways {
        let mut session = Session::start(&WAITING);
        session.until_said("probe: serving");
        assert!(is_raw(&session.settings()), "{way}");
        end(&mut session);
        assert_eq!(session.ended().code(), code, "{way}");
        let after = session.settings();
        assert!(!is_raw(&after) && after.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{way}");
    }
}

#[test]
fn the_interrupt_key_is_the_guests() {
    if !has_kvm() {
        return;
    }
    let mut session = Session::start(&WAITING);
    session.until_said("probe: serving");
    session.keyboard.write_all(b"\x03\x1a\x1c").unwrap();
    session.keyboard.write_all(b"\x01x").unwrap();
    assert_eq!(session.ended().code(), Some(0), "none of the keys before has ended or stopped it");
}

#[test]
fn a_network_is_controlled_while_its_machine_runs() {
    if !has_kvm() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.sock");
    let socket = path.to_str().unwrap();
    let mut child = program(&[&WAITING[..], &["--api-socket", socket]].concat()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.by_ref().any(|line| line.unwrap().contains("probe: serving")));
    let client = Client::new(&path);
    let ports = client.call(&ListPorts {}).unwrap().ports;
    assert!(matches!(&ports[..], [port] if port.up && port.name.contains("virtio-net")), "{ports:?}");
    let leases = client.call(&ListLeases {}).unwrap().leases;
    assert!(matches!(&leases[..], [lease] if lease.state == "bound"), "{leases:?}");

    // A forward that was not there when the machine began leads to what the guest serves.
    let added = client.call(&AddHostfwd("tcp:127.0.0.1:0-:7".parse().unwrap())).unwrap();
    let mut connection = TcpStream::connect(("127.0.0.1", added.host_port.unwrap())).unwrap();
    connection.write_all(b"over and back").unwrap();
    let mut back = [0; 13];
    connection.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"over and back");
    client.call(&SetLink { port: PortName::Number(ports[0].id), up: false }).unwrap();
    assert!(!client.call(&ListPorts {}).unwrap().ports[0].up);
    client.call(&SetLink { port: PortName::Number(ports[0].id), up: true }).unwrap();
    connection.write_all(b"and once more").unwrap();
    connection.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"and once more");

    client.call(&Shutdown {}).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn an_api_socket_is_of_one_network() {
    for (words, told) in [
        (&["--netdev", "user,id=a", "--netdev", "user,id=b", "--api-socket", "/tmp/x"][..], "--api-socket is of one"),
        (&["--netdev", "user,id=a", "--api-socket", "b=/tmp/x"], "no network is called b"),
        (&["--api-socket", "/tmp/x", "--api-socket", "/tmp/y"], "has two API sockets"),
    ] {
        let output = run(&[&["run"], words].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(told), "{words:?}: {said}");
    }
}

#[test]
fn the_check_names_everything_and_exits_by_it() {
    let output = run(&["check", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let usable = report["usable"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!usable)));
    assert!(report["findings"].as_array().unwrap().len() >= 7);
    assert_eq!(usable, has_kvm());
}
