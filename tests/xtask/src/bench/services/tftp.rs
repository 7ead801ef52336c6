//! A file from the gateway by TFTP, beside the same client of libslirp's server.
//!
//! Client and network talk over QEMU's stream framing, which both speak without a machine. Each gets the options that are best for it:
//! libslirp the largest blocks that it sends, and one at a time, for it knows no windows; slipway windows, in packets of the size that
//! guests of libslirp have, and in as large ones as its link can have, which libslirp's cannot.

mod client;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::client::{Client, Wish};
use super::Options;
use super::figure::{Asked, Figure};
use crate::bench::stack::Stack;

/// Bytes in the file.
const SIZE: usize = 64 << 20;

/// The largest blocks that libslirp sends, whatever it is asked for.
const LIBSLIRP: Wish = Wish { block: 1428, window: None };

/// The largest blocks that fit a packet of 1500 bytes.
const SMALL: Wish = Wish { block: 1468, window: Some(16) };

/// The largest blocks that there are. A kernel older than 6.17 lets a socket hold fewer than 16 of them, and so few are granted there.
const LARGE: Wish = Wish { block: 65_464, window: Some(16) };

/// How long a network may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures once: each of them one after the other.
pub(super) fn measure(_: &Options) -> Result<Vec<Figure>> {
    let place = tempfile::tempdir()?;
    let served = place.path().join("served");
    fs::create_dir(&served)?;
    let block: Vec<u8> = (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut file = File::create(served.join("image"))?;
    for _ in 0..SIZE >> 20 {
        file.write_all(&block)?;
    }
    let libslirp = rate(&libslirp(&served)?, LIBSLIRP)?;
    let small = rate(&slipway(place.path(), &served, 1500)?, SMALL)?;
    let large = rate(&slipway(place.path(), &served, 65520)?, LARGE)?;
    let beside = |what, ours, asked| Figure::beside(what, "MB/s", ours, ("libslirp", libslirp), asked);
    Ok(vec![
        beside("64 MiB, windowsize 16", large, Asked::AtLeast(10.0)),
        beside("64 MiB, windowsize 16, packets of 1500 bytes", small, Asked::Nothing),
    ])
}

/// A network, and the guest's end of its link. It ends with this value.
struct Network {
    process: Child,
    link: UnixStream,
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Loads the file twice, and tells the rate of the second time, in MB/s.
fn rate(network: &Network, wish: Wish) -> Result<f64> {
    let mut client = Client::new(network.link.try_clone()?)?;
    client.load("image", wish)?;
    let begin = Instant::now();
    let len = client.load("image", wish)?;
    ensure!(len == SIZE as u64, "{len} bytes of {SIZE} have come");
    Ok(SIZE as f64 / begin.elapsed().as_secs_f64() / 1e6)
}

/// libslirp, in a QEMU without a machine.
fn libslirp(served: &Path) -> Result<Network> {
    let (link, theirs) = UnixStream::pair()?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "none", "-nodefaults", "-display", "none", "-monitor", "none", "-serial", "none"]);
    qemu.args(["-netdev", &format!("user,id=slirp,tftp={}", served.display())]);
    qemu.args(["-netdev", "stream,id=wire,addr.type=fd,addr.str=0"]);
    qemu.args(["-netdev", "hubport,id=one,hubid=0,netdev=slirp", "-netdev", "hubport,id=two,hubid=0,netdev=wire"]);
    qemu.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    Ok(Network { process: qemu.spawn().context("qemu-system-x86_64 cannot be started")?, link })
}

/// slipway, with a link of this MTU.
fn slipway(place: &Path, served: &Path, mtu: u32) -> Result<Network> {
    let socket = place.join("port");
    let _ = fs::remove_file(&socket);
    let mut slipway = Command::new(Stack::Slipway.program());
    slipway.args(["serve", "--user", &format!("tftp={}", served.display()), "--mtu", &mtu.to_string()]);
    slipway.args(["--port", &format!("stream:unix:{}", socket.display())]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = slipway.spawn().context("slipway cannot be started")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(&socket) {
            Ok(link) => return Ok(Network { process, link }),
            Err(_) if Instant::now() < deadline && process.try_wait()?.is_none() => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                return Err(error).context("slipway has not come up");
            }
        }
    }
}
