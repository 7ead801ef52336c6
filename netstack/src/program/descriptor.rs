//! Descriptors that are more than files: handed to us by number, or watched until something happens to them.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::program::failure::Failure;

/// Takes over a descriptor that our caller has opened for us and named by `option`. Call it before anything else is opened, because a wrong
/// number would then be a descriptor of ours.
///
/// # Errors
///
/// When there is none of that number.
pub(crate) fn inherited(fd: RawFd, option: &str) -> Result<OwnedFd, Failure> {
    // SAFETY: F_GETFD only asks whether the number is a descriptor.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(Failure::usage(format!("{option} {fd} is no open descriptor"))
            .because(io::Error::last_os_error())
            .advice(format!("Open it for slipway, in a shell with a redirection such as `{fd}>file`.")));
    }
    // SAFETY: it is open, our caller has handed it over with this option, and nothing else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the runtime watch a descriptor for reading and for its end.
///
/// # Errors
///
/// When it is of a kind that cannot be waited for, such as a plain file.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor until it is dropped, and the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::ERROR) }.map_err(|err| err.into_parts().1)
}

/// Waits until nobody holds the other end of `fd`. What comes from there is of no interest.
pub(crate) async fn hung_up(fd: OwnedFd) -> io::Result<()> {
    let fd = watch(fd)?;
    loop {
        let mut ready = fd.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.ready().is_read_closed() || ready.ready().is_error() {
            return Ok(());
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::Write;
    use std::pin::pin;
    use std::task::Poll;

    #[tokio::test(flavor = "current_thread")]
    async fn the_end_of_a_pipe_is_seen_and_data_is_not() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"data").unwrap();
        let mut end = pin!(hung_up(reader.into()));
        tokio::task::yield_now().await;
        assert!(poll_fn(|cx| Poll::Ready(end.as_mut().poll(cx).is_pending())).await);
        drop(writer);
        end.await.unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_reader_of_a_pipe_may_go_as_well() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        hung_up(writer.into()).await.unwrap();
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_a_usage_error() {
        let failure = inherited(999_999, "--ready-fd").unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(failure.to_string().starts_with("--ready-fd 999999 is no open descriptor"));
    }
}
