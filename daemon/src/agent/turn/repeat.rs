//! A model that does the same again and again and learns nothing from it: pure.

use std::collections::BTreeMap;

use paw_policy::Digest;

/// How often the same call with the same result is made before the turn is ended.
pub(super) const TIMES: u32 = 3;

/// Calls of one turn by what they were, with what each came to last.
#[derive(Debug, Default)]
pub(super) struct Repeats(BTreeMap<Digest, (Digest, u32)>);

impl Repeats {
    /// A call came to this. Whether it is one too often: a result that differs begins anew.
    pub(super) fn note(&mut self, call: Digest, result: Digest) -> bool {
        let (last, times) = self.0.entry(call).or_insert((result, 0));
        if *last == result {
            *times += 1;
        } else {
            (*last, *times) = (result, 1);
        }
        *times >= TIMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(made: &[(&str, &str)], stopped_at: Option<usize>) {
        let mut repeats = Repeats::default();
        let of = |text: &str| Digest::of(text.as_bytes());
        let stopped = made
            .iter()
            .position(|(call, result)| repeats.note(of(call), of(result)));
        assert_eq!(stopped, stopped_at, "{made:?}");
    }

    #[test]
    fn the_third_equal_call_with_an_equal_result_is_one_too_often() {
        check(&[("a", "1"), ("a", "1"), ("a", "1")], Some(2));
        check(
            &[("a", "1"), ("b", "1"), ("a", "1"), ("b", "2"), ("a", "1")],
            Some(4),
        );
        check(&[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")], None);
        check(
            &[("a", "1"), ("a", "1"), ("a", "2"), ("a", "2"), ("a", "2")],
            Some(4),
        );
        check(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")], None);
    }
}
