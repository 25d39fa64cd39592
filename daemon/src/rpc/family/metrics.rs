//! `system.metrics`: what was counted, and what is read of the parts when somebody asks.

use std::sync::PoisonError;

use paw_api::{Error, ErrorKind, egress::MOST_CHECKPOINTS, system::Metrics};
use paw_llm::{Looks, looks};
use paw_policy::Role;
use prometheus_client::registry::Unit;

use super::{Context, health};
use crate::{
    clock::now_ms,
    events,
    gateway::breaker::State,
    intake::unreadable,
    metrics::{self, CONTENT_TYPE, View, reading::Reading},
    orchestrator::queue::Urgency,
    rpc::Limits,
};

/// All of it, as this caller may see it.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn metrics(context: &Context, role: Role) -> Result<Metrics, Error> {
    let view = match role {
        Role::Admin => View::Administrator,
        Role::Approver | Role::User => View::Everybody,
    };
    let mut read = system(context).await;
    read.extend(models(context));
    read.extend(bounds(context)?);
    let text = metrics::text(view, read).map_err(|error| {
        let message = format!("the metrics cannot be written: {error}");
        Error::new(ErrorKind::Internal, message, "report it")
    })?;
    Ok(Metrics {
        content_type: CONTENT_TYPE.to_owned(),
        text,
    })
}

/// What `status` shows.
async fn system(context: &Context) -> Vec<Reading> {
    let status = health::status(context).await;
    let mut memory = Reading::gauge(
        "process_resident_memory",
        "Resident memory of each process of pawd",
    )
    .in_unit(Unit::Bytes);
    for process in &status.processes {
        memory.push([("process", &process.name)], process.rss as f64);
    }
    let mut providers = Reading::gauge(
        "provider_state",
        "Whether a provider is in this state, 1 or 0",
    );
    for provider in &status.providers {
        for state in ["unknown", "ready", "loading", "failing", "waiting"] {
            let is = f64::from(u8::from(provider.state == state));
            providers.push([("provider", &provider.name), ("state", state)], is);
        }
    }
    let mut in_line = Reading::gauge(
        "actions_in_line",
        "Actions that stand in line for a place, by whether somebody waits for them",
    );
    let stand = context.actions.load().in_line;
    for (urgency, count) in Urgency::ALL.into_iter().zip(stand) {
        in_line.push([("class", urgency.as_str())], count as f64);
    }
    // Told of where there is one.
    let behind = status.audit.witness.as_ref().map(|witness| {
        Reading::gauge(
            "audit_witness_behind",
            "Records of the audit log that are signed and of which nothing has left this host",
        )
        .with([("sink", witness.sink.as_str())], witness.behind as f64)
    });
    let (queue, sandboxes) = (status.queue, status.sandboxes);
    let waiting = queue.waiting_approval as f64;
    let mut read = vec![
        Reading::gauge("uptime", "Time since pawd was ready")
            .in_unit(Unit::Seconds)
            .with([], context.since.elapsed().as_secs_f64()),
        Reading::gauge("ready", "Whether pawd takes work, 1 or 0")
            .with([], f64::from(u8::from(status.ready))),
        Reading::gauge(
            "audit_writable",
            "Whether the audit log can be written, 1 or 0",
        )
        .with([], f64::from(u8::from(status.audit.writable))),
        Reading::gauge("audit_seq", "Number of the newest record of the audit log")
            .with([], status.audit.seq as f64),
        Reading::gauge("actions_open", "Actions that have not ended")
            .with([("state", "queued")], queue.queued as f64)
            .with([("state", "executing")], queue.executing as f64)
            .with([("state", "waiting_approval")], waiting),
        in_line,
        Reading::gauge(
            "sandboxes",
            "Sandboxes that run a command, and that wait for one",
        )
        .with([("state", "running")], sandboxes.running as f64)
        .with([("state", "pooled")], sandboxes.pooled as f64),
        memory,
        providers,
    ];
    read.extend(behind);
    read
}

/// What is known of models.
fn models(context: &Context) -> Vec<Reading> {
    let mut breakers = Reading::gauge(
        "provider_breaker",
        "Whether the breaker of a model is in this state, 1 or 0",
    );
    for (outlet, state) in context.breakers.states(now_ms()) {
        let now = match state {
            State::Closed => "closed",
            State::HalfOpen => "half_open",
            State::Open(_) => "open",
        };
        for word in ["closed", "half_open", "open"] {
            let names = [
                ("provider", outlet.provider.as_str()),
                ("model", &outlet.model),
                ("state", word),
            ];
            breakers.push(names, f64::from(u8::from(word == now)));
        }
    }
    let mut lookups = Reading::counter(
        "model_cache_lookups",
        "Looks into what is known of the models of all providers",
    );
    for (cache, looks) in looks() {
        let Looks {
            hits,
            stale,
            misses,
            failed,
            refused,
        } = looks;
        for (result, count) in [
            ("hit", hits),
            ("stale", stale),
            ("miss", misses),
            ("failed", failed),
            ("refused", refused),
        ] {
            lookups.push([("cache", cache), ("result", result)], count as f64);
        }
    }
    vec![breakers, lookups]
}

/// How full everything is that has a bound: each of them twice, as what it holds and what it may hold.
struct Bounds {
    used: Reading,
    limit: Reading,
}

impl Bounds {
    fn add(&mut self, of: &str, unit: &str, (used, limit): (f64, f64)) {
        self.used.push([("of", of), ("unit", unit)], used);
        self.limit.push([("of", of), ("unit", unit)], limit);
    }

    fn count(&mut self, of: &str, (used, limit): (usize, usize)) {
        self.add(of, "entries", (used as f64, limit as f64));
    }

    /// Of what there is one for each name of the configuration.
    fn each(&mut self, (of, name): (&str, &str), unit: &str, (used, limit): (f64, f64)) {
        let labels = [("of", of), ("name", name), ("unit", unit)];
        self.used.push(labels, used);
        self.limit.push(labels, limit);
    }
}

fn bounds(context: &Context) -> Result<[Reading; 3], Error> {
    let config = context.config.borrow().clone();
    let load = context.actions.load();
    let limits = Limits::default();
    let mut all = Bounds {
        used: Reading::gauge("bounded_used", "What something that has a bound holds"),
        limit: Reading::gauge("bounded_limit", "What it may hold at most"),
    };
    let (connections, in_flight) = (config.rpc.connections as usize, limits.in_flight);
    let now = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    all.count(
        "rpc_connections",
        (now(metrics::connections()), connections),
    );
    all.count(
        "rpc_calls",
        (now(metrics::in_flight()), connections * in_flight),
    );
    all.count("driver_inbox", context.actions.backlog());
    all.count(
        "actions_queued",
        (load.queued, config.actions.queue as usize),
    );
    all.count(
        "actions_executing",
        (load.executing, config.actions.concurrency as usize),
    );
    all.count(
        "approvals",
        (load.waiting, config.actions.approvals as usize),
    );
    all.count("store_batches", context.storage.backlog());
    all.count("audit_records", context.audit.backlog());
    all.count("sandbox_line", context.pool.line());
    if let Some(witness) = context.witnesses.state() {
        all.count("audit_witness", (now(witness.queued), MOST_CHECKPOINTS));
    }
    all.count("news", (context.news.kept(), events::KEPT));
    all.count("image_uploads", context.uploads.fill());
    all.count("model_pulls", context.intake.pulls.fill());
    all.count("vault_values", context.secrets.held());
    let quotas = context.quotas.fill();
    all.count("limit_buckets", (quotas.buckets, quotas.most_buckets));
    all.count(
        "limit_waits",
        (quotas.waiting as usize, quotas.most_waiting as usize),
    );
    all.count("rate_buckets", context.rates.fill());
    let providers = context.providers.borrow().clone();
    for (name, known) in providers.iter() {
        let fill = known.client.fill();
        let models = (fill.models as f64, fill.most_models as f64);
        let flights = (fill.flights as f64, fill.most_flights as f64);
        all.each(("models_known", name.as_str()), "entries", models);
        all.each(("model_fetches", name.as_str()), "entries", flights);
    }
    {
        let kept = context.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: std::collections::BTreeMap<_, _> = kept.bytes().collect();
        for (route, settings) in &config.routes {
            if let Some(cache) = settings.cache {
                let used = bytes.get(route).copied().unwrap_or_default();
                let bytes = (used as f64, cache.size as f64);
                all.each(("kept_answers", route.as_str()), "bytes", bytes);
            }
        }
    }
    let stored = context.storage.read();
    let rows = stored.counts().map_err(|error| unreadable(&error))?;
    let ended = rows
        .actions
        .saturating_sub(rows.queued + rows.waiting_approval + rows.approved + rows.executing);
    all.add(
        "actions_kept",
        "entries",
        (ended as f64, config.actions.keep as f64),
    );
    let size = std::fs::metadata(stored.path()).map_or(0, |facts| facts.len());
    let store = Reading::gauge("store_size", "Length of the file of the store")
        .in_unit(Unit::Bytes)
        .with([], size as f64);
    Ok([all.used, all.limit, store])
}
