//! `config.*` and `policy.*`

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    system::{ConfigRpcServer, PolicyRpcServer, Reloaded, Rule},
};
use serde_json::Value;

use super::{Family, fail};
use crate::rpc::caller;

#[async_trait]
impl ConfigRpcServer for Family {
    async fn show(&self, _: &Extensions) -> RpcResult<Value> {
        let config = self.config.borrow();
        serde_json::to_value(&**config).map_err(|error| {
            fail(Error::new(
                ErrorKind::Internal,
                error.to_string(),
                "report it",
            ))
        })
    }

    async fn reload(&self, extensions: &Extensions) -> RpcResult<Reloaded> {
        let caller = caller(extensions).map_err(fail)?;
        self.reload.ask(Some(caller)).await.map_err(fail)
    }
}

#[async_trait]
impl PolicyRpcServer for Family {
    async fn show(&self, _: &Extensions) -> RpcResult<Vec<Rule>> {
        let rules = self.rules.borrow();
        Ok(rules
            .iter()
            .map(|(id, text)| Rule {
                id: id.to_owned(),
                text: text.to_owned(),
            })
            .collect())
    }
}
