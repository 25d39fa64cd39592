//! The shipped skill `shell`: a command line in the sandbox it is in, as an MCP server over stdin and stdout.
//!
//! With `--scripts DIR` it is what skills in the agent-skills format are served by: then it runs the files below that directory
//! and nothing else. It confines nothing, because the sandbox does; it bounds what it reads and says.

mod run;
mod wanted;

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

use paw_skill::{Fault, Program, Said, USAGE, complain, declared, tool};
use serde_json::{Value, json};

use self::run::{MAX_OUTPUT, Ran, run};

/// As it calls itself.
const NAME: &str = "paw-shell";
/// The longest line that is taken, in bytes.
const MAX_LINE: usize = 1024 * 1024;

/// The tool of `--scripts`. It is pawd's word for it, too: the manifest of such a skill is made there.
const RUN_SCRIPT: &str = r#"{
  "type": "object",
  "properties": {
    "script": {"type": "string"},
    "arguments": {"type": "array", "items": {"type": "string"}},
    "stdin": {"type": "string"}
  },
  "required": ["script"],
  "additionalProperties": false
}"#;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let (offers, tools) = match arguments.as_slice() {
        [] => (Offers::Commands, declared(include_str!("../skill.toml"))),
        [option, dir] if option == "--scripts" => {
            let what = "Run a script of this skill; answers with its output and its exit code.";
            let tool = tool("run_script".to_owned(), what.to_owned(), RUN_SCRIPT);
            let tool = tool.expect("the schema above is an object");
            (Offers::Scripts(PathBuf::from(dir)), vec![tool])
        }
        _ => return complain(NAME, "usage: paw-shell [--scripts DIRECTORY]", USAGE),
    };
    let program = Program {
        name: NAME,
        tools,
        max_line: MAX_LINE,
    };
    program.serve(offers)
}

/// What it runs.
enum Offers {
    /// Any command line.
    Commands,
    /// The files below a directory.
    Scripts(PathBuf),
}

impl paw_skill::Skill for Offers {
    fn call(&mut self, tool: &str, arguments: Value) -> Result<Said, Fault> {
        let (command, input) = match (self, tool) {
            (Self::Commands, "run") => wanted::command(arguments)?,
            (Self::Scripts(dir), "run_script") => wanted::script(dir, arguments)?,
            (Self::Commands | Self::Scripts(_), _) => return Err(Fault::NoTool),
        };
        let ran =
            run(command, input).map_err(|error| Fault::Refused(format!("start it: {error}")))?;
        Ok(Said {
            text: told(&ran),
            structured: json!(ran),
        })
    }
}

fn told(ran: &Ran) -> String {
    let mut text = ran.stdout.clone();
    if !ran.stderr.is_empty() {
        text += &format!("\n[stderr]\n{}", ran.stderr);
    }
    if ran.truncated {
        text += &format!("\n[only the first {MAX_OUTPUT} bytes of each stream are kept]");
    }
    match (ran.exit_code, ran.signal) {
        (Some(0), _) => {}
        (Some(code), _) => text += &format!("\n[exit code {code}]"),
        (None, signal) => text += &format!("\n[ended by signal {}]", signal.unwrap_or(0)),
    }
    text
}
