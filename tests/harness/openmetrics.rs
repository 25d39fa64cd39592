//! A strict reader of OpenMetrics text: it takes what the specification allows and nothing else.
//!
//! A family is told once, in one piece, with its type before its samples; counters end in `_total` and are not negative; a histogram has
//! growing buckets up to `+Inf`, which is its count; no series is told twice; the last line is `# EOF`.

use std::collections::{BTreeMap, BTreeSet};

/// Labels and their values.
pub type Labels = BTreeMap<String, String>;

/// All that was told.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
}

/// One metric.
#[derive(Debug, Default)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// What it is for.
    pub help: String,
    /// Its unit, if it has one.
    pub unit: Option<String>,
    /// Name, labels and value of each sample, in their order.
    pub samples: Vec<(String, Labels, f64)>,
}

impl Exposition {
    /// Reads a text.
    ///
    /// # Panics
    /// When it is not OpenMetrics, with the line.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("it ends with `# EOF`");
        let mut all = Self::default();
        let mut open: Option<String> = None;
        let mut seen = BTreeSet::new();
        for line in body.lines() {
            if let Some(told) = line.strip_prefix("# ") {
                let mut words = told.splitn(3, ' ');
                let mut word = || words.next().unwrap_or_else(|| panic!("too short: {line}"));
                let (keyword, name, rest) = (word(), word(), word());
                assert!(is_name(name), "{line}");
                if open.as_deref() != Some(name) {
                    assert!(
                        !all.families.contains_key(name),
                        "told in two pieces: {line}"
                    );
                    all.families.insert(name.to_owned(), Family::default());
                    open = Some(name.to_owned());
                }
                let family = all.families.get_mut(name).expect("it was just made");
                assert!(family.samples.is_empty(), "after its samples: {line}");
                match keyword {
                    "HELP" => family.help = rest.to_owned(),
                    "TYPE" => {
                        assert!(
                            ["counter", "gauge", "histogram", "info"].contains(&rest),
                            "{line}"
                        );
                        assert!(family.kind.is_empty(), "{line}");
                        family.kind = rest.to_owned();
                    }
                    "UNIT" => {
                        assert!(name.ends_with(&format!("_{rest}")), "{line}");
                        family.unit = Some(rest.to_owned());
                    }
                    _ => panic!("unknown: {line}"),
                }
                continue;
            }
            let (name, labels, value) = sample(line);
            let family = open.as_ref().expect("a sample has a family");
            let ending = name.strip_prefix(family.as_str());
            let family = all.families.get_mut(family).expect("it is open");
            let allowed: &[&str] = match family.kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => panic!("without a type: {line}"),
            };
            assert!(ending.is_some_and(|it| allowed.contains(&it)), "{line}");
            assert!(family.kind == "gauge" || value >= 0.0, "{line}");
            assert!(seen.insert((name.clone(), labels.clone())), "twice: {line}");
            family.samples.push((name, labels, value));
        }
        all.families.values().for_each(Family::check);
        all
    }

    /// Names of all metrics.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str)
    }

    /// One metric.
    ///
    /// # Panics
    /// When it was not told.
    #[must_use]
    pub fn family(&self, name: &str) -> &Family {
        let family = self.families.get(name);
        family.unwrap_or_else(|| panic!("no {name} among {:?}", self.families.keys()))
    }

    /// The sum of all series of a counter or gauge, or of the counts of a histogram, that have these labels; 0 if there is none.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let Some(family) = self.families.get(name) else {
            return 0.0;
        };
        let ending = match family.kind.as_str() {
            "counter" => "_total",
            "histogram" => "_count",
            _ => "",
        };
        let whole = format!("{name}{ending}");
        let fits = |of: &Labels| {
            labels
                .iter()
                .all(|(key, value)| of.get(*key).map(String::as_str) == Some(value))
        };
        let samples = family.samples.iter();
        samples
            .filter(|(name, of, _)| *name == whole && fits(of))
            .map(|(_, _, value)| value)
            .sum()
    }

    /// Every label value that was told.
    pub fn label_values(&self) -> impl Iterator<Item = &str> {
        let samples = self.families.values().flat_map(|family| &family.samples);
        samples.flat_map(|(_, labels, _)| labels.values().map(String::as_str))
    }
}

impl Family {
    /// Whether its histograms are ones.
    fn check(&self) {
        assert!(!self.kind.is_empty() && !self.help.is_empty(), "{self:?}");
        if self.kind != "histogram" {
            return;
        }
        let mut each: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for (name, labels, value) in &self.samples {
            let mut labels = labels.clone();
            if name.ends_with("_bucket") {
                let le = labels.remove("le").expect("a bucket has a bound");
                let bound = if le == "+Inf" {
                    f64::INFINITY
                } else {
                    le.parse().expect("a number")
                };
                each.entry(labels).or_default().push((bound, *value));
            } else if name.ends_with("_count") {
                counts.insert(labels, *value);
            }
        }
        assert_eq!(each.len(), counts.len(), "{self:?}");
        for (labels, buckets) in each {
            assert!(
                buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1),
                "{buckets:?}"
            );
            let last = buckets.last().expect("there is one");
            assert_eq!(last.0, f64::INFINITY, "{labels:?}");
            assert_eq!(Some(&last.1), counts.get(&labels), "{labels:?}");
        }
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    bytes.next().is_some_and(first) && bytes.all(|byte| first(byte) || byte.is_ascii_digit())
}

/// `name{label="value",…} number`
fn sample(line: &str) -> (String, Labels, f64) {
    let at = line
        .find(['{', ' '])
        .unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, mut rest) = line.split_at(at);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        let mut inside = inside;
        loop {
            if let Some(after) = inside.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = inside
                .split_once("=\"")
                .unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(key), "{line}");
            let (value, after) = quoted(after, line);
            assert!(labels.insert(key.to_owned(), value).is_none(), "{line}");
            inside = match after.strip_prefix(',') {
                Some(more) => {
                    assert!(!more.starts_with('}'), "{line}");
                    more
                }
                None => {
                    assert!(after.starts_with('}'), "{line}");
                    after
                }
            };
        }
    }
    let number = rest
        .strip_prefix(' ')
        .unwrap_or_else(|| panic!("no value: {line}"));
    let value = number
        .parse()
        .unwrap_or_else(|_| panic!("no number: {line}"));
    (name.to_owned(), labels, value)
}

/// A label's value up to its quote, and what follows.
fn quoted<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                _ => panic!("no escape: {line}"),
            },
            other => value.push(other),
        }
    }
    panic!("without an end: {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\na_seconds_sum{m=\"x\\\"\\\\\"} 1.5\na_seconds_count{m=\"x\\\"\\\\\"} 2\na_seconds_bucket{m=\"x\\\"\\\\\",le=\"1.0\"} 1\na_seconds_bucket{m=\"x\\\"\\\\\",le=\"+Inf\"} 2\n# HELP b Of them.\n# TYPE b counter\nb_total 7\n# EOF\n";

    #[test]
    fn what_is_openmetrics_is_read() {
        let read = Exposition::read(GOOD);
        assert_eq!(read.value("a_seconds", &[("m", "x\"\\")]), 2.0);
        assert_eq!(read.value("b", &[]), 7.0);
    }

    #[test]
    fn what_is_not_is_refused() {
        for (right, wrong) in [
            ("# EOF\n", ""),
            ("# EOF\n", "# EOF\nb_total 8\n# EOF\n"),
            ("b_total 7", "b 7"),
            ("b_total 7", "b_total -7"),
            ("b_total 7", "b_total seven"),
            ("b_total 7", "b_total 7\nb_total 7"),
            ("b_total 7", "b_total 7\n# HELP a_seconds Again."),
            ("# TYPE b counter\n", ""),
            ("# UNIT a_seconds seconds", "# UNIT a_seconds bytes"),
            ("le=\"+Inf\"} 2", "le=\"+Inf\"} 3"),
            ("le=\"+Inf\"} 2", "le=\"2.0\"} 2"),
            ("x\\\"\\\\\"} 1.5", "x\\q\"} 1.5"),
        ] {
            let text = GOOD.replacen(right, wrong, 1);
            assert_ne!(text, GOOD);
            let read = std::panic::catch_unwind(|| Exposition::read(&text));
            assert!(read.is_err(), "{text}");
        }
    }
}
