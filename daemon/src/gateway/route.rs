//! In which order the targets of a route are asked: drawn once, when a question is taken in, and written into its plan.

use paw_policy::Target;

use crate::config::routes::{RouteTarget, Select};

/// The targets in the order in which they are asked, of those that `may` be asked at all.
///
/// By weight, each further one is drawn of those that are left, so that the share of one that fails goes to the others by their
/// weights. Where the question `stays` on the host that it came to, none elsewhere follows one on this host: of a drawn order, those
/// elsewhere come first, unless one on this host was drawn before them; then they are left out. `random` is uniform over all of
/// `u64`.
pub fn order(
    targets: &[RouteTarget],
    select: Select,
    stays: bool,
    may: impl Fn(&Target) -> bool,
    local: impl Fn(&Target) -> bool,
    mut random: impl FnMut() -> u64,
) -> Vec<Target> {
    let mut left: Vec<&RouteTarget> = targets.iter().filter(|it| may(&it.target)).collect();
    let mut drawn: Vec<Target> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let at = match select {
            Select::Order => 0,
            Select::Weight => draw(&left, random()),
        };
        drawn.push(left.remove(at).target.clone());
    }
    if stays && let Some(first) = drawn.first() {
        if local(first) {
            drawn.retain(local);
        } else {
            // Stable, so both parts keep the order that was drawn.
            drawn.sort_by_key(local);
        }
    }
    drawn
}

/// The place of one of them, by weight; of the first where none has any.
fn draw(left: &[&RouteTarget], random: u64) -> usize {
    let total: u64 = left.iter().map(|it| u64::from(it.weight)).sum();
    // As even as 64 bits over a total of at most 2^24 can be.
    let point = (u128::from(random) * u128::from(total)) >> 64;
    let mut passed = 0_u128;
    left.iter()
        .position(|it| {
            passed += u128::from(it.weight);
            point < passed
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Targets named by their places, with these weights; those of an even place are on this host.
    fn route(weights: &[u32]) -> Vec<RouteTarget> {
        let targets = weights.iter().enumerate().map(|(at, weight)| RouteTarget {
            target: Target {
                provider: "p".parse().unwrap(),
                model: at.to_string(),
            },
            weight: *weight,
            context: None,
        });
        targets.collect()
    }

    fn place(target: &Target) -> usize {
        target.model.parse().unwrap()
    }

    fn local(target: &Target) -> bool {
        place(target).is_multiple_of(2)
    }

    #[test]
    fn by_order_they_are_asked_as_they_are_listed() {
        let drawn = order(
            &route(&[1, 9, 5]),
            Select::Order,
            false,
            |_| true,
            local,
            || 7,
        );
        assert_eq!(drawn.iter().map(place).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn each_comes_first_as_often_as_its_weight_says() {
        let (route, steps) = (route(&[1, 0, 6, 3]), 10_000_u64);
        let mut first = [0; 4];
        for step in 0..steps {
            // Evenly over all that there can be.
            let random = step * (u64::MAX / steps);
            let drawn = order(&route, Select::Weight, false, |_| true, local, || random);
            first[place(&drawn[0])] += 1;
        }
        for (seen, expected) in first.into_iter().zip([1_000_i32, 0, 6_000, 3_000]) {
            assert!((seen - expected).abs() <= 1, "{first:?}");
        }
    }

    proptest! {
        #[test]
        fn no_target_elsewhere_follows_one_on_this_host_unless_it_may(
            weights in prop::collection::vec(0_u32..9, 1..8),
            by_weight: bool,
            randoms in prop::collection::vec(any::<u64>(), 8),
        ) {
            let select = if by_weight { Select::Weight } else { Select::Order };
            let mut random = randoms.into_iter().cycle();
            let drawn = order(&route(&weights), select, true, |_| true, local, || random.next().unwrap());
            prop_assert!(!drawn.is_empty());
            prop_assert!(drawn.is_sorted_by_key(local), "{drawn:?}");
        }

        #[test]
        fn everybody_who_may_be_asked_is_in_the_order_once(
            weights in prop::collection::vec(0_u32..9, 1..8),
            refused in prop::collection::vec(any::<bool>(), 8),
            randoms in prop::collection::vec(any::<u64>(), 8),
        ) {
            let mut random = randoms.into_iter().cycle();
            let may = |target: &Target| !refused[place(target)];
            let drawn = order(&route(&weights), Select::Weight, false, may, local, || random.next().unwrap());
            let mut places: Vec<_> = drawn.iter().map(place).collect();
            places.sort_unstable();
            let expected: Vec<_> = (0..weights.len()).filter(|at| !refused[*at]).collect();
            prop_assert_eq!(places, expected);
        }
    }
}
