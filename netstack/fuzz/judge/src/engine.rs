//! Guests, the whole stack and a host's network at work, all of them told what to do by the input.
//!
//! The input is a list of acts: right frames, nearly right ones and nonsense from guests, what peers and clients on the host's side do,
//! calls of the host that fail, and time. After each act everything is asked that must always hold; at the end all is left alone, and
//! must end by itself, or the guests are unplugged, and it must end at once.
//!
//! | file | what |
//! |---|---|
//! | `scene` | everybody in one clock |
//! | `act` | what can happen |
//! | `hand` | the guests' ends of TCP connections |
//! | `verdict` | what must hold of a frame to a guest |

mod act;
mod hand;
mod scene;
mod verdict;

use netstack::frame::{FrameMeta, Offloads};
use netstack::port::PortId;
use netstack::stack::Stack;
use netstack::time::{Duration, Instant};

use crate::script::{Draft, Script};
use scene::Scene;

/// Acts of an input that are played, at most.
const LONGEST: usize = 300;

/// A network, and then acts.
pub fn judge(input: &[u8]) {
    let mut script = Script::new(input);
    let mut scene = Scene::new(&mut script);
    let ending = script.byte();
    for _ in 0..LONGEST {
        if script.is_over() {
            break;
        }
        act::play(&mut scene, &mut script);
        scene.judge();
    }
    scene.end(ending);
}

/// Plays one frame, for the `frame` target.
pub(crate) fn play_frame(network: &[u8], frame: &[u8], meta: FrameMeta) {
    let mut scene = Scene::new(&mut Script::new(network));
    scene.spoil();
    scene.input(PortId(0), frame, meta);
    scene.settle();
    scene.judge();
}

/// Plays frames, each at its time, for the `capture_file` target.
pub(crate) fn play_frames<'a>(frames: impl IntoIterator<Item = (Duration, &'a [u8], FrameMeta)>) {
    let mut scene = Scene::new(&mut Script::new(&[]));
    scene.spoil();
    for (time, frame, meta) in frames {
        let now = scene.now.since(Instant::ZERO);
        scene.pass(time.saturating_sub(now));
        scene.input(PortId(0), frame, meta);
        scene.settle();
        scene.judge();
    }
    scene.end(0);
}

/// Lets a stack make itself known to a guest on a link of this MTU.
pub(crate) fn advertise(stack: Stack, mtu: u16) {
    let mut scene = Scene::with_stack(stack, mtu, Offloads::NONE);
    scene.settle();
}

/// A frame as it came from somewhere, on a network with everything.
pub(crate) fn frames_seed<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let scene = Draft::default().bytes(&[0, 0, 0, 0, 0]);
    let play = |draft: Draft, frame: &[u8]| draft.bytes(&[act::RAW, 0, 0]).piece(frame).bytes(&[act::TIME, 1]);
    frames.into_iter().fold(scene, play).finish()
}

/// Conversations of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    act::seeds()
}
