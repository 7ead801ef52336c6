//! An engine with what only a program can give to it: hooks that serve guests.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::{Engine, EngineError};
use crate::config::{Config, GuestTarget};
use crate::gateway::command::Commands;
use crate::gateway::guest_forward::{GuestForwards, Smb, Target};
use crate::gateway::hook::{SmbHook, StreamHook};
use crate::gateway::smb::Smbd;

/// What an engine is made of. See [`Engine::builder`].
pub struct Builder<'a> {
    config: &'a Config,
    hooks: Hooks,
}

/// What was given to a builder.
#[derive(Default)]
pub(super) struct Hooks {
    streams: HashMap<String, Arc<dyn StreamHook>>,
    smb: Option<Arc<dyn SmbHook>>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        Self { config, hooks: Hooks::default() }
    }

    /// Has `hook` serve the guests that connect to a [`GuestTarget::Hook`] of this name. Of several by one name the last counts.
    #[must_use]
    pub fn stream_hook(mut self, name: impl Into<String>, hook: impl StreamHook + 'static) -> Self {
        self.hooks.streams.insert(name.into(), Arc::new(hook));
        self
    }

    /// Has `hook` serve the guests that connect to the SMB server of [`Config::smb`], whatever directory is named there.
    #[must_use]
    pub fn smb_hook(mut self, hook: impl SmbHook + 'static) -> Self {
        self.hooks.smb = Some(Arc::new(hook));
        self
    }

    /// Sets up the engine. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// See [`EngineError`]. Nothing stays behind.
    pub fn build(self) -> Result<Engine, EngineError> {
        Engine::assemble(self.config, self.hooks)
    }
}

impl fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", self.config)
            .field("stream_hooks", &self.hooks.streams.keys())
            .field("smb_hook", &self.hooks.smb.is_some())
            .finish()
    }
}

impl Hooks {
    /// What is behind the forwards of guests.
    ///
    /// # Errors
    ///
    /// When a forward has no address or no hook, or there can be no SMB server.
    pub(super) fn guest_forwards(mut self, config: &Config) -> Result<GuestForwards, EngineError> {
        let mut targets = Vec::new();
        for forward in &config.guest_forwards {
            if config.guest_forward_address(forward).is_none() {
                return Err(EngineError::NoServer(forward.port));
            }
            targets.push(match &forward.target {
                GuestTarget::Tcp(_) | GuestTarget::Unix(_) => Target::Elsewhere,
                GuestTarget::Command(command) => Target::Command(command.clone()),
                GuestTarget::Hook(name) => {
                    let hook = self.streams.get(name).ok_or_else(|| EngineError::NoHook(name.clone()))?;
                    Target::Hook(Arc::clone(hook))
                }
            });
        }
        let smb = match (self.smb.take(), &config.smb) {
            (Some(hook), Some(_)) => Smb::Hook(hook),
            (None, Some(smb)) => match &smb.directory {
                Some(directory) => Smb::Smbd(Smbd::new(smb, directory)?),
                None => Smb::Nobody,
            },
            (_, None) => Smb::Nobody,
        };
        let has_commands = targets.iter().any(|target| matches!(target, Target::Command(_))) || matches!(smb, Smb::Smbd(_));
        let commands = if has_commands {
            let commands = Commands::new(config.limits.guest_forward_commands, config.timeouts.guest_forward_end);
            Some(commands.map_err(EngineError::Host)?)
        } else {
            None
        };
        Ok(GuestForwards { targets, smb, commands })
    }
}
