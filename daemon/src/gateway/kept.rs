//! Answers that are given again to who asks exactly the same. Pure: it is told the time.
//!
//! It is opted into by a route, and only what has one right answer is kept: temperature 0, and an answer that came to its own end and calls no tool.
//! The key is a digest of everything that would be sent, of the place and the model that it would be sent to, and of whose question it
//! is: agent and user. So nobody is given what another user was told, no answer crosses from one place to another, and an
//! answer of a provider on this host is found only by a question that would go to the same one. Nothing of it is on a disk.

use std::{collections::BTreeMap, time::Duration};

use paw_llm::ChatRequest;
use paw_policy::{Digest, Name};
use tokio::time::Instant;

use crate::config::{ProviderSettings, routes::CacheSettings};

/// What an entry takes besides its texts, in bytes: its key, its place in the map, its times.
const OVERHEAD: u64 = 256;

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What was said.
    pub text: String,
    /// The model that said it, as the provider named it.
    pub model: String,
}

/// Whose question it is, and to whom it would go.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// Which agent.
    pub agent: &'a Name,
    /// Which user of this host.
    pub uid: u32,
    /// Who would be asked.
    pub provider: &'a ProviderSettings,
}

/// All of them, by route.
#[derive(Debug, Default)]
pub struct Answers {
    routes: BTreeMap<Name, Answered>,
}

/// Those of one route.
#[derive(Debug, Default)]
struct Answered {
    entries: BTreeMap<Digest, Entry>,
    /// Their keys in the order in which they were used last.
    by_use: BTreeMap<u64, Digest>,
    /// Their keys in the order in which they were kept.
    by_age: BTreeMap<u64, Digest>,
    bytes: u64,
    /// Counts what was done, which gives both orders.
    done: u64,
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    at: Instant,
    put: u64,
    used: u64,
}

impl Entry {
    fn bytes(&self) -> u64 {
        (self.kept.text.len() + self.kept.model.len()) as u64 + OVERHEAD
    }
}

/// The key of a question; none where its answer is not to be kept. The request's model is the target's.
#[must_use]
pub fn key(request: &ChatRequest, whose: Whose<'_>) -> Option<Digest> {
    let ChatRequest {
        model,
        messages,
        tools,
        tool_choice,
        schema,
        max_tokens,
        temperature,
        // How an answer comes does not change which one it is.
        stream: _,
    } = request;
    // What offers tools is asked for what is to be done, and that anew each time.
    if *temperature != Some(0.0) || !tools.is_empty() {
        return None;
    }
    let Whose {
        agent,
        uid,
        provider,
    } = whose;
    let ProviderSettings {
        kind,
        base_url,
        api_key_credential,
        api_key_secret,
        ..
    } = provider;
    // `Debug` of these writes out every member with its name, and texts quoted, so no two questions are written alike.
    let whole = format!(
        "{:?}",
        (
            (agent.as_str(), uid),
            (kind.as_str(), base_url.as_str()),
            (api_key_credential, api_key_secret),
            (model, messages, tool_choice, schema, max_tokens),
        )
    );
    Some(Digest::of(whole.as_bytes()))
}

impl Answers {
    /// The answer to this question, if it is kept and not too old.
    pub fn find(
        &mut self,
        route: &Name,
        key: Digest,
        terms: CacheSettings,
        now: Instant,
    ) -> Option<Kept> {
        let answered = self.routes.get_mut(route)?;
        answered.forget_old(terms.age, now);
        answered.done += 1;
        let entry = answered.entries.get_mut(&key)?;
        answered.by_use.remove(&entry.used);
        entry.used = answered.done;
        answered.by_use.insert(entry.used, key);
        Some(entry.kept.clone())
    }

    /// Keeps an answer; those that were used longest ago make room.
    pub fn keep(
        &mut self,
        route: &Name,
        key: Digest,
        kept: Kept,
        terms: CacheSettings,
        now: Instant,
    ) {
        let answered = self.routes.entry(route.clone()).or_default();
        answered.forget_old(terms.age, now);
        answered.done += 1;
        let entry = Entry {
            kept,
            at: now,
            put: answered.done,
            used: answered.done,
        };
        answered.remove(key);
        if entry.bytes() > terms.size {
            return;
        }
        while answered.bytes + entry.bytes() > terms.size {
            let oldest = answered.by_use.first_key_value();
            let Some(oldest) = oldest.map(|(_, key)| *key) else {
                break;
            };
            answered.remove(oldest);
        }
        answered.bytes += entry.bytes();
        answered.by_use.insert(entry.used, key);
        answered.by_age.insert(entry.put, key);
        answered.entries.insert(key, entry);
    }

    /// Bytes that are kept for each route.
    pub fn bytes(&self) -> impl Iterator<Item = (&Name, u64)> {
        let all = self.routes.iter();
        all.map(|(route, answered)| (route, answered.bytes))
    }

    /// Forgets what was kept for routes that keep nothing any more.
    pub fn retain(&mut self, keeps: impl Fn(&Name) -> bool) {
        self.routes.retain(|route, _| keeps(route));
    }
}

impl Answered {
    fn forget_old(&mut self, age: Duration, now: Instant) {
        while let Some((_, key)) = self.by_age.first_key_value() {
            let key = *key;
            let young = self.entries.get(&key);
            if young.is_some_and(|it| now.saturating_duration_since(it.at) < age) {
                return;
            }
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Digest) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.bytes();
            self.by_use.remove(&entry.used);
            self.by_age.remove(&entry.put);
        }
    }
}

#[cfg(test)]
mod tests {
    use paw_llm::{Message, Tool};
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Config, check::check, source::Source};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn config(url: &str, more: &str) -> Config {
        let text = format!(
            "[provider.p]\nkind = \"openai\"\nbase_url = \"{url}\"\nmodel = \"m\"\n{more}\n"
        );
        let source = Source {
            name: "pawd.toml".into(),
            text,
        };
        check(vec![source], None).unwrap()
    }

    fn question() -> ChatRequest {
        ChatRequest {
            temperature: Some(0.0),
            max_tokens: Some(9),
            ..ChatRequest::new("m", vec![Message::user("hello")])
        }
    }

    fn keyed(request: &ChatRequest, agent: &str, uid: u32, config: &Config) -> Option<Digest> {
        let whose = Whose {
            agent: &name(agent),
            uid,
            provider: &config.providers[&name("p")],
        };
        key(request, whose)
    }

    #[test]
    fn whatever_differs_makes_another_question() {
        let here = config("http://127.0.0.1:1", "");
        let first = keyed(&question(), "a", 1, &here).unwrap();
        assert_eq!(keyed(&question(), "a", 1, &here), Some(first));
        let changed = |change: fn(&mut ChatRequest)| {
            let mut request = question();
            change(&mut request);
            keyed(&request, "a", 1, &here)
        };
        let others = [
            keyed(&question(), "b", 1, &here),
            keyed(&question(), "a", 2, &here),
            keyed(&question(), "a", 1, &config("http://127.0.0.1:2", "")),
            keyed(
                &question(),
                "a",
                1,
                &config("http://127.0.0.1:1", "api_key_credential = \"k\""),
            ),
            changed(|it| it.model = "n".into()),
            changed(|it| it.max_tokens = None),
            changed(|it| it.messages.push(Message::assistant("yes"))),
            changed(|it| it.messages = vec![Message::System("hello".into())]),
            changed(|it| it.messages = vec![Message::user("hello\") ")]),
        ];
        for (at, other) in others.into_iter().enumerate() {
            assert!(other.is_some() && other != Some(first), "{at}");
        }
    }

    #[test]
    fn only_what_has_one_right_answer_is_kept() {
        let here = config("http://127.0.0.1:1", "");
        for temperature in [None, Some(0.1), Some(1.0)] {
            let request = ChatRequest {
                temperature,
                ..question()
            };
            assert_eq!(keyed(&request, "a", 1, &here), None);
        }
    }

    #[test]
    fn question_that_offers_tools_is_asked_each_time() {
        let mut request = question();
        request.tools = [Tool {
            name: "t".into(),
            description: String::new(),
            parameters: (&serde_json::Value::Null).into(),
        }]
        .into();
        assert_eq!(
            keyed(&request, "a", 1, &config("http://127.0.0.1:1", "")),
            None
        );
    }

    fn kept(bytes: usize) -> Kept {
        Kept {
            text: "x".repeat(bytes),
            model: String::new(),
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_within_its_bytes_and_its_age(
            steps in prop::collection::vec((0_u8..12, 0_usize..2_000, 0_u64..30, any::<bool>()), 1..200),
        ) {
            let terms = CacheSettings { size: 4_096, age: Duration::from_secs(60) };
            let (route, mut answers, mut now) = (name("r"), Answers::default(), Instant::now());
            let mut put: BTreeMap<u8, (usize, Instant)> = BTreeMap::new();
            for (key, bytes, seconds, looks) in steps {
                now += Duration::from_secs(seconds);
                let digest = Digest::of(&[key]);
                if looks {
                    if let Some(found) = answers.find(&route, digest, terms, now) {
                        let (length, at) = put[&key];
                        prop_assert_eq!(found.text.len(), length);
                        prop_assert!(now - at < terms.age);
                    }
                } else {
                    answers.keep(&route, digest, kept(bytes), terms, now);
                    put.insert(key, (bytes, now));
                    // What was kept just now is there, unless it is larger than everything may be.
                    let found = answers.find(&route, digest, terms, now);
                    prop_assert_eq!(found.is_some(), bytes as u64 + OVERHEAD <= terms.size);
                }
                if let Some(answered) = answers.routes.get(&route) {
                    let bytes: u64 = answered.entries.values().map(Entry::bytes).sum();
                    prop_assert_eq!(bytes, answered.bytes);
                    let all = answered.entries.len();
                    prop_assert_eq!((answered.by_use.len(), answered.by_age.len()), (all, all));
                    prop_assert!(bytes <= terms.size);
                }
            }
        }
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let terms = CacheSettings {
            size: 3 * (100 + OVERHEAD),
            age: Duration::from_secs(60),
        };
        let (route, mut answers, now) = (name("r"), Answers::default(), Instant::now());
        let digest = |at: u8| Digest::of(&[at]);
        for at in 0..3 {
            answers.keep(&route, digest(at), kept(100), terms, now);
        }
        assert!(answers.find(&route, digest(0), terms, now).is_some());
        answers.keep(&route, digest(3), kept(100), terms, now);
        let there: Vec<bool> = (0..4)
            .map(|at| answers.find(&route, digest(at), terms, now).is_some())
            .collect();
        assert_eq!(there, [true, false, true, true]);
        answers.retain(|_| false);
        assert_eq!(answers.find(&route, digest(0), terms, now), None);
    }
}
