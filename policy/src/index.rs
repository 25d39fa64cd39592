//! Which policies could decide a question: the rules of its action, and of all grants the few that name what it is about.
//!
//! What is left out could not have matched: its scope names another action, user or resource, or it demands a path, a host or arguments
//! that the question does not have. So the answer and the rules that it names are those of all policies together;
//! `the_index_says_what_all_policies_together_say` compares them.

use std::collections::{BTreeMap, HashMap, HashSet};

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicySet, PolicySetError, PrincipalConstraint,
    ResourceConstraint, Schema,
};
use serde_json::Value;

use crate::known::TIMES;

/// Policies, by what they are about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    /// For each action of the schema, those that may be about it whoever asks.
    rules: HashMap<EntityUid, PolicySet>,
    /// Actions about which one of these asks what time it is.
    timed: HashSet<EntityUid>,
    /// Permits of one user for one thing.
    grants: HashMap<Scope, BTreeMap<Anchor, PolicySet>>,
}

/// Action, user and resource.
type Scope = (EntityUid, EntityUid, EntityUid);

/// What a grant demands beside its scope, so that it is looked at only where that is so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Anchor {
    /// Nothing that is known here.
    Any,
    /// This path.
    Path(String),
    /// A path that begins like this.
    Beneath(String),
    /// Arguments of this digest.
    Arguments(String),
    /// This host and port.
    Host(String),
}

/// What a question has of that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anchors<'a> {
    /// Its path.
    pub(crate) path: Option<&'a str>,
    /// The digest of its arguments.
    pub(crate) arguments: Option<&'a str>,
    /// The host and port that it reaches.
    pub(crate) host: Option<&'a str>,
}

impl Index {
    /// One that knows the actions of this schema and no policy.
    pub(crate) fn new(schema: &Schema) -> Self {
        let actions = schema.actions().cloned();
        Self {
            rules: actions.map(|action| (action, PolicySet::new())).collect(),
            timed: HashSet::new(),
            grants: HashMap::new(),
        }
    }

    /// Adds a rule, which is looked at for each question of its actions.
    pub(crate) fn add_rule(&mut self, policy: &Policy) -> Result<(), Box<PolicySetError>> {
        for (action, set) in &mut self.rules {
            let about = match policy.action_constraint() {
                ActionConstraint::Any => true,
                ActionConstraint::Eq(one) => one == *action,
                // Our schema has no groups of actions; with one, `in` could mean an action that it does not name.
                ActionConstraint::In(several) => several.contains(action),
            };
            if about {
                set.add(policy.clone()).map_err(Box::new)?;
                if is_timed(policy) {
                    self.timed.insert(action.clone());
                }
            }
        }
        Ok(())
    }

    /// Adds a grant, which is looked at only where it could match. What does not look like one is looked at always.
    pub(crate) fn add_grant(&mut self, policy: &Policy) -> Result<(), Box<PolicySetError>> {
        let scope = (
            policy.effect(),
            policy.action_constraint(),
            policy.principal_constraint(),
            policy.resource_constraint(),
        );
        let (
            Effect::Permit,
            ActionConstraint::Eq(action),
            PrincipalConstraint::Eq(user),
            ResourceConstraint::Eq(resource),
        ) = scope
        else {
            return self.add_rule(policy);
        };
        let set = self
            .grants
            .entry((action, user, resource))
            .or_default()
            .entry(anchor(policy))
            .or_default();
        set.add(policy.clone()).map_err(Box::new)
    }

    /// Whether a rule about this action asks what time it is; of grants nothing is said.
    pub(crate) fn is_timed(&self, action: &EntityUid) -> bool {
        self.timed.contains(action)
    }

    /// Whether there are grants at all.
    pub(crate) fn is_granted(&self) -> bool {
        !self.grants.is_empty()
    }

    /// Whether a grant could match by its scope alone.
    pub(crate) fn has_grants(
        &self,
        action: &EntityUid,
        user: &EntityUid,
        resource: &EntityUid,
    ) -> bool {
        !self.grants.is_empty()
            && self
                .grants
                .contains_key(&(action.clone(), user.clone(), resource.clone()))
    }

    /// The sets of policies that could match. None for an action that the schema does not have.
    pub(crate) fn candidates<'a>(
        &'a self,
        (action, user, resource): (&EntityUid, &EntityUid, &EntityUid),
        anchors: &Anchors<'_>,
    ) -> impl Iterator<Item = &'a PolicySet> + use<'a> {
        let mut sets: Vec<&PolicySet> = self.rules.get(action).into_iter().collect();
        let scope = (action.clone(), user.clone(), resource.clone());
        if let Some(grants) = self.grants.get(&scope) {
            sets.extend(anchors.each().filter_map(|anchor| grants.get(&anchor)));
        }
        sets.into_iter()
    }
}

impl Anchors<'_> {
    /// Every anchor that a grant which matches can have.
    fn each(&self) -> impl Iterator<Item = Anchor> + '_ {
        let path = self.path.into_iter();
        let beneath = path.clone().flat_map(|path| {
            let ends = path.match_indices('/').map(|(at, _)| at + 1);
            ends.map(|end| Anchor::Beneath(path[..end].to_owned()))
        });
        let arguments = self.arguments.into_iter();
        std::iter::once(Anchor::Any)
            .chain(path.map(|path| Anchor::Path(path.to_owned())))
            .chain(beneath)
            .chain(arguments.map(|digest| Anchor::Arguments(digest.to_owned())))
            .chain(self.host.map(|host| Anchor::Host(host.to_owned())))
    }
}

/// Whether a policy reads what time it is: it cannot without the name of such a fact, which stands in its syntax tree as it is, however it
/// was written.
fn is_timed(policy: &Policy) -> bool {
    let Ok(tree) = policy.to_json() else {
        return true;
    };
    let tree = tree.to_string();
    TIMES
        .iter()
        .any(|name| tree.contains(&format!("\"{name}\"")))
}

/// What a policy demands in any case, read from its own conditions: those of its one `when` that stand beside each other.
fn anchor(policy: &Policy) -> Anchor {
    let json = policy.to_json().unwrap_or_default();
    let conditions = json.get("conditions").and_then(Value::as_array);
    let Some([condition]) = conditions.map(Vec::as_slice) else {
        return Anchor::Any;
    };
    let mut open: Vec<&Value> = match condition.get("kind").and_then(Value::as_str) {
        Some("when") => condition.get("body").into_iter().collect(),
        _ => Vec::new(),
    };
    while let Some(one) = open.pop() {
        if let Some(both) = one.get("&&") {
            open.extend(both.get("left").into_iter().chain(both.get("right")));
        } else if let Some(anchor) = demanded(one) {
            return anchor;
        }
    }
    Anchor::Any
}

/// The anchor that one condition is.
fn demanded(condition: &Value) -> Option<Anchor> {
    if let Some(equal) = condition.get("==") {
        let value = equal.get("right")?.get("Value")?.as_str()?.to_owned();
        return match fact(equal.get("left")?)? {
            "path" => Some(Anchor::Path(value)),
            "arguments" => Some(Anchor::Arguments(value)),
            "host" => Some(Anchor::Host(value)),
            _ => None,
        };
    }
    let like = condition.get("like")?;
    if fact(like.get("left")?)? != "path" {
        return None;
    }
    // Letters, and one asterisk behind them. A directory ends in a slash, so that its paths have it among their beginnings.
    let (last, letters) = like.get("pattern")?.as_array()?.split_last()?;
    let letters = letters.iter().map(|one| one.get("Literal")?.as_str());
    let beginning = letters.collect::<Option<String>>()?;
    (last.as_str() == Some("Wildcard") && beginning.ends_with('/'))
        .then_some(Anchor::Beneath(beginning))
}

/// The fact that an expression is, where it is `context.FACT`.
fn fact(expression: &Value) -> Option<&str> {
    let got = expression.get(".")?;
    let of_context = got.get("left")?.get("Var")?.as_str()? == "context";
    of_context.then(|| got.get("attr")?.as_str()).flatten()
}

#[cfg(test)]
pub(crate) mod tests;
