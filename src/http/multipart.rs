//! Bodies of `multipart/form-data`, part by part as they come, in bounded memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, header};
use tokio::sync::watch;

use super::body::{self, BodyTiming};
use crate::limits;
use crate::model::ids::TenantId;
use crate::model::refusal::Refusal;
use crate::upload::receive::BodyError;

/// Most bytes between the end of a part and the beginning of the next one's content: its headers.
const HEAD_BYTES: usize = 128 * 1024;
/// Bytes handed to the parser at a time.
const STEP_BYTES: usize = 64 * 1024;
/// Most parts of a body.
const PARTS_MAX: usize = 64;
/// Longest part that is read into memory.
const TEXT_BYTES: usize = 64 * 1024;

/// A body in parts.
#[derive(Debug)]
pub struct Form {
    parser: multer::Multipart<'static>,
    head: Arc<AtomicUsize>,
    parts: usize,
}

/// One of its parts, whose content comes next. It has to be read to its end, or given up, before the one after it.
#[derive(Debug)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// The name of its file.
    pub filename: Option<String>,
    /// Its declared media type.
    pub mime_type: Option<String>,
    field: multer::Field<'static>,
}

impl Form {
    /// Begins to read a tenant's body that its headers say to be in parts.
    ///
    /// # Errors
    /// [`Refusal::MediaType`] when they do not.
    pub fn new(
        headers: &HeaderMap,
        body: Body,
        timing: &BodyTiming,
        tenant: &TenantId,
        stopping: watch::Receiver<bool>,
    ) -> Result<Self, Refusal> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let wrong = |_| Refusal::MediaType { expected: "multipart/form-data with a boundary" };
        let boundary = multer::parse_boundary(kind).map_err(wrong)?;
        let head = Arc::new(AtomicUsize::new(0));
        let paced = Paced {
            inner: body::receive(body, timing, tenant, None, stopping),
            rest: Bytes::new(),
            pause: false,
            head: Arc::clone(&head),
        };
        Ok(Self { parser: multer::Multipart::new(paced, boundary), head, parts: 0 })
    }

    /// The next part, or none.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::Incomplete`], [`Refusal::Unavailable`].
    pub async fn next(&mut self) -> Result<Option<Part>, Refusal> {
        self.head.store(HEAD_BYTES, Ordering::Relaxed);
        let field = self.parser.next_field().await.map_err(|error| refusal(&error))?;
        self.head.store(usize::MAX, Ordering::Relaxed);
        let Some(field) = field else { return Ok(None) };
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(Refusal::malformed(format!("the body has more than {PARTS_MAX} parts")));
        }
        Ok(Some(Part {
            name: field.name().unwrap_or_default().to_owned(),
            filename: field.file_name().map(str::to_owned),
            mime_type: field.content_type().map(|mime| mime.essence_str().to_owned()),
            field,
        }))
    }
}

impl Part {
    /// Its content.
    pub fn bytes(self) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
        futures_util::stream::unfold(Some(self.field), |field| async move {
            let mut field = field?;
            match field.chunk().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(field))),
                Ok(None) => None,
                Err(error) => Some((Err(cause(&error).unwrap_or(BodyError::Cut)), None)),
            }
        })
    }

    /// Its content as text.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] when it is none, or is longer than a field of a form should be; as [`Form::next`].
    pub async fn text(mut self) -> Result<String, Refusal> {
        let mut text = Vec::new();
        while let Some(bytes) = self.field.chunk().await.map_err(|error| refusal(&error))? {
            if text.len() + bytes.len() > TEXT_BYTES {
                return Err(Refusal::malformed(format!(
                    "the part `{}` has more than {TEXT_BYTES} bytes",
                    self.name.chars().take(80).collect::<String>()
                )));
            }
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).map_err(|_| Refusal::malformed("a part of the form is not UTF-8"))
    }
}

/// What the body's own stream said.
fn cause(error: &multer::Error) -> Option<BodyError> {
    match error {
        multer::Error::StreamReadFailed(cause) => cause.downcast_ref::<BodyError>().cloned(),
        _ => None,
    }
}

fn refusal(error: &multer::Error) -> Refusal {
    match cause(error) {
        Some(BodyError::Stopping) => Refusal::Unavailable,
        Some(BodyError::Busy) => Refusal::Busy { retry_after: limits::BUSY_RETRY },
        Some(BodyError::TooLong) => Refusal::malformed("the headers of a part are too long"),
        Some(error @ (BodyError::Cut | BodyError::Garbled | BodyError::TooSlow)) => {
            Refusal::Incomplete { reason: error.to_string() }
        }
        None => Refusal::malformed(format!("the multipart body can't be read: {error}")),
    }
}

/// A body in small steps. The parser takes all that its stream has ready before it looks at any of it: with a pause
/// after each step it takes no more than that one. And it looks for the end of a part's headers without a limit.
struct Paced<S> {
    inner: S,
    rest: Bytes,
    pause: bool,
    /// Bytes that may still come before a part's content begins.
    head: Arc<AtomicUsize>,
}

impl<S: Stream<Item = Result<Bytes, BodyError>> + Unpin> Stream for Paced<S> {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.pause) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(bytes)) => self.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(STEP_BYTES);
        let step = self.rest.split_to(length);
        let left = self.head.load(Ordering::Relaxed);
        if left != usize::MAX {
            match left.checked_sub(length) {
                Some(left) => self.head.store(left, Ordering::Relaxed),
                None => return Poll::Ready(Some(Err(BodyError::TooLong))),
            }
        }
        self.pause = true;
        Poll::Ready(Some(Ok(step)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use proptest::prelude::*;

    use super::*;

    fn form(body: impl Into<Body>, kind: &str) -> Result<Form, Refusal> {
        let (stop, stopping) = watch::channel(false);
        std::mem::forget(stop);
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
        Form::new(&headers, body.into(), &BodyTiming::default(), &"t".into(), stopping)
    }

    const KIND: &str = "multipart/form-data; boundary=XX";

    async fn read(body: impl Into<Body>) -> Result<Vec<(String, Option<String>, Vec<u8>)>, Refusal> {
        let mut form = form(body, KIND)?;
        let mut parts = Vec::new();
        while let Some(part) = form.next().await? {
            let (name, filename) = (part.name.clone(), part.filename.clone());
            let mut bytes = std::pin::pin!(part.bytes());
            let mut all = Vec::new();
            while let Some(chunk) = bytes.next().await {
                all.extend_from_slice(&chunk.map_err(|_| Refusal::malformed("cut"))?);
            }
            parts.push((name, filename, all));
        }
        Ok(parts)
    }

    fn written(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, content) in parts {
            body.extend_from_slice(
                format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n").as_bytes(),
            );
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--XX--\r\n");
        body
    }

    #[tokio::test]
    async fn parts_come_back_whole() {
        let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let almost = b"a\r\n--X\r\n--\r\r\n-";
        let found = read(written(&[("a", b""), ("b", &large), ("c", almost)])).await.unwrap();
        let expected = [("a", vec![]), ("b", large), ("c", almost.to_vec())];
        let expected = expected.map(|(name, content)| (name.to_owned(), Some("f".to_owned()), content));
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn what_is_no_form_is_refused() {
        for kind in ["application/json", "multipart/form-data", "multipart/mixed; boundary=XX", ""] {
            assert!(matches!(form("", kind), Err(Refusal::MediaType { .. })), "{kind}");
        }
        let whole = written(&[("a", b"content")]);
        for end in 0..whole.len() - 4 {
            assert!(read(whole[..end].to_vec()).await.is_err(), "cut at {end}");
        }
    }

    #[tokio::test]
    async fn headers_of_a_part_are_bounded() {
        let endless = futures_util::stream::repeat(Bytes::from(vec![b'a'; 10_000])).map(Ok::<_, std::io::Error>);
        let begun = futures_util::stream::iter([Ok(Bytes::from("--XX\r\nContent-Disposition: "))]);
        let refused = read(Body::from_stream(begun.chain(endless))).await;
        assert!(matches!(refused, Err(Refusal::Malformed { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn the_parser_is_given_one_step_at_a_time() {
        let endless = futures_util::stream::repeat(Ok(Bytes::from(vec![b'a'; 10 * STEP_BYTES])));
        let head = Arc::new(AtomicUsize::new(usize::MAX));
        let mut paced = Paced { inner: endless, rest: Bytes::new(), pause: false, head };
        let mut taken = 0;
        futures_util::future::poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(bytes))) = Pin::new(&mut paced).poll_next(cx) {
                taken += bytes.len();
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(taken, STEP_BYTES);
    }

    proptest! {
        #[test]
        fn random_bodies_do_no_harm(body in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = runtime.block_on(read([b"--XX\r\n".as_slice(), &body].concat()));
        }
    }
}
