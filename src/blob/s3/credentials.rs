//! Who we are to the store. Where credentials come from, and how a cloud hands out temporary ones, is known by
//! `reqsign`; the calls that it needs are made by [`crate::outbound`], like all others.

use std::collections::HashMap;

use reqsign_aws_core::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProfileCredentialProvider,
};
use reqsign_core::{Context, ProvideCredential, ProvideCredentialChain};

use crate::blob::remote::{Adapters, Current, Fault, not_told};
use crate::config::Bucket;
use crate::outbound::OutboundError;

/// The credentials of one store.
pub(super) struct Credentials {
    context: Context,
    chain: ProvideCredentialChain<Credential>,
    current: Current<Credential>,
}

/// Shows nothing.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Credentials of the file that the bucket names, of the environment, of the shared files, of a web identity, of the
    /// container, of the instance: the first that there are.
    pub(super) fn new(bucket: &Bucket, environment: HashMap<String, String>) -> Result<Self, OutboundError> {
        let context = Adapters::new()?.context(environment);
        let profile = || match &bucket.profile {
            Some(profile) => ProfileCredentialProvider::new().with_profile(profile),
            None => ProfileCredentialProvider::new(),
        };
        let chain = match &bucket.credentials {
            Some(file) => {
                let file = file.display().to_string();
                ProvideCredentialChain::new().push(profile().with_credentials_file(&file).with_config_file(&file))
            }
            None => ProvideCredentialChain::new()
                .push(EnvCredentialProvider::new())
                .push(AssumeRoleWithWebIdentityCredentialProvider::new())
                .push(profile())
                .push(ECSCredentialProvider::new())
                .push(IMDSv2CredentialProvider::new()),
        };
        let remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `credentials=` a file in `storage`, or give the machine a role";
        Ok(Self { context, chain, current: Current::new(remedy) })
    }

    /// Credentials that hold for some minutes more.
    pub(super) async fn get(&self) -> Result<Credential, Fault> {
        let provide = || async { self.chain.provide_credential(&self.context).await.map_err(not_told) };
        self.current.get(provide).await
    }

    /// The store refused these: they are asked for anew.
    pub(super) async fn forget(&self) {
        self.current.forget().await;
    }
}
