//! `pawctl route`: providers that stand in for each other.

use paw_api::provider::{Arm, Arms, Percentiles, Route};
use serde_json::json;

use super::{block, provider, status::provider_tone};
use crate::{
    cli::{Global, Named},
    connect::{Connection, Params},
    fail::{Failure, exit},
    render::{Look, Out, table, text},
};

pub(super) async fn run(global: &Global, out: &mut Out, command: Named) -> Result<u8, Failure> {
    let pawd = Connection::open(global).await?;
    match command {
        Named::List => {
            let answer = pawd
                .call("list routes", "route.list", Params::none())
                .await?;
            out.answer(&answer, |routes: &Vec<Route>, look| targets(routes, look))?;
        }
        Named::Show { name } => {
            let params = Params::named(json!({"name": name}));
            let answer = pawd.call("show the route", "route.show", params).await?;
            out.answer(&answer, |route: &Route, look| {
                let leaves = if route.may_leave_host { "yes" } else { "no" };
                block(vec![
                    ("Name", Some(text::line(&route.name).into_owned())),
                    ("Select", Some(text::line(&route.select).into_owned())),
                    ("May leave the host", Some(leaves.to_owned())),
                    ("On a break", Some(text::line(&route.on_break).into_owned())),
                    ("Answers kept for", route.cache_age_ms.map(text::span)),
                    (
                        "Hedges after",
                        route
                            .hedge_after_ms
                            .map(|after| format!("the usual time, at first {}", text::span(after))),
                    ),
                ]) + "\n"
                    + &targets(std::slice::from_ref(route), look)
            })?;
        }
    }
    Ok(exit::DONE)
}

/// `pawctl model ab`: what became of each arm.
pub(super) async fn arms(pawd: &Connection, out: &mut Out, route: &str) -> Result<(), Failure> {
    let params = Params::named(json!({"route": route}));
    let answer = pawd.call("compare the arms", "model.ab", params).await?;
    out.answer(&answer, |arms: &Arms, look| {
        let rows = arms.arms.iter().map(arm).collect();
        let head = [
            "PROVIDER",
            "MODEL",
            "WEIGHT",
            "CHATS",
            "ERRORS",
            "FIRST TOKEN P50/P95",
            "WHOLE P50/P95",
            "TOKENS IN/OUT",
            "COST",
        ];
        table::table(&head, rows, look, "no arm")
    })?;
    Ok(())
}

fn arm(arm: &Arm) -> Vec<table::Field> {
    let spans = |times: Option<Percentiles>| {
        times.map_or_else(
            || "-".to_owned(),
            |it| format!("{} / {}", text::span(it.p50), text::span(it.p95)),
        )
    };
    let weight = arm
        .weight
        .map_or_else(|| "-".to_owned(), |it| it.to_string());
    vec![
        table::text(&arm.provider),
        table::text(&arm.model),
        table::number(weight),
        table::number(arm.chats.to_string()),
        table::number(arm.errors.to_string()),
        table::number(spans(arm.first_token_ms)),
        table::number(spans(arm.total_ms)),
        table::number(format!("{} / {}", arm.input_tokens, arm.output_tokens)),
        table::number(text::cost(arm.cost, arm.cost_estimated)),
    ]
}

/// A line for each target, in the order in which they are listed.
fn targets(routes: &[Route], look: &Look) -> String {
    let number = |value: Option<u64>| {
        table::number(value.map_or_else(|| "-".to_owned(), |value| value.to_string()))
    };
    let rows = routes
        .iter()
        .flat_map(|route| route.targets.iter().map(move |target| (route, target)))
        .map(|(route, target)| {
            let tone = provider_tone(&target.state);
            vec![
                table::text(&route.name),
                table::text(&target.provider),
                table::text(&target.model),
                number(target.weight.map(u64::from)),
                number(target.context),
                table::number(target.pace_ms.map_or_else(|| "-".to_owned(), text::span)),
                table::text(provider::place(target.local)),
                table::toned(tone, &target.state),
                provider::breaker(&target.breaker, target.breaker_until, look),
            ]
        })
        .collect();
    table::table(
        &[
            "ROUTE", "PROVIDER", "MODEL", "WEIGHT", "CONTEXT", "PACE", "WHERE", "STATE", "BREAKER",
        ],
        rows,
        look,
        "no route is configured; see pawd.toml(5), [route.NAME]",
    )
}
