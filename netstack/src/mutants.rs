//! Bugs to be found: does a simulation notice what it is there to notice?
//!
//! Each is a mistake that a relay could have. It does nothing before it is planted, and then only in this thread. Nothing of this is in a
//! build without the cargo feature `mutants`, which no other feature includes.

use std::cell::Cell;

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// How people call it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

mutants! {
    /// Where a socket takes a part of what a guest has sent, one byte more is counted as taken.
    LoseByte = "lose-byte",
    /// While bytes are held, one more than was received is acknowledged.
    AckTooFar = "ack-too-far",
    /// An end that comes while bytes are held is not passed on.
    ForgetFin = "forget-fin",
    /// Where a socket takes a part of what is held, the last byte of that is sent again.
    DoubleDeliver = "double-deliver",
    /// What is sent again begins with the wrong byte.
    WrongOffset = "wrong-offset",
    /// An old segment's window is believed.
    StaleWindow = "stale-window",
    /// A window's right edge follows the room in the socket, also backwards.
    WindowBack = "window-back",
    /// The socket of a guest that resets before it is connected stays open.
    LeakSocket = "leak-socket",
    /// TIME-WAIT never ends.
    LeakFlow = "leak-flow",
}

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Plants a bug in what this thread does from now on, instead of the one before.
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

pub(crate) fn is_planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}
