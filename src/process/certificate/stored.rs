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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn issued() -> Issued {
        let names = vec![String::from("a.example.com"), String::from("b.example.com")];
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 4, 1);
        let key = KeyPair::generate().expect("a key");
        let chain = params.self_signed(&key).expect("a certificate").pem();
        Issued { directory: String::from("https://ca.example/dir"), chain, key: key.serialize_pem() }
    }

    fn read(issued: &Issued) -> Result<Certificate, String> {
        Certificate::read(&serde_json::to_vec(issued).expect("a stored form"))
    }

    #[test]
    fn a_certificate_is_due_when_a_third_of_its_life_is_left() {
        let certificate = read(&issued()).expect("a certificate");
        let day = |text: &str| Timestamp::parse(text).expect("a time");
        assert_eq!((certificate.from, certificate.until), (day("2026-01-01T00:00:00Z"), day("2026-04-01T00:00:00Z")));
        assert_eq!(certificate.due(), day("2026-03-02T00:00:00Z"));
        assert!(!certificate.is_pressing(certificate.until.minus(DAY * 16)));
        assert!(certificate.is_pressing(certificate.until.minus(DAY * 15)));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(certificate.is_for(&names(&["b.example.com", "a.example.com"])));
        for others in
            [&["a.example.com"][..], &["a.example.com", "c.example.com"], &["a.example.com", "b.example.com", "c"]]
        {
            assert!(!certificate.is_for(&names(others)), "{others:?}");
        }
    }

    #[test]
    fn what_can_not_be_read_is_said_without_the_key() {
        let whole = issued();
        let secret = whole.key.lines().nth(1).expect("a line").to_owned();
        let with = |change: &dyn Fn(&mut Issued)| {
            let mut issued = issued();
            issued.key.clone_from(&whole.key);
            change(&mut issued);
            read(&issued).expect_err("it can't be read")
        };
        for (refused, why) in [
            (with(&|issued| issued.chain.clear()), "empty"),
            (with(&|issued| issued.chain = issued.key.clone()), "empty"),
            (with(&|issued| issued.key = issued.key.replace("BEGIN", "BEGUN")), "key is not PEM"),
            (with(&|issued| issued.chain = issued.chain.replace("MII", "AAA")), "parsed"),
        ] {
            assert!(refused.contains(why) && !refused.contains(&secret), "{refused}");
        }
        assert!(!format!("{:?}", read(&whole).expect("a certificate")).contains(&secret));
    }

    proptest! {
        #[test]
        fn nothing_that_is_kept_breaks_the_reader(kept in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
            let _ = Certificate::read(&kept);
            let mut whole = issued();
            let der = CertificateDer::from_pem_slice(whole.chain.as_bytes()).expect("a certificate");
            let mut bytes = der.to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at.., kept);
            let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
            whole.chain = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
            let _ = read(&whole);
        }
    }
}
