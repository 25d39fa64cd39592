//! How long it takes to judge one action, and to list a page of very many questions.
//!
//! `cargo bench --bench policy`. The bars are those of the design: 50 µs at the 99th percentile for one judgement by the shipped rules,
//! with and without grants; 20 ms for a page of 1,000 of 100,000 questions. Each is measured as it is done, one after the other.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on has failed, and it talks to a person"
)]

use std::{hint::black_box, time::Instant};

use hdrhistogram::Histogram;
use paw_policy::{
    Circumstances, Digest, Facts, Operation, Plan, Principal, Risk, Role, Rules, Taint, TaintSet,
    ToolArguments, ToolClass,
    grant::{self, Like},
    judge,
};
use pawd::orchestrator::approval::{Question, Questions};
use serde_json::json;
use uuid::Uuid;

const TIMES: usize = 20_000;
const QUESTIONS: u128 = 100_000;
const NOW: u64 = 1_795_478_400_000;

fn plan(class: ToolClass, path: &str) -> Plan {
    Plan {
        agent: "default".parse().unwrap(),
        session: None,
        operation: Operation::ToolCall(ToolArguments {
            skill: "files".parse().unwrap(),
            skill_digest: Digest::of(b"files"),
            tool: "write".into(),
            class,
            arguments: serde_json::from_value(json!({"path": path, "text": "hello"})).unwrap(),
            net: None,
        }),
    }
}

fn facts() -> Facts {
    Facts {
        principal: Principal {
            uid: 1000,
            role: Role::User,
        },
        taint: TaintSet::of(Taint::User),
        circumstances: Circumstances::default(),
        now_ms: NOW,
    }
}

fn measure(name: &str, bar_us: u64, times: usize, mut work: impl FnMut()) {
    for _ in 0..times / 10 {
        work();
    }
    let mut took = Histogram::<u64>::new(3).unwrap();
    for _ in 0..times {
        let began = Instant::now();
        work();
        let took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap();
        took.record(took_ns).unwrap();
    }
    let us = |at| took.value_at_quantile(at) as f64 / 1_000.0;
    let held = us(0.99) <= bar_us as f64;
    println!(
        "{name:48} p50 {:9.1} us   p99 {:9.1} us   bar {bar_us} us: {}",
        us(0.5),
        us(0.99),
        if held { "held" } else { "MISSED" }
    );
}

fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap() * 1024
}

fn main() {
    let shipped = Rules::shipped().unwrap();
    let facts = facts();
    for (name, class) in [
        ("judge a read", ToolClass::ReadPrivate),
        ("judge a write, which is asked", ToolClass::WriteDestructive),
    ] {
        let plan = plan(class, "notes/a.txt");
        measure(name, 50, TIMES, || {
            black_box(judge(&shipped, &plan, &facts).unwrap());
        });
    }
    let texts: Vec<String> = (0..256)
        .map(|number| {
            let plan = plan(ToolClass::WriteDestructive, &format!("d{number}/a.txt"));
            let like = Like {
                plan: &plan,
                requester: &facts.principal,
                taint: &facts.taint,
                circumstances: &facts.circumstances,
                risk: Risk::High,
            };
            grant::text(&format!("grant-{number}"), like, NOW, NOW + 3_600_000).unwrap()
        })
        .collect();
    for many in [16, 256] {
        let granted = shipped
            .with_grants(texts.iter().take(many).map(String::as_str))
            .unwrap();
        for (which, path) in [("granted", "d7/b.txt"), ("asked", "other/b.txt")] {
            let plan = plan(ToolClass::WriteDestructive, path);
            measure(
                &format!("judge a write, {which} beside {many} grants"),
                50,
                TIMES,
                || {
                    black_box(judge(&granted, &plan, &facts).unwrap());
                },
            );
        }
    }

    let before = rss();
    let mut questions = Questions::default();
    for number in 0..QUESTIONS {
        let question = Question {
            digest: Digest::of(&number.to_be_bytes()),
            expires_ms: NOW,
            uid: 1000,
            taint: TaintSet::of(Taint::User),
            way: Box::default(),
        };
        questions.ask(Uuid::from_u128(number), question);
    }
    println!(
        "{QUESTIONS} questions take {:.1} MB",
        (rss() - before) as f64 / 1e6
    );
    let middle = Some(Uuid::from_u128(QUESTIONS / 2));
    measure("a page of 1,000 of 100,000 questions", 20_000, 500, || {
        black_box(questions.asked(middle, 1_000).collect::<Vec<_>>());
    });
}
