//! The certificate that a listener shows.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::rustls::server::{Acceptor, ClientHello, ResolvesServerCertUsingSni};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, rustls};

use crate::config::Config;

/// What an authority's examiner speaks, and nothing else (RFC 8737).
const EXAMINER: &[u8] = b"acme-tls/1";

/// Where certificate and key are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// PEM file with the certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The configured files, if there are any.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let (certificate, key) = config.tls_certificate.clone().zip(config.tls_key.clone())?;
        Some(Self { certificate, key })
    }

    fn read(&self) -> io::Result<Arc<rustls::ServerConfig>> {
        let named = |path: &PathBuf, error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| named(&self.certificate, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| named(&self.key, &error))?;
        showing(Chain { certificates: chain, key }).map_err(|error| named(&self.certificate, &error))
    }
}

/// A certificate chain with its key.
pub struct Chain {
    /// The certificate, then those that lead to a root.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

/// Knows which names an authority is about to examine over TLS (TLS-ALPN-01, RFC 8737).
#[async_trait]
pub trait Examined: Send + Sync {
    /// The certificate that proves that the name leads here, if an order of ours has it examined.
    async fn proof(&self, name: &str) -> Option<Chain>;
}

/// A certificate that is in no file: it may come, and be replaced, while the server runs.
pub struct Shown {
    current: RwLock<Arc<rustls::ServerConfig>>,
    examined: Arc<dyn Examined>,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

impl Shown {
    /// Nothing yet: handshakes fail, but those of an examiner.
    ///
    /// # Errors
    /// The TLS library refuses its own defaults.
    pub fn new(examined: Arc<dyn Examined>) -> io::Result<Self> {
        Ok(Self { current: RwLock::new(showing_nothing().map_err(io::Error::other)?), examined })
    }

    /// Shows this certificate in every handshake from now on. Connections that are there go on.
    ///
    /// # Errors
    /// Certificate and key do not belong together, or can't be used.
    pub fn show(&self, chain: Chain) -> io::Result<()> {
        let config = showing(chain).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    fn current(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends a handshake; nothing comes of one with an examiner, who has seen all when it is over.
    async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<Option<TlsStream<S>>> {
        let handshake = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let Some(name) = examined_name(&handshake.client_hello()) else {
            return handshake.into_stream(self.current()).await.map(Some);
        };
        let proof = match self.examined.proof(&name).await {
            Some(chain) => {
                tracing::info!(name, "an authority examines a name");
                proving(chain)
            }
            None => showing_nothing(),
        };
        handshake.into_stream(proof.map_err(io::Error::other)?).await?.shutdown().await.map(|()| None)
    }
}

/// The name that an examiner asks about, if it is one.
fn examined_name(hello: &ClientHello<'_>) -> Option<String> {
    let mut protocols = hello.alpn()?;
    let alone = protocols.next() == Some(EXAMINER) && protocols.next().is_none();
    alone.then(|| hello.server_name().map(str::to_ascii_lowercase)).flatten()
}

fn builder() -> Result<rustls::ConfigBuilder<rustls::ServerConfig, rustls::server::WantsServerCert>, rustls::Error> {
    let builder = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn speaking(mut config: rustls::ServerConfig, protocol: &[u8]) -> Arc<rustls::ServerConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

fn showing(chain: Chain) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    Ok(speaking(builder()?.with_single_cert(chain.certificates, chain.key)?, b"http/1.1"))
}

/// What is for an examiner has a critical extension that nobody else knows: the usual way would refuse the certificate.
fn proving(chain: Chain) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    let key = provider().key_provider.load_private_key(chain.key)?;
    let certified = SingleCertAndKey::from(CertifiedKey::new(chain.certificates, key));
    Ok(speaking(builder()?.with_cert_resolver(Arc::new(certified)), EXAMINER))
}

/// Every handshake ends with an alert, which says more than a closed connection.
fn showing_nothing() -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    Ok(Arc::new(builder()?.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()))))
}

/// Where a listener has its certificate.
pub(super) enum Tls {
    /// In files, which a SIGHUP makes it read again.
    Files {
        files: TlsFiles,
        current: RwLock<Arc<rustls::ServerConfig>>,
    },
    Shown(Arc<Shown>),
}

impl Tls {
    /// # Errors
    /// A file can't be read; the message names it.
    pub(super) fn of(files: TlsFiles) -> io::Result<Self> {
        Ok(Self::Files { current: RwLock::new(files.read()?), files })
    }

    /// Ends a handshake. Nothing may come of it: then the connection has served its end.
    pub(super) async fn accept<S>(&self, stream: S) -> io::Result<Option<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self {
            Self::Files { current, .. } => {
                let current = Arc::clone(&current.read().unwrap_or_else(PoisonError::into_inner));
                TlsAcceptor::from(current).accept(stream).await.map(Some)
            }
            Self::Shown(shown) => shown.accept(stream).await,
        }
    }

    pub(super) fn reload(&self) {
        match self {
            Self::Files { files, current } => match files.read() {
                Ok(config) => {
                    *current.write().unwrap_or_else(PoisonError::into_inner) = config;
                    tracing::info!("the certificate was read again");
                }
                Err(error) => tracing::error!(%error, "the certificate can't be read again; the old one stays"),
            },
            Self::Shown(_) => tracing::info!("there is nothing to read again: the certificate is in no file"),
        }
    }
}
