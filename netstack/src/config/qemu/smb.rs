//! The options of the SMB server: `smb=`, `smbserver=` and `smb-min-protocol=`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::{Given, OptionError, invalid};
use crate::config::{Config, SmbConfig};

/// The dialects of smb.conf(5), from the oldest on.
const DIALECTS: [&str; 12] =
    ["CORE", "COREPLUS", "LANMAN1", "LANMAN2", "NT1", "SMB2", "SMB2_02", "SMB2_10", "SMB3", "SMB3_00", "SMB3_02", "SMB3_11"];

/// What was said of the server: whatever the order, it is put together at the end.
#[derive(Debug, Default)]
pub(super) struct Smb {
    directory: Option<PathBuf>,
    server: Option<Ipv4Addr>,
    min_protocol: Option<String>,
}

impl Smb {
    /// Takes the option if it is one of these.
    pub(super) fn take(&mut self, given: &Given<'_>) -> Result<bool, OptionError> {
        match given.name {
            "smb" => self.directory = Some(directory(given)?),
            "smbserver" => self.server = Some(given.parsed("smbserver", "an IPv4 address", "10.0.2.4")?),
            "smb-min-protocol" => self.min_protocol = Some(dialect(given)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Puts what was said into `config`. Without a directory the server refuses everybody: whoever names its address wants one to be there.
    pub(super) fn settle(self, config: &mut Config) -> Result<(), OptionError> {
        let Self { directory, server, min_protocol } = self;
        if directory.is_none() && server.is_none() && min_protocol.is_none() {
            return Ok(());
        }
        let smb = config.smb.get_or_insert_with(SmbConfig::default);
        smb.directory = directory.or_else(|| smb.directory.take());
        smb.server = server.or(smb.server);
        if let Some(dialect) = &min_protocol
            && smb.directory.is_none()
        {
            let why = "there is no SMB server to speak it";
            return Err(invalid("smb-min-protocol", dialect, why, "smb=DIR as well, or leave it out"));
        }
        smb.min_protocol = min_protocol.or_else(|| smb.min_protocol.take());
        Ok(())
    }
}

fn directory(given: &Given<'_>) -> Result<PathBuf, OptionError> {
    let text = given.text("smb", "/srv/share")?;
    if text.contains('\0') {
        return Err(invalid("smb", text, "there is a NUL in the path", "smb=/srv/share"));
    }
    Ok(PathBuf::from(text))
}

fn dialect(given: &Given<'_>) -> Result<String, OptionError> {
    let text = given.text("smb-min-protocol", "SMB2_02")?;
    match DIALECTS.iter().find(|known| known.eq_ignore_ascii_case(text)) {
        Some(known) => Ok((*known).to_owned()),
        None => {
            let why = format!("this is no dialect of SMB, which are {}", DIALECTS.join(", "));
            Err(invalid("smb-min-protocol", text, why, "smb-min-protocol=NT1 for the oldest guests, or SMB3_00"))
        }
    }
}
