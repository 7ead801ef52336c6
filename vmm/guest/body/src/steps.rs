//! The steps: each uses a socket of its own, and removes it again.

mod echo;
mod lookup;
mod serve;
mod transfer;

pub(crate) use self::echo::{find, ping};
pub(crate) use self::lookup::{lease, resolve};
pub(crate) use self::serve::serve;
pub(crate) use self::transfer::{down, up};
