//! Whose limit and whose budget an attempt is counted in. Pure.

use paw_policy::{Name, Target};
use uuid::Uuid;

use crate::config::quotas::{Each, Scope};

/// For whom an attempt is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The action that asks.
    pub action: Uuid,
    /// The agent that answers.
    pub agent: Name,
    /// Number of the user who asked.
    pub uid: u32,
    /// Their name, where it is known.
    pub user: Option<String>,
    /// The conversation.
    pub session: String,
}

/// What a limit or a budget counts together: `provider=cloud,user=1000`, of what it is split by; empty if by nothing. Models that the
/// configuration does not name (`named`) are counted together: whoever asks may call them what they like.
#[must_use]
pub fn key(scope: &Scope, who: &Who, target: &Target, named: bool) -> Option<String> {
    let is = |wanted: &Option<Name>, name: &Name| wanted.as_ref().is_none_or(|it| it == name);
    let is_user = |wanted: &String| {
        who.user.as_ref() == Some(wanted) || wanted.parse::<u32>().is_ok_and(|uid| uid == who.uid)
    };
    let fits = is(&scope.provider, &target.provider)
        && is(&scope.agent, &who.agent)
        && scope.model.as_ref().is_none_or(|it| *it == target.model)
        && scope.user.as_ref().is_none_or(is_user);
    if !fits {
        return None;
    }
    let part = |each: &Each| {
        let value = match each {
            Each::Provider => target.provider.to_string(),
            // Of two providers, models of one name are two.
            Each::Model if named => format!("{}/{}", target.provider, target.model),
            Each::Model => format!("{}/*", target.provider),
            Each::Agent => who.agent.to_string(),
            // A name may be given to somebody else.
            Each::User => who.uid.to_string(),
            Each::Session => who.session.clone(),
        };
        named_part(*each, &value)
    };
    let parts: Vec<String> = scope.each.iter().map(part).collect();
    Some(parts.join(","))
}

/// The part of a key that says this conversation.
#[must_use]
pub fn of_session(session: &str) -> String {
    named_part(Each::Session, session)
}

fn named_part(each: Each, value: &str) -> String {
    format!("{}={value}", each.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn who() -> Who {
        Who {
            action: Uuid::nil(),
            agent: "clerk".parse().unwrap(),
            uid: 1000,
            user: Some("ann".into()),
            session: "s1".into(),
        }
    }

    fn scope() -> Scope {
        Scope {
            provider: None,
            model: None,
            agent: None,
            user: None,
            each: BTreeSet::new(),
        }
    }

    fn found(scope: Scope) -> Option<String> {
        let target = Target {
            provider: "cloud".parse().unwrap(),
            model: "big".into(),
        };
        key(&scope, &who(), &target, true)
    }

    #[test]
    fn without_a_word_all_are_counted_together() {
        assert_eq!(found(scope()), Some(String::new()));
    }

    #[test]
    fn what_is_named_has_to_be_there() {
        let named = |provider: &str, model: &str, agent: &str, user: &str| Scope {
            provider: Some(provider.parse().unwrap()),
            model: Some(model.into()),
            agent: Some(agent.parse().unwrap()),
            user: Some(user.into()),
            ..scope()
        };
        for user in ["ann", "1000"] {
            assert_eq!(
                found(named("cloud", "big", "clerk", user)),
                Some(String::new())
            );
        }
        for (provider, model, agent, user) in [
            ("other", "big", "clerk", "ann"),
            ("cloud", "other", "clerk", "ann"),
            ("cloud", "big", "other", "ann"),
            ("cloud", "big", "clerk", "other"),
            ("cloud", "big", "clerk", "1001"),
        ] {
            assert_eq!(found(named(provider, model, agent, user)), None);
        }
    }

    #[test]
    fn models_that_nobody_configured_have_one_count() {
        let each = Scope {
            each: BTreeSet::from([Each::Model]),
            ..scope()
        };
        for model in ["x1", "x2"] {
            let target = Target {
                provider: "cloud".parse().unwrap(),
                model: model.into(),
            };
            let found = key(&each, &who(), &target, false);
            assert_eq!(found.as_deref(), Some("model=cloud/*"));
        }
    }

    #[test]
    fn each_has_a_count_of_its_own() {
        let each = Scope {
            each: Each::ALL.into_iter().collect(),
            ..scope()
        };
        let expected = "provider=cloud,model=cloud/big,agent=clerk,user=1000,session=s1";
        assert_eq!(found(each).as_deref(), Some(expected));
    }
}
