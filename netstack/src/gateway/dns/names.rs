//! The names that guests gave themselves by DHCP.
//!
//! A name is a guest's own choice, so it is checked, the table is bounded, and nobody can take a name that somebody else holds or
//! that others rely on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Names held at once, at most.
const NAMES_MAX: usize = 1024;
/// The longest label (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 63;
/// What is as good as for ever: ten years.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Names that mean something else: those of the virtual hosts, and those that clients trust without asking (as dnsmasq refuses them).
const RESERVED: [&str; 6] = ["gateway", "host", "dns", "localhost", "wpad", "isatap"];

/// The guests' names and addresses. Shared: the DHCP server writes, the DNS forwarder reads.
#[derive(Debug, Default)]
pub struct Names {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<String, Vec<IpAddr>>,
    /// Each with the end of its lease.
    names: HashMap<IpAddr, (String, Instant)>,
}

/// Why a guest does not get the name that it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameRefused {
    /// Not a host name by RFC 1123 section 2.1.
    #[error("not a host name")]
    Invalid,
    /// The name of a virtual host, or one that clients trust blindly.
    #[error("the name is reserved")]
    Reserved,
    /// Another address of the same family has it.
    #[error("another guest has the name")]
    Taken,
    /// As many names are held as there may be.
    #[error("too many names")]
    Full,
}

impl Names {
    /// A table without names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `address` the name `name`, instead of the one that it had. Of a name with dots only the first label counts. A name can have
    /// one IPv4 and one IPv6 address. It is forgotten after `lifetime`, when the lease has run out.
    ///
    /// # Errors
    ///
    /// When the guest cannot have that name. Its former name is then gone all the same: the guest has said that it is no longer right.
    pub fn set(&self, name: &str, address: IpAddr, lifetime: Duration) -> Result<(), NameRefused> {
        let mut table = self.lock();
        let now = Instant::now();
        table.remove(address);
        let label = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        if !is_host_label(&label) {
            return Err(NameRefused::Invalid);
        }
        if RESERVED.contains(&label.as_str()) {
            return Err(NameRefused::Reserved);
        }
        table.forget_expired(&label, now);
        if table.names.len() >= NAMES_MAX {
            return Err(NameRefused::Full);
        }
        let held = table.addresses.entry(label.clone()).or_default();
        if held.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err(NameRefused::Taken);
        }
        held.push(address);
        // A lease for ever outlasts the clock.
        let until = now.checked_add(lifetime).unwrap_or(now + FOREVER);
        table.names.insert(address, (label, until));
        Ok(())
    }

    /// Takes the name of `address` away: its lease has ended.
    pub fn remove(&self, address: IpAddr) {
        self.lock().remove(address);
    }

    /// All names, their addresses, and for how long they are held yet.
    pub fn list(&self) -> Vec<(String, IpAddr, Duration)> {
        let now = Instant::now();
        let left = |end: Instant| end.checked_duration_since(now).filter(|left| !left.is_zero());
        let table = self.lock();
        let mut list: Vec<_> =
            table.names.iter().filter_map(|(address, (name, end))| Some((name.clone(), *address, left(*end)?))).collect();
        list.sort();
        list
    }

    /// The addresses of `label`, which is in lower case; `None` if nobody has that name.
    pub(super) fn addresses(&self, label: &str) -> Option<Vec<IpAddr>> {
        let mut table = self.lock();
        table.forget_expired(label, Instant::now());
        table.addresses.get(label).cloned()
    }

    /// The name of `address`.
    pub(super) fn name(&self, address: IpAddr) -> Option<String> {
        let now = Instant::now();
        self.lock().names.get(&address).filter(|(_, until)| now < *until).map(|(name, _)| name.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Takes the name away from those whose leases have run out.
    fn forget_expired(&mut self, label: &str, now: Instant) {
        for address in self.addresses.get(label).cloned().unwrap_or_default() {
            if self.names.get(&address).is_none_or(|(_, until)| *until <= now) {
                self.remove(address);
            }
        }
    }

    fn remove(&mut self, address: IpAddr) {
        let Some((name, _)) = self.names.remove(&address) else { return };
        if let Some(held) = self.addresses.get_mut(&name) {
            held.retain(|other| *other != address);
            if held.is_empty() {
                self.addresses.remove(&name);
            }
        }
    }
}

/// Letters, digits and inner hyphens (RFC 1123 section 2.1); underscores too, because real machines have them.
fn is_host_label(label: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 2, last])
    }

    #[test]
    fn a_name_stays_with_its_first_holder_until_the_lease_ends() {
        let names = Names::new();
        names.set("Alpha.example.org", address(15), HOUR).unwrap();
        assert_eq!(names.set("alpha", address(16), HOUR), Err(NameRefused::Taken));
        names.set("alpha", "fec0::15".parse().unwrap(), HOUR).unwrap();
        assert_eq!(names.addresses("alpha").unwrap().len(), 2);

        names.remove(address(15));
        names.set("alpha", address(16), HOUR).unwrap();
        assert_eq!(names.name(address(16)).as_deref(), Some("alpha"));
        assert_eq!(names.name(address(15)), None);
    }

    #[test]
    fn a_guest_that_renames_itself_gives_its_old_name_up() {
        let names = Names::new();
        names.set("alpha", address(15), HOUR).unwrap();
        names.set("beta", address(15), HOUR).unwrap();
        assert_eq!(names.addresses("alpha"), None);
        assert_eq!(names.addresses("beta"), Some(vec![address(15)]));
    }

    #[test]
    fn names_that_are_no_names_or_belong_to_others_are_refused() {
        let names = Names::new();
        for bad in ["", ".", "-a", "a-", "a b", "a\0", "ä", &"x".repeat(64)] {
            assert_eq!(names.set(bad, address(15), HOUR), Err(NameRefused::Invalid), "{bad:?}");
        }
        for bad in ["gateway", "DNS", "wpad.example.org", "localhost"] {
            assert_eq!(names.set(bad, address(15), HOUR), Err(NameRefused::Reserved), "{bad:?}");
        }
        assert!(names.lock().addresses.is_empty());
    }

    #[test]
    fn the_table_does_not_grow_beyond_its_bound() {
        let names = Names::new();
        let guest = |n: usize| IpAddr::from([10, 1, u8::try_from(n / 256).unwrap(), u8::try_from(n % 256).unwrap()]);
        for n in 0..NAMES_MAX {
            names.set(&format!("guest{n}"), guest(n), HOUR).unwrap();
        }
        assert_eq!(names.set("one-more", guest(NAMES_MAX), HOUR), Err(NameRefused::Full));
        assert_eq!(names.lock().addresses.len(), NAMES_MAX);
    }

    #[test]
    fn a_name_ends_with_its_lease() {
        let names = Names::new();
        names.set("alpha", address(15), Duration::ZERO).unwrap();
        assert_eq!((names.addresses("alpha"), names.name(address(15))), (None, None));
        names.set("alpha", address(16), HOUR).unwrap();
        assert_eq!(names.addresses("alpha"), Some(vec![address(16)]));
    }
}
