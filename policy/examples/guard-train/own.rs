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
    junk: Vec<String>,
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
        let mut all = self.written(&self.attack, true, &mut dice);
        all.extend(self.written(&self.benign, false, &mut dice));
        all
    }

    /// What the classifier of shapes learns from: every line with letters that a search found, and every harmless one.
    pub(crate) fn shapes(&self) -> Vec<(String, bool)> {
        let mut dice = Dice(11);
        let mut all = self.written(&self.junk, true, &mut dice);
        all.extend(self.written(&self.benign, false, &mut dice));
        all
    }

    fn written(&self, lines: &[String], attack: bool, dice: &mut Dice) -> Vec<(String, bool)> {
        let mut all = Vec::new();
        for line in lines {
            let counted = line.strip_prefix('*').and_then(|rest| {
                let (times, line) = rest.split_once(' ')?;
                Some((times.parse().ok()?, line))
            });
            let (times, line) = counted.unwrap_or((TIMES, line));
            let mut texts: Vec<String> = (0..times)
                .map(|_| {
                    let mut out = String::new();
                    self.write(line, dice, &mut out, 0);
                    // Braces of programs are written as other ones.
                    out.replace('⟦', "{").replace('⟧', "}")
                })
                .collect();
            texts.sort_unstable();
            texts.dedup();
            all.extend(texts.into_iter().map(|text| (text, attack)));
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
                (["junk"], None) => self.junk(dice, out),
                (choices, _) => {
                    self.write(choices[dice.throw(choices.len())], dice, out, depth + 1)
                }
            }
            rest = &rest[open + length + 1..];
        }
        out.push_str(rest);
    }

    /// Words, pieces of words and marks as a search for letters that break a model finds them: whatever is in the table of a
    /// model, side by side. Each search has its own leanings.
    fn junk(&self, dice: &mut Dice, out: &mut String) {
        let one = |slot: &str, dice: &mut Dice| {
            let of = &self.slot[slot];
            of[dice.throw(of.len())].clone()
        };
        let (marks, pieces, glued) = (1 + dice.throw(5), 1 + dice.throw(5), 1 + dice.throw(5));
        for position in 0..8 + dice.throw(14) {
            let kind = dice.throw(marks + pieces + 4);
            let token = if kind < marks {
                one("junkmark", dice)
            } else if kind < marks + pieces {
                one("junkpiece", dice)
            } else {
                one("junkword", dice)
            };
            if dice.throw(10) >= glued && position > 0 {
                out.push(' ');
            }
            match dice.throw(12) {
                0 => out.push_str(&token.to_uppercase()),
                1 | 2 => {
                    let mut letters = token.chars();
                    out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
                    out.push_str(letters.as_str());
                }
                _ => out.push_str(&token),
            }
        }
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
