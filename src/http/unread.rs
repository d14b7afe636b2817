//! What a handler leaves of a body, thrown away politely, so that a client that only writes gets to read the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;

use crate::limits;

/// Unread bytes up to which a refused body is read before the answer, so that the connection lives on.
const DRAIN_FIRST_BYTES: u64 = 256 * 1024;
/// And the time for it.
const DRAIN_FIRST_TIME: Duration = Duration::from_millis(500);

/// Does the client wait for our word before it sends the body?
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Says that the connection ends with this answer.
pub(super) fn close_after(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Reads a body and throws it away, within [`limits::DRAIN_BYTES`] and this time; true when it came to its end.
async fn discard(body: &mut Body, time: Duration) -> bool {
    let read = async {
        let mut left = limits::DRAIN_BYTES;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    tokio::time::timeout(time, read).await.unwrap_or(false)
}

/// A body that was lent to a handler; what the handler leaves of it comes back.
#[derive(Debug)]
pub(super) struct Kept(Arc<Mutex<Loan>>);

#[derive(Debug)]
struct Loan {
    body: Rest,
    /// Has a byte been asked for?
    touched: bool,
}

#[derive(Debug)]
enum Rest {
    Here(Body),
    Ended,
    Broken,
}

/// What a handler gets in a body's place.
struct Lent(Arc<Mutex<Loan>>);

/// Lends a body.
pub(super) fn lend(body: Body) -> (Body, Kept) {
    let rest = if body.is_end_stream() { Rest::Ended } else { Rest::Here(body) };
    let loan = Arc::new(Mutex::new(Loan { body: rest, touched: false }));
    (Body::new(Lent(Arc::clone(&loan))), Kept(loan))
}

fn lock(loan: &Mutex<Loan>) -> std::sync::MutexGuard<'_, Loan> {
    loan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let mut loan = lock(&self.0);
        loan.touched = true;
        let polled = match &mut loan.body {
            Rest::Here(body) => ready!(Pin::new(body).poll_frame(cx)),
            Rest::Ended => return Poll::Ready(None),
            // A body that was taken away must not look complete.
            Rest::Broken => return Poll::Ready(Some(Err(axum::Error::new("the body is gone")))),
        };
        match &polled {
            Some(Ok(_)) => {}
            Some(Err(_)) => loan.body = Rest::Broken,
            None => loan.body = Rest::Ended,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &lock(&self.0).body {
            Rest::Here(body) => body.is_end_stream(),
            Rest::Ended => true,
            Rest::Broken => false,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &lock(&self.0).body {
            Rest::Here(body) => body.size_hint(),
            Rest::Ended => http_body::SizeHint::with_exact(0),
            Rest::Broken => http_body::SizeHint::default(),
        }
    }
}

impl Kept {
    /// Sees to what the handler has left unread, so that the client gets to read the answer: a small rest is read
    /// first and the connection lives on; of a large one the answer goes out at once, and the rest is thrown away
    /// behind it before the connection closes. A client that still waits for `100 Continue` sends nothing at all.
    pub(super) async fn settle(self, expects_continue: bool, response: &mut Response) {
        let (rest, touched) = {
            let mut loan = lock(&self.0);
            (std::mem::replace(&mut loan.body, Rest::Broken), loan.touched)
        };
        let mut body = match rest {
            Rest::Ended => return,
            Rest::Here(body) if body.is_end_stream() => return,
            Rest::Here(body) => body,
            Rest::Broken => return close_after(response.headers_mut()),
        };
        if expects_continue && !touched {
            return close_after(response.headers_mut());
        }
        // Only for a body that nobody has begun: one that was given up half way is slow, or too long.
        if !touched
            && body.size_hint().exact().is_some_and(|left| left <= DRAIN_FIRST_BYTES)
            && discard(&mut body, DRAIN_FIRST_TIME).await
        {
            return;
        }
        close_after(response.headers_mut());
        tokio::spawn(async move { discard(&mut body, limits::DRAIN_TIME).await });
    }
}
