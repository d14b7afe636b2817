//! `landfall admin`: writes beside a running server, one line of JSON each.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{Place, failed};
use crate::app::{self, StartError};
use crate::clock::{Clock, Timestamp, ordered_uuid, random_bytes, random_uuid};
use crate::config;
use crate::credential;
use crate::meta::{
    EntryMade, KeyInfo, MetaError, MetaStore, NewEntry, NewItemLimits, NewSource, NewStore, Quota, StoreFilter,
    TenantInfo, Upload, UploadFilter,
};
use crate::model::access::Rights;
use crate::model::entry::{Facts, NodeId};
use crate::model::ids::{FileId, KeyId, NAME_CHARS, SessionId, SourceId, StoreId, TenantId, is_name};
use crate::model::issuer::{Algorithm, Issuer};
use crate::model::session::{Session, SessionState};
use crate::model::store::Store;
use crate::store::setup;

/// Uploads that are read in one step.
const UPLOADS_AT_ONCE: u32 = 1000;

/// What to manage.
#[derive(Debug, Subcommand)]
pub(super) enum Admin {
    /// Tenants: organizations or projects
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Sources that items are pushed to
    #[command(subcommand)]
    Source(SourceCommand),
    /// Stores, whose files are searched by their text
    #[command(subcommand)]
    Store(StoreCommand),
    /// Files that stand for nodes of a graph (Cognite: an instanceId)
    #[command(subcommand)]
    Node(NodeCommand),
    /// Uploads of files
    #[command(subcommand)]
    Upload(UploadCommand),
}

/// Tenants.
#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Create a tenant
    Create {
        /// Its id: lower-case letters, digits, `-` and `_`
        id: String,
        /// Which API its callers speak
        #[arg(long, default_value = "auto", value_parser = ["coveo", "aitronos", "cognite", "auto"])]
        api: String,
        #[command(flatten)]
        place: Place,
    },
    /// List the tenants, with their limits and since when they are paused
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Limit what a tenant may hold; what is not named stays as it is. Without a limit named, shows both
    Quota {
        /// Its id
        id: String,
        /// Most bytes, committed and promised to open uploads together: a number, a size such as 10GiB, or none
        #[arg(long, value_name = "N|none", value_parser = parse_bytes)]
        bytes: Option<Ceiling>,
        /// Most open uploads: a number, or none
        #[arg(long, value_name = "N|none", value_parser = parse_count)]
        sessions: Option<Ceiling>,
        #[command(flatten)]
        place: Place,
    },
    /// Pause a tenant: what it holds stays and can be read; uploads, pushes and changes are refused from the next
    /// request on. What was accepted before is still processed
    Pause {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// End a pause
    Resume {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Limit how many items a tenant may have and change; what is not named stays as it is
    Limit {
        /// Its id
        id: String,
        /// Items that one source may hold; `none` takes the limit away
        #[arg(long, value_name = "N|none", value_parser = parse_limit)]
        items_per_source: Option<Limit>,
        /// Items that may be added or changed in a day (UTC); `none` takes the limit away
        #[arg(long, value_name = "N|none", value_parser = parse_limit)]
        items_per_day: Option<Limit>,
        #[command(flatten)]
        place: Place,
    },
    /// Issuers of bearer tokens (OpenID Connect) that a tenant trusts. Changes hold from the next request on
    #[command(subcommand)]
    Oidc(OidcCommand),
}

/// Issuers.
#[derive(Debug, Subcommand)]
pub(super) enum OidcCommand {
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

/// A quota as it is given: a number, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceiling(Option<u64>);

fn parse_bytes(text: &str) -> Result<Ceiling, String> {
    match text {
        "none" => Ok(Ceiling(None)),
        _ => match config::size(text).filter(|n| i64::try_from(*n).is_ok()) {
            Some(bytes) => Ok(Ceiling(Some(bytes))),
            None => Err("use a number of bytes, a size such as 10GiB, or `none`".into()),
        },
    }
}

fn parse_count(text: &str) -> Result<Ceiling, String> {
    match text {
        "none" => Ok(Ceiling(None)),
        _ => match text.parse::<u64>().ok().filter(|n| i64::try_from(*n).is_ok()) {
            Some(count) => Ok(Ceiling(Some(count))),
            None => Err("use a whole number, 0 or more, or `none`".into()),
        },
    }
}

/// A limit as it is given: a number, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(Option<u64>);

fn parse_limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    match text.parse() {
        // The database counts in 63 bits.
        Ok(limit) if i64::try_from(limit).is_ok() => Ok(Limit(Some(limit))),
        _ => Err(String::from("use a whole number, 0 or more, or `none`")),
    }
}

/// Keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Create a key; it is printed once and can't be shown again
    Create {
        /// Whose key
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// What to call it
        #[arg(long, default_value = "")]
        name: String,
        /// What it may do, comma-separated: all, upload, items, sources, identities, fields, read, keys
        #[arg(long, default_value = "all", value_name = "LIST")]
        rights: String,
        /// When it stops working: an RFC 3339 time, or a duration such as 90d, 12h, 30m
        #[arg(long, value_name = "T")]
        expires: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List the keys: never the keys themselves
    List {
        /// Only this tenant's
        #[arg(long, value_name = "ID")]
        tenant: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a key, at once
    Revoke {
        /// Its id, as the list shows it
        id: KeyId,
        #[command(flatten)]
        place: Place,
    },
}

/// Sources.
#[derive(Debug, Subcommand)]
pub(super) enum SourceCommand {
    /// Create a source
    Create {
        /// Whose source
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// What to call it
        name: String,
        /// Its id [default: the tenant's id and a random word]
        #[arg(long)]
        id: Option<String>,
        /// Let it take streams
        #[arg(long)]
        stream: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List a tenant's sources
    List {
        /// Whose sources
        #[arg(long, value_name = "ID")]
        tenant: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Stores.
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Create a store
    Create {
        /// Whose store
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// What to call it
        name: String,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List a tenant's stores
    List {
        /// Whose stores
        #[arg(long, value_name = "ID")]
        tenant: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Uploads.
#[derive(Debug, Subcommand)]
pub(super) enum UploadCommand {
    /// List a tenant's uploads, newest first; containers are not among them
    List {
        /// Whose uploads
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// Only those in this state
        #[arg(long, value_parser = ["open", "committed", "aborted", "expired", "failed"])]
        state: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// End an upload in progress: its URLs stop at once, whoever sends to it is told that it is gone, and its bytes go
    End {
        /// Its id, as the list shows it, or its file's
        id: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Nodes.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Create a file that stands for a node, without content; prints the file's number
    Create {
        /// Whose file
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// The node's space
        #[arg(long)]
        space: String,
        /// The node's id in its space
        id: String,
        /// What to call the file [default: the node's id]
        #[arg(long)]
        name: Option<String>,
        /// Its media type
        #[arg(long, value_name = "TYPE")]
        mime_type: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
enum AdminError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn refused(reason: impl Into<String>) -> AdminError {
    AdminError::Refused(reason.into())
}

impl Admin {
    fn place(&self) -> &Place {
        match self {
            Self::Tenant(
                TenantCommand::Create { place, .. }
                | TenantCommand::List { place }
                | TenantCommand::Quota { place, .. }
                | TenantCommand::Pause { place, .. }
                | TenantCommand::Resume { place, .. }
                | TenantCommand::Limit { place, .. }
                | TenantCommand::Oidc(
                    OidcCommand::Set { place, .. }
                    | OidcCommand::Show { place, .. }
                    | OidcCommand::Remove { place, .. },
                ),
            )
            | Self::Key(
                KeyCommand::Create { place, .. } | KeyCommand::List { place, .. } | KeyCommand::Revoke { place, .. },
            )
            | Self::Source(SourceCommand::Create { place, .. } | SourceCommand::List { place, .. })
            | Self::Store(StoreCommand::Create { place, .. } | StoreCommand::List { place, .. })
            | Self::Node(NodeCommand::Create { place, .. })
            | Self::Upload(UploadCommand::List { place, .. } | UploadCommand::End { place, .. }) => place,
        }
    }

    pub(super) fn run(&self) -> ExitCode {
        match self.try_run() {
            Ok(lines) => {
                for line in lines {
                    println!("{line}");
                }
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        }
    }

    fn try_run(&self) -> Result<Vec<Value>, AdminError> {
        let config = self.place().config().map_err(StartError::from)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let clock = Clock::system();
            let keepers = app::open(&config, &clock, random_bytes()).await?;
            let (meta, now) = (keepers.meta.as_ref(), clock.now());
            match self {
                Self::Tenant(command) => tenant(meta, command, now).await,
                Self::Key(command) => key(meta, command, now).await,
                Self::Source(command) => source(meta, command, now).await,
                Self::Store(command) => store(meta, command, now).await,
                Self::Node(command) => node(meta, command, now).await,
                Self::Upload(command) => upload(meta, command, now).await,
            }
        })
    }
}

async fn tenant(meta: &dyn MetaStore, command: &TenantCommand, now: Timestamp) -> Result<Vec<Value>, AdminError> {
    match command {
        TenantCommand::Create { id, api, .. } => {
            if !TenantId::is_valid(id) {
                return Err(refused(format!(
                    "`{id}` can't be a tenant's id: use 1 to 64 lower-case letters, digits, `-` and `_`, first a letter or digit"
                )));
            }
            let tenant = TenantInfo::new(TenantId::from(id.as_str()), api.clone(), now);
            if !meta.create_tenant(tenant).await? {
                return Err(refused(format!("the tenant `{id}` exists already")));
            }
            Ok(vec![json!({"id": id, "api": api})])
        }
        TenantCommand::Quota { id, bytes, sessions, .. } => quota(meta, id, *bytes, *sessions).await,
        TenantCommand::List { .. } => {
            let tenants = meta.tenants().await?;
            Ok(tenants.iter().map(shown_tenant).collect())
        }
        TenantCommand::Pause { id, .. } => {
            changed(id, meta.pause_tenant(&TenantId::from(id.as_str()), Some(now)).await?)
        }
        TenantCommand::Resume { id, .. } => changed(id, meta.pause_tenant(&TenantId::from(id.as_str()), None).await?),
        TenantCommand::Limit { id, items_per_source, items_per_day, .. } => {
            let given = |limit: &Option<Limit>| limit.map(|Limit(limit)| limit);
            let limits = NewItemLimits { per_source: given(items_per_source), per_day: given(items_per_day) };
            changed(id, meta.limit_tenant(&TenantId::from(id.as_str()), limits).await?)
        }
        TenantCommand::Oidc(command) => oidc(meta, command, now).await,
    }
}

async fn oidc(meta: &dyn MetaStore, command: &OidcCommand, now: Timestamp) -> Result<Vec<Value>, AdminError> {
    match command {
        OidcCommand::Set {
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
        OidcCommand::Show { id, .. } => {
            let tenant = existing(meta, id).await?;
            let issuers: Vec<Value> = meta.issuers(&tenant).await?.iter().map(shown_issuer).collect();
            Ok(vec![json!({"tenant": tenant, "issuers": issuers})])
        }
        OidcCommand::Remove { id, issuer, .. } => {
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

async fn node(meta: &dyn MetaStore, command: &NodeCommand, now: Timestamp) -> Result<Vec<Value>, AdminError> {
    let NodeCommand::Create { tenant, space, id, name, mime_type, .. } = command;
    let tenant = existing(meta, tenant).await?;
    if [space, id].into_iter().any(|text| text.is_empty() || !is_name(text)) {
        return Err(refused(format!("a node's space and id have 1 to {NAME_CHARS} characters, no control characters")));
    }
    let facts =
        Facts { name: name.clone().unwrap_or_else(|| id.clone()), mime_type: mime_type.clone(), ..Facts::default() };
    facts.check().map_err(|wrong| refused(format!("{:?} {}", wrong.fact, wrong.reason)))?;
    let new = NewEntry {
        tenant,
        file: FileId(ordered_uuid(now)),
        node: Some(NodeId { space: space.clone(), id: id.clone() }),
        facts,
        session: None,
        overwrite: None,
        expires: None,
        now,
    };
    match meta.make_entry(new).await? {
        EntryMade::Done(entry) => Ok(vec![json!({ "id": entry.number, "space": space, "node": id })]),
        EntryMade::Taken | EntryMade::Wrong(_) | EntryMade::OverQuota(_) => {
            Err(refused(format!("there is a file for the node `{id}` in the space `{space}` already")))
        }
    }
}

/// Sets the quotas that are given, and shows what holds then.
async fn quota(
    meta: &dyn MetaStore,
    id: &str,
    bytes: Option<Ceiling>,
    sessions: Option<Ceiling>,
) -> Result<Vec<Value>, AdminError> {
    let tenant = existing(meta, id).await?;
    let before = meta.tenant(&tenant).await?.map(|info| info.quota).unwrap_or_default();
    let quota = Quota {
        bytes: bytes.map_or(before.bytes, |Ceiling(bytes)| bytes),
        sessions: sessions.map_or(before.sessions, |Ceiling(sessions)| sessions),
    };
    if quota != before {
        meta.set_quota(&tenant, quota).await?;
    }
    let usage = meta.usage(&tenant).await?;
    Ok(vec![json!({
        "id": id, "quota_bytes": quota.bytes, "quota_sessions": quota.sessions,
        "bytes": usage.bytes, "reserved": usage.reserved, "open_sessions": usage.open_sessions,
    })])
}

fn changed(id: &str, tenant: Option<TenantInfo>) -> Result<Vec<Value>, AdminError> {
    tenant.map(|tenant| vec![shown_tenant(&tenant)]).ok_or_else(|| unknown_tenant(id))
}

fn shown_tenant(tenant: &TenantInfo) -> Value {
    json!({
        "id": tenant.id, "api": tenant.api, "created": tenant.created.rfc3339(),
        "paused": tenant.paused.map(Timestamp::rfc3339),
        "items_per_source": tenant.items.per_source, "items_per_day": tenant.items.per_day,
    })
}

fn unknown_tenant(id: &str) -> AdminError {
    refused(format!("the tenant `{id}` does not exist: create it with `landfall admin tenant create {id}`"))
}

async fn existing(meta: &dyn MetaStore, id: &str) -> Result<TenantId, AdminError> {
    let tenant = TenantId::from(id);
    match meta.tenant(&tenant).await? {
        Some(_) => Ok(tenant),
        None => Err(unknown_tenant(id)),
    }
}

async fn key(meta: &dyn MetaStore, command: &KeyCommand, now: Timestamp) -> Result<Vec<Value>, AdminError> {
    match command {
        KeyCommand::Create { tenant, name, rights, expires, .. } => {
            let tenant = existing(meta, tenant).await?;
            check_name(name)?;
            let rights = parse_rights(rights)?;
            if rights == Rights::default() {
                return Err(refused(format!("a key needs at least one right: {}", some_rights())));
            }
            let expires = expires.as_deref().map(|text| parse_expiry(text, now)).transpose()?;
            let key = credential::new_key();
            let info = KeyInfo {
                id: KeyId(ordered_uuid(now)),
                tenant,
                name: name.clone(),
                rights,
                created: now,
                expires,
                revoked: None,
            };
            let shown = shown(&info, Some(&key));
            meta.create_key(info, credential::hash_key(&key), None).await?;
            Ok(vec![shown])
        }
        KeyCommand::List { tenant, .. } => {
            let tenant = tenant.as_deref().map(TenantId::from);
            Ok(meta.keys(tenant.as_ref()).await?.iter().map(|info| shown(info, None)).collect())
        }
        KeyCommand::Revoke { id, .. } => {
            if !meta.revoke_key(None, *id, now).await? {
                return Err(refused(format!("there is no key with the id {id}: `landfall admin key list` shows them")));
            }
            Ok(vec![json!({"id": id, "revoked": true})])
        }
    }
}

fn some_rights() -> String {
    format!("use all, or some of {}", Rights::all().names().join(", "))
}

fn parse_rights(list: &str) -> Result<Rights, AdminError> {
    Rights::parse(list).map_err(|right| refused(format!("`{right}` is not a right: {}", some_rights())))
}

fn check_name(name: &str) -> Result<(), AdminError> {
    if is_name(name) {
        return Ok(());
    }
    Err(refused(format!("a name has up to {NAME_CHARS} characters, none of them a control character")))
}

fn shown(info: &KeyInfo, key: Option<&str>) -> Value {
    let time = |t: Option<Timestamp>| t.map(Timestamp::rfc3339);
    let mut shown = json!({
        "id": info.id, "tenant": info.tenant, "name": info.name, "rights": info.rights.names(),
        "created": info.created.rfc3339(), "expires": time(info.expires), "revoked": time(info.revoked),
    });
    if let (Some(key), Some(map)) = (key, shown.as_object_mut()) {
        map.insert("key".into(), key.into());
    }
    shown
}

fn parse_expiry(text: &str, now: Timestamp) -> Result<Timestamp, AdminError> {
    let wrong = || {
        refused(format!("`{text}` is no time to expire at: use an RFC 3339 time or a duration such as 90d, 12h, 30m"))
    };
    if let Some(time) = Timestamp::parse(text) {
        return if time > now { Ok(time) } else { Err(refused(format!("`{text}` is in the past"))) };
    }
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(now.plus(std::time::Duration::from_secs(number.checked_mul(seconds).ok_or_else(wrong)?)))
}

async fn source(meta: &dyn MetaStore, command: &SourceCommand, now: Timestamp) -> Result<Vec<Value>, AdminError> {
    match command {
        SourceCommand::Create { tenant, name, id, stream, .. } => {
            let tenant = existing(meta, tenant).await?;
            check_name(name)?;
            if name.is_empty() {
                return Err(refused("a source needs a name"));
            }
            let id = id.clone().unwrap_or_else(|| format!("{tenant}-{}", hex::encode(random_bytes::<8>())));
            if id.is_empty() || id.len() > 128 || id.chars().any(|c| c.is_control() || c == '/') {
                return Err(refused(format!("`{id}` can't be a source's id")));
            }
            let new = NewSource {
                tenant,
                id: SourceId(id.clone()),
                name: name.clone(),
                stream_enabled: *stream,
                properties: Map::new(),
                now,
            };
            match meta.create_source(new).await? {
                Some(source) => {
                    Ok(vec![json!({"id": source.id, "name": source.name, "stream_enabled": source.stream_enabled})])
                }
                None => Err(refused(format!("the source `{id}` exists already"))),
            }
        }
        SourceCommand::List { tenant, .. } => {
            let tenant = existing(meta, tenant).await?;
            let sources = meta.sources(&tenant).await?;
            Ok(sources
                .iter()
                .map(|s| json!({"id": s.id, "name": s.name, "stream_enabled": s.stream_enabled, "created": s.created.rfc3339()}))
                .collect())
        }
    }
}

async fn store(meta: &dyn MetaStore, command: &StoreCommand, now: Timestamp) -> Result<Vec<Value>, AdminError> {
    match command {
        StoreCommand::Create { tenant, name, description, .. } => {
            let tenant = existing(meta, tenant).await?;
            setup::check(name, description.as_deref()).map_err(|refusal| refused(refusal.to_string()))?;
            let new = NewStore {
                id: StoreId(random_uuid()),
                tenant,
                name: name.clone(),
                description: description.clone(),
                properties: Map::new(),
                created_by: None,
                now,
            };
            let store = meta.create_store(new).await?;
            Ok(vec![json!({"id": store.id.public(), "name": store.name})])
        }
        StoreCommand::List { tenant, .. } => {
            let tenant = existing(meta, tenant).await?;
            let all = StoreFilter { ascending: true, limit: u32::MAX, ..StoreFilter::default() };
            let (stores, _) = meta.stores(&tenant, all).await?;
            let shown = |s: &Store| json!({"id": s.id.public(), "name": s.name, "files": s.files, "bytes": s.bytes, "created": s.created.rfc3339()});
            Ok(stores.iter().map(shown).collect())
        }
    }
}

async fn upload(meta: &dyn MetaStore, command: &UploadCommand, now: Timestamp) -> Result<Vec<Value>, AdminError> {
    match command {
        UploadCommand::List { tenant, state, .. } => {
            let tenant = existing(meta, tenant).await?;
            let state = state.as_deref().and_then(SessionState::from_name);
            let mut shown = Vec::new();
            let mut before = None;
            loop {
                let filter = UploadFilter { state, now, before, limit: UPLOADS_AT_ONCE, ..UploadFilter::default() };
                let uploads = meta.uploads(&tenant, filter).await?;
                shown.extend(uploads.iter().map(|upload| shown_upload(upload, now)));
                match uploads.last() {
                    Some(last) => before = Some(last.session.id),
                    None => return Ok(shown),
                }
            }
        }
        UploadCommand::End { id, .. } => {
            // A file and its first upload share their id.
            let wanted = FileId::from_public(id).map(|file| SessionId(file.0)).or_else(|| id.parse().ok());
            let unknown = || refused(format!("there is no upload `{id}`: `landfall admin upload list` shows them"));
            let wanted = wanted.ok_or_else(unknown)?;
            let found = async || {
                let upload = meta.upload(wanted).await?;
                upload.filter(|upload| upload.session.declaration.is_some()).ok_or_else(unknown)
            };
            let before = found().await?;
            if state_of(&before.session, now) == SessionState::Open {
                // The rows fence whoever writes; the server that has the writer notices at its next record or sweep.
                meta.end_session(wanted, SessionState::Failed, now).await?;
            }
            let after = found().await?;
            match state_of(&after.session, now) {
                SessionState::Failed => Ok(vec![shown_upload(&after, now)]),
                state => Err(refused(format!("the upload is {}: only an open one can be ended", state.name()))),
            }
        }
    }
}

/// An open session whose time is over has expired, swept or not.
fn state_of(session: &Session, now: Timestamp) -> SessionState {
    match session.state {
        SessionState::Open if session.expires <= now => SessionState::Expired,
        state => state,
    }
}

fn shown_upload(upload: &Upload, now: Timestamp) -> Value {
    let Upload { session, progress, .. } = upload;
    json!({
        "id": session.id, "tenant": session.tenant, "api": session.wire, "strategy": session.strategy.name(),
        "state": state_of(session, now).name(), "name": session.declaration.as_ref().map(|d| &d.name),
        "file": session.file.public(), "size": session.size, "received": progress.received,
        "created": session.created.rfc3339(), "expires": session.expires.rfc3339(),
    })
}
