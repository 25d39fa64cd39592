//! Plan and facts in, verdict out; the only place where risk is computed and permits are made.

use crate::{
    circumstances::Circumstances,
    facts::{self, Fact},
    plan::{Operation, Plan},
    question::{Question, host},
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
    /// How it came to be asked.
    pub circumstances: Circumstances,
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
    /// What it works on has come from elsewhere, too, since a person approved it, who was not told of that.
    #[error("what lies where it reads has come from elsewhere since it was approved")]
    OtherData,
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
/// What an agent does because others asked it is judged as if each of them did it as well, in the way in which it was asked itself, and the
/// strictest answer counts: nobody gets done by another what they may not do.
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
    let (mut decision, mut ids) = said(rules, plan, facts, risk);
    // A grant is a person's yes to all of it, made in this way, so it answers whoever would have been asked.
    let granted = ids.iter().any(|id| rules.is_grant(id));
    for (plan, facts) in askers(plan, facts) {
        let (mut its, by) = said(rules, &plan, &facts, risk);
        if its == Decision::Ask && granted {
            its = Decision::Allow;
        }
        if is_stricter(its, decision) {
            (decision, ids) = (its, by);
        }
    }
    Ok(verdict(decision, ids))
}

/// The same, done by each of the agents that asked for it, in the way in which that agent was asked.
fn askers(plan: &Plan, facts: &Facts) -> impl Iterator<Item = (Plan, Facts)> {
    let through = &facts.circumstances.through;
    through.iter().enumerate().map(|(before, asker)| {
        let plan = Plan {
            agent: asker.clone(),
            ..plan.clone()
        };
        let circumstances = Circumstances {
            through: through[..before].to_vec(),
            ..facts.circumstances.clone()
        };
        let facts = Facts {
            circumstances,
            ..facts.clone()
        };
        (plan, facts)
    })
}

const fn is_stricter(one: Decision, than: Decision) -> bool {
    match (one, than) {
        (Decision::Deny, Decision::Ask | Decision::Allow) | (Decision::Ask, Decision::Allow) => {
            true
        }
        (Decision::Deny, Decision::Deny)
        | (Decision::Ask, Decision::Ask | Decision::Deny)
        | (Decision::Allow, _) => false,
    }
}

/// What the rules say to a plan by itself, now or the last time that they were asked the same.
fn said(rules: &Rules, plan: &Plan, facts: &Facts, risk: Risk) -> (Decision, Vec<String>) {
    let about = facts::about(plan, facts, risk);
    let text = Question::as_text(rules, plan, &facts.principal, &about);
    if let Some(said) = text.as_deref().and_then(|text| rules.known.said(text)) {
        return said;
    }
    let said = decide(rules, plan, &facts.principal, about);
    if let Some(text) = text {
        rules.known.keep(text, said.clone());
    }
    said
}

/// What the rules say to a plan of which this is known.
fn decide(
    rules: &Rules,
    plan: &Plan,
    principal: &Principal,
    about: Vec<(&'static str, Fact)>,
) -> (Decision, Vec<String>) {
    let Some(question) = Question::about(rules, plan, principal, about) else {
        return (Decision::Deny, Vec::new());
    };
    let first = question.ask(rules, &[("approved", Fact::Truth(false))]);
    if first.allowed {
        return (Decision::Allow, first.rules);
    }
    let second = question.ask(rules, &[("approved", Fact::Truth(true))]);
    let decision = if second.allowed {
        Decision::Ask
    } else {
        Decision::Deny
    };
    (decision, second.rules)
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
    let known = vec![
        ("risk", Fact::Text(risk.as_str().to_owned())),
        ("own", Fact::Truth(own)),
    ];
    let question = Question::new(rules, approver, "approve", host(), None, known);
    let ask = |factors: Factors| {
        let more = [
            ("code", Fact::Truth(factors.code)),
            ("seconded", Fact::Truth(factors.seconded)),
        ];
        let asked = question.as_ref();
        asked.is_some_and(|question| question.ask(rules, &more).allowed)
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
        // Whoever answers reads all that is said, and decides what is called.
        Operation::ModelSwitch(_) => (Risk::Critical, "who answers is changed"),
        Operation::ConfigChange(_) => (Risk::Critical, "what is configured is changed"),
        Operation::SecretChange(_) => (Risk::Critical, "what the vault keeps is changed"),
        Operation::FileOperation(_) => (Risk::High, "what is in a workspace is changed, or gone"),
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
    if risk == Risk::High && taint.is_of_nobody() {
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

#[cfg(test)]
mod tests;
