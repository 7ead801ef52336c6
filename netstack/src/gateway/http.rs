//! The HTTP server on the gateway (RFC 9110, RFC 9112): what guests boot from whose firmware speaks HTTP.
//!
//! It serves the files of one directory, for reading only, to guests only: their connections are handed to it by the engine, and there is
//! no socket that anybody else could connect to. hyper speaks the protocol; here is which file that is, and which part of it.
//!
//! A guest holds at most [`crate::config::Limits::http_connections`] connections, and each costs a buffer for requests and one for a
//! piece of a file. One that sends nothing, or takes nothing of what it has asked for, is closed.

mod body;
mod range;

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use self::body::Body;
use self::range::Part;
use super::files::{PlainFile, Refused, Root, RootError};

/// How long a request may take to come, the first one and each further one.
const REQUEST: Duration = Duration::from_secs(10);

/// How long a guest may take nothing of an answer.
const STALL: Duration = Duration::from_secs(60);

/// The longest header of a request, in bytes.
const LONGEST_HEADER: usize = 16 << 10;

/// The server.
#[derive(Debug, Clone)]
pub struct Http {
    root: Arc<Root>,
    connections: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
}

impl Http {
    /// Opens the directory to serve, over at most `connections` at a time. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the directory cannot be served.
    pub fn start(root: &Path, connections: usize) -> Result<Self, RootError> {
        let connections = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        Ok(Self { root: Arc::new(Root::open(root)?), connections, runtime: tokio::runtime::Handle::current() })
    }

    /// Serves the connection of `guest` at the other end of `stream` until it is closed. Never waits.
    ///
    /// # Errors
    ///
    /// When there are too many connections ([`io::ErrorKind::WouldBlock`]), or `stream` cannot be used. It is then closed.
    pub fn stream(&self, stream: UnixStream, guest: SocketAddr) -> io::Result<()> {
        let permit = Arc::clone(&self.connections).try_acquire_owned();
        // EAGAIN: the guest is reset, and the refusal counted as one for want of resources.
        let permit = permit.map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN))?;
        let stream = {
            let _inside = self.runtime.enter();
            tokio::net::UnixStream::from_std(stream)?
        };
        tracing::trace!(%guest, "an HTTP connection opens");
        let root = Arc::clone(&self.root);
        self.runtime.spawn(async move {
            serve(stream, root).await;
            drop(permit);
        });
        Ok(())
    }
}

async fn serve(stream: tokio::net::UnixStream, root: Arc<Root>) {
    let progress = Arc::new(AtomicU64::new(0));
    let answers = Arc::clone(&progress);
    let service = service_fn(move |request| {
        answers.fetch_add(1, Ordering::Relaxed);
        let (root, progress) = (Arc::clone(&root), Arc::clone(&answers));
        async move { Ok::<_, std::convert::Infallible>(answer(&request, root, progress).await) }
    });
    let mut protocol = hyper::server::conn::http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(REQUEST).max_buf_size(LONGEST_HEADER).half_close(true);
    let connection = protocol.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // What a guest does wrong is answered, or ends its connection; nobody else needs to know.
        _ = connection => {}
        () = stalled(&progress) => {}
    }
}

/// Waits until nothing has been done for a guest for a while.
async fn stalled(progress: &AtomicU64) {
    let mut before = progress.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(STALL).await;
        let now = progress.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

async fn answer<B>(request: &Request<B>, root: Arc<Root>, progress: Arc<AtomicU64>) -> Response<Body> {
    let head = request.method() == Method::HEAD;
    if !head && request.method() != Method::GET {
        let mut refused = refusal(StatusCode::METHOD_NOT_ALLOWED, "This server is for reading only: GET or HEAD.\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let name: Vec<u8> = percent_encoding::percent_decode_str(request.uri().path()).collect();
    let kind = content_type(&name);
    let opened = tokio::task::spawn_blocking(move || root.file(&name)).await.unwrap_or(Err(Refused::Failed));
    let file = match opened {
        Ok(file) => file,
        Err(Refused::NotFound) => return refusal(StatusCode::NOT_FOUND, "There is no such file.\n"),
        Err(Refused::Forbidden) => return refusal(StatusCode::FORBIDDEN, "This is not a file that may be read.\n"),
        Err(Refused::Failed) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, "The file cannot be opened.\n"),
    };
    let modified = file.modified().map(httpdate::fmt_http_date);
    let mut answer = content(request, file, modified.as_deref(), head, progress);
    let headers = answer.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(modified) = modified.and_then(|date| HeaderValue::try_from(date).ok()) {
        headers.insert(header::LAST_MODIFIED, modified);
    }
    answer
}

/// The file, or the part of it that is asked for.
fn content<B>(
    request: &Request<B>,
    file: PlainFile,
    modified: Option<&str>,
    head: bool,
    progress: Arc<AtomicU64>,
) -> Response<Body> {
    let size = file.size();
    let asked = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // RFC 9110 section 13.1.5: a part of another version is of no use.
    let same_version = asked(header::IF_RANGE).is_none_or(|version| Some(version) == modified);
    let part = asked(header::RANGE).filter(|_| same_version && !head).map_or(Part::Whole, |range| Part::of(range, size));
    let (status, first, len) = match part {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Some { first, len } => (StatusCode::PARTIAL_CONTENT, first, len),
        Part::None => {
            let mut refused = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "The file is shorter.\n");
            refused.headers_mut().insert(header::CONTENT_RANGE, text(format!("bytes */{size}")));
            return refused;
        }
    };
    let body = if head { Body::empty() } else { Body::file(file, first, len, progress) };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_LENGTH, len.into());
    if status == StatusCode::PARTIAL_CONTENT {
        answer.headers_mut().insert(header::CONTENT_RANGE, text(format!("bytes {first}-{}/{size}", first + len - 1)));
    }
    answer
}

fn refusal(status: StatusCode, why: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::text(why));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

/// A header of our own making, which has no characters that a header must not have.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}

/// What the firmware of a machine takes a file for (UEFI 2.10 section 24.7.3.1); everything else is just bytes.
fn content_type(name: &[u8]) -> &'static str {
    match Path::new(&*String::from_utf8_lossy(name)).extension().and_then(|extension| extension.to_str()) {
        Some("efi") => "application/efi",
        Some("iso") => "application/vnd.efi-iso",
        Some("img") => "application/vnd.efi-img",
        Some("txt" | "ipxe" | "cfg") => "text/plain",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests;
