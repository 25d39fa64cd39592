//! The Cedar policies of this host: parsed, validated against our schema, and named by their `@id`.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use cedar_policy::{
    Effect, Policy, PolicyId, PolicySet, PolicySetError, Schema, Template, ValidationError,
    ValidationMode, Validator,
};

use crate::{index::Index, known::Known, words::Digest};

/// The schema that every policy is validated against, in Cedar's own notation.
pub const SCHEMA: &str = include_str!("../paw.cedarschema");

/// The policy that ships, installed as `/etc/pawd/policy/10-default.cedar`.
pub const DEFAULT: &str = include_str!("../default.cedar");

/// What a host with one operator adds to it; installed as an example.
pub const SINGLE_OPERATOR: &str = include_str!("../single-operator.cedar");

/// Something wrong in a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct Fault {
    /// Name of the file, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

/// Valid policies; what [`crate::judge`] decides by.
#[derive(Debug, Clone)]
pub struct Rules {
    pub(crate) policies: PolicySet,
    pub(crate) index: Index,
    pub(crate) known: Known,
    schema: Schema,
    names: BTreeMap<PolicyId, String>,
    places: BTreeMap<PolicyId, (String, usize, usize)>,
    texts: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
    /// Those that people granted, by their `@id`.
    granted: BTreeSet<String>,
    digest: Digest,
}

/// One rule, as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule<'a> {
    /// Its `@id`.
    pub id: &'a str,
    /// Whether it permits; else it forbids.
    pub permits: bool,
    /// Its `@reason`, where it has one.
    pub reason: Option<&'a str>,
    /// Its text.
    pub text: &'a str,
    /// The file it is in.
    pub file: &'a str,
    /// Line in that file, from 1.
    pub line: usize,
}

impl Rules {
    /// Parses and validates policy files, given as (name, text).
    ///
    /// # Errors
    /// All faults of all files, each with its place. No policy at all is a fault too: it would deny everything unsaid.
    pub fn parse(files: &[(String, String)]) -> Result<Self, Vec<Fault>> {
        let schema = schema()?;
        let (mut all, mut faults) = (Vec::new(), Vec::new());
        for (file, text) in files {
            match PolicySet::from_str(text) {
                Ok(set) => {
                    all.extend(set.policies().map(|policy| (file, text, policy.clone())));
                    faults.extend(
                        set.templates()
                            .map(|template| of_nobody(file, text, template)),
                    );
                }
                Err(errors) => faults.extend(errors.iter().map(|error| {
                    let offset = miette_offset(error);
                    fault(file, text, offset, &error.to_string(), help(error))
                })),
            }
        }
        let mut rules = Self {
            policies: PolicySet::new(),
            index: Index::new(&schema),
            known: Known::default(),
            schema,
            names: BTreeMap::new(),
            places: BTreeMap::new(),
            texts: BTreeMap::new(),
            files: files.iter().cloned().collect(),
            granted: BTreeSet::new(),
            digest: digest(files),
        };
        for (index, (file, text, policy)) in all.into_iter().enumerate() {
            if let Err(fault) = rules.add(index, file, text, &policy, Index::add_rule) {
                faults.push(fault);
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        rules.validate(&rules.policies)?;
        if rules.names.is_empty() {
            let hint = Some(
                "install the shipped 10-default.cedar; without a rule everything is denied"
                    .to_owned(),
            );
            return Err(vec![Fault {
                file: "policy".into(),
                line: 1,
                column: 1,
                message: "no policy in any file".into(),
                hint,
            }]);
        }
        Ok(rules)
    }

    /// The policy that ships.
    ///
    /// # Errors
    /// Never in a build whose tests have passed.
    pub fn shipped() -> Result<Self, Vec<Fault>> {
        Self::parse(&[("10-default.cedar".to_owned(), DEFAULT.to_owned())])
    }

    /// Digest over the names and texts of all files; goes into each audit record of a judgement.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Every rule by its `@id`, with its text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// The rule of this `@id`.
    #[must_use]
    pub fn rule(&self, id: &str) -> Option<Rule<'_>> {
        let (id, text) = self.texts.get_key_value(id)?;
        let (policy, _) = self.names.iter().find(|(_, name)| *name == id)?;
        let (file, line, _) = self.places.get(policy)?;
        let policy = self.policies.policy(policy)?;
        Some(Rule {
            id,
            permits: policy.effect() == Effect::Permit,
            reason: policy.annotation("reason"),
            text,
            file,
            line: *line,
        })
    }

    /// Whether any rule has this word in it, so that what takes time to find out is found out only where a rule may ask for it.
    #[must_use]
    pub fn mention(&self, word: &str) -> bool {
        self.texts.values().any(|text| text.contains(word))
    }

    /// These rules and grants beside them: further permits, which lose to every forbid as any other does.
    ///
    /// # Errors
    /// When one is no rule of our schema, or its name is taken.
    pub fn with_grants<'a>(
        &self,
        grants: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Vec<Fault>> {
        let mut rules = self.clone();
        let mut bytes = b"pawd-grants/1\0".to_vec();
        bytes.extend_from_slice(self.digest.as_bytes());
        let mut granted = PolicySet::new();
        for text in grants {
            let file = "grants";
            let set = PolicySet::from_str(text)
                .map_err(|error| vec![fault(file, text, 0, &error.to_string(), None)])?;
            for policy in set.policies() {
                let index = rules.names.len();
                let added = rules
                    .add(index, file, text, policy, Index::add_grant)
                    .map_err(|fault| vec![fault])?;
                rules
                    .granted
                    .extend(added.annotation("id").map(str::to_owned));
                granted
                    .add(added)
                    .map_err(|error| vec![fault(file, text, 0, &error.to_string(), None)])?;
            }
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        if !granted.is_empty() {
            rules.validate(&granted)?;
            rules.digest = Digest::of(&bytes);
        }
        Ok(rules)
    }

    /// Whether this is the `@id` of what a person granted.
    pub(crate) fn is_grant(&self, id: &str) -> bool {
        self.granted.contains(id)
    }

    /// The schema, where each question is checked against it: not in a release, which would take longer for that than for its answer.
    pub(crate) fn checked(&self) -> Option<&Schema> {
        cfg!(debug_assertions).then_some(&self.schema)
    }

    /// The `@id` of a policy.
    pub(crate) fn name(&self, id: &PolicyId) -> String {
        self.names
            .get(id)
            .cloned()
            .unwrap_or_else(|| id.to_string())
    }

    fn add(
        &mut self,
        index: usize,
        file: &str,
        text: &str,
        policy: &Policy,
        indexed: impl FnOnce(&mut Index, &Policy) -> Result<(), Box<PolicySetError>>,
    ) -> Result<Policy, Fault> {
        let source = policy.to_cedar().unwrap_or_default();
        let named = |id: &&str| !id.is_empty();
        let id = policy.annotation("id").filter(named);
        let written = id.map(|id| format!("@id(\"{id}\")"));
        let offset = written.as_ref().and_then(|it| text.find(it)).unwrap_or(0);
        let name = id.map(str::to_owned).ok_or_else(|| {
            let hint = Some("write @id(\"short-name\") above it: denials and approvals name the rule that decided".to_owned());
            fault(file, text, text.find(source.trim()).unwrap_or(0), "a policy without @id", hint)
        })?;
        if self.texts.contains_key(&name) {
            // Where both stand in one file, it is the later one that is too many.
            let offset = written.and_then(|it| text.rfind(&it)).unwrap_or(offset);
            return Err(fault(
                file,
                text,
                offset,
                &format!("a second policy with @id(\"{name}\")"),
                None,
            ));
        }
        let id = PolicyId::new(format!("{index}:{name}"));
        let policy = policy.new_id(id.clone());
        let failed = |error: &PolicySetError| fault(file, text, offset, &error.to_string(), None);
        self.policies
            .add(policy.clone())
            .map_err(|error| failed(&error))?;
        indexed(&mut self.index, &policy).map_err(|error| failed(&error))?;
        let (line, column) = place(text, offset);
        self.places
            .insert(id.clone(), (file.to_owned(), line, column));
        self.names.insert(id, name.clone());
        self.texts.insert(name, source);
        Ok(policy)
    }

    fn validate(&self, policies: &PolicySet) -> Result<(), Vec<Fault>> {
        let result = Validator::new(self.schema.clone()).validate(policies, ValidationMode::Strict);
        let faults: Vec<Fault> = result
            .validation_errors()
            .map(|error| {
                let name = self.name(error.policy_id());
                let message = error
                    .to_string()
                    .replace(&error.policy_id().to_string(), &name);
                let hint = Some(format!(
                    "rule {name:?}; see paw-policy(5) for what the schema has"
                ));
                let (file, line, column) = self.place_of(error);
                Fault {
                    file,
                    line,
                    column,
                    message,
                    hint,
                }
            })
            .collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }
}

impl Rules {
    /// Where a fault is: the words that Cedar points at, or else the rule.
    fn place_of(&self, error: &ValidationError) -> (String, usize, usize) {
        let rule = self
            .places
            .get(error.policy_id())
            .cloned()
            .unwrap_or_else(|| ("policy".into(), 1, 1));
        let pointed = miette::Diagnostic::labels(error)
            .and_then(|mut labels| labels.next())
            .map(|label| label.offset());
        match (pointed, self.files.get(&rule.0)) {
            (Some(offset), Some(text)) => {
                let (line, column) = place(text, offset);
                (rule.0, line, column)
            }
            _ => rule,
        }
    }
}

fn schema() -> Result<Schema, Vec<Fault>> {
    match Schema::from_cedarschema_str(SCHEMA) {
        Ok((schema, _)) => Ok(schema),
        Err(error) => Err(vec![fault(
            "paw.cedarschema",
            SCHEMA,
            0,
            &error.to_string(),
            None,
        )]),
    }
}

fn digest(files: &[(String, String)]) -> Digest {
    let mut bytes = b"pawd-policy/1\0".to_vec();
    for part in files.iter().flat_map(|(name, text)| [name, text]) {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    Digest::of(&bytes)
}

/// Line and column, both from 1, of a byte.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |tail| tail.chars().count())
        + 1;
    (line, column)
}

fn fault(file: &str, text: &str, offset: usize, message: &str, hint: Option<String>) -> Fault {
    let (line, column) = place(text, offset);
    Fault {
        file: file.to_owned(),
        line,
        column,
        message: message.to_owned(),
        hint,
    }
}

/// A template is no rule before somebody is put into it, which nobody does here: whoever wrote it would take it for one.
fn of_nobody(file: &str, text: &str, template: &Template) -> Fault {
    let source = template.to_cedar();
    let rule = text.find(source.trim()).unwrap_or(0);
    let slot = template.slots().next().map(ToString::to_string);
    let slot = slot.unwrap_or_default();
    // Words in an annotation or a comment are no part of the scope, but they only move the place that is pointed at within the rule.
    let within = text.get(rule..).and_then(|text| text.find(&slot));
    let hint = Some(format!(
        "write whom or what it is about in place of {slot}, or leave the condition out to have it be about all"
    ));
    let message = format!("a template, which {slot} makes of it, is no rule and is never asked");
    fault(file, text, rule + within.unwrap_or(0), &message, hint)
}

fn miette_offset(error: &dyn miette::Diagnostic) -> usize {
    error
        .labels()
        .and_then(|mut labels| labels.next())
        .map_or(0, |label| label.offset())
}

fn help(error: &dyn miette::Diagnostic) -> Option<String> {
    error.help().map(|help| help.to_string())
}
