//! The server's own certificate: ordered by ACME (RFC 8555), kept in the database, renewed in time and shown without a
//! restart.
//!
//! Processes at one database share certificate and account. The one that leads orders; each looks what is kept and shows
//! it; and each answers an authority's examiner, because nobody knows to which of them a balancer sends it.

mod client;
mod order;
mod stored;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use tokio::sync::watch;

use self::client::Client;
use self::order::Ordering;
pub use self::stored::Certificate;
use self::stored::{CERTIFICATE, PROOFS, Proofs};
use crate::clock::{Timestamp, random_bytes};
use crate::config::Config;
use crate::engine::Engine;
use crate::http::server::{Chain, Examined, Shown};
use crate::limits::{ACME_PAUSE, ACME_PAUSE_MAX, ACME_RENEWAL_INFO};
use crate::meta::{MetaError, MetaStore};

/// How often it is looked whether another certificate is kept, or one is due.
const TICK: Duration = Duration::from_secs(2);
/// Who does not lead looks again after this time.
const FOLLOWING: Duration = Duration::from_secs(30);

/// Why certificates can't be kept up.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The file with the authority's roots can't be used.
    #[error(
        "the configuration field `acme_ca` can't be `{path}`: {reason}; give a PEM file with the roots of the authority"
    )]
    Roots {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The system's roots can't be used.
    #[error("the authority {directory} can't be called: {reason}")]
    Calls {
        /// Which one.
        directory: String,
        /// Why.
        reason: String,
    },
    /// The TLS library refuses.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] io::Error),
}

/// The certificate that is kept, if there is one, or why it can't be read.
///
/// # Errors
/// [`MetaError`].
pub async fn kept(meta: &dyn MetaStore) -> Result<Option<Result<Certificate, String>>, MetaError> {
    Ok(meta.setting(CERTIFICATE).await?.map(|kept| Certificate::read(&kept)))
}

/// Keeps the certificate up.
#[derive(Debug)]
pub struct Keeper {
    engine: Arc<Engine>,
    config: Arc<Config>,
    client: Client,
    shown: Arc<Shown>,
    /// What was kept when it was last looked.
    seen: Option<Vec<u8>>,
    certificate: Option<Certificate>,
    /// Orders that failed since the last that did not.
    failures: u32,
    /// Not before this time of the monotonic clock is anything ordered.
    next_order: Duration,
    next_info: Duration,
    /// When the authority wants the certificate to be renewed.
    wanted: Option<Timestamp>,
}

impl Keeper {
    /// One that keeps up what is configured, if anything is.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn new(config: &Arc<Config>, engine: &Arc<Engine>) -> Result<Option<Self>, KeeperError> {
        if config.acme_domains.is_empty() {
            return Ok(None);
        }
        let client = Client::new(config).map_err(|reason| match &config.acme_ca {
            Some(path) => KeeperError::Roots { path: path.display().to_string(), reason },
            None => KeeperError::Calls { directory: config.acme_directory.clone(), reason },
        })?;
        Ok(Some(Self {
            engine: Arc::clone(engine),
            config: Arc::clone(config),
            client,
            shown: Arc::new(Shown::new(Arc::new(Proving { engine: Arc::clone(engine) }))?),
            seen: None,
            certificate: None,
            failures: 0,
            next_order: Duration::ZERO,
            next_info: Duration::ZERO,
            wanted: None,
        }))
    }

    /// What a listener shows.
    #[must_use]
    pub const fn shown(&self) -> &Arc<Shown> {
        &self.shown
    }

    /// Shows what is kept, without asking an authority.
    ///
    /// # Errors
    /// [`MetaError`].
    pub async fn look(&mut self) -> Result<(), MetaError> {
        let Some(kept) = self.engine.meta.setting(CERTIFICATE).await? else { return Ok(()) };
        if self.seen.as_ref() == Some(&kept) {
            return Ok(());
        }
        let read = Certificate::read(&kept);
        self.seen = Some(kept);
        let shown = read.and_then(|certificate| {
            self.shown.show(certificate.shown()).map_err(|error| error.to_string()).map(|()| certificate)
        });
        match shown {
            Ok(certificate) => {
                let until = certificate.until.rfc3339();
                tracing::info!(names = certificate.names.join(" "), until, "a certificate is shown");
                self.certificate = Some(certificate);
                (self.failures, self.wanted, self.next_info) = (0, None, Duration::ZERO);
            }
            Err(reason) => tracing::error!(reason, "the certificate that is kept can't be used"),
        }
        Ok(())
    }

    /// Keeps it up until `stop` says so; an order that is under way is left.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        if self.certificate.is_none() {
            tracing::warn!(
                names = self.config.acme_domains.join(" "),
                "there is no certificate yet: TLS handshakes fail until the first order has succeeded"
            );
        }
        loop {
            let turn = async {
                match self.turn().await {
                    Ok(()) => tokio::time::sleep(TICK).await,
                    Err(MetaError::Closed) => std::future::pending().await,
                    Err(error) => {
                        tracing::error!(%error, "could not look for a certificate");
                        tokio::time::sleep(TICK).await;
                    }
                }
            };
            tokio::select! {
                () = turn => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn turn(&mut self) -> Result<(), MetaError> {
        self.look().await?;
        let now = self.engine.clock.monotonic();
        if let Some(reason) = self.due() {
            if now >= self.next_order && self.engine.meta.leads().await? {
                self.order(reason).await;
                self.look().await?;
                if let Some(still) = self.due().filter(|_| self.failures == 0) {
                    tracing::error!(reason = still, "the new certificate is due already; is the clock right?");
                    self.pause();
                }
            }
        } else if now >= self.next_info {
            self.next_info = now + FOLLOWING;
            if self.engine.meta.leads().await? {
                self.ask_when().await;
            }
        }
        self.measure();
        Ok(())
    }

    /// Why a certificate is to be ordered now, if one is.
    fn due(&self) -> Option<&'static str> {
        let now = self.engine.clock.now();
        match &self.certificate {
            None => Some("there is none"),
            Some(known) if known.directory != self.config.acme_directory => Some("it is of another authority"),
            Some(known) if !known.is_for(&self.config.acme_domains) => Some("it is for other names"),
            Some(known) if now >= known.due() => Some("two thirds of its life are over"),
            Some(_) if self.wanted.is_some_and(|wanted| now >= wanted) => Some("its authority wants it to be renewed"),
            Some(_) => None,
        }
    }

    async fn order(&mut self, reason: &'static str) {
        let (names, directory) = (self.config.acme_domains.join(" "), &self.config.acme_directory);
        tracing::info!(names, directory, reason, "a certificate is ordered");
        let ordering = Ordering { config: &self.config, meta: self.engine.meta.as_ref(), client: &self.client };
        match ordering.certificate(self.certificate.as_ref()).await {
            Ok(()) => {
                metrics::counter!("landfall_certificate_orders_total", "outcome" => "issued").increment(1);
                tracing::info!(names, directory, "a certificate was issued");
                (self.failures, self.next_order) = (0, Duration::ZERO);
            }
            Err(error) => {
                metrics::counter!("landfall_certificate_orders_total", "outcome" => "failed").increment(1);
                let again_in_seconds = self.pause().as_secs();
                let now = self.engine.clock.now();
                let (failures, names) = (self.failures, self.config.acme_domains.join(" "));
                if self.certificate.as_ref().is_none_or(|known| known.is_pressing(now)) {
                    tracing::error!(%error, names, failures, again_in_seconds, "no certificate was issued");
                } else {
                    tracing::warn!(%error, names, failures, again_in_seconds, "no certificate was issued; the old one stays");
                }
            }
        }
    }

    /// Counts a failure. How long nothing is ordered now.
    fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = ACME_PAUSE.saturating_mul(1 << (self.failures - 1).min(16)).min(ACME_PAUSE_MAX);
        // Servers that were started together do not come again together.
        let pause = pause + pause.mul_f32(fraction() / 4.0);
        let pause = pause.max(self.client.asked_pause());
        self.next_order = self.engine.clock.monotonic() + pause;
        pause
    }

    /// Asks the authority when it wants the certificate to be renewed (RFC 9773).
    async fn ask_when(&mut self) {
        let Some(certificate) = &self.certificate else { return };
        let ordering = Ordering { config: &self.config, meta: self.engine.meta.as_ref(), client: &self.client };
        match ordering.renewal(certificate).await {
            Ok(Some(info)) => {
                let at = |time: i64| Timestamp(time.saturating_mul(1000));
                let (start, end) =
                    (at(info.suggested_window.start.unix_timestamp()), at(info.suggested_window.end.unix_timestamp()));
                let length = Duration::from_millis(u64::try_from(end.0.saturating_sub(start.0)).unwrap_or(0));
                // A time that was chosen stays while it fits.
                if self.wanted.is_none_or(|wanted| wanted < start || wanted > end) {
                    let wanted = start.plus(length.mul_f32(fraction()));
                    tracing::info!(
                        wanted = wanted.rfc3339(),
                        "the authority says when it wants the certificate to be renewed"
                    );
                    self.wanted = Some(wanted);
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "the authority does not say when it wants the certificate to be renewed");
            }
        }
        self.next_info = self.engine.clock.monotonic() + ACME_RENEWAL_INFO;
    }

    fn measure(&self) {
        if let Some(certificate) = &self.certificate {
            let left = certificate.until.seconds().saturating_sub(self.engine.clock.now().seconds());
            let left = i32::try_from(left).unwrap_or(if left < 0 { i32::MIN } else { i32::MAX });
            metrics::gauge!("landfall_certificate_expires_seconds").set(f64::from(left));
        }
    }
}

/// A number between 0 and 1.
fn fraction() -> f32 {
    f32::from(u16::from_le_bytes(random_bytes())) / f32::from(u16::MAX)
}

/// Answers examiners with what is kept for them.
struct Proving {
    engine: Arc<Engine>,
}

#[async_trait]
impl Examined for Proving {
    async fn proof(&self, name: &str) -> Option<Chain> {
        let kept = match self.engine.meta.setting(PROOFS).await {
            Ok(kept) => kept?,
            Err(error) => {
                tracing::warn!(%error, "an examiner can't be answered");
                return None;
            }
        };
        let proofs: Proofs = serde_json::from_slice(&kept).ok()?;
        let digest = hex::decode(proofs.get(name)?).ok().filter(|digest| digest.len() == 32)?;
        proof_of(name, &digest).inspect_err(|error| tracing::error!(%error, "an examiner can't be answered")).ok()
    }
}

fn proof_of(name: &str, digest: &[u8]) -> Result<Chain, rcgen::Error> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Chain { certificates: vec![certificate.der().clone()], key: rustls_pki_types::PrivateKeyDer::from(key) })
}
