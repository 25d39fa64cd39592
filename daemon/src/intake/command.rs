//! A command that a person wants to run in a sandbox, as it stands in a plan.

use paw_api::{Error, ErrorKind, sandbox::RunSpec};
use paw_policy::{Name, Operation};
use serde_json::Value;

use crate::{
    agent::{asked, tool},
    config::{AgentSettings, Config},
    sandbox,
};

/// The exact command, with every default written out, so that what is approved does not change with the configuration.
pub(super) fn own_run(
    config: &Config,
    (name, settings): (&Name, &AgentSettings),
    mut spec: RunSpec,
) -> Result<Operation, Error> {
    let checked = asked::check(&spec)?;
    let floor = checked.floor.max(config.sandbox.isolation_floor);
    if let Some(runtime) = checked.runtime {
        sandbox::allow(runtime, floor)
            .map_err(|error| Error::new(ErrorKind::Denied, error.to_string(), tool::TOO_WEAK))?;
    }
    asked::within(settings, &spec.net, name)?;
    let (limits, image) = (config.sandbox.limits, config.sandbox.image.to_string());
    spec.runtime.get_or_insert_with(|| "auto".into());
    spec.isolation_floor = Some(floor.to_string());
    spec.image.get_or_insert(image);
    spec.cpu_milli.get_or_insert(limits.cpu_milli);
    spec.memory.get_or_insert(limits.memory);
    spec.disk.get_or_insert(limits.disk);
    spec.pids.get_or_insert(limits.pids);
    spec.timeout_ms.get_or_insert(limits.wall_ms);
    let workdir = if spec.workspace.is_some() {
        crate::agent::run::WORKSPACE
    } else {
        "/"
    };
    spec.workdir.get_or_insert_with(|| workdir.into());
    written(&spec)
}

/// A command as it stands in a plan.
pub(super) fn written(spec: &RunSpec) -> Result<Operation, Error> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(spec)) => Ok(Operation::SandboxRun(spec)),
        Ok(_) | Err(_) => Err(Error::new(
            ErrorKind::Internal,
            "the command cannot be written down",
            "report it",
        )),
    }
}
