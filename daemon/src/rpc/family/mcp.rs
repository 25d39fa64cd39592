//! `mcp.*`

use jsonrpsee::{
    Extensions,
    core::{RpcResult, async_trait},
};
use paw_api::action::{Action, McpRpcServer};
use paw_policy::{Kind, TaintSet, Via};
use serde_json::{Map, Value};

use super::{Family, fail};
use crate::{intake::Asked, rpc::caller};

#[async_trait]
impl McpRpcServer for Family {
    async fn mcp(
        &self,
        extensions: &Extensions,
        agent: String,
        skill: String,
        tool: String,
        arguments: Map<String, Value>,
    ) -> RpcResult<Action> {
        let caller = caller(extensions).map_err(fail)?;
        let asked = Asked {
            kind: Kind::ToolCall.as_str().to_owned(),
            arguments: Map::from_iter([
                ("skill".to_owned(), skill.into()),
                ("tool".to_owned(), tool.into()),
                ("arguments".to_owned(), arguments.into()),
            ]),
            agent: Some(agent),
            session: None,
            local_only: false,
            knows: TaintSet::default(),
            via: Via::Mcp,
        };
        self.ask(asked, caller, true, None).await
    }
}
