//! Captures of an engine that runs.

use std::io;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Engine;
use super::handle::{Command, EngineGone, Handle};
use crate::capture::{CaptureConfig, CaptureError, CaptureId, CaptureInfo, Opened};

/// How long the engine waits at its end for a capture whose reader takes nothing.
const LAST_WRITES: Duration = Duration::from_secs(5);

impl Handle {
    /// Begins to record, as `config` says.
    ///
    /// # Errors
    ///
    /// See [`CaptureError`].
    pub async fn start_capture(&self, config: CaptureConfig) -> Result<CaptureId, CaptureError> {
        // A named pipe opens when somebody reads it, so this thread may wait for ever. The runtime would wait for one of its own.
        let (reply, opened) = oneshot::channel();
        let open = move || drop(reply.send(config.open()));
        thread::Builder::new().name("capture".to_owned()).spawn(open).map_err(CaptureError::Thread)?;
        let opened = opened.await.map_err(|_| CaptureError::Thread(io::Error::other("it has panicked")))?;
        self.begin_capture(opened?).await
    }

    /// Begins to record into what was opened before.
    ///
    /// # Errors
    ///
    /// See [`CaptureError`].
    pub async fn begin_capture(&self, opened: Opened) -> Result<CaptureId, CaptureError> {
        self.ask(|reply| Command::StartCapture { opened: Box::new(opened), reply }).await?
    }

    /// Ends a capture, waits until everything is written, and tells what it has come to; `None` if there is none of that number.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn stop_capture(&self, id: CaptureId) -> Result<Option<CaptureInfo>, EngineGone> {
        let ending = self.ask(|reply| Command::StopCapture { id, reply }).await?;
        Ok(match ending {
            Some(ending) => Some(ending.done().await),
            None => None,
        })
    }

    /// All captures, also those that have ended by themselves.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub async fn captures(&self) -> Result<Vec<CaptureInfo>, EngineGone> {
        self.ask(Command::Captures).await
    }
}

impl Engine {
    pub(super) fn start_capture(&mut self, opened: Opened, reply: oneshot::Sender<Result<CaptureId, CaptureError>>) {
        let (epoch, mtu) = (self.epoch, self.mtu);
        let recorder = self.switch.recorder();
        // Nobody could stop it whom nobody has told its number.
        if let Err(Ok(id)) = reply.send(recorder.start(opened, epoch, mtu)) {
            recorder.stop(id);
        }
    }

    /// Ends all captures, and waits until they are written, but not for one whose reader has stopped reading.
    pub(super) async fn end_captures(&mut self) {
        let recorder = self.switch.recorder();
        let captures = recorder.list();
        let endings: Vec<_> = captures.into_iter().filter_map(|info| Some((info.to, recorder.stop(info.id)?))).collect();
        let deadline = tokio::time::Instant::now() + LAST_WRITES;
        for (to, ending) in endings {
            if tokio::time::timeout_at(deadline, ending.done()).await.is_err() {
                tracing::warn!("the end of the capture to {to} is missing: whoever reads it has stopped");
            }
        }
    }
}
