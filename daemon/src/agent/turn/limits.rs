//! When a turn has called enough tools: pure. It is computed of what was stored, so a turn that goes on after a restart of pawd has the
//! same limits as one that was never interrupted.

use std::collections::BTreeSet;

use paw_policy::{Digest, plan::canonical};
use paw_store::{Speaker, TurnRecord};

use super::repeat::{Repeats, TIMES};

/// Bytes of all results of one turn.
pub(super) const MAX_RESULTS: usize = 256 * 1024;

/// Why a model is not given any more tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// It called tools this often.
    Turns(u32),
    /// It called this tool again and again, and nothing changed.
    Repeating(String),
    /// The results are this long.
    Results(usize),
}

impl Stop {
    /// One word for programs.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Turns(_) => "turn_limit",
            Self::Repeating(_) => "repeating",
            Self::Results(_) => "result_limit",
        }
    }

    /// What is the matter, for people and for the model.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Turns(most) => {
                format!("tools were called {most} times in this turn, which is its limit")
            }
            Self::Repeating(tool) => {
                format!(
                    "{tool} was called {TIMES} times with the same arguments and the same result"
                )
            }
            Self::Results(bytes) => {
                format!(
                    "the results of tools in this turn have {bytes} bytes, at most {MAX_RESULTS} go"
                )
            }
        }
    }

    /// What to do about it.
    pub(super) const fn hint(&self) -> &'static str {
        match self {
            Self::Turns(_) => "ask for less at once, or raise max_turns of the agent",
            Self::Repeating(_) => "say it otherwise, or use another model",
            Self::Results(_) => "ask for less at once",
        }
    }
}

/// Whether a turn that did this may not call any more tools.
pub(super) fn stop(turns: &[TurnRecord], max_turns: u32) -> Option<Stop> {
    let (mut steps, mut bytes, mut repeats) = (0_u32, 0, Repeats::default());
    let mut repeating = None;
    for turn in turns {
        match turn.role {
            Speaker::User => {}
            Speaker::Tool => bytes += turn.text.len(),
            Speaker::Assistant => {
                steps += 1;
                // Equal calls of one answer are one.
                let mut made = BTreeSet::new();
                for call in &turn.calls {
                    let of = |it: &&TurnRecord| {
                        it.result_of.as_ref().is_some_and(|of| of.call == call.id)
                    };
                    let Some(result) = turns.iter().find(of) else {
                        continue;
                    };
                    let key = key(&call.name, &call.arguments);
                    if made.insert(key) && repeats.note(key, Digest::of(result.text.as_bytes())) {
                        repeating = Some(call.name.clone());
                    }
                }
            }
        }
    }
    if let Some(tool) = repeating {
        return Some(Stop::Repeating(tool));
    }
    if bytes > MAX_RESULTS {
        return Some(Stop::Results(bytes));
    }
    (steps >= max_turns).then_some(Stop::Turns(max_turns))
}

/// Names a call: equal calls have equal ones, however their arguments are written.
pub(super) fn key(name: &str, arguments: &str) -> Digest {
    let arguments = match serde_json::from_str(arguments) {
        Ok(value) => canonical(&value),
        Err(_) => arguments.to_owned(),
    };
    Digest::of(format!("{name}\0{arguments}").as_bytes())
}

#[cfg(test)]
mod tests {
    use paw_policy::TaintSet;
    use paw_store::{CallRecord, ResultOf};
    use uuid::Uuid;

    use super::*;

    /// A turn of steps, each of them calls with their results.
    fn turns(steps: &[&[(&str, &str)]]) -> Vec<TurnRecord> {
        let turn = |role, text: &str| TurnRecord {
            session: Uuid::nil(),
            seq: 0,
            role,
            text: text.into(),
            taint: TaintSet::default(),
            action: None,
            provider: None,
            model: None,
            local: None,
            calls: Vec::new(),
            result_of: None,
            attempts: Vec::new(),
            at_ms: 0,
        };
        let mut all = Vec::new();
        for (step, calls) in steps.iter().enumerate() {
            let id = |place: usize| format!("{step}.{place}");
            let call = |(place, (arguments, _)): (usize, &(&str, &str))| CallRecord {
                id: id(place),
                name: "t".into(),
                arguments: (*arguments).into(),
                signature: None,
                action: None,
            };
            all.push(TurnRecord {
                calls: calls.iter().enumerate().map(call).collect(),
                ..turn(Speaker::Assistant, "")
            });
            for (place, (_, result)) in calls.iter().enumerate() {
                let call = id(place);
                all.push(TurnRecord {
                    result_of: Some(ResultOf {
                        call,
                        tool: "s/t".into(),
                        failed: false,
                    }),
                    ..turn(Speaker::Tool, result)
                });
            }
        }
        all
    }

    fn check(steps: &[&[(&str, &str)]], max_turns: u32, word: Option<&str>) {
        let stop = stop(&turns(steps), max_turns);
        assert_eq!(stop.as_ref().map(Stop::word), word, "{steps:?}: {stop:?}");
    }

    #[test]
    fn a_turn_is_stopped_by_whatever_comes_first() {
        let long = "x".repeat(MAX_RESULTS / 2 + 1);
        check(&[], 1, None);
        check(&[&[("{}", "a")]], 2, None);
        check(&[&[("{}", "a")], &[("{}", "b")]], 2, Some("turn_limit"));
        let same: &[(&str, &str)] = &[(r#"{"a":1,"b":2}"#, "r")];
        let same_again: &[(&str, &str)] = &[(r#"{ "b": 2, "a": 1 }"#, "r")];
        check(&[same, same_again], 9, None);
        check(&[same, same_again, same], 9, Some("repeating"));
        check(&[same, same_again, same], 3, Some("repeating"));
        // All of one answer: it knew no result yet.
        check(&[&[("{}", "r"), ("{}", "r"), ("{}", "r")]], 9, None);
        check(&[&[("{}", &long)]], 9, None);
        check(
            &[&[("{}", &long)], &[("{}", &long)]],
            9,
            Some("result_limit"),
        );
    }
}
