//! The second half of the start: store, runtime, tasks, READY; and the end: STOPPING, drain, last records.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use paw_api::audit::{Entry, Event};
use paw_launch::request::SandboxSummary;
use paw_policy::State;
use paw_store::{ActionRecord, OpenOptions, Store};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    helpers::{self, Helpers},
    notify,
    serve::serve,
    users::People,
};
use crate::{
    agent::{
        Agents, Door, Remembered,
        adopted::{self, Adoptions},
        net::Ways,
        persons::Persons,
        skill::tell_drift,
        unmade::Unmade,
    },
    audit::Audit,
    canaries::Canaries,
    codes::Codes,
    config::{ActionBounds, Config, Paths, check::Written, registered::Registered},
    events::News,
    exit::Fatal,
    gateway::{breakers::Breakers, look},
    grants::Grants,
    intake::Intake,
    jobs::keeper,
    labels::Labels,
    models::{self, pulls::Pulls},
    orchestrator::driver::{Driver, Ports},
    prove,
    providers::{self, Providers, keys::Keys},
    questions,
    quota::{Quotas, rates::Rates},
    reload::{Current, Reload},
    retention,
    rpc::{
        Limits,
        family::{
            self,
            health::{Born, looks},
        },
    },
    sandbox::{
        self, Found, Launcher, LauncherState, Launchers, Proofs, Register, Skills, Which,
        pool::pool, proofs::Host,
    },
    secrets::{Secrets, start::StartKeys},
    skills::{Incoming, Installed},
    storage::Storage,
};

/// How long the audit writer may take to answer at the start; it opens its log meanwhile.
const AUDIT_LIMIT: Duration = Duration::from_secs(20);

/// How long a launcher that took our connection may take to answer at the start; it sweeps up after its earlier life meanwhile.
const LAUNCHER_LIMIT: Duration = Duration::from_secs(20);

/// How long the tasks have to end once the driver has.
const GOODBYE: Duration = Duration::from_secs(3);

/// Threads of the runtime: the work is waiting, so more would only cost memory.
const THREADS: usize = 2;

/// What the first half hands over.
pub(super) struct Start {
    pub(super) paths: Paths,
    pub(super) config: Config,
    pub(super) written: Written,
    pub(super) registered: Registered,
    pub(super) logging: paw_log::Logging,
    pub(super) people: People,
    pub(super) control: UnixListener,
    pub(super) keys: Keys,
    pub(super) start_keys: StartKeys,
    pub(super) helpers: Option<Helpers>,
    pub(super) ports: Vec<u16>,
    pub(super) host: Host,
    pub(super) born: Born,
}

/// Runs to the end.
pub(super) fn run(start: Start) -> Result<(), Fatal> {
    let store = open_store(&start.paths)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("pawd")
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let result = runtime.block_on(live(start, store));
    runtime.shutdown_timeout(GOODBYE);
    result
}

fn open_store(paths: &Paths) -> Result<Store, Fatal> {
    let path = paths.state.join("pawd.redb");
    super::time::goes_on(&path, &paths.log);
    Store::open(&path, OpenOptions::new(env!("CARGO_PKG_VERSION"))).map_err(|error| {
        error!(message_id = paw_log::events::STORE_CORRUPT, error = %paw_log::Chain(&error), remedy = error.remedy(), "the store cannot be used");
        notify(&[NotifyState::Status("the store cannot be used; see the journal")]);
        let remedy = error.remedy();
        Fatal::Software(anyhow::Error::new(error).context(format!("open the store ({remedy})")))
    })
}

async fn live(start: Start, store: Store) -> Result<(), Fatal> {
    let Start {
        paths,
        config,
        written,
        registered,
        logging,
        people,
        control,
        keys,
        start_keys,
        helpers,
        ports,
        host,
        mut born,
    } = start;
    let began = Instant::now();
    let stop = CancellationToken::new();
    // Cancelled after the drain: until then callers hear the end of what they wait for.
    let over = CancellationToken::new();
    let mut parts = JoinSet::new();

    let storage = Storage::start(Arc::new(store), config.actions.keep)
        .context("start the thread of the store")?;
    let (audit, keep_audit) = Audit::connect(paths.socket("audit"));
    parts.spawn(keep_audit);
    let (usual, connection) = sandbox::connect(Which::Usual, paths.socket("launcher"));
    parts.spawn(connection.run());
    let (kata, connection) = sandbox::connect(Which::Kata, paths.socket("launcher-kata"));
    parts.spawn(connection.run());
    let launchers = Launchers::new(usual, kata);
    let skills = Arc::new(
        Skills::load(&paths.data.join("skills")).context("read the skills that are installed")?,
    );
    born.skill_faults = skills
        .faults()
        .iter()
        .map(|fault| paw_log::Chain(fault).to_string())
        .collect();
    let (installed, drifts) =
        Installed::open(&paths, Arc::clone(&skills)).context("read what was approved of skills")?;
    let installed = Arc::new(installed);
    let labels =
        Arc::new(Labels::open(&paths.state).context("read where what skills keep came from")?);
    let incoming = Incoming::new(&paths.skills);
    let secrets = Secrets::at(&paths.state, start_keys, audit.clone());
    let providers = Providers::new(&config, &keys, &secrets, &ports, &Providers::default())
        .context("set up the providers")
        .map_err(Fatal::Config)?;

    let breakers = Breakers::read(storage.read(), &config)
        .context("read which targets are left alone")
        .map_err(Fatal::Software)?;

    let bounds = config.actions;
    let limits = Limits::of(&config.rpc);
    let codes = Codes::open(&paths.state)
        .context("read who has enrolled for one-time codes")
        .map_err(Fatal::Config)?;
    let granted = storage.read().grants().context("read what is granted");
    let (grants, rules_now) = Grants::new(config.rules.clone(), granted.map_err(Fatal::Software)?);
    let grants = Arc::new(grants);
    let (providers, providers_now) = watch::channel(Arc::new(providers));
    let (config, config_now) = watch::channel(Arc::new(config));
    let news = Arc::new(News::default());
    let (register, found) = Register::open(paths.state.join("sandboxes"))
        .context("read what an earlier pawd noted of its sandboxes")?;
    let proofs = Proofs::read(storage.read(), host)
        .context("read what is known of the runtimes")
        .map_err(Fatal::Software)?;
    let (pool_bounds, pool_bounds_now) = watch::channel(config_now.borrow().sandbox.pool);
    let (pool, keeper) = pool(launchers.clone(), pool_bounds_now, stop.clone());
    let mut keeper = tokio::spawn(keeper.run());
    let (asks, asked) = questions::channel();
    let quotas = Quotas::new(config_now.clone(), storage.clone());
    let rates = Rates::new(config_now.clone());
    let mut drawn = [0; 32];
    getrandom::fill(&mut drawn)
        .context("draw what marks of conversations are made of")
        .map_err(Fatal::Software)?;
    let executor = Arc::new(Agents {
        config: config_now.clone(),
        providers: providers_now.clone(),
        breakers: Arc::clone(&breakers),
        quotas: Arc::clone(&quotas),
        kept: Arc::default(),
        storage: storage.clone(),
        launchers: launchers.clone(),
        pool: pool.clone(),
        skills: Arc::clone(&skills),
        installed: Arc::clone(&installed),
        labels: Arc::clone(&labels),
        told: Remembered::default(),
        register: register.clone(),
        adoptions: Adoptions::default(),
        outlived: helpers.is_none(),
        proofs: proofs.clone(),
        ways: Ways::default(),
        egress: paths.socket("egress"),
        audit: audit.clone(),
        persons: Persons::default(),
        unmade: Unmade::default(),
        canaries: Canaries::of(drawn),
        secrets: secrets.clone(),
        rules: rules_now.clone(),
        asks,
        door: OnceLock::new(),
    });
    let agents = Arc::clone(&executor);
    parts.spawn(look::keep(
        Arc::clone(&breakers),
        storage.clone(),
        config_now.clone(),
        providers_now.clone(),
    ));
    let driver_ports = Ports {
        storage: storage.clone(),
        audit: audit.clone(),
        executor,
        rules: rules_now.clone(),
        grants: Arc::clone(&grants),
        news: Arc::clone(&news),
        quotas: Arc::clone(&quotas),
        rates: Arc::clone(&rates),
    };
    let (driver, actions) = Driver::new(driver_ports, bounds)
        .context("read the open actions")
        .map_err(Fatal::Software)?;

    let mut helpers = helpers;
    let lost = helpers::watch(helpers.as_ref())?;
    tokio::pin!(lost);
    let ours = [Which::Usual, Which::Kata].map(|which| {
        helpers
            .as_ref()
            .is_some_and(|helpers| helpers.has(which.unit()))
    });
    // Nothing is accepted before the writer of the log is there, and the first record says that pawd is. What an earlier life
    // left is taken on or ended first: what is told as interrupted must not go on.
    let parts_ready = async {
        audit.ready(AUDIT_LIMIT).await.map_err(|error| {
            let remedy = error.remedy();
            let error = anyhow::Error::new(error);
            Fatal::Software(error.context(format!("reach the audit writer ({remedy})")))
        })?;
        let executing = executing(&storage)?;
        let (usual_left, kata_left) = tokio::try_join!(
            settle(launchers.usual(), Which::Usual, ours[0]),
            settle(launchers.kata(), Which::Kata, ours[1]),
        )?;
        let (usual_found, kata_found): (Vec<Found>, Vec<Found>) = found
            .into_iter()
            .partition(|found| Which::makes(found.saved.about.plan.runtime) == Which::Usual);
        for (launcher, left, found) in [
            (launchers.usual(), usual_left, usual_found),
            (launchers.kata(), kata_left, kata_found),
        ] {
            match left {
                Some(left) => {
                    let taken = adopted::take_on(launcher, &register, found, &executing, &left);
                    agents.adoptions.add(taken.await);
                }
                None => adopted::give_up(launcher, &register, found),
            }
        }
        Ok::<(), Fatal>(())
    };
    tokio::select! {
        ready = parts_ready => ready?,
        name = &mut lost => return Err(helpers::end_of(helpers.as_mut(), name)),
    }
    audit
        .durable(started(&born, &rules_now.borrow()))
        .await
        .context("write the first record")
        .map_err(Fatal::Software)?;
    secrets.open_at_start().await;
    parts.spawn(secrets.clone().keep_time(stop.clone()));
    for drift in &drifts {
        tell_drift(&audit, drift, None).await;
    }

    let current = Current {
        etc: paths.etc.clone(),
        state: paths.state.clone(),
        written,
        registered,
        keys,
        secrets: secrets.clone(),
        ports,
        config,
        providers,
        grants: Arc::clone(&grants),
        pool: pool_bounds,
        audit: audit.clone(),
        actions: actions.clone(),
        logging,
        notify: tell_reload,
    };
    let (reload, answer_reloads) = Reload::new(current);
    parts.spawn(answer_reloads);
    watch_signals(&mut parts, stop.clone(), reload.clone())?;

    let intake = Intake {
        labels,
        register: register.clone(),
        config: config_now.clone(),
        providers: providers_now.clone(),
        rules: rules_now.clone(),
        skills: Arc::clone(&skills),
        installed: Arc::clone(&installed),
        storage: storage.clone(),
        reload: reload.clone(),
        workspaces: launchers.clone().into(),
        pulls: Pulls::default(),
        secrets: secrets.clone(),
    };
    parts.spawn(questions::ask(asked, intake.clone(), actions.clone()));
    parts.spawn(retention::keep(
        config_now.clone(),
        storage.clone(),
        audit.clone(),
        stop.clone(),
    ));
    drop(agents.door.set(Door {
        intake: intake.clone(),
        actions: actions.clone(),
    }));
    let job_ports = keeper::Ports {
        intake: intake.clone(),
        actions: actions.clone(),
        storage: storage.clone(),
        audit: audit.clone(),
        news: Arc::clone(&news),
    };
    let (keep_jobs, jobs) = keeper::Keeper::new(job_ports)
        .context("read the jobs")
        .map_err(Fatal::Software)?;
    let (door, watched) = (actions.clone(), providers_now.clone());
    let warming = models::warm::keep(config_now.clone(), providers_now.clone(), stop.clone());
    let proving =
        config_now.borrow().sandbox.require_proof.then(|| {
            prove::prove_what_is_refused(launchers.clone(), proofs.clone(), storage.clone())
        });
    let (egress, signed) = (paths.socket("egress"), audit.signed());
    let witnesses = sandbox::witnesses(&mut parts, egress, signed, stop.clone());
    let (looks, look) = looks(
        audit.clone(),
        launchers.clone(),
        paths.socket("egress"),
        born.landlock.abi,
    );
    parts.spawn(look);
    let context = family::Context {
        actions,
        intake,
        jobs,
        storage,
        audit: audit.clone(),
        news,
        launchers,
        pool,
        register,
        ways: agents.ways.clone(),
        skills,
        installed,
        incoming,
        config: config_now,
        providers: providers_now,
        breakers,
        quotas,
        rates,
        kept: Arc::clone(&agents.kept),
        rules: rules_now,
        grants,
        codes,
        secrets,
        reload,
        paths,
        born,
        looks,
        witnesses,
        since: Instant::now(),
        stop: stop.clone(),
        over: over.clone(),
        verified: Mutex::default(),
        proofs,
        uploads: family::Uploads::default(),
        inputs: Mutex::default(),
    };
    let serving = serve(
        control,
        context,
        &people,
        audit.clone(),
        limits,
        over.clone(),
    )?;
    let mut served = tokio::spawn(serving);

    info!(
        message_id = paw_log::events::DAEMON_READY,
        took_ms = began.elapsed().as_millis(),
        "ready"
    );
    notify(&[NotifyState::Ready, NotifyState::Status("ready")]);
    parts.spawn(providers::watch::watch(watched, stop.clone()));
    parts.spawn(warming);
    parts.spawn(keep_jobs.run(stop.clone()));
    // Not before: it makes sandboxes, and takes a while.
    if let Some(proving) = proving {
        parts.spawn(proving);
    }
    let pulse = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    // On a thread of the runtime, where those are that it talks with: the thread that waits here would have to be woken for each word.
    let mut work =
        tokio::spawn(driver.run(stop.clone(), pulse, || notify(&[NotifyState::Watchdog])));
    let ended = tokio::select! {
        ended = &mut work => whole(ended),
        name = &mut lost => {
            error!(
                message_id = paw_log::events::LAUNCHER_LOST,
                helper = name,
                "a helper ended, and without root nothing can take its place; pawd stops"
            );
            // What is being done cannot end well any more, so there is nothing to wait for.
            door.rebound(ActionBounds { drain: Duration::ZERO, ..bounds }).await;
            stop.cancel();
            whole(work.await)
                .and_then(|()| Err(helpers::end_of(helpers.as_mut(), name)))
        }
    };

    // The drain is over: everything that was stored is stored, and the last record says that pawd ends.
    stop.cancel();
    over.cancel();
    if tokio::time::timeout(GOODBYE + Limits::default().drain, &mut served)
        .await
        .is_err()
    {
        warn!("connections did not end in time");
        served.abort();
    }
    // It began when the stop did; a launcher that does not answer ends what waits by itself.
    if tokio::time::timeout(GOODBYE, &mut keeper).await.is_err() {
        warn!("sandboxes that wait were not seen to end");
        keeper.abort();
    }
    if let Err(error) = audit.durable(Entry::new(Event::DaemonStopping)).await {
        warn!(error = %error, "the end is not in the audit log");
    }
    parts.shutdown().await;
    // Only now may the helpers see the end of their lifeline: the last record needed the audit writer.
    drop(helpers);
    info!("stopped");
    ended
}

/// What the end of the driver says of it: without the driver nothing goes on, so its fault is ours.
fn whole(ended: Result<(), JoinError>) -> Result<(), Fatal> {
    ended
        .context("the driver of actions ended by a fault; report it with the journal of this time")
        .map_err(Fatal::Software)
}

/// The actions that were being done when an earlier life ended.
fn executing(storage: &Storage) -> Result<BTreeMap<Uuid, ActionRecord>, Fatal> {
    let mut executing = BTreeMap::new();
    storage
        .read()
        .each_in(&[State::Executing], |record| {
            executing.insert(record.id, record);
        })
        .context("read the actions that were being done")?;
    Ok(executing)
}

/// Waits for the launcher and asks what an earlier pawd left behind; nothing, when it cannot be asked. Where no service manager
/// starts the launcher later, it has to be there now; its end is noticed by who waits beside us.
async fn settle(
    launcher: &Launcher,
    which: Which,
    ours: bool,
) -> Result<Option<Vec<SandboxSummary>>, Fatal> {
    let mut state = launcher.state();
    let settled = |state: &LauncherState| match state {
        LauncherState::Connecting => false,
        LauncherState::Connected { .. } => true,
        // One that starts later sweeps up after its own earlier life.
        LauncherState::Away { .. } | LauncherState::Off => !ours,
    };
    let seen = tokio::time::timeout(LAUNCHER_LIMIT, state.wait_for(settled)).await;
    match seen {
        Ok(Ok(state)) if matches!(*state, LauncherState::Connected { .. }) => {}
        Ok(Ok(_)) => return Ok(None),
        Ok(Err(_)) | Err(_) if ours => {
            let limit = LAUNCHER_LIMIT.as_secs();
            return Err(Fatal::Software(anyhow!(
                "{} did not answer within {limit} s",
                which.unit()
            )));
        }
        Ok(Err(_)) | Err(_) => {
            warn!(
                unit = which.unit(),
                "the launcher takes connections and does not answer; what needs a sandbox is refused until it does"
            );
            return Ok(None);
        }
    }
    match launcher.list().await {
        Ok(left) => Ok(Some(left)),
        Err(error) => {
            warn!(error = %paw_log::Chain(&error), "sandboxes of an earlier pawd could not be listed");
            Ok(None)
        }
    }
}

/// SIGTERM and SIGINT stop, SIGHUP reads the configuration again.
fn watch_signals(
    parts: &mut JoinSet<()>,
    stop: CancellationToken,
    reload: Reload,
) -> Result<(), Fatal> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    parts.spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                // The outcome is logged and recorded by who reloads.
                _ = hangup.recv() => drop(reload.signalled().await),
            }
        }
        info!(message_id = paw_log::events::DAEMON_STOPPING, "stopping");
        notify(&[
            NotifyState::Stopping,
            NotifyState::Status("stopping: what is being done may end"),
        ]);
        stop.cancel();
    });
    Ok(())
}

/// Tells the service manager that a reload begins or has ended.
fn tell_reload(begins: bool) {
    if begins {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => warn!(error = %error, "the monotonic clock cannot be read"),
        }
    } else {
        notify(&[NotifyState::Ready]);
    }
}

fn started(born: &Born, rules: &paw_policy::Rules) -> Entry {
    let mut entry = Entry::new(Event::DaemonStarted);
    entry.policy_digest = Some(rules.digest());
    let mut detail = |key: &str, value: String| drop(entry.detail.insert(key.into(), value));
    detail("version", env!("CARGO_PKG_VERSION").into());
    detail("landlock_abi", born.landlock.abi.to_string());
    detail("probes", born.probes.len().to_string());
    entry
}
