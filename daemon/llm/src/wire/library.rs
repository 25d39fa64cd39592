//! What an Ollama says of the models that it holds: `/api/ps`, `/api/generate` without a question, `/api/pull`.
//!
//! Loading and unloading is a question that asks nothing: the answer says `done: true` once the model is in memory, or out of it.
//! A pull is one JSON object a line; it ends with the status `success`, and an error comes as `{"error": "…"}` with the HTTP status
//! still 200.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ndjson::Ndjson;
use super::{fault, is_name, json, utf8};
use crate::error::LlmError;
use crate::models::Pulled;
use crate::said::Mask;

/// The most bytes of a status of a pull that are kept.
const STATUS_LIMIT: usize = 128;

#[derive(Deserialize)]
struct Running {
    // Older servers say `null` when there are none.
    models: Option<Vec<Name>>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// Names of the models that are in memory.
pub(crate) fn running(body: &[u8]) -> Result<Vec<String>, LlmError> {
    let running: Running = json(&utf8(body), "the list of loaded models")?;
    let names = running.models.unwrap_or_default().into_iter();
    Ok(names
        .map(|it| it.name)
        .filter(|name| is_name(name))
        .collect())
}

#[derive(Serialize)]
struct Hold<'a> {
    model: &'a str,
    stream: bool,
    keep_alive: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Room>,
}

#[derive(Serialize)]
struct Room {
    num_ctx: u64,
}

/// Loads a model for as long as `keep_alive` says after its last use. `context` has to be what questions will say: a model that was
/// loaded with room for fewer tokens is loaded again.
pub(crate) fn hold(model: &str, keep_alive: &str, context: Option<u64>) -> Vec<u8> {
    let hold = Hold {
        model,
        stream: false,
        keep_alive,
        options: context.map(|num_ctx| Room { num_ctx }),
    };
    // Texts and numbers have a JSON.
    serde_json::to_vec(&hold).unwrap_or_default()
}

#[derive(Deserialize)]
struct Held {
    done: Option<bool>,
    error: Option<Value>,
}

/// Whether a model was loaded, or unloaded, as was asked.
pub(crate) fn held(body: &[u8], mask: &Mask) -> Result<(), LlmError> {
    let held: Held = json(&utf8(body), "the answer about a model")?;
    if held.error.is_some() {
        return Err(fault::judge(None, body, fault::Wish::default(), mask));
    }
    match held.done {
        Some(true) => Ok(()),
        Some(false) | None => Err(LlmError::Malformed {
            what: "it does not say that the model is loaded".to_owned(),
        }),
    }
}

/// Whether both name the same model of an Ollama: without a tag, `latest` is meant.
pub(crate) fn same_model(one: &str, other: &str) -> bool {
    let bare = |name: &str| name.strip_suffix(":latest").map(str::to_owned);
    bare(one).as_deref().unwrap_or(one) == bare(other).as_deref().unwrap_or(other)
}

#[derive(Deserialize)]
struct Line {
    status: Option<String>,
    total: Option<u64>,
    completed: Option<u64>,
    error: Option<Value>,
}

/// Reads the lines of one pull.
#[derive(Default)]
pub(crate) struct Pull {
    lines: Ndjson,
    done: bool,
}

impl Pull {
    /// Takes the next bytes, and gives the newest news that they complete: who reads slowly needs no older ones.
    pub(crate) fn push(&mut self, bytes: &[u8], mask: &Mask) -> Result<Option<Pulled>, LlmError> {
        let (mut news, done) = (None, &mut self.done);
        self.lines.push(bytes, |line| {
            if !*done {
                news = Some(pulled(line, mask, done)?);
            }
            Ok(())
        })?;
        Ok(news)
    }

    /// The provider closed the stream: what stands behind the last line end, and whether all of it was pulled.
    pub(crate) fn finish(&mut self, mask: &Mask) -> Result<(), LlmError> {
        let done = &mut self.done;
        self.lines
            .finish(|line| pulled(line, mask, done).map(drop))
            .map_err(|error| match error {
                // Half a line at the very end is what a cut looks like.
                LlmError::Malformed { .. } => LlmError::Cut { source: None },
                other => other,
            })?;
        if self.done {
            Ok(())
        } else {
            Err(LlmError::Cut { source: None })
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }
}

fn pulled(line: &[u8], mask: &Mask, done: &mut bool) -> Result<Pulled, LlmError> {
    let said: Line = json(&utf8(line), "a line of the pull")?;
    if said.error.is_some() {
        return Err(fault::judge(None, line, fault::Wish::default(), mask));
    }
    let status = mask.clean_to(&said.status.unwrap_or_default(), STATUS_LIMIT);
    *done = status == "success";
    Ok(Pulled {
        status,
        completed: said.completed,
        total: said.total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PULL: &str = concat!(
        "{\"status\":\"pulling manifest\"}\r\n\n",
        "{\"status\":\"pulling 8eeb52dfb3bb\",\"digest\":\"sha256:8e\",\"total\":100}\n",
        "{\"status\":\"pulling 8eeb52dfb3bb\",\"digest\":\"sha256:8e\",\"total\":100,\"completed\":40,\"new\":{\"é\":1}}\n",
        "{\"status\":\"success\"}\n",
    );

    fn outcome(pieces: &[&[u8]]) -> (Vec<Pulled>, Result<(), LlmError>) {
        let (mut pull, mask, mut news) = (Pull::default(), Mask::default(), Vec::new());
        for piece in pieces {
            match pull.push(piece, &mask) {
                Ok(some) => news.extend(some),
                Err(error) => return (news, Err(error)),
            }
        }
        let end = pull.finish(&mask);
        (news, end)
    }

    #[test]
    fn pull_says_the_same_wherever_the_network_cuts_it() {
        let bytes = PULL.as_bytes();
        let whole: Vec<&[u8]> = bytes.chunks(1).collect();
        let (every, end) = outcome(&whole);
        assert!(end.is_ok() && every.len() == 4, "{every:?}");
        assert_eq!(
            every[2],
            Pulled {
                status: "pulling 8eeb52dfb3bb".into(),
                completed: Some(40),
                total: Some(100)
            }
        );
        for at in 0..=bytes.len() {
            let (news, end) = outcome(&[&bytes[..at], &bytes[at..]]);
            assert!(end.is_ok(), "cut at {at}");
            assert_eq!(news.last(), every.last(), "cut at {at}");
        }
    }

    #[test]
    fn pull_without_its_success_is_cut() {
        let all = PULL.as_bytes();
        let success = PULL.find("{\"status\":\"success\"").unwrap();
        for end in 0..=success {
            let (_, outcome) = outcome(&[&all[..end]]);
            assert!(matches!(outcome, Err(LlmError::Cut { .. })), "cut at {end}");
        }
    }

    #[test]
    fn error_in_a_pull_is_an_error() {
        let text = "{\"status\":\"pulling manifest\"}\n{\"error\":\"pull model manifest: file does not exist\"}\n";
        let (_, end) = outcome(&[text.as_bytes()]);
        let error = end.expect_err("it failed");
        assert!(
            paw_said(&error).contains("file does not exist"),
            "{error:?}"
        );
    }

    fn paw_said(error: &LlmError) -> String {
        error.to_string()
    }

    #[test]
    fn status_of_a_pull_is_bounded_and_can_be_shown() {
        let text = format!("{{\"status\":\"\\u001b[2J{}\"}}\n", "x".repeat(10_000));
        let mut pull = Pull::default();
        let news = pull.push(text.as_bytes(), &Mask::default()).unwrap();
        let status = news.expect("there is news").status;
        assert!(status.len() <= STATUS_LIMIT && !status.contains('\u{1b}'));
    }

    #[test]
    fn loaded_models_are_named() {
        let body = br#"{"models":[{"name":"m:latest","size":1,"expires_at":"x"},{"name":"a\u0007"},{"name":"b:1b"}]}"#;
        assert_eq!(running(body).unwrap(), ["m:latest", "b:1b"]);
        assert_eq!(running(br#"{"models":null}"#).unwrap(), [""; 0]);
        assert!(
            same_model("m", "m:latest") && !same_model("m", "m:1b") && same_model("b:1b", "b:1b")
        );
    }

    #[test]
    fn loading_has_its_answer() {
        let mask = Mask::default();
        let loaded = br#"{"model":"m","response":"","done":true,"done_reason":"load"}"#;
        assert!(held(loaded, &mask).is_ok());
        assert!(held(br#"{"model":"m","done":false}"#, &mask).is_err());
        assert!(held(br#"{"error":"model 'x' not found"}"#, &mask).is_err());
        let asked: Value = serde_json::from_slice(&hold("m", "30m", Some(4096))).unwrap();
        assert_eq!(
            asked,
            serde_json::json!({"model": "m", "stream": false, "keep_alive": "30m", "options": {"num_ctx": 4096}})
        );
    }
}
