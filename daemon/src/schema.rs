//! Whether a caller's JSON schema of an answer can be one. Providers refuse what they do not like in words of their own, late and
//! each otherwise; what is wrong for everybody is refused before anybody is asked.
//!
//! It knows the shapes of the words of JSON Schema (draft 2020-12) that providers take. Words that it does not know are passed on.

use serde_json::{Map, Value};

/// The longest schema, as JSON text, in bytes.
pub const BYTES: usize = 32 * 1024;

/// What is wrong with a schema, and where.
///
/// # Errors
/// What and where, for the caller.
pub fn check(schema: &Value) -> Result<(), String> {
    let bytes = schema.to_string().len();
    if bytes > BYTES {
        return Err(format!("it has {bytes} bytes; at most {BYTES} are taken"));
    }
    if !schema.is_object() {
        return Err("it is no object".to_owned());
    }
    any(schema, schema, "#")
}

/// A schema at this place of the whole.
fn any(root: &Value, schema: &Value, at: &str) -> Result<(), String> {
    match schema {
        Value::Bool(_) => Ok(()),
        Value::Object(members) => members.iter().try_for_each(|(word, value)| {
            member(root, members, word, value, &format!("{at}/{word}"))
        }),
        _ => Err(format!("{at} is no schema")),
    }
}

fn member(
    root: &Value,
    beside: &Map<String, Value>,
    word: &str,
    value: &Value,
    at: &str,
) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{at} {what}"));
    match word {
        "type" => match value {
            Value::String(name) if is_type(name) => Ok(()),
            Value::Array(names)
                if !names.is_empty()
                    && names.iter().all(|name| name.as_str().is_some_and(is_type)) =>
            {
                Ok(())
            }
            _ => wrong("is not the name of a type"),
        },
        "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => {
            let Value::Object(schemas) = value else {
                return wrong("is no object of schemas");
            };
            schemas
                .iter()
                .try_for_each(|(name, schema)| any(root, schema, &format!("{at}/{name}")))
        }
        "items"
        | "additionalProperties"
        | "not"
        | "contains"
        | "propertyNames"
        | "if"
        | "then"
        | "else"
        | "unevaluatedProperties"
        | "unevaluatedItems" => any(root, value, at),
        "anyOf" | "oneOf" | "allOf" | "prefixItems" => match value {
            Value::Array(schemas) if !schemas.is_empty() => schemas
                .iter()
                .enumerate()
                .try_for_each(|(place, schema)| any(root, schema, &format!("{at}/{place}"))),
            _ => wrong("is no list of schemas"),
        },
        "required" => match value {
            Value::Array(names) if names.iter().all(Value::is_string) => {
                let open = beside.get("additionalProperties") != Some(&Value::Bool(false));
                let known = |name: &Value| {
                    let names = beside.get("properties")?.as_object()?;
                    Some(names.contains_key(name.as_str()?))
                };
                match names.iter().find(|name| !open && known(name) != Some(true)) {
                    Some(name) => wrong(&format!("demands {name}, which may not be there")),
                    None => Ok(()),
                }
            }
            _ => wrong("is no list of names"),
        },
        "enum" => match value {
            Value::Array(values) if !values.is_empty() => Ok(()),
            _ => wrong("is no list of values"),
        },
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf"
            if !value.is_number() =>
        {
            wrong("is no number")
        }
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties"
            if !value.is_u64() =>
        {
            wrong("is no count")
        }
        "$ref" => match value.as_str().and_then(|place| place.strip_prefix('#')) {
            Some(place) if leads_somewhere(root, place) => Ok(()),
            Some(_) => wrong("leads nowhere"),
            None => wrong("leads out of the schema, and nothing is fetched"),
        },
        _ => Ok(()),
    }
}

/// Whether a fragment names a place of the whole: by a pointer, or by a name that some schema has for itself. Both are written as in a
/// URL.
fn leads_somewhere(root: &Value, fragment: &str) -> bool {
    let Some(place) = unescaped(fragment) else {
        return false;
    };
    if place.is_empty() || place.starts_with('/') {
        return root.pointer(&place).is_some();
    }
    has_anchor(root, &place)
}

/// Whether some schema has this name for itself.
fn has_anchor(value: &Value, name: &str) -> bool {
    match value {
        Value::Object(members) => {
            let is = |word: &str| members.get(word).and_then(Value::as_str) == Some(name);
            is("$anchor")
                || is("$dynamicAnchor")
                || members.values().any(|value| has_anchor(value, name))
        }
        Value::Array(values) => values.iter().any(|value| has_anchor(value, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A fragment without the escapes of a URL; nothing, where they are none.
fn unescaped(fragment: &str) -> Option<String> {
    let mut parts = fragment.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        digits
            .bytes()
            .all(|it| it.is_ascii_hexdigit())
            .then_some(())?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

fn is_type(name: &str) -> bool {
    matches!(
        name,
        "object" | "array" | "string" | "number" | "integer" | "boolean" | "null"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schema_that_can_be_one_is_taken() {
        for schema in [
            json!({}),
            json!({"type": "object", "properties": {"type": {"type": ["string", "null"]}}, "required": ["type"], "additionalProperties": false}),
            json!({"$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "$ref": "#/$defs/node"}),
            json!({"anyOf": [{"const": 1}, {"enum": ["a"]}, true], "title": "x", "x-own": {"type": 7}}),
            json!({"type": "integer", "minimum": 0.5, "description": "how many"}),
            json!({"$defs": {"a b": {"type": "null"}, "50%": {}}, "anyOf": [{"$ref": "#/$defs/a%20b"}, {"$ref": "#/$defs/50%25"}]}),
            json!({"$defs": {"node": {"$anchor": "knot", "items": {"$ref": "#knot"}}}, "$ref": "#knot"}),
            json!({"items": {"$ref": "#"}}),
        ] {
            assert_eq!(check(&schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (schema, place) in [
            (json!([]), "object"),
            (json!({"type": "text"}), "#/type "),
            (json!({"type": []}), "#/type "),
            (json!({"properties": [1]}), "#/properties "),
            (
                json!({"properties": {"a": {"items": 7}}}),
                "#/properties/a/items ",
            ),
            (json!({"required": "a"}), "#/required "),
            (
                json!({"required": ["a"], "properties": {"b": {}}, "additionalProperties": false}),
                "\"a\"",
            ),
            (json!({"enum": []}), "#/enum "),
            (json!({"anyOf": []}), "#/anyOf "),
            (json!({"oneOf": [{}, {"type": 1}]}), "#/oneOf/1/type "),
            (json!({"minimum": "1"}), "#/minimum "),
            (json!({"maxItems": -1}), "#/maxItems "),
            (json!({"$ref": "#/$defs/a"}), "nowhere"),
            (json!({"$ref": "#knot"}), "nowhere"),
            (json!({"$defs": {"a": {}}, "$ref": "#/$defs/%6"}), "nowhere"),
            (
                json!({"$defs": {"a": {}}, "$ref": "#/$defs/%+1"}),
                "nowhere",
            ),
            (json!({"$ref": "https://example.org/schema"}), "fetched"),
            (json!({"description": "x".repeat(BYTES)}), "bytes"),
        ] {
            let fault = check(&schema).expect_err("it is wrong");
            assert!(fault.contains(place), "{fault}");
        }
    }
}
