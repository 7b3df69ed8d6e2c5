//! Sends a request, and says what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Uri};
use tokio::sync::oneshot;
use tokio::time::{timeout, timeout_at};

use super::code::{ErrorCode, Failure};
use super::exchange::{Head, Reporter, Times};
use super::fields::Fields;
use super::grant::{Reach, Target};
use super::outlet::{Link, Outlet};
use crate::sandbox::limits;

/// What is asked, and within which bounds.
pub(super) struct Ask {
    pub(super) target: Target,
    pub(super) reach: Reach,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// Comes when the guest has finished it; `None` for none.
    pub(super) body: Option<oneshot::Receiver<Bytes>>,
    pub(super) times: Times,
    pub(super) deadline: Instant,
    pub(super) budget: Arc<Budget>,
    pub(super) waiter: Thread,
}

/// Bytes that the bodies of all answers of a call may have.
pub(super) struct Budget {
    left: AtomicU64,
    most: usize,
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(most: usize) -> Self {
        Self { left: AtomicU64::new(most as u64), most }
    }

    pub(super) fn take(&self, bytes: usize) -> Result<(), Failure> {
        let less = |left: u64| left.checked_sub(bytes as u64);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Ok(());
        }
        let most = self.most;
        let more = limits::more_bytes("http_response_bytes", most);
        let text = format!("the bodies of all answers to a call may have {most} bytes; {more}");
        Err(Failure::limit(ErrorCode::HttpResponseBodySize(Some(most as u64)), text))
    }
}

/// Sends it, within the time of its call.
pub(super) async fn run(outlet: Arc<Outlet>, mut ask: Ask, reporter: Reporter) {
    let (begun, deadline) = (Instant::now(), ask.deadline.into());
    let answered = timeout_at(deadline, perform(&outlet, &mut ask, &reporter)).await;
    let end = answered.unwrap_or_else(|_| Err(Failure::plain(ErrorCode::HttpResponseTimeout)));
    // Neither path nor headers: secrets travel in both.
    let (handler, origin, took) = (&outlet.handler, ask.target.origin(), begun.elapsed());
    match &end {
        Ok(_) => tracing::debug!(handler, origin, method = %ask.method, ?took, "a request was answered"),
        Err(failure) => {
            tracing::debug!(handler, origin, method = %ask.method, ?took, code = ?failure.code, "a request failed");
        }
    }
    reporter.end(end);
}

async fn perform(outlet: &Arc<Outlet>, ask: &mut Ask, reporter: &Reporter) -> Result<Option<Fields>, Failure> {
    let body = match ask.body.take() {
        None => Bytes::new(),
        Some(coming) => coming.await.map_err(|_| {
            Failure::plain(ErrorCode::InternalError(Some(
                "the request's body was dropped before it was finished".into(),
            )))
        })?,
    };
    if let Some(promised) = ask.headers.remove(header::CONTENT_LENGTH)
        && promised.to_str().ok().and_then(|length| length.parse().ok()) != Some(body.len())
    {
        return Err(Failure::plain(ErrorCode::HttpRequestBodySize(Some(body.len() as u64))));
    }
    let (mut link, response) = sent(outlet, ask, &body).await?;
    let (parts, mut incoming) = response.into_parts();
    reporter.head(Head { status: parts.status.as_u16(), fields: Fields::received(parts.headers) });
    let mut trailers = None;
    let between = ask.times.between_bytes.map(Duration::from_nanos);
    while let Some(frame) =
        within(between, ErrorCode::ConnectionReadTimeout, link.drive.until(incoming.frame())).await?
    {
        let frame = frame.map_err(|error| Failure::speaking(&error, outlet.header_bytes))?;
        match frame.into_data() {
            Ok(data) => {
                ask.budget.take(data.len())?;
                reporter.push(data).await;
            }
            Err(other) => trailers = other.into_trailers().ok().map(Fields::received),
        }
    }
    drop(incoming);
    outlet.keep(link);
    Ok(trailers)
}

/// Sends the request and waits for the head of the answer. A server may close a connection just as it is used again: what it
/// did not answer there is sent on a new one. Every request may be: it only reads, or it has a key (RFC 9110, 9.2.2).
async fn sent(
    outlet: &Arc<Outlet>,
    ask: &Ask,
    body: &Bytes,
) -> Result<(Link, hyper::Response<hyper::body::Incoming>), Failure> {
    let connect = ask.times.connect.map(Duration::from_nanos);
    let link = outlet.link(&ask.target, ask.reach, connect).await?;
    let used = link.used;
    match sent_on(link, outlet, ask, body).await {
        Err(failure) if used && failure.is_unanswered() => {}
        other => return other,
    }
    let link = outlet.new_link(&ask.target, ask.reach, connect).await?;
    sent_on(link, outlet, ask, body).await
}

async fn sent_on(
    mut link: Link,
    outlet: &Outlet,
    ask: &Ask,
    body: &Bytes,
) -> Result<(Link, hyper::Response<hyper::body::Incoming>), Failure> {
    let first = ask.times.first_byte.map(Duration::from_nanos);
    let Link { sender, drive, .. } = &mut link;
    let request = request(ask, body)?;
    let answer = drive.until(async {
        sender.ready().await?;
        sender.send_request(request).await
    });
    match within(first, ErrorCode::HttpResponseTimeout, answer).await? {
        Ok(response) => Ok((link, response)),
        Err(error) => Err(Failure::speaking(&error, outlet.header_bytes)),
    }
}

fn request(ask: &Ask, body: &Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    let invalid = || Failure::plain(ErrorCode::HttpRequestUriInvalid);
    let uri: Uri = ask.target.path_and_query.parse().map_err(|_| invalid())?;
    let host = HeaderValue::from_str(&ask.target.authority()).map_err(|_| invalid())?;
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = ask.headers.clone();
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

/// What a future gives, if it does within the time that the guest grants it.
async fn within<F: Future>(most: Option<Duration>, code: ErrorCode, future: F) -> Result<F::Output, Failure> {
    match most {
        None => Ok(future.await),
        Some(most) => timeout(most, future).await.map_err(|_| Failure::plain(code)),
    }
}
