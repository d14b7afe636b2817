//! One order, from the account to the certificate.

use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RenewalInfo, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::CertificateDer;

use super::client::Client;
use super::stored::{ACCOUNT, Account, CERTIFICATE, Certificate, Issued, PROOFS, Proofs};
use crate::config::Config;
use crate::limits::{ACME_ORDER_TIME, ACME_POLL_TIME, ACME_TOLD_CHARS};
use crate::meta::{MetaError, MetaStore};

/// The authority does not know the account.
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
/// It wants another nonce.
const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";
/// How often a call is made that is refused for its nonce alone. The library makes it three times within each.
const NONCES: usize = 6;

/// Why there is no certificate. The sentences hold no secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// The authority said no, or could not be asked.
    #[error("{}", shortened(.0))]
    Authority(#[from] instant_acme::Error),
    /// The authority has examined the names, and is not convinced.
    #[error("the authority refused {}", shortened(.0))]
    Refused(String),
    /// It did not offer to examine a name over TLS.
    #[error("the authority does not examine {0} over TLS (tls-alpn-01)")]
    NoChallenge(String),
    /// It wants something else.
    #[error("the authority's order is in a state that leads nowhere: {0}")]
    Stuck(String),
    /// A key or a request could not be made.
    #[error("the request could not be made: {0}")]
    Request(#[from] rcgen::Error),
    /// What it issued can't be used.
    #[error("what the authority issued can't be used: {0}")]
    Unusable(String),
    /// The order took too long.
    #[error("the order did not end within {} seconds", ACME_ORDER_TIME.as_secs())]
    Late,
    /// The database could not be asked.
    #[error("the database: {0}")]
    Meta(#[from] MetaError),
    /// What is to be kept has no stored form.
    #[error("it can't be kept: {0}")]
    Form(#[from] serde_json::Error),
}

fn shortened(what: &impl ToString) -> String {
    let what = what.to_string();
    match what.char_indices().nth(ACME_TOLD_CHARS) {
        Some((end, _)) => format!("{}…", what.get(..end).unwrap_or_default()),
        None => what,
    }
}

fn is(error: &instant_acme::Error, kind: &str) -> bool {
    matches!(error, instant_acme::Error::Api(problem) if problem.r#type.as_deref() == Some(kind))
}

/// Makes a call again that was refused for its nonce, and so has done nothing. (As a function it would want a proof that
/// what the call borrows may change threads, which the compiler does not find.)
macro_rules! again {
    ($call:expr) => {{
        let mut tries = 1;
        loop {
            match $call.await {
                Err(error) if tries < NONCES && is(&error, BAD_NONCE) => tries += 1,
                answer => break answer,
            }
        }
    }};
}

/// Tells the authority that it may look. One that is quick answers with what it has found already.
async fn examined(order: &mut Order) -> Result<(), instant_acme::Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01)
        {
            again!(challenge.set_ready())?;
        }
    }
    Ok(())
}

/// What is needed to ask an authority for something.
#[derive(Clone, Copy)]
pub(super) struct Ordering<'a> {
    pub(super) config: &'a Config,
    pub(super) meta: &'a dyn MetaStore,
    pub(super) client: &'a Client,
}

impl Ordering<'_> {
    /// Orders a certificate in place of another, if there is one, and keeps it.
    pub(super) async fn certificate(&self, before: Option<&Certificate>) -> Result<(), OrderError> {
        let made = tokio::time::timeout(ACME_ORDER_TIME, self.issued(before)).await;
        let kept = match made {
            Ok(Ok(issued)) => self.keep(&issued).await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(OrderError::Late),
        };
        // Nothing is examined any more, whatever has become of it.
        if let Err(error) = self.prove(&Proofs::new()).await {
            tracing::warn!(%error, "proofs that nobody examines any more stay until the next order");
        }
        kept
    }

    async fn keep(&self, issued: &Issued) -> Result<(), OrderError> {
        let issued = serde_json::to_vec(issued)?;
        let certificate = Certificate::read(&issued).map_err(OrderError::Unusable)?;
        if !certificate.is_for(&self.config.acme_domains) {
            return Err(OrderError::Unusable(format!("it is for {:?}", certificate.names)));
        }
        self.meta.set_setting(CERTIFICATE, issued, false).await?;
        Ok(())
    }

    async fn issued(&self, before: Option<&Certificate>) -> Result<Issued, OrderError> {
        let mut order = self.order(before).await?;
        let mut proofs = Proofs::new();
        // The order keeps what was fetched: from here on its authorizations cost no call.
        again!(fetched(&mut order))?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let name = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Valid => {}
                AuthorizationStatus::Pending => {
                    let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
                    let challenge = challenge.ok_or_else(|| OrderError::NoChallenge(name.clone()))?;
                    proofs.insert(name, hex::encode(challenge.key_authorization().digest()));
                }
                other @ (AuthorizationStatus::Invalid
                | AuthorizationStatus::Revoked
                | AuthorizationStatus::Expired
                | AuthorizationStatus::Deactivated) => return Err(OrderError::Stuck(format!("{name} is {other:?}"))),
            }
        }
        // Before the authority is told that it may look: any of the processes may be asked.
        self.prove(&proofs).await?;
        let patience = RetryPolicy::new().timeout(ACME_POLL_TIME);
        let ready = match examined(&mut order).await {
            Err(error) => Err(error.into()),
            Ok(()) => match again!(order.poll_ready(&patience)) {
                Ok(OrderStatus::Ready) => Ok(()),
                Ok(other) => Err(OrderError::Stuck(format!("{other:?}"))),
                Err(error) => Err(error.into()),
            },
        };
        if let Err(error) = ready {
            return Err(refusals(&mut order).await.map_or(error, OrderError::Refused));
        }
        let mut params = CertificateParams::new(self.config.acme_domains.clone())?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let request = params.serialize_request(&key)?;
        again!(order.finalize_csr(request.der()))?;
        let chain = again!(order.poll_certificate(&patience))?;
        Ok(Issued { directory: self.config.acme_directory.clone(), chain, key: key.serialize_pem() })
    }

    async fn order(&self, before: Option<&Certificate>) -> Result<Order, OrderError> {
        let names: Vec<_> = self.config.acme_domains.iter().cloned().map(Identifier::Dns).collect();
        let mut account = self.account(true).await?;
        // A renewal counts less than an order where the authority knows what it replaces.
        if let Some(before) = before.filter(|before| before.directory == self.config.acme_directory)
            && let Some(id) = identifier(before)
        {
            match again!(account.new_order(&NewOrder::new(&names).replaces(id.clone()))) {
                Ok(order) => return Ok(order),
                Err(error) => tracing::debug!(%error, "a certificate is ordered without saying what it replaces"),
            }
        }
        match again!(account.new_order(&NewOrder::new(&names))) {
            Err(error) if is(&error, NO_ACCOUNT) => {
                tracing::warn!("the authority does not know our account any more; another is made");
                account = self.account(false).await?;
                Ok(again!(account.new_order(&NewOrder::new(&names)))?)
            }
            order => Ok(order?),
        }
    }

    /// When the authority wants a certificate to be renewed, if it has an opinion.
    pub(super) async fn renewal(&self, certificate: &Certificate) -> Result<Option<RenewalInfo>, OrderError> {
        let Some(id) = identifier(certificate) else { return Ok(None) };
        match self.account(true).await?.renewal_info(&id).await {
            Ok((info, _)) => Ok(Some(info)),
            Err(instant_acme::Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The account: the one that is kept, if it may be and is of this authority, or a new one.
    async fn account(&self, may_be_kept: bool) -> Result<instant_acme::Account, OrderError> {
        let builder = || instant_acme::Account::builder_with_http(Box::new(self.client.clone()));
        let contact = self.config.acme_contact.as_ref().map(|contact| format!("mailto:{contact}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let kept = self.meta.setting(ACCOUNT).await?.and_then(|kept| serde_json::from_slice::<Account>(&kept).ok());
        if let Some(kept) = kept.filter(|kept| may_be_kept && kept.directory == self.config.acme_directory) {
            let known = kept.contact == self.config.acme_contact;
            let stored = serde_json::to_vec(&Account { contact: self.config.acme_contact.clone(), ..kept })?;
            let kept: Account = serde_json::from_slice(&stored)?;
            let account = builder().from_credentials(kept.credentials).await?;
            if !known {
                again!(account.update_contacts(&contact))?;
                self.meta.set_setting(ACCOUNT, stored, false).await?;
            }
            return Ok(account);
        }
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: self.config.acme_terms_agreed,
            only_return_existing: false,
        };
        let directory = self.config.acme_directory.clone();
        let (account, credentials) = again!(builder().create(&new, directory.clone(), None))?;
        let kept = Account { directory, contact: self.config.acme_contact.clone(), credentials };
        self.meta.set_setting(ACCOUNT, serde_json::to_vec(&kept)?, false).await?;
        tracing::info!(account = account.id(), "an account was made at the authority");
        Ok(account)
    }

    async fn prove(&self, proofs: &Proofs) -> Result<(), OrderError> {
        self.meta.set_setting(PROOFS, serde_json::to_vec(proofs)?, false).await?;
        Ok(())
    }
}

async fn fetched(order: &mut Order) -> Result<(), instant_acme::Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        authorization?;
    }
    Ok(())
}

/// By what an authority knows a certificate again.
fn identifier(certificate: &Certificate) -> Option<CertificateIdentifier<'static>> {
    let first: &CertificateDer<'_> = certificate.chain.first()?;
    CertificateIdentifier::try_from(first).ok().map(CertificateIdentifier::into_owned)
}

/// What the authority did not like, name by name.
async fn refusals(order: &mut Order) -> Option<String> {
    // An order that was asked how it stands has forgotten what was fetched before.
    if let Err(error) = again!(fetched(order)) {
        tracing::debug!(%error, "what the authority did not like can't be read");
    }
    let mut told = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        if again!(authorization.refresh()).is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        for problem in authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            told.push(format!(
                "{name}: {}",
                problem.detail.as_deref().or(problem.r#type.as_deref()).unwrap_or("no reason")
            ));
        }
    }
    (!told.is_empty()).then(|| told.join("; "))
}
