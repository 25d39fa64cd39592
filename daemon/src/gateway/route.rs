//! In which order the targets of a route are asked: decided once, when a question is taken in, and written into its plan.

use paw_llm::{ChatRequest, Message, Part};
use paw_policy::{Digest, Target};

use super::price::{Price, Tokens};
use crate::config::routes::{RouteTarget, Select};

/// The question and the answer by which prices are compared: three parts are read for one that is written.
const COMPARED: Tokens = Tokens {
    input: 3_000,
    output: 1_000,
};

/// What a target has to be able to do for a question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Hold so many tokens, as they are estimated.
    pub tokens: u64,
    /// Call tools.
    pub tools: bool,
    /// See pictures.
    pub vision: bool,
}

impl Needs {
    /// Of a question.
    #[must_use]
    pub fn of(request: &ChatRequest) -> Self {
        let shows = |message: &Message| match message {
            Message::User(parts) => parts.iter().any(|part| matches!(part, Part::Image(_))),
            Message::System(_) | Message::Assistant { .. } | Message::Tool(_) => false,
        };
        let answer = request.max_tokens.map_or(0, u64::from);
        Self {
            tokens: Tokens::of(request).input.saturating_add(answer),
            tools: !request.tools.is_empty(),
            vision: request.messages.iter().any(shows),
        }
    }

    /// Whether a target is known not to do it. What nobody said of one, it may be able to do.
    #[must_use]
    pub fn exclude(&self, target: &RouteTarget) -> bool {
        target.context.is_some_and(|most| most < self.tokens)
            || (self.tools && target.tools == Some(false))
            || (self.vision && target.vision == Some(false))
    }
}

/// The rank of a target by what it costs; the lowest is asked first, and one whose price is not known after those whose is.
#[must_use]
pub fn rank_of_cost(price: &Price) -> u64 {
    let cost = price.cost(&paw_llm::Usage::default(), COMPARED) / 2;
    if price.known { cost } else { cost | 1 << 63 }
}

/// The rank of a target by how soon its answers begin, in milliseconds; one that nobody has heard is tried first.
#[must_use]
pub fn rank_of_pace(ms: Option<f64>) -> u64 {
    // Numbers that are not negative are ordered as their bits are.
    ms.map_or(0, |ms| ms.max(0.0).to_bits())
}

/// The rank of an arm for a conversation: drawn by weight, and the same whenever and wherever it is asked for.
///
/// Each arm draws for itself and the lowest wins, so when the weight of one changes, only conversations that it wins or loses move;
/// the others stay where they are. The route's name keys the draw: a conversation that is early in one route is not so in all.
#[must_use]
pub fn rank_of_arm(route: &str, session: &str, arm: &RouteTarget) -> u64 {
    // None of the three has a zero byte, so no two draws are of the same bytes.
    let target = &arm.target;
    let drawn = [route, session, target.provider.as_str(), &target.model].join("\0");
    let digest = Digest::of(drawn.as_bytes());
    let bits = digest.as_bytes().iter().take(8);
    let bits = bits.fold(0_u64, |all, byte| all << 8 | u64::from(*byte)) >> 12;
    // 52 bits, evenly between 0 and 1 and neither of them.
    let even = (bits as f64 + 0.5) / (1_u64 << 52) as f64;
    // The time until an event that happens `weight` times as often: who has the earliest is drawn by weight.
    (-even.ln() / f64::from(arm.weight)).to_bits()
}

/// The targets in the order in which they are asked, of those that `may` be asked at all.
///
/// By weight, each further one is drawn of those that are left, so that the share of one that fails goes to the others by their
/// weights; `random` is uniform over all of `u64`. Otherwise they are asked by their `rank`, the lowest first, and those of the same rank
/// as they are listed. Where the question `stays` on the host that it came to, none elsewhere follows one on this host: of a drawn order, those
/// elsewhere come first, unless one on this host was drawn before them; then they are left out.
pub fn order(
    targets: &[RouteTarget],
    (select, stays): (Select, bool),
    may: impl Fn(&RouteTarget) -> bool,
    local: impl Fn(&Target) -> bool,
    rank: impl Fn(&RouteTarget) -> u64,
    mut random: impl FnMut() -> u64,
) -> Vec<Target> {
    let mut left: Vec<&RouteTarget> = targets.iter().filter(|it| may(it)).collect();
    if select != Select::Weight {
        // Stable, and each rank is asked for once: what it is made from may change meanwhile.
        left.sort_by_cached_key(|it| rank(it));
    }
    let mut drawn: Vec<Target> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let at = match select {
            Select::Weight => draw(&left, random()),
            Select::Order | Select::Latency | Select::Cost | Select::Capability | Select::Ab => 0,
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
            tools: None,
            vision: None,
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
            (Select::Order, false),
            |_| true,
            local,
            |_| 0,
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
            let by = (Select::Weight, false);
            let drawn = order(&route, by, |_| true, local, |_| 0, || random);
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
            select in prop::sample::select(Select::ALL.to_vec()),
            ranks in prop::collection::vec(0_u64..4, 8),
            randoms in prop::collection::vec(any::<u64>(), 8),
        ) {
            let mut random = randoms.into_iter().cycle();
            let drawn = order(
                &route(&weights), (select, true), |_| true, local,
                |it| ranks[place(&it.target)], || random.next().unwrap(),
            );
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
            let may = |it: &RouteTarget| !refused[place(&it.target)];
            let by = (Select::Weight, false);
            let drawn = order(&route(&weights), by, may, local, |_| 0, || random.next().unwrap());
            let mut places: Vec<_> = drawn.iter().map(place).collect();
            places.sort_unstable();
            let expected: Vec<_> = (0..weights.len()).filter(|at| !refused[*at]).collect();
            prop_assert_eq!(places, expected);
        }
    }

    fn by_rank(ranks: &[u64]) -> Vec<usize> {
        let drawn = order(
            &route(&vec![1; ranks.len()]),
            (Select::Cost, false),
            |_| true,
            local,
            |it| ranks[place(&it.target)],
            || 0,
        );
        drawn.iter().map(place).collect()
    }

    #[test]
    fn lowest_rank_is_asked_first_and_equal_ones_as_they_are_listed() {
        assert_eq!(by_rank(&[5, 1, 5, 0]), [3, 1, 0, 2]);
    }

    #[test]
    fn cheapest_that_is_known_comes_first() {
        let price = |known, input, output| Price {
            known,
            rates: crate::config::prices::Rates {
                input,
                cached: input,
                output,
            },
        };
        let ranks = [
            price(true, 2_000_000, 8_000_000),
            price(false, 0, 0),
            price(true, 150_000, 600_000),
            price(false, u64::from(u32::MAX), 1),
            price(true, 0, 0),
        ]
        .map(|it| rank_of_cost(&it));
        assert_eq!(by_rank(&ranks), [4, 2, 0, 1, 3]);
    }

    #[test]
    fn quickest_comes_first_after_those_that_nobody_has_heard() {
        let ranks = [Some(250.0), Some(0.5), None, Some(9_000.0)].map(rank_of_pace);
        assert_eq!(by_rank(&ranks), [2, 1, 0, 3]);
    }

    #[test]
    fn target_that_is_known_not_to_do_it_is_left_out() {
        let target = |context, tools, vision| RouteTarget {
            context,
            tools,
            vision,
            ..route(&[1]).remove(0)
        };
        let needs = Needs {
            tokens: 100,
            tools: true,
            vision: true,
        };
        for (target, out) in [
            (target(None, None, None), false),
            (target(Some(100), Some(true), Some(true)), false),
            (target(Some(99), None, None), true),
            (target(None, Some(false), None), true),
            (target(None, None, Some(false)), true),
        ] {
            assert_eq!(needs.exclude(&target), out, "{target:?}");
            assert!(
                !Needs::default().exclude(&target),
                "nothing is needed: {target:?}"
            );
        }
    }

    #[test]
    fn what_a_question_needs_is_read_from_it() {
        let mut request = ChatRequest::new("m", vec![Message::user("hello")]);
        let plain = Needs::of(&request);
        assert!(!plain.tools && !plain.vision && plain.tokens > 0);
        request.max_tokens = Some(500);
        request.tools = [paw_llm::Tool {
            name: "t".into(),
            description: String::new(),
            parameters: (&serde_json::json!({})).into(),
        }]
        .into();
        let image = paw_llm::Image {
            format: paw_llm::ImageFormat::Png,
            base64: String::new(),
        };
        request
            .messages
            .push(Message::User(vec![Part::Image(image)]));
        let more = Needs::of(&request);
        assert!(more.tools && more.vision && more.tokens > plain.tokens + 500);
    }

    /// The arm of each of so many conversations.
    fn arms(weights: &[u32], conversations: usize) -> Vec<usize> {
        let arms = route(weights);
        let arm = |session: usize| {
            let session = format!("conversation {session}");
            let first = arms
                .iter()
                .min_by_key(|arm| rank_of_arm("main", &session, arm));
            place(&first.unwrap().target)
        };
        (0..conversations).map(arm).collect()
    }

    #[test]
    fn conversations_are_shared_by_weight_and_few_move_when_one_changes() {
        let (many, steps) = (6_000, [0_usize, 1, 2, 3]);
        let before = arms(&[1, 0, 6, 3], many);
        assert_eq!(before, arms(&[1, 0, 6, 3], many), "each stays");
        let share =
            |all: &[usize], arm| all.iter().filter(|it| **it == arm).count() as f64 / many as f64;
        for (arm, expected) in steps.into_iter().zip([0.1, 0.0, 0.6, 0.3]) {
            assert!((share(&before, arm) - expected).abs() < 0.02, "{arm}");
        }
        // Twice the share of the last one: all that move, move to it.
        let after = arms(&[1, 0, 6, 6], many);
        let moved: Vec<_> = before
            .iter()
            .zip(&after)
            .filter(|(one, other)| one != other)
            .collect();
        assert!(moved.iter().all(|(_, to)| **to == 3));
        let grown = share(&after, 3) - share(&before, 3);
        assert!((moved.len() as f64 / many as f64 - grown).abs() < 1e-9);
    }

    #[test]
    fn routes_draw_independently() {
        let arms = route(&[1, 1]);
        let first = |route: &str, session: usize| {
            let session = session.to_string();
            rank_of_arm(route, &session, &arms[0]) < rank_of_arm(route, &session, &arms[1])
        };
        let same = (0..2_000)
            .filter(|at| first("one", *at) == first("other", *at))
            .count();
        assert!((800..1_200).contains(&same), "{same}");
    }
}
