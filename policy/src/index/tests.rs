//! That what is left out could not have matched.

use proptest::{prelude::*, sample::select};
use serde_json::json;

use crate::{
    facts::{self, Fact},
    grant::{self, Like},
    judge::{Facts, Principal, weigh},
    plan::{Operation, Plan, ToolArguments},
    question::Question,
    rules::Rules,
    words::{Digest, Role, Taint, TaintSet, ToolClass},
};

pub(crate) const NOW: u64 = 1_795_478_400_000;
const HOUR: u64 = 3_600_000;

const PATHS: [&str; 8] = [
    "a", "a/b", "a/b/c", "a/c", "b/a/b", "ab/c", "a/b*c/d", "../a",
];
const AGENTS: [&str; 2] = ["clerk", "cook"];

/// What a rule or a grant of somebody else's making may demand of a call of a tool.
const DEMANDS: [&str; 12] = [
    "when { true }",
    "when { context.approved }",
    "when { context.risk == \"high\" && context.agent == \"clerk\" }",
    "when { context has path && context.path like \"a/*\" }",
    "when { context has path && (context.path like \"a/b/*\" || context.path == \"b/a/b\") }",
    "when { context has path && context.path like \"*b\" && context.agent == \"cook\" }",
    "when { context has path && context.path like \"a/*/c*\" }",
    "when { context has path && context.path like \"a*\" }",
    "when { context has path } when { context has path && context.path == \"a\" }",
    "unless { context has path && context.path like \"a/*\" }",
    "when { !(context has path && context.path == \"a\") }",
    "when { context.untrusted } unless { context has path && context.path == \"a/b\" }",
];

/// Something to judge.
pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    let class = select(vec![
        ToolClass::ReadPrivate,
        ToolClass::WriteDestructive,
        ToolClass::Egress,
        ToolClass::Exec,
        ToolClass::Admin,
    ]);
    let (agent, tool, path) = (
        select(&AGENTS[..]),
        select(&["write", "read"][..]),
        prop::option::of(select(&PATHS[..])),
    );
    (agent, tool, class, path, 0..2_u8, 0..8_u8).prop_map(
        |(agent, tool, class, path, text, kind)| {
            let mut arguments = serde_json::Map::from_iter([("text".to_owned(), json!(text))]);
            arguments.extend(path.map(|path| ("path".to_owned(), json!(path))));
            let operation = if kind == 0 {
                Operation::SandboxRun(arguments)
            } else {
                Operation::ToolCall(ToolArguments {
                    skill: "files".parse().unwrap(),
                    skill_digest: Digest::of(b"files"),
                    tool: tool.into(),
                    class,
                    arguments,
                    net: None,
                })
            };
            Plan {
                agent: agent.parse().unwrap(),
                session: None,
                operation,
            }
        },
    )
}

pub(crate) fn known() -> impl Strategy<Value = Facts> {
    let taint = select(vec![Taint::User, Taint::Operator, Taint::Model, Taint::Web]);
    let role = select(vec![Role::User, Role::Approver, Role::Admin]);
    (1000..1002_u32, role, taint).prop_map(|(uid, role, taint)| Facts {
        principal: Principal { uid, role },
        taint: TaintSet::of(taint),
        circumstances: crate::Circumstances::default(),
        now_ms: NOW,
    })
}

/// Rules of a file, which may be about anything.
pub(crate) fn rule() -> impl Strategy<Value = String> {
    let scopes = select(vec![
        "principal, action, resource",
        "principal, action == Action::\"tool_call\", resource",
        "principal == User::\"1000\", action == Action::\"tool_call\", resource",
        "principal, action in [Action::\"tool_call\", Action::\"chat\"], resource",
        "principal, action == Action::\"tool_call\", resource in Skill::\"files\"",
        "principal == User::\"1001\", action == Action::\"tool_call\", resource == Tool::\"files/read\"",
        "principal in Role::\"approver\", action == Action::\"sandbox_run\", resource",
        "principal, action == Action::\"chat\", resource",
    ]);
    (prop::bool::ANY, scopes, select(&DEMANDS[..])).prop_map(|(permit, scope, demand)| {
        let effect = if permit { "permit" } else { "forbid" };
        let demand = if scope.contains("tool_call\",") {
            demand
        } else {
            "when { principal.uid == 1000 }"
        };
        format!("{effect} ({scope}) {demand};")
    })
}

/// A grant: what pawd writes, or what looks a little like it.
pub(crate) fn granted() -> impl Strategy<Value = String> {
    let foreign = (
        prop::bool::weighted(0.8),
        1000..1002_u32,
        select(&["write", "read"][..]),
        select(&DEMANDS[..]),
    )
        .prop_map(|(permit, uid, tool, demand)| {
            let effect = if permit { "permit" } else { "forbid" };
            format!("@id(\"ID\") {effect} (principal == User::\"{uid}\", action == Action::\"tool_call\", resource == Tool::\"files/{tool}\") {demand};")
        });
    let ours = (plan(), known()).prop_filter_map("there is no grant for it", |(plan, facts)| {
        let like = Like {
            plan: &plan,
            requester: &facts.principal,
            taint: &facts.taint,
            circumstances: &crate::Circumstances::default(),
            risk: weigh(&plan, &facts.taint).0,
        };
        grant::text("ID", like, NOW, NOW + HOUR).ok()
    });
    prop_oneof![1 => foreign, 3 => ours]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_index_says_what_all_policies_together_say(
        rules in prop::collection::vec(rule(), 1..8),
        grants in prop::collection::vec(granted(), 0..12),
        asked in prop::collection::vec((plan(), known()), 24),
    ) {
        let numbered = rules.iter().enumerate();
        let text: String = numbered.map(|(at, rule)| format!("@id(\"r{at}\") {rule}\n")).collect();
        let rules = Rules::parse(&[("rules".into(), text.clone())]);
        let rules = rules.map_err(|faults| TestCaseError::fail(format!("{faults:?}\n{text}")))?;
        let numbered = grants.iter().enumerate();
        let grants: Vec<_> = numbered.map(|(at, text)| text.replace("ID", &format!("g{at}"))).collect();
        let rules = rules.with_grants(grants.iter().map(String::as_str));
        let rules = rules.map_err(|faults| TestCaseError::fail(format!("{faults:?}\n{grants:?}")))?;
        for (plan, facts) in asked {
            let known = facts::about(&plan, &facts, weigh(&plan, &facts.taint).0);
            let question = Question::about(&rules, &plan, &facts.principal, known).unwrap();
            for approved in [false, true] {
                let more = [("approved", Fact::Truth(approved))];
                prop_assert_eq!(
                    question.ask(&rules, &more),
                    question.ask_all(&rules, &more),
                    "{:?} {:?}\n{}\n{:?}", plan, facts, text, grants
                );
            }
        }
    }
}

/// Beside very many grants, a question is judged by those alone that name its directory, its path or its arguments.
#[test]
fn of_many_grants_those_alone_are_judged_that_name_what_is_asked() {
    let write = |path: &str| Plan {
        agent: "clerk".parse().unwrap(),
        session: None,
        operation: Operation::ToolCall(ToolArguments {
            skill: "files".parse().unwrap(),
            skill_digest: Digest::of(b"files"),
            tool: "write".into(),
            class: ToolClass::WriteDestructive,
            arguments: serde_json::Map::from_iter([("path".to_owned(), path.into())]),
            net: None,
        }),
    };
    let requester = Principal {
        uid: 1000,
        role: Role::User,
    };
    let taint = TaintSet::of(Taint::User);
    let texts: Vec<String> = (0..100)
        .flat_map(|at| [format!("d{at}/x"), format!("f{at}")])
        .map(|path| {
            let like = Like {
                plan: &write(&path),
                requester: &requester,
                taint: &taint,
                circumstances: &crate::Circumstances::default(),
                risk: crate::Risk::High,
            };
            grant::text(&path, like, NOW, NOW + HOUR).unwrap()
        })
        .collect();
    let rules = Rules::shipped().unwrap();
    let rules = rules.with_grants(texts.iter().map(String::as_str)).unwrap();
    let check = |path: &str, expected: usize| {
        let facts = Facts {
            principal: requester.clone(),
            taint: taint.clone(),
            circumstances: crate::Circumstances::default(),
            now_ms: NOW,
        };
        let known = facts::about(&write(path), &facts, crate::Risk::High);
        let question = Question::about(&rules, &write(path), &requester, known).unwrap();
        let judged = question.candidates(&rules).skip(1);
        let all: usize = judged.map(|set| set.policies().count()).sum();
        assert_eq!(all, expected, "{path}");
    };
    check("d7/y", 1);
    check("d7/deep/er/y", 1);
    check("f9", 1);
    check("d7", 0);
    check("other/y", 0);
}

/// `action in` means what it names: there is no group of actions that could stand for others.
#[test]
fn no_action_is_in_another_one() {
    let (schema, _) = cedar_policy::Schema::from_cedarschema_str(crate::rules::SCHEMA).unwrap();
    assert_eq!(schema.action_groups().count(), 0);
}
