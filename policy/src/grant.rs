//! A yes that holds for a while: a permit for what is like an action that a person approved.
//!
//! It is a rule like any other, written here and nowhere else, so that the person can be shown what they are about to allow, and so that
//! every forbid still wins over it. It is bound to the user, the agent, the skill's files and the risk, to no further origins of data
//! than those of the approved action, and to a directory of the workspace, a host, or exactly the same arguments. What a channel, a tool or
//! the web had a part in is asked for each time: such data acts by nobody's yes but one to itself.
//!
//! A host is enough only where a call gets what is there: its methods have no body, and it takes no path of the workspace. A URL can carry
//! words out, too; they are those of whom the grant names, a person or a model that has read nothing since, and never what is private or
//! secret. Whatever has a body is granted as it is, with every byte of it.

use crate::{
    changes::Subject,
    circumstances::{Circumstances, Via},
    facts::{self, Path},
    judge::Principal,
    plan::{Operation, Plan},
    words::{Risk, Taint, TaintSet, ToolClass},
};

/// The longest that a grant holds, in milliseconds: a day.
pub const MAX_TIME_MS: u64 = 24 * 3_600 * 1_000;

/// Why there can be no grant for what is like an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoGrant {
    /// Each critical action is asked for.
    #[error("an action of risk critical is asked for each time")]
    Critical,
    /// Nobody says where its data came from, so nothing can be as trustworthy as it.
    #[error("nobody says where the data of this action came from")]
    Unlabelled,
    /// Data of a channel, a tool or the web is never let through unseen (invariant 6).
    #[error(
        "an action that data of a channel, a tool or the web had a part in is asked for each time"
    )]
    Foreign,
    /// Nothing, or longer than [`MAX_TIME_MS`].
    #[error("a grant holds for a second at least and a day at most")]
    Time,
}

/// What a grant is made of.
#[derive(Debug, Clone, Copy)]
pub struct Like<'a> {
    /// The approved plan.
    pub plan: &'a Plan,
    /// Who asked for it.
    pub requester: &'a Principal,
    /// Where its data came from.
    pub taint: &'a TaintSet,
    /// How it came to be asked: what an agent may do when a person asks it, it may not therefore do when another agent does, or a job.
    pub circumstances: &'a Circumstances,
    /// Its risk.
    pub risk: Risk,
}

/// The rule that permits what is like this until then, under this `@id`; `from_ms` is when it is made, both in milliseconds since 1970.
///
/// # Errors
/// When there can be none.
pub fn text(id: &str, like: Like<'_>, from_ms: u64, until_ms: u64) -> Result<String, NoGrant> {
    let time = until_ms.saturating_sub(from_ms);
    if !(1_000..=MAX_TIME_MS).contains(&time) {
        return Err(NoGrant::Time);
    }
    if like.risk == Risk::Critical {
        return Err(NoGrant::Critical);
    }
    if like.taint.is_of_nobody() {
        return Err(NoGrant::Unlabelled);
    }
    let labels: Vec<String> = like
        .taint
        .iter()
        .map(|taint| quoted(taint.as_str()))
        .collect();
    if like.taint.is_foreign() {
        return Err(NoGrant::Foreign);
    }
    let (action, resource, anchor) = anchor(like.plan, like.taint);
    let mut conditions = vec![
        format!("context.agent == {}", quoted(like.plan.agent.as_str())),
        format!("context.risk == {}", quoted(like.risk.as_str())),
        format!("[{}].containsAll(context.taint)", labels.join(", ")),
        format!("context.now < {until_ms}"),
    ];
    conditions.extend(way(like.circumstances));
    conditions.extend(anchor);
    Ok(format!(
        "@id({})\n@reason(\"A person granted what is like an action that they approved.\")\npermit (\n  principal == User::\"{}\",\n  action == Action::\"{action}\",\n  resource{resource}\n) when {{\n  {}\n}};\n",
        quoted(id),
        like.requester.uid,
        conditions.join(" &&\n  "),
    ))
}

/// The way in and the agents that asked, as conditions.
fn way(how: &Circumstances) -> Vec<String> {
    let mut conditions = vec![format!("context.via == {}", quoted(how.via.as_str()))];
    match &how.via {
        Via::Terminal | Via::Mcp => {}
        Via::Job(id) => {
            conditions.push("context has job".to_owned());
            conditions.push(format!("context.job == Job::{}", quoted(id)));
        }
        Via::Channel(peer) => {
            let peer = quoted(&peer.to_string());
            conditions.push("context has identity".to_owned());
            conditions.push(format!("context.identity == Identity::{peer}"));
        }
    }
    conditions.push(if how.through.is_empty() {
        "context.through.isEmpty()".to_owned()
    } else {
        format!("context.way == {}", quoted(&facts::asked_in_turn(how)))
    });
    conditions
}

/// The action, what follows `resource`, and the conditions that make it narrow.
fn anchor(plan: &Plan, taint: &TaintSet) -> (&'static str, String, Vec<String>) {
    match &plan.operation {
        Operation::Chat(chat) => {
            let targets = chat.targets();
            let models = targets
                .iter()
                .map(|target| quoted(&format!("{}/{}", target.provider, target.model)));
            let models = models.collect::<Vec<_>>().join(", ");
            (
                "chat",
                format!(" == Agent::{}", quoted(plan.agent.as_str())),
                vec![format!("[{models}].containsAll(context.models)")],
            )
        }
        Operation::SandboxRun(spec) => (
            "sandbox_run",
            String::new(),
            same("arguments", &facts::digest(spec)),
        ),
        // Critical whatever it is, so there is no grant for it; what nobody grants holds for nothing.
        Operation::SkillChange(change) => (
            "skill_change",
            format!(" == Skill::{}", quoted(change.skill.as_str())),
            vec!["false".to_owned()],
        ),
        Operation::ModelSwitch(switch) => {
            let to = format!("{}/{}", switch.to.provider, switch.to.model);
            let model = format!(" == Model::{}", quoted(&to));
            ("model_switch", model, vec!["false".to_owned()])
        }
        Operation::ConfigChange(change) => {
            let kind = match change.change.subject() {
                Subject::Provider => "Provider",
                Subject::Budget => "Budget",
                Subject::Agent => "Agent",
                Subject::Config => "Host",
                Subject::Model => "Model",
            };
            let name = format!(" == {kind}::{}", quoted(&change.about()));
            ("config_change", name, vec!["false".to_owned()])
        }
        Operation::SecretChange(change) => {
            let secret = format!(" == Secret::{}", quoted(&change.secret));
            ("config_change", secret, vec!["false".to_owned()])
        }
        // Each is another one, with a digest of its own.
        Operation::FileOperation(files) => {
            let name = format!(" == Workspace::{}", quoted(files.workspace.as_str()));
            ("file_operation", name, vec!["false".to_owned()])
        }
        // A tool had a part in what a sandbox wants to reach, so there is no grant for it either.
        Operation::ApiCall(call) => (
            "api_call",
            format!(" == Endpoint::{}", quoted(&call.rule)),
            vec!["false".to_owned()],
        ),
        Operation::ToolCall(call) => {
            let tool = format!("{}/{}", call.skill, call.tool);
            let mut conditions = vec![format!(
                "context.skill_digest == {}",
                quoted(&call.skill_digest.to_string())
            )];
            match (call.class, facts::path(call)) {
                (
                    ToolClass::ReadPublic
                    | ToolClass::ReadPrivate
                    | ToolClass::WriteLocalReversible
                    | ToolClass::WriteDestructive,
                    Path::Inside(path),
                ) => {
                    conditions.extend(same("shape", &facts::shape(&call.arguments)));
                    conditions.push("context has path".to_owned());
                    conditions.push(match path.rsplit_once('/') {
                        Some((directory, _)) => {
                            format!("context.path like {}", pattern(&format!("{directory}/")))
                        }
                        None => format!("context.path == {}", quoted(&path)),
                    });
                }
                // What is executed or sent is not known by its path.
                _ => match facts::gets(call) {
                    Some((host, methods)) if !is_confidential(taint) => {
                        let methods: Vec<_> = methods.iter().map(|it| quoted(it)).collect();
                        conditions.extend(same("shape", &facts::shape(&call.arguments)));
                        conditions.extend(same("host", host));
                        conditions.push("context has methods".to_owned());
                        conditions.push(format!("context.methods == [{}]", methods.join(", ")));
                    }
                    Some(_) | None => {
                        conditions.extend(same("arguments", &facts::digest(&call.arguments)));
                    }
                },
            }
            (
                "tool_call",
                format!(" == Tool::{}", quoted(&tool)),
                conditions,
            )
        }
    }
}

/// Whether it is not for everybody: then a yes to a host is none to all that could be told it.
fn is_confidential(taint: &TaintSet) -> bool {
    taint.has(Taint::Private) || taint.has(Taint::Secret)
}

fn same(fact: &str, value: &str) -> Vec<String> {
    vec![
        format!("context has {fact}"),
        format!("context.{fact} == {}", quoted(value)),
    ]
}

/// A text as Cedar reads it; what is not plain ASCII is written out, so that the rule looks like what it says.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// A pattern for everything that begins like this.
fn pattern(beginning: &str) -> String {
    format!("\"{}*\"", escaped(beginning).replace('*', "\\*"))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        judge::{Facts, judge},
        plan::ToolArguments,
        rules::Rules,
        words::{Decision, Digest, Role, Taint},
    };

    const NOW: u64 = 1_795_478_400_000;
    const HOUR: u64 = 3_600_000;

    fn call(class: ToolClass, tool: &str, arguments: Value) -> Plan {
        Plan {
            agent: "default".parse().unwrap(),
            session: None,
            operation: Operation::ToolCall(ToolArguments {
                skill: "files".parse().unwrap(),
                skill_digest: Digest::of(b"files"),
                tool: tool.into(),
                class,
                arguments: serde_json::from_value(arguments).unwrap(),
                net: None,
            }),
        }
    }

    fn write(path: &str) -> Plan {
        call(
            ToolClass::WriteDestructive,
            "write",
            json!({"path": path, "text": "x"}),
        )
    }

    fn facts(uid: u32, taint: &[Taint], now_ms: u64) -> Facts {
        let labels = taint.iter().fold(TaintSet::default(), |set, one| {
            set.with(&TaintSet::of(*one))
        });
        Facts {
            principal: Principal {
                uid,
                role: Role::User,
            },
            taint: labels,
            circumstances: Circumstances::default(),
            now_ms,
        }
    }

    /// The shipped rules and a grant of uid 1000's for what is like this.
    fn granted(plan: &Plan, taint: &[Taint], more: &str) -> Rules {
        let asked = facts(1000, taint, NOW);
        let like = Like {
            plan,
            requester: &asked.principal,
            taint: &asked.taint,
            circumstances: &Circumstances::default(),
            risk: crate::judge::weigh(plan, &asked.taint).0,
        };
        let text = text("grant-1", like, NOW, NOW + HOUR).unwrap();
        let files = [
            ("1".to_owned(), crate::rules::DEFAULT.to_owned()),
            ("2".to_owned(), more.to_owned()),
        ];
        let rules = Rules::parse(&files).unwrap();
        rules
            .with_grants(std::iter::once(text.as_str()))
            .unwrap_or_else(|faults| panic!("{faults:?}\n{text}"))
    }

    fn check(rules: &Rules, plan: &Plan, facts: &Facts, decision: Decision) {
        let verdict = judge(rules, plan, facts).unwrap();
        assert_eq!(
            verdict.decision, decision,
            "{plan:?} {facts:?} {:?}",
            verdict.rules
        );
        if decision == Decision::Allow {
            assert_eq!(verdict.rules, ["grant-1"]);
        }
    }

    #[test]
    fn grant_permits_what_is_alike_and_nothing_wider() {
        use Decision::{Allow, Ask};
        let user = facts(1000, &[Taint::User], NOW + 1);
        let rules = granted(&write("notes/a.txt"), &[Taint::User], "");
        check(&rules, &write("notes/a.txt"), &user, Allow);
        check(&rules, &write("notes/deep/b.txt"), &user, Allow);
        check(&rules, &write("./notes//b.txt"), &user, Allow);
        for path in [
            "notes",
            "notes2/a",
            "a.txt",
            "other/notes/a",
            "notes/../a.txt",
            "/notes/a",
        ] {
            check(&rules, &write(path), &user, Ask);
        }
        let other = json!({"path": "notes/a", "text": "x", "create_dirs": true});
        check(
            &rules,
            &call(ToolClass::WriteDestructive, "write", other),
            &user,
            Ask,
        );
        let typed = json!({"path": "notes/a", "text": ["x"]});
        check(
            &rules,
            &call(ToolClass::WriteDestructive, "write", typed),
            &user,
            Ask,
        );
        let delete = json!({"path": "notes/a", "text": "x"});
        check(
            &rules,
            &call(ToolClass::WriteDestructive, "delete", delete.clone()),
            &user,
            Ask,
        );
        check(&rules, &call(ToolClass::Admin, "write", delete), &user, Ask);
        let mut plan = write("notes/a");
        plan.agent = "another".parse().unwrap();
        check(&rules, &plan, &user, Ask);
        let mut plan = write("notes/a");
        if let Operation::ToolCall(call) = &mut plan.operation {
            call.skill_digest = Digest::of(b"changed files");
        }
        check(&rules, &plan, &user, Ask);
        let plan = write("notes/a");
        check(&rules, &plan, &facts(1001, &[Taint::User], NOW), Ask);
        check(
            &rules,
            &plan,
            &facts(1000, &[Taint::User], NOW + HOUR - 1),
            Allow,
        );
        check(&rules, &plan, &facts(1000, &[Taint::User], NOW + HOUR), Ask);
        for more in [
            Taint::Channel,
            Taint::Tool,
            Taint::Web,
            Taint::Model,
            Taint::Operator,
        ] {
            check(&rules, &plan, &facts(1000, &[Taint::User, more], NOW), Ask);
        }
        check(&rules, &plan, &facts(1000, &[], NOW), Ask);
    }

    #[test]
    fn file_at_the_top_is_granted_alone() {
        let user = facts(1000, &[Taint::User], NOW);
        let rules = granted(&write("a.txt"), &[Taint::User], "");
        check(&rules, &write("a.txt"), &user, Decision::Allow);
        check(&rules, &write("b.txt"), &user, Decision::Ask);
    }

    #[test]
    fn names_that_look_like_rules_stay_names() {
        let user = facts(1000, &[Taint::User], NOW);
        for name in ["a*b", "a\" || true || \"", "a\\", "ü/\u{202e}", "\\u{41}"] {
            let rules = granted(&write(&format!("{name}/x")), &[Taint::User], "");
            check(&rules, &write(&format!("{name}/y")), &user, Decision::Allow);
            check(&rules, &write("acb/x"), &user, Decision::Ask);
            check(&rules, &write("other/x"), &user, Decision::Ask);
        }
    }

    #[test]
    fn forbid_wins_over_a_grant() {
        let forbid = r#"@id("no") forbid (principal, action == Action::"tool_call", resource) when { context has path && context.path like "notes/*" };"#;
        let rules = granted(&write("notes/a"), &[Taint::User], forbid);
        let user = facts(1000, &[Taint::User], NOW);
        check(&rules, &write("notes/a"), &user, Decision::Deny);
    }

    #[test]
    fn what_is_executed_or_sent_is_granted_only_as_it_is() {
        let user = facts(1000, &[Taint::User], NOW);
        for class in [ToolClass::Exec, ToolClass::Egress] {
            let run =
                |command: &str| call(class, "run", json!({"path": "a/b", "command": command}));
            let rules = granted(&run("ls"), &[Taint::User], "");
            check(&rules, &run("ls"), &user, Decision::Allow);
            check(&rules, &run("rm -rf ."), &user, Decision::Ask);
        }
    }

    /// A tool that is called with a URL.
    fn reach(tool: &str, net: &str, arguments: Value) -> Plan {
        let mut plan = call(ToolClass::Egress, tool, arguments);
        if let Operation::ToolCall(call) = &mut plan.operation {
            call.net = Some(net.to_owned());
        }
        plan
    }

    #[test]
    fn what_is_got_from_a_host_is_granted_for_that_host_and_that_way_of_asking_alone() {
        use Decision::{Allow, Ask};
        let user = facts(1000, &[Taint::User, Taint::Model], NOW);
        let get = |net: &str, url: &str| reach("get", net, json!({"url": url}));
        let host = "a.example:443,method=GET";
        let rules = granted(
            &get(host, "https://a.example/x"),
            &[Taint::User, Taint::Model],
            "",
        );
        check(&rules, &get(host, "https://a.example/x"), &user, Allow);
        check(
            &rules,
            &get(host, "https://a.example/other?q=1"),
            &user,
            Allow,
        );
        for (net, url) in [
            ("b.example:443,method=GET", "https://b.example/x"),
            ("a.example:80,method=GET", "http://a.example/x"),
            (
                "a.example.evil.example:443,method=GET",
                "https://a.example.evil.example/",
            ),
            ("a.example:443,method=POST", "https://a.example/x"),
            ("a.example:443,method=GET+POST", "https://a.example/x"),
            ("a.example:443", "https://a.example/x"),
        ] {
            check(&rules, &get(net, url), &user, Ask);
        }
        let more = json!({"url": "https://a.example/x", "body": "all of it"});
        check(&rules, &reach("get", host, more), &user, Ask);
        let other = json!({"url": "https://a.example/x"});
        check(&rules, &reach("post", host, other), &user, Ask);
        for read in [Taint::Tool, Taint::Web, Taint::Channel, Taint::Private] {
            let led = facts(1000, &[Taint::User, Taint::Model, read], NOW);
            check(&rules, &get(host, "https://a.example/x"), &led, Ask);
        }
    }

    #[test]
    fn what_has_a_body_or_could_tell_something_private_is_granted_only_as_it_is() {
        use Decision::{Allow, Ask};
        let asked = |taint: &[Taint], one: &Plan, another: &Plan| {
            let user = facts(1000, taint, NOW);
            let rules = granted(one, taint, "");
            check(
                &rules,
                one,
                &user,
                if taint.contains(&Taint::Private) {
                    Ask
                } else {
                    Allow
                },
            );
            check(&rules, another, &user, Ask);
        };
        let user = [Taint::User];
        let url = |more: Value| {
            let mut all = json!({"url": "https://a.example/x"});
            all.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            all
        };
        for net in [
            "a.example:443,method=POST",
            "a.example:443,method=GET+POST",
            "a.example:443",
        ] {
            let post = |body: &str| reach("post", net, url(json!({"body": body})));
            asked(&user, &post("one"), &post("two"));
        }
        // What it takes of the workspace is not told by its name.
        let of = |path: &str| {
            reach(
                "get",
                "a.example:443,method=GET",
                url(json!({"path": path})),
            )
        };
        asked(&user, &of("a"), &of("b"));
        let get = |query: &str| {
            let url = json!({"url": format!("https://a.example/?{query}")});
            reach("get", "a.example:443,method=GET", url)
        };
        asked(&[Taint::User, Taint::Private], &get("one"), &get("two"));
        // Not only because a rule that ships forbids it: the grant itself says no more.
        for confidential in [Taint::Private, Taint::Secret] {
            let taint = TaintSet::of(Taint::User).with(&TaintSet::of(confidential));
            let like = Like {
                plan: &get("one"),
                requester: &facts(1000, &user, NOW).principal,
                taint: &taint,
                circumstances: &Circumstances::default(),
                risk: Risk::High,
            };
            let text = text("grant-1", like, NOW, NOW + HOUR).unwrap();
            assert!(
                text.contains("context.arguments ==") && !text.contains("context.host"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_came_from_outside_is_granted_never() {
        let plan = write("notes/a");
        let asked = facts(1000, &[Taint::User], NOW);
        let with = |taint: Taint| {
            let taint = TaintSet::of(Taint::User).with(&TaintSet::of(taint));
            let like = Like {
                plan: &plan,
                requester: &asked.principal,
                taint: &taint,
                circumstances: &Circumstances::default(),
                risk: Risk::High,
            };
            text("grant-1", like, NOW, NOW + HOUR).map(drop)
        };
        for foreign in [Taint::Channel, Taint::Tool, Taint::Web] {
            assert_eq!(with(foreign), Err(NoGrant::Foreign), "{foreign}");
        }
        for ours in [Taint::User, Taint::Operator, Taint::Model] {
            assert_eq!(with(ours), Ok(()), "{ours}");
        }
    }

    #[test]
    fn what_an_agent_asks_of_itself_is_granted_until_it_reads_something() {
        use Decision::{Allow, Ask};
        let (user, model) = (Taint::User, Taint::Model);
        let rules = granted(&write("notes/a"), &[user, model], "");
        let plan = write("notes/b");
        check(&rules, &plan, &facts(1000, &[user, model], NOW), Allow);
        for read in [Taint::Channel, Taint::Tool, Taint::Web] {
            check(&rules, &plan, &facts(1000, &[user, model, read], NOW), Ask);
        }
    }

    #[test]
    fn critical_unlabelled_and_endless_grants_are_none() {
        let plan = write("notes/a");
        let asked = facts(1000, &[Taint::User], NOW);
        let make = |risk, taint: &TaintSet, until| {
            let like = Like {
                plan: &plan,
                requester: &asked.principal,
                taint,
                circumstances: &Circumstances::default(),
                risk,
            };
            text("grant-1", like, NOW, until).map(drop)
        };
        assert_eq!(make(Risk::High, &asked.taint, NOW + HOUR), Ok(()));
        assert_eq!(
            make(Risk::Critical, &asked.taint, NOW + HOUR),
            Err(NoGrant::Critical)
        );
        assert_eq!(
            make(Risk::High, &TaintSet::default(), NOW + HOUR),
            Err(NoGrant::Unlabelled)
        );
        for until in [0, NOW, NOW + 999, NOW + MAX_TIME_MS + 1] {
            assert_eq!(make(Risk::High, &asked.taint, until), Err(NoGrant::Time));
        }
    }

    /// A grant counts for what is asked in the same way, by the same agents: not for another agent's question, a job or a channel.
    #[test]
    fn grant_counts_for_the_way_in_which_it_was_made() {
        use crate::circumstances::Via;
        let plain = Circumstances::default;
        let through = |names: &[&str]| Circumstances {
            through: names.iter().map(|name| name.parse().unwrap()).collect(),
            ..plain()
        };
        let via = |via| Circumstances { via, ..plain() };
        let ways = [
            plain(),
            through(&["lead"]),
            through(&["lead", "cook"]),
            through(&["cook", "lead"]),
            through(&["lead", "lead", "cook"]),
            via(Via::Job("1".into())),
            via(Via::Job("2".into())),
            via(Via::Channel("telegram:1".parse().unwrap())),
            via(Via::Channel("telegram:2".parse().unwrap())),
        ];
        let plan = write("notes/a");
        for made in &ways {
            let mut user = facts(1000, &[Taint::User], NOW);
            let like = Like {
                plan: &plan,
                requester: &user.principal,
                taint: &user.taint,
                circumstances: made,
                risk: Risk::High,
            };
            let text = text("grant-1", like, NOW, NOW + HOUR).unwrap();
            let rules = Rules::shipped().unwrap();
            let rules = rules.with_grants(std::iter::once(text.as_str())).unwrap();
            for asked in &ways {
                user.circumstances = asked.clone();
                let decision = if asked == made {
                    Decision::Allow
                } else {
                    Decision::Ask
                };
                check(&rules, &plan, &user, decision);
            }
        }
    }
}
