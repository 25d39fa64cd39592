//! That what is kept is what would be said.

use proptest::{prelude::*, sample::select};

use super::*;
use crate::{
    index::tests::{NOW, granted, known, plan, rule},
    judge::{Facts, judge},
    rules::Rules,
};

const HOUR: u64 = 3_600_000;

/// What a rule may demand of the time, however it is written.
const TIMED: [&str; 5] = [
    "when { context.hour >= 8 && context.hour < 18 }",
    "when { context[\"weekd\\u{61}y\"] < 6 }",
    "unless { context has now && context.now > 1795500000000 }",
    "when { context.untrusted || context[\"now\"] < 1795500000000 }",
    "when { true } unless { context.approved || context.hour == 13 }",
];

fn timed() -> impl Strategy<Value = String> {
    let scopes = select(vec![
        "principal, action == Action::\"tool_call\", resource",
        "principal, action == Action::\"sandbox_run\", resource",
        "principal == User::\"1001\", action in [Action::\"tool_call\", Action::\"chat\"], resource",
    ]);
    (prop::bool::ANY, scopes, select(&TIMED[..])).prop_map(|(permit, scope, demand)| {
        let effect = if permit { "permit" } else { "forbid" };
        format!("{effect} ({scope}) {demand};")
    })
}

fn parsed(rules: &[String], grants: &[String]) -> Rules {
    let numbered = rules.iter().enumerate();
    let text: String = numbered
        .map(|(at, rule)| format!("@id(\"r{at}\") {rule}\n"))
        .collect();
    let rules = Rules::parse(&[("rules".into(), text)]).unwrap();
    let numbered = grants.iter().enumerate();
    let grants: Vec<_> = numbered
        .map(|(at, text)| text.replace("ID", &format!("g{at}")))
        .collect();
    rules
        .with_grants(grants.iter().map(String::as_str))
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_was_said_before_is_what_is_said(
        rules in prop::collection::vec(prop_oneof![2 => rule(), 1 => timed()], 1..6),
        grants in prop::collection::vec(granted(), 0..3),
        asked in prop::collection::vec((plan(), known(), [0..48_u64, 0..48]), 12),
    ) {
        let rules = parsed(&rules, &grants);
        for (plan, facts, times) in asked {
            // The same thing at one time and at another.
            for hours in times {
                let facts = Facts { now_ms: NOW + hours * HOUR, ..facts.clone() };
                let anew = judge(&rules.clone(), &plan, &facts).unwrap();
                prop_assert_eq!(judge(&rules, &plan, &facts).unwrap(), anew, "{:?} {:?}", plan, facts);
            }
        }
    }
}

fn chat(text: &str) -> Plan {
    let text = format!(
        r#"{{"agent":"default","session":null,"operation":{{"chat":{{"text":"{text}","provider":"local","model":"m"}}}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn facts(uid: u32, now_ms: u64) -> Facts {
    Facts {
        principal: Principal {
            uid,
            role: crate::Role::User,
        },
        taint: crate::TaintSet::default(),
        circumstances: crate::Circumstances::default(),
        now_ms,
    }
}

#[test]
fn equal_questions_are_one_whatever_is_said_in_them_and_when() {
    let rules = Rules::shipped().unwrap();
    let ask = |text: &str, uid, now| judge(&rules, &chat(text), &facts(uid, now)).unwrap();
    let first = ask("hello", 1000, NOW);
    let later = ask("something else", 1000, NOW + 7 * HOUR);
    assert_eq!(rules.known.len(), 1);
    assert_eq!(
        (later.decision, &later.rules),
        (first.decision, &first.rules)
    );
    // Each plan has its own digest, which is not kept.
    assert_ne!(later.digest, first.digest);
    ask("hello", 1001, NOW);
    assert_eq!(rules.known.len(), 2);
}

#[test]
fn no_more_is_kept_than_the_bound() {
    let rules = Rules::shipped().unwrap();
    for uid in 0..3 * u32::try_from(MOST).unwrap() {
        judge(&rules, &chat("hello"), &facts(uid, NOW)).unwrap();
        assert!(rules.known.len() <= MOST);
    }
    let long = vec![("agent", Fact::Text("x".repeat(LONGEST)))];
    let principal = facts(1, NOW).principal;
    assert_eq!(question(&chat("hello"), &principal, &long, false), None);
}

#[test]
fn no_two_questions_have_the_same_text() {
    let principal = facts(1, NOW).principal;
    let text =
        |facts: &[(&'static str, Fact)]| question(&chat("hello"), &principal, facts, true).unwrap();
    let texts = |all: &[&str]| Fact::Texts(all.iter().map(|it| (*it).to_owned()).collect());
    let all = [
        text(&[("taint", texts(&["ab"]))]),
        text(&[("taint", texts(&["a", "b"]))]),
        text(&[("taint", texts(&["a", "b", ""]))]),
        text(&[("taint", texts(&[])), ("via", Fact::Text("a".into()))]),
        text(&[("taint", Fact::Text("a".into()))]),
        text(&[("taint", Fact::Truth(true))]),
        text(&[("taint", Fact::Number(1)), ("via", Fact::Number(2))]),
        text(&[("taint", Fact::Number(12))]),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
}
