//! Arguments of a call that come path by path, as Gemini streams them: `$.recipe.steps[0].text` is so and so, and goes on.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::LlmError;

/// The most steps of a path; what is nested deeper is no argument of any tool.
const DEEPEST: usize = 64;

/// A piece of the arguments.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PathPiece {
    json_path: String,
    string_value: Option<String>,
    number_value: Option<serde_json::Number>,
    bool_value: Option<bool>,
    will_continue: Option<bool>,
}

/// The arguments as far as they came.
#[derive(Default)]
pub(super) struct Arguments {
    root: Map<String, Value>,
    /// The path of the text that goes on.
    open: Option<String>,
}

enum Step<'a> {
    Member(&'a str),
    Item(usize),
}

impl PathPiece {
    /// Bytes that it may cost.
    pub(super) fn size(&self) -> usize {
        self.json_path.len() + self.string_value.as_ref().map_or(8, String::len)
    }
}

impl Arguments {
    /// Puts a piece where it belongs.
    pub(super) fn put(&mut self, piece: PathPiece) -> Result<(), LlmError> {
        let goes_on = self.open.as_deref() == Some(piece.json_path.as_str());
        self.open = (piece.will_continue == Some(true)).then(|| piece.json_path.clone());
        let mut steps = steps(&piece.json_path).ok_or_else(unknown)?.into_iter();
        let Some(Step::Member(first)) = steps.next() else {
            return Err(unknown());
        };
        let mut place = self.root.entry(first).or_insert(Value::Null);
        for step in steps {
            place = step.into(place).ok_or_else(unknown)?;
        }
        let PathPiece {
            string_value,
            number_value,
            bool_value,
            ..
        } = piece;
        match (string_value, place) {
            (Some(more), Value::String(text)) if goes_on => text.push_str(&more),
            (Some(text), place) => *place = Value::String(text),
            (None, place) => {
                *place = number_value
                    .map(Value::Number)
                    .or(bool_value.map(Value::Bool))
                    .unwrap_or_default();
            }
        }
        Ok(())
    }

    /// All of them, as JSON text.
    pub(super) fn text(self) -> String {
        Value::Object(self.root).to_string()
    }
}

impl Step<'_> {
    /// What lies there, which is made if nothing does. Items of a list come in order.
    fn into(self, place: &mut Value) -> Option<&mut Value> {
        match self {
            Self::Member(name) => {
                if place.is_null() {
                    *place = Value::Object(Map::new());
                }
                Some(place.as_object_mut()?.entry(name).or_insert(Value::Null))
            }
            Self::Item(at) => {
                if place.is_null() {
                    *place = Value::Array(Vec::new());
                }
                let items = place.as_array_mut()?;
                if at == items.len() {
                    items.push(Value::Null);
                }
                items.get_mut(at)
            }
        }
    }
}

/// `$.a['b c'][0]`; nothing if it is no such path.
fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut rest = path.strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if steps.len() == DEEPEST {
            return None;
        }
        let (step, after) = if let Some(name) = rest.strip_prefix('.') {
            let end = name.find(['.', '[']).unwrap_or(name.len());
            let (name, after) = name.split_at(end);
            (Step::Member(name), after)
        } else {
            let inside = rest.strip_prefix('[')?;
            match inside.chars().next()? {
                quote @ ('\'' | '"') => {
                    let (name, after) = inside[1..].split_once(quote)?;
                    (Step::Member(name), after.strip_prefix(']')?)
                }
                _ => {
                    let (number, after) = inside.split_once(']')?;
                    (Step::Item(number.parse().ok()?), after)
                }
            }
        };
        steps.push(step);
        rest = after;
    }
    Some(steps)
}

fn unknown() -> LlmError {
    LlmError::Malformed {
        what: "a path of a call's arguments leads nowhere".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(arguments: &mut Arguments, piece: Value) -> Result<(), LlmError> {
        arguments.put(serde_json::from_value(piece).expect("a piece"))
    }

    #[test]
    fn arguments_are_put_together_by_their_paths() {
        let mut arguments = Arguments::default();
        for piece in [
            json!({"jsonPath": "$.city", "stringValue": "Zü", "willContinue": true}),
            json!({"jsonPath": "$.city", "stringValue": "rich", "willContinue": true}),
            json!({"jsonPath": "$.city", "stringValue": ""}),
            json!({"jsonPath": "$.days[0].name", "stringValue": "first"}),
            json!({"jsonPath": "$.days[0]['high, in °C']", "numberValue": 21.5}),
            json!({"jsonPath": "$.days[1].sunny", "boolValue": true}),
            json!({"jsonPath": "$.days[1].note", "nullValue": null}),
            // Said anew, not gone on with.
            json!({"jsonPath": "$.city", "stringValue": "Bern"}),
        ] {
            put(&mut arguments, piece).expect("a good path");
        }
        let read: Value = serde_json::from_str(&arguments.text()).expect("JSON");
        assert_eq!(
            read,
            json!({"city": "Bern", "days": [{"name": "first", "high, in °C": 21.5}, {"sunny": true, "note": null}]})
        );
    }

    #[test]
    fn path_that_leads_nowhere_is_malformed() {
        let deep = format!("$.a{}", "[0]".repeat(DEEPEST));
        for path in [
            "",
            "a",
            "$",
            "$[0]",
            "$.a[",
            "$.a[x]",
            "$.a[9999999]",
            "$['a",
            deep.as_str(),
        ] {
            let outcome = put(
                &mut Arguments::default(),
                json!({"jsonPath": path, "stringValue": "x"}),
            );
            assert_eq!(
                outcome.map_err(|error| error.kind()),
                Err("malformed"),
                "{path}"
            );
        }
    }
}
