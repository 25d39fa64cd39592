//! Every class of tool with every set of labels, and what labels can do at all: make things stricter.

use std::sync::LazyLock;

use proptest::{prelude::*, sample::select};

use super::*;
use crate::Ceiling;

const CLASSES: [ToolClass; 8] = [
    ToolClass::ReadPublic,
    ToolClass::ReadPrivate,
    ToolClass::WriteLocalReversible,
    ToolClass::WriteDestructive,
    ToolClass::Egress,
    ToolClass::Money,
    ToolClass::Exec,
    ToolClass::Admin,
];

const LABELS: [Taint; 9] = [
    Taint::Operator,
    Taint::User,
    Taint::Channel,
    Taint::Tool,
    Taint::Web,
    Taint::Model,
    Taint::Suspicious,
    Taint::Private,
    Taint::Secret,
];

/// Those of the labels whose bit is set.
fn set(bits: u16) -> Vec<Taint> {
    let is_in = |(number, label): (usize, &Taint)| (bits >> number & 1 == 1).then_some(*label);
    LABELS.iter().enumerate().filter_map(is_in).collect()
}

/// Rules R4 and R7 as they are written, for what ships: said here again and not asked of the code that is tested.
fn written(class: ToolClass, labels: &[Taint]) -> Decision {
    use Taint::{Channel, Model, Operator, Secret, Suspicious, Tool, User, Web};
    let any = |of: &[Taint]| labels.iter().any(|label| of.contains(label));
    let trusted = any(&[Operator, User]) && !any(&[Channel, Tool, Web, Model, Suspicious]);
    match class {
        ToolClass::ReadPublic | ToolClass::ReadPrivate if any(&[Suspicious]) => Decision::Ask,
        ToolClass::ReadPublic | ToolClass::ReadPrivate => Decision::Allow,
        ToolClass::Admin if !trusted => Decision::Deny,
        ToolClass::Egress | ToolClass::Money if any(&[Secret]) => Decision::Deny,
        ToolClass::WriteLocalReversible
        | ToolClass::WriteDestructive
        | ToolClass::Egress
        | ToolClass::Money
        | ToolClass::Exec
        | ToolClass::Admin => Decision::Ask,
    }
}

/// The shipped rules let everybody call what a user may, so a user stands for all; of what is an administrator's, each is tried.
const fn roles(class: ToolClass) -> &'static [Role] {
    match class {
        ToolClass::Admin => &[Role::User, Role::Approver, Role::Admin],
        ToolClass::ReadPublic
        | ToolClass::ReadPrivate
        | ToolClass::WriteLocalReversible
        | ToolClass::WriteDestructive
        | ToolClass::Egress
        | ToolClass::Money
        | ToolClass::Exec => &[Role::User],
    }
}

#[test]
fn every_class_with_every_set_of_labels_is_judged_as_it_is_written() {
    let rules = Rules::shipped().unwrap();
    let mut judged = 0;
    for class in CLASSES {
        for bits in 0..1 << LABELS.len() {
            let labels = set(bits);
            for role in roles(class) {
                let mut facts = facts(*role, Taint::User);
                facts.taint = labelled(&labels);
                let verdict = judge(&rules, &tool(class), &facts).unwrap();
                let expected = written(class, &labels);
                assert_eq!(verdict.decision, expected, "{class} {labels:?} {role}");
                judged += 1;
            }
        }
    }
    assert_eq!(judged, (8 + 2) * 512);
}

const fn strictness(decision: Decision) -> u8 {
    match decision {
        Decision::Allow => 0,
        Decision::Ask => 1,
        Decision::Deny => 2,
    }
}

/// What ships, and what hosts add to it to be asked less. Read once: Cedar takes long for it where it is not optimised.
static RULES: LazyLock<Vec<Rules>> = LazyLock::new(|| {
    let named = r#"@id("named") permit (principal, action == Action::"tool_call", resource) when { context.named && resource.class == "egress" };"#;
    let clean = r#"@id("clean") permit (principal, action == Action::"tool_call", resource) when { !context.untrusted };"#;
    vec![
        Rules::shipped().unwrap(),
        with_rule(named),
        with_rule(clean),
        one_operator(),
    ]
});

fn plans() -> impl Strategy<Value = Plan> {
    let of_tools = select(CLASSES.to_vec()).prop_map(tool);
    let others = select(vec![chat(), run(), reach(), install(), switch()]);
    prop_oneof![3 => of_tools, 1 => others]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Rules R2 and R7: signs of an attack, further data from outside, and what is more confidential make nothing allowed that was not,
    /// and nothing asked for that was denied; nor is anything weighed as less of a risk.
    #[test]
    fn a_further_label_makes_nothing_less_strict(
        plan in plans(),
        bits in 0_u16..512,
        // Who vouches for data is no such label.
        more in select(LABELS[2..].to_vec()),
        role in select(vec![Role::User, Role::Approver, Role::Admin]),
        (named, leaves_host) in any::<(bool, bool)>(),
    ) {
        let before = labelled(&set(bits));
        // What nobody says the origin of is critical, and a label that says it makes that known.
        prop_assume!(!before.is_of_nobody());
        let after = before.clone().with(&TaintSet::of(more));
        prop_assert!(weigh(&plan, &after).0 >= weigh(&plan, &before).0);
        for rules in RULES.iter() {
            let judged = |taint: &TaintSet| {
                let mut facts = facts(role, Taint::User);
                facts.taint = taint.clone();
                facts.circumstances.named = named;
                facts.circumstances.leaves_host = leaves_host;
                judge(rules, &plan, &facts).unwrap().decision
            };
            let (was, is) = (judged(&before), judged(&after));
            prop_assert!(
                strictness(is) >= strictness(was),
                "{was:?} {before:?}, {is:?} with {more}: {plan:?}"
            );
        }
    }

    /// Rule R2: what was put together has every label of every part, in whatever order, and is as confidential as the most confidential.
    #[test]
    fn labels_only_accumulate(parts in proptest::collection::vec(0_u16..512, 0..12)) {
        let sets: Vec<TaintSet> = parts.iter().map(|bits| labelled(&set(*bits))).collect();
        let mut joined = TaintSet::default();
        for part in &sets {
            let before = joined.clone();
            joined = joined.with(part);
            prop_assert!(before.iter().chain(part.iter()).all(|label| joined.has(label)));
            prop_assert!(Ceiling::over(&joined) >= Ceiling::over(&before).max(Ceiling::over(part)));
        }
        let backwards = sets.iter().rev().fold(TaintSet::default(), |all, part| all.with(part));
        prop_assert_eq!(&joined, &backwards);
        let either = parts.iter().fold(0, |all, bits| all | bits);
        prop_assert_eq!(&joined, &labelled(&set(either)));
        for ceiling in Ceiling::ALL {
            let admits = sets.iter().all(|part| ceiling.admits(part));
            prop_assert_eq!(ceiling.admits(&joined), admits);
        }
    }
}

/// Row P2: what a provider may be sent is what is not above its ceiling.
#[test]
fn ceiling_admits_what_is_not_above_it() {
    for (labels, least) in [
        (&[][..], Ceiling::Public),
        (
            &[Taint::User, Taint::Web, Taint::Suspicious],
            Ceiling::Public,
        ),
        (&[Taint::User, Taint::Private], Ceiling::Private),
        (&[Taint::Secret], Ceiling::Secret),
        (&[Taint::Private, Taint::Secret], Ceiling::Secret),
    ] {
        for ceiling in Ceiling::ALL {
            let admits = ceiling.admits(&labelled(labels));
            assert_eq!(admits, ceiling >= least, "{ceiling} {labels:?}");
        }
    }
}
