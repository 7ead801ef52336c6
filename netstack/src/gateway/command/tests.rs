//! Real processes. Each test reads from and writes to the end that the engine has.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::*;

/// Short, for those who use it up.
const PATIENCE: Duration = Duration::from_millis(300);

/// What a process that does as it is asked never uses up, be the machine ever so busy.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a command, and what keeps it.
struct Connection {
    stream: UnixStream,
    gone: oneshot::Sender<()>,
}

impl Commands {
    fn connect(&self, command: &str) -> io::Result<Connection> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command);
        let gone = self.start(shell, command, &theirs.into(), self.permit()?)?;
        // A story that waits for what never comes should not wait for ever.
        ours.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Connection { stream: ours, gone })
    }

    /// Waits until all but `free` places are free.
    async fn has_room_for(&self, free: usize) {
        let places = self.room.acquire_many(u32::try_from(free).unwrap());
        drop(timeout(Duration::from_secs(20), places).await.expect("the processes end").unwrap());
    }
}

/// What is said from now on, to the end, read beside the runtime.
async fn rest(mut stream: UnixStream) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    read.await.unwrap().unwrap()
}

async fn line(stream: &UnixStream) -> String {
    let mut stream = stream.try_clone().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let (mut line, mut byte) = (String::new(), [0]);
        while stream.read_exact(&mut byte).is_ok() && byte != *b"\n" {
            line.push(char::from(byte[0]));
        }
        line
    });
    read.await.unwrap()
}

fn is_alive(pid: &str) -> bool {
    // The state stands behind the name, which is in parentheses and may have any in it. A command line says less: a process has none
    // while it becomes another program.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

async fn until_dead(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "{pid} still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_command_gets_what_is_said_and_its_end_and_what_it_says_comes_back() {
    let commands = Commands::new(4, PATIENCE).unwrap();
    let mut connection = commands.connect("tr a-z A-Z; echo over").unwrap();
    connection.stream.write_all(b"hello\n").unwrap();
    connection.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(connection.stream).await, "HELLO\nover\n");
    drop(connection.gone);
    commands.has_room_for(4).await;
}

#[tokio::test]
async fn one_more_than_may_run_is_refused_until_another_has_ended() {
    let commands = Commands::new(2, PATIENCE).unwrap();
    let _first = commands.connect("cat").unwrap();
    let second = commands.connect("cat").unwrap();
    let refused = commands.connect("cat").err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
    drop(second);
    commands.has_room_for(1).await;
    commands.connect("cat").unwrap();
}

#[tokio::test]
async fn who_does_not_end_by_itself_is_asked_and_then_killed_with_all_its_children() {
    let commands = Commands::new(4, PATIENCE).unwrap();
    let stubborn = commands.connect("trap '' TERM; sleep 1000 & echo $!; echo $$; wait; while :; do sleep 1; done").unwrap();
    let pids = [line(&stubborn.stream).await, line(&stubborn.stream).await];
    drop(stubborn.gone);
    for pid in pids {
        until_dead(&pid).await;
    }
    commands.has_room_for(4).await;
}

#[tokio::test]
async fn who_ends_by_itself_is_waited_for() {
    let commands = Commands::new(1, LONG_PATIENCE).unwrap();
    let thorough = commands.connect("trap 'echo asked' TERM; echo ready; cat >/dev/null; echo over").unwrap();
    assert_eq!(line(&thorough.stream).await, "ready");
    thorough.stream.shutdown(Shutdown::Write).unwrap();
    drop(thorough.gone);
    assert_eq!(rest(thorough.stream).await, "over\n");
    commands.has_room_for(1).await;
}

#[tokio::test]
async fn children_that_a_command_leaves_behind_end_with_the_connection() {
    let commands = Commands::new(4, PATIENCE).unwrap();
    let connection = commands.connect("sleep 1000 & echo $!").unwrap();
    let pid = line(&connection.stream).await;
    assert!(is_alive(&pid), "it may go on as long as the connection does");
    drop(connection.gone);
    until_dead(&pid).await;
}

#[tokio::test]
async fn at_the_end_all_are_ended() {
    let commands = Commands::new(8, PATIENCE).unwrap();
    let mut pids = Vec::new();
    let mut connections = Vec::new();
    for command in ["echo $$; cat", "trap '' TERM; echo $$; while :; do sleep 1; done", "sleep 1000 & echo $!"] {
        let connection = commands.connect(command).unwrap();
        pids.push(line(&connection.stream).await);
        connections.push(connection);
    }
    timeout(Duration::from_secs(20), commands.end()).await.expect("an end");
    for pid in pids {
        until_dead(&pid).await;
    }
}

#[tokio::test]
async fn commands_do_not_outlive_those_who_start_them() {
    let commands = Commands::new(4, PATIENCE).unwrap();
    let connection = commands.connect("trap '' TERM; echo $$; exec sleep 1000").unwrap();
    let pid = line(&connection.stream).await;
    // As if the process ended: nobody is told to end, but the thread that has started it does.
    drop(commands);
    until_dead(&pid).await;
    drop(connection);
}

#[tokio::test]
async fn what_cannot_be_started_closes_its_connection() {
    let commands = Commands::new(4, PATIENCE).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let gone = commands.start(Command::new("/nowhere/at/all"), "nothing", &theirs.into(), commands.permit().unwrap()).unwrap();
    assert_eq!(rest(ours).await, "");
    commands.has_room_for(4).await;
    drop(gone);
    let failing = commands.connect("no-such-command-anywhere").unwrap();
    assert_eq!(rest(failing.stream).await, "");
}
