//! Commands that run as somebody without rights.
//!
//! Run by root, as on a build machine, the tests drop to a user whom nobody else uses, and who owns nothing and may do nothing. On such
//! machines `/dev/net/tun` is often closed to others than root; in a mount namespace of the command's own, another node stands in its
//! place that everybody may open, as on most distributions. Run by anybody else, they run as that user.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::programs::Stage;

/// Who the commands run as, when root runs the tests. No distribution gives this number to anybody.
pub const USER: u32 = 4242;

/// What is special about the surroundings of a command.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings {
    /// The host's network is a fresh namespace with nothing but a loopback interface.
    pub without_network: bool,
    /// The host's network is a fresh namespace with a router to another one, across a link that takes packets of 1300 bytes; see [`ROUTED`].
    pub routed: bool,
    /// Nobody there may send echo requests, as in every new network namespace.
    pub ping_forbidden: bool,
    /// The limit of open files, soft and hard.
    pub open_files: Option<u32>,
    /// What the program writes to descriptor 3 goes to the standard output, and descriptor 4 ends with the standard input. What it prints
    /// goes to the standard error.
    pub extra_descriptors: bool,
    /// `/dev/net/tun` is not there.
    pub without_tun: bool,
    /// The directory `disk`, which only the command sees, is a file system of 256 KiB.
    pub small_disk: bool,
    /// The user has a name. Whoever is not root has one anyway.
    pub named: bool,
    /// Run by root, the command stays root.
    pub as_root: bool,
    /// There is no smbd. Only root can have it so.
    pub without_smbd: bool,
}

/// Makes the network of [`Surroundings::routed`]: the host is 192.0.2.1 and 2001:db8::1; its router 192.0.2.254 and 2001:db8::fe; behind
/// that, across the narrow link, are 198.51.100.7 and 2001:db8:1::7. Nobody there limits the errors that he sends. The namespaces of the
/// router and of the far host have names only in the mount namespace of the command, and end with it.
pub const ROUTED: &str = "\
mkdir -p /run/netns; mount -t tmpfs none /run/netns
ip link set lo up
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
for name in router far; do
  ip netns add $name
  ip -n $name link set lo up
  nsenter --net=/run/netns/$name sh -c 'cd /proc/sys/net
    echo 0 >ipv6/conf/default/accept_dad; echo 0 >ipv4/icmp_ratelimit; echo 0 >ipv6/icmp/ratelimit
    echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding'
done
ip link add uplink type veth peer name host netns router
ip -n router link add narrow mtu 1300 type veth peer name uplink mtu 1300 netns far
ip addr add 192.0.2.1/24 dev uplink; ip addr add 2001:db8::1/64 dev uplink
ip -n router addr add 192.0.2.254/24 dev host; ip -n router addr add 2001:db8::fe/64 dev host
ip -n router addr add 198.51.100.254/24 dev narrow; ip -n router addr add 2001:db8:1::fe/64 dev narrow
ip -n far addr add 198.51.100.7/24 dev uplink; ip -n far addr add 2001:db8:1::7/64 dev uplink
ip link set uplink up; ip -n router link set host up; ip -n router link set narrow up; ip -n far link set uplink up
ip route add default via 192.0.2.254; ip route add default via 2001:db8::fe
ip -n far route add default via 198.51.100.254; ip -n far route add default via 2001:db8:1::fe
for far in 198.51.100.7 2001:db8:1::7; do until ping -n -q -c 1 -W 1 $far >/dev/null; do :; done; done
";

/// A command that runs `words` as an unprivileged user, with the programs of `stage` in its search path.
pub fn command(stage: &Stage, surroundings: Surroundings, words: &[&str]) -> Command {
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare"]);
    if root {
        command.arg("--mount");
    } else if surroundings.without_network || surroundings.routed || surroundings.without_tun || surroundings.small_disk {
        command.args(["--user", "--map-root-user", "--mount"]);
    }
    if surroundings.without_network || surroundings.routed {
        command.arg("--net");
    }
    command.args(["--", "sh", "-c", &script(root, surroundings), "sh"]).args(words);
    command.env_clear();
    command.env("PATH", stage.search_path()).env("HOME", stage.path()).env("LC_ALL", "C").env("SHELL", "/bin/sh");
    command.current_dir(stage.path()).stdin(Stdio::null());
    command
}

fn script(root: bool, surroundings: Surroundings) -> String {
    let mut script = String::from("set -e\n");
    if surroundings.without_tun {
        script.push_str("mkdir -p /dev/net; mount -t tmpfs none /dev/net\n");
    } else if root {
        script.push_str("mkdir -p /dev/net; mount -t tmpfs -o mode=0755 none /dev/net\n");
        script.push_str("mknod /dev/net/tun c 10 200; chmod 0666 /dev/net/tun\n");
    }
    if surroundings.small_disk {
        script.push_str("mkdir disk; mount -t tmpfs -o size=256k,mode=1777 none disk\n");
    }
    if surroundings.named && root {
        script.push_str(
            "umask 022; { cat /etc/passwd; echo 'e2e:x:4242:4242::/:/bin/sh'; } >users; mount --bind users /etc/passwd\n",
        );
    }
    if surroundings.without_smbd && root {
        script.push_str("mount --bind /dev/null /usr/sbin/smbd\n");
    }
    if surroundings.without_network {
        script.push_str("ip link set lo up\n");
    }
    if surroundings.routed {
        script.push_str(ROUTED);
        if !surroundings.ping_forbidden {
            // Whoever is not root has only his own group there.
            script.push_str("for range in '0 2147483647' '0 0'; do echo $range 2>/dev/null >/proc/sys/net/ipv4/ping_group_range && break; done\n");
        }
    }
    if let Some(limit) = surroundings.open_files {
        script.push_str(&format!("ulimit -n {limit}\n"));
    }
    script.push_str("exec ");
    if root && !surroundings.as_root {
        script.push_str(&format!("setpriv --reuid {USER} --regid {USER} --clear-groups --inh-caps=-all --pdeathsig KILL -- "));
    }
    script.push_str("\"$@\"");
    if surroundings.extra_descriptors {
        script.push_str(" 3>&1 4<&0 </dev/null >&2");
    }
    script
}

/// Makes a file of the test's belong to the user whom the commands run as.
///
/// # Panics
///
/// When that fails.
pub fn give_away(path: &Path) {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("root may give files away");
    }
}
