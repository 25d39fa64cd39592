//! Whether policy lets a secret be used, through which broker, for whom. It is asked for each use, beside the secret's own list: both
//! must say yes, and neither can say it for the other.

use crate::{
    facts::{Fact, common},
    judge::Facts,
    question::{Question, Type, uid},
    rules::Rules,
    words::Name,
};

/// One use of a secret, as rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretUse<'a> {
    /// Which secret.
    pub secret: &'a str,
    /// The broker that adds it to requests.
    pub broker: &'a str,
    /// On whose behalf.
    pub agent: &'a Name,
    /// The agents that had it asked, the first one first; none where a person did.
    pub through: &'a [Name],
    /// The skill whose tool asks; none for a command in a sandbox.
    pub skill: Option<&'a Name>,
}

/// What policy says to one use, and by which rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UseVerdict {
    /// Whether it may be.
    pub allowed: bool,
    /// Ids of the rules that decided; empty when no rule permits it.
    pub rules: Vec<String>,
}

/// Judges one use. Nobody is asked for it: the action that it is for was judged, and approved where it had to be. What an agent uses
/// because others asked it, each of them may use as well.
#[must_use]
pub fn may_use(rules: &Rules, of: &SecretUse<'_>, facts: &Facts) -> UseVerdict {
    let verdict = said(rules, of, of.agent, facts);
    if !verdict.allowed {
        return verdict;
    }
    let askers = of.through.iter().map(|asker| said(rules, of, asker, facts));
    let denied = askers.into_iter().find(|asker| !asker.allowed);
    denied.unwrap_or(verdict)
}

/// What the rules say to it, done by this agent.
fn said(rules: &Rules, of: &SecretUse<'_>, agent: &Name, facts: &Facts) -> UseVerdict {
    let text = |text: &str| Fact::Text(text.to_owned());
    let mut known = common(facts);
    known.push(("agent", text(agent.as_str())));
    known.push(("broker", text(of.broker)));
    if let Some(skill) = of.skill {
        known.push(("skill", text(skill.as_str())));
    }
    let secret = uid(Type::Secret, of.secret);
    let question = Question::new(rules, &facts.principal, "secret_use", secret, None, known);
    let Some(question) = question else {
        return UseVerdict {
            allowed: false,
            rules: Vec::new(),
        };
    };
    let said = question.ask(rules, &[]);
    UseVerdict {
        allowed: said.allowed,
        rules: said.rules,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::Principal,
        words::{Role, Taint, TaintSet},
    };

    const DEFAULT: &str = include_str!("../default.cedar");

    fn check(more: &str, taint: Taint, skill: Option<&str>, allowed: bool) {
        let text = format!("{DEFAULT}\n{more}");
        let rules = Rules::parse(&[("policy.cedar".into(), text)]).expect("it is valid");
        let (agent, skill) = (
            "clerk".parse().unwrap(),
            skill.map(|name| name.parse::<Name>().unwrap()),
        );
        let of = SecretUse {
            secret: "mail",
            broker: "api",
            agent: &agent,
            through: &["intern".parse().unwrap()],
            skill: skill.as_ref(),
        };
        let facts = Facts {
            principal: Principal {
                uid: 1000,
                role: Role::User,
            },
            taint: TaintSet::of(taint),
            circumstances: crate::Circumstances::default(),
            now_ms: 1_795_478_400_000,
        };
        assert_eq!(
            may_use(&rules, &of, &facts).allowed,
            allowed,
            "{more} {taint:?} {skill:?}"
        );
    }

    #[test]
    fn shipped_policy_leaves_it_to_the_list_of_the_secret_but_for_signs_of_an_attack() {
        check("", Taint::User, None, true);
        check("", Taint::Model, Some("mail"), true);
        check("", Taint::Suspicious, Some("mail"), false);
    }

    #[test]
    fn a_forbid_narrows_by_secret_broker_agent_and_skill() {
        let forbid = |condition: &str| {
            format!(
                "@id(\"narrow\") @reason(\"Narrower.\") forbid (principal, action == Action::\"secret_use\", resource) when {{ {condition} }};"
            )
        };
        for condition in [
            "resource == Secret::\"mail\"",
            "context.broker == \"api\"",
            "context.agent == \"clerk\"",
            "context.agent == \"intern\"",
            "context has skill && context.skill == \"mail\"",
            "principal.uid == 1000",
            "context.hour < 6",
        ] {
            check(&forbid(condition), Taint::User, Some("mail"), false);
        }
        check(&forbid("context has skill"), Taint::User, None, true);
        check(
            &forbid("resource == Secret::\"other\""),
            Taint::User,
            None,
            true,
        );
    }
}
