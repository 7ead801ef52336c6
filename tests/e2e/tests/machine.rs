//! A stock Debian kernel in our own virtual machine, on a real KVM, run by a user who may open `/dev/kvm` and nothing else.

use e2e::LONG_PATIENCE;
use e2e::nested::{Guest, Host};

/// Drivers for everything that a machine of ours may have.
const MODULES: &[&str] = &["virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "e1000", "ext4"];

const LEN: u64 = 8 << 20;

#[test]
fn a_stock_kernel_uses_virtio_net_and_a_disk() {
    let mut host = prepared();
    host.succeed("truncate -s 16M /tmp/disk && chown vm /tmp/disk");
    let mut guest = host.boot(
        "--cpus 2 --drive file=/tmp/disk --netdev user,id=n0,hostfwd=tcp:127.0.0.1:8080-:80 \
         --device virtio-net,netdev=n0,mac=52:54:00:00:00:07",
    );
    assert_eq!(guest.succeed("nproc"), "2");
    let uid = host.succeed("grep -h ^Uid: /proc/$(cat /tmp/vm.pid)/status");
    assert_eq!(uid.split_whitespace().collect::<Vec<_>>(), ["Uid:", "1000", "1000", "1000", "1000"]);

    uses_the_network(&mut host, &mut guest);
    let interrupts = guest.succeed("grep virtio /proc/interrupts");
    assert!(interrupts.lines().all(|line| line.contains("PCI-MSI")), "{interrupts}");
    assert!(interrupts.lines().any(|line| line.contains("input") && fired(line)), "{interrupts}");

    guest.succeed("mke2fs -q /dev/vda && mkdir /disk && mount -t ext4 /dev/vda /disk && cp /bin/busybox /disk");
    guest.succeed("chroot /disk /busybox sh -c 'echo written by the guest >proof'");
    guest.succeed("umount /disk && head -c 64 /dev/hwrng | wc -c");
    guest.power_off();
    assert_eq!(host.ended(), 0, "{}", host.said());
    host.succeed("grep -q 'written by the guest' /tmp/disk");
}

#[test]
fn a_stock_kernel_uses_an_e1000() {
    let mut host = prepared();
    let mut guest =
        host.boot("--cpus 2 --netdev user,id=n0,hostfwd=tcp:127.0.0.1:8080-:80 --device e1000,netdev=n0,mac=52:54:00:00:00:07");
    uses_the_network(&mut host, &mut guest);
    let interrupts = guest.succeed("grep eth0 /proc/interrupts");
    assert!(interrupts.contains("IO-APIC") && interrupts.contains("fasteoi") && fired(&interrupts), "{interrupts}");
    guest.power_off();
    assert_eq!(host.ended(), 0, "{}", host.said());
}

/// A host with something to download.
fn prepared() -> Host {
    let mut host = Host::start(MODULES);
    host.succeed(&format!("head -c {LEN} /dev/urandom >/srv/down && httpd -p 127.0.0.1:8000 -h /srv"));
    host
}

/// Address, ping, name, and as many bytes as [`LEN`] each way, unharmed.
fn uses_the_network(host: &mut Host, guest: &mut Guest) {
    assert_eq!(guest.succeed("cat /sys/class/net/eth0/address"), "52:54:00:00:00:07");
    assert_eq!(guest.lease(), "10.0.2.15");
    guest.succeed("ping -c 2 10.0.2.2");
    let told = guest.succeed("nslookup host.slipway.internal 10.0.2.3");
    assert!(told.contains("10.0.2.2"), "{told}");

    let download = "wget -q -O /tmp/down http://10.0.2.2:8000/down && md5sum </tmp/down";
    let sum = host.succeed("md5sum </srv/down");
    assert_eq!(guest.run_within(LONG_PATIENCE, download).success(), sum);

    guest.succeed("httpd -h /tmp");
    let fetch = "wget -q -O /tmp/up http://127.0.0.1:8080/down && md5sum </tmp/up";
    assert_eq!(host.run_within(LONG_PATIENCE, fetch).success(), sum);
}

/// Whether a line of /proc/interrupts counts any.
fn fired(line: &str) -> bool {
    let counts = line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
    counts.sum::<u64>() > 0
}
