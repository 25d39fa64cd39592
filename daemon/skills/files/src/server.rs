//! The three tools as MCP sees them: arguments in, bounded text out.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rmcp::{
    ServerHandler, ServiceExt as _,
    handler::server::{router::tool::ToolRouter, wrapper::Parameters},
    model::{CallToolResult, ContentBlock, Implementation, ServerCapabilities, ServerConfig},
    tool, tool_handler, tool_router,
    transport::{async_rw::AsyncRwTransport, io::stdio},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::{
    path::Inside,
    tree::{MAX_DEPTH, MAX_ENTRIES, MAX_READ, MAX_WRITE, Tree, TreeError},
};

/// The longest line that is taken: the largest write, with each of its bytes escaped as JSON allows, and its frame.
const MAX_LINE: usize = 6 * MAX_WRITE + 64 * 1024;

/// Bytes of a read when the caller does not say.
const USUAL_READ: usize = 64 * 1024;

/// Why the conversation ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error("no MCP handshake on stdin: {0}")]
    Handshake(Box<rmcp::service::ServerInitializeError>),
    #[error("the conversation broke off: {0}")]
    Broken(tokio::task::JoinError),
}

/// Speaks MCP over stdin and stdout until stdin ends.
pub(crate) fn serve(tree: Tree) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let served = runtime.block_on(async {
        let (stdin, stdout) = stdio();
        let transport = AsyncRwTransport::new_server(stdin, stdout).with_max_line_length(MAX_LINE);
        let running = Files::new(tree)
            .serve(transport)
            .await
            .map_err(|fault| ServeError::Handshake(Box::new(fault)))?;
        running
            .waiting()
            .await
            .map(drop)
            .map_err(ServeError::Broken)
    });
    // A read of stdin may still wait in its thread; nobody needs what it would bring.
    runtime.shutdown_background();
    served
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    /// Directory, relative to the workspace; "." for the workspace itself.
    path: String,
    /// Levels to show, 1 to 8; 1 when left out.
    #[serde(default)]
    depth: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadArguments {
    /// File, relative to the workspace.
    path: String,
    /// First byte to read; 0 when left out.
    #[serde(default)]
    offset: Option<u64>,
    /// Most bytes to read, up to 131072; 65536 when left out.
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteArguments {
    /// File, relative to the workspace; it is replaced as a whole.
    path: String,
    /// Its new text, at most 524288 bytes.
    text: String,
    /// Whether to make directories that are missing.
    #[serde(default)]
    create_dirs: bool,
}

struct Files {
    tree: Tree,
    tool_router: ToolRouter<Self>,
}

#[tool_router]
impl Files {
    fn new(tree: Tree) -> Self {
        Self {
            tree,
            tool_router: Self::tool_router(),
        }
    }

    #[tool(description = "List a directory of the workspace.")]
    async fn list(
        &self,
        Parameters(ListArguments { path, depth }): Parameters<ListArguments>,
    ) -> CallToolResult {
        answer(path.parse::<Inside>().map_err(TreeError::from).and_then(|path| {
            let listing = self.tree.list(&path, depth.unwrap_or(1).min(MAX_DEPTH))?;
            let mut text = String::new();
            for entry in &listing.entries {
                text += &format!("{:9} {:>10} {}\n", entry.kind, entry.size, entry.path);
            }
            if listing.entries.is_empty() {
                text += "(empty)\n";
            }
            if listing.truncated {
                text += &format!("(more than is shown; at most {MAX_ENTRIES} entries at a time, so list a directory below)\n");
            }
            Ok((text, json!(listing)))
        }))
    }

    #[tool(description = "Read a file of the workspace, or a piece of it.")]
    async fn read(
        &self,
        Parameters(ReadArguments {
            path,
            offset,
            limit,
        }): Parameters<ReadArguments>,
    ) -> CallToolResult {
        answer(path.parse::<Inside>().map_err(TreeError::from).and_then(|path| {
            let offset = offset.unwrap_or(0);
            let limit = limit.map_or(USUAL_READ, |limit| usize::try_from(limit).unwrap_or(MAX_READ)).clamp(1, MAX_READ);
            let piece = self.tree.read(&path, offset, limit)?;
            let (taken, encoding, text) = encode(piece.bytes);
            let next = offset.saturating_add(taken as u64);
            let next = (next < piece.size && taken > 0).then_some(next);
            Ok((text, json!({"size": piece.size, "offset": offset, "next_offset": next, "encoding": encoding})))
        }))
    }

    #[tool(description = "Write a file of the workspace as a whole; what was in it is gone.")]
    async fn write(
        &self,
        Parameters(WriteArguments {
            path,
            text,
            create_dirs,
        }): Parameters<WriteArguments>,
    ) -> CallToolResult {
        answer(
            path.parse::<Inside>()
                .map_err(TreeError::from)
                .and_then(|path| {
                    self.tree.write(&path, text.as_bytes(), create_dirs)?;
                    Ok((
                        format!("wrote {} bytes to {path}", text.len()),
                        json!({"path": path.as_str(), "bytes": text.len()}),
                    ))
                }),
        )
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Files {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("paw-files", env!("CARGO_PKG_VERSION")))
    }
}

/// A tool's failure is a result that says so, not a fault of the protocol: the model should read it and do better.
fn answer(done: Result<(String, serde_json::Value), TreeError>) -> CallToolResult {
    match done {
        Ok((text, structured)) => {
            let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
            result.structured_content = Some(structured);
            result
        }
        Err(fault) => CallToolResult::error(vec![ContentBlock::text(fault.to_string())]),
    }
}

/// Text as it is, up to the last whole character; anything else as base64. Also how many bytes of the piece are in it.
fn encode(bytes: Vec<u8>) -> (usize, &'static str, String) {
    let whole = match std::str::from_utf8(&bytes) {
        Ok(_) => bytes.len(),
        // No length: the piece ends inside a character, and the next one begins there.
        Err(fault) if fault.error_len().is_none() && fault.valid_up_to() > 0 => fault.valid_up_to(),
        Err(_) => 0,
    };
    if bytes.contains(&0) || whole == 0 && !bytes.is_empty() {
        return (bytes.len(), "base64", BASE64_STANDARD.encode(&bytes));
    }
    let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
    (whole, "utf-8", text)
}
