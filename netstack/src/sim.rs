//! Deterministic simulation: guests, the real stack and a simulated host in one virtual clock, all from one seed.
//!
//! Behind the cargo feature `sim`, for whoever tests the stack: stories, fuzz targets, recordings of conversations, searches over seeds.
//! Nothing here waits, opens anything or reads a clock, and the same script and seed give the same run.
//!
//! | module | what is there |
//! |---|---|
//! | [`world`] | everybody in one clock that only moves when nothing is left to do |
//! | [`guest`] | a guest with smoltcp's whole stack, and programs that use its sockets |
//! | [`hand`] | a TCP endpoint operated by hand, segment by segment |
//! | [`link`] | the guests' network cards, as the stack sees them |
//! | [`card`] | what a card does with offloads |
//! | [`fragments`] | packets cut, and put together again |
//! | [`wire`] | frames made by hand, and read with every check that a strict receiver makes |
//! | [`plan`], [`run`] | a whole run that follows from a seed, with everything held against what must be |
//! | [`shrink`] | makes a plan that fails smaller |
//! | [`watch`] | what must hold of every frame that the stack sends |
//! | [`trace`] | the last frames, for those who look for what went wrong |
//! | [`services`] | the virtual services, reduced to taking notes |
//! | [`random`] | the only chance |
//!
//! The world's other half, servers and clients on the host's network, is [`crate::host::sim`].
//!
//! A simulation tells of what must not be by a panic: it has found a mistake of the stack, or was made by one of its author.
#![expect(clippy::unwrap_used, reason = "a simulation that cannot go on says where by panicking")]

pub mod card;
pub mod fragments;
pub mod guest;
pub mod hand;
pub mod link;
pub mod plan;
pub mod random;
pub mod run;
pub mod services;
pub mod shrink;
pub mod trace;
pub mod watch;
pub mod wire;
pub mod world;
