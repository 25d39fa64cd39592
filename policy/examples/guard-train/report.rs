//! What the screening found in texts that its weights were not learnt from, as tables.

use std::collections::BTreeMap;

use paw_policy::guard::{ASK, BLOCK, MARK};

use super::Row;

/// What was found in a row.
pub(crate) struct Found {
    pub(crate) index: usize,
    pub(crate) score: f32,
    pub(crate) words: f32,
    pub(crate) shapes: f32,
    pub(crate) patterns: f32,
}

/// Prints what was found at several rates of false alarms, how far scores are right, and what was found of each source.
pub(crate) fn report(rows: &[Row], results: &[Found]) {
    let mut benign: Vec<f32> = Vec::new();
    for found in results {
        if !rows[found.index].attack() {
            benign.push(found.score);
        }
    }
    benign.sort_by(|a, b| b.total_cmp(a));
    for rate in [0.0025, 0.005, 0.0075, 0.01, 0.02] {
        let at = benign[((benign.len() as f32 * rate) as usize).min(benign.len() - 1)];
        let mut channels: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for found in results {
            let row = &rows[found.index];
            if row.attack() {
                for name in [row.channel.as_str(), "all"] {
                    if name == "all" && row.channel == "attack-line" {
                        continue;
                    }
                    let entry = channels.entry(name).or_default();
                    entry.0 += usize::from(found.score > at);
                    entry.1 += 1;
                }
            }
        }
        print!("false alarms {:.2} % at {at:.3}: ", rate * 100.0);
        for (name, (hit, of)) in &channels {
            print!(" {name} {:.1}", 100.0 * *hit as f32 / *of as f32);
        }
        println!();
    }
    reliability(rows, results);
    println!(
        "\n{:<34}{:>7}{:>8}{:>8}{:>8}{:>9}{:>9}{:>10}",
        "source", "rows", "mark %", "ask %", "block %", "words %", "shapes %", "patterns %"
    );
    let mut sources: BTreeMap<(&str, &str), Vec<&Found>> = BTreeMap::new();
    for found in results {
        let row = &rows[found.index];
        let kind = if row.attack() { &row.channel } else { "benign" };
        for name in [row.source.as_str(), "ALL"] {
            sources.entry((kind, name)).or_default().push(found);
        }
    }
    for ((kind, source), all) in sources {
        let share = |of: &dyn Fn(&Found) -> bool| {
            100.0 * all.iter().filter(|found| of(found)).count() as f32 / all.len() as f32
        };
        println!(
            "{:<34}{:>7}{:>8.1}{:>8.1}{:>8.1}{:>9.1}{:>9.1}{:>10.1}",
            format!("{kind} {source}"),
            all.len(),
            share(&|found| found.score >= MARK),
            share(&|found| found.score >= ASK),
            share(&|found| found.score >= BLOCK),
            share(&|found| found.words >= MARK),
            share(&|found| found.shapes >= MARK),
            share(&|found| found.patterns >= MARK),
        );
    }
}

/// How often a score is right: of the texts with about that score the share of attacks, where attacks and harmless texts weigh the
/// same, and how far scores are from it on average.
fn reliability(rows: &[Row], results: &[Found]) {
    const STEPS: usize = 10;
    let of_corpus = |found: &&Found| rows[found.index].channel != "attack-line";
    let count = |attack: bool| {
        let all = results.iter().filter(of_corpus);
        all.filter(|found| rows[found.index].attack() == attack)
            .count() as f32
    };
    let (attacks, benign) = (count(true), count(false));
    // Of each step the weight of all texts, that of attacks, and the sum of scores.
    let mut steps = [(0.0_f32, 0.0_f32, 0.0_f32); STEPS];
    for found in results.iter().filter(of_corpus) {
        let attack = rows[found.index].attack();
        let weight = 0.5 / if attack { attacks } else { benign };
        let step = &mut steps[((found.score * STEPS as f32) as usize).min(STEPS - 1)];
        step.0 += weight;
        step.1 += if attack { weight } else { 0.0 };
        step.2 += weight * found.score;
    }
    print!("score and share of attacks: ");
    for (all, attacks, scores) in steps.iter().filter(|step| step.0 > 0.0) {
        print!(" {:.2} {:.2},", scores / all, attacks / all);
    }
    let error: f32 = steps
        .iter()
        .map(|(_, attacks, scores)| (attacks - scores).abs())
        .sum();
    println!(" expected calibration error {error:.3}");
}
