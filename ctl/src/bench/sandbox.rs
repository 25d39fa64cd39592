//! `bench sandbox`: commands in sandboxes of their own, one after the other on each connection: each from the request to its end,
//! or with `--pool` from the claim of a sandbox that waits to the first byte of output, as pawd saw it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use paw_api::sandbox::{RunEvent, RunSpec};
use serde_json::json;
use tokio::{task::LocalSet, time::Instant};

use super::numbers::{Measured, Tally, measured, show};
use crate::{
    cli::{Global, SandboxLoad},
    connect::{Connection, Params, socket_path},
    fail::{Failure, exit},
    render::Out,
};

const DOING: &str = "run a command in a sandbox";

/// How long it goes on when neither a number nor a time is given.
const USUAL: Duration = Duration::from_secs(10);

pub(super) async fn run(global: &Global, out: &mut Out, load: SandboxLoad) -> Result<u8, Failure> {
    let socket = socket_path(global);
    let mut connections = Vec::new();
    for _ in 0..load.concurrency {
        connections.push(Connection::at(&socket, None).await?);
    }
    let tally = Rc::new(RefCell::new(Tally::new(load.requests.unwrap_or(u64::MAX))?));
    let cpu = Rc::new(RefCell::new(Duration::ZERO));
    let cold = Rc::new(Cell::new(0));
    let usual: &[&str] = if load.pool {
        &["echo", "ready"]
    } else {
        &["true"]
    };
    let spec = Rc::new(RunSpec {
        cold: !load.pool,
        ..spec(&load, usual)
    });
    let began = Instant::now();
    let end = load
        .requests
        .is_none()
        .then(|| began + load.duration.or(global.timeout).unwrap_or(USUAL));
    let local = LocalSet::new();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|pawd| {
            let (tally, cpu, spec) = (Rc::clone(&tally), Rc::clone(&cpu), Rc::clone(&spec));
            let cold = load.pool.then(|| Rc::clone(&cold));
            local.spawn_local(async move {
                connection(&pawd, &spec, &tally, &cpu, cold.as_deref(), end).await
            })
        })
        .collect();
    let mut first_failure = None;
    local
        .run_until(async {
            for task in tasks {
                let ended = task.await.unwrap_or_else(|error| {
                    Err(Failure::Local {
                        doing: DOING.to_owned(),
                        why: error.to_string(),
                        remedy: "report this as a fault of pawctl".to_owned(),
                    })
                });
                if let Err(failure) = ended {
                    tally.borrow_mut().errors += 1;
                    first_failure.get_or_insert(failure);
                }
            }
        })
        .await;
    let elapsed = began.elapsed();
    let tally = tally.borrow();
    if let Some(failure) = first_failure {
        return Err(failure);
    }
    // Of the sandboxes, as their cgroups count it: pawd's own part is in `bench rpc`.
    let spent = *cpu.borrow();
    let measures = if load.pool {
        "claim_to_first_output"
    } else {
        "request_to_end"
    };
    let measured = Measured {
        measures: Some(measures),
        cold: load.pool.then(|| cold.get()),
        ..measured(&tally, elapsed, load.concurrency, Some(spent), None)
    };
    show(out, &measured, "CPU of a sandbox")?;
    Ok(if tally.errors == 0 {
        exit::DONE
    } else {
        exit::FAILED
    })
}

/// What is asked for, with this command if none is given.
pub(super) fn spec(load: &SandboxLoad, usual: &[&str]) -> RunSpec {
    let argv = if load.argv.is_empty() {
        usual.iter().map(|&word| word.to_owned()).collect()
    } else {
        load.argv.clone()
    };
    RunSpec {
        argv,
        runtime: load.runtime.clone(),
        image: load.image.clone(),
        ..RunSpec::default()
    }
}

/// One connection: a command to its end, then the next one.
async fn connection(
    pawd: &Connection,
    spec: &RunSpec,
    tally: &RefCell<Tally>,
    cpu: &RefCell<Duration>,
    cold: Option<&Cell<u64>>,
    end: Option<Instant>,
) -> Result<(), Failure> {
    while tally.borrow_mut().one_more(end) {
        let began = std::time::Instant::now();
        let params = Params::named(json!({"spec": spec}));
        let mut items = pawd.subscribe(DOING, "sandbox.run", params).await?;
        let mut claimed = None;
        let good = loop {
            let Some(item) = items.next().await? else {
                break false;
            };
            match item.read()? {
                RunEvent::Ended(result) => {
                    *cpu.borrow_mut() += Duration::from_millis(result.cpu_ms);
                    claimed = result.first_output_us.filter(|_| result.pooled);
                    break result.exit_code == Some(0);
                }
                RunEvent::Failed { message, error } => {
                    return Err(Failure::NoSandbox {
                        why: message,
                        data: error,
                    });
                }
                RunEvent::Waiting { .. }
                | RunEvent::Started { .. }
                | RunEvent::Stdout { .. }
                | RunEvent::Stderr { .. } => {}
            }
        };
        items.end().await;
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut tally = tally.borrow_mut();
        match (cold, claimed) {
            (None, _) => tally.times.saturating_record(took),
            (Some(_), Some(us)) => tally.times.saturating_record(us.saturating_mul(1_000)),
            (Some(cold), None) => cold.set(cold.get() + 1),
        }
        if !good {
            tally.errors += 1;
        }
    }
    Ok(())
}
