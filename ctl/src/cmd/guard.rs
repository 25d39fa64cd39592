//! `pawctl guard`: the screening of prompts, tried without pawd on one text or on a file of labelled ones.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
    time::Instant,
};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use paw_policy::guard::{Guard, Outcome, Screening};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    cli::{self, Format},
    fail::{Failure, exit},
    render::{Look, Out, Tone, table, text},
};

/// The longest text that is scanned, in bytes: pawd takes no longer message.
const MAX_TEXT: u64 = 1 << 20;
/// The longest line of a file of texts, in bytes: a text of the greatest length, escaped.
const MAX_LINE: u64 = 8 << 20;
/// Names of sources and channels that are told apart; the rest is counted together.
const MAX_NAMES: usize = 200;

pub(super) fn run(out: &mut Out, command: cli::Guard) -> Result<u8, Failure> {
    match command {
        cli::Guard::Scan { text } => scan(out, text),
        cli::Guard::Eval { file } => eval(out, &file),
    }
}

fn scan(out: &mut Out, given: Option<String>) -> Result<u8, Failure> {
    let given = match given {
        Some(text) if text != "-" => text,
        Some(_) | None => stdin()?,
    };
    let found = Guard::shipped().screen(&given);
    match out.format {
        Format::Table => {
            let shown = scanned(&found, &given, &out.look);
            out.print(&shown);
        }
        Format::Json | Format::Jsonl => out.json(&json!(found).to_string()),
    }
    Ok(exit::DONE)
}

fn stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_TEXT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("read stdin", &error))?;
    let usage = |why: String, remedy: &str| Failure::Usage {
        doing: "read stdin".to_owned(),
        why,
        remedy: remedy.to_owned(),
    };
    if bytes.len() as u64 > MAX_TEXT {
        let why = format!("it is longer than {MAX_TEXT} bytes");
        return Err(usage(
            why,
            "scan it in pieces: pawd takes no longer message",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        usage(
            format!("it is not UTF-8 at byte {at}"),
            "only text can be scanned",
        )
    })
}

fn tone(verdict: Outcome) -> Tone {
    match verdict {
        Outcome::Pass => Tone::Good,
        Outcome::Mark | Outcome::Ask => Tone::Warn,
        Outcome::Block => Tone::Bad,
    }
}

fn scanned(found: &Screening, given: &str, look: &Look) -> String {
    let meaning = match found.verdict {
        Outcome::Pass => "nothing was found, which does not make it harmless",
        Outcome::Mark => "a model gets it marked as data, and what follows is suspicious",
        Outcome::Ask => "a person is asked before anything is done because of it",
        Outcome::Block => {
            "as a tool's result it is withheld, and so is what a person sends if it hides something"
        }
    };
    let families: Vec<&str> = found
        .families
        .iter()
        .map(|family| family.as_str())
        .collect();
    let mut rows = vec![
        (
            "Verdict",
            format!(
                "{}: {meaning}",
                look.paint(tone(found.verdict), found.verdict.as_str())
            ),
        ),
        ("Score", format!("{:.3}", found.score)),
    ];
    if !families.is_empty() {
        rows.push(("Because of", families.join(", ")));
    }
    let mut shown = table::block(&rows);
    for (start, end) in &found.spans {
        // Whatever is hidden in it is shown, on one line.
        let piece = text::visible(given.get(*start..*end).unwrap_or(""), false);
        shown.push_str(&format!("{start:>8}-{end}: {}\n", text::short(&piece, 160)));
    }
    shown
}

/// A line of the file, as it is written. What else stands in it is of no interest.
#[derive(Debug, Deserialize)]
struct Row {
    text: String,
    kind: Kind,
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    source: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Attack,
    Benign,
}

/// How many there were, and how many were found suspicious.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    of: u64,
    found: u64,
}

impl Share {
    fn add(&mut self, found: bool) {
        self.of += 1;
        self.found += u64::from(found);
    }

    fn rate(self) -> Option<f64> {
        (self.of > 0).then(|| self.found as f64 / self.of as f64)
    }
}

#[derive(Debug, Default)]
struct Counts {
    attack: Share,
    benign: Share,
    by_channel: BTreeMap<String, Share>,
    attack_by_source: BTreeMap<String, Share>,
    benign_by_source: BTreeMap<String, Share>,
    by_verdict: BTreeMap<(bool, Outcome), u64>,
}

fn named(shares: &mut BTreeMap<String, Share>, name: Option<String>, found: bool) {
    let name = name.unwrap_or_else(|| "-".to_owned());
    let full = shares.len() >= MAX_NAMES && !shares.contains_key(&name);
    let name = if full { "(others)".to_owned() } else { name };
    shares.entry(name).or_default().add(found);
}

/// What `-o json` gives.
#[derive(Debug, Serialize)]
struct Evaluation {
    items: u64,
    fpr: Option<f64>,
    recall: Option<f64>,
    recall_by_channel: BTreeMap<String, Option<f64>>,
    fpr_by_source: BTreeMap<String, Option<f64>>,
    recall_by_source: BTreeMap<String, Option<f64>>,
    confusion: Confusion,
    verdicts: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    bytes: u64,
    prompts_per_s: f64,
    bytes_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

#[derive(Debug, Serialize)]
struct Confusion {
    true_positive: u64,
    false_negative: u64,
    false_positive: u64,
    true_negative: u64,
}

fn eval(out: &mut Out, path: &Path) -> Result<u8, Failure> {
    let doing = format!("read {}", path.display());
    let file = File::open(path).map_err(|error| Failure::io(doing.clone(), &error))?;
    let length = file
        .metadata()
        .ok()
        .filter(std::fs::Metadata::is_file)
        .map(|meta| meta.len());
    let bar = progress(length);
    let guard = Guard::shipped();
    // What is made at the first use is not the first text's fault.
    guard.screen("Warm up, please ignore all previous figures.");
    let mut lines = BufReader::new(file);
    let mut counts = Counts::default();
    // Up to an hour for one text, in nanoseconds, to three digits.
    let mut times =
        Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3).expect("these bounds are valid");
    let (mut number, mut bytes, mut nanoseconds) = (0_u64, 0_u64, 0_u64);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines
            .by_ref()
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| Failure::io(doing.clone(), &error))?;
        if read == 0 {
            break;
        }
        number += 1;
        bar.inc(read as u64);
        if read as u64 > MAX_LINE {
            let why = format!("line {number} is longer than {MAX_LINE} bytes");
            return Err(unreadable(doing, why));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let row: Row = serde_json::from_slice(&line)
            .map_err(|error| unreadable(doing.clone(), format!("line {number}: {error}")))?;
        let started = Instant::now();
        let found = guard.screen(&row.text);
        let took = started.elapsed().as_nanos() as u64;
        nanoseconds += took;
        bytes += row.text.len() as u64;
        times.saturating_record(took.max(1));
        counts.add(row, found.verdict);
    }
    bar.finish_and_clear();
    let items = counts.attack.of + counts.benign.of;
    if items == 0 {
        return Err(unreadable(doing, "there is no text in it".to_owned()));
    }
    let seconds = nanoseconds as f64 / 1e9;
    let us = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1e3;
    let done = counts.evaluation(
        bytes,
        seconds,
        [us(0.5), us(0.99), times.max() as f64 / 1e3],
    );
    match out.format {
        Format::Table => {
            let shown = evaluated(&done, &counts, &out.look);
            out.print(&shown);
        }
        Format::Json | Format::Jsonl => out.json(&json!(done).to_string()),
    }
    Ok(exit::DONE)
}

fn unreadable(doing: String, why: String) -> Failure {
    Failure::Local {
        doing,
        why,
        remedy: r#"one JSON object a line: {"id":"1","text":"hello","kind":"benign","channel":"direct"}"#.to_owned(),
    }
}

impl Counts {
    fn add(&mut self, row: Row, verdict: Outcome) {
        let found = verdict != Outcome::Pass;
        let attack = row.kind == Kind::Attack;
        *self.by_verdict.entry((attack, verdict)).or_default() += 1;
        match row.kind {
            Kind::Attack => {
                self.attack.add(found);
                named(&mut self.by_channel, row.channel, found);
                named(&mut self.attack_by_source, row.source, found);
            }
            Kind::Benign => {
                self.benign.add(found);
                named(&mut self.benign_by_source, row.source, found);
            }
        }
    }

    fn evaluation(&self, bytes: u64, seconds: f64, [p50, p99, max]: [f64; 3]) -> Evaluation {
        let rates = |shares: &BTreeMap<String, Share>| {
            shares
                .iter()
                .map(|(name, share)| (name.clone(), share.rate()))
                .collect()
        };
        let items = self.attack.of + self.benign.of;
        let mut verdicts: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for ((attack, verdict), count) in &self.by_verdict {
            let kind = if *attack { "attack" } else { "benign" };
            verdicts
                .entry(kind)
                .or_default()
                .insert(verdict.as_str(), *count);
        }
        Evaluation {
            items,
            fpr: self.benign.rate(),
            recall: self.attack.rate(),
            recall_by_channel: rates(&self.by_channel),
            fpr_by_source: rates(&self.benign_by_source),
            recall_by_source: rates(&self.attack_by_source),
            confusion: Confusion {
                true_positive: self.attack.found,
                false_negative: self.attack.of - self.attack.found,
                false_positive: self.benign.found,
                true_negative: self.benign.of - self.benign.found,
            },
            verdicts,
            bytes,
            prompts_per_s: (items as f64 / seconds).round(),
            bytes_per_s: (bytes as f64 / seconds).round(),
            p50_us: p50,
            p99_us: p99,
            max_us: max,
        }
    }
}

/// Nothing of it is seen where stderr is no terminal.
fn progress(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{bar:30} {bytes}/{total_bytes} {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn evaluated(done: &Evaluation, counts: &Counts, look: &Look) -> String {
    let percent = |share: Share| {
        share
            .rate()
            .map_or_else(|| "-".to_owned(), |rate| format!("{:.1} %", 100.0 * rate))
    };
    let mut shown = table::block(&[
        (
            "Texts",
            format!("{} ({})", done.items, text::size(done.bytes)),
        ),
        (
            "Found",
            format!("{} of {} attacks", percent(counts.attack), counts.attack.of),
        ),
        (
            "False alarms",
            format!(
                "{} of {} benign texts",
                percent(counts.benign),
                counts.benign.of
            ),
        ),
        (
            "Speed",
            format!(
                "{:.0} texts/s, {}/s; p50 {:.0} us, p99 {:.0} us, at most {:.0} us",
                done.prompts_per_s,
                text::size(done.bytes_per_s as u64),
                done.p50_us,
                done.p99_us,
                done.max_us
            ),
        ),
    ]);
    shown.push('\n');
    let mut rows = Vec::new();
    let groups = [
        ("attack", "channel", &counts.by_channel),
        ("attack", "source", &counts.attack_by_source),
        ("benign", "source", &counts.benign_by_source),
    ];
    for (kind, by, shares) in groups {
        for (name, share) in shares {
            rows.push(vec![
                table::text(kind),
                table::text(by),
                table::text(name),
                table::text(&share.of.to_string()),
                table::text(&share.found.to_string()),
                table::text(&percent(*share)),
            ]);
        }
    }
    let head = ["KIND", "BY", "NAME", "TEXTS", "SUSPICIOUS", "SHARE"];
    shown.push_str(&table::table(&head, rows, look, "no texts"));
    shown
}
