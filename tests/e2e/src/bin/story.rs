//! Tells stories by hand: what they are, and what a guest is told in them.

use std::fs;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use e2e::story::live::{Kind, Live};
use e2e::story::{Oracle, Story, all, simulated};

#[derive(Debug, Parser)]
#[command(name = "story")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The stories that there are
    List,
    /// Play them in virtual time, and write the recordings into this directory
    Record {
        directory: PathBuf,
        names: Vec<String>,
    },
    /// What the guest is told, by each network
    Tell {
        /// By this one only
        #[arg(long)]
        by: Option<Network>,
        /// Stories whose names contain one of these
        names: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    Libslirp,
    Slipway,
    /// The engine's core in virtual time
    Core,
}

fn main() {
    match Arguments::parse().command {
        Command::List => all().iter().for_each(|story| println!("{:<32} {}", story.name, story.line)),
        Command::Record { directory, names } => {
            for story in chosen(&names) {
                let path = directory.join(story.name).with_extension("pcapng");
                fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a directory");
                let recorded = simulated::record(&story).unwrap_or_else(|error| panic!("{}: {error}", story.name));
                recorded.save(&path).expect("a file");
                println!("{}", path.display());
            }
        }
        Command::Tell { by, names } => chosen(&names).iter().for_each(|story| tell(story, by)),
    }
}

fn chosen(names: &[String]) -> Vec<Story> {
    let is_chosen = |story: &Story| names.is_empty() || names.iter().any(|name| story.name.contains(name.as_str()));
    all().into_iter().filter(is_chosen).collect()
}

fn tell(story: &Story, by: Option<Network>) {
    println!("==== {}: {}", story.name, story.line);
    let mut accounts = Vec::new();
    if by == Some(Network::Core) {
        let (transcript, outcome, _) = simulated::play(story).unwrap_or_else(|error| panic!("{}: {error}", story.name));
        print!("{transcript}");
        if let Err(missing) = outcome {
            println!("here it ends: {missing}");
        }
        return;
    }
    for (network, kind) in [(Network::Libslirp, Kind::Libslirp), (Network::Slipway, Kind::Slipway)] {
        // What libslirp is spared may harm it, or leave this machine.
        let spared = kind == Kind::Libslirp && story.oracle != Oracle::Compared;
        if by.is_some_and(|by| by != network) || spared {
            continue;
        }
        let mut link = Live::start(kind, story.user);
        let (transcript, outcome) = story.play(&mut link);
        println!("---- {kind:?}{}", if link.is_alive() { "" } else { " (has died)" });
        print!("{transcript}");
        if let Err(missing) = outcome {
            println!("here it ends: {missing}");
        }
        accounts.push(transcript);
    }
    if let [one, two] = &accounts[..] {
        for difference in one.compare(two) {
            println!("differ in {}:\n    {}\n    {}", difference.what, difference.one, difference.two);
        }
    }
}
