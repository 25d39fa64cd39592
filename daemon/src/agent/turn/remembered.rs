//! What models were told of the tools of an agent, kept for its next turn: making it copies the schema of every tool.
//!
//! It is the same for the same skills and the same agents that may be asked. A skill that is replaced or disabled is another value, or
//! none, and those of the last turn are held here, so that no other one can stand at the place of one of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use paw_policy::Name;

use super::told::{Told, TooMany};
use crate::{config::SubAgent, sandbox::Skill};

/// Agents whose tools are kept, some 256 KiB each at most; with one more all are made anew.
const MOST: usize = 64;

/// Those of the last turn of each agent.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<BTreeMap<Name, Last>>);

#[derive(Debug)]
struct Last {
    skills: Vec<Arc<Skill>>,
    helpers: Vec<SubAgent>,
    told: Arc<Told>,
}

impl Last {
    fn is_of(&self, skills: &[Arc<Skill>], helpers: &[SubAgent]) -> bool {
        let same = |(one, other): (&Arc<Skill>, &Arc<Skill>)| Arc::ptr_eq(one, other);
        self.skills.len() == skills.len()
            && self.skills.iter().zip(skills).all(same)
            && self.helpers == helpers
    }
}

impl Remembered {
    /// What a model is told of these.
    ///
    /// # Errors
    /// When they are more than a model can be told.
    pub(in crate::agent) fn told(
        &self,
        agent: &Name,
        skills: Vec<Arc<Skill>>,
        helpers: &[SubAgent],
    ) -> Result<Arc<Told>, TooMany> {
        let all = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = all().get(agent)
            && last.is_of(&skills, helpers)
        {
            return Ok(Arc::clone(&last.told));
        }
        let told = Arc::new(Told::whole(&skills, helpers)?);
        let last = Last {
            skills,
            helpers: helpers.to_vec(),
            told: Arc::clone(&told),
        };
        let mut all = all();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(agent.clone(), last);
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::turn::told::tests::skill;

    fn names(told: &Told) -> Vec<String> {
        told.list().iter().map(|tool| tool.name.clone()).collect()
    }

    #[test]
    fn model_is_told_of_skills_and_agents_as_they_are_now() {
        let (remembered, agent) = (Remembered::default(), "a".parse().unwrap());
        let told = |skills: &[&Arc<Skill>], helpers: &[SubAgent]| {
            let skills = skills.iter().map(|skill| Arc::clone(skill)).collect();
            remembered.told(&agent, skills, helpers).unwrap()
        };
        let (files, other) = (
            Arc::new(skill("files", &["read"])),
            Arc::new(skill("web", &["get"])),
        );
        let first = told(&[&files], &[]);
        assert!(Arc::ptr_eq(&first, &told(&[&files], &[])), "made once");
        assert_eq!(
            names(&told(&[&files, &other], &[])),
            ["files__read", "web__get"]
        );
        assert_eq!(names(&told(&[&other], &[])), ["web__get"]);
        let replaced = Arc::new(skill("web", &["put"]));
        assert_eq!(names(&told(&[&replaced], &[])), ["web__put"]);
        let helper = SubAgent {
            name: "helper".parse().unwrap(),
            about: "Helps.".into(),
        };
        assert_eq!(
            names(&told(&[&replaced], &[helper])),
            ["web__put", "ask_agent"]
        );
        assert_eq!(names(&told(&[&replaced], &[])), ["web__put"]);
        assert_eq!(names(&told(&[], &[])), [""; 0]);
    }

    #[test]
    fn no_more_agents_are_kept_than_the_bound() {
        let remembered = Remembered::default();
        for number in 0..3 * MOST {
            let agent = format!("a{number}").parse().unwrap();
            remembered.told(&agent, Vec::new(), &[]).unwrap();
            assert!(remembered.0.lock().unwrap().len() <= MOST);
        }
    }
}
