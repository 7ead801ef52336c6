//! Hashing with a secret key, for everything that a guest could aim at (SipHash-1-3).

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// A hasher whose key the guest does not know, so that it cannot choose addresses and ports that collide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyed([u8; 16]);

impl Keyed {
    pub(crate) const fn new(key: [u8; 16]) -> Self {
        Self(key)
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}
