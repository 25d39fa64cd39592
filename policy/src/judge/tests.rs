//! What the shipped rules say, what they can ask about, and who may approve.

mod askers;
mod labels;

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
            announced: None,
        }),
    }
}

fn switch() -> Plan {
    Plan {
        agent: name("default"),
        session: None,
        operation: Operation::ModelSwitch(crate::SwitchArguments {
            agent: Some(name("clerk")),
            to: crate::Target {
                provider: name("cloud"),
                model: "large".into(),
            },
            back: false,
            place: "https://api.example.com/".into(),
            was: None,
            unlisted: false,
            timeout_ms: 300_000,
        }),
    }
}

fn register(change: crate::ConfigChange) -> Plan {
    Plan {
        agent: name("default"),
        session: None,
        operation: Operation::ConfigChange(crate::ConfigArguments {
            change,
            name: name("cloud"),
            spec: serde_json::Map::new(),
            replaces: None,
            difference: Vec::new(),
        }),
    }
}

fn facts(role: Role, taint: Taint) -> Facts {
    Facts {
        principal: Principal { uid: 1000, role },
        taint: TaintSet::of(taint),
        circumstances: Circumstances::default(),
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
    let mut narrow = reach();
    if let Operation::ApiCall(call) = &mut narrow.operation {
        call.rule = "api.example.com:443,method=GET".into();
    }
    check(
        &narrow,
        Role::User,
        Taint::Tool,
        Ask,
        Risk::High,
        &["ask-before-reaching-further"],
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
    // Where it reaches nothing, nothing becomes of what others had a part in but what is staged for a person.
    check(
        &run(),
        Role::Admin,
        Taint::Web,
        Allow,
        Risk::High,
        &["operators-run-commands"],
    );
    let mut reaching = run();
    if let Operation::SandboxRun(spec) = &mut reaching.operation {
        spec.insert("net".into(), serde_json::json!(["example.com:443"]));
    }
    check(
        &reaching,
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

/// Rule R7: a score makes things stricter.
#[test]
fn signs_of_an_attack_make_reading_weigh_more_and_nothing_less() {
    let clean = TaintSet::of(Taint::User);
    let signed = clean.clone().with(&TaintSet::of(Taint::Suspicious));
    for class in [ToolClass::ReadPublic, ToolClass::ReadPrivate] {
        assert_eq!(weigh(&tool(class), &clean).0, Risk::Medium);
        assert_eq!(weigh(&tool(class), &signed).0, Risk::High);
    }
    for plan in [tool(ToolClass::WriteDestructive), chat(), run(), reach()] {
        assert!(
            weigh(&plan, &signed).0 >= weigh(&plan, &clean).0,
            "{plan:?}"
        );
    }
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
    // It would be left out without a word.
    for (slot, at) in [
        ("principal == ?principal, action, resource", "3:22"),
        ("principal, action, resource in ?resource", "3:40"),
    ] {
        let template = format!(
            "@id(\"a\") permit (principal, action, resource);\n@id(\"t\")\nforbid ({slot});"
        );
        let faults = text(Rules::parse(&[("f.cedar".into(), template)]).unwrap_err());
        assert!(
            faults.starts_with(&format!("f.cedar:{at}: a template")),
            "{faults}"
        );
    }
}

/// It may be a forbid, of which nobody knows whether it held.
#[test]
fn rule_that_cannot_be_evaluated_denies_what_it_is_about() {
    let plan = tool(ToolClass::ReadPublic);
    let asked = facts(Role::User, Taint::User);
    for (condition, decision) in [
        ("context.now + 9223372036854775807 > 0", Decision::Deny),
        ("context.now + 1 < 0", Decision::Allow),
    ] {
        for effect in ["permit", "forbid"] {
            let rules = with_rule(&format!(
                r#"@id("odd") {effect} (principal, action == Action::"tool_call", resource) when {{ {condition} }};"#
            ));
            let verdict = judge(&rules, &plan, &asked).unwrap();
            assert_eq!(verdict.decision, decision, "{effect} when {condition}");
        }
    }
}

#[test]
fn what_policy_denies_is_permitted_by_no_approval() {
    let rules =
        with_rule(r#"@id("never") forbid (principal, action == Action::"tool_call", resource);"#);
    let plan = tool(ToolClass::WriteDestructive);
    let asked = facts(Role::User, Taint::User);
    let verdict = judge(&rules, &plan, &asked).unwrap();
    assert_eq!(verdict.decision, Decision::Deny);
    let approval = Approval {
        digest: verdict.digest,
        by: who(0, Role::Admin),
        code: true,
        first: Some(who(2, Role::Approver)),
    };
    assert_eq!(
        permit_approved(&rules, plan.clone(), &verdict, &asked.principal, &approval).unwrap_err(),
        NotApproved::Denied
    );
    assert_eq!(permit(plan, &verdict).unwrap_err(), NotApproved::Denied);
}

/// The shipped rules and one more.
fn with_rule(more: &str) -> Rules {
    let files = [
        ("1".to_owned(), crate::rules::DEFAULT.to_owned()),
        ("2".to_owned(), more.to_owned()),
    ];
    Rules::parse(&files).unwrap_or_else(|faults| panic!("{more}: {faults:?}"))
}

fn labelled(labels: &[Taint]) -> TaintSet {
    labels.iter().fold(TaintSet::default(), |set, label| {
        set.with(&TaintSet::of(*label))
    })
}

/// Rule R5: a rule may let through what a person named, and nothing makes it so by itself.
#[test]
fn what_a_person_named_is_let_through_only_where_a_rule_says_so() {
    let rule = r#"@id("named") permit (principal, action == Action::"tool_call", resource) when { context.named && resource.class == "egress" };"#;
    let judged = |more: &str, named: bool, taint: &[Taint]| {
        let mut facts = facts(Role::User, Taint::User);
        (facts.circumstances.named, facts.taint) = (named, labelled(taint));
        let plan = tool(ToolClass::Egress);
        judge(&with_rule(more), &plan, &facts).unwrap().decision
    };
    let web = [Taint::User, Taint::Model, Taint::Web];
    assert_eq!(judged("", true, &web), Decision::Ask);
    assert_eq!(judged(rule, false, &web), Decision::Ask);
    assert_eq!(judged(rule, true, &web), Decision::Allow);
    // Signs of an attack make it worth nothing, and what is private is asked for all the same.
    assert_eq!(
        judged(rule, true, &[Taint::User, Taint::Suspicious]),
        Decision::Ask
    );
    assert_eq!(
        judged(rule, true, &[Taint::User, Taint::Private]),
        Decision::Ask
    );
    assert_eq!(
        judged(rule, true, &[Taint::User, Taint::Secret]),
        Decision::Deny
    );
}

/// Rules R2 and R4: what is private leaves this host by a person's yes, what is secret not at all, and both may be used on it.
#[test]
fn what_is_confidential_stays_whatever_else_permits_it() {
    use Decision::{Allow, Ask, Deny};
    let all = with_rule(r#"@id("all") permit (principal, action, resource);"#);
    let judged = |plan: &Plan, label: Taint, leaves: bool| {
        let mut facts = facts(Role::Admin, Taint::Operator);
        facts.taint = labelled(&[Taint::Operator, label]);
        facts.circumstances.leaves_host = leaves;
        judge(&all, plan, &facts).unwrap().decision
    };
    let mut reads_url = tool(ToolClass::ReadPublic);
    if let Operation::ToolCall(call) = &mut reads_url.operation {
        call.net = Some("example.com:443".into());
    }
    for sends in [tool(ToolClass::Egress), tool(ToolClass::Money), reads_url] {
        assert_eq!(judged(&sends, Taint::Operator, false), Allow, "{sends:?}");
        assert_eq!(judged(&sends, Taint::Private, false), Ask, "{sends:?}");
        assert_eq!(judged(&sends, Taint::Secret, false), Deny, "{sends:?}");
    }
    for stays in [
        tool(ToolClass::ReadPrivate),
        tool(ToolClass::WriteDestructive),
        tool(ToolClass::Exec),
        run(),
    ] {
        for label in [Taint::Private, Taint::Secret] {
            assert_eq!(judged(&stays, label, false), Allow, "{stays:?}");
        }
    }
    let mut out = run();
    if let Operation::SandboxRun(spec) = &mut out.operation {
        spec.insert("net".into(), serde_json::json!(["example.com:443"]));
    }
    for out in [out, reach()] {
        assert_eq!(judged(&out, Taint::Secret, false), Deny, "{out:?}");
    }
    assert_eq!(judged(&chat(), Taint::Secret, false), Allow);
    assert_eq!(judged(&chat(), Taint::Secret, true), Deny);
    assert_eq!(judged(&chat(), Taint::Private, true), Allow);
}

/// A label that says how confidential something is vouches for nobody.
#[test]
fn what_is_only_confidential_is_of_nobody() {
    let set = labelled(&[Taint::Private, Taint::Secret]);
    assert!(set.is_of_nobody() && set.is_untrusted() && set.is_foreign());
    let risk = weigh(&tool(ToolClass::WriteDestructive), &set).0;
    assert_eq!(risk, Risk::Critical);
    let set = labelled(&[Taint::User, Taint::Private]);
    assert!(!set.is_of_nobody() && !set.is_untrusted() && !set.is_foreign());
}

/// What rules can ask about how an action came to be asked.
#[test]
fn rules_can_ask_for_jobs_channels_agents_and_cost() {
    use crate::circumstances::Via;
    let plain = Circumstances::default;
    let check = |rule: &str, plan: &Plan, how: Circumstances, denied: bool| {
        let rules = with_rule(&format!("@id(\"no\") forbid (principal, {rule};"));
        let mut facts = facts(Role::User, Taint::User);
        facts.circumstances = how.clone();
        let verdict = judge(&rules, plan, &facts).unwrap();
        assert_eq!(verdict.decision == Decision::Deny, denied, "{rule} {how:?}");
        assert_eq!(verdict.rules == ["no"], denied, "{rule} {how:?}");
    };
    let job = |id: &str| Circumstances {
        via: Via::Job(id.into()),
        ..plain()
    };
    let peer = |text: &str| Circumstances {
        via: Via::Channel(text.parse().unwrap()),
        ..plain()
    };
    let send = tool(ToolClass::Egress);
    let when = |condition: &str| {
        format!(r#"action == Action::"tool_call", resource) when {{ {condition} }}"#)
    };
    let rule = when(r#"context has job && context.job == Job::"nightly""#);
    check(&rule, &send, job("nightly"), true);
    check(&rule, &send, job("weekly"), false);
    check(&rule, &send, plain(), false);
    let rule = when(r#"context.via == "terminal""#);
    check(&rule, &send, plain(), true);
    check(&rule, &send, job("nightly"), false);
    let rule = when(r#"context has identity && context.identity in Channel::"telegram""#);
    check(&rule, &send, peer("telegram:4711"), true);
    check(&rule, &send, peer("matrix:4711"), false);
    check(&rule, &send, plain(), false);
    let rule = when(r#"context has identity && context.identity == Identity::"telegram:4711""#);
    check(&rule, &send, peer("telegram:4711"), true);
    check(&rule, &send, peer("telegram:4712"), false);
    let through = Circumstances {
        through: vec![name("lead")],
        ..plain()
    };
    check(
        &when(r#"context.through.contains("lead")"#),
        &send,
        through.clone(),
        true,
    );
    check(
        &when(r#"context.through.contains("cook")"#),
        &send,
        through.clone(),
        false,
    );
    check(&when("!context.through.isEmpty()"), &send, through, true);
    check(&when("!context.through.isEmpty()"), &send, plain(), false);
    let cost = |cost_micros| Circumstances {
        cost_micros,
        ..plain()
    };
    let rule = r#"action == Action::"chat", resource) when { context.cost > 20000 }"#;
    check(rule, &chat(), cost(Some(20_001)), true);
    check(rule, &chat(), cost(Some(20_000)), false);
    // What nobody knows may be any amount.
    check(rule, &chat(), cost(None), true);
}

#[test]
fn only_administrators_ask_for_changes() {
    use Decision::{Allow, Deny};
    let changes = crate::ConfigChange::ALL.map(register);
    for plan in changes.iter().chain([&switch()]) {
        let terminal = &["administrators-configure"][..];
        check(
            plan,
            Role::Admin,
            Taint::Operator,
            Allow,
            Risk::Critical,
            terminal,
        );
        for role in [Role::Approver, Role::User] {
            check(plan, role, Taint::User, Deny, Risk::Critical, &[]);
        }
        let foreign = &["no-configuration-from-untrusted-data"][..];
        for taint in [Taint::Channel, Taint::Tool, Taint::Web, Taint::Model] {
            check(plan, Role::Admin, taint, Deny, Risk::Critical, foreign);
        }
    }
}

/// A rule can name who answers and for whom, and what is changed of which provider or budget.
#[test]
fn rule_can_name_what_is_changed() {
    let says = |scope: &str, plan: &Plan| {
        let text = format!("@id(\"it\") permit (principal, {scope};");
        let rules = Rules::parse(&[("60-own.cedar".into(), text)]).unwrap();
        let said = judge(&rules, plan, &facts(Role::Admin, Taint::Operator)).unwrap();
        said.decision == Decision::Allow
    };
    let switched = r#"action == Action::"model_switch""#;
    for (rest, expected) in [
        (r#"resource == Model::"cloud/large")"#, true),
        (r#"resource == Model::"cloud/small")"#, false),
        (r#"resource in Provider::"cloud")"#, true),
        (r#"resource in Provider::"local")"#, false),
        (
            r#"resource) when { context has whose && context.whose == Agent::"clerk" }"#,
            true,
        ),
        (
            r"resource) when { context.back || context.leaves_host }",
            false,
        ),
    ] {
        assert_eq!(
            says(&format!("{switched}, {rest}"), &switch()),
            expected,
            "{rest}"
        );
    }
    let changed = r#"action == Action::"config_change""#;
    let provider = register(crate::ConfigChange::ProviderEdit);
    let budget = register(crate::ConfigChange::BudgetSet);
    let agent = register(crate::ConfigChange::AgentEdit);
    for (rest, about) in [
        (r#"resource == Provider::"cloud")"#, [true, false, false]),
        (r#"resource == Budget::"cloud")"#, [false, true, false]),
        (r#"resource == Agent::"cloud")"#, [false, false, true]),
        (
            r#"resource) when { context.change == "provider.edit" }"#,
            [true, false, false],
        ),
    ] {
        let scope = format!("{changed}, {rest}");
        let said = [&provider, &budget, &agent].map(|plan| says(&scope, plan));
        assert_eq!(said, about, "{rest}");
    }
}

/// What is said of one change is remembered, and is not said of another.
#[test]
fn what_is_said_of_a_change_is_said_of_no_other() {
    let text = r#"@id("model") permit (principal, action == Action::"model_switch", resource == Model::"cloud/large");
@id("provider") permit (principal, action == Action::"config_change", resource == Provider::"cloud");"#;
    let rules = Rules::parse(&[("60-own.cedar".into(), text.into())]).unwrap();
    let (mut smaller, mut elsewhere) = (switch(), register(crate::ConfigChange::ProviderEdit));
    if let Operation::ModelSwitch(said) = &mut smaller.operation {
        said.to.model = "small".into();
    }
    if let Operation::ConfigChange(said) = &mut elsewhere.operation {
        said.name = name("local");
    }
    for (plan, other) in [
        (switch(), smaller),
        (register(crate::ConfigChange::ProviderEdit), elsewhere),
    ] {
        for (plan, expected) in [(plan, Decision::Allow), (other, Decision::Deny)] {
            let said = judge(&rules, &plan, &facts(Role::Admin, Taint::Operator)).unwrap();
            assert_eq!(said.decision, expected, "{plan:?}");
        }
    }
}

/// Whatever differs of a change is another plan, which no yes to the first one permits.
#[test]
fn change_of_a_change_is_another_plan() {
    let plan = switch();
    let Operation::ModelSwitch(said) = &plan.operation else {
        unreachable!("it is one");
    };
    let others = [
        crate::SwitchArguments {
            agent: None,
            ..said.clone()
        },
        crate::SwitchArguments {
            place: "https://example.org/".into(),
            ..said.clone()
        },
        crate::SwitchArguments {
            was: Some(said.to.clone()),
            ..said.clone()
        },
        crate::SwitchArguments {
            unlisted: true,
            ..said.clone()
        },
    ];
    for other in others {
        let other = Plan {
            operation: Operation::ModelSwitch(other),
            ..plan.clone()
        };
        assert_ne!(other.digest().unwrap(), plan.digest().unwrap());
    }
}
