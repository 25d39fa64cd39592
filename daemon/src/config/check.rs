//! From what the files say to what pawd runs on: defaults, bounds, units, names and references.

use std::{collections::BTreeMap, path::Path, time::Duration};

use paw_launch::request::{Isolation, Limits};
use paw_llm::Timeouts;
use paw_policy::{Ceiling, Digest, Name, Rules};
use toml::Spanned;

use super::{
    Config, Confinement, PoolBounds, ProviderSettings, RoleGroups, RpcBounds, SandboxDefaults,
    actions::actions,
    agents::{self, agents},
    fault::{Fault, Faults},
    file::{self, File},
    layers::{Layers, bounded, read_value, reference},
    prices::prices,
    quotas, rates,
    registered::{Registered, RegisteredError},
    routes::routes,
    sessions::sessions,
    source::{self, Source, SourceError},
    value::{
        account, ceiling, duration, interval, isolation, limit, name, provider_kind, size, url,
    },
};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be used at all.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What was registered cannot be used.
    #[error(transparent)]
    Registered(#[from] RegisteredError),
    /// The files do not say what can be meant.
    #[error(transparent)]
    Faults(#[from] Faults),
}

/// What root wrote, as it was read.
#[derive(Debug, Clone)]
pub struct Written {
    /// Files of the configuration, in their order.
    pub files: Vec<Source>,
    /// Files of the policy; none without a directory for them.
    pub policies: Option<Vec<Source>>,
}

impl Written {
    /// Reads what is below `etc`. Without any file the defaults hold.
    ///
    /// # Errors
    /// When a file cannot be read or may be written by others.
    pub fn read(etc: &Path) -> Result<Self, ConfigError> {
        Ok(Self {
            files: source::read_all(etc)?,
            policies: source::read_directory(&etc.join("policy"), "cedar")?,
        })
    }

    /// Digest of all of it, by the names of the files.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let each = |file: &Source| serde_json::json!([file.name, file.text]);
        let files: Vec<_> = self.files.iter().map(each).collect();
        let policies = self.policies.as_ref();
        let policies = policies.map(|all| all.iter().map(each).collect::<Vec<_>>());
        Digest::of(serde_json::json!([files, policies]).to_string().as_bytes())
    }
}

/// Checks what root wrote together with what was registered: the first file, so that each of root's has the last word.
///
/// # Errors
/// Every fault of every file, each with its place.
pub fn check_all(
    written: &Written,
    registered: &Registered,
    state: &Path,
) -> Result<Config, Faults> {
    let mut registered = registered.clone();
    // A provider of root's that is gone takes the wish with it that it be the default; that is no fault.
    registered.default_provider.take_if(|default| {
        let of_root = |source: &Source| {
            let file = source::parse(source, &mut Faults::default());
            file.provider.keys().any(|key| key.get_ref() == default)
        };
        !registered.provider.contains_key(default) && !written.files.iter().any(of_root)
    });
    registered.forget_strays(written);
    let ours = registered.source(state);
    let sources = std::iter::once(ours.clone()).chain(written.files.iter().cloned());
    let policies = written.policies.clone();
    let mut config = check_with(sources.collect(), policies, Some(&ours.name))?;
    Registered::mark(&mut config, &ours.name);
    config.default_fixed_in.take_if(|file| *file == ours.name);
    registered.switch(&mut config);
    Ok(config)
}

/// Checks files that were read.
///
/// # Errors
/// Every fault of every file.
pub fn check(sources: Vec<Source>, policies: Option<Vec<Source>>) -> Result<Config, Faults> {
    check_with(sources, policies, None)
}

/// Checks files of which `ours` is what was registered.
fn check_with(
    sources: Vec<Source>,
    policies: Option<Vec<Source>>,
    ours: Option<&str>,
) -> Result<Config, Faults> {
    let mut faults = Faults::default();
    let layers = Layers(
        sources
            .into_iter()
            .map(|source| {
                let file = source::parse(&source, &mut faults);
                (source, file)
            })
            .collect(),
    );
    let shipped_policy = policies.is_none();
    let rules = rules(policies, &mut faults);
    let providers = providers(&layers, &mut faults);
    let default_provider = default_provider(&layers, &providers, &mut faults);
    let routes = routes(&layers, &providers, &mut faults);
    let prices = prices(&layers, &providers, &mut faults);
    let sandbox = sandbox(&layers, &mut faults);
    let known = agents::Known {
        providers: &providers,
        default: default_provider.as_ref(),
        routes: &routes,
        floor: sandbox.isolation_floor,
    };
    let (agents, strays) = agents(&layers, ours, &known, &mut faults);
    let known = quotas::Known {
        providers: &providers,
        agents: &agents,
    };
    let config = Config {
        limits: quotas::limits(&layers, &known, &mut faults),
        budgets: quotas::budgets(&layers, &known, &mut faults),
        rates: rates::rates(&layers, &known, &mut faults),
        log_level: log_level(&layers, &mut faults),
        rpc: rpc(&layers, &mut faults),
        roles: roles(&layers, &mut faults),
        actions: actions(&layers, &mut faults),
        sessions: sessions(&layers, &mut faults),
        confinement: confinement(&layers, &mut faults),
        sandbox,
        agents,
        strays,
        providers,
        routes,
        prices,
        default_fixed_in: layers
            .last(|file| file.default_provider.as_ref())
            .map(|(source, _)| source.name.clone()),
        default_provider,
        rules: match rules {
            Some(rules) => rules,
            None => return Err(faults),
        },
        shipped_policy,
    };
    faults.or(config)
}

fn rules(policies: Option<Vec<Source>>, faults: &mut Faults) -> Option<Rules> {
    let parsed = match policies {
        None => Rules::shipped(),
        Some(files) => Rules::parse(
            &files
                .into_iter()
                .map(|file| (file.name, file.text))
                .collect::<Vec<_>>(),
        ),
    };
    parsed
        .map_err(|found| {
            faults.0.extend(found.into_iter().map(|fault| Fault {
                file: fault.file,
                line: fault.line,
                column: fault.column,
                message: fault.message,
                hint: fault.hint.unwrap_or_else(|| "see paw-policy(5)".into()),
            }));
        })
        .ok()
}

fn log_level(layers: &Layers, faults: &mut Faults) -> String {
    let read = |text: &str| match text {
        "error" | "warn" | "info" | "debug" | "trace" => Ok(text.to_owned()),
        _ => Err("use error, warn, info, debug or trace".into()),
    };
    layers.text(
        |file| file.log.as_ref()?.level.as_ref(),
        "info".into(),
        read,
        faults,
    )
}

fn rpc(layers: &Layers, faults: &mut Faults) -> RpcBounds {
    RpcBounds {
        connections: layers.number(
            |f| f.rpc.as_ref()?.connections.as_ref(),
            512,
            4..=16_384,
            faults,
        ),
        connections_per_user: layers.number(
            |f| f.rpc.as_ref()?.connections_per_user.as_ref(),
            128,
            1..=16_384,
            faults,
        ),
        requests_per_second: layers.number(
            |f| f.rpc.as_ref()?.requests_per_second.as_ref(),
            5_000,
            0..=1_000_000,
            faults,
        ),
    }
}

fn roles(layers: &Layers, faults: &mut Faults) -> RoleGroups {
    RoleGroups {
        admin: layers.text(
            |f| f.roles.as_ref()?.admin.as_ref(),
            "paw-admin".into(),
            account,
            faults,
        ),
        approver: layers.text(
            |f| f.roles.as_ref()?.approver.as_ref(),
            "paw-approver".into(),
            account,
            faults,
        ),
        user: layers.text(
            |f| f.roles.as_ref()?.user.as_ref(),
            "paw-user".into(),
            account,
            faults,
        ),
    }
}

fn confinement(layers: &Layers, faults: &mut Faults) -> Confinement {
    let user = |pick: fn(&file::Confinement) -> Option<&Spanned<String>>,
                default: &str,
                faults: &mut Faults| {
        layers.text(
            |f| pick(f.confinement.as_ref()?),
            default.to_owned(),
            account,
            faults,
        )
    };
    Confinement {
        user: user(|c| c.user.as_ref(), "paw", faults),
        launcher_user: user(|c| c.launcher_user.as_ref(), "paw-launcher", faults),
        audit_user: user(|c| c.audit_user.as_ref(), "paw-audit", faults),
        egress_user: user(|c| c.egress_user.as_ref(), "paw-egress", faults),
        shim_user: user(|c| c.shim_user.as_ref(), "paw-shim", faults),
        landlock_floor: layers.number(
            |f| f.confinement.as_ref()?.landlock_floor.as_ref(),
            2,
            1..=64,
            faults,
        ),
    }
}

fn sandbox(layers: &Layers, faults: &mut Faults) -> SandboxDefaults {
    let pick = |f: fn(&file::Sandbox) -> Option<&Spanned<String>>| {
        move |file: &'_ File| file.sandbox.as_ref().and_then(f).cloned()
    };
    let base = "base".parse().expect("`base` is a name");
    let text = |f: fn(&file::Sandbox) -> Option<&Spanned<String>>| {
        layers
            .0
            .iter()
            .rev()
            .find_map(|(source, file)| pick(f)(file).map(|value| (source, value)))
    };
    let sized = |f, default, faults: &mut Faults| match text(f) {
        Some((source, value)) => read_value(source, &value, &size, faults).unwrap_or(default),
        None => default,
    };
    let cpus = layers.number(
        |f| f.sandbox.as_ref()?.cpus.as_ref(),
        1.0,
        0.01..=1024.0,
        faults,
    );
    SandboxDefaults {
        isolation_floor: layers.text(
            |f| f.sandbox.as_ref()?.isolation_floor.as_ref(),
            Isolation::Kernel,
            isolation,
            faults,
        ),
        image: layers.text(|f| f.sandbox.as_ref()?.image.as_ref(), base, name, faults),
        limits: Limits {
            // Bounded above by 1024 CPUs, so the product is far below 2^32.
            cpu_milli: (cpus * 1000.0) as u32,
            memory: sized(|s| s.memory.as_ref(), 256 << 20, faults),
            disk: sized(|s| s.disk.as_ref(), 100 << 20, faults),
            pids: layers.number(
                |f| f.sandbox.as_ref()?.pids.as_ref(),
                64,
                2..=32_768,
                faults,
            ),
            open_files: 1_024,
            wall_ms: millis(layers.text(
                |f| f.sandbox.as_ref()?.timeout.as_ref(),
                Duration::from_secs(30),
                duration,
                faults,
            )),
            io_weight: layers
                .last(|f| f.sandbox.as_ref()?.io_weight.as_ref())
                .map(|_| {
                    layers.number(
                        |f| f.sandbox.as_ref()?.io_weight.as_ref(),
                        100,
                        1..=10_000,
                        faults,
                    )
                }),
        },
        require_proof: layers
            .last(|f| f.sandbox.as_ref()?.require_proof.as_ref())
            .is_some_and(|(_, value)| *value.get_ref()),
        max_output: sized(|s| s.max_output.as_ref(), 256 << 20, faults),
        pool: pool(layers, faults),
    }
}

fn pool(layers: &Layers, faults: &mut Faults) -> PoolBounds {
    fn set(file: &File) -> Option<&file::Pool> {
        file.sandbox.as_ref()?.pool.as_ref()
    }
    PoolBounds {
        max: layers.number(|f| set(f)?.max.as_ref(), 4, 0..=256, faults),
        memory: layers.text(|f| set(f)?.memory.as_ref(), 256 << 20, size, faults),
        idle: layers.text(
            |f| set(f)?.idle.as_ref(),
            Duration::from_secs(120),
            duration,
            faults,
        ),
    }
}

fn providers(layers: &Layers, faults: &mut Faults) -> BTreeMap<Name, ProviderSettings> {
    let mut providers = BTreeMap::new();
    for (source, file) in &layers.0 {
        for (key, provider) in &file.provider {
            let Some(key) = read_value(source, key, &name, faults) else {
                continue;
            };
            if let Some(settings) = self::provider(source, provider, faults) {
                providers.insert(key, settings);
            }
        }
    }
    providers
}

fn provider(
    source: &Source,
    provider: &file::Provider,
    faults: &mut Faults,
) -> Option<ProviderSettings> {
    let kind = read_value(source, &provider.kind, &provider_kind, faults);
    let base_url = read_value(source, &provider.base_url, &url, faults);
    let model = read_value(source, &provider.model, &super::value::model, faults);
    let seconds = Duration::from_secs;
    let mut time = |value: &Option<Spanned<String>>, default| match value {
        Some(value) => read_value(source, value, &limit, faults).unwrap_or(default),
        None => default,
    };
    let timeouts = Timeouts {
        connect: time(&provider.connect_timeout, seconds(5)),
        first_token: time(&provider.first_token_timeout, seconds(120)),
        stall: time(&provider.stall_timeout, seconds(60)),
        total: time(&provider.total_timeout, seconds(600)),
    };
    let credential = provider
        .api_key_credential
        .as_ref()
        .and_then(|value| read_value(source, value, &name, faults));
    let secret = provider
        .api_key_secret
        .as_ref()
        .and_then(|value| read_value(source, value, &super::value::secret, faults));
    if let (Some(_), Some(value)) = (&provider.api_key_credential, &provider.api_key_secret) {
        faults.at(
            source,
            value.span(),
            "a provider has one key, and two places are named for it",
            "keep api_key_secret, or api_key_credential",
        );
    }
    let may_receive = provider
        .may_receive
        .as_ref()
        .and_then(|value| read_value(source, value, &ceiling, faults));
    let mut settings = ProviderSettings {
        kind: kind?,
        base_url: base_url?,
        model: model?,
        api_key_credential: credential.map(|name| name.to_string()),
        api_key_secret: secret,
        allow_plaintext: provider.allow_plaintext.unwrap_or(false),
        may_receive: Ceiling::Private,
        max_retries: provider
            .max_retries
            .as_ref()
            .map_or(2, |value| bounded(source, value, &(0..=10), faults)),
        check_interval: provider
            .check_interval
            .as_ref()
            .and_then(|value| read_value(source, value, &interval, faults))
            .unwrap_or(seconds(60)),
        warm: super::warm::warm(source, provider, faults),
        timeouts,
        file: source.name.clone(),
        registered: false,
    };
    settings.may_receive = match (may_receive, settings.is_local()) {
        (Some(ceiling), true) => ceiling,
        (None, true) => Ceiling::Secret,
        (Some(Ceiling::Secret), false) => {
            let span = provider.may_receive.as_ref().map_or(0..0, Spanned::span);
            let hint = "write may_receive = \"private\", or ask a provider on this host";
            faults.at(
                source,
                span,
                "what is secret stays on this host, and this provider is not on it",
                hint,
            );
            Ceiling::Private
        }
        (Some(ceiling), false) => ceiling,
        (None, false) => Ceiling::Private,
    };
    if settings.base_url.scheme() == "http" && !settings.is_local() && !settings.allow_plaintext {
        let hint = "use https, or write allow_plaintext = true if the network in between is yours";
        faults.at(
            source,
            provider.base_url.span(),
            "http to another host shows every message to the network",
            hint,
        );
    }
    Some(settings)
}

fn default_provider(
    layers: &Layers,
    known: &BTreeMap<Name, ProviderSettings>,
    faults: &mut Faults,
) -> Option<Name> {
    match layers.last(|file| file.default_provider.as_ref()) {
        Some((source, value)) => reference(source, value, known, "provider", faults),
        None => known.keys().next().filter(|_| known.len() == 1).cloned(),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
