//! `landfall admin`: writes beside a running server, one line of JSON each.

mod key;
mod node;
mod oidc;
mod relocate;
mod source;
mod store;
mod tenant;
mod upload;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use self::key::KeyCommand;
use self::node::NodeCommand;
use self::relocate::Move;
use self::source::SourceCommand;
use self::store::StoreCommand;
use self::tenant::TenantCommand;
use self::upload::UploadCommand;
use super::{Place, failed};
use crate::app::{self, StartError};
use crate::clock::{Clock, random_bytes};
use crate::meta::{MetaError, MetaStore};
use crate::model::ids::{NAME_CHARS, TenantId, is_name};

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
    /// Move stored bytes from one configured place to another, while servers run; repeated, it goes on
    Move(Move),
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
            Self::Tenant(command) => command.place(),
            Self::Key(command) => command.place(),
            Self::Source(command) => command.place(),
            Self::Store(command) => command.place(),
            Self::Node(command) => command.place(),
            Self::Upload(command) => command.place(),
            Self::Move(command) => command.place(),
        }
    }

    pub(super) fn run(&self) -> ExitCode {
        if let Self::Move(command) = self {
            return command.run().unwrap_or_else(|error| failed(&error));
        }
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
            let keepers = app::open(&config, random_bytes()).await?;
            let (meta, now) = (keepers.meta.as_ref(), clock.now());
            match self {
                Self::Tenant(command) => command.run(meta, now).await,
                Self::Key(command) => command.run(meta, now).await,
                Self::Source(command) => command.run(meta, now).await,
                Self::Store(command) => command.run(meta, now).await,
                Self::Node(command) => command.run(meta, now).await,
                Self::Upload(command) => command.run(meta, now).await,
                // It opens more than the rows.
                Self::Move(_) => Ok(Vec::new()),
            }
        })
    }
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

fn check_name(name: &str) -> Result<(), AdminError> {
    if is_name(name) {
        return Ok(());
    }
    Err(refused(format!("a name has up to {NAME_CHARS} characters, none of them a control character")))
}
