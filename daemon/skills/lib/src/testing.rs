//! A client for the tests of skills: raw JSON lines to the compiled program, as pawd speaks to it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
};

use serde_json::{Value, json};

/// The longest line that pawd takes, in bytes.
const MAX_LINE: usize = 1024 * 1024;

/// A skill's program that has answered the handshake. It is killed with this value.
#[derive(Debug)]
pub struct Conversation {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    next: u64,
}

impl Conversation {
    /// Starts it and greets it; it must say that it has this name.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn with(command: &mut Command, name: &str) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut conversation = Self {
            process,
            stdin,
            stdout,
            next: 0,
        };
        let us = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}});
        let hello = conversation.ask("initialize", &us);
        assert_eq!(hello["result"]["serverInfo"]["name"], name);
        conversation.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        conversation
    }

    /// The number of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Says a line.
    ///
    /// # Panics
    /// When nobody takes it.
    pub fn say(&mut self, line: &impl std::fmt::Display) {
        writeln!(self.stdin.as_mut().expect("it is open"), "{line}").expect("it listens");
    }

    /// Asks, and gives the whole answer, which pawd would take.
    ///
    /// # Panics
    /// When there is none, or pawd would not take it.
    pub fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        self.say(&json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params}));
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it answers");
        assert!(line.len() < MAX_LINE, "a line of {} bytes", line.len());
        let answer: Value = serde_json::from_str(&line).expect("it answers in JSON");
        assert_eq!(answer["id"], self.next);
        answer
    }

    /// The text of a call that went well, and what is beside it.
    ///
    /// # Panics
    /// When it did not.
    pub fn call(&mut self, tool: &str, arguments: Value) -> (String, Value) {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        assert_eq!(answer["result"]["isError"], false, "{answer}");
        let beside = answer["result"]["structuredContent"].clone();
        (text_of(&answer), beside)
    }

    /// The text of a call that was refused.
    ///
    /// # Panics
    /// When it was not.
    pub fn refused(&mut self, tool: &str, arguments: Value) -> String {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        text_of(&answer)
    }

    /// Ends its stdin and waits for its end.
    ///
    /// # Panics
    /// When the end cannot be seen.
    pub fn end(&mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.process.wait().expect("it is a child of ours")
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text_of(answer: &Value) -> String {
    let text = answer["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("{answer}")).to_owned()
}
