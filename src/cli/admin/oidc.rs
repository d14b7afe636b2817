//! Who a tenant believes.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::key::parse_rights;
use super::{AdminError, Place, existing, refused, unknown_tenant};
use crate::clock::Timestamp;
use crate::meta::MetaStore;
use crate::model::access::Rights;
use crate::model::issuer::{Algorithm, Issuer};

/// Issuers.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum OidcCommand {
    /// Trust an issuer on these terms, in the place of all terms before
    Set {
        /// The tenant's id
        id: String,
        /// What the tokens' `iss` is, exactly
        #[arg(long, value_name = "URL")]
        issuer: String,
        /// Whom a token must be for (`aud`); may be given several times, and one of them is enough
        #[arg(long = "audience", value_name = "TEXT", required = true)]
        audiences: Vec<String>,
        /// Where its keys are [default: what its /.well-known/openid-configuration says]
        #[arg(long, value_name = "URL")]
        jwks_url: Option<String>,
        /// Algorithms that are taken, comma-separated: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA
        #[arg(long, value_name = "LIST", default_value = "RS256")]
        algorithms: String,
        /// Seconds by which its clock may differ: 0 to 600
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        leeway: u64,
        /// What every valid token may do, comma-separated, as with keys [default: nothing]
        #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
        rights: String,
        /// The claim whose values give more, such as roles, groups or scope; or a JSON pointer such as
        /// /realm_access/roles
        #[arg(long, value_name = "NAME")]
        claim: Option<String>,
        /// What a value of the claim gives, as VALUE=LIST; may be given several times
        #[arg(long = "map", value_name = "VALUE=LIST", requires = "claim")]
        mapped: Vec<String>,
        /// Let its keys come over plain HTTP from another machine: whoever is between can then let anybody in
        #[arg(long)]
        plain_http: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Show the issuers that a tenant trusts
    Show {
        /// The tenant's id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Trust an issuer no more, at once
    Remove {
        /// The tenant's id
        id: String,
        /// The issuer
        #[arg(long, value_name = "URL")]
        issuer: String,
        #[command(flatten)]
        place: Place,
    },
}

impl OidcCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Set { place, .. } | Self::Show { place, .. } | Self::Remove { place, .. } => place,
        }
    }

    pub(super) async fn run(&self, meta: &dyn MetaStore, now: Timestamp) -> Result<Vec<Value>, AdminError> {
        match self {
            Self::Set {
                id,
                issuer: url,
                audiences,
                jwks_url,
                algorithms,
                leeway,
                rights,
                claim,
                mapped,
                plain_http,
                ..
            } => {
                let issuer = Issuer {
                    tenant: existing(meta, id).await?,
                    url: url.clone(),
                    audiences: audiences.clone(),
                    jwks_url: jwks_url.clone(),
                    algorithms: parse_algorithms(algorithms)?,
                    leeway: std::time::Duration::from_secs(*leeway),
                    rights: parse_rights(rights)?,
                    claim: claim.clone(),
                    mapped: mapped.iter().map(|pair| parse_mapped(pair)).collect::<Result<_, _>>()?,
                    plain_http: *plain_http,
                    created: now,
                };
                issuer.check().map_err(refused)?;
                let shown = shown_issuer(&issuer);
                match meta.put_issuer(issuer).await? {
                    true => Ok(vec![shown]),
                    false => Err(unknown_tenant(id)),
                }
            }
            Self::Show { id, .. } => {
                let tenant = existing(meta, id).await?;
                let issuers: Vec<Value> = meta.issuers(&tenant).await?.iter().map(shown_issuer).collect();
                Ok(vec![json!({"tenant": tenant, "issuers": issuers})])
            }
            Self::Remove { id, issuer, .. } => {
                let tenant = existing(meta, id).await?;
                if !meta.remove_issuer(&tenant, issuer).await? {
                    return Err(refused(format!(
                        "the tenant `{id}` does not trust the issuer `{issuer}`: `landfall admin tenant oidc show {id}` shows whom it trusts"
                    )));
                }
                Ok(vec![json!({"tenant": tenant, "issuer": issuer, "removed": true})])
            }
        }
    }
}

fn parse_algorithms(list: &str) -> Result<Vec<Algorithm>, AdminError> {
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let known = || Algorithm::ALL.map(Algorithm::name).join(", ");
        let algorithm = Algorithm::from_name(name).ok_or_else(|| {
            refused(format!("`{name}` is not an algorithm that can be taken: use some of {}", known()))
        })?;
        if !algorithms.contains(&algorithm) {
            algorithms.push(algorithm);
        }
    }
    Ok(algorithms)
}

/// The last `=` divides: values of claims may hold others, rights none.
fn parse_mapped(pair: &str) -> Result<(String, Rights), AdminError> {
    let (value, rights) = pair
        .rsplit_once('=')
        .ok_or_else(|| refused(format!("`{pair}` does not say what a value gives: use VALUE=LIST, as admin=all")))?;
    Ok((value.to_owned(), parse_rights(rights)?))
}

fn shown_issuer(issuer: &Issuer) -> Value {
    let mapped: Map<String, Value> =
        issuer.mapped.iter().map(|(value, rights)| (value.clone(), json!(rights.names()))).collect();
    json!({
        "tenant": issuer.tenant, "issuer": issuer.url, "audiences": issuer.audiences,
        // What is fetched: the keys themselves, or the document that says where they are.
        "jwks_url": issuer.jwks_url, "discovery_url": issuer.jwks_url.is_none().then(|| issuer.keys().url),
        "algorithms": issuer.algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>(),
        "leeway_seconds": issuer.leeway.as_secs(), "rights": issuer.rights.names(), "claim": issuer.claim,
        "map": mapped, "plain_http": issuer.plain_http, "created": issuer.created.rfc3339(),
    })
}
