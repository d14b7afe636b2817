//! Bearer tokens that issuers sign (JSON Web Tokens, RFC 7519): read and judged here (`jwt`), by keys that are read
//! (`jwks`) and fetched (`keys`) here. What judges does no I/O and is given the time.

mod jwks;
mod jwt;
mod keys;

use std::sync::Arc;

use crate::clock::Clock;
use crate::model::issuer::{Algorithm, Issuer, KeySource};

pub use jwks::{Key, Keys};
pub use jwt::{Token, Vouched};

use keys::{Found, KeyRing};

/// Why a token does not hold, for whoever may know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    /// The broken rule, as a stable word such as `token_expired`.
    pub rule: &'static str,
    /// One sentence with the values; nothing of it lets anybody in.
    pub detail: String,
}

impl Unfit {
    pub(crate) fn new(rule: &'static str, detail: impl Into<String>) -> Self {
        Self { rule, detail: detail.into() }
    }
}

/// Why a token's signature is not trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Distrust {
    /// It does not hold.
    Unfit(Unfit),
    /// The issuer's keys are not to be had, so that nobody can tell. The sentence says what happened.
    Silent(String),
}

/// Judges tokens by their issuers' keys, which it keeps.
#[derive(Debug)]
pub struct Tokens {
    keys: Arc<KeyRing>,
}

impl Tokens {
    /// No keys yet. Issuers are asked when a token of theirs comes.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { keys: Arc::new(KeyRing::new(clock)) }
    }

    /// Does the signature hold, by an algorithm that the issuer may use and a key that it has? Which algorithm and key is
    /// decided by the issuer's terms: keys that the token itself brings or names are never looked at.
    ///
    /// # Errors
    /// [`Distrust`].
    pub async fn check_signature(&self, token: &Token, issuer: &Issuer) -> Result<(), Distrust> {
        let algorithm = algorithm(token, issuer).map_err(Distrust::Unfit)?;
        let source = issuer.keys();
        let kid = token.kid();
        let unknown = |detail: String| Err(Distrust::Unfit(Unfit::new("token_key", detail)));
        match self.keys.find(&source, kid, algorithm).await {
            Found::Key(key) => match key.holds(algorithm, token.signed(), token.signature()) {
                true => Ok(()),
                false => {
                    let detail = format!("the signature does not hold by the issuer's key {}", shown_kid(kid));
                    Err(Distrust::Unfit(Unfit::new("token_signature", detail)))
                }
            },
            Found::Unknown => unknown(format!("the issuer has no {} key {}", algorithm.name(), shown_kid(kid))),
            Found::Many => {
                unknown(format!("the token names no key (`kid`), and the issuer has several for {}", algorithm.name()))
            }
            Found::Silent(what) => Err(Distrust::Silent(what)),
        }
    }
}

fn shown_kid(kid: Option<&str>) -> String {
    kid.map_or_else(|| "without a `kid`".to_owned(), |kid| format!("`{}`", jwt::shown(kid)))
}

/// The token's algorithm, if the issuer may use it.
fn algorithm(token: &Token, issuer: &Issuer) -> Result<Algorithm, Unfit> {
    match Algorithm::from_name(token.algorithm()) {
        Some(algorithm) if issuer.algorithms.contains(&algorithm) => Ok(algorithm),
        Some(_) | None => {
            let wanted: Vec<&str> = issuer.algorithms.iter().map(|algorithm| algorithm.name()).collect();
            let detail = format!(
                "the token is signed with `{}`, and {} is taken",
                jwt::shown(token.algorithm()),
                wanted.join(", ")
            );
            Err(Unfit::new("token_algorithm", detail))
        }
    }
}

/// Two issuers' terms by which a signature holds alike.
#[must_use]
pub fn same_signature(one: &Issuer, other: &Issuer) -> bool {
    let key = |issuer: &Issuer| -> (KeySource, Vec<Algorithm>) { (issuer.keys(), issuer.algorithms.clone()) };
    key(one) == key(other)
}
