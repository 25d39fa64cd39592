//! `bench sandbox`: a command in a sandbox of its own, from the request to its end, one after the other on each connection.

use std::{cell::RefCell, rc::Rc, time::Duration};

use paw_api::sandbox::{RunEvent, RunSpec};
use serde_json::json;
use tokio::{task::LocalSet, time::Instant};

use super::numbers::{Tally, measured, show};
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
    let spec = Rc::new(RunSpec {
        argv: load.argv.clone(),
        runtime: load.runtime.clone(),
        image: load.image.clone(),
        ..RunSpec::default()
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
            local.spawn_local(async move { connection(&pawd, &spec, &tally, &cpu, end).await })
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
    show(
        out,
        &measured(&tally, elapsed, load.concurrency, Some(spent), None),
        "CPU of a sandbox",
    )?;
    Ok(if tally.errors == 0 {
        exit::DONE
    } else {
        exit::FAILED
    })
}

/// One connection: a command to its end, then the next one.
async fn connection(
    pawd: &Connection,
    spec: &RunSpec,
    tally: &RefCell<Tally>,
    cpu: &RefCell<Duration>,
    end: Option<Instant>,
) -> Result<(), Failure> {
    loop {
        {
            let mut tally = tally.borrow_mut();
            if tally.left == 0 || end.is_some_and(|end| Instant::now() >= end) {
                return Ok(());
            }
            tally.left -= 1;
        }
        let began = std::time::Instant::now();
        let params = Params::named(json!({"spec": spec}));
        let mut items = pawd.subscribe(DOING, "sandbox.run", params).await?;
        let good = loop {
            let Some(item) = items.next().await? else {
                break false;
            };
            match item.read()? {
                RunEvent::Ended(result) => {
                    *cpu.borrow_mut() += Duration::from_millis(result.cpu_ms);
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
        tally.times.saturating_record(took);
        if !good {
            tally.errors += 1;
        }
    }
}
