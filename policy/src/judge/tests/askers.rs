//! What an agent does for others.

use super::*;

/// What an agent may not do itself, it may not have done by another; what it may only ask for, it asks for.
#[test]
fn what_is_done_for_another_agent_is_judged_for_each_of_them() {
    let check = |rule: &str, through: &[&str], decision: Decision, rules: &[&str]| {
        let text = format!("{}\n@id(\"own\") {rule};", crate::rules::DEFAULT);
        let known = Facts {
            circumstances: Circumstances {
                through: through.iter().map(|it| name(it)).collect(),
                ..Circumstances::default()
            },
            ..facts(Role::User, Taint::User)
        };
        let parsed = Rules::parse(&[("policy.cedar".into(), text)]).expect("it is valid");
        for plan in [tool(ToolClass::WriteDestructive), chat()] {
            let verdict = judge(&parsed, &plan, &known).unwrap();
            assert_eq!(verdict.digest, plan.digest().unwrap());
            if plan.kind() == crate::Kind::ToolCall {
                assert_eq!(verdict.decision, decision, "{rule} {through:?}");
                assert_eq!(verdict.rules, rules, "{rule} {through:?}");
            }
        }
    };
    let write = |who: &str| {
        format!(
            "permit (principal, action == Action::\"tool_call\", resource) when {{ context.agent == \"{who}\" }}"
        )
    };
    let forbid = |who: &str| write(who).replace("permit", "forbid");
    let ask: &[&str] = &["ask-before-effects"];
    check(&write("default"), &[], Decision::Allow, &["own"]);
    check(&write("default"), &["lead"], Decision::Ask, ask);
    check(&write("lead"), &["lead"], Decision::Ask, ask);
    let both = write("default")
        .replace("context.agent ==", "[\"default\", \"lead\"].contains")
        .replace("contains \"default\"", "contains(context.agent)");
    check(&both, &["lead"], Decision::Allow, &["own"]);
    check(&both, &["chief", "lead"], Decision::Ask, ask);
    check(&forbid("default"), &["lead"], Decision::Deny, &["own"]);
    check(&forbid("lead"), &["lead"], Decision::Deny, &["own"]);
    check(&forbid("lead"), &["lead", "cook"], Decision::Deny, &["own"]);
    check(&forbid("lead"), &["cook"], Decision::Ask, ask);
    // Each in the way in which it was asked itself.
    let alone = both.replace(
        "contains(context.agent)",
        "contains(context.agent) && (context.agent == \"default\" || context.through.isEmpty())",
    );
    check(&alone, &["lead"], Decision::Allow, &["own"]);
    check(&alone, &["lead", "lead"], Decision::Ask, ask);
}
