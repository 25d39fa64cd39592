//! How fast the prompt screening is, on one processor: all stages, with the patterns and weights that ship.
//!
//! ```text
//! cargo run -p paw-policy --release --example guard-speed -- CORPUS.jsonl
//! ```
//!
//! Three things are measured, each as the best of several rounds, because other programs only ever make it slower: how many texts
//! of the corpus pass in a second; how long a text of 4 KB takes, made of the corpus; and how long texts take that were made to
//! take long, at 8 KB and at 256 KB, where time for each byte should be the same.

#![allow(clippy::print_stdout, reason = "a program that prints")]

use std::{env, error::Error, fs, time::Instant};

use paw_policy::guard::Guard;
use serde::Deserialize;

const ROUNDS: usize = 5;
/// How often a text of 256 KB is screened in a round; a short one as many bytes.
const REPEATS: usize = 8;

#[derive(Deserialize)]
struct Row {
    text: String,
}

/// What makes a text take long: many keywords, many marks, many characters to fold, many runs that may be encoded.
const HOSTILE: [&str; 14] = [
    "$(",
    "<<<>>>",
    "${:+",
    "execute ",
    "ignore all the of my ",
    "ignore previous ",
    "your system prompt password ",
    "e\u{301}\u{302}\u{303}",
    "аb ",
    "69 67 6e 6f ",
    "aWdub3JlIGFsbCBw\n",
    "V1ZjNWRHSjFWWGxpUjBaNQ== ",
    "%69%67&#105;\\u0069",
    "gur dhvpx oebja sbk ",
];

fn best(mut run: impl FnMut()) -> f64 {
    let once = |run: &mut dyn FnMut()| {
        let since = Instant::now();
        run();
        since.elapsed().as_secs_f64()
    };
    (0..ROUNDS)
        .map(|_| once(&mut run))
        .fold(f64::INFINITY, f64::min)
}

/// How long this program has been on a processor, in seconds: what other programs take of the time does not count.
fn on_processor() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split_whitespace().next().ok_or("schedstat is empty")?;
    Ok(nanoseconds.parse::<f64>()? / 1e9)
}

/// The time on the processor for a text, over so many times that the kernel's account of it is exact enough.
fn each(text: &str, times: usize) -> Result<f64, Box<dyn Error>> {
    let guard = Guard::shipped();
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let before = on_processor()?;
        for _ in 0..times {
            guard.screen(text);
        }
        least = least.min((on_processor()? - before) / times as f64);
    }
    Ok(least)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args()
        .nth(1)
        .ok_or("usage: guard-speed CORPUS.jsonl")?;
    let corpus = fs::read_to_string(path)?;
    let rows = corpus
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Row>, _>>()?;
    let guard = Guard::shipped();
    guard.screen("What is made at the first use is not measured.");

    let bytes: usize = rows.iter().map(|row| row.text.len()).sum();
    let all = || {
        for row in &rows {
            guard.screen(&row.text);
        }
    };
    let seconds = best(all);
    let cpu = (0..ROUNDS)
        .map(|_| {
            let before = on_processor()?;
            all();
            Ok(on_processor()? - before)
        })
        .collect::<Result<Vec<f64>, Box<dyn Error>>>()?;
    let cpu = cpu.into_iter().fold(f64::INFINITY, f64::min);
    println!(
        "{} texts, {bytes} bytes: {:.0} texts/s, {:.1} MB/s; {:.0} texts in a second on the processor",
        rows.len(),
        rows.len() as f64 / seconds,
        bytes as f64 / seconds / 1e6,
        rows.len() as f64 / cpu
    );

    let mut pages: Vec<String> = vec![String::new()];
    for row in &rows {
        let last = pages.len() - 1;
        pages[last].push_str(&row.text);
        pages[last].push('\n');
        if pages[last].len() >= 4096 {
            let end = pages[last].floor_char_boundary(4096);
            pages[last].truncate(end);
            pages.push(String::new());
        }
    }
    pages.pop();
    let mut times: Vec<f64> = pages
        .iter()
        .map(|page| best(|| drop(guard.screen(page))))
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] * 1e6;
    println!(
        "{} texts of 4 KB: p50 {:.0} us, p99 {:.0} us, at most {:.0} us",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );

    println!(
        "hostile texts: time of 8 KB on the processor, and time for each byte of 256 KB beside it"
    );
    for piece in HOSTILE {
        let of = |length: usize| piece.repeat(length / piece.len());
        let (short, long) = (of(8 << 10), of(256 << 10));
        let short_time = each(&short, 32 * REPEATS)?;
        let long_time = each(&long, REPEATS)?;
        let per_byte = (long_time / long.len() as f64) / (short_time / short.len() as f64);
        println!(
            "  {:>8.3} ms  {per_byte:>5.2} x  {piece:?}",
            short_time * 1e3
        );
    }
    Ok(())
}
