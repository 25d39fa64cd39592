//! `pawctl chat`: one turn or a conversation, piece by piece.
//!
//! The next item is read when the one before was written, so that a slow reader of our output slows pawd down: nothing is
//! buffered without bound and nothing is lost. A stream that ends without its last item is an error, never a short answer.

use std::{
    fs::File,
    io::{self, BufRead as _, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use paw_api::{
    action::Action,
    provider::{ChatEvent, ChatResult, ToolCalled},
};
use paw_policy::TaintSet;
use serde_json::{Map, Value, json};

use super::{action, or_stdin};
use crate::{
    cli::{Chat, Format, Global},
    connect::{Answer, Connection, Items, Params},
    fail::{Failure, exit},
    render::{Out, Tone, text},
};

/// What is being done, for errors.
const DOING: &str = "chat";

/// The most bytes of a file that goes into a request.
const MOST: u64 = 512 * 1024;

pub(super) async fn run(global: &Global, out: &mut Out, chat: Chat) -> Result<u8, Failure> {
    let text = match &chat.text {
        Some(text) => or_stdin(text.clone())?,
        None if io::stdin().is_terminal() => return converse(global, out, &chat).await,
        None => or_stdin("-".to_owned())?,
    };
    let pawd = Connection::open(global).await?;
    if chat.background {
        return background(&pawd, out, &chat, text).await;
    }
    match turn(&pawd, out, &chat, chat.session.as_deref(), &text).await? {
        Turn::Done(_) => Ok(exit::DONE),
        Turn::Interrupted => Err(Failure::Interrupted {
            why: "the turn was cancelled".to_owned(),
        }),
    }
}

async fn background(
    pawd: &Connection,
    out: &mut Out,
    chat: &Chat,
    text: String,
) -> Result<u8, Failure> {
    let said = json!({
        "text": text,
        "provider": chat.provider,
        "model": chat.model,
        "route": chat.route,
        "schema": schema(chat)?,
        "images": images(chat)?,
    });
    let arguments: Map<String, Value> = match said {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect(),
        _ => unreachable!("an object was written"),
    };
    let asked = action::Asked {
        kind: "chat",
        arguments,
        agent: chat.agent.clone(),
        session: chat.session.clone(),
    };
    let (answer, action) = action::submit(pawd, out, asked, true).await?;
    out.answer(&answer, |action: &Action, _| {
        format!("{}\n", text::line(&action.id))
    })?;
    action::code(&action, true)
}

/// The schema that was named; whether it is one, pawd says.
fn schema(chat: &Chat) -> Result<Option<Value>, Failure> {
    let Some(path) = &chat.schema else {
        return Ok(None);
    };
    let bytes = read(path)?;
    let schema = serde_json::from_slice(&bytes).map_err(|error| Failure::Usage {
        doing: DOING.to_owned(),
        why: format!("{}: {error}", path.display()),
        remedy: "give a file with a JSON schema".to_owned(),
    })?;
    Ok(Some(schema))
}

/// The pictures that were named, in base64.
fn images(chat: &Chat) -> Result<Option<Vec<String>>, Failure> {
    let read = |path: &PathBuf| read(path).map(|bytes| STANDARD.encode(bytes));
    let images: Vec<String> = chat.images.iter().map(read).collect::<Result<_, _>>()?;
    Ok((!images.is_empty()).then_some(images))
}

/// A file that can go into a request; pawd takes no longer one.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let file = File::open(path)
        .map_err(|error| Failure::io(format!("read {}", path.display()), &error))?;
    let mut bytes = Vec::new();
    file.take(MOST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io(format!("read {}", path.display()), &error))?;
    if bytes.len() as u64 > MOST {
        return Err(Failure::Usage {
            doing: DOING.to_owned(),
            why: format!("{} has more than {MOST} bytes", path.display()),
            remedy: "give a smaller file".to_owned(),
        });
    }
    Ok(bytes)
}

/// How a turn ended, when it did not fail.
enum Turn {
    /// Answered, in this conversation.
    Done(String),
    /// Ctrl-C; it was cancelled at pawd.
    Interrupted,
}

/// One turn: says `text`, shows the answer.
async fn turn(
    pawd: &Connection,
    out: &mut Out,
    chat: &Chat,
    session: Option<&str>,
    text: &str,
) -> Result<Turn, Failure> {
    let params = Params::named(json!({
        "text": text,
        "agent": chat.agent,
        "session": session,
        "provider": chat.provider,
        "model": chat.model,
        "local_only": chat.local_only.then_some(true),
        "route": chat.route,
        "schema": schema(chat)?,
        "images": images(chat)?,
    }));
    let mut items = pawd.subscribe(DOING, "chat.send", params).await?;
    let ended = tokio::select! {
        ended = follow(out, &mut items, !chat.no_stream) => Some(ended),
        _ = tokio::signal::ctrl_c() => None,
    };
    match ended {
        Some(Ok(done)) => Ok(Turn::Done(done.session)),
        Some(Err(failure)) => {
            items.end().await;
            Err(failure)
        }
        None => {
            items.end().await;
            Ok(Turn::Interrupted)
        }
    }
}

/// Where an answer is shown as text. Nobody says here what the model had read, so at a terminal no address in it is one that can be opened;
/// a program has what was said.
struct Screen {
    breaks: Option<text::Breaking>,
    ends_line: bool,
}

impl Screen {
    fn of(out: &Out) -> Self {
        Self {
            breaks: out.look.person.then(text::Breaking::default),
            ends_line: true,
        }
    }

    /// Shows what comes next of it.
    fn show(&mut self, text: &str) -> Result<(), Failure> {
        let text = text::plain(text);
        match &mut self.breaks {
            Some(breaks) => {
                let text = breaks.next(&text);
                self.write(&text)
            }
            None => self.write(&text),
        }
    }

    /// What comes next is something else, and begins on a line of its own.
    fn end(&mut self) -> Result<(), Failure> {
        if let Some(breaks) = &mut self.breaks {
            let held = breaks.end();
            self.write(&held)?;
        }
        if !self.ends_line {
            self.write("\n")?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        self.ends_line = text.ends_with('\n');
        Out::write(text.as_bytes())
    }
}

/// Shows a stream to its end.
async fn follow(out: &mut Out, items: &mut Items, stream: bool) -> Result<ChatResult, Failure> {
    let mut expected = 0;
    let mut screen = Screen::of(out);
    while let Some(item) = items.next().await? {
        let event: ChatEvent = item.read()?;
        if out.format == Format::Jsonl {
            out.json(item.raw.get());
            out.flush()?;
        }
        match event {
            ChatEvent::Accepted { .. } => {}
            ChatEvent::Delta { seq, text } => {
                if seq != expected {
                    return Err(cut(&format!(
                        "piece {expected} is missing, piece {seq} came"
                    )));
                }
                expected += 1;
                if stream && out.format == Format::Table {
                    screen.show(&text)?;
                }
            }
            ChatEvent::StreamReset {
                provider,
                model,
                why,
            } => {
                expected = 0;
                screen.end()?;
                if stream && out.format == Format::Table {
                    let [why, provider, model] =
                        [&why, &provider, &model].map(|word| text::line(word));
                    out.say(&format!(
                        "the answer broke off ({why}) and begins again at {provider} ({model}); what is above is not part of it"
                    ));
                }
            }
            ChatEvent::Tool(called) => {
                expected = 0;
                screen.end()?;
                if out.format == Format::Table {
                    out.say(&tool(&called));
                }
            }
            ChatEvent::Done(done) => {
                match out.format {
                    Format::Table if stream => screen.end()?,
                    Format::Table => screen.show(&format!("{}\n", done.text.trim_end()))?,
                    Format::Json => out.json(&without_type(&item)?),
                    Format::Jsonl => {}
                }
                if out.format == Format::Table {
                    out.say(&answered_by(&done));
                }
                return Ok(done);
            }
            ChatEvent::Failed {
                message,
                error,
                result,
            } => {
                screen.end()?;
                // What is said in place of an answer is shown where one would be; the error says that it is none.
                match (result, out.format) {
                    (Some(result), Format::Table) => {
                        screen.show(&format!("{}\n", result.text))?;
                    }
                    (Some(result), Format::Json) => {
                        out.json(&json!(result).to_string());
                        out.flush()?;
                    }
                    (Some(_), Format::Jsonl) | (None, _) => {}
                }
                return Err(Failure::Refused {
                    doing: DOING.to_owned(),
                    code: error.kind.code(),
                    message,
                    data: Some(error),
                });
            }
        }
    }
    screen.end()?;
    Err(cut("the stream ended before the answer was complete"))
}

/// Where a tool that the model called stands, and what a person can do about it.
fn tool(called: &ToolCalled) -> String {
    // A model chose the arguments, and nobody says here what it had read.
    let line = |word| text::unopened(text::line(word), &TaintSet::default());
    let [summary, tool, state] = [&*called.summary, &called.tool, &called.state].map(line);
    let what = if summary.is_empty() { tool } else { summary };
    match (&called.action_id, called.digest, &called.why) {
        (Some(id), Some(digest), _) => {
            let risk = called.risk.map_or("unknown", paw_policy::Risk::as_str);
            format!(
                "{what}: waits for a person (risk {risk}, digest {digest})\n  pawctl approval approve {}",
                text::line(id)
            )
        }
        (_, _, Some(why)) => format!("{what}: {state}: {}", line(why)),
        (_, _, None) => format!("{what}: {state}"),
    }
}

/// Who answered, and who was asked before that and did not.
fn answered_by(done: &ChatResult) -> String {
    let [provider, model] = [&done.provider, &done.model].map(|word| text::line(word));
    if done.cached {
        return format!("answered before by {provider} ({model}); nobody was asked");
    }
    let others: Vec<String> = done
        .attempts
        .iter()
        .filter(|attempt| attempt.outcome != "ok" && attempt.provider != done.provider)
        .map(|attempt| {
            let [provider, outcome] =
                [&attempt.provider, &attempt.outcome].map(|word| text::line(word));
            format!("{provider} ({outcome})")
        })
        .collect();
    let mut said = format!("answered by {provider} ({model})");
    if !others.is_empty() {
        said.push_str(&format!(", after {}", others.join(", ")));
    }
    if let Some(cost) = done.cost.filter(|cost| *cost > 0.0) {
        said.push_str(&format!(", for {}", text::cost(cost, done.cost_estimated)));
    }
    said
}

fn cut(why: &str) -> Failure {
    Failure::Cut {
        doing: DOING.to_owned(),
        why: why.to_owned(),
        remedy: "see what became of it: pawctl action list -n 1; pawctl session list -n 1"
            .to_owned(),
    }
}

/// The last item without the member that told it apart in the stream: the result of the contract.
fn without_type(item: &Answer) -> Result<String, Failure> {
    let mut members: Map<String, Value> = item.read()?;
    members.remove("type");
    Ok(Value::Object(members).to_string())
}

/// A conversation, line by line, until end of file.
async fn converse(global: &Global, out: &mut Out, chat: &Chat) -> Result<u8, Failure> {
    // `--timeout` is for each turn: the time that a person takes to think is not pawd's.
    let mut pawd = Connection::open(global).await?;
    out.say("One line is one turn; Ctrl-C ends an answer, Ctrl-D the conversation.");
    let mut session = chat.session.clone();
    loop {
        Out::write_err(out.look.paint(Tone::Bold, "> ").as_bytes())?;
        let Some(line) = read_line().await? else {
            break;
        };
        if line.trim().is_empty() {
            continue;
        }
        pawd.restart_clock();
        match turn(&pawd, out, chat, session.as_deref(), &line).await {
            Ok(Turn::Done(spoken_in)) => session = Some(spoken_in),
            Ok(Turn::Interrupted) => out.say("\n(cancelled)"),
            // The conversation goes on after a turn that failed, unless pawd itself is gone.
            Err(failure @ (Failure::Lost { .. } | Failure::Cut { .. } | Failure::PipeClosed)) => {
                return Err(failure);
            }
            Err(failure) => out.fail(&failure),
        }
        out.flush()?;
    }
    Out::write_err(b"\n")?;
    if let Some(session) = session {
        out.say(&format!(
            "go on with: pawctl chat --session {}",
            text::line(&session)
        ));
    }
    Ok(exit::DONE)
}

/// One line from the terminal, read on a thread of its own so that the connection stays alive; none at the end.
async fn read_line() -> Result<Option<String>, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin()
            .lock()
            .read_line(&mut line)
            .map(|bytes| (bytes > 0).then_some(line))
    });
    match read.await {
        Ok(line) => line.map_err(|error| Failure::io("read the terminal", &error)),
        Err(error) => Err(Failure::io("read the terminal", &error.into())),
    }
}
