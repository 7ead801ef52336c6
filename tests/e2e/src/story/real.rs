//! Conversations of real guests, recorded by `slipway --pcap`: the programs of Debian in network namespaces and in QEMU, and firmware.
//!
//! They come out a little different every time, so they are recorded only when somebody asks for it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use anyhow::{Context, Result, bail};
use netstack::replay::sidecar::Sidecar;
use netstack::replay::{Options as ReplayOptions, replay};

use super::link::Stream;
use super::live::{Files, behave, free_port};
use crate::LONG_PATIENCE;
use crate::host::http::Http;
use crate::host::{Echo, LOOPBACK, LOOPBACK6, listen, seen_by_guests};
use crate::initrd::Initrd;
use crate::namespace::{Guest, Options, Process};
use crate::qemu::{Card, Machine, Serving};

/// The name of the recording in the directory of who makes it.
const RECORDING: &str = "net.pcapng";

/// A conversation of a real guest.
#[derive(Debug, Clone, Copy)]
pub struct Conversation {
    /// The group and the name, as in `real/udhcpc`.
    pub name: &'static str,
    /// What happens, in one line.
    pub line: &'static str,
    /// The options of the network, as of QEMU's `-netdev user`.
    user: &'static str,
    /// Whether there is TCP in it.
    tcp: bool,
    /// Where the guest is.
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// A network namespace, and what is done in it, and at the port of the host that leads there.
    Namespace(fn(&mut Guest, u16)),
    /// QEMU, on a port of `slipway serve`.
    Machine(fn(&Serving)),
    /// QEMU again, on a network whose boot file is at the port of an HTTP server.
    Firmware,
}

impl Conversation {
    const fn new(name: &'static str, line: &'static str, place: Place) -> Self {
        Self { name, line, user: "", tcp: true, place }
    }

    const fn user(self, user: &'static str) -> Self {
        Self { user, ..self }
    }

    const fn without_tcp(self) -> Self {
        Self { tcp: false, ..self }
    }
}

/// All of them.
pub const CONVERSATIONS: &[Conversation] = &[
    Conversation::new("real/udhcpc", "busybox's udhcpc leases an address and gives it back", Place::Namespace(udhcpc))
        .without_tcp(),
    Conversation::new(
        "real/dhclient",
        "Debian's dhclient leases an address, wants it again after a reboot, and gives it back",
        Place::Namespace(dhclient),
    )
    .without_tcp(),
    Conversation::new("real/ping", "iputils' ping reaches the gateway in IPv4 and IPv6", Place::Namespace(ping)).without_tcp(),
    Conversation::new(
        "real/nslookup",
        "busybox's nslookup asks for the host's name, for both families",
        Place::Namespace(nslookup),
    )
    .without_tcp(),
    Conversation::new("real/dig", "dig asks with EDNS, by UDP and by TCP", Place::Namespace(dig)),
    Conversation::new("real/curl", "curl fetches twenty thousand bytes by HTTP", Place::Namespace(curl)),
    Conversation::new("real/wget-v6", "busybox's wget fetches five thousand bytes by HTTP over IPv6", Place::Namespace(wget6)),
    Conversation::new(
        "real/upload",
        "busybox's nc sends forty thousand bytes, in super-frames of the kernel",
        Place::Namespace(upload),
    ),
    Conversation::new("real/refused", "busybox's nc finds a closed port", Place::Namespace(refused)),
    Conversation::new("real/datagrams", "datagrams of the kernel's sockets come back", Place::Namespace(datagrams)).without_tcp(),
    Conversation::new(
        "real/httpd",
        "a client of the host fetches a page from busybox's httpd in the guest",
        Place::Namespace(httpd),
    )
    .user("hostfwd=tcp:127.0.0.1:{port}-:80"),
    Conversation::new(
        "real/linux-virtio",
        "Debian's kernel in QEMU, with virtio-net: it leases, pings, resolves, and fetches a page",
        Place::Machine(linux_virtio),
    ),
    Conversation::new(
        "real/linux-e1000",
        "Debian's kernel in QEMU, with an e1000: it leases, pings, resolves, and fetches a page",
        Place::Machine(linux_e1000),
    ),
    Conversation::new("real/tftp-hpa", "Debian's tftp gets a file, without any option", Place::Namespace(tftp_hpa))
        .user("tftp={files}")
        .without_tcp(),
    Conversation::new("real/tftp-curl", "curl gets a file by TFTP, with options, over IPv4 and IPv6", Place::Namespace(tftp_curl))
        .user("tftp={files}")
        .without_tcp(),
    Conversation::new(
        "real/tftp-loss",
        "a guest that loses every third datagram gets its file all the same",
        Place::Namespace(tftp_loss),
    )
    .user("tftp={files}")
    .without_tcp(),
    Conversation::new(
        "real/tftp-refused",
        "busybox's tftp asks for what is not there, and wants to write",
        Place::Namespace(tftp_refused),
    )
    .user("tftp={files}")
    .without_tcp(),
    Conversation::new(
        "real/http-gateway",
        "curl fetches a file and a part of it from the gateway itself",
        Place::Namespace(http_gateway),
    )
    .user("http={files}"),
    Conversation::new("real/ipxe", "iPXE leases an address, and fetches its boot script by HTTP", Place::Firmware),
];

/// Records a conversation into a file and its sidecar, and makes sure that it replays.
///
/// # Errors
///
/// When a file cannot be read or written, or the recording does not replay.
///
/// # Panics
///
/// When the conversation does not take place.
pub fn record(conversation: &Conversation, path: &Path) -> Result<()> {
    let Conversation { user, line, tcp, .. } = *conversation;
    match conversation.place {
        Place::Namespace(talk) => {
            let port = free_port();
            let files = Files::new();
            let user = user.replace("{port}", &port.to_string()).replace("{files}", &files.path());
            let mut guest = Options::default().user(&user).more(&["--pcap", RECORDING]).shell();
            talk(&mut guest, port);
            assert!(guest.leave().success(), "slipway has failed");
            fs::copy(guest.directory().join(RECORDING), path)?;
        }
        Place::Machine(talk) => {
            let mut serving = Serving::recording(user, &["port"], RECORDING);
            talk(&serving);
            serving.end();
            fs::copy(serving.directory().join(RECORDING), path)?;
        }
        Place::Firmware => firmware(path)?,
    }
    let mut sidecar = Sidecar { story: Some(line.to_owned()), ..Sidecar::default() };
    if tcp {
        let reason = "it is the room in the sockets of the machine that recorded";
        sidecar.varies.push("tcp.window".to_owned());
        sidecar.reasons.insert("tcp.window".to_owned(), reason.to_owned());
    }
    fs::write(Sidecar::path_of(path), sidecar.to_text())?;
    let report = replay(&fs::read(path)?, sidecar, &ReplayOptions::default())?;
    match report.differences.first() {
        Some(difference) => bail!("{} does not replay: {difference:?}", conversation.name),
        None => Ok(()),
    }
}

fn udhcpc(guest: &mut Guest, _: u16) {
    guest.succeed("busybox udhcpc -i tap0 -n -q -R -t 5 -s /bin/true");
}

fn dhclient(guest: &mut Guest, _: u16) {
    // Debian's script would change the machine's own resolv.conf. This one says when there is a lease.
    guest.succeed("printf '#!/bin/sh\\n[ -z \"$new_ip_address\" ] || touch bound\\n' >script; chmod +x script; touch leases");
    let client = "dhclient -1 -d -sf $PWD/script -cf /dev/null -lf $PWD/leases -pf $PWD/pid";
    for _ in 0..2 {
        guest.succeed(&format!("{client} tap0 >log 2>&1 & until [ -e bound ]; do sleep 0.05; done; rm bound; kill -9 $!"));
    }
    guest.succeed(&format!("{client} -r tap0"));
}

fn ping(guest: &mut Guest, _: u16) {
    guest.succeed("ping -n -c 2 -i 0.2 10.0.2.2");
    guest.succeed("ping -n -c 2 -i 0.2 fec0::2");
}

fn nslookup(guest: &mut Guest, _: u16) {
    guest.succeed("busybox nslookup host.slipway.internal 10.0.2.3");
}

fn dig(guest: &mut Guest, _: u16) {
    guest.succeed("dig +short +tries=1 +time=10 @10.0.2.3 host.slipway.internal");
    guest.succeed("dig +short +tcp +tries=1 +time=10 @10.0.2.3 AAAA host.slipway.internal");
}

fn curl(guest: &mut Guest, _: u16) {
    let server = seen_by_guests(Http::at(LOOPBACK).address);
    guest.succeed(&format!("curl -sS -o /dev/null http://{server}/20000"));
}

fn tftp_hpa(guest: &mut Guest, _: u16) {
    guest.succeed("tftp -m binary 10.0.2.2 -c get large");
}

fn tftp_curl(guest: &mut Guest, _: u16) {
    for gateway in ["10.0.2.2", "[fec0::2]"] {
        guest.succeed(&format!("curl -sS -o /dev/null --tftp-blksize 1024 tftp://{gateway}/large"));
    }
}

fn tftp_loss(guest: &mut Guest, _: u16) {
    guest.succeed("nft add table inet lossy && nft add chain inet lossy input '{ type filter hook input priority 0; }'");
    guest.succeed("nft add rule inet lossy input meta l4proto udp numgen inc mod 3 == 1 drop");
    guest.run_within(LONG_PATIENCE, "tftp -m binary 10.0.2.2 -c get large").success();
}

fn tftp_refused(guest: &mut Guest, _: u16) {
    guest.run("busybox tftp -g -r nothing 10.0.2.2").failure();
    guest.run("busybox tftp -g -r ../secret 10.0.2.2").failure();
    guest.run("echo text >file; busybox tftp -p -l file 10.0.2.2").failure();
}

fn http_gateway(guest: &mut Guest, _: u16) {
    guest.succeed("curl -sS -o /dev/null http://10.0.2.2/large");
    guest.succeed("curl -sS -o /dev/null -r 10-19 http://10.0.2.2/small");
}

fn wget6(guest: &mut Guest, _: u16) {
    let server = seen_by_guests(Http::at(LOOPBACK6).address);
    guest.succeed(&format!("busybox wget -q -O /dev/null 'http://{server}/5000'"));
}

fn upload(guest: &mut Guest, _: u16) {
    let (listener, address) = listen(LOOPBACK);
    crate::host::serve(listener, |connection| behave(&connection, Stream::Sink));
    let server = seen_by_guests(address);
    guest.succeed(&format!("head -c 40000 /dev/zero | busybox nc {} {}", server.ip(), server.port()));
}

fn refused(guest: &mut Guest, _: u16) {
    let server = seen_by_guests(listen(LOOPBACK).1);
    guest.run(&format!("busybox nc {} {}", server.ip(), server.port())).failure();
}

fn datagrams(guest: &mut Guest, _: u16) {
    for ip in [LOOPBACK, LOOPBACK6] {
        guest.succeed(&format!("e2e-guest datagrams {} 500 3", seen_by_guests(Echo::at(ip).address)));
    }
}

fn httpd(guest: &mut Guest, port: u16) {
    guest.succeed("mkdir www; echo 'a page of the guest' >www/index.html");
    guest.succeed("busybox httpd -f -p 80 -h www >/dev/null & echo $! >httpd; until grep -q :0050 /proc/net/tcp /proc/net/tcp6; do sleep 0.05; done");
    let page = Command::new("curl").args(["-sS", &format!("http://127.0.0.1:{port}/")]).output().expect("curl can be started");
    assert_eq!(String::from_utf8_lossy(&page.stdout), "a page of the guest\n", "{}", String::from_utf8_lossy(&page.stderr));
    guest.succeed("kill $(cat httpd)");
}

fn linux_virtio(serving: &Serving) {
    linux(serving, Card::Virtio);
}

fn linux_e1000(serving: &Serving) {
    linux(serving, Card::E1000);
}

fn linux(serving: &Serving, card: Card) {
    let initrd = Initrd::with_modules(card.modules());
    let mut guest = Machine::start(&initrd, card, "52:54:00:12:34:56", &serving.socket("port")).booted();
    assert_eq!(guest.lease(), "10.0.2.15");
    guest.succeed("ping -c 1 10.0.2.2");
    guest.succeed("nslookup host.slipway.internal 10.0.2.3");
    let server = seen_by_guests(Http::at(LOOPBACK).address);
    guest.run_within(LONG_PATIENCE, &format!("wget -q -O /dev/null http://{server}/10000")).success();
}

/// A script that does nothing: what iPXE fetches is all that matters.
const SCRIPT: &str = "#!ipxe\necho The script was fetched.\nexit\n";

fn firmware(path: &Path) -> Result<()> {
    let (listener, address) = listen(LOOPBACK);
    let server = seen_by_guests(address);
    let mut serving = Serving::recording(&format!("bootfile=http://{server}/boot.ipxe"), &["port"], RECORDING);
    let (fetched, done) = channel();
    std::thread::spawn(move || fetched.send(serve_script(&listener)));
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]);
    qemu.args(["-machine", "pc", "-accel", "tcg", "-m", "256", "-boot", "n"]);
    qemu.args(["-netdev", &format!("stream,id=net,server=off,addr.type=unix,addr.path={}", serving.socket("port").display())]);
    // The card's ROM is that of Debian's package ipxe-qemu.
    qemu.args(["-device", "e1000,netdev=net,mac=52:54:00:12:34:56,bootindex=1"]);
    let qemu = Process(qemu.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("QEMU cannot be started")?);
    done.recv_timeout(LONG_PATIENCE).context("iPXE has fetched nothing")??;
    drop(qemu);
    serving.end();
    fs::copy(serving.directory().join(RECORDING), path)?;
    Ok(())
}

/// Gives the script to who asks for it, and waits until it has been taken.
fn serve_script(listener: &TcpListener) -> Result<()> {
    let connection = crate::wait::accept(listener);
    let mut request = BufReader::new(&connection);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let len = SCRIPT.len();
    // In one piece: how long the parts of it are on their way is not the story.
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{SCRIPT}");
    (&connection).write_all(answer.as_bytes())?;
    connection.shutdown(std::net::Shutdown::Write)?;
    std::io::copy(&mut &connection, &mut std::io::sink())?;
    Ok(())
}
