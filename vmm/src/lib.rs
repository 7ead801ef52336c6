//! A minimal KVM virtual machine monitor whose network cards feed the `netstack` engine in-process.
//!
//! Not built yet. The dependency on [`netstack`] points one way: the engine knows nothing of virtual machines, and a network card is one
//! more [`netstack::port::Port`].

pub mod probe;
