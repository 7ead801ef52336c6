//! Guests that are the running kernel, in a network namespace that slipway serves.

use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::PATIENCE;
use crate::programs::Stage;
use crate::session::Session;
use crate::unprivileged::{Surroundings, command};
use crate::wait::{Lines, ended};

/// How `slipway` is to be called.
#[derive(Debug, Clone, Default)]
pub struct Options {
    user: Option<String>,
    mtu: Option<u32>,
    more: Vec<String>,
    surroundings: Surroundings,
}

impl Options {
    /// The value of `--user`: what follows `user,` in QEMU's `-netdev user,...`.
    pub fn user(mut self, options: &str) -> Self {
        self.user = Some(options.to_owned());
        self
    }

    /// The value of `--mtu`.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// More words for the subcommand.
    pub fn more(mut self, words: &[&str]) -> Self {
        self.more.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// What the host is like.
    pub fn surroundings(mut self, surroundings: Surroundings) -> Self {
        self.surroundings = surroundings;
        self
    }

    /// Starts `slipway shell` with a shell that the test types into.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn shell(self) -> Guest {
        let stage = Stage::new();
        let mut words = vec!["slipway".to_owned(), "shell".to_owned()];
        words.extend(self.words());
        words.extend(["--", "sh"].map(str::to_owned));
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let (process, session) = session(&mut command(&stage, self.surroundings, &words));
        let mut guest = Guest { session, stage, slipway: None, process };
        guest.succeed("true");
        guest
    }

    /// Makes a user and network namespace without slipway, then attaches `slipway netns --configure` to it.
    ///
    /// # Panics
    ///
    /// When slipway does not become ready.
    pub fn attached(self) -> Guest {
        let mut guest = Guest::alone();
        let pid = guest.succeed("echo $$");
        let mut words: Vec<_> = ["slipway", "netns", "--configure", "--ready-fd", "3", "--exit-fd", "4"].map(str::to_owned).into();
        words.extend(self.words());
        words.push(pid);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let surroundings = Surroundings { extra_descriptors: true, ..self.surroundings };
        let mut slipway =
            command(&guest.stage, surroundings, &words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setpriv");
        let ready = Lines::of(OneByte(slipway.stdout.take().expect("a pipe")));
        guest.slipway = Some(Process(slipway));
        assert_eq!(ready.next_before(Instant::now() + PATIENCE).as_deref(), Some("1"), "what is written to --ready-fd");
        guest
    }

    /// Runs `slipway shell -- WORDS` to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn output(self, words: &[&str]) -> std::process::Output {
        let stage = Stage::new();
        let own = self.words();
        let words: Vec<_> = ["slipway", "shell"]
            .into_iter()
            .chain(own.iter().map(String::as_str))
            .chain(["--"])
            .chain(words.iter().copied())
            .collect();
        command(&stage, self.surroundings, &words).output().expect("setpriv can be started")
    }

    /// The options of the subcommand.
    fn words(&self) -> Vec<String> {
        let user = self.user.iter().flat_map(|user| ["--user".to_owned(), user.clone()]);
        let mtu = self.mtu.iter().flat_map(|mtu| ["--mtu".to_owned(), mtu.to_string()]);
        user.chain(mtu).chain(self.more.iter().cloned()).collect()
    }
}

/// A shell in a network namespace that slipway serves.
#[derive(Debug)]
pub struct Guest {
    // Dropped in this order: the shell reads the end of its input, and everything ends.
    session: Session,
    slipway: Option<Process>,
    process: Process,
    stage: Stage,
}

impl Guest {
    /// One with QEMU's defaults.
    pub fn new() -> Self {
        Options::default().shell()
    }

    /// A shell in a user and network namespace of its own that nobody serves.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn alone() -> Self {
        let stage = Stage::new();
        let empty = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--", "sh"];
        let (process, session) = session(&mut command(&stage, Surroundings::default(), &empty));
        Self { session, stage, slipway: None, process }
    }

    /// Has the shell end, and what was started first with it.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn leave(&mut self) -> ExitStatus {
        self.session.exit();
        ended(&mut self.process.0)
    }

    /// What the test's programs are in, with the test's own files.
    pub const fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The test's own directory, which the guest sees too.
    pub fn directory(&self) -> &std::path::Path {
        self.stage.path()
    }

    /// The process that was started first: `slipway shell`, or the namespace that `slipway netns` serves.
    pub fn process(&mut self) -> &mut Child {
        &mut self.process.0
    }

    /// `slipway netns`, where it is that.
    pub fn slipway(&mut self) -> Option<&mut Child> {
        self.slipway.as_mut().map(|slipway| &mut slipway.0)
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Guest {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Guest {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn session(command: &mut Command) -> (Process, Session) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setpriv can be started");
    let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    (Process(child), Session::new(input, Lines::of(output)))
}

/// A reader of one byte, and an end of line after it: `--ready-fd` gets `1` and may stay open.
struct OneByte<R>(R);

impl<R: std::io::Read> std::io::Read for OneByte<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut byte = [0];
        let n = self.0.read(&mut byte)?;
        let text: &[u8] = if n == 0 { &[] } else { &[byte[0], b'\n'] };
        buffer[..text.len()].copy_from_slice(text);
        Ok(text.len())
    }
}
