//! Tells stories by hand: what they are, and what a guest is told in them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use e2e::fixtures;
use e2e::story::live::{Kind, Live};
use e2e::story::{Oracle, Story, all, real, simulated};

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
    /// Play them in virtual time, and write the recordings
    Record {
        /// Conversations of real guests instead
        #[arg(long)]
        real: bool,
        /// Where to, instead of `pcap-fixtures`
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
        /// Stories whose names contain one of these
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

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::List => all().iter().for_each(|story| println!("{:<32} {}", story.name, story.line)),
        Command::Record { real, into, names } => record(real, &into.unwrap_or_else(fixtures::directory), &names)?,
        Command::Tell { by, names } => chosen(&names).iter().for_each(|story| tell(story, by)),
    }
    Ok(())
}

fn chosen(names: &[String]) -> Vec<Story> {
    let is_chosen = |story: &Story| names.is_empty() || names.iter().any(|name| story.name.contains(name.as_str()));
    all().into_iter().filter(is_chosen).collect()
}

/// Records stories, and brings the table of recordings up to date.
fn record(real: bool, into: &Path, names: &[String]) -> anyhow::Result<()> {
    let is_chosen = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part.as_str()));
    for conversation in real::CONVERSATIONS.iter().filter(|conversation| real && is_chosen(conversation.name)) {
        let path = into.join(conversation.name).with_extension("pcapng");
        fs::create_dir_all(path.parent().unwrap_or(into))?;
        println!("{}", conversation.name);
        real::record(conversation, &path).with_context(|| format!("{} cannot be recorded", conversation.name))?;
    }
    for story in all().into_iter().filter(|story| !real && is_chosen(story.name)) {
        let path = into.join(story.name).with_extension("pcapng");
        fs::create_dir_all(path.parent().unwrap_or(into))?;
        let recorded = simulated::record(&story).with_context(|| format!("{} cannot be recorded", story.name))?;
        recorded.save(&path)?;
    }
    let fixtures = fixtures::all(into)?;
    if into.join("README.md").exists() {
        fs::write(into.join("README.md"), fixtures::readme_with(into, &fixtures::table(&fixtures))?)?;
    }
    println!("{} recordings in {}", fixtures.len(), into.display());
    Ok(())
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
        let mut link = Live::start(kind, story);
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
