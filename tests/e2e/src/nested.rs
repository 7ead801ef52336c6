//! Our own virtual machines with a stock Debian kernel, on hardware that can run it.
//!
//! Machines that run tests often have no hardware virtualisation. So QEMU imitates an AMD processor that has it, a Debian kernel with the
//! real KVM runs on that, and `slipway-vm` on this kernel, as a user who may open `/dev/kvm` and nothing else. There are two shells to type
//! into: the host's, on whose loopback the guest's network is, and the guest's. Times in there mean nothing.

use std::fs;
use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::LONG_PATIENCE;
use crate::initrd::{Contents, Initrd, READY};
use crate::namespace::Process;
use crate::programs;
use crate::session::Session;
use crate::wait::{Lines, until_exists};

/// The user who runs `slipway-vm`.
const PASSWD: &str = "root:x:0:0::/:/bin/sh\nvm:x:1000:1000::/tmp:/bin/sh\n";

/// The host: a machine with KVM, and a shell of root.
#[derive(Debug)]
pub struct Host {
    session: Session,
    console: UnixStream,
    _process: Process,
    _directory: tempfile::TempDir,
}

/// A guest that runs on it, and its shell.
#[derive(Debug)]
pub struct Guest {
    session: Session,
}

impl Host {
    /// Boots the host with what it needs to boot guests with these drivers.
    ///
    /// # Panics
    ///
    /// When QEMU, the kernel or `slipway-vm` is not there, or the host does not become ready.
    pub fn start(modules: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("slipway-nested-").tempdir().expect("a temporary directory");
        let inner = Initrd::with(Contents { modules, terminal: "ttyS0", files: &[] });
        let passwd = directory.path().join("passwd");
        fs::write(&passwd, PASSWD).expect("a file of ours");
        let program = stripped(&programs::slipway_vm(), directory.path());
        let mut files = vec![
            (inner.kernel.clone(), "guest/vmlinuz".to_owned()),
            (inner.archive.clone(), "guest/initrd".to_owned()),
            (passwd, "etc/passwd".to_owned()),
        ];
        files.extend(libraries(&program).into_iter().map(|library| {
            let place = library.display().to_string().trim_start_matches('/').to_owned();
            (library, place)
        }));
        files.push((program, "bin/slipway-vm".to_owned()));
        let outer = Initrd::with(Contents { modules: &["kvm_amd"], terminal: "ttyS1", files: &files });

        let socket = directory.path().join("console");
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]);
        qemu.args(["-display", "none", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"]);
        qemu.arg("-kernel").arg(&outer.kernel).arg("-initrd").arg(&outer.archive);
        qemu.args(["-append", "console=ttyS1 rdinit=/init quiet loglevel=1 panic=-1"]);
        // The guest's console is the host's first serial line.
        qemu.args(["-serial", &format!("unix:{},server=on,wait=off", socket.display()), "-serial", "stdio"]);
        let mut child = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setpriv can be started");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let process = Process(child);
        until_exists(&socket, || "QEMU has not made its socket".to_owned());
        let console = UnixStream::connect(&socket).expect("QEMU listens");
        let mut session = Session::new(input, Lines::of(output));
        session.expect(READY, LONG_PATIENCE);
        // No loopback but this is up, and of the devices only this one is for everybody.
        session.succeed("chown vm /dev/kvm && chmod 600 /dev/kvm && mkdir -p /tmp /srv && chmod 1777 /tmp");
        Self { session, console, _process: process, _directory: directory }
    }

    /// Boots a guest with these words for `slipway-vm run` beside its kernel.
    ///
    /// # Panics
    ///
    /// When it does not become ready.
    pub fn boot(&mut self, words: &str) -> Guest {
        // Linux looks for an AGP bridge of this old processor in ten thousand places, each of which is a slow exit here.
        let line = "console=ttyS0 rdinit=/init quiet loglevel=1 panic=-1 iommu=noaperture";
        let run = format!("exec slipway-vm run --kernel /guest/vmlinuz --initrd /guest/initrd --append \"{line}\" {words}");
        self.session.succeed("stty -F /dev/ttyS0 raw -echo");
        self.session.succeed(&format!("su vm -s /bin/sh -c '{run}' </dev/ttyS0 >/dev/ttyS0 2>/tmp/vm.log & echo $! >/tmp/vm.pid"));
        let console = self.console.try_clone().expect("a descriptor");
        let input = self.console.try_clone().expect("a descriptor");
        let mut session = Session::new(input, Lines::of(console));
        session.expect(READY, LONG_PATIENCE);
        Guest { session }
    }

    /// What the machine monitor has said.
    pub fn said(&mut self) -> String {
        self.session.succeed("cat /tmp/vm.log")
    }

    /// Waits for the machine monitor to end, and returns its status.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn ended(&mut self) -> i32 {
        self.session.run_within(LONG_PATIENCE, "wait $(cat /tmp/vm.pid)").status
    }
}

impl Guest {
    /// Gets an address by DHCP, and returns it.
    ///
    /// # Panics
    ///
    /// When the guest gets none.
    pub fn lease(&mut self) -> String {
        self.succeed("ip link set eth0 up");
        let told = self.run_within(LONG_PATIENCE, "udhcpc -i eth0 -n -q -t 10 -s /udhcpc").success();
        let lease = told.lines().find_map(|line| line.strip_prefix("lease of "));
        let address = lease.and_then(|lease| lease.split_whitespace().next());
        address.unwrap_or_else(|| panic!("udhcpc has told of no lease:\n{told}")).to_owned()
    }

    /// Turns itself off, as its user would.
    ///
    /// # Panics
    ///
    /// When its shell has ended already.
    pub fn power_off(mut self) {
        self.session.type_line("poweroff -f");
    }
}

/// The program without what debuggers want to know: the host keeps it in memory.
fn stripped(program: &Path, directory: &Path) -> PathBuf {
    let to = directory.join("slipway-vm");
    let done = Command::new("strip").arg("-o").arg(&to).arg(program).stdin(Stdio::null()).status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "{} cannot be copied by `strip`. `cargo xtask test` builds all that is needed, `cargo build --release -p vmm` only this",
        program.display()
    );
    to
}

/// The shared libraries that a program needs, the loader among them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let mut ldd = Command::new("ldd").arg(program).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("ldd is there");
    let mut told = String::new();
    ldd.stdout.take().expect("a pipe").read_to_string(&mut told).expect("ldd prints text");
    ldd.wait().expect("ldd ends");
    told.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

impl Deref for Host {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Host {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Deref for Guest {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Guest {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
