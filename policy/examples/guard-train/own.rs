//! The sentences of our own that the classifier learns from, written out: `policy/guard/own.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// How often a line is written out that does not say it itself.
const TIMES: usize = 14;
/// Slots stand in slots at most so deep.
const DEPTH: usize = 8;

/// `policy/guard/own.toml`.
#[derive(Deserialize)]
pub(crate) struct Own {
    slot: BTreeMap<String, Vec<String>>,
    attack: Vec<String>,
    benign: Vec<String>,
}

/// Numbers that look drawn at random and are the same each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// One of `sides` numbers, from 0.
    pub(crate) fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }

    /// A number from 0 to 1.
    pub(crate) fn share(&mut self) -> f32 {
        self.throw(1 << 20) as f32 / (1 << 20) as f32
    }
}

impl Own {
    /// Every line written out, and whether it is an attack.
    pub(crate) fn texts(&self) -> Vec<(String, bool)> {
        let mut dice = Dice(7);
        let mut all = Vec::new();
        for (lines, attack) in [(&self.attack, true), (&self.benign, false)] {
            for line in lines {
                let counted = line.strip_prefix('*').and_then(|rest| {
                    let (times, line) = rest.split_once(' ')?;
                    Some((times.parse().ok()?, line))
                });
                let (times, line) = counted.unwrap_or((TIMES, line));
                let mut texts: Vec<String> = (0..times)
                    .map(|_| {
                        let mut out = String::new();
                        self.write(line, &mut dice, &mut out, 0);
                        out
                    })
                    .collect();
                texts.sort_unstable();
                texts.dedup();
                all.extend(texts.into_iter().map(|text| (text, attack)));
            }
        }
        all
    }

    /// A line with one choice for each of its alternatives, which may have alternatives themselves.
    fn write(&self, line: &str, dice: &mut Dice, out: &mut String, depth: usize) {
        assert!(
            depth < DEPTH,
            "slots stand in slots more than {DEPTH} deep at {line:?}"
        );
        let mut rest = line;
        while let Some(open) = rest.find('{') {
            out.push_str(&rest[..open]);
            let choices = choices(&rest[open..]);
            let length: usize = choices.iter().map(|choice| choice.len() + 1).sum();
            match (choices.as_slice(), self.slot.get(choices[0])) {
                ([_], Some(lines)) => {
                    self.write(&lines[dice.throw(lines.len())], dice, out, depth + 1);
                }
                (["junk"], None) => junk(dice, out),
                (choices, _) => {
                    self.write(choices[dice.throw(choices.len())], dice, out, depth + 1)
                }
            }
            rest = &rest[open + length + 1..];
        }
        out.push_str(rest);
    }
}

/// The alternatives of the braces that a text begins with.
fn choices(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut from = 1;
    let mut found = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => {
                found.push(&text[from..at]);
                return found;
            }
            b'}' => depth -= 1,
            b'|' if depth == 1 => {
                found.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    panic!("a brace is not closed in {text:?}")
}

/// Words and marks as a search for letters that break a model finds them.
fn junk(dice: &mut Dice, out: &mut String) {
    const MARKS: &[u8] = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~[](){}<>=\\";
    const PIECES: [&str; 29] = [
        "ver", "ing", "al", "ten", "graph", "sch", "ment", "post", "er", "con", "de", "tion",
        "bel", "is", "ex", "able", "un", "li", "que", "str", "ad", "ora", "ulo", "ky", "mat",
        "wer", "und", "pre", "ose",
    ];
    const WORDS: [&str; 26] = [
        "please", "now", "write", "one", "two", "answer", "text", "table", "again", "code",
        "begin", "list", "the", "with", "reply", "style", "title", "bitte", "avec", "para", "und",
        "name", "step", "format", "sentence", "here",
    ];
    let marks = |dice: &mut Dice, out: &mut String, most| {
        for _ in 0..=dice.throw(most) {
            out.push(char::from(MARKS[dice.throw(MARKS.len())]));
        }
    };
    for _ in 0..6 + dice.throw(14) {
        if dice.throw(3) > 0 {
            out.push(' ');
        }
        match dice.throw(6) {
            0 | 1 => marks(dice, out, 4),
            2 | 3 => {
                for _ in 0..=dice.throw(3) {
                    out.push_str(PIECES[dice.throw(PIECES.len())]);
                }
                if dice.throw(3) == 0 {
                    marks(dice, out, 1);
                }
            }
            4 => out.push_str(WORDS[dice.throw(WORDS.len())]),
            _ => {
                out.push_str(WORDS[dice.throw(WORDS.len())]);
                marks(dice, out, 3);
                out.push_str(PIECES[dice.throw(PIECES.len())]);
            }
        }
    }
}
