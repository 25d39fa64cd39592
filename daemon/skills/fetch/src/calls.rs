//! The tools as a model sees them: a URL in, bounded text out, and every redirect asked for as if it had been the first.

use std::time::Duration;

use http::{HeaderMap, header};
use paw_skill::{Fault, Said, Skill, read};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until, timeout_at},
};
use url::Url;

use crate::{
    ask::{Answer, MAX_BODY, Sent, ask},
    text::{content_type, text_of},
};

/// How long a call may take, a person's answer to a question for a further host included; pawd waits a little longer.
const LIMIT: Duration = Duration::from_secs(50);
/// Redirects of one call.
const MAX_REDIRECTS: usize = 5;
/// Bytes of text when the caller does not say.
const USUAL_TEXT: usize = 64 * 1024;
/// The most bytes of text.
const MAX_TEXT: usize = 128 * 1024;
/// The longest body that is sent, in bytes.
const MAX_SENT: usize = 64 * 1024;
/// The longest URL, in bytes.
const MAX_URL: usize = 8 * 1024;
/// How long to wait before the same is asked again where the proxy does not say.
const USUAL_WAIT: Duration = Duration::from_secs(5);

/// The header by which the proxy says that it refused a request, and why.
const REFUSED: &str = "x-paw-refused";
/// Its word for a host that a person is asked for.
const ASKED_FOR: &str = "no_rule";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetArguments {
    url: String,
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostArguments {
    url: String,
    body: String,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    limit: Option<u32>,
}

/// The skill.
pub(crate) struct Fetch {
    /// Where its proxy is, as `HOST:PORT`; none where this call may reach nothing.
    proxy: Option<String>,
}

impl Fetch {
    /// One that asks through the proxy that this environment variable names.
    pub(crate) fn through(variable: Option<String>) -> Self {
        let proxy = variable.and_then(|text| {
            let url = Url::parse(&text).ok()?;
            Some(format!(
                "{}:{}",
                url.host_str()?,
                url.port_or_known_default()?
            ))
        });
        Self { proxy }
    }

    fn fetch(&self, url: &str, sent: Option<Sent>, limit: Option<u32>) -> Result<Said, Fault> {
        let proxy = self.proxy.as_deref();
        let proxy = proxy.ok_or_else(|| refused("this call may reach nothing"))?;
        let limit = limit.map_or(USUAL_TEXT, |limit| limit as usize);
        if !(1..=MAX_TEXT).contains(&limit) {
            return Err(refused(format!("a limit is 1 to {MAX_TEXT}")));
        }
        let url = parse(url).map_err(refused)?;
        // Calls are made in a thread of their own beside the one that drives what they wait for.
        Handle::current().block_on(follow(proxy, url, sent, limit))
    }
}

impl Skill for Fetch {
    fn call(&mut self, tool: &str, arguments: Value) -> Result<Said, Fault> {
        match tool {
            "get" => {
                let GetArguments { url, limit } = read(arguments)?;
                self.fetch(&url, None, limit)
            }
            "post" => {
                let PostArguments {
                    url,
                    body,
                    content_type,
                    limit,
                } = read(arguments)?;
                if body.len() > MAX_SENT {
                    let why = format!(
                        "a body of {} bytes; at most {MAX_SENT} are sent",
                        body.len()
                    );
                    return Err(refused(why));
                }
                let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
                let sent = Sent {
                    body: body.into(),
                    content_type,
                };
                self.fetch(&url, Some(sent), limit)
            }
            _ => Err(Fault::NoTool),
        }
    }
}

/// Asks, and asks where it is sent on to.
async fn follow(
    proxy: &str,
    mut url: Url,
    sent: Option<Sent>,
    limit: usize,
) -> Result<Said, Fault> {
    let deadline = Instant::now() + LIMIT;
    let mut came_by = Vec::new();
    loop {
        let answer = allowed(proxy, &url, sent.as_ref(), limit, deadline).await?;
        let next = next(&url, &answer)
            .filter(|_| sent.is_none() && answer.status.is_redirection())
            .transpose()
            .map_err(|why| refused(format!("{url} sends on, and {why}")))?;
        match next {
            None => return Ok(said(&url, &answer, limit, &came_by)),
            Some(_) if came_by.len() == MAX_REDIRECTS => {
                let why = format!("{url} sends on, after {MAX_REDIRECTS} others that did");
                return Err(refused(why));
            }
            Some(next) => came_by.push(std::mem::replace(&mut url, next)),
        }
    }
}

/// The answer of the server; where the proxy refuses a host that a person is asked for, once that person has said yes.
async fn allowed(
    proxy: &str,
    url: &Url,
    sent: Option<&Sent>,
    limit: usize,
    deadline: Instant,
) -> Result<Answer, Fault> {
    loop {
        let asked = timeout_at(deadline, ask(proxy, url, sent.cloned(), limit)).await;
        let answer = asked.map_err(|_| refused(format!("{url} did not answer in time")))??;
        let Some(reason) = answer.headers.get(REFUSED) else {
            return Ok(answer);
        };
        let again = Instant::now() + retry_after(&answer.headers);
        if reason.as_bytes() == ASKED_FOR.as_bytes() && again < deadline {
            // As the proxy says: it hears of no answer of a person before.
            sleep_until(again).await;
            continue;
        }
        let why = String::from_utf8_lossy(&answer.beginning);
        return Err(refused(format!("{url} was not reached: {}", why.trim())));
    }
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(USUAL_WAIT, |seconds: u64| {
        Duration::from_secs(seconds.clamp(1, 60))
    })
}

/// Where this answer sends on to, if it does.
fn next(url: &Url, answer: &Answer) -> Option<Result<Url, String>> {
    let location = answer.headers.get(header::LOCATION)?;
    let found = location.to_str().map_err(|error| error.to_string());
    Some(found.and_then(|text| {
        let joined = url.join(text).map_err(|error| error.to_string())?;
        parse(joined.as_str())
    }))
}

/// A URL that can be asked for, without its fragment.
fn parse(text: &str) -> Result<Url, String> {
    if text.len() > MAX_URL {
        return Err(format!("a URL has at most {MAX_URL} bytes"));
    }
    let mut url = Url::parse(text).map_err(|error| format!("it is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only http:// and https:// are fetched".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a user or a password is not fetched".to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

fn said(url: &Url, answer: &Answer, limit: usize, came_by: &[Url]) -> Said {
    let kind = content_type(&answer.headers);
    let text = text_of(&answer.headers, &answer.beginning);
    let size = if answer.more {
        format!("more than {MAX_BODY} bytes")
    } else {
        format!("{} bytes", answer.bytes)
    };
    let status = answer.status.as_u16();
    let shown = kind.as_deref().unwrap_or("of no stated type");
    let mut told = format!("HTTP {status}, {shown}, {size}, from {url}\n");
    let location = answer.status.is_redirection().then(|| next(url, answer));
    let location = location.flatten().and_then(Result::ok);
    if let Some(location) = &location {
        told.push_str(&format!("it sends on to {location}\n"));
    }
    let cut = answer.bytes > limit as u64;
    match &text {
        Some(text) => {
            told.push('\n');
            told.push_str(text);
            if cut {
                told.push_str(&format!("\n[cut after {limit} bytes]"));
            }
        }
        None if answer.bytes == 0 => {}
        None => told.push_str(&format!(
            "no text that can be read here; SHA-256 {}\n",
            answer.sha256
        )),
    }
    let structured = json!({
        "status": status,
        "url": url.as_str(),
        "content_type": kind,
        "bytes": answer.bytes,
        "is_text": text.is_some(),
        "truncated": cut || answer.more,
        "sha256": answer.sha256,
        "location": location.map(String::from),
        "redirects": came_by.iter().map(Url::as_str).collect::<Vec<_>>(),
    });
    Said {
        text: told,
        structured,
    }
}

fn refused(why: impl Into<String>) -> Fault {
    Fault::Refused(why.into())
}
