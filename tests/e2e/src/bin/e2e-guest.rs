//! What the end-to-end tests do inside a guest and no tool of Debian does.
//!
//! Every subcommand prints one line that the test compares; errors are printed by their kind, such as `ConnectionReset`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use e2e::pattern;
use e2e::wait::limit;

/// Actions inside a guest.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Writes the pattern to the standard output.
    Write {
        /// So many bytes.
        len: u64,
    },
    /// Checks that the standard input is the pattern.
    Check,
    /// Connects, and says how that ended.
    Connect {
        /// To this address.
        to: SocketAddr,
    },
    /// Connects many times, holds all connections until all are open, uses each, and says how many were open and refused.
    Parallel {
        /// To this address.
        to: SocketAddr,
        /// So many times.
        count: usize,
        /// Print the line at once and hold the connections until killed.
        #[arg(long)]
        hold: bool,
    },
    /// Sends the pattern, then an end of file, and checks that only then the pattern comes back.
    HalfClose {
        /// To this address.
        to: SocketAddr,
        /// So many bytes.
        len: u64,
    },
    /// Reads to the end, and only then sends the pattern.
    SendAfterEnd {
        /// To this address.
        to: SocketAddr,
        /// So many bytes.
        len: u64,
    },
    /// Exchanges a byte, then resets the connection.
    Reset {
        /// To this address.
        to: SocketAddr,
    },
    /// Exchanges a byte, then reads until the connection ends, and says how.
    AwaitEnd {
        /// To this address.
        to: SocketAddr,
    },
    /// Sends datagrams, and checks that each comes back.
    Datagrams {
        /// To this address.
        to: SocketAddr,
        /// Of so many bytes.
        len: usize,
        /// So many times.
        count: usize,
    },
    /// Sends a datagram to each address from one socket, and prints what every one answered.
    Ask {
        /// To these addresses.
        to: Vec<SocketAddr>,
    },
    /// Listens for streams and datagrams; tells everyone who connects or sends from which address it is seen, then echoes. A datagram of more
    /// than a kilobyte is only echoed.
    Mirror {
        /// At this address.
        at: IpAddr,
        /// And these ports.
        ports: Vec<u16>,
    },
}

const PATIENCE: Duration = e2e::PATIENCE;

fn main() -> ExitCode {
    // What stays in the background ends with the shell that has started it.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    match act(Arguments::parse().action) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", name_of(&error));
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> io::Result<String> {
    match action {
        Action::Write { len } => pattern::write(io::stdout().lock(), len).map(|()| std::process::exit(0)),
        Action::Check => pattern::check(io::stdin().lock(), None).map(|seen| format!("{seen} bytes as expected")),
        Action::Connect { to } => connect(to).map(|_| "connected".to_owned()),
        Action::Parallel { to, count, hold } => parallel(to, count, hold),
        Action::HalfClose { to, len } => half_close(to, len),
        Action::SendAfterEnd { to, len } => send_after_end(to, len),
        Action::Reset { to } => reset(to),
        Action::AwaitEnd { to } => await_end(to),
        Action::Datagrams { to, len, count } => datagrams(to, len, count),
        Action::Ask { to } => ask(&to),
        Action::Mirror { at, ports } => mirror(at, &ports),
    }
}

/// Errors that the kernel tells apart but [`ErrorKind`] has no stable name for are printed as it prints them.
fn name_of(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::InvalidData => error.to_string(),
        kind => format!("{kind:?}"),
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&to, PATIENCE)?;
    limit(&connection);
    Ok(connection)
}

fn exchange_a_byte(connection: &mut TcpStream) -> io::Result<()> {
    connection.write_all(b"!")?;
    connection.read_exact(&mut [0])
}

fn parallel(to: SocketAddr, count: usize, hold: bool) -> io::Result<String> {
    let mut connections = Vec::new();
    let mut refused = 0;
    for _ in 0..count {
        let opened = connect(to).and_then(|mut connection| exchange_a_byte(&mut connection).map(|()| connection));
        match opened {
            Ok(connection) => connections.push(connection),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => return Err(error),
            Err(_) => refused += 1,
        }
    }
    let line = format!("{} open, {refused} refused", connections.len());
    if hold {
        println!("{line}");
        loop {
            std::thread::park();
        }
    }
    // Each says something of its own, all before anyone listens.
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.write_all(&number.to_be_bytes())?;
    }
    for (number, connection) in connections.iter_mut().enumerate() {
        let mut echo = [0; size_of::<usize>()];
        connection.read_exact(&mut echo)?;
        if usize::from_be_bytes(echo) != number {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("connection {number} got what belongs to another")));
        }
    }
    Ok(line)
}

fn half_close(to: SocketAddr, len: u64) -> io::Result<String> {
    let connection = connect(to)?;
    pattern::write(&connection, len)?;
    connection.shutdown(Shutdown::Write)?;
    pattern::check(&connection, None).map(|seen| format!("{seen} bytes as expected"))
}

fn send_after_end(to: SocketAddr, len: u64) -> io::Result<String> {
    let connection = connect(to)?;
    let seen = pattern::check(&connection, None)?;
    pattern::write(&connection, len)?;
    Ok(format!("{seen} bytes as expected"))
}

fn reset(to: SocketAddr) -> io::Result<String> {
    let mut connection = connect(to)?;
    exchange_a_byte(&mut connection)?;
    rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO))?;
    drop(connection);
    Ok("reset".to_owned())
}

fn await_end(to: SocketAddr) -> io::Result<String> {
    let mut connection = connect(to)?;
    exchange_a_byte(&mut connection)?;
    let seen = io::copy(&mut connection, &mut io::sink())?;
    Ok(format!("end of file after {seen} bytes"))
}

fn socket_for(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn datagrams(to: SocketAddr, len: usize, count: usize) -> io::Result<String> {
    let socket = socket_for(to)?;
    socket.connect(to)?;
    let mut buffer = vec![0; 65_535];
    for number in 0..count {
        let datagram: Vec<u8> = (0..len).map(|at| (at * 7 + at / 256 + number) as u8).collect();
        socket.send(&datagram)?;
        let got = socket.recv(&mut buffer)?;
        if buffer[..got] != datagram {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("datagram {number} came back as another of {got} bytes")));
        }
    }
    Ok(format!("{count} datagrams as expected"))
}

fn ask(to: &[SocketAddr]) -> io::Result<String> {
    let Some(first) = to.first() else { return Ok(String::new()) };
    let socket = socket_for(*first)?;
    let mut answers = Vec::new();
    let mut buffer = vec![0; 65_535];
    for to in to {
        socket.send_to(b"?", to)?;
        let (len, from) = socket.recv_from(&mut buffer)?;
        if from != *to {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("{to} was asked and {from} answered")));
        }
        answers.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
    }
    Ok(answers.join(" "))
}

fn mirror(at: IpAddr, ports: &[u16]) -> io::Result<String> {
    for port in ports {
        let datagrams = UdpSocket::bind((at, *port))?;
        std::thread::spawn(move || {
            let mut buffer = [0; 65_535];
            while let Ok((len, from)) = datagrams.recv_from(&mut buffer) {
                let address = from.to_string();
                let answer = if len > 1024 { &buffer[..len] } else { address.as_bytes() };
                let _ = datagrams.send_to(answer, from);
            }
        });
        let listener = TcpListener::bind((at, *port))?;
        e2e::host::serve(listener, |mut connection| {
            let Ok(peer) = connection.peer_addr() else { return };
            let _ = writeln!(connection, "{peer}").and_then(|()| io::copy(&mut &connection, &mut &connection));
        });
    }
    println!("ready");
    loop {
        std::thread::park();
    }
}
