//! `secret.*`

#![allow(
    clippy::too_many_arguments,
    reason = "they are the members of a message, passed by name on the wire"
)]

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    audit::Event,
    secret::{Hidden, Secret, SecretRpcServer, VaultCopy, VaultKeyed, VaultStatus},
};
use paw_audit::read::Filter;
use paw_policy::{Kind, SecretChange};
use serde_json::{Map, Value};

use super::{Family, change::of_config, fail};
use crate::{
    orchestrator::work::Progress,
    rpc::caller,
    secrets::{With, admin::Wanted},
};

#[async_trait]
impl SecretRpcServer for Family {
    async fn status(&self, _: &Extensions) -> RpcResult<VaultStatus> {
        self.secrets.look_again().await;
        Ok(self.secrets.status())
    }

    async fn init(
        &self,
        extensions: &Extensions,
        passphrase: Option<Hidden>,
        key: Option<Hidden>,
    ) -> RpcResult<VaultKeyed> {
        let caller = caller(extensions).map_err(fail)?;
        let made = self.secrets.init(&caller, wanted(passphrase, key)).await;
        Ok(VaultKeyed {
            recovery_key: made.map_err(fail)?.into(),
            status: self.secrets.status(),
        })
    }

    async fn unlock(
        &self,
        extensions: &Extensions,
        passphrase: Option<Hidden>,
        recovery: Option<Hidden>,
        key: Option<Hidden>,
    ) -> RpcResult<VaultStatus> {
        let caller = caller(extensions).map_err(fail)?;
        self.secrets
            .unlock(Some(&caller), with(passphrase, recovery, key))
            .await
            .map_err(fail)?;
        Ok(self.secrets.status())
    }

    async fn lock(&self, extensions: &Extensions) -> RpcResult<VaultStatus> {
        let caller = caller(extensions).map_err(fail)?;
        self.secrets.lock(&caller).await.map_err(fail)?;
        Ok(self.secrets.status())
    }

    async fn rekey(
        &self,
        extensions: &Extensions,
        passphrase: Option<Hidden>,
        key: Option<Hidden>,
    ) -> RpcResult<VaultKeyed> {
        let caller = caller(extensions).map_err(fail)?;
        let made = self.secrets.rekey(&caller, wanted(passphrase, key)).await;
        Ok(VaultKeyed {
            recovery_key: made.map_err(fail)?.into(),
            status: self.secrets.status(),
        })
    }

    async fn list(&self, _: &Extensions) -> RpcResult<Vec<Secret>> {
        self.secrets.list().map_err(fail)
    }

    async fn show(&self, _: &Extensions, name: String) -> RpcResult<Secret> {
        self.secrets.show(&name).map_err(fail)
    }

    async fn set(&self, extensions: &Extensions, name: String, value: Hidden) -> RpcResult<Secret> {
        self.kept(
            extensions,
            SecretChange::Set,
            &name,
            Some(value),
            Spec::default(),
        )
        .await
    }

    async fn rotate(
        &self,
        extensions: &Extensions,
        name: String,
        value: Hidden,
        keep_ms: Option<u64>,
    ) -> RpcResult<Secret> {
        let spec = spec("keep_ms", keep_ms);
        self.kept(extensions, SecretChange::Rotate, &name, Some(value), spec)
            .await
    }

    async fn remove(
        &self,
        extensions: &Extensions,
        name: String,
        version: Option<u64>,
    ) -> RpcResult<Secret> {
        let spec = spec("version", version);
        self.kept(extensions, SecretChange::Remove, &name, None, spec)
            .await
    }

    async fn allow(
        &self,
        extensions: &Extensions,
        name: String,
        user: String,
    ) -> RpcResult<Secret> {
        let spec = spec("user", Some(user));
        self.kept(extensions, SecretChange::Allow, &name, None, spec)
            .await
    }

    async fn deny(&self, extensions: &Extensions, name: String, user: String) -> RpcResult<Secret> {
        let spec = spec("user", Some(user));
        self.kept(extensions, SecretChange::Deny, &name, None, spec)
            .await
    }

    async fn export(&self, extensions: &Extensions) -> RpcResult<VaultCopy> {
        let caller = caller(extensions).map_err(fail)?;
        self.secrets.export(&caller).await.map_err(fail)
    }

    async fn import(
        &self,
        extensions: &Extensions,
        copy: String,
        passphrase: Option<Hidden>,
        recovery: Option<Hidden>,
        key: Option<Hidden>,
        force: Option<bool>,
    ) -> RpcResult<VaultStatus> {
        let caller = caller(extensions).map_err(fail)?;
        let with = with(passphrase, recovery, key);
        let force = force.unwrap_or(false);
        let imported = self.secrets.import(&caller, &copy, with, force).await;
        imported.map_err(fail)?;
        Ok(self.secrets.status())
    }

    async fn log(
        &self,
        _: &Extensions,
        name: Option<String>,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<Vec<Value>> {
        let of_vault = name.is_none().then_some(Event::VaultChanged);
        let filter = Filter {
            events: [
                Event::SecretUsed,
                Event::SecretRefused,
                Event::SecretChanged,
            ]
            .into_iter()
            .chain(of_vault)
            .collect(),
            detail: name.map(|name| ("secret".to_owned(), name)),
            ..Filter::default()
        };
        self.records(filter, before, limit).await
    }
}

/// What is said of a change beside its secret.
type Spec = Map<String, Value>;

fn spec(name: &str, said: Option<impl Into<Value>>) -> Spec {
    said.map(|said| (name.to_owned(), said.into()))
        .into_iter()
        .collect()
}

impl Family {
    /// Has the vault keep something else, if policy lets this caller. The value goes beside the action, in memory that is never swapped.
    async fn kept(
        &self,
        extensions: &Extensions,
        change: SecretChange,
        name: &str,
        value: Option<Hidden>,
        spec: Spec,
    ) -> RpcResult<Secret> {
        let beside = match value {
            Some(value) => Progress::Value(self.secrets.hold(&value.0).map_err(fail)?),
            None => Progress::None,
        };
        let arguments = of_config(change.as_str(), name, spec);
        let done = self.changed(extensions, Kind::ConfigChange, (arguments, beside), name);
        serde_json::from_value(done.await?).map_err(|error| {
            fail(Error::new(
                ErrorKind::Internal,
                error.to_string(),
                "report it",
            ))
        })
    }
}

fn with(passphrase: Option<Hidden>, recovery: Option<Hidden>, key: Option<Hidden>) -> With {
    let text = |hidden: Option<Hidden>| hidden.map(|it| it.0);
    With {
        passphrase: text(passphrase),
        recovery: text(recovery),
        key: text(key),
    }
}

fn wanted(passphrase: Option<Hidden>, key: Option<Hidden>) -> Wanted {
    Wanted {
        passphrase: passphrase.map(|it| it.0),
        key: key.map(|it| it.0),
    }
}
