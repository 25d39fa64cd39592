//! `pawctl budget`: what may be spent, and what was.

use paw_api::budget::{Budget, BudgetSpec, Money, Spent};
use serde_json::json;

use crate::{
    cli::{self, Global},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, table, text},
};

pub(super) async fn run(
    global: &Global,
    out: &mut Out,
    command: cli::Budget,
) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        cli::Budget::Set {
            name, remove: true, ..
        } => {
            let params = Params::named(json!({"name": name}));
            let answer = pawd
                .call("remove the budget", "budget.remove", params)
                .await?;
            out.answer(&answer, |was: &Budget, _| {
                format!("removed {}\n", text::line(&was.name))
            })?;
        }
        cli::Budget::Set {
            name,
            cost,
            tokens,
            per,
            each,
            provider,
            model,
            agent,
            user,
            remove: false,
        } => {
            let spec = BudgetSpec {
                provider,
                model,
                agent,
                user,
                each,
                per,
                cost,
                tokens,
            };
            let params = Params::named(json!({"name": name, "spec": spec}));
            let answer = pawd.call("set the budget", "budget.set", params).await?;
            out.answer(&answer, |budget: &Budget, look| {
                lines(std::slice::from_ref(budget), look)
            })?;
        }
        cli::Budget::Show { name: None } => {
            let answer = pawd
                .call("list budgets", "budget.list", Params::none())
                .await?;
            out.answer(&answer, |budgets: &Vec<Budget>, look| lines(budgets, look))?;
        }
        cli::Budget::Show { name: Some(name) } => {
            let params = Params::named(json!({"name": name}));
            let answer = pawd.call("show the budget", "budget.show", params).await?;
            out.answer(&answer, |budget: &Budget, look| {
                lines(std::slice::from_ref(budget), look)
            })?;
        }
    }
    Ok(exit::DONE)
}

/// A line for each part of each budget; one for a budget of which nothing was spent.
fn lines(budgets: &[Budget], look: &Look) -> String {
    let rows = budgets
        .iter()
        .flat_map(|budget| {
            let none = Spent {
                of: String::new(),
                cost: 0,
                tokens: 0,
                reserved_cost: 0,
                reserved_tokens: 0,
            };
            let parts = if budget.spent.is_empty() {
                vec![none]
            } else {
                budget.spent.clone()
            };
            parts.into_iter().map(move |part| row(budget, &part, look))
        })
        .collect();
    let mut shown = table::table(
        &[
            "BUDGET",
            "FOR",
            "PART",
            "PER",
            "SPENT",
            "SET ASIDE",
            "OF",
            "TOKENS",
            "SET ASIDE",
            "OF",
            "BEGINS ANEW",
        ],
        rows,
        look,
        "no budget is configured; see pawctl budget set, or pawd.toml(5), [budget.NAME]",
    );
    for budget in budgets.iter().filter(|budget| budget.more) {
        let name = text::line(&budget.name);
        shown.push_str(&format!("{name} has more parts than are listed\n"));
    }
    shown
}

fn row(budget: &Budget, part: &Spent, look: &Look) -> Vec<table::Field> {
    let most = |most: Option<u64>, shown: fn(u64) -> String| {
        table::number(most.map_or_else(|| "-".to_owned(), shown))
    };
    let begins = budget
        .again_at
        .map_or_else(|| "never".to_owned(), |at| text::time(at, look));
    vec![
        table::text(&budget.name),
        table::text(&scope(budget)),
        table::text(if part.of.is_empty() { "-" } else { &part.of }),
        table::text(&budget.per),
        table::number(Money(part.cost)),
        table::number(Money(part.reserved_cost)),
        most(budget.cost, |cost| Money(cost).to_string()),
        table::number(text::count(part.tokens)),
        table::number(text::count(part.reserved_tokens)),
        most(budget.tokens, text::count),
        table::text(&begins),
    ]
}

/// Whom it is about: what is named, and by what it is split.
fn scope(budget: &Budget) -> String {
    let named = [
        ("provider", &budget.provider),
        ("model", &budget.model),
        ("agent", &budget.agent),
        ("user", &budget.user),
    ];
    let named = named
        .into_iter()
        .filter_map(|(word, name)| Some(format!("{word} {}", name.as_ref()?)));
    let each = budget.each.iter().map(|word| format!("each {word}"));
    let words: Vec<String> = named.chain(each).collect();
    if words.is_empty() {
        "all".into()
    } else {
        words.join(", ")
    }
}
