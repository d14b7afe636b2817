//! Who we are to the service. Where credentials come from, and how Entra ID hands out tokens, is known by `reqsign`; the
//! calls that it needs are made by [`crate::outbound`], like all others.

use std::collections::HashMap;
use std::path::PathBuf;

use reqsign_azure_storage::{Credential, DefaultCredentialProvider};
use reqsign_core::{Context, ProvideCredential};

use crate::blob::remote::{Adapters, Current, Fault, not_told};
use crate::config::Container;
use crate::outbound::OutboundError;

const SAS_TOKEN: &str = "AZURE_STORAGE_SAS_TOKEN";
const REMEDY: &str =
    "Set AZURE_STORAGE_ACCOUNT_KEY, or `credentials=` a file in `storage`, or give the machine an identity";

/// The credentials of one account.
pub(super) struct Credentials {
    adapters: Adapters,
    account: String,
    environment: HashMap<String, String>,
    file: Option<PathBuf>,
    current: Current<Credential>,
}

/// Shows nothing.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    pub(super) fn new(container: &Container, environment: HashMap<String, String>) -> Result<Self, OutboundError> {
        Ok(Self {
            adapters: Adapters::new()?,
            account: container.account.clone(),
            environment,
            file: container.credentials.clone(),
            current: Current::new(REMEDY),
        })
    }

    /// For calls that go along with signing.
    pub(super) fn context(&self) -> Context {
        self.adapters.context(HashMap::new())
    }

    /// Credentials of the file that the container names, and then of nothing else; or of the environment, of a certificate, of
    /// a secret, of a workload's identity, of the machine: the first that there are.
    pub(super) async fn get(&self) -> Result<Credential, Fault> {
        self.current.get(|| self.provide()).await
    }

    async fn provide(&self) -> Result<Option<Credential>, String> {
        let sources = DefaultCredentialProvider::builder().no_azure_cli().no_azure_pipelines();
        let (sources, mut environment) = match &self.file {
            Some(file) => (sources.no_imds(), read(file.clone()).await?),
            None => (sources, self.environment.clone()),
        };
        // The account is the one that is configured, whatever is said elsewhere.
        environment.insert("AZBLOB_ACCOUNT_NAME".into(), self.account.clone());
        if let Some(token) = environment.get_mut(SAS_TOKEN) {
            *token = token.trim_start_matches('?').to_owned();
        }
        sources.build().provide_credential(&self.adapters.context(environment)).await.map_err(not_told)
    }

    /// The service refused these: they are asked for anew.
    pub(super) async fn forget(&self) {
        self.current.forget().await;
    }
}

/// What a file of credentials says, in lines as of an environment.
async fn read(file: PathBuf) -> Result<HashMap<String, String>, String> {
    let shown = file.display().to_string();
    let text = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await;
    let text = match text {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Err(format!("{shown} can't be read: {error}")),
        Err(_) => return Err(format!("{shown} was not read to its end")),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.trim().into(), value.trim().into()));
    lines.map(|line| pair(line).ok_or_else(|| format!("{shown} has a line that is no NAME=VALUE"))).collect()
}

#[cfg(test)]
impl Credentials {
    /// From now on these, as long as they are good.
    pub(super) async fn set(&self, credential: Credential) {
        self.current.set(credential).await;
    }
}
