//! Trains the weights of the prompt screening, and says what they are worth on sources they have not seen.
//!
//! ```text
//! cargo run -p paw-policy --release --example guard-train -- CORPUS.jsonl [--write FILE] [--all-licences]
//! ```
//!
//! The corpus is its user's: one object a line with `id`, `text`, `kind` (`attack` or `benign`), `channel`, and `source` and
//! `licence` if there are any. Two things are done with it. First, ten times a part is held out, the weights are trained on the rest,
//! and tables show what the whole screening with them finds in the part, at the threshold that ships: once with groups of sources as the
//! parts, which says what to expect of texts nobody has seen, once with rows, which says what to expect of more texts of the
//! same sources, and once with the sources of attacks and the rows of harmless texts. Then one set of weights is trained on all rows
//! whose licence is permissive, and written if asked for.
//!
//! Nothing is drawn at random: the same corpus gives the same weights.

#![allow(clippy::print_stdout, reason = "a program that prints")]

mod own;
mod report;

use std::{collections::BTreeMap, env, error::Error, fs};

use paw_policy::guard::{
    Guard, Learnt, Model, folded,
    model::{self, norm, sigmoid},
    shape,
};
use serde::Deserialize;

use self::{
    own::{Dice, Own},
    report::{Found, report},
};

const EPOCHS: usize = 12;
const RATE: f32 = 0.2;
const DECAY: f32 = 3e-4;
/// How many of the features of a window are left out each time it is learnt from, so that no word is relied on alone.
const LEFT_OUT: f32 = 0.5;

#[derive(Debug, Clone, Deserialize)]
struct Row {
    text: String,
    kind: String,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    licence: String,
}

impl Row {
    fn attack(&self) -> bool {
        self.kind == "attack"
    }
}

/// Licences that let anybody use the text with at most a mention of where it is from.
fn permissive(licence: &str) -> bool {
    const WORDS: [&str; 9] = [
        "MIT",
        "Apache",
        "BSD",
        "ISC",
        "CC0",
        "Unlicense",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "ODC-BY",
    ];
    const NOT: [&str; 5] = ["SA", "NC", "MPL", "GPL", "as repo"];
    let has = |words: &[&str]| words.iter().any(|word| licence.contains(word));
    has(&WORDS) && !has(&NOT)
}

/// Sources that share seeds or authors are one group: none may teach about another.
fn group(source: &str) -> &str {
    let families = [
        "jbb",
        "garak",
        "bfcl",
        "gpteacher",
        "tldr",
        "code",
        "docs",
        "encoded",
        "about-injection",
    ];
    families
        .iter()
        .find(|family| source.starts_with(**family))
        .unwrap_or(&source)
}

/// How much a sentence of our own counts beside a text of the corpus.
const OWN_WEIGHT: f32 = 0.5;

/// What a classifier looks at.
#[derive(Debug, Clone, Copy)]
enum View {
    /// The words of the folded view.
    Words,
    /// The shapes of the text as it is written.
    Shapes,
}

impl View {
    /// How many weights there are.
    fn size(self) -> usize {
        match self {
            Self::Words => 1 << model::BITS,
            Self::Shapes => 1 << shape::BITS,
        }
    }

    /// The shares of harmless texts that reach a half and a fifth.
    fn shares(self) -> (f32, f32) {
        match self {
            Self::Words => (0.003, 0.02),
            Self::Shapes => (0.001, 0.006),
        }
    }
}

/// A text as blocks of features, for learning.
struct Sample {
    blocks: Vec<Vec<u32>>,
    attack: bool,
    weight: f32,
}

fn sample(view: View, text: &str, attack: bool, weight: f32) -> Sample {
    let mut blocks: Vec<Vec<u32>> = Vec::new();
    let feature = |block, index| {
        if blocks.len() <= block {
            blocks.resize(block + 1, Vec::new());
        }
        blocks[block].push(index);
    };
    match view {
        View::Words => model::walk(&folded(text), feature),
        View::Shapes => shape::walk(text.as_bytes(), feature),
    }
    Sample {
        blocks,
        attack,
        weight,
    }
}

struct Learner {
    weights: Vec<f32>,
    squares: Vec<f32>,
    bias: f32,
}

impl Learner {
    fn new(view: View) -> Self {
        Self {
            weights: vec![0.0; view.size()],
            squares: vec![1e-3; view.size()],
            bias: -2.0,
        }
    }

    fn value(&self, blocks: &[Vec<u32>]) -> f32 {
        let count: usize = blocks.iter().map(Vec::len).sum();
        let sum: f32 = blocks
            .iter()
            .flatten()
            .map(|index| self.weights[*index as usize])
            .sum();
        self.bias + sum * norm(count as u32)
    }

    /// The window of a sample that is most suspicious by now.
    fn worst(&self, sample: &Sample) -> (f32, usize, usize) {
        let mut best = (f32::MIN, 0, 0);
        for end in 1..=sample.blocks.len() {
            let start = end.saturating_sub(2);
            if sample.blocks[start..end].iter().all(Vec::is_empty) {
                continue;
            }
            let value = self.value(&sample.blocks[start..end]);
            if value > best.0 {
                best = (value, start, end);
            }
        }
        best
    }

    /// Learns from a window, without the features that the dice leave out.
    fn partly(&mut self, blocks: &[Vec<u32>], sample: &Sample, dice: &mut Dice) {
        let blocks: Vec<Vec<u32>> = blocks
            .iter()
            .map(|block| {
                let kept = block.iter().filter(|_| dice.share() >= LEFT_OUT);
                kept.copied().collect()
            })
            .collect();
        self.step(&blocks, sample.attack, sample.weight);
    }

    fn step(&mut self, blocks: &[Vec<u32>], attack: bool, weight: f32) {
        let error = (sigmoid(self.value(blocks)) - f32::from(u8::from(attack))) * weight;
        let count: usize = blocks.iter().map(Vec::len).sum();
        let each = error * norm(count as u32);
        for index in blocks.iter().flatten() {
            let index = *index as usize;
            let gradient = each + DECAY * self.weights[index];
            self.squares[index] += gradient * gradient;
            self.weights[index] -= RATE * gradient / self.squares[index].sqrt();
        }
        self.bias -= 0.002 * error;
    }

    fn learn(view: View, samples: &[&Sample]) -> Self {
        let mut learner = Self::new(view);
        let mut order: Vec<usize> = (0..samples.len()).collect();
        let mut dice = Dice(0x2545_f491_4f6c_dd1d);
        for epoch in 0..EPOCHS {
            for at in (1..order.len()).rev() {
                order.swap(at, dice.throw(at + 1));
            }
            for index in &order {
                let sample = samples[*index];
                if sample.blocks.iter().all(Vec::is_empty) {
                    continue;
                }
                // In an attack one window is the attack, and the rest may be anything; a benign text is benign everywhere.
                let (_, start, end) = learner.worst(sample);
                if sample.attack && epoch == 0 {
                    for end in 1..=sample.blocks.len() {
                        let weight = sample.weight / sample.blocks.len() as f32;
                        learner.step(&sample.blocks[end.saturating_sub(2)..end], true, weight);
                    }
                } else {
                    learner.partly(&sample.blocks[start..end], sample, &mut dice);
                }
            }
        }
        learner
    }

    fn learnt(&self, calibration: (f32, f32)) -> Learnt<'_> {
        Learnt {
            weights: &self.weights,
            bias: self.bias,
            calibration,
        }
    }
}

/// What the weights that a text is tried with were not learnt from.
#[derive(Clone, Copy)]
enum Held {
    /// Anything of the text's group of sources.
    Sources,
    /// Every tenth row, the text among them.
    Rows,
    /// Anything of an attack's group of sources, and every tenth harmless row.
    Attacks,
}

impl Held {
    const ALL: [Self; 3] = [Self::Sources, Self::Rows, Self::Attacks];

    fn by_rows(self, attack: bool) -> bool {
        match self {
            Self::Sources => false,
            Self::Rows => true,
            Self::Attacks => !attack,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Sources => "OTHER SOURCES: nothing of the source was learnt from",
            Self::Rows => "OTHER ROWS: other rows of the source were learnt from",
            Self::Attacks => {
                "OTHER ATTACKS: nothing of an attack's source was learnt from, and other rows of a harmless text's"
            }
        }
    }
}

/// Slope and offset that turn values into log odds, by the values of benign texts whose sources were not learnt from and of
/// those where other rows were: in the middle between both, a half and a fifth are reached by the view's shares. What
/// is screened on a host is partly like what was learnt from.
///
/// Odds by the share of attacks in the corpus would say nothing: nobody knows that share on a real host.
fn calibrate(view: View, sources: &[(f32, bool)], rows: &[(f32, bool)]) -> (f32, f32) {
    let reached = |values: &[(f32, bool)], share: f32| {
        let benign = values.iter().filter(|(_, attack)| !attack);
        let mut benign: Vec<f32> = benign.map(|(value, _)| *value).collect();
        benign.sort_by(|a, b| b.total_cmp(a));
        benign[((benign.len() as f32 * share) as usize).min(benign.len() - 1)]
    };
    let middle = |share: f32| (reached(sources, share) + reached(rows, share)) / 2.0;
    let (half, fifth) = view.shares();
    let (half, fifth) = (middle(half), middle(fifth));
    let slope = 4.0_f32.ln() / (half - fifth).max(1e-3);
    (slope, -slope * half)
}

/// What both classifiers learn from.
struct Corpus {
    rows: Vec<Row>,
    words: Vec<Option<Sample>>,
    shapes: Vec<Option<Sample>>,
    own_words: Vec<Sample>,
    own_shapes: Vec<Sample>,
}

impl Corpus {
    fn new(rows: Vec<Row>, own: &Own, all: bool) -> Self {
        let taught = |row: &Row| all || permissive(&row.licence);
        let words = rows.iter().map(|row| {
            // What is encoded says nothing in letters; its seeds are in other sources.
            let of_use = row.channel != "encoded" && taught(row);
            of_use.then(|| sample(View::Words, &row.text, row.attack(), 1.0))
        });
        // Which attacks of a corpus have gibberish in them nobody says: those of our own are enough.
        let shapes = rows.iter().map(|row| {
            let of_use = !row.attack() && taught(row);
            of_use.then(|| sample(View::Shapes, &row.text, false, 1.0))
        });
        let own_samples = |view, texts: Vec<(String, bool)>| {
            let each = texts.iter();
            each.map(|(text, attack)| sample(view, text, *attack, OWN_WEIGHT))
                .collect()
        };
        Self {
            words: words.collect(),
            shapes: shapes.collect(),
            own_words: own_samples(View::Words, own.texts()),
            own_shapes: own_samples(View::Shapes, own.shapes()),
            rows,
        }
    }

    /// What is learnt without the rows that are held out.
    fn learn(&self, view: View, is_held: impl Fn(usize) -> bool) -> Learner {
        let (rows, own) = match view {
            View::Words => (&self.words, &self.own_words),
            View::Shapes => (&self.shapes, &self.own_shapes),
        };
        let taught = rows.iter().enumerate();
        let taught = taught.filter(|(index, _)| !is_held(*index));
        let taught: Vec<&Sample> = taught
            .filter_map(|(_, sample)| sample.as_ref())
            .chain(own)
            .collect();
        Learner::learn(view, &taught)
    }

    /// What a learner says of rows, and whether they are attacks.
    fn values(&self, view: View, learner: &Learner, rows: &[usize]) -> Vec<(f32, bool)> {
        let rows = rows.iter().map(|index| &self.rows[*index]);
        rows.filter(|row| row.channel != "encoded")
            .map(|row| {
                let (value, ..) = learner.worst(&sample(view, &row.text, row.attack(), 1.0));
                (value, row.attack())
            })
            .filter(|(value, _)| matches!(view, View::Shapes) || *value > f32::MIN)
            .collect()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (mut corpus, mut write, mut all) = (None, None, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--write" => write = arguments.next(),
            "--all-licences" => all = true,
            _ => corpus = Some(argument),
        }
    }
    let corpus = fs::read_to_string(
        corpus.ok_or("usage: guard-train CORPUS.jsonl [--write FILE] [--all-licences]")?,
    )?;
    let mut rows = corpus
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Row>, _>>()?;
    if !all {
        split_bipia(&mut rows);
    }
    let own = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/guard/own.toml"))?;
    let own: Own = toml::from_str(&own)?;
    let corpus = Corpus::new(rows, &own, all);
    let rows = &corpus.rows;
    println!(
        "{} rows, {} of them taught, {} sentences of our own, and {} with gibberish",
        rows.len(),
        corpus.words.iter().flatten().count(),
        corpus.own_words.len(),
        corpus
            .own_shapes
            .iter()
            .filter(|sample| sample.attack)
            .count(),
    );

    // Groups of sources in folds of about the same size.
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *sizes.entry(group(&row.source)).or_default() += 1;
    }
    let mut groups: Vec<(&str, usize)> = sizes.into_iter().collect();
    groups.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let mut folds: Vec<(usize, Vec<&str>)> = vec![(0, Vec::new()); 10];
    for (name, size) in groups {
        let smallest = folds
            .iter_mut()
            .min_by_key(|(size, _)| *size)
            .ok_or("no folds")?;
        smallest.0 += size;
        smallest.1.push(name);
    }
    let mut ways = Vec::new();
    for held in Held::ALL {
        let (mut words, mut shapes, mut learnt) = (Vec::new(), Vec::new(), Vec::new());
        for (fold, (_, sources)) in folds.iter().enumerate() {
            let is_held = |index: usize| {
                if held.by_rows(rows[index].attack()) {
                    index % folds.len() == fold
                } else {
                    sources.contains(&group(&rows[index].source))
                }
            };
            let tested: Vec<usize> = (0..rows.len()).filter(|index| is_held(*index)).collect();
            let of_words = corpus.learn(View::Words, is_held);
            let of_shapes = corpus.learn(View::Shapes, is_held);
            words.extend(corpus.values(View::Words, &of_words, &tested));
            shapes.extend(corpus.values(View::Shapes, &of_shapes, &tested));
            learnt.push((of_words, of_shapes, tested));
        }
        ways.push((held, words, shapes, learnt));
    }
    let of_words = calibrate(View::Words, &ways[0].1, &ways[1].1);
    let of_shapes = calibrate(View::Shapes, &ways[0].2, &ways[1].2);
    for (name, (slope, offset)) in [("words", of_words), ("shapes", of_shapes)] {
        println!("calibration of {name}: slope {slope:.3}, offset {offset:.3}");
    }
    for (held, _, _, learnt) in ways {
        let mut results: Vec<Found> = Vec::new();
        for (words, shapes, tested) in learnt {
            let bytes = Model::write(words.learnt(of_words), shapes.learnt(of_shapes));
            let guard = Guard::with_model(Model::read(&bytes)?)?;
            results.extend(tested.into_iter().map(|index| {
                let text = &rows[index].text;
                Found {
                    index,
                    score: guard.screen(text).score,
                    words: guard.statistical(text),
                    shapes: guard.gibberish(text),
                    patterns: guard.pattern_strength(text),
                }
            }));
        }
        println!("\n{}", held.words());
        report(rows, &results);
    }
    if let Some(path) = write {
        let words = corpus.learn(View::Words, |_| false);
        let shapes = corpus.learn(View::Shapes, |_| false);
        let bytes = Model::write(words.learnt(of_words), shapes.learnt(of_shapes));
        fs::write(&path, &bytes)?;
        println!("{path}: {} bytes", bytes.len());
    }
    Ok(())
}

/// Of this benchmark the attacks are MIT and the pages they stand in are not: only sentences that recur on several pages, which
/// are the attacks, are kept for learning.
fn split_bipia(rows: &mut Vec<Row>) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows
        .iter()
        .filter(|row| row.source == "bipia" && row.attack())
    {
        for line in row
            .text
            .lines()
            .map(str::trim)
            .filter(|line| line.len() > 12)
        {
            *seen.entry(line.to_owned()).or_default() += 1;
        }
    }
    for row in rows
        .iter()
        .filter(|row| row.source == "bipia" && !row.attack())
    {
        for line in row.text.lines().map(str::trim) {
            seen.remove(line);
        }
    }
    let lines = seen.into_iter().filter(|(line, count)| {
        *count >= 3 && line.contains(' ') && !line.contains(['(', '=', '{'])
    });
    rows.extend(lines.map(|(text, _)| Row {
        text,
        kind: "attack".to_owned(),
        channel: "attack-line".to_owned(),
        source: "bipia".to_owned(),
        licence: "MIT".to_owned(),
    }));
}
