//! Guests that are a stock Debian kernel in an unmodified QEMU, without hardware support, on a port of `slipway serve`.

use std::ffi::OsString;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::LONG_PATIENCE;
use crate::initrd::{Initrd, READY};
use crate::namespace::Process;
use crate::programs::Stage;
use crate::session::Session;
use crate::unprivileged::{Surroundings, command};
use crate::wait::{Lines, ended, until_exists};

/// `slipway serve`, run by an unprivileged user.
#[derive(Debug)]
pub struct Serving {
    slipway: Process,
    stage: Stage,
    log: PathBuf,
}

impl Serving {
    /// Starts it with a port for each name, a socket of that name in its directory.
    ///
    /// # Panics
    ///
    /// When the sockets do not appear.
    pub fn start(user: Option<&str>, ports: &[&str]) -> Self {
        let user: Vec<_> = user.iter().flat_map(|user| ["--user", user]).collect();
        Self::with(&user, ports)
    }

    /// Likewise, and has everything recorded into this file of its directory.
    ///
    /// # Panics
    ///
    /// When the sockets do not appear.
    pub fn recording(user: &str, ports: &[&str], recording: &str) -> Self {
        Self::with(&["--user", user, "--pcap", recording], ports)
    }

    /// Starts it with these options.
    ///
    /// # Panics
    ///
    /// When the sockets do not appear.
    pub fn with(options: &[&str], ports: &[&str]) -> Self {
        let stage = Stage::new();
        let log = stage.path().join("slipway.log");
        let sockets: Vec<_> = ports.iter().map(|port| format!("stream:unix:{}", stage.path().join(port).display())).collect();
        let mut words = vec!["slipway", "serve"];
        words.extend(options);
        words.extend(sockets.iter().flat_map(|socket| ["--port", socket]));
        let to_log = fs::File::create(&log).expect("a file of ours");
        let slipway = command(&stage, Surroundings::default(), &words)
            .stdout(to_log.try_clone().expect("a descriptor"))
            .stderr(to_log)
            .spawn()
            .expect("setpriv can be started");
        let serving = Self { slipway: Process(slipway), stage, log };
        for port in ports {
            until_exists(&serving.socket(port), || serving.said());
        }
        serving
    }

    /// The socket of a port.
    pub fn socket(&self, port: &str) -> PathBuf {
        self.stage.path().join(port)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.stage.path()
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn end(&mut self) {
        let child = &mut self.slipway.0;
        kill_process(Pid::from_child(child), Signal::TERM).expect("a child can be asked to end");
        assert!(ended(child).success(), "{}", self.said());
    }

    /// What it has printed.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    ///
    /// # Panics
    ///
    /// When the process cannot be asked.
    pub fn is_alive(&mut self) -> bool {
        self.slipway.0.try_wait().expect("a child can be asked").is_none()
    }
}

/// What the kernel is told.
pub const COMMAND_LINE: &str = "console=ttyS0 rdinit=/init quiet panic=-1";

/// A network card that QEMU imitates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Card {
    /// virtio-net on PCI.
    Virtio,
    /// Intel's 82540EM.
    E1000,
}

impl Card {
    const fn device(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000 => "e1000",
        }
    }

    /// The modules that its driver is in.
    pub const fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Virtio => &["virtio_pci", "virtio_net"],
            Self::E1000 => &["e1000"],
        }
    }
}

/// A virtual machine with a shell that the test types into.
#[derive(Debug)]
pub struct Machine {
    session: Session,
    process: Process,
    _console: tempfile::NamedTempFile,
}

impl Machine {
    /// Starts QEMU; [`Self::booted`] waits until the guest is ready.
    ///
    /// # Panics
    ///
    /// When QEMU cannot be started.
    pub fn start(initrd: &Initrd, card: Card, mac: &str, socket: &Path) -> Self {
        let mut words = vec!["-kernel".into(), initrd.kernel.clone().into_os_string()];
        words.extend(["-initrd".into(), initrd.archive.clone().into_os_string()]);
        words.extend(["-append", COMMAND_LINE].map(OsString::from));
        Self::with(&words, &format!("{},netdev=net,mac={mac},romfile=", card.device()), socket)
    }

    /// Starts QEMU without a kernel: iPXE in the card's ROM looks for what to boot on the network.
    ///
    /// # Panics
    ///
    /// When QEMU cannot be started.
    pub fn netboot(card: Card, mac: &str, socket: &Path) -> Self {
        Self::with(&["-boot".into(), "n".into()], &format!("{},netdev=net,mac={mac}", card.device()), socket)
    }

    fn with(words: &[OsString], device: &str, socket: &Path) -> Self {
        let console = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]);
        qemu.args(["-display", "none", "-machine", "pc", "-accel", "tcg", "-m", "256"]);
        qemu.args(words);
        qemu.args(["-serial", &format!("file:{}", console.path().display()), "-serial", "stdio"]);
        qemu.args(["-netdev", &format!("stream,id=net,server=off,addr.type=unix,addr.path={}", socket.display())]);
        qemu.args(["-device", device]);
        let mut child = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setpriv can be started");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { session: Session::new(input, Lines::of(output)), process: Process(child), _console: console }
    }

    /// Waits until the guest is ready for commands.
    ///
    /// # Panics
    ///
    /// When it does not become so.
    pub fn booted(mut self) -> Self {
        self.session.expect(READY, LONG_PATIENCE);
        self
    }

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

    /// Ends the machine as a power failure would.
    pub fn unplug(self) {
        drop(self.process);
    }
}

impl Deref for Machine {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
