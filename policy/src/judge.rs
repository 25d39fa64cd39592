//! Plan and facts in, verdict out; the only place where risk is computed and permits are made.

use std::collections::HashSet;

use cedar_policy::{
    Authorizer, Context, Decision as Cedar, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    Request, RestrictedExpression as Expr,
};

use crate::{
    facts,
    plan::{Operation, Plan},
    rules::Rules,
    words::{Decision, Digest, Risk, Role, Taint, TaintSet, ToolClass},
};

/// Who asks: the uid that the kernel reports and the roles that uid and groups give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// User id.
    pub uid: u32,
    /// The highest role. A higher one includes the lower ones.
    pub role: Role,
}

/// What is known beside the plan itself; computed by pawd, never taken from a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Who asks.
    pub principal: Principal,
    /// Where the plan's data came from.
    pub taint: TaintSet,
    /// What time it is, in milliseconds since 1970.
    pub now_ms: u64,
}

/// What policy says to one plan, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub decision: Decision,
    /// How risky the plan is.
    pub risk: Risk,
    /// Ids of the rules that decided; empty when no rule permits it.
    pub rules: Vec<String>,
    /// The plan that was judged.
    pub digest: Digest,
}

/// A person's yes, as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The digest that the person was shown and named.
    pub digest: Digest,
    /// Who said it.
    pub by: Principal,
    /// Whether they gave a one-time code with it, which was looked at.
    pub code: bool,
    /// Who had said yes to the same plan before, where it took two.
    pub first: Option<Principal>,
}

/// What stands behind a yes, beside who says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Factors {
    /// A one-time code, which was looked at.
    pub code: bool,
    /// The yes of another approver, to the same plan.
    pub seconded: bool,
}

/// What a person's yes comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yes {
    /// It may be done.
    Decides,
    /// It may be done once another approver says yes, too, or with a one-time code.
    OneOfTwo,
}

/// The right to execute one value, once. Only this module makes one, and spending it consumes it.
#[derive(Debug)]
pub struct Permit<T>(T);

impl<T> Permit<T> {
    /// What may be executed. There is no way to put it back.
    pub fn spend(self) -> T {
        self.0
    }

    /// A look at what may be executed.
    pub const fn get(&self) -> &T {
        &self.0
    }
}

/// Why there is no permit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    /// Policy denies it.
    #[error("policy denies it")]
    Denied,
    /// A person has to be asked, and none has said yes.
    #[error("a person has to approve it")]
    Unanswered,
    /// The plan is not the one that was judged.
    #[error("the plan is not the one that was judged")]
    OtherPlan,
    /// The person was shown another plan.
    #[error("the approval names another plan")]
    OtherDigest,
    /// The person may not approve this.
    #[error("who approved it may not: {0}")]
    Approver(String),
}

/// Judges a plan.
///
/// Asking is no third answer of Cedar: what is permitted as it is is allowed; what would be permitted if a person had
/// approved it is asked; everything else is denied. A rule that cannot be evaluated denies, because it may be a forbid.
///
/// # Errors
/// When the plan has no canonical form.
pub fn judge(rules: &Rules, plan: &Plan, facts: &Facts) -> Result<Verdict, crate::PlanError> {
    let digest = plan.digest()?;
    let (risk, _) = weigh(plan, &facts.taint);
    let verdict = |decision, ids| Verdict {
        decision,
        risk,
        rules: ids,
        digest,
    };
    let first = evaluate(rules, plan, facts, risk, false);
    if first.allowed {
        return Ok(verdict(Decision::Allow, first.rules));
    }
    let second = evaluate(rules, plan, facts, risk, true);
    if second.allowed {
        return Ok(verdict(Decision::Ask, second.rules));
    }
    Ok(verdict(Decision::Deny, second.rules))
}

/// A permit for a plan that policy allows as it is.
///
/// # Errors
/// When policy asks or denies, or judged another plan.
pub fn permit(plan: Plan, verdict: &Verdict) -> Result<Permit<Plan>, NotApproved> {
    bind(&plan, verdict)?;
    match verdict.decision {
        Decision::Allow => Ok(Permit(plan)),
        Decision::Ask => Err(NotApproved::Unanswered),
        Decision::Deny => Err(NotApproved::Denied),
    }
}

/// A permit for a plan that policy asks about and a person has approved.
///
/// # Errors
/// When policy denies it, when the approval names another digest, or when that person may not approve it.
pub fn permit_approved(
    rules: &Rules,
    plan: Plan,
    verdict: &Verdict,
    requester: &Principal,
    approval: &Approval,
) -> Result<Permit<Plan>, NotApproved> {
    bind(&plan, verdict)?;
    match verdict.decision {
        Decision::Deny => return Err(NotApproved::Denied),
        Decision::Allow | Decision::Ask => {}
    }
    if approval.digest != verdict.digest {
        return Err(NotApproved::OtherDigest);
    }
    let before = approval.first.as_ref();
    let factors = Factors {
        code: approval.code,
        seconded: before.is_some_and(|first| first.uid != approval.by.uid),
    };
    match may_approve(rules, verdict.risk, requester, &approval.by, factors)? {
        Yes::Decides => {}
        Yes::OneOfTwo => return Err(NotApproved::Unanswered),
    }
    if let (true, Some(first)) = (factors.seconded, before) {
        // Who said it first must have been somebody who may.
        let seconded = Factors {
            seconded: true,
            ..Factors::default()
        };
        may_approve(rules, verdict.risk, requester, first, seconded)?;
    }
    Ok(Permit(plan))
}

/// Whether this person may approve what that person asked for, and whether their yes is enough.
///
/// It takes two where policy lets them approve it only with the yes of another one: asking for a second factor is no further
/// answer of Cedar either.
///
/// # Errors
/// [`NotApproved::Approver`] with the reason for people.
pub fn may_approve(
    rules: &Rules,
    risk: Risk,
    requester: &Principal,
    approver: &Principal,
    factors: Factors,
) -> Result<Yes, NotApproved> {
    let own = requester.uid == approver.uid;
    let ask = |factors: Factors| {
        let context = [
            (
                "risk".to_owned(),
                Expr::new_string(risk.as_str().to_owned()),
            ),
            ("own".to_owned(), Expr::new_bool(own)),
            ("code".to_owned(), Expr::new_bool(factors.code)),
            ("seconded".to_owned(), Expr::new_bool(factors.seconded)),
        ];
        ask_cedar(rules, approver, "approve", &host(), Vec::new(), context).allowed
    };
    let with = |code, seconded| ask(Factors { code, seconded });
    if ask(factors) {
        Ok(Yes::Decides)
    } else if !factors.seconded && with(factors.code, true) {
        Ok(Yes::OneOfTwo)
    } else if !factors.code && with(true, factors.seconded) {
        Err(NotApproved::Approver(format!(
            "an action of risk {risk} takes a one-time code of them"
        )))
    } else if own {
        Err(NotApproved::Approver(
            "policy does not let people approve what they asked for themselves".into(),
        ))
    } else {
        Err(NotApproved::Approver(format!(
            "role {} may not approve actions of risk {risk}",
            approver.role
        )))
    }
}

/// How risky a plan is, and why: talk is low, reads are medium, effects are high, changes of the system are critical. What cannot
/// be read is critical, whatever it is, and so is every effect of data that nobody vouches for at all.
#[must_use]
pub fn weigh(plan: &Plan, taint: &TaintSet) -> (Risk, &'static str) {
    let (risk, why) = match &plan.operation {
        Operation::Chat(_) => (Risk::Low, "a chat has no effect of its own"),
        Operation::SandboxRun(_) => (Risk::High, "a command is executed"),
        Operation::SkillChange(_) => (Risk::Critical, "what agents can do is changed"),
        Operation::ApiCall(call) => match facts::host_and_port(&call.rule) {
            Some(_) => (Risk::High, "a sandbox reaches the network"),
            None => (Risk::Critical, "what would be reached cannot be read"),
        },
        Operation::ToolCall(call) => match call.class {
            _ if facts::path(call) == facts::Path::Unreadable => (
                Risk::Critical,
                "the argument path is no path beneath the workspace",
            ),
            // Rule R7: after signs of an attack everything is asked for. A score never makes anything less risky.
            ToolClass::ReadPublic | ToolClass::ReadPrivate if taint.has(Taint::Suspicious) => (
                Risk::High,
                "the tool reads, and what led to it bears signs of an attack",
            ),
            ToolClass::ReadPublic | ToolClass::ReadPrivate => (Risk::Medium, "the tool reads"),
            ToolClass::WriteLocalReversible | ToolClass::WriteDestructive => {
                (Risk::High, "the tool writes or deletes")
            }
            ToolClass::Egress => (Risk::High, "the tool sends something off this host"),
            ToolClass::Exec => (Risk::High, "the tool executes commands"),
            ToolClass::Money => (Risk::Critical, "the tool pays or speaks in somebody's name"),
            ToolClass::Admin => (Risk::Critical, "the tool changes the system itself"),
        },
    };
    if risk == Risk::High && taint.iter().next().is_none() {
        return (
            Risk::Critical,
            "it has an effect, and nobody says where its data came from",
        );
    }
    (risk, why)
}

fn bind(plan: &Plan, verdict: &Verdict) -> Result<(), NotApproved> {
    match plan.digest() {
        Ok(digest) if digest == verdict.digest => Ok(()),
        Ok(_) | Err(_) => Err(NotApproved::OtherPlan),
    }
}

pub(crate) struct Outcome {
    pub(crate) allowed: bool,
    pub(crate) rules: Vec<String>,
}

fn evaluate(rules: &Rules, plan: &Plan, facts: &Facts, risk: Risk, approved: bool) -> Outcome {
    let (action, resource, entities) = match &plan.operation {
        Operation::Chat(_) => ("chat", uid("Agent", plan.agent.as_str()), Vec::new()),
        Operation::SandboxRun(_) => ("sandbox_run", host(), Vec::new()),
        Operation::ApiCall(call) => {
            let (endpoint, entity) = endpoint(&call.rule);
            let Some(entity) = entity else {
                return Outcome {
                    allowed: false,
                    rules: Vec::new(),
                };
            };
            ("api_call", endpoint, vec![entity])
        }
        Operation::SkillChange(change) => (
            "skill_change",
            uid("Skill", change.skill.as_str()),
            Vec::new(),
        ),
        Operation::ToolCall(call) => {
            let (skill, tool) = (
                uid("Skill", call.skill.as_str()),
                uid("Tool", &format!("{}/{}", call.skill, call.tool)),
            );
            let class = (
                "class".to_owned(),
                Expr::new_string(call.class.as_str().to_owned()),
            );
            match Entity::new(tool.clone(), [class].into(), HashSet::from([skill])) {
                Ok(entity) => ("tool_call", tool, vec![entity]),
                Err(_) => {
                    return Outcome {
                        allowed: false,
                        rules: Vec::new(),
                    };
                }
            }
        }
    };
    let context = facts::context(plan, facts, risk, approved, rules.has_grants());
    ask_cedar(
        rules,
        &facts.principal,
        action,
        &resource,
        entities,
        context,
    )
}

/// One question to Cedar. Whatever goes wrong on the way is a no.
pub(crate) fn ask_cedar(
    rules: &Rules,
    principal: &Principal,
    action: &str,
    resource: &EntityUid,
    mut entities: Vec<Entity>,
    context: impl IntoIterator<Item = (String, Expr)>,
) -> Outcome {
    let no = Outcome {
        allowed: false,
        rules: Vec::new(),
    };
    let who = uid("User", &principal.uid.to_string());
    let number = ("uid".to_owned(), Expr::new_long(i64::from(principal.uid)));
    let Ok(user) = Entity::new(who.clone(), [number].into(), roles(principal.role)) else {
        return no;
    };
    entities.push(user);
    let Ok(entities) = Entities::from_entities(entities, Some(&rules.schema)) else {
        return no;
    };
    let Ok(context) = Context::from_pairs(context) else {
        return no;
    };
    let Ok(request) = Request::new(
        who,
        uid("Action", action),
        resource.clone(),
        context,
        Some(&rules.schema),
    ) else {
        return no;
    };
    let response = Authorizer::new().is_authorized(&request, &rules.policies, &entities);
    if response.diagnostics().errors().next().is_some() {
        return no;
    }
    let mut ids: Vec<String> = response
        .diagnostics()
        .reason()
        .map(|id| rules.name(id))
        .collect();
    ids.sort();
    Outcome {
        allowed: response.decision() == Cedar::Allow,
        rules: ids,
    }
}

/// What a rule `HOST:PORT` lets a sandbox reach; no entity where it cannot be read.
fn endpoint(rule: &str) -> (EntityUid, Option<Entity>) {
    let name = uid("Endpoint", rule);
    let entity = facts::host_and_port(rule).and_then(|(host, port)| {
        let attributes = [
            ("host".to_owned(), Expr::new_string(host.to_owned())),
            ("port".to_owned(), Expr::new_long(i64::from(port))),
        ];
        Entity::new(name.clone(), attributes.into(), HashSet::new()).ok()
    });
    (name, entity)
}

/// A role and those that it includes.
fn roles(role: Role) -> HashSet<EntityUid> {
    let names: &[&str] = match role {
        Role::User => &["user"],
        Role::Approver => &["approver", "user"],
        Role::Admin => &["admin", "approver", "user"],
    };
    names.iter().map(|name| uid("Role", name)).collect()
}

fn host() -> EntityUid {
    uid("Host", "this")
}

/// An entity of our schema. The type names are ours and always parse.
pub(crate) fn uid(kind: &'static str, id: &str) -> EntityUid {
    let kind: EntityTypeName = kind
        .parse()
        .expect("entity types of our own schema are valid names");
    EntityUid::from_type_name_and_id(kind, EntityId::new(id))
}

#[cfg(test)]
mod tests {
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

    fn check(
        plan: &Plan,
        role: Role,
        taint: Taint,
        decision: Decision,
        risk: Risk,
        rules: &[&str],
    ) {
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
            let permit =
                permit_approved(&rules, plan.clone(), &verdict, &asked.principal, &approval);
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
                let rules =
                    Rules::parse(&files).unwrap_or_else(|faults| panic!("{rule}: {faults:?}"));
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
}
