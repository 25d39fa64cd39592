//! `pawctl mcp`: the tools of an agent for another program's agent, over stdin and stdout.
//!
//! It decides nothing and holds no right: each call is an action of whoever runs it, told to pawd as what another model wrote, judged by
//! policy, and a person is asked where policy says so. What an action that was not completed says is the answer of the tool, so that who called it can read why.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    sync::Arc,
};

use paw_api::{
    action::Action,
    agent::{Agent, Skill},
};
use paw_policy::State;
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::{async_rw::AsyncRwTransport, io::stdio},
};
use serde_json::{Map, Value, json};

use super::action;
use crate::{
    cli::Global,
    connect::{Connection, Params},
    fail::{Failure, exit},
};

/// The longest line that is taken, in bytes: pawd takes no longer request.
const MAX_LINE: usize = 1 << 20;

/// The longest name of a tool that clients of MCP agree on, in bytes.
const MAX_NAME: usize = 64;

pub(super) async fn run(global: &Global, agent: Option<String>) -> Result<u8, Failure> {
    let agent = agent.unwrap_or_else(|| "default".to_owned());
    let tools = Tools {
        pawd: Connection::open(global).await?,
        agent,
    };
    // A wrong name is told to who starts it, and not to the program that speaks with it.
    tools.offered().await?;
    let (stdin, stdout) = stdio();
    let transport = AsyncRwTransport::new_server(stdin, stdout).with_max_line_length(MAX_LINE);
    let broken = |why: String| Failure::Lost {
        doing: "speak MCP over stdin and stdout".to_owned(),
        why,
    };
    let serving = tools
        .serve(transport)
        .await
        .map_err(|error| broken(error.to_string()))?;
    serving
        .waiting()
        .await
        .map_err(|error| broken(error.to_string()))?;
    Ok(exit::DONE)
}

struct Tools {
    pawd: Connection,
    agent: String,
}

/// A tool by the name that it has here.
struct Offered {
    skill: String,
    tool: paw_api::agent::Tool,
}

impl Tools {
    /// What the agent may use now. Names are those of skill and tool; what gives no name that clients take is left out.
    async fn offered(&self) -> Result<BTreeMap<String, Offered>, Failure> {
        let named = Params::named(json!({"name": self.agent}));
        let agent: Agent = self
            .pawd
            .call("show the agent", "agent.show", named)
            .await?
            .read()?;
        let skills: Vec<Skill> = self
            .pawd
            .call("list skills", "skill.list", Params::none())
            .await?
            .read()?;
        let mut offered = BTreeMap::new();
        let usable = skills
            .into_iter()
            .filter(|skill| skill.enabled && agent.skills.contains(&skill.name));
        for skill in usable {
            for tool in skill.tools {
                let name = format!("{}__{}", skill.name, tool.name).replace('.', "_");
                let skill = skill.name.clone();
                let taken = offered.contains_key(&name);
                if taken || name.len() > MAX_NAME {
                    // Two tools of one name would be one that nobody can tell from the other.
                    let _ = writeln!(io::stderr(), "left out: tool {} of {skill}", tool.name);
                    continue;
                }
                offered.insert(name, Offered { skill, tool });
            }
        }
        Ok(offered)
    }

    async fn call(
        &self,
        offered: &Offered,
        arguments: Map<String, Value>,
    ) -> Result<Action, Failure> {
        let params = json!({
            "agent": self.agent,
            "skill": offered.skill,
            "tool": offered.tool.name,
            "arguments": arguments,
        });
        let answer = self
            .pawd
            .call_patiently("call the tool", "mcp.call", Params::named(params))
            .await?;
        let action: Action = answer.read()?;
        if action.state.is_final() {
            return Ok(action);
        }
        if action.state == State::WaitingApproval {
            let id = &action.id;
            let _ = writeln!(
                io::stderr(),
                "waiting for approval: pawctl approval show {id}"
            );
        }
        action::wait(&self.pawd, &action.id)
            .await
            .map(|(_, action)| action)
    }
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("pawd", env!("CARGO_PKG_VERSION")))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let offered = self.offered().await.map_err(|failure| fault(&failure))?;
        let tools = offered.into_iter().map(|(name, offered)| {
            let schema = match offered.tool.input_schema {
                Value::Object(schema) => schema,
                _ => Map::new(),
            };
            let class = offered.tool.class;
            let text = format!("{} (class {class})", offered.tool.description);
            Tool::new(name, text, Arc::new(schema))
        });
        Ok(ListToolsResult::with_all_items(tools.collect()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let offered = self.offered().await.map_err(|failure| fault(&failure))?;
        let Some(offered) = offered.get(request.name.as_ref()) else {
            let message = format!("agent {} has no tool {:?}", self.agent, request.name);
            return Err(ErrorData::invalid_params(message, None));
        };
        let arguments = request.arguments.unwrap_or_default();
        Ok(match self.call(offered, arguments).await {
            Ok(action) => told(&action),
            // Denied, or not to be understood: for who called it to read.
            Err(failure) => CallToolResult::error(vec![ContentBlock::text(why(&failure))]),
        }
        .into())
    }
}

/// What became of an action, as the answer of a tool.
fn told(action: &Action) -> CallToolResult {
    let done = action::code(action, false);
    match (done, &action.result) {
        (Ok(_), Some(result)) => {
            let text = result.get("text").and_then(Value::as_str).unwrap_or("");
            let mut told = CallToolResult::success(vec![ContentBlock::text(text)]);
            told.structured_content = result
                .get("structured")
                .filter(|structured| structured.is_object())
                .cloned();
            told
        }
        (Ok(_), None) => CallToolResult::success(Vec::new()),
        (Err(failure), _) => CallToolResult::error(vec![ContentBlock::text(why(&failure))]),
    }
}

fn fault(failure: &Failure) -> ErrorData {
    ErrorData::internal_error(why(failure), None)
}

fn why(failure: &Failure) -> String {
    let [what, why, remedy] = failure.lines();
    format!("{what}: {why}; {remedy}")
}
