//! Whether arguments fit a JSON schema, before anything is done with it.
//!
//! It knows the words of JSON Schema (draft 2020-12) that say what a value is. A word that it does not know refuses nothing: the tool
//! that is called checks its arguments itself, and what is promised here is only that what clearly does not fit goes nowhere.

use std::cell::Cell;

use serde_json::{Map, Value};

/// How deep a schema is followed; what is deeper is left to the tool.
const DEPTH: usize = 32;

/// How many parts of a schema are held against parts of the arguments: schemas come with skills, and one that leads back to itself several
/// times over would have no end.
const STEPS: usize = 20_000;

/// The longest list of names or values in what is wrong.
const NAMED: usize = 8;

/// Whether these arguments fit.
///
/// # Errors
/// What does not, and where, in words for whoever wrote them.
pub fn check(schema: &Value, members: &Map<String, Value>) -> Result<(), String> {
    any(schema, &Value::Object(members.clone()))
}

fn any(schema: &Value, value: &Value) -> Result<(), String> {
    let root = Root {
        schema,
        left: Cell::new(STEPS),
    };
    let fit = fits(&root, schema, value, "arguments", DEPTH);
    // What was not looked at to its end fits nothing, whatever the rest of it says.
    match root.left.get() {
        0 => Err("the schema is too involved to be checked".to_owned()),
        _ => fit,
    }
}

/// A whole schema, and what its check may still cost.
struct Root<'a> {
    schema: &'a Value,
    left: Cell<usize>,
}

fn fits(
    root: &Root<'_>,
    schema: &Value,
    value: &Value,
    at: &str,
    depth: usize,
) -> Result<(), String> {
    match root.left.get().checked_sub(1) {
        Some(left) => root.left.set(left),
        None => return Err("the schema is too involved to be checked".to_owned()),
    }
    let words = match schema {
        Value::Bool(false) => return Err(format!("{at} may not be there")),
        Value::Object(words) if depth > 0 => words,
        _ => return Ok(()),
    };
    let within = |schema: &Value| fits(root, schema, value, at, depth - 1);
    if let Some(there) = words.get("$ref").and_then(Value::as_str)
        && let Some(schema) = there
            .strip_prefix('#')
            .and_then(|place| root.schema.pointer(place))
    {
        within(schema)?;
    }
    types(words, value, at)?;
    if let Some(Value::Array(values)) = words.get("enum")
        && !values.contains(value)
    {
        let known: Vec<_> = values.iter().take(NAMED).map(Value::to_string).collect();
        return Err(format!("{at} is none of {}", known.join(", ")));
    }
    if let Some(only) = words.get("const")
        && only != value
    {
        return Err(format!("{at} is not {only}"));
    }
    let several = |word: &str| words.get(word).and_then(Value::as_array);
    for schema in several("allOf").into_iter().flatten() {
        within(schema)?;
    }
    for (word, one) in [("anyOf", false), ("oneOf", true)] {
        let Some(schemas) = several(word) else {
            continue;
        };
        let fitting = schemas.iter().filter(|it| within(it).is_ok()).count();
        if fitting == 0 || (one && fitting > 1) {
            return Err(format!(
                "{at} fits {fitting} of the {} kinds that it may be",
                schemas.len()
            ));
        }
    }
    match value {
        Value::Object(members) => object(root, words, members, at, depth),
        Value::Array(items) => array(root, words, items, at, depth),
        Value::String(text) => size(words, ("minLength", "maxLength"), text.chars().count(), at),
        Value::Number(number) => limits(words, number, at),
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

fn types(words: &Map<String, Value>, value: &Value, at: &str) -> Result<(), String> {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|it| it.fract() == 0.0)
        }
        // Not a type that there is.
        _ => true,
    };
    let (fits, wanted) = match words.get("type") {
        Some(Value::String(name)) => (is(name), name.clone()),
        Some(Value::Array(names)) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            (names.iter().any(|name| is(name)), names.join(" or "))
        }
        _ => return Ok(()),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("{at} is no {wanted}"))
    }
}

fn object(
    root: &Root<'_>,
    words: &Map<String, Value>,
    members: &Map<String, Value>,
    at: &str,
    depth: usize,
) -> Result<(), String> {
    let known = words.get("properties").and_then(Value::as_object);
    let wanted = words.get("required").and_then(Value::as_array);
    for name in wanted.into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            return Err(format!("{at} has no {name:?}"));
        }
    }
    // Names that a pattern allows are not looked for.
    let more = match words.get("patternProperties") {
        Some(_) => None,
        None => words.get("additionalProperties"),
    };
    for (name, member) in members {
        let inside = format!("{at}.{}", short(name));
        match (known.and_then(|known| known.get(name)), more) {
            (Some(schema), _) => fits(root, schema, member, &inside, depth - 1)?,
            (None, Some(Value::Bool(false))) => {
                let names: Vec<_> = known.into_iter().flat_map(Map::keys).take(NAMED).collect();
                return Err(format!(
                    "{at} has a member {:?}; it may have {names:?}",
                    short(name)
                ));
            }
            (None, Some(schema)) => fits(root, schema, member, &inside, depth - 1)?,
            (None, None) => {}
        }
    }
    size(words, ("minProperties", "maxProperties"), members.len(), at)
}

fn array(
    root: &Root<'_>,
    words: &Map<String, Value>,
    items: &[Value],
    at: &str,
    depth: usize,
) -> Result<(), String> {
    let first = words.get("prefixItems").and_then(Value::as_array);
    let first = first.map_or(&[][..], Vec::as_slice);
    for (place, item) in items.iter().enumerate() {
        if let Some(schema) = first.get(place).or_else(|| words.get("items")) {
            fits(root, schema, item, &format!("{at}[{place}]"), depth - 1)?;
        }
    }
    size(words, ("minItems", "maxItems"), items.len(), at)
}

fn size(
    words: &Map<String, Value>,
    (least, most): (&str, &str),
    size: usize,
    at: &str,
) -> Result<(), String> {
    let bound = |word: &str| words.get(word).and_then(Value::as_u64);
    let size = size as u64;
    match (bound(least), bound(most)) {
        (Some(least), _) if size < least => Err(format!("{at} has {size}, at least {least} go")),
        (_, Some(most)) if size > most => Err(format!("{at} has {size}, at most {most} go")),
        _ => Ok(()),
    }
}

fn limits(words: &Map<String, Value>, number: &serde_json::Number, at: &str) -> Result<(), String> {
    let bound = |word: &str| words.get(word).and_then(Value::as_f64);
    let Some(value) = number.as_f64() else {
        return Ok(());
    };
    let wrong = |word: &str, bound: f64| Err(format!("{at} is {number}; its {word} is {bound}"));
    match (bound("minimum"), bound("maximum")) {
        (Some(least), _) if value < least => return wrong("minimum", least),
        (_, Some(most)) if value > most => return wrong("maximum", most),
        _ => {}
    }
    match (bound("exclusiveMinimum"), bound("exclusiveMaximum")) {
        (Some(least), _) if value <= least => wrong("exclusiveMinimum", least),
        (_, Some(most)) if value >= most => wrong("exclusiveMaximum", most),
        _ => Ok(()),
    }
}

/// A name that somebody else wrote, as far as it is shown.
fn short(name: &str) -> String {
    crate::records::shorten_to(name, 64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_one(schema: &Value, value: &Value, wrong: Option<&str>) {
        match (any(schema, value), wrong) {
            (Ok(()), None) => {}
            (Err(said), Some(part)) if said.contains(part) => {}
            (said, wanted) => panic!("{value} against {schema}: {said:?}, not {wanted:?}"),
        }
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_place() {
        let file = json!({
            "type": "object",
            "properties": {
                "path": {"type": "string", "minLength": 1, "maxLength": 5},
                "depth": {"type": "integer", "minimum": 1, "maximum": 8},
                "how": {"enum": ["fast", "slow"]},
                "all": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
                "of": {"$ref": "#/$defs/of"},
                "either": {"oneOf": [{"type": "string"}, {"type": "boolean"}]},
                "never": false
            },
            "required": ["path"],
            "additionalProperties": false,
            "$defs": {"of": {"type": ["null", "number"], "exclusiveMinimum": 0}}
        });
        for (value, wrong) in [
            (json!({"path": "a"}), None),
            (
                json!({"path": "a", "depth": 8, "how": "slow", "all": ["b"], "of": 0.5, "either": true}),
                None,
            ),
            (json!({"path": "a", "depth": 2.0, "of": null}), None),
            (json!([]), Some("arguments is no object")),
            (json!({}), Some("arguments has no \"path\"")),
            (json!({"path": 1}), Some("arguments.path is no string")),
            (json!({"path": ""}), Some("arguments.path has 0")),
            (json!({"path": "abcdef"}), Some("at most 5")),
            (json!({"path": "äöüß€"}), None),
            (json!({"path": "a", "depth": 0}), Some("minimum")),
            (json!({"path": "a", "depth": 9}), Some("maximum")),
            (json!({"path": "a", "depth": 1.5}), Some("no integer")),
            (json!({"path": "a", "depth": "1"}), Some("no integer")),
            (json!({"path": "a", "how": "x"}), Some("none of")),
            (
                json!({"path": "a", "all": [1]}),
                Some("all[0] is no string"),
            ),
            (json!({"path": "a", "all": ["", "", ""]}), Some("at most 2")),
            (json!({"path": "a", "of": 0}), Some("exclusiveMinimum")),
            (json!({"path": "a", "of": "x"}), Some("no null or number")),
            (json!({"path": "a", "either": 1}), Some("fits 0 of the 2")),
            (json!({"path": "a", "never": 1}), Some("may not be there")),
            (json!({"path": "a", "more": 1}), Some("a member \"more\"")),
        ] {
            check_one(&file, &value, wrong);
        }
    }

    #[test]
    fn unknown_words_refuse_nothing_and_no_depth_is_too_much() {
        check_one(&json!({"format": "x", "pattern": 3}), &json!("a"), None);
        check_one(&json!(true), &json!("a"), None);
        let endless = json!({"properties": {"a": {"$ref": "#"}}, "allOf": [{"$ref": "#/allOf/0"}]});
        check_one(&endless, &json!({"a": {"a": {"a": 1}}}), None);
    }

    #[test]
    fn schema_that_has_no_end_is_refused() {
        for word in ["allOf", "anyOf", "oneOf"] {
            let many = vec![json!({"$ref": "#"}); 8];
            let schema = json!({"type": "object", word: many});
            let said = any(&schema, &json!({}));
            assert!(said.is_err(), "{word} is not said to fit");
        }
        let wide = json!({"items": {"type": "integer"}});
        let items: Vec<u32> = (0..10_000).collect();
        check_one(&wide, &json!(items), None);
    }
}
