//! What a chat costs before it is answered, and whether it leaves this host: what rules may ask about it.

use paw_llm::{ChatRequest, Usage};
use paw_policy::{ChatArguments, Target};

use crate::{
    config::Config,
    gateway::price::{Price, Prices, Tokens},
    providers::Providers,
};

/// Whether anybody who may answer is not on this host. Who is not known is not.
pub(super) fn leaves_host(providers: &Providers, chat: &ChatArguments) -> bool {
    let targets = chat.targets();
    targets.iter().any(|target| {
        let known = providers.get(target.provider.as_str());
        !known.is_some_and(|(_, known)| known.settings.is_local())
    })
}

/// What the question costs at the dearest of those who may answer, in millionths of a US dollar. Nothing is known of it where it costs
/// something and nobody wanted to know, so that the request was not made.
pub(super) fn of(
    (config, providers): (&Config, &Providers),
    chat: &ChatArguments,
    request: Option<&ChatRequest>,
) -> Option<u64> {
    let prices = Prices::new(&config.prices);
    let price = |target: &Target| {
        let (_, known) = providers.get(target.provider.as_str())?;
        let settings = &known.settings;
        Some(prices.of(target, settings.kind, settings.is_local()))
    };
    let targets = chat.targets();
    let priced: Option<Vec<Price>> = targets.iter().map(price).collect();
    let priced = priced?;
    let nothing = Usage::default();
    if priced.iter().all(|price| price.is_exact(&nothing)) {
        return Some(0);
    }
    let asked = Tokens::of(request?);
    priced.iter().map(|price| price.cost(&nothing, asked)).max()
}
