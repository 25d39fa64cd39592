//! `pawctl approval watch`: questions as they come. At a terminal one after the other, each answered by a key; for a program all of
//! them, as JSON lines.
//!
//! A key answers only what was on the screen when it was pressed: what was typed before a question was shown is thrown away.

use std::{
    collections::HashSet,
    io::{IsTerminal as _, Read as _},
};

use paw_api::{action::Approval, events::EventItem};
use paw_policy::Risk;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use tokio::sync::mpsc;

use super::{Said, answer_of, confirmation, show, typed};
use crate::{
    cli::Format,
    connect::{Connection, Items, Params},
    fail::Failure,
    render::{Out, json},
};

const DOING: &str = "watch for questions";

/// Keys that may wait; more than a person types.
const KEYS: usize = 64;

/// The longest line that is typed.
const MAX_TYPED: usize = 16;

pub(super) async fn run(pawd: &Connection, out: &mut Out) -> Result<(), Failure> {
    // Listening begins before the list is read, so that no question falls between the two.
    let mut items = pawd
        .subscribe(DOING, "events.subscribe", Params::none())
        .await?;
    match out.format {
        Format::Json | Format::Jsonl => stream(pawd, out, &mut items).await,
        Format::Table => {
            if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
                return Err(Failure::Usage {
                    doing: DOING.to_owned(),
                    why: "nobody is at a terminal to answer them".to_owned(),
                    remedy: "run it at a terminal, or have them as JSON lines: -o jsonl".to_owned(),
                });
            }
            answer(pawd, out, &mut items).await
        }
    }
}

/// Every question once.
async fn stream(pawd: &Connection, out: &mut Out, items: &mut Items) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    loop {
        let waiting = pawd.call(DOING, "approval.list", Params::none()).await?;
        let current: Vec<Approval> = waiting.read()?;
        for (approval, raw) in current.iter().zip(json::lines(&waiting.raw)) {
            if seen.insert(approval.id.clone()) {
                out.json(raw);
                out.flush()?;
            }
        }
        // What is answered is forgotten, so that a watch of weeks does not grow.
        seen.retain(|id| current.iter().any(|approval| approval.id == *id));
        while !asks(items).await? {}
    }
}

/// Waits for the next news; whether a question may have come or gone with it.
async fn asks(items: &mut Items) -> Result<bool, Failure> {
    let Some(item) = items.next().await? else {
        return Err(Failure::Cut {
            doing: DOING.to_owned(),
            why: "pawd ended the stream".to_owned(),
            remedy: "watch again: pawctl approval watch".to_owned(),
        });
    };
    match item.read()? {
        EventItem::Event(event) => Ok(matches!(
            event.event.as_str(),
            "action.waiting_approval"
                | "action.approved"
                | "action.rejected"
                | "action.expired"
                | "action.cancelled"
        )),
        EventItem::Cut { error, .. } => Err(Failure::Cut {
            doing: DOING.to_owned(),
            why: "this reader was too slow".to_owned(),
            remedy: error.hint,
        }),
    }
}

/// One question after the other, with the keys of a person.
async fn answer(pawd: &Connection, out: &mut Out, items: &mut Items) -> Result<(), Failure> {
    let _as_before = Keyboard::take()?;
    let mut keys = keys();
    let mut later = HashSet::new();
    let mut shown: Option<Approval> = None;
    out.say("y approve · d deny · n not now · q quit");
    loop {
        let waiting = pawd.call(DOING, "approval.list", Params::none()).await?;
        let current: Vec<Approval> = waiting.read()?;
        later.retain(|id| current.iter().any(|approval| approval.id == *id));
        let same = |one: &Approval| current.iter().find(|approval| approval.id == one.id);
        // Shown again when more wait for it, or one of two has said yes: that is another question.
        if shown.as_ref().and_then(same) != shown.as_ref() {
            out.say("(it was answered, or has changed)");
            shown = None;
        }
        if shown.is_none() {
            let next = current.iter().find(|one| !later.contains(&one.id));
            if let Some(next) = next {
                let text = show(next, &out.look)?;
                // What was pressed before it is shown answers something else.
                while keys.try_recv().is_ok() {}
                out.print(&format!("\n{text}[y/d/n/q] "));
                out.flush()?;
                shown = Some(next.clone());
            }
        }
        let key = tokio::select! {
            key = keys.recv() => key.unwrap_or(b'q'),
            asked = asks(items) => {
                asked?;
                continue;
            }
        };
        let said = match (key, &shown) {
            // Ctrl-C and Ctrl-D come as keys, too.
            (b'q' | 3 | 4, _) => return Ok(()),
            (b'y', Some(_)) => "approve",
            (b'd', Some(_)) => "deny",
            (b'n', Some(one)) => {
                out.say("not now");
                later.insert(one.id.clone());
                shown = None;
                continue;
            }
            _ => continue,
        };
        let Some(one) = shown.take() else { continue };
        let code = match said {
            "approve" if one.risk == Risk::Critical => {
                out.print(&format!("{} ", confirmation(&one).0));
                if line(out, &mut keys, Shown::AsTyped).await? != typed(&one) {
                    out.say("it was not confirmed; the question stays");
                    later.insert(one.id);
                    continue;
                }
                typed_code(out, &mut keys).await?
            }
            _ => None,
        };
        let answer = Said {
            answer: said,
            code,
            ..Said::default()
        };
        let params = Params::named(answer_of(&one, answer));
        match pawd
            .call("answer the question", "approval.answer", params)
            .await
        {
            Ok(_) => out.say(&format!("{said}: done")),
            Err(failure @ Failure::Refused { .. }) => {
                out.fail(&failure);
                later.insert(one.id);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// A one-time code, up to its Enter; none if nothing was typed.
async fn typed_code(
    out: &mut Out,
    keys: &mut mpsc::Receiver<u8>,
) -> Result<Option<String>, Failure> {
    out.print("a one-time code, or Enter to be the first of two: ");
    let code = line(out, keys, Shown::AsStars).await?;
    Ok((!code.is_empty()).then_some(code))
}

/// Whether what is typed can be read on the screen.
enum Shown {
    AsTyped,
    AsStars,
}

/// What the key above Enter sends, on one terminal or another.
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;

/// Digits and letters up to an Enter, small ones.
async fn line(
    out: &mut Out,
    keys: &mut mpsc::Receiver<u8>,
    shown: Shown,
) -> Result<String, Failure> {
    out.flush()?;
    let mut said = String::new();
    while let Some(key) = keys.recv().await {
        match key {
            b'\r' | b'\n' => break,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' if said.len() < MAX_TYPED => {
                said.push(char::from(key.to_ascii_lowercase()));
                out.print(match shown {
                    Shown::AsTyped => &said[said.len() - 1..],
                    Shown::AsStars => "*",
                });
                out.flush()?;
            }
            BACKSPACE | DELETE if said.pop().is_some() => {
                out.print("\u{8} \u{8}");
                out.flush()?;
            }
            _ => {}
        }
    }
    out.say("");
    Ok(said)
}

/// What is pressed, byte by byte. The thread ends with the process: a read of a terminal cannot be taken back.
fn keys() -> mpsc::Receiver<u8> {
    let (to, keys) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().lock().read_exact(&mut byte).is_ok() {
            if to.blocking_send(byte[0]).is_err() {
                break;
            }
        }
    });
    keys
}

/// The terminal as it was, which it is again at the end.
struct Keyboard(Termios);

impl Keyboard {
    /// From here on each key is heard when it is pressed.
    fn take() -> Result<Self, Failure> {
        let failed = |error: rustix::io::Errno| Failure::io("listen to keys", &error.into());
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut keys = before.clone();
        // Signals are keys here: whoever presses Ctrl-C shall have a terminal that works.
        keys.local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        keys.input_modes.remove(InputModes::ICRNL);
        keys.special_codes[SpecialCodeIndex::VMIN] = 1;
        keys.special_codes[SpecialCodeIndex::VTIME] = 0;
        // What was typed before is thrown away.
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &keys).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // Without a terminal there is nothing to put back.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
