//! The table: what each of them says, how the question ends, and how many calls became actions, all of which are denied.

use harness::{
    Dialect,
    chaos::{Fault, Then},
    dialect::{TEXT, completion},
};
use serde_json::{Value, json};

/// A tool that is done at once for whoever asks.
pub(super) const READ: &str = "files__read";

/// A tool that the rules of this test forbid.
pub(super) const WRITE: &str = "files__write";

/// Whose call is done where nothing is wrong with it.
pub(super) const READS: Dialect = Ollama;

/// One line of the table.
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) dialect: Dialect,
    pub(super) says: Fault,
    pub(super) end: End,
    /// Calls that became actions.
    pub(super) denied: usize,
}

/// How a question ends. Who is told of a result or a refusal answers with [`TEXT`].
#[derive(Clone, Copy)]
pub(super) enum End {
    Says,
    Fails(&'static str),
}

use Dialect::{Anthropic, Compatible, Gemini, Mistral, Ollama, OpenAi};
use End::{Fails, Says};

fn script(name: &'static str, dialect: Dialect, end: End, denied: usize, bytes: String) -> Script {
    let says = Fault::Stream(Vec::new(), bytes, Then::Ends);
    Script {
        name,
        dialect,
        says,
        end,
        denied,
    }
}

fn read() -> Value {
    json!({"path": "a.txt"})
}

fn write(path: &str) -> Value {
    json!({"path": path, "text": "x"})
}

/// A piece of a call, over the wire of OpenAI.
fn piece(index: &Value, id: &str, name: &str, arguments: &str) -> Value {
    json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// These pieces, each in a record of its own.
fn pieces(pieces: &[Value]) -> String {
    let records = pieces
        .iter()
        .map(|piece| delta(&json!({"tool_calls": [piece]})));
    records.collect()
}

fn delta(delta: &Value) -> String {
    OpenAi.record(&completion(delta, None))
}

/// Why it stopped, over the wire of OpenAI.
fn stops(why: &str) -> String {
    OpenAi.record(&completion(&json!({}), Some(why)))
}

const DONE: &str = "data: [DONE]\n\n";

/// An answer with these pieces of calls.
fn calling(all: &[Value]) -> String {
    pieces(all) + &stops("tool_calls") + DONE
}

/// A call of [`READ`] with these arguments, as a text.
fn reading(name: &'static str, arguments: &str) -> Script {
    let call = piece(&json!(0), "call_abcdef", READ, arguments);
    script(name, OpenAi, Says, 0, calling(&[call]))
}

/// A call of this name, with arguments that fit [`READ`].
fn naming(name: &'static str, called: &str) -> Script {
    let call = piece(&json!(0), "call_abcdef", called, &read().to_string());
    script(name, Compatible, Says, 0, calling(&[call]))
}

/// A whole text in a dialect, without its end.
fn text(dialect: Dialect) -> String {
    dialect.opening() + &dialect.piece(TEXT)
}

/// An answer that is nothing but a text, over the wire of OpenAI.
fn saying(said: &str) -> String {
    delta(&json!({"content": said})) + &stops("stop") + DONE
}

/// A line of an Ollama with a call whose arguments are these bytes.
fn raw(arguments: &str) -> String {
    Ollama.raw(&format!(
        "{{\"model\":\"m\",\"message\":{{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{{\"function\":{{\"name\":\"{READ}\",\"arguments\":{arguments}}}}}]}},\"done\":false}}"
    )) + &Ollama.ending()
}

/// A record of Gemini with this part.
fn part(part: &Value, finish: Option<&str>) -> String {
    let content = json!({"role": "model", "parts": [part]});
    Gemini
        .record(&json!({"candidates": [{"index": 0, "content": content, "finishReason": finish}]}))
}

fn deep(depth: usize) -> String {
    format!("{}{}", "{\"a\":".repeat(depth), "1") + &"}".repeat(depth)
}

pub(super) fn scripts() -> Vec<Script> {
    let zero = json!(0);
    let args = write("out.txt").to_string();
    let (half, rest) = args.split_at(args.len() / 2);
    let of_read = read().to_string();
    let late = |dialect: Dialect| {
        text(dialect) + &dialect.ending() + &dialect.call(READ, &read()) + &dialect.ending()
    };
    let many = |count: usize, called: &str| -> Vec<Value> {
        let call = |at: usize| {
            piece(
                &json!(at),
                &format!("call_number{at}"),
                called,
                &write(&format!("{at}.txt")).to_string(),
            )
        };
        (0..count).map(call).collect()
    };
    let mut all = ids_and_numbers(&zero, &args, (half, rest), &many);
    all.extend(names());
    all.extend(arguments(&of_read));
    all.extend(order(&zero, &of_read, &args, &late));
    all.extend(sizes(&zero));
    all
}

fn ids_and_numbers(
    zero: &Value,
    args: &str,
    (half, rest): (&str, &str),
    many: &dyn Fn(usize, &str) -> Vec<Value>,
) -> Vec<Script> {
    let open = |name, denied, all: &[Value]| script(name, OpenAi, Says, denied, calling(all));
    vec![
        open(
            "two-calls-of-one-id",
            2,
            &[
                piece(zero, "call_abcdef", WRITE, args),
                piece(&json!(1), "call_abcdef", WRITE, args),
            ],
        ),
        open(
            "two-calls-of-one-number",
            2,
            &[
                piece(zero, "call_abcdef", WRITE, args),
                piece(zero, "call_ghijkl", WRITE, args),
            ],
        ),
        open(
            "another-name-in-the-middle",
            1,
            &[
                piece(zero, "call_abcdef", WRITE, half),
                piece(zero, "call_abcdef", READ, rest),
            ],
        ),
        open(
            "number-of-twenty-digits",
            1,
            &[piece(&json!(u64::MAX), "call_abcdef", WRITE, args)],
        ),
        open(
            "id-of-half-a-megabyte",
            1,
            &[piece(zero, &"i".repeat(500_000), WRITE, args)],
        ),
        open("a-hundred-calls-at-once", 16, &many(100, WRITE)),
        script(
            "more-calls-than-anybody-makes",
            OpenAi,
            Fails("too_large"),
            0,
            calling(&many(129, WRITE)),
        ),
        script(
            "number-below-zero",
            OpenAi,
            Fails("malformed"),
            0,
            calling(&[piece(&json!(-1), "call_abcdef", READ, args)]),
        ),
        script(
            "arguments-of-a-call-that-is-none",
            Anthropic,
            Says,
            0,
            text(Anthropic)
                + &Anthropic.record(&json!({"type": "content_block_delta", "index": 7, "delta": {"type": "input_json_delta", "partial_json": "{\"path\":\"a.txt\"}"}}))
                + &Anthropic.ending(),
        ),
        script(
            "calls-of-a-second-answer",
            OpenAi,
            Says,
            0,
            OpenAi.record(&json!({"choices": [
                {"index": 0, "delta": {"content": TEXT}},
                {"index": 1, "delta": {"tool_calls": [piece(zero, "call_abcdef", READ, "{\"path\":\"a.txt\"}")]}},
            ]})) + &stops("stop")
                + DONE,
        ),
    ]
}

fn names() -> Vec<Script> {
    vec![
        naming("tool-that-is-not-there", "shell__run"),
        naming("no-name", ""),
        naming("name-with-a-zero", "files__read\0"),
        naming("name-with-a-path", "../files__read"),
        naming("name-in-another-case", "Files__Read"),
        naming("name-with-a-look-alike", "files__re\u{430}d"),
        naming("name-of-half-a-megabyte", &"n".repeat(500_000)),
        script(
            "name-that-is-a-number",
            Gemini,
            Fails("malformed"),
            0,
            part(
                &json!({"functionCall": {"name": 7, "args": {}}}),
                Some("STOP"),
            ),
        ),
    ]
}

fn arguments(of_read: &str) -> Vec<Script> {
    let path = |json_path: String| {
        let piece = json!({"jsonPath": json_path, "stringValue": "x"});
        part(
            &json!({"functionCall": {"name": READ, "partialArgs": [piece]}}),
            Some("STOP"),
        )
    };
    vec![
        reading("nan", "{\"path\": NaN}"),
        reading("infinity", "{\"path\": \"a.txt\", \"limit\": -Infinity}"),
        reading(
            "number-beyond-all",
            "{\"path\": \"a.txt\", \"limit\": 1e999}",
        ),
        reading("member-twice", "{\"path\": \"b.txt\", \"path\": \"a.txt\"}"),
        reading("two-objects", &of_read.repeat(2)),
        reading("object-in-a-list", &format!("[{of_read}]")),
        reading("object-in-a-text", &json!(of_read).to_string()),
        reading("half-an-object", &of_read[..of_read.len() - 1]),
        reading("half-a-character", "{\"path\": \"\\ud800\"}"),
        reading("member-too-many", "{\"path\": \"a.txt\", \"as\": \"root\"}"),
        reading("nothing-for-everything", "null"),
        reading("deep-arguments", &deep(20_000)),
        script(
            "nan-in-a-record",
            Ollama,
            Fails("malformed"),
            0,
            raw("{\"path\": NaN}"),
        ),
        script(
            "deep-arguments-in-a-record",
            Ollama,
            Says,
            0,
            raw(&deep(20_000)),
        ),
        script(
            "deep-path-of-an-argument",
            Gemini,
            Fails("malformed"),
            0,
            path(format!("${}", ".a".repeat(1_000))),
        ),
        script(
            "item-of-a-list-beyond-all",
            Gemini,
            Fails("malformed"),
            0,
            path("$.path[4294967295]".to_owned()),
        ),
    ]
}

fn order(zero: &Value, of_read: &str, args: &str, late: &dyn Fn(Dialect) -> String) -> Vec<Script> {
    let call = |name, arguments| piece(zero, "call_abcdef", name, arguments);
    let text_of_a_call = format!("{{\"name\": \"{READ}\", \"arguments\": {of_read}}}");
    vec![
        script("call-after-done-of-openai", OpenAi, Says, 0, late(OpenAi)),
        script(
            "call-after-done-of-mistral",
            Mistral,
            Says,
            0,
            late(Mistral),
        ),
        script(
            "call-after-the-stop-of-anthropic",
            Anthropic,
            Says,
            0,
            late(Anthropic),
        ),
        script("call-after-done-of-ollama", Ollama, Says, 0, late(Ollama)),
        script(
            "call-after-the-reason-to-stop",
            OpenAi,
            Says,
            1,
            stops("stop") + &pieces(&[call(WRITE, args)]) + DONE,
        ),
        script(
            "call-after-the-reason-of-gemini",
            Gemini,
            Says,
            1,
            Gemini.ending()
                + &part(
                    &json!({"functionCall": {"name": WRITE, "args": write("out.txt")}}),
                    None,
                ),
        ),
        script(
            "call-at-the-limit-of-the-answer",
            OpenAi,
            Says,
            0,
            pieces(&[call(READ, &of_read[..9])]) + &stops("length") + DONE,
        ),
        script(
            "call-and-no-end",
            OpenAi,
            Fails("cut"),
            0,
            OpenAi.call(READ, &read()),
        ),
        script(
            "call-and-half-a-record",
            Anthropic,
            Fails("cut"),
            0,
            Anthropic.call(READ, &read()) + "data: {\"type\"",
        ),
        script(
            "call-and-an-error",
            OpenAi,
            Fails("overload"),
            0,
            OpenAi.call(READ, &read())
                + &OpenAi
                    .record(&json!({"error": {"message": "overloaded", "type": "server_error"}})),
        ),
        script(
            "call-and-no-record",
            Anthropic,
            Fails("malformed"),
            0,
            Anthropic.call(READ, &read()) + &Anthropic.raw("[[["),
        ),
        script(
            "call-of-the-old-kind",
            Compatible,
            Says,
            0,
            delta(&json!({"content": TEXT, "function_call": {"name": READ, "arguments": of_read}}))
                + &stops("function_call")
                + DONE,
        ),
        script(
            "call-in-a-thought",
            Compatible,
            Says,
            0,
            delta(&json!({"reasoning_content": text_of_a_call, "tool_use": [call(READ, of_read)]}))
                + &saying(TEXT),
        ),
        script(
            "no-list-of-choices",
            OpenAi,
            Fails("malformed"),
            0,
            OpenAi.record(&json!({"choices": {"delta": {"tool_calls": [call(READ, of_read)]}}}))
                + DONE,
        ),
    ]
}

fn sizes(zero: &Value) -> Vec<Script> {
    let flood = |name, dialect: Dialect, first: String, again: String, times| Script {
        name,
        dialect,
        says: Fault::Flood(first, again, Some(times)),
        end: Fails("too_large"),
        denied: 0,
    };
    let more = delta(
        &json!({"tool_calls": [{"index": 0, "function": {"arguments": "x".repeat(64 * 1024)}}]}),
    );
    let lies = json!({"prompt_tokens": u64::MAX, "completion_tokens": u64::MAX, "total_tokens": 1});
    let counts = |usage: Value| {
        delta(&json!({"content": TEXT}))
            + &stops("stop")
            + &OpenAi.record(&json!({"choices": [], "usage": usage}))
            + DONE
    };
    vec![
        // A gigabyte each.
        flood(
            "gigabyte-of-text",
            OpenAi,
            String::new(),
            delta(&json!({"content": "x".repeat(64 * 1024)})),
            16 * 1024,
        ),
        flood(
            "gigabyte-of-arguments",
            OpenAi,
            pieces(&[piece(zero, "call_abcdef", READ, "{\"path\": \"")]),
            more,
            16 * 1024,
        ),
        flood(
            "gigabyte-of-a-record",
            Anthropic,
            "data: {\"type\": \"".to_owned(),
            "x".repeat(64 * 1024),
            16 * 1024,
        ),
        script("tokens-beyond-all", OpenAi, Says, 0, counts(lies)),
        script(
            "tokens-below-zero",
            OpenAi,
            Fails("malformed"),
            0,
            counts(json!({"prompt_tokens": -1, "completion_tokens": -1})),
        ),
    ]
}
