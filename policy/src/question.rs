//! One question to Cedar: who asks, what about, and the facts; built from our own types and never from a text.
//!
//! What is built here always fits our schema; builds with debug assertions validate each question, so that every test shows it.
//! Whatever goes wrong on the way is a no.

use std::{collections::HashSet, sync::LazyLock};

use cedar_policy::{
    Authorizer, Context, Decision as Cedar, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet, Request, RestrictedExpression as Expr,
};

use crate::{
    changes::Subject,
    facts::{self, Fact},
    index::Anchors,
    judge::Principal,
    known,
    plan::{Operation, Plan},
    rules::Rules,
    words::Role,
};

/// The entity types of our schema that questions name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Action,
    Agent,
    Budget,
    Channel,
    Endpoint,
    Host,
    Identity,
    Job,
    Model,
    Provider,
    Role,
    Secret,
    Skill,
    Tool,
    User,
    Workspace,
}

impl Type {
    const ALL: [Self; 16] = [
        Self::Action,
        Self::Agent,
        Self::Budget,
        Self::Channel,
        Self::Endpoint,
        Self::Host,
        Self::Identity,
        Self::Job,
        Self::Model,
        Self::Provider,
        Self::Role,
        Self::Secret,
        Self::Skill,
        Self::Tool,
        Self::User,
        Self::Workspace,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Action => "Action",
            Self::Agent => "Agent",
            Self::Budget => "Budget",
            Self::Channel => "Channel",
            Self::Endpoint => "Endpoint",
            Self::Host => "Host",
            Self::Identity => "Identity",
            Self::Job => "Job",
            Self::Model => "Model",
            Self::Provider => "Provider",
            Self::Role => "Role",
            Self::Secret => "Secret",
            Self::Skill => "Skill",
            Self::Tool => "Tool",
            Self::User => "User",
            Self::Workspace => "Workspace",
        }
    }
}

/// Names of types are read by Cedar's parser, which takes longer than all the rest of a question; so each is read once.
static NAMES: LazyLock<[EntityTypeName; Type::ALL.len()]> = LazyLock::new(|| {
    Type::ALL.map(|kind| {
        kind.as_str()
            .parse()
            .expect("entity types of our own schema are valid names")
    })
});

/// An entity of our schema.
pub(crate) fn uid(kind: Type, id: &str) -> EntityUid {
    let at = Type::ALL.iter().position(|known| *known == kind);
    let name = &NAMES[at.expect("every type is among all types")];
    EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id))
}

/// The one host that there is.
pub(crate) fn host() -> EntityUid {
    uid(Type::Host, "this")
}

/// Yes or no, and the rules that say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) allowed: bool,
    pub(crate) rules: Vec<String>,
}

impl Outcome {
    const fn no() -> Self {
        Self {
            allowed: false,
            rules: Vec::new(),
        }
    }
}

/// A question that can be asked with and without a person's yes.
#[derive(Debug)]
pub(crate) struct Question {
    principal: EntityUid,
    action: EntityUid,
    resource: EntityUid,
    entities: Entities,
    facts: Vec<(&'static str, Fact)>,
}

impl Question {
    /// A question about this resource; none where it cannot be put.
    pub(crate) fn new(
        rules: &Rules,
        principal: &Principal,
        action: &str,
        resource: EntityUid,
        entity: Option<Entity>,
        facts: Vec<(&'static str, Fact)>,
    ) -> Option<Self> {
        let who = uid(Type::User, &principal.uid.to_string());
        let number = ("uid".to_owned(), Expr::new_long(i64::from(principal.uid)));
        let user = Entity::new(who.clone(), [number].into(), roles(principal.role)).ok()?;
        // Somebody on a channel is in that channel; what else facts name has no members.
        let peers = facts.iter().filter_map(|(_, fact)| match fact {
            Fact::Entity(Type::Identity, id) => Some(id),
            _ => None,
        });
        let peers = peers.map(|id| {
            let channel = id.split(':').next().unwrap_or_default();
            let channel = HashSet::from([uid(Type::Channel, channel)]);
            Entity::new_no_attrs(uid(Type::Identity, id), channel)
        });
        let all = std::iter::once(user).chain(entity).chain(peers);
        let entities = Entities::from_entities(all, rules.checked())
            .inspect_err(|error| debug_assert!(false, "{error}"))
            .ok()?;
        Some(Self {
            principal: who,
            action: uid(Type::Action, action),
            resource,
            entities,
            facts,
        })
    }

    /// This question as a text, where its answer may be kept: see [`crate::known`].
    pub(crate) fn as_text(
        rules: &Rules,
        plan: &Plan,
        principal: &Principal,
        facts: &[(&'static str, Fact)],
    ) -> Option<String> {
        if rules.index.is_granted() {
            let (action, resource, _) = subject(plan)?;
            let who = uid(Type::User, &principal.uid.to_string());
            let action = uid(Type::Action, action);
            if rules.index.has_grants(&action, &who, &resource) {
                return None;
            }
        }
        let timed = rules.index.is_timed(&uid(Type::Action, action_of(plan)));
        known::question(plan, principal, facts, timed)
    }

    /// The question whether this plan may be executed.
    pub(crate) fn about(
        rules: &Rules,
        plan: &Plan,
        principal: &Principal,
        mut facts: Vec<(&'static str, Fact)>,
    ) -> Option<Self> {
        let (action, resource, entity) = subject(plan)?;
        let who = uid(Type::User, &principal.uid.to_string());
        // What only grants compare is told only where there are any for this user and this.
        if rules
            .index
            .has_grants(&uid(Type::Action, action), &who, &resource)
        {
            facts.extend(facts::fingerprint(plan));
        }
        Self::new(rules, principal, action, resource, entity, facts)
    }

    /// Asks it, with further facts.
    pub(crate) fn ask(&self, rules: &Rules, more: &[(&'static str, Fact)]) -> Outcome {
        let Some(request) = self.request(rules, more) else {
            return Outcome::no();
        };
        self.decide(rules, &request, self.candidates(rules))
    }

    /// The sets of policies that could decide it.
    pub(crate) fn candidates<'a>(
        &self,
        rules: &'a Rules,
    ) -> impl Iterator<Item = &'a PolicySet> + use<'a> {
        let anchors = Anchors {
            path: self.text("path"),
            arguments: self.text("arguments"),
            host: self.text("host"),
        };
        let scope = (&self.action, &self.principal, &self.resource);
        rules.index.candidates(scope, &anchors)
    }

    /// The same, judged by every policy there is: what [`Self::ask`] has to come to.
    #[cfg(test)]
    pub(crate) fn ask_all(&self, rules: &Rules, more: &[(&'static str, Fact)]) -> Outcome {
        self.request(rules, more)
            .map_or_else(Outcome::no, |request| {
                self.decide(rules, &request, std::iter::once(&rules.policies))
            })
    }

    fn request(&self, rules: &Rules, more: &[(&'static str, Fact)]) -> Option<Request> {
        let pairs = self.facts.iter().chain(more);
        let pairs = pairs.map(|(name, fact)| ((*name).to_owned(), fact.to_expr()));
        let context = Context::from_pairs(pairs)
            .inspect_err(|error| debug_assert!(false, "{error}"))
            .ok()?;
        let (who, action) = (self.principal.clone(), self.action.clone());
        Request::new(who, action, self.resource.clone(), context, rules.checked())
            .inspect_err(|error| debug_assert!(false, "{error}"))
            .ok()
    }

    /// What sets of policies say together: a forbid in any of them wins, and a policy that cannot be evaluated may be one.
    fn decide<'a>(
        &self,
        rules: &Rules,
        request: &Request,
        sets: impl Iterator<Item = &'a PolicySet>,
    ) -> Outcome {
        let (mut permits, mut forbids) = (Vec::new(), Vec::new());
        let authorizer = Authorizer::new();
        for set in sets {
            let response = authorizer.is_authorized(request, set, &self.entities);
            let said = response.diagnostics();
            if said.errors().next().is_some() {
                return Outcome::no();
            }
            let ids = said.reason().map(|id| rules.name(id));
            match response.decision() {
                Cedar::Allow => permits.extend(ids),
                Cedar::Deny => forbids.extend(ids),
            }
        }
        let allowed = forbids.is_empty() && !permits.is_empty();
        let mut rules = if forbids.is_empty() { permits } else { forbids };
        rules.sort();
        Outcome { allowed, rules }
    }

    fn text(&self, name: &str) -> Option<&str> {
        let fact = self.facts.iter().find(|(known, _)| *known == name);
        match &fact?.1 {
            Fact::Text(text) => Some(text),
            Fact::Truth(_) | Fact::Number(_) | Fact::Texts(_) | Fact::Entity(..) => None,
        }
    }
}

/// The action of a plan.
const fn action_of(plan: &Plan) -> &'static str {
    match &plan.operation {
        Operation::Chat(_) => "chat",
        Operation::SandboxRun(_) => "sandbox_run",
        Operation::ApiCall(_) => "api_call",
        Operation::SkillChange(_) => "skill_change",
        Operation::ModelSwitch(_) => "model_switch",
        Operation::ConfigChange(_) | Operation::SecretChange(_) => "config_change",
        Operation::FileOperation(_) => "file_operation",
        Operation::ToolCall(_) => "tool_call",
    }
}

/// The action of a plan, what it is about, and that as an entity where it has attributes; none where it cannot be read.
fn subject(plan: &Plan) -> Option<(&'static str, EntityUid, Option<Entity>)> {
    let action = action_of(plan);
    Some(match &plan.operation {
        Operation::Chat(_) => (action, uid(Type::Agent, plan.agent.as_str()), None),
        Operation::SandboxRun(_) => (action, host(), None),
        Operation::ApiCall(call) => {
            let endpoint = uid(Type::Endpoint, facts::place(&call.rule));
            let (host, port) = facts::host_and_port(&call.rule)?;
            let attributes = [
                ("host".to_owned(), Expr::new_string(host.to_owned())),
                ("port".to_owned(), Expr::new_long(i64::from(port))),
            ];
            let entity = Entity::new(endpoint.clone(), attributes.into(), HashSet::new()).ok()?;
            (action, endpoint, Some(entity))
        }
        Operation::SkillChange(change) => {
            let skill = uid(Type::Skill, change.skill.as_str());
            (action, skill, None)
        }
        Operation::ModelSwitch(switch) => {
            let to = &switch.to;
            let model = uid(Type::Model, &format!("{}/{}", to.provider, to.model));
            let provider = HashSet::from([uid(Type::Provider, to.provider.as_str())]);
            let entity = Entity::new_no_attrs(model.clone(), provider);
            (action, model, Some(entity))
        }
        Operation::ConfigChange(change) => {
            let kind = match change.change.subject() {
                Subject::Provider => Type::Provider,
                Subject::Budget => Type::Budget,
                Subject::Agent => Type::Agent,
                Subject::Config => Type::Host,
                Subject::Model => Type::Model,
            };
            let about = uid(kind, &change.about());
            let provider = uid(Type::Provider, change.name.as_str());
            let entity = (kind == Type::Model)
                .then(|| Entity::new_no_attrs(about.clone(), HashSet::from([provider])));
            (action, about, entity)
        }
        Operation::SecretChange(change) => (action, uid(Type::Secret, &change.secret), None),
        Operation::FileOperation(files) => {
            (action, uid(Type::Workspace, files.workspace.as_str()), None)
        }
        Operation::ToolCall(call) => {
            let tool = uid(Type::Tool, &format!("{}/{}", call.skill, call.tool));
            let class = Expr::new_string(call.class.as_str().to_owned());
            let skill = HashSet::from([uid(Type::Skill, call.skill.as_str())]);
            let attributes = [("class".to_owned(), class)].into();
            let entity = Entity::new(tool.clone(), attributes, skill).ok()?;
            (action, tool, Some(entity))
        }
    })
}

/// A role and those that it includes.
fn roles(role: Role) -> HashSet<EntityUid> {
    let names: &[&str] = match role {
        Role::User => &["user"],
        Role::Approver => &["approver", "user"],
        Role::Admin => &["admin", "approver", "user"],
    };
    names.iter().map(|name| uid(Type::Role, name)).collect()
}
