//! How the service is spoken to: signed requests, and what its errors mean.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderName, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqsign_azure_storage::{
    Credential, RequestSigner, SasProtocol, ServiceSasBlobPermissions, ServiceSasConfig, ServiceSasGrant,
    ServiceSasGranter, UserDelegationSasGrant, UserDelegationSasGranter, UserDelegationSasPermissions,
};
use reqsign_core::{Context, GrantCredential, SignRequest};

use super::credentials::Credentials;
use crate::blob::remote::{Ask, Body, Caller, Element, Fault, Kind, Protocol, Signed};
use crate::clock::Clock;
use crate::config::Container;
use crate::outbound::{Head, OutboundError};

/// The version of the protocol that is spoken.
const VERSION: (&str, &str) = ("x-ms-version", "2021-12-02");
/// By so much our clock may be ahead of the service's when a key for a token is asked for: one that begins later than its own now
/// signs nothing yet, and one that ends more than seven days later is not given.
const SKEW: Duration = Duration::from_secs(15 * 60);
/// The longest life of a location that such a key signs. It is less than the key's, so that one key signs for almost a day.
const DELEGATED_LIFE: Duration = Duration::from_secs(6 * 24 * 3600);
/// Left as they are in a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a container is, and who asks.
pub(super) struct Service {
    credentials: Credentials,
    account: String,
    container: String,
    /// What stands before a blob's name.
    base: String,
    /// The same for clients.
    public: String,
    /// Keeps the keys that Entra ID's tokens are exchanged for.
    delegation: UserDelegationSasGranter,
    clock: Clock,
}

/// Makes calls to a container.
pub(super) fn caller(
    container: &Container,
    environment: HashMap<String, String>,
    stall: Duration,
) -> Result<Caller<Service>, OutboundError> {
    let service = Service::new(container, environment)?;
    let near = service.base.starts_with("http:");
    Caller::new(service, stall, near)
}

impl Service {
    fn new(container: &Container, environment: HashMap<String, String>) -> Result<Self, OutboundError> {
        let own = || format!("https://{}.blob.core.windows.net", container.account);
        let endpoint = container.endpoint.clone().unwrap_or_else(own);
        let public = container.public_endpoint.as_ref().unwrap_or(&endpoint);
        let nothing = UserDelegationSasGrant::for_container(&container.name, UserDelegationSasPermissions::default());
        Ok(Self {
            credentials: Credentials::new(container, environment)?,
            account: container.account.clone(),
            container: container.name.clone(),
            base: format!("{endpoint}/{}", container.name),
            public: format!("{public}/{}", container.name),
            delegation: UserDelegationSasGranter::new(&container.account, nothing).with_trusted_endpoint(&endpoint),
            clock: Clock::system(),
        })
    }

    /// A URL at which clients make this blob, once, within so many seconds.
    pub(super) async fn public(&self, key: &str, life_seconds: u32) -> Result<String, Fault> {
        self.location(&self.public, key, life_seconds).await
    }

    async fn location(&self, base: &str, key: &str, life_seconds: u32) -> Result<String, Fault> {
        let credential = self.credentials.get().await?;
        let protocol = if base.starts_with("https:") { SasProtocol::Https } else { SasProtocol::HttpsAndHttp };
        let token = self.granted(&self.credentials.context(), &credential, key, (life_seconds, protocol)).await?;
        Ok(format!("{base}/{key}?{token}"))
    }

    async fn granted(
        &self,
        context: &Context,
        credential: &Credential,
        key: &str,
        (life_seconds, protocol): (u32, SasProtocol),
    ) -> Result<String, Fault> {
        let life = Duration::from_secs(life_seconds.into());
        let granted = match credential {
            Credential::SharedKey { .. } => {
                let grant = ServiceSasGrant::for_blob(&self.container, key, ServiceSasBlobPermissions::CREATE);
                let config = ServiceSasConfig::new(&self.account).with_protocol(protocol);
                ServiceSasGranter::new(config, grant).grant_credential(context, credential, Some(life)).await
            }
            Credential::BearerToken { .. } => {
                let may = UserDelegationSasPermissions::CREATE;
                let grant = UserDelegationSasGrant::for_blob(&self.container, key, may);
                let start = self.clock.now().minus(SKEW);
                let start = reqsign_core::time::Timestamp::from_millisecond(start.millis())
                    .map_err(|_| Fault::lasting("this machine's clock tells no time that can be signed"))?;
                let granter = self.delegation.clone().with_grant(grant).with_protocol(protocol).with_start(start);
                granter.grant_credential(context, credential, Some(life.min(DELEGATED_LIFE))).await
            }
            Credential::SasToken { .. } => {
                return Err(Fault::lasting(
                    "a SAS token signs nothing for clients: they need the account's key or an identity, or `direct` left out",
                ));
            }
        };
        match granted {
            Ok(Credential::SasToken { token, .. }) => Ok(token),
            Ok(_) => Err(Fault::lasting("what was signed for clients is no SAS token")),
            // Its own sentence may quote what was answered.
            Err(error) => Err(Fault {
                kind: Kind::Passing,
                what: format!("a client's location could not be signed ({:?})", error.kind()),
            }),
        }
    }

    /// The same URL as this server reaches it.
    pub(super) async fn own(&self, key: &str, life_seconds: u32) -> Result<String, Fault> {
        self.location(&self.base, key, life_seconds).await
    }

    /// Is the clock of whoever answered so far from ours that signatures are not believed?
    fn disagrees(&self, head: &Head) -> bool {
        let told = head.header("date").and_then(|date| httpdate::parse_http_date(date).ok());
        let now = self.clock.now().system_time();
        told.is_some_and(|told| {
            told.duration_since(now).or_else(|_| now.duration_since(told)).is_ok_and(|by| by >= SKEW)
        })
    }

    fn url(&self, ask: &Ask<'_>) -> String {
        let slash = if ask.key.is_empty() { "" } else { "/" };
        let mut url = format!("{}{slash}{}", self.base, ask.key);
        // Of one without a value no two signers agree how it is signed.
        for (index, (name, value)) in ask.query.iter().filter(|(_, value)| !value.is_empty()).enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            url.push_str(&format!("{mark}{name}={}", utf8_percent_encode(value, PLAIN)));
        }
        url
    }
}

#[async_trait]
impl Protocol for Service {
    fn place(&self) -> String {
        self.base.clone()
    }

    async fn sign(&self, ask: &Ask<'_>) -> Result<Signed, Fault> {
        let length = match &ask.body {
            Body::None => 0,
            Body::Text(text) => u64::try_from(text.len()).unwrap_or(0),
            Body::Bytes { length, .. } => *length,
        };
        let unfit = |_| Fault::lasting("a request can't be written");
        let mut request = http::Request::builder().method(ask.method.clone()).uri(self.url(ask));
        request = request.header(VERSION.0, VERSION.1).header(header::CONTENT_LENGTH, length);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let (mut head, ()) = request.body(()).map_err(unfit)?.into_parts();
        let credential = self.credentials.get().await?;
        let signed = RequestSigner::new().sign_request(&Context::new(), &mut head, Some(&credential), None).await;
        signed.map_err(|error| Fault {
            kind: Kind::Denied,
            what: format!(
                "the credentials sign nothing ({:?}): the account's key is Base64, as the service shows it",
                error.kind()
            ),
        })?;
        let mut headers = Vec::new();
        for (name, value) in &head.headers {
            // The length goes with the body, the host with the address.
            if ![header::CONTENT_LENGTH, header::HOST].contains(name) {
                let value = value.to_str().map_err(|_| Fault::lasting("a header is no text"))?;
                headers.push((HeaderName::from(name), value.to_owned()));
            }
        }
        Ok(Signed { url: head.uri.to_string(), headers })
    }

    fn judge(&self, status: u16, head: &Head, document: Option<&Element>) -> Fault {
        let mut fault = judge(status, head, document);
        if fault.kind == Kind::Denied && self.disagrees(head) {
            fault.what.push_str(
                ". This machine's clock or the store's is wrong: they differ by more than a signature allows",
            );
        }
        fault
    }

    async fn forget(&self) {
        self.credentials.forget().await;
    }
}

/// What an answer that is no success means.
fn judge(status: u16, head: &Head, document: Option<&Element>) -> Fault {
    let told = head.header("x-ms-error-code").or_else(|| document.and_then(|document| document.get("Code")));
    let code = told.unwrap_or_default();
    let message = document.and_then(|document| document.get("Message")).unwrap_or_default();
    // Behind its first line a message has ids, and what was signed.
    let message = message.lines().next().unwrap_or_default();
    let kind = match (code, status) {
        ("BlobNotFound" | "ResourceNotFound", _) => Kind::Missing,
        ("ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled" | "AccountIsDisabled", _) => Kind::Lasting,
        ("BlobAlreadyExists" | "ConditionNotMet" | "TargetConditionNotMet" | "UnauthorizedBlobOverwrite", _) => {
            Kind::Changed
        }
        ("InvalidBlockList" | "InvalidBlobOrBlock" | "BlockListTooLong" | "BlockCountExceedsLimit", _) => Kind::Parts,
        ("InvalidAuthenticationInfo", _) | (_, 401 | 403) => Kind::Denied,
        ("ServerBusy" | "OperationTimedOut" | "InternalError", _) => Kind::Passing,
        // What a connection damaged or cut on its way is sent again.
        ("Crc64Mismatch" | "Md5Mismatch" | "IncompleteBody" | "RequestBodyIncomplete", _) => Kind::Passing,
        ("UnsupportedHttpVerb" | "UnsupportedQueryParameter" | "UnsupportedHeader", _) | (_, 405 | 501) => {
            Kind::Unserved
        }
        (_, 507) => Kind::Full,
        (_, 404) => Kind::Missing,
        (_, 412) => Kind::Changed,
        (_, 408 | 425 | 429 | 500 | 502 | 503 | 504) => Kind::Passing,
        _ => Kind::Lasting,
    };
    Fault::answered(kind, status, code, message)
}

#[cfg(test)]
impl Service {
    pub(super) async fn forget_for_test(&self) {
        self.credentials.forget().await;
    }

    pub(super) async fn use_for_test(&self, credential: Credential) {
        self.credentials.set(credential).await;
    }
}

#[cfg(test)]
mod tests;
