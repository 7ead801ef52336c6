//! The things that are looked at, one function each.

use std::path::Path;

use kvm_ioctls::{Cap, Kvm};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use netstack::program::check::{self, Finding, State};

/// What the name of the finding is without which no machine runs.
const ESSENTIAL: &str = "KVM";

/// Options of sockets that the engine uses (include/uapi/asm-generic/socket.h, linux/udp.h).
const SO_PEEK_OFF: libc::c_int = 42;
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

/// Everything.
pub(super) fn all() -> Vec<Finding> {
    let mut all = vec![kvm(), kvm_kind(Path::new("/sys/module")), kvm_features()];
    all.extend(check::findings());
    all.extend([relay(), datagrams()]);
    all
}

/// Whether no machine can run without it.
pub(super) fn is_essential(finding: &Finding) -> bool {
    finding.name == ESSENTIAL
}

fn kvm() -> Finding {
    match super::open_kvm() {
        Ok(()) => Finding::good(ESSENTIAL, "/dev/kvm can be opened"),
        Err(err) => {
            let remedy = super::remedy_for_kvm(&err).unwrap_or_else(|| "See the log of the kernel.".to_owned());
            Finding::lacking(
                ESSENTIAL,
                State::Missing,
                format!("/dev/kvm cannot be opened: {}", netstack::program::failure::plain(&err.to_string())),
                remedy,
            )
        }
    }
}

fn kvm_kind(modules: &Path) -> Finding {
    let name = "virtualisation";
    let kinds = [("kvm_intel", "VT-x of the processor"), ("kvm_amd", "SVM of the processor")];
    if modules.join("kvm_pvm").exists() {
        return Finding::lacking(
            name,
            State::Limited,
            "by software (kvm_pvm): the built-in guest runs; ordinary kernels do not boot",
            "Use a machine with hardware virtualisation, or one whose host allows nested virtual machines.",
        );
    }
    kinds.iter().find(|(module, _)| modules.join(module).exists()).map_or_else(
        || Finding::lacking(name, State::Limited, "of a kind that this program does not know", "Try; most things should work."),
        |(module, what)| Finding::good(name, format!("{what} ({module})")),
    )
}

fn kvm_features() -> Finding {
    let name = "KVM's features";
    let Ok(kvm) = Kvm::new() else {
        return Finding::lacking(name, State::Missing, "not known without /dev/kvm", "See KVM above.");
    };
    let caps = [
        (Cap::Irqchip, "interrupt controllers"),
        (Cap::Irqfd, "irqfd"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::IrqRouting, "interrupt routing"),
        (Cap::UserMemory, "user memory"),
    ];
    let missing: Vec<_> = caps.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        let detail = format!("all that is needed; up to {} processors a machine", kvm.get_max_vcpus());
        Finding::good(name, detail)
    } else {
        Finding::lacking(name, State::Missing, format!("lacks {}", missing.join(", ")), "Use a kernel that has them.")
    }
}

/// Whether what a TCP socket has received can be looked at from an offset on.
fn relay() -> Finding {
    let name = "TCP relay";
    if has_option(SocketType::STREAM, libc::SOL_SOCKET, SO_PEEK_OFF) {
        Finding::good(name, "SO_PEEK_OFF works on TCP: received bytes are read where they are needed")
    } else {
        Finding::lacking(
            name,
            State::Limited,
            "SO_PEEK_OFF does not work on TCP: downloads cost more time",
            "Linux 6.9 and later has it; everything works without.",
        )
    }
}

/// Whether several datagrams of a flow can be passed at once.
fn datagrams() -> Finding {
    let name = "UDP batches";
    let lacks: Vec<_> = [(UDP_SEGMENT, "UDP_SEGMENT"), (UDP_GRO, "UDP_GRO")]
        .into_iter()
        .filter(|(option, _)| !has_option(SocketType::DGRAM, libc::IPPROTO_UDP, *option))
        .map(|(_, name)| name)
        .collect();
    if lacks.is_empty() {
        Finding::good(name, "UDP_SEGMENT and UDP_GRO work")
    } else {
        Finding::lacking(
            name,
            State::Limited,
            format!("{} does not work: many datagrams cost more time", lacks.join(" and ")),
            "Linux 5.0 and later has them; everything works without.",
        )
    }
}

fn has_option(kind: SocketType, level: libc::c_int, option: libc::c_int) -> bool {
    use std::os::fd::AsRawFd;
    let Ok(socket) = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None) else { return false };
    let zero: libc::c_int = 0;
    let len = libc::socklen_t::try_from(size_of_val(&zero)).unwrap_or(0);
    // SAFETY: the option's value is an int that lives until the call returns, and `len` is its size.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const zero).cast(), len) == 0 }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_kind_of_virtualisation_is_told() {
        let modules = tempfile::tempdir().unwrap();
        assert_eq!(kvm_kind(modules.path()).state, State::Limited);
        fs::create_dir(modules.path().join("kvm_amd")).unwrap();
        assert_eq!(kvm_kind(modules.path()), Finding::good("virtualisation", "SVM of the processor (kvm_amd)"));
        fs::create_dir(modules.path().join("kvm_pvm")).unwrap();
        assert!(kvm_kind(modules.path()).detail.contains("software"));
    }

    #[test]
    fn every_remedy_belongs_to_something_lacking() {
        for finding in all() {
            assert_eq!(finding.remedy.is_some(), finding.state != State::Good, "{finding:?}");
        }
    }
}
