//! Screening of texts before a model sees them: how suspicious a text is, why, and where.
//!
//! ```text
//!  text ─┬─ hidden ──────────────── payloads that no reader sees          ┐
//!        ├─ shape ───────────────── gibberish that a search found         │
//!        ├─ fold ── the folded view ─┬─ patterns ── families, spans       ├─ evidence ── score ── pass | mark | ask | block
//!        │                           └─ model ───── probability, window   │
//!        ├─ cipher ─ lines turned, reversed, spaced ── (the same two)     │
//!        └─ decode ─ runs of base64, hex, … ── fold, cipher, decode again ┘
//! ```
//!
//! A text is never changed: views are made beside it, and spans point into the original. Time and space are linear in the
//! text; what is decoded is together at most twice as long as the text, and decoding goes two layers deep. A verdict only
//! ever makes something stricter: nothing may be allowed because the guard found nothing (rule R7).

mod cipher;
mod decode;
mod fold;
mod hidden;
pub mod model;
mod patterns;
pub mod secrets;
pub mod shape;

use std::{fmt, ops::Range, sync::LazyLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use model::{Learnt, Model, ModelError};
pub use patterns::PatternError;
use patterns::Patterns;

/// What the score has to reach for each verdict. Chosen on the development corpus for a stated rate of false alarms; see
/// tests/bench/README.md.
pub const MARK: f32 = 0.55;
/// See [`MARK`].
pub const ASK: f32 = 0.8;
/// See [`MARK`]. Hidden payloads block whatever the score.
pub const BLOCK: f32 = 0.98;

/// Texts are looked at in pieces of this many bytes, so that the offsets in tables stay small.
const PIECE: usize = 256 << 10;
/// How many layers of encoding are undone.
const DEPTH: usize = 2;
/// Evidence weaker than this is not worth a name.
const FAINT: f32 = 0.3;
/// At most so many places are reported.
const MAX_SPANS: usize = 32;

/// What is to be done with a text.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing was found. It does not mean that the text is harmless.
    Pass,
    /// The model is told to take it as data, and whatever follows is asked for.
    Mark,
    /// A person is asked before anything is done in the session.
    Ask,
    /// The model does not see it.
    Block,
}

impl Outcome {
    /// The word in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Mark => "mark",
            Self::Ask => "ask",
            Self::Block => "block",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A kind of evidence.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// What was said before is to be dropped.
    Override,
    /// The instructions or a kept secret are to be shown.
    Reveal,
    /// The model is to be another, without rules.
    Jailbreak,
    /// Marks that only the program around a model writes.
    Delimiter,
    /// Data that gives orders to the model.
    Order,
    /// Data is to leave.
    Exfil,
    /// Something encoded is to be obeyed, or hides what is found in it.
    Encoded,
    /// Words in a part of a page that no reader sees.
    HiddenHtml,
    /// Text in tag characters.
    HiddenTags,
    /// Text in variation selectors.
    HiddenSelectors,
    /// Text in zero-width characters, or words torn by them.
    HiddenZeroWidth,
    /// Latin text whose direction is turned.
    Bidi,
    /// The classifier of words.
    Statistical,
    /// The classifier of shapes: letters that a search for what breaks a model found.
    Gibberish,
}

impl Family {
    /// The word in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Override => "override",
            Self::Reveal => "reveal",
            Self::Jailbreak => "jailbreak",
            Self::Delimiter => "delimiter",
            Self::Order => "order",
            Self::Exfil => "exfil",
            Self::Encoded => "encoded",
            Self::HiddenHtml => "hidden-html",
            Self::HiddenTags => "hidden-tags",
            Self::HiddenSelectors => "hidden-selectors",
            Self::HiddenZeroWidth => "hidden-zero-width",
            Self::Bidi => "bidi",
            Self::Statistical => "statistical",
            Self::Gibberish => "gibberish",
        }
    }

    /// Whether it is text that no reader sees, which is a reason by itself.
    pub fn is_hidden_channel(self) -> bool {
        match self {
            Self::HiddenTags | Self::HiddenSelectors | Self::HiddenZeroWidth | Self::Bidi => true,
            Self::Override
            | Self::Reveal
            | Self::Jailbreak
            | Self::Delimiter
            | Self::Order
            | Self::Exfil
            | Self::Encoded
            | Self::HiddenHtml
            | Self::Statistical
            | Self::Gibberish => false,
        }
    }
}

/// What screening a text gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Screening {
    /// What is to be done.
    pub verdict: Outcome,
    /// How suspicious it is, 0 to 1.
    pub score: f32,
    /// What led to it, strongest first.
    pub families: Vec<Family>,
    /// Where, in bytes of the text, in order and without overlap.
    pub spans: Vec<(usize, usize)>,
}

/// Evidence: what, how strong, where.
#[derive(Debug, Clone)]
struct Evidence {
    family: Family,
    strength: f32,
    span: (usize, usize),
    hidden: bool,
}

/// The screening, ready: patterns and weights.
#[derive(Debug)]
pub struct Guard {
    patterns: Patterns,
    model: Model,
}

static SHIPPED: LazyLock<Guard> = LazyLock::new(|| {
    let patterns = Patterns::read(include_str!("../../guard/patterns.toml"))
        .expect("the patterns in the tree are tried by a test");
    let model = Model::read(include_bytes!("../../guard/weights.bin"))
        .expect("the weights in the tree are tried by a test");
    Guard { patterns, model }
});

impl Guard {
    /// The patterns and weights this program was built with.
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    /// The shipped patterns with other weights: what a new training is tried with.
    pub fn with_model(model: Model) -> Result<Self, PatternError> {
        let patterns = Patterns::read(include_str!("../../guard/patterns.toml"))?;
        Ok(Self { patterns, model })
    }

    /// Looks at a text in every view.
    pub fn screen(&self, text: &str) -> Screening {
        let mut evidence = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let mut end = (at + PIECE).min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            self.piece(&text[at..end], at, &mut evidence);
            at = end;
        }
        weigh(evidence)
    }

    fn piece(&self, text: &str, offset: usize, evidence: &mut Vec<Evidence>) {
        let mut budget = text.len().saturating_mul(2).max(64);
        let mut layers: Vec<(String, (usize, usize), usize)> = Vec::new();
        for found in hidden::scan(text) {
            let span = (offset + found.span.0, offset + found.span.1);
            evidence.push(Evidence {
                family: found.family,
                strength: if found.payload.is_some() { 0.95 } else { 0.6 },
                span,
                hidden: found.payload.is_some(),
            });
            layers.extend(found.payload.map(|payload| (payload, span, 1)));
        }
        let gibberish = self.model.shapes(text.as_bytes());
        if gibberish.probability > 0.0 {
            evidence.push(Evidence {
                family: Family::Gibberish,
                strength: gibberish.probability,
                span: (
                    offset + text.floor_char_boundary(gibberish.window.start),
                    offset + text.ceil_char_boundary(gibberish.window.end),
                ),
                hidden: false,
            });
        }
        self.layer(
            text,
            |start, end| (offset + start, offset + end),
            0,
            &mut budget,
            &mut layers,
            evidence,
        );
        while let Some((text, span, depth)) = layers.pop() {
            self.layer(
                &text,
                |_, _| span,
                depth,
                &mut budget,
                &mut layers,
                evidence,
            );
        }
    }

    /// One text of one depth: its folded view, its disguised lines, and what is encoded in it.
    fn layer(
        &self,
        text: &str,
        place: impl Fn(usize, usize) -> (usize, usize),
        depth: usize,
        budget: &mut usize,
        layers: &mut Vec<(String, (usize, usize), usize)>,
        evidence: &mut Vec<Evidence>,
    ) {
        let folded = fold::fold(text);
        let original = |start, end| {
            let (start, end) = folded.span(start, end);
            place(start, end)
        };
        self.look(&folded.bytes, original, depth > 0, evidence);
        for line in cipher::lines(&folded.bytes, *budget) {
            *budget -= line.bytes.len();
            let span = original(line.span.0, line.span.1);
            self.look(&line.bytes, |_, _| span, true, evidence);
        }
        if depth == DEPTH {
            return;
        }
        for decoded in decode::runs(text, *budget) {
            *budget -= decoded.text.len();
            let (start, end) = decoded.span;
            layers.push((decoded.text, place(start, end), depth + 1));
        }
    }

    /// Patterns and classifier on one view.
    fn look(
        &self,
        view: &[u8],
        place: impl Fn(usize, usize) -> (usize, usize),
        disguised: bool,
        evidence: &mut Vec<Evidence>,
    ) {
        let mut add = |family, strength: f32, span: Range<usize>| {
            // What somebody took the trouble to hide counts more.
            let strength = if disguised && strength >= FAINT {
                1.0 - (1.0 - strength) * 0.6
            } else {
                strength
            };
            evidence.push(Evidence {
                family,
                strength,
                span: place(span.start, span.end),
                hidden: false,
            });
            if disguised && strength >= MARK {
                evidence.push(Evidence {
                    family: Family::Encoded,
                    strength: FAINT,
                    span: place(span.start, span.end),
                    hidden: false,
                });
            }
        };
        for hit in self.patterns.hits(view) {
            let pattern = &self.patterns.all[hit.pattern];
            add(pattern.family, pattern.score, hit.span.0..hit.span.1);
        }
        let guess = self.model.guess(view);
        add(Family::Statistical, guess.probability, guess.window);
    }

    /// The probability the classifier of words alone gives the plain view.
    pub fn statistical(&self, text: &str) -> f32 {
        self.model.guess(&fold::fold(text).bytes).probability
    }

    /// The probability the classifier of shapes alone gives a text.
    pub fn gibberish(&self, text: &str) -> f32 {
        self.model.shapes(text.as_bytes()).probability
    }

    /// The strength of the patterns alone, on the plain view.
    pub fn pattern_strength(&self, text: &str) -> f32 {
        let mut evidence = Vec::new();
        for hit in self.patterns.hits(&fold::fold(text).bytes) {
            let pattern = &self.patterns.all[hit.pattern];
            evidence.push(Evidence {
                family: pattern.family,
                strength: pattern.score,
                span: hit.span,
                hidden: false,
            });
        }
        weigh(evidence).score
    }
}

/// The folded view of a text, for training.
pub fn folded(text: &str) -> Vec<u8> {
    fold::fold(text).bytes
}

/// Where the first line of a text ends. Bytes are looked at many at a time.
fn newline(text: &[u8]) -> Option<usize> {
    const STEP: usize = 32;
    let has = |chunk: &&[u8]| chunk.iter().fold(false, |has, byte| has | (*byte == b'\n'));
    let before = STEP * text.chunks(STEP).take_while(|chunk| !has(chunk)).count();
    let rest = text.get(before..)?;
    let at = rest.iter().position(|byte| *byte == b'\n')?;
    Some(before + at)
}

/// The strongest evidence of each family, taken as independent of the other families'.
fn weigh(mut evidence: Vec<Evidence>) -> Screening {
    evidence.sort_by(|a, b| b.strength.total_cmp(&a.strength));
    let mut families: Vec<Family> = Vec::new();
    let mut spans: Vec<(usize, usize)> = Vec::new();
    let mut doubt = 1.0_f32;
    let mut hidden = false;
    let mut seen: Vec<Family> = Vec::new();
    for item in &evidence {
        hidden |= item.hidden;
        if !seen.contains(&item.family) {
            seen.push(item.family);
            doubt *= 1.0 - item.strength;
        }
        if item.strength >= FAINT {
            if !families.contains(&item.family) {
                families.push(item.family);
            }
            if spans.len() < MAX_SPANS {
                spans.push(item.span);
            }
        }
    }
    let score = 1.0 - doubt;
    let verdict = if hidden || score >= BLOCK {
        Outcome::Block
    } else if score >= ASK {
        Outcome::Ask
    } else if score >= MARK {
        Outcome::Mark
    } else {
        Outcome::Pass
    };
    if verdict == Outcome::Pass {
        families.clear();
        spans.clear();
    }
    Screening {
        verdict,
        score,
        families,
        spans: merged(spans),
    }
}

fn merged(mut spans: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    spans.retain(|(start, end)| start < end);
    spans.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::with_capacity(spans.len());
    for (start, end) in spans {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
