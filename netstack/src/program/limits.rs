//! How many descriptors this process may have: every flow of a guest is one, so the engine takes all that the administrator allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limits that the program was started with; commands that it runs get them back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inherited {
    files: (Option<u64>, Option<u64>),
}

impl Inherited {
    /// Remembers the limits and raises the soft one to the hard one.
    pub(crate) fn raise() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum
            && let Err(err) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        {
            tracing::warn!(%err, "the limit of open files stays as it is");
        }
        Self { files: (current, maximum) }
    }

    /// Puts the limits back, in a child that is about to become somebody else's program: `select(2)` breaks with large descriptors.
    pub(crate) fn restore(self) {
        let (current, maximum) = self.files;
        if let Err(err) = setrlimit(Resource::Nofile, Rlimit { current, maximum }) {
            tracing::debug!(%err, "the limit of open files stays raised");
        }
    }
}
