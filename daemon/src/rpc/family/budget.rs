//! `budget.*`

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::{
    Error, ErrorKind,
    budget::{Budget, BudgetRpcServer, BudgetSpec, Spent},
};
use paw_policy::{ConfigChange, Name};
use serde_json::Map;

use super::{Family, change::said, fail};
use crate::{config::BudgetSettings, intake::unreadable, records::shorten};

/// Parts of a budget that one answer lists.
const PARTS: usize = 100;

#[async_trait]
impl BudgetRpcServer for Family {
    async fn list(&self, _: &Extensions) -> RpcResult<Vec<Budget>> {
        let config = self.config.borrow().clone();
        let budgets = config.budgets.iter();
        budgets
            .map(|(name, settings)| self.budget(name, settings))
            .collect::<Result<_, _>>()
            .map_err(fail)
    }

    async fn show(&self, _: &Extensions, name: String) -> RpcResult<Budget> {
        let config = self.config.borrow().clone();
        let mut budgets = config.budgets.iter();
        let Some((name, settings)) = budgets.find(|(known, _)| known.as_str() == name) else {
            let message = format!("there is no budget {}", shorten(&name));
            let hint = "see `pawctl budget show`";
            return Err(fail(
                Error::new(ErrorKind::NotFound, message, hint).about(name),
            ));
        };
        self.budget(name, settings).map_err(fail)
    }

    async fn set(
        &self,
        extensions: &Extensions,
        name: String,
        spec: BudgetSpec,
    ) -> RpcResult<Budget> {
        let said = said(&spec).map_err(fail)?;
        self.configure(extensions, ConfigChange::BudgetSet, &name, said)
            .await?;
        BudgetRpcServer::show(self, extensions, name).await
    }

    async fn remove(&self, extensions: &Extensions, name: String) -> RpcResult<Budget> {
        let was = BudgetRpcServer::show(self, extensions, name.clone()).await?;
        self.configure(
            extensions,
            ConfigChange::BudgetRemove,
            &name,
            Map::default(),
        )
        .await?;
        Ok(was)
    }
}

impl Family {
    fn budget(&self, name: &Name, settings: &BudgetSettings) -> Result<Budget, Error> {
        let (parts, again_at) = self
            .quotas
            .state(name, settings.per, PARTS + 1)
            .map_err(|error| unreadable(&error))?;
        let text = ToString::to_string;
        let scope = &settings.scope;
        Ok(Budget {
            name: name.to_string(),
            provider: scope.provider.as_ref().map(text),
            model: scope.model.clone(),
            agent: scope.agent.as_ref().map(text),
            user: scope.user.clone(),
            each: scope.each.iter().map(|it| it.as_str().into()).collect(),
            per: settings.per.as_str().into(),
            cost: settings.cost,
            tokens: settings.tokens,
            file: settings.file.clone(),
            registered: settings.registered,
            again_at,
            more: parts.len() > PARTS,
            spent: parts
                .into_iter()
                .take(PARTS)
                .map(|part| Spent {
                    of: part.of,
                    cost: part.spent.cost,
                    tokens: part.spent.tokens,
                    reserved_cost: part.reserved.cost,
                    reserved_tokens: part.reserved.tokens,
                })
                .collect(),
        })
    }
}
