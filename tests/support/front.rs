//! Stands in front of a store that is run, and does to calls what `harm.rs` says.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses a part of it; the bans are the server's"
)]

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::harm::{self, Any, Call, Harm, Harms};

/// A running one. Ends with its guard.
pub struct Front {
    address: SocketAddr,
    harms: Arc<Harms>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Front {
    /// One in front of `scheme://host[:port]`. `what` says which call a request is, as the protocol calls it, and `refusal`
    /// makes an answer of a status and a code.
    pub fn start(
        upstream: &str,
        what: fn(&Request<Incoming>) -> &'static str,
        refusal: fn(u16, &str) -> Response<Any>,
    ) -> Self {
        let harms = Arc::new(Harms::default());
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // A connection that the store has closed meanwhile is a harm that nobody asked for.
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        let (upstream, shared) = (upstream.to_owned(), Arc::clone(&harms));
        let (address, runtime) = harm::serve(move |request| {
            let (client, upstream, harms) = (client.clone(), upstream.clone(), Arc::clone(&shared));
            async move {
                let what = what(&request);
                let harm = harms.came(what, &request);
                let request = harm::taken(harm, request).await?;
                let call = async || -> Result<Response<Any>, reqwest::Error> {
                    let answer = forward(client, upstream, request).await?;
                    if what == "ListBlobs" { as_documented(answer).await } else { Ok(answer.map(harm::any)) }
                };
                harm::harmed(harm, refusal, call).await
            }
        });
        Self { address, harms, runtime: Some(runtime) }
    }

    /// One in front of Azure Blob Storage.
    pub fn of_azure(upstream: &str) -> Self {
        let path = upstream.find("://").map_or(0, |at| at + 3);
        let host = upstream[path..].find('/').map_or(upstream, |at| &upstream[..path + at]);
        Self::start(host, azure, refused_by_azure)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is done to its calls.
    pub fn harms(&self) -> &Harms {
        &self.harms
    }

    /// The next so many calls of this kind are harmed.
    pub fn harm(&self, what: &'static str, times: u32, harm: Harm) {
        self.harms.plan(what, times, harm);
    }

    /// No call is harmed any more.
    pub fn spare(&self) {
        self.harms.spare();
    }

    /// What was asked so far, and forgets it.
    pub fn calls(&self) -> Vec<Call> {
        self.harms.calls()
    }

    /// How many calls of a kind there were.
    pub fn count(&self, what: &str) -> usize {
        self.harms.count(what)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn forward(
    client: reqwest::Client,
    upstream: String,
    request: Request<Any>,
) -> Result<Response<reqwest::Body>, reqwest::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = head.headers;
    headers.remove("connection");
    let ask = client.request(head.method.clone(), format!("{upstream}{path}")).headers(headers);
    let ask = match head.method {
        Method::PUT | Method::POST => ask.body(reqwest::Body::wrap_stream(body.into_data_stream())),
        _ => ask,
    };
    let mut answer = Response::from(ask.send().await?);
    // The connection is ours, and so is how a body is framed on it.
    for name in ["connection", "keep-alive", "transfer-encoding"] {
        answer.headers_mut().remove(name);
    }
    Ok(answer)
}

/// A listing of Azure's as its documentation has it: of blocks without a blob it does not tell when they came. The emulator
/// does; it knows no type of what is in them.
async fn as_documented(answer: Response<reqwest::Body>) -> Result<Response<Any>, reqwest::Error> {
    let (mut head, body) = answer.into_parts();
    let listing = String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap();
    let entries = listing.split_inclusive("</Blob>").map(|entry| {
        if !entry.contains("</Blob>") || entry.contains("<Content-Type>") {
            return entry.to_owned();
        }
        without(&without(entry, "Last-Modified"), "Etag")
    });
    head.headers.remove("content-length");
    Ok(Response::from_parts(head, harm::text(entries.collect::<String>())))
}

fn without(entry: &str, element: &str) -> String {
    let (begin, end) = (format!("<{element}>"), format!("</{element}>"));
    match (entry.find(&begin), entry.find(&end)) {
        (Some(from), Some(to)) => format!("{}{}", &entry[..from], &entry[to + end.len()..]),
        _ => entry.to_owned(),
    }
}

/// Which call a request to Azure Blob Storage is.
fn azure(request: &Request<Incoming>) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let has = |pair: &str| query.split('&').any(|own| own == pair);
    match *request.method() {
        Method::PUT if has("comp=block") => "PutBlock",
        Method::PUT if has("comp=blocklist") => "PutBlockList",
        Method::PUT => "PutBlob",
        Method::GET if has("comp=blocklist") => "GetBlockList",
        Method::GET if has("comp=list") => "ListBlobs",
        Method::GET => "GetBlob",
        Method::HEAD => "GetBlobProperties",
        Method::DELETE => "DeleteBlob",
        _ => "?",
    }
}

fn refused_by_azure(status: u16, code: &str) -> Response<Any> {
    let mut answer = harm::in_xml(status, code);
    if status >= 300 && !code.is_empty() {
        answer.headers_mut().insert("x-ms-error-code", code.parse().unwrap());
    }
    answer
}
