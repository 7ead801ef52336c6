//! What a virtual machine costs: time to its first instruction and to its first lease, memory beside the guest's own, and TCP through each
//! network card beside the same guest without a machine. `cargo xtask bench vmm` runs it. It prints figures, and never fails because of one.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netstack::config::Config;
use netstack::frame::Offloads;
use vmm::probe::{NicKind, Plan, Report, Servers, simulate};

/// The program under test, built together with this.
const PROGRAM: &str = env!("CARGO_BIN_EXE_slipway-vm");

/// How often each figure is taken.
const STARTS: usize = 21;
const TRANSFERS: usize = 11;

/// How much is moved each way.
const BYTES: u64 = 256 << 20;

/// The gateway, which is the loopback address of this machine.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    // `cargo test --benches` and the like only want to know that it builds.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    if let Err(err) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        println!("SKIPPED: there are no figures without /dev/kvm: {err}");
        return Ok(());
    }
    println!("{}\n", machine());
    println!("| figure | median | best | worst |\n|---|---|---|---|");
    let lease = sampled(STARTS, || start_to(&["run"], |line| matches!(Report::parse(line), Some(Report::Lease { .. }))))?;
    println!("{}", row("process start to lease, virtio-net, ms", &lease));
    let card = ["run", "--netdev", "user,id=n", "--device", "e1000,netdev=n"];
    let lease = sampled(STARTS, || start_to(&card, |line| matches!(Report::parse(line), Some(Report::Lease { .. }))))?;
    println!("{}", row("process start to lease, e1000, ms", &lease));
    match kernel() {
        Some(kernel) => {
            let patched = patched(&kernel)?;
            let words = ["run", "--kernel", path(&patched), "--append", "x"];
            let first = sampled(STARTS, || start_to(&words, |line| line.starts_with('!')))?;
            let size = fs::metadata(&kernel)?.len() as f64 / f64::from(1 << 20);
            println!("{}", row(&format!("process start to the first instruction of a bzImage of {size:.1} MiB, ms"), &first));
        }
        None => println!("| first instruction of a bzImage: no kernel in /boot | | | |"),
    }
    let memory = memory()?;
    println!("| memory of a running machine beside its guest's RAM, MiB | {memory:.1} | | |");

    println!("\n| TCP of the built-in guest, Mbit/s | to the host | from the host |\n|---|---|---|");
    let servers = Servers::start()?;
    let guests: [(&str, Option<NicKind>); 3] =
        [("virtio-net", Some(NicKind::VirtioNet)), ("e1000", Some(NicKind::E1000)), ("memory port, no machine", None)];
    // In turns, so that a machine that becomes slower or faster meanwhile does so for all of them.
    let mut rates = guests.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..TRANSFERS {
        for ((_, nic), (ups, downs)) in guests.iter().zip(&mut rates) {
            let (up, down) = nic.map_or_else(|| without_machine(&servers), |nic| in_machine(nic, &servers))?;
            ups.push(up);
            downs.push(down);
        }
    }
    for ((name, _), (ups, downs)) in guests.iter().zip(&mut rates) {
        println!("| {name} | {} | {} |", middle(ups), middle(downs));
    }
    Ok(())
}

/// What the figures are of.
fn machine() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, m)| m);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kind = ["kvm_intel", "kvm_amd", "kvm_pvm"].into_iter().find(|module| Path::new("/sys/module").join(module).exists());
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{model}, {processors} processors, Linux {}, {}", kernel.trim(), kind.unwrap_or("KVM of an unknown kind"))
}

/// Takes a figure several times, and sorts what came.
fn sampled(count: usize, mut figure: impl FnMut() -> Outcome<f64>) -> Outcome<Vec<f64>> {
    let mut samples = (0..count).map(|_| figure()).collect::<Outcome<Vec<_>>>()?;
    samples.sort_by(f64::total_cmp);
    Ok(samples)
}

fn row(name: &str, sorted: &[f64]) -> String {
    let mut text = format!("| {name} |");
    for sample in [sorted.get(sorted.len() / 2), sorted.first(), sorted.last()] {
        // Writing to a string cannot fail.
        _ = write!(text, " {:.0} |", sample.copied().unwrap_or(f64::NAN));
    }
    text
}

/// Milliseconds from the start of the program with these words to the first line of its guest that is `it`.
fn start_to(words: &[&str], it: impl Fn(&str) -> bool) -> Outcome<f64> {
    let started = Instant::now();
    let mut child = spawn(words)?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let found = lines.by_ref().map_while(Result::ok).any(|line| it(&line));
    let taken = started.elapsed();
    // Whatever else it does is of no interest.
    lines.for_each(drop);
    let status = child.wait()?;
    if !found {
        return Err(format!("the guest did not get that far, and the program ended with {status}").into());
    }
    Ok(taken.as_secs_f64() * 1e3)
}

fn spawn(words: &[&str]) -> Outcome<Child> {
    Ok(Command::new(PROGRAM).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
}

/// A kernel as a distribution installs it.
fn kernel() -> Option<PathBuf> {
    let names = fs::read_dir("/boot").ok()?.flatten().map(|entry| entry.path());
    names.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))).max()
}

/// The same kernel, which is read and loaded like the original, but begins with instructions that say so on the serial port and turn the
/// machine off.
fn patched(kernel: &Path) -> Outcome<tempfile::TempPath> {
    // mov dx, 0x3f8; mov al, '!'; out dx, al; mov al, '\n'; out dx, al; mov dx, 0x600; mov al, 0x34; out dx, al; jmp $
    const CODE: &[u8] = b"\x66\xba\xf8\x03\xb0\x21\xee\xb0\x0a\xee\x66\xba\x00\x06\xb0\x34\xee\xeb\xfe";
    let mut image = fs::read(kernel)?;
    let entry = (usize::from(image[0x1f1]) + 1) * 512 + 0x200;
    image.get_mut(entry..entry + CODE.len()).ok_or("this is no kernel")?.copy_from_slice(CODE);
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), image)?;
    Ok(file.into_temp_path())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// What a machine takes beside its guest's RAM, in MiB, while its guest waits for a connection.
fn memory() -> Outcome<f64> {
    let plan = Plan { serve: Some(7), ..Plan::default() }.to_string();
    let mut child = spawn(&["run", "--append", &plan])?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let serving = lines.by_ref().map_while(Result::ok).any(|line| matches!(Report::parse(&line), Some(Report::Serving { .. })));
    let maps = fs::read_to_string(format!("/proc/{}/smaps", child.id()));
    child.kill()?;
    child.wait()?;
    if !serving {
        return Err("the guest does not listen".into());
    }
    let mut own = 0;
    let mut of_guest = false;
    for line in maps?.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["Rss:", kibibytes, "kB"] if !of_guest => own += kibibytes.parse::<u64>()?,
            [range, ..] if range.contains('-') => of_guest = line.contains("/memfd:guest memory"),
            _ => {}
        }
    }
    Ok(own as f64 / 1024.0)
}

/// The median, and the least and the greatest in brackets.
fn middle(samples: &mut [f64]) -> String {
    samples.sort_by(f64::total_cmp);
    let at = |place: usize| samples.get(place).copied().unwrap_or(f64::NAN);
    format!("{:.0} ({:.0}-{:.0})", at(samples.len() / 2), at(0), at(samples.len().saturating_sub(1)))
}

fn plan(nic: NicKind, servers: &Servers) -> Plan<'static> {
    Plan {
        nic,
        up: Some(SocketAddrV4::new(GATEWAY, servers.up_port())),
        down: Some(SocketAddrV4::new(GATEWAY, servers.down_port())),
        bytes: BYTES,
        ..Plan::default()
    }
}

fn in_machine(nic: NicKind, servers: &Servers) -> Outcome<(f64, f64)> {
    let device = format!("{},netdev=n", nic.name());
    let plan = plan(nic, servers).to_string();
    let mut child = spawn(&["run", "--append", &plan, "--netdev", "user,id=n", "--device", &device])?;
    let mut rates = Rates::default();
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines().map_while(Result::ok) {
        if let Some(report) = Report::parse(&line) {
            rates.take(&report);
        }
    }
    child.wait()?;
    rates.both()
}

fn without_machine(servers: &Servers) -> Outcome<(f64, f64)> {
    let mut rates = Rates::default();
    simulate(&Config::default(), Offloads::ALL, &plan(NicKind::Auto, servers), |report| rates.take(report))?;
    rates.both()
}

/// What a guest has reported of its transfers.
#[derive(Default)]
struct Rates {
    up: Option<f64>,
    down: Option<f64>,
}

impl Rates {
    fn take(&mut self, report: &Report<'_>) {
        match report {
            Report::Up(moved) => self.up = Some(rate(moved.bytes, moved.micros)),
            Report::Down(moved) => self.down = Some(rate(moved.bytes, moved.micros)),
            _ => {}
        }
    }

    fn both(&self) -> Outcome<(f64, f64)> {
        Ok((self.up.ok_or("the guest has sent nothing")?, self.down.ok_or("the guest has received nothing")?))
    }
}

fn rate(bytes: u64, micros: u64) -> f64 {
    bytes as f64 * 8.0 / Duration::from_micros(micros).as_secs_f64() / 1e6
}
