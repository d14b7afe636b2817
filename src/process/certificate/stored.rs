//! What the database keeps about certificates: the one in use, the account at the authority, and what an order under way
//! has to prove. All of it is shared by the processes at one database.

use std::collections::BTreeMap;
use std::time::Duration;

use instant_acme::AccountCredentials;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::clock::Timestamp;
use crate::http::server::Chain;

/// Settings.
pub(super) const CERTIFICATE: &str = "acme_certificate";
pub(super) const ACCOUNT: &str = "acme_account";
pub(super) const PROOFS: &str = "acme_proofs";

/// A certificate as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Issued {
    /// The directory of the authority that issued it.
    pub(super) directory: String,
    /// PEM of the chain.
    pub(super) chain: String,
    /// PEM of the key.
    pub(super) key: String,
}

/// The account as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) directory: String,
    pub(super) contact: Option<String>,
    pub(super) credentials: AccountCredentials,
}

/// What an examiner is to see, by name: the digest of the proof, in hexadecimal.
pub(super) type Proofs = BTreeMap<String, String>;

/// A certificate that was read.
pub struct Certificate {
    /// The host names that it is for.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    pub(super) directory: String,
    pub(super) chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).field("until", &self.until).finish_non_exhaustive()
    }
}

impl Certificate {
    /// # Errors
    /// A sentence that says what can't be read. It holds nothing of the key.
    pub(super) fn read(kept: &[u8]) -> Result<Self, String> {
        let kept: Issued =
            serde_json::from_slice(kept).map_err(|_| String::from("it has not the form of this version"))?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(kept.chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("its chain is not PEM: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(kept.key.as_bytes()).map_err(|_| String::from("its key is not PEM"))?;
        let first = chain.first().ok_or("its chain is empty")?;
        let (_, parsed) =
            parse_x509_certificate(first).map_err(|error| format!("the certificate can't be parsed: {error}"))?;
        let names = match parsed.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(host_name).collect(),
            Ok(None) => Vec::new(),
            Err(error) => return Err(format!("the names of the certificate can't be parsed: {error}")),
        };
        let at = |seconds: i64| Timestamp(seconds.saturating_mul(1000));
        let validity = parsed.validity();
        Ok(Self {
            names,
            from: at(validity.not_before.timestamp()),
            until: at(validity.not_after.timestamp()),
            directory: kept.directory,
            key,
            chain,
        })
    }

    /// What a listener shows.
    pub(super) fn shown(&self) -> Chain {
        Chain { certificates: self.chain.clone(), key: self.key.clone_key() }
    }

    /// Has it exactly these names?
    pub(super) fn is_for(&self, domains: &[String]) -> bool {
        self.names.len() == domains.len() && domains.iter().all(|domain| self.names.contains(domain))
    }

    fn life(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.until.0.saturating_sub(self.from.0)).unwrap_or(0))
    }

    /// When it is to be renewed, whatever its authority says: a third of its life before its end.
    pub(super) fn due(&self) -> Timestamp {
        self.until.minus(self.life() / 3)
    }

    /// Is so little of its life left that somebody has to look?
    pub(super) fn is_pressing(&self, now: Timestamp) -> bool {
        now >= self.until.minus(self.life() / 6)
    }
}

fn host_name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name { Some(name.to_ascii_lowercase()) } else { None }
}
