//! What the stories are told with: guests, hand-made segments, a link with faults, and one clock for all.

pub(crate) mod card;
pub(crate) mod guest;
pub(crate) mod hand;
pub(crate) mod link;
pub(crate) mod random;
pub(crate) mod services;
pub(crate) mod wire;
pub(crate) mod world;
