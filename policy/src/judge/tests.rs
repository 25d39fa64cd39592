//! What the shipped rules say, what they can ask about, and who may approve.

use super::*;
use crate::{
    plan::{ChatArguments, ToolArguments},
    words::Name,
};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn tool(class: ToolClass) -> Plan {
    Plan {
        agent: name("default"),
        session: None,
        operation: Operation::ToolCall(ToolArguments {
            skill: name("files"),
            skill_digest: Digest::of(b"files"),
            tool: "write".into(),
            class,
            arguments: serde_json::Map::from_iter([("path".to_owned(), "a".into())]),
            net: None,
        }),
    }
}

fn chat() -> Plan {
    let operation = Operation::Chat(ChatArguments {
        text: "hi".into(),
        provider: name("local"),
        model: "m".into(),
        route: None,
        fallbacks: Vec::new(),
        local_only: false,
        places: std::collections::BTreeMap::new(),
        schema: None,
        images: Vec::new(),
    });
    Plan {
        agent: name("default"),
        session: None,
        operation,
    }
}

fn run() -> Plan {
    Plan {
        agent: name("default"),
        session: None,
        operation: Operation::SandboxRun(serde_json::Map::new()),
    }
}

fn reach() -> Plan {
    Plan {
        agent: name("default"),
        session: None,
        operation: Operation::ApiCall(crate::plan::ApiArguments {
            sandbox: "5f0c7b1e5f0c7b1e".into(),
            run: "01a20b7a-4cf4-761d-8c49-e013a0f029fe".into(),
            rule: "api.example.com:443".into(),
        }),
    }
}

fn install() -> Plan {
    Plan {
        agent: name("default"),
        session: None,
        operation: Operation::SkillChange(crate::plan::SkillArguments {
            change: crate::plan::SkillChange::Install,
            skill: name("more"),
            version: "1".into(),
            digest: Digest::of(b"more"),
            replaces: None,
            rights: serde_json::Map::new(),
            difference: Vec::new(),
        }),
    }
}

fn facts(role: Role, taint: Taint) -> Facts {
    Facts {
        principal: Principal { uid: 1000, role },
        taint: TaintSet::of(taint),
        now_ms: 1_795_478_400_000,
    }
}

fn check(plan: &Plan, role: Role, taint: Taint, decision: Decision, risk: Risk, rules: &[&str]) {
    let verdict = judge(&Rules::shipped().unwrap(), plan, &facts(role, taint)).unwrap();
    assert_eq!(
        (verdict.decision, verdict.risk),
        (decision, risk),
        "{plan:?} {role} {taint}: {:?}",
        verdict.rules
    );
    assert_eq!(verdict.rules, rules, "{plan:?} {role} {taint}");
}

#[test]
fn skills_change_only_as_an_administrator_asks_and_a_person_approves() {
    use Decision::{Ask, Deny};
    let asks = &["ask-before-skills-change"][..];
    check(
        &install(),
        Role::Admin,
        Taint::Operator,
        Ask,
        Risk::Critical,
        asks,
    );
    for (role, taint) in [
        (Role::User, Taint::User),
        (Role::Approver, Taint::User),
        (Role::Admin, Taint::Tool),
        (Role::Admin, Taint::Model),
    ] {
        check(&install(), role, taint, Deny, Risk::Critical, &[]);
    }
}

#[test]
fn shipped_policy_judges_as_documented() {
    use Decision::{Allow, Ask, Deny};
    check(
        &chat(),
        Role::User,
        Taint::User,
        Allow,
        Risk::Low,
        &["chat"],
    );
    check(
        &tool(ToolClass::ReadPrivate),
        Role::User,
        Taint::User,
        Allow,
        Risk::Medium,
        &["read"],
    );
    check(
        &tool(ToolClass::ReadPrivate),
        Role::User,
        Taint::Web,
        Allow,
        Risk::Medium,
        &["read"],
    );
    check(
        &tool(ToolClass::WriteDestructive),
        Role::User,
        Taint::User,
        Ask,
        Risk::High,
        &["ask-before-effects"],
    );
    check(
        &tool(ToolClass::WriteDestructive),
        Role::Admin,
        Taint::Operator,
        Ask,
        Risk::High,
        &["ask-before-effects"],
    );
    check(
        &tool(ToolClass::Egress),
        Role::Admin,
        Taint::Operator,
        Ask,
        Risk::High,
        &["ask-before-effects"],
    );
    check(
        &tool(ToolClass::Exec),
        Role::User,
        Taint::Web,
        Ask,
        Risk::High,
        &["ask-before-effects"],
    );
    check(
        &tool(ToolClass::Money),
        Role::User,
        Taint::User,
        Ask,
        Risk::Critical,
        &["ask-before-effects"],
    );
    check(
        &tool(ToolClass::Admin),
        Role::User,
        Taint::User,
        Ask,
        Risk::Critical,
        &["ask-before-effects"],
    );
    check(
        &tool(ToolClass::Admin),
        Role::Admin,
        Taint::Channel,
        Deny,
        Risk::Critical,
        &["no-admin-from-untrusted-data"],
    );
    for role in [Role::User, Role::Admin] {
        check(
            &reach(),
            role,
            Taint::Tool,
            Ask,
            Risk::High,
            &["ask-before-reaching-further"],
        );
    }
    check(
        &run(),
        Role::Admin,
        Taint::Operator,
        Allow,
        Risk::High,
        &["operators-run-commands"],
    );
    check(
        &run(),
        Role::Admin,
        Taint::Web,
        Ask,
        Risk::High,
        &["users-ask-to-run-commands"],
    );
    check(
        &run(),
        Role::User,
        Taint::User,
        Ask,
        Risk::High,
        &["users-ask-to-run-commands"],
    );
}

#[test]
fn without_a_rule_everything_is_denied() {
    let rules = Rules::parse(&[(
        "a.cedar".into(),
        r#"@id("never") permit (principal, action, resource) when { false };"#.into(),
    )]);
    for plan in [chat(), run(), tool(ToolClass::ReadPublic)] {
        let verdict = judge(
            rules.as_ref().unwrap(),
            &plan,
            &facts(Role::Admin, Taint::Operator),
        )
        .unwrap();
        assert_eq!((verdict.decision, verdict.rules.len()), (Decision::Deny, 0));
    }
}

#[test]
fn a_question_gives_no_permit_before_its_answer() {
    let (rules, plan) = (Rules::shipped().unwrap(), tool(ToolClass::WriteDestructive));
    let verdict = judge(&rules, &plan, &facts(Role::User, Taint::User)).unwrap();
    assert_eq!(permit(plan, &verdict).unwrap_err(), NotApproved::Unanswered);
}

#[test]
fn an_approval_permits_only_the_plan_it_names() {
    let (rules, plan) = (Rules::shipped().unwrap(), tool(ToolClass::WriteDestructive));
    let asked = facts(Role::User, Taint::User);
    let verdict = judge(&rules, &plan, &asked).unwrap();
    let by = Principal {
        uid: 2000,
        role: Role::Approver,
    };
    let good = Approval {
        digest: verdict.digest,
        by: by.clone(),
        code: false,
        first: None,
    };
    let other = Approval {
        digest: Digest::of(b"another plan"),
        by,
        code: false,
        first: None,
    };
    let ask = |plan: &Plan, approval| {
        permit_approved(&rules, plan.clone(), &verdict, &asked.principal, approval)
    };
    assert_eq!(ask(&plan, &good).unwrap().spend(), plan);
    assert_eq!(ask(&plan, &other).unwrap_err(), NotApproved::OtherDigest);
    assert_eq!(
        ask(&tool(ToolClass::Exec), &good).unwrap_err(),
        NotApproved::OtherPlan
    );
}

fn who(uid: u32, role: Role) -> Principal {
    Principal { uid, role }
}

/// The shipped rules, and those of a host that has one operator.
fn one_operator() -> Rules {
    let files = [crate::rules::DEFAULT, crate::rules::SINGLE_OPERATOR];
    let named = files.map(|text| (Digest::of(text.as_bytes()).to_string(), text.to_owned()));
    Rules::parse(&named).unwrap()
}

#[test]
fn who_may_approve_is_decided_by_policy() {
    use Risk::{Critical, High, Medium};
    use Role::{Admin, Approver, User};
    let (code, seconded) = (
        Factors {
            code: true,
            seconded: false,
        },
        Factors {
            code: false,
            seconded: true,
        },
    );
    let none = Factors::default();
    let check = |rules: &Rules, risk, asker: (u32, Role), approver: (u32, Role), with, yes| {
        let (asker, approver) = (who(asker.0, asker.1), who(approver.0, approver.1));
        assert_eq!(
            may_approve(rules, risk, &asker, &approver, with).ok(),
            yes,
            "{risk} {asker:?} {approver:?} {with:?}"
        );
    };
    let shipped = Rules::shipped().unwrap();
    let shipped = &shipped;
    check(
        shipped,
        High,
        (1, User),
        (2, Approver),
        none,
        Some(Yes::Decides),
    );
    check(shipped, High, (1, User), (1, User), none, None);
    check(shipped, High, (1, User), (2, User), none, None);
    for role in [Approver, Admin] {
        for risk in [Medium, High, Critical] {
            for with in [none, code, seconded] {
                check(shipped, risk, (1, role), (1, role), with, None);
            }
        }
    }
    check(
        shipped,
        Critical,
        (1, User),
        (2, Approver),
        none,
        Some(Yes::OneOfTwo),
    );
    check(
        shipped,
        Critical,
        (1, User),
        (2, Admin),
        none,
        Some(Yes::OneOfTwo),
    );
    check(
        shipped,
        Critical,
        (1, User),
        (2, Approver),
        code,
        Some(Yes::Decides),
    );
    check(
        shipped,
        Critical,
        (1, User),
        (2, Approver),
        seconded,
        Some(Yes::Decides),
    );
    let one = one_operator();
    check(&one, High, (0, Admin), (0, Admin), none, Some(Yes::Decides));
    check(&one, High, (1, Approver), (1, Approver), none, None);
    check(&one, Critical, (0, Admin), (0, Admin), none, None);
    check(
        &one,
        Critical,
        (0, Admin),
        (0, Admin),
        code,
        Some(Yes::Decides),
    );
}

/// An approver who is asked twice is still one person, and a first yes of somebody who may not approve is none.
#[test]
fn two_of_a_critical_action_are_two_who_may_approve_it() {
    let (rules, plan) = (Rules::shipped().unwrap(), tool(ToolClass::Admin));
    let asked = facts(Role::User, Taint::User);
    let verdict = judge(&rules, &plan, &asked).unwrap();
    assert_eq!(verdict.risk, Risk::Critical);
    let check = |first: Option<Principal>, code: bool, permitted: bool| {
        let approval = Approval {
            digest: verdict.digest,
            by: who(2, Role::Approver),
            code,
            first: first.clone(),
        };
        let permit = permit_approved(&rules, plan.clone(), &verdict, &asked.principal, &approval);
        assert_eq!(permit.is_ok(), permitted, "{first:?} {code}");
    };
    check(None, false, false);
    check(None, true, true);
    check(Some(who(3, Role::Approver)), false, true);
    check(Some(who(2, Role::Approver)), false, false);
    check(Some(who(3, Role::User)), false, false);
    check(Some(asked.principal.clone()), false, false);
}

#[test]
fn what_cannot_be_read_or_vouched_for_is_critical() {
    let called = |class, path: serde_json::Value| {
        let mut plan = tool(class);
        if let Operation::ToolCall(call) = &mut plan.operation {
            call.arguments = serde_json::Map::from_iter([("path".to_owned(), path)]);
        }
        plan
    };
    let user = TaintSet::of(Taint::User);
    let check = |plan: Plan, taint: &TaintSet, risk| {
        assert_eq!(weigh(&plan, taint).0, risk, "{plan:?} {taint:?}");
    };
    for class in [ToolClass::ReadPrivate, ToolClass::WriteDestructive] {
        for path in ["../a", "/etc/shadow", "a/../../b", "a\u{0}b", "a\u{1b}b"] {
            check(called(class, path.into()), &user, Risk::Critical);
        }
        check(called(class, 7.into()), &user, Risk::Critical);
    }
    check(
        called(ToolClass::ReadPrivate, "./a//b".into()),
        &user,
        Risk::Medium,
    );
    check(tool(ToolClass::WriteDestructive), &user, Risk::High);
    let nobody = TaintSet::default();
    check(tool(ToolClass::WriteDestructive), &nobody, Risk::Critical);
    check(run(), &nobody, Risk::Critical);
    check(tool(ToolClass::ReadPublic), &nobody, Risk::Medium);
    check(chat(), &nobody, Risk::Low);
    let mut plan = reach();
    if let Operation::ApiCall(call) = &mut plan.operation {
        call.rule = "no port".into();
    }
    check(plan, &user, Risk::Critical);
}

/// What rules can ask about exists: each of these denies what is shipped as asked or allowed.
#[test]
fn rules_can_ask_for_paths_hosts_models_and_time() {
    let check = |rule: &str, plan: Plan| {
        let judged = |more: &str| {
            let files = [
                ("1".to_owned(), crate::rules::DEFAULT.to_owned()),
                ("2".to_owned(), more.to_owned()),
            ];
            let rules = Rules::parse(&files).unwrap_or_else(|faults| panic!("{rule}: {faults:?}"));
            judge(&rules, &plan, &facts(Role::User, Taint::User)).unwrap()
        };
        assert_ne!(judged("").decision, Decision::Deny, "{rule}");
        let verdict = judged(&format!("@id(\"no\") forbid (principal, {rule};"));
        assert_eq!(
            (verdict.decision, verdict.rules),
            (Decision::Deny, vec!["no".to_owned()]),
            "{rule}"
        );
    };
    let write = || tool(ToolClass::WriteDestructive);
    check(
        r#"action == Action::"tool_call", resource) when { context has path && context.path like "a*" }"#,
        write(),
    );
    check(
        r#"action == Action::"tool_call", resource in Skill::"files")"#,
        write(),
    );
    check(
        r#"action == Action::"tool_call", resource == Tool::"files/write")"#,
        write(),
    );
    check(
        r#"action == Action::"api_call", resource) when { resource.host like "*.example.com" && resource.port == 443 }"#,
        reach(),
    );
    check(
        r#"action == Action::"api_call", resource == Endpoint::"api.example.com:443")"#,
        reach(),
    );
    check(
        r#"action == Action::"chat", resource) unless { ["local/other"].containsAll(context.models) }"#,
        chat(),
    );
    check(
        r#"action == Action::"chat", resource == Agent::"default")"#,
        chat(),
    );
    // Midnight of a Tuesday, in UTC.
    check(
        r#"action == Action::"chat", resource) when { context.hour < 6 && context.weekday == 2 && context.now == 1795478400000 }"#,
        chat(),
    );
    let mut plan = run();
    if let Operation::SandboxRun(spec) = &mut plan.operation {
        spec.insert("net".into(), serde_json::json!(["evil.example:443"]));
    }
    check(
        r#"action == Action::"sandbox_run", resource) when { context.hosts.contains("evil.example:443") }"#,
        plan,
    );
}

#[test]
fn faults_name_file_line_and_column() {
    let bad = "// first line\npermit (principal, action, resource) when { context.nosuch };\n";
    let text = |faults: Vec<crate::Fault>| {
        faults
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let faults = text(Rules::parse(&[("b.cedar".into(), bad.into())]).unwrap_err());
    assert!(
        faults.starts_with("b.cedar:2:1: a policy without @id"),
        "{faults}"
    );
    let faults = text(
        Rules::parse(&[(
            "c.cedar".into(),
            "permit (principal,\n action resource);".into(),
        )])
        .unwrap_err(),
    );
    assert!(faults.starts_with("c.cedar:2:"), "{faults}");
    let unknown = r#"@id("x") permit (principal, action, resource) when { context.nosuch };"#;
    let faults = text(Rules::parse(&[("d.cedar".into(), unknown.into())]).unwrap_err());
    assert!(
        faults.starts_with("d.cedar:1:54:") && faults.contains("nosuch"),
        "{faults}"
    );
    let second = format!("@id(\"a\") permit (principal, action, resource);\n\n  {unknown}");
    let faults = text(Rules::parse(&[("e.cedar".into(), second)]).unwrap_err());
    assert!(faults.starts_with("e.cedar:3:56:"), "{faults}");
}
