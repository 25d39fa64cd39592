//! From the command line to a running daemon, top to bottom:
//! configuration, sockets, keys, helpers, drop, proof of the drop, store, runtime, READY.
//!
//! Everything that needs a right happens before the drop and before the first thread; everything that parses foreign bytes
//! happens after it.

mod helpers;
mod run;
mod serve;
mod sockets;
mod time;
mod users;

use std::{io, path::PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Parser;
use paw_confine::{
    drop::drop_to,
    landlock::{Enforced, Floor, LandlockError, PathRule, Ports, Rights, Rules, enforce},
    prove::prove,
    seccomp,
};
use uuid::Uuid;

use crate::{
    config::{
        Config, Paths,
        check::{ConfigError, Written, check_all},
        registered::{Registered, RegisteredError},
    },
    exit::Fatal,
    providers::keys::{Keys, brokers},
    rpc::family::health::Born,
    sandbox::proofs::Host,
    secrets::start::StartKeys,
};

/// Hosts AI agents as a system service.
#[derive(Debug, Parser)]
#[command(name = "pawd", version, about, long_about = None)]
pub struct Options {
    /// Keep configuration, sockets, state and logs below this directory instead of /etc, /run and /var.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Start the launcher, the audit writer and the egress broker as well, for hosts without systemd.
    #[arg(long)]
    pub standalone: bool,
    /// Check the configuration, list every fault, and end.
    #[arg(long)]
    pub check_config: bool,
    /// The kernel's id of this start of the host, for a /proc that shows processes alone [default: as /proc says].
    #[arg(long, value_name = "ID")]
    pub boot_id: Option<Uuid>,
}

/// A file that every user of a host may read and that pawd must not.
const OUTSIDE: &str = "/etc/passwd";

/// Starts pawd and runs it to its end.
///
/// # Errors
/// Why it did not start, or ended.
pub fn boot(options: &Options) -> Result<(), Fatal> {
    let program = std::env::current_exe()
        .context("find our own program in /proc/self/exe; is /proc mounted?")?;
    let paths = Paths::new(options.root.as_deref(), &program);
    let (config, written, registered) = configuration(&paths, options.check_config)?;
    if options.check_config {
        return say_checked(&paths, &config);
    }
    let logging = paw_log::init("pawd", Some(&config.log_level)).context("set up logging")?;
    let people = users::resolve(&config, &paths, options.standalone)?;
    let mut sockets = sockets::open(&paths, &people, options.standalone)?;
    let keys = keys(&paths, &config)?;
    let start_keys = start_keys(&paths)?;
    let helpers = if options.standalone {
        Some(helpers::start(&paths, &people, &sockets)?)
    } else {
        None
    };
    // Only the helpers listen on their sockets: with a copy of ours, connecting to a dead one would seem to succeed.
    (sockets.launcher, sockets.kata) = (None, None);
    (sockets.audit, sockets.egress) = (None, None);
    let ports = ports(&config);
    let host = Host::read(options.boot_id)
        .context("ask the kernel which start of the host this is; is /proc mounted?")
        .map_err(Fatal::Software)?;
    let born = confine(&paths, &config, &people, &ports)?;
    run::run(run::Start {
        paths,
        config,
        written,
        registered,
        logging,
        people,
        control: sockets.control,
        keys,
        start_keys,
        helpers,
        ports,
        host,
        born,
    })
}

/// What root wrote and what was registered. Whoever only checks may not be allowed to read the latter, and then checks the former.
fn configuration(paths: &Paths, only_check: bool) -> Result<(Config, Written, Registered), Fatal> {
    let read = || {
        let written = Written::read(&paths.etc)?;
        let registered = match Registered::read(&paths.state) {
            Err(RegisteredError::Read { source, .. })
                if only_check && source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Registered::default()
            }
            read => read?,
        };
        let config = check_all(&written, &registered, &paths.state)?;
        Ok::<_, ConfigError>((config, written, registered))
    };
    read().map_err(|error| {
        notify(&[
            sd_notify::NotifyState::Status(
                "bad configuration; see the journal, then `pawctl config check`",
            ),
            sd_notify::NotifyState::Errno(nix::errno::Errno::EINVAL as u32),
        ]);
        Fatal::Config(error.into())
    })
}

fn say_checked(paths: &Paths, config: &Config) -> Result<(), Fatal> {
    use io::Write as _;
    let text = format!(
        "{}: good: {} agents, {} providers, policy {}\n",
        paths.etc.display(),
        config.agents.len(),
        config.providers.len(),
        if config.shipped_policy {
            "as shipped".to_owned()
        } else {
            config.rules.digest().to_string()
        },
    );
    io::stdout()
        .write_all(text.as_bytes())
        .context("write to stdout")
        .map_err(Fatal::from)
}

/// Reads keys from the service manager's credentials or from `etc/credentials`.
fn keys(paths: &Paths, config: &Config) -> Result<Keys, Fatal> {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY")
        .map_or_else(|| paths.etc.join("credentials"), PathBuf::from);
    let brokers = brokers(&paths.etc)
        .map_err(|why| anyhow!("{why}"))
        .with_context(|| {
            let file = paths.etc.join("egress.toml");
            format!(
                "see which credentials are the broker's in {}",
                file.display()
            )
        })
        .map_err(Fatal::Config)?;
    let mut keys = Keys::read(&directory, brokers);
    for provider in config.providers.values() {
        keys.fetch(provider).map_err(|error| {
            let name = provider.api_key_credential.as_deref().unwrap_or_default();
            let remedy = format!(
                "put it there with mode 0400, or give it to the unit with LoadCredential={name}:FILE"
            );
            Fatal::Config(
                anyhow::Error::new(error).context(format!("the key {name} is missing; {remedy}")),
            )
        })?;
    }
    Ok(keys)
}

/// Reads the key of the vault, where there is one. Without it pawd runs, and what needs a secret says what is missing.
fn start_keys(paths: &Paths) -> Result<StartKeys, Fatal> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    StartKeys::read(&paths.etc, credentials.as_deref()).map_err(|error| Fatal::Config(error.into()))
}

/// TCP ports that pawd may connect to: those of its providers, https, and DNS over TCP.
fn ports(config: &Config) -> Vec<u16> {
    let mut ports: Vec<u16> = config
        .providers
        .values()
        .filter_map(|provider| provider.base_url.port_or_known_default())
        .collect();
    ports.extend([53, 443]);
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Gives up every right that running does not need, and proves it.
fn confine(
    paths: &Paths,
    config: &Config,
    people: &users::People,
    ports: &[u16],
) -> Result<Born, Fatal> {
    above_the_floor(config)?;
    drop_to(people.own.uid, people.own.gid, &people.groups)
        .context("give up root")
        .map_err(Fatal::Permission)?;
    let landlock = restrict(paths, config, ports).map_err(|error| {
        Fatal::Permission(anyhow::Error::new(error).context("confine pawd with landlock"))
    })?;
    seccomp::pawd()
        .apply()
        .context("confine pawd with seccomp")
        .map_err(Fatal::Permission)?;
    let probes = prove(std::path::Path::new(OUTSIDE))
        .context("prove the confinement")
        .map_err(Fatal::Permission)?;
    tracing::info!(
        message_id = paw_log::events::DAEMON_DROPPED,
        uid = people.own.uid,
        landlock_abi = landlock.abi,
        missing = ?landlock.missing,
        probes = probes.len(),
        "rights given up, and proven to be"
    );
    Ok(Born {
        landlock,
        probes,
        shared_user: people.shared,
        skill_faults: Vec::new(),
    })
}

/// Refuses a kernel that cannot do what the configuration demands.
fn above_the_floor(config: &Config) -> Result<(), Fatal> {
    let (has, floor) = (
        paw_confine::sys::landlock_abi(),
        config.confinement.landlock_floor,
    );
    if has >= floor {
        return Ok(());
    }
    let why = if has == 0 {
        "has no landlock, or it is not switched on".to_owned()
    } else {
        format!("has landlock ABI {has}")
    };
    Err(Fatal::Permission(anyhow!(
        "this kernel {why}, and the configured floor is {floor}; boot with lsm=landlock,..., use a newer kernel, or lower \
         [confinement] landlock_floor if the part that is missing may be missing"
    )))
}

fn restrict(paths: &Paths, config: &Config, ports: &[u16]) -> Result<Enforced, LandlockError> {
    let granted = vec![
        PathRule::new(&paths.state, Rights::ReadWrite, "the store and its backups"),
        PathRule::optional(
            &paths.skills,
            Rights::ReadWrite,
            "skills that are installed, for the launcher to mount",
        ),
        PathRule::optional(&paths.etc, Rights::Read, "reading the configuration again"),
        PathRule::optional(
            &paths.log,
            Rights::Read,
            "listing and verifying the audit log",
        ),
        PathRule::optional(&paths.data, Rights::Read, "manifests and digests of skills"),
        PathRule::new(
            "/proc",
            Rights::Read,
            "what the kernel says of our processes",
        ),
        PathRule::new(
            "/dev/null",
            Rights::UseFiles,
            "what libraries write to nowhere",
        ),
        PathRule::optional(
            "/etc/ssl",
            Rights::Read,
            "certificates that providers are checked against",
        ),
        PathRule::optional("/etc/pki", Rights::Read, "the same where Fedora keeps them"),
        PathRule::optional(
            "/usr/share/ca-certificates",
            Rights::Read,
            "what /etc/ssl links to",
        ),
        PathRule::optional("/usr/lib/ssl", Rights::Read, "the same"),
        PathRule::optional("/usr/share/zoneinfo", Rights::Read, "time zones of jobs"),
        PathRule::optional("/etc/resolv.conf", Rights::Read, "name servers"),
        PathRule::optional(
            "/run/systemd/resolve",
            Rights::Read,
            "what resolv.conf may link to",
        ),
        PathRule::optional("/etc/hosts", Rights::Read, "names of hosts"),
        PathRule::optional("/etc/nsswitch.conf", Rights::Read, "how names are resolved"),
        PathRule::optional("/etc/gai.conf", Rights::Read, "which address is preferred"),
        PathRule::optional("/etc/host.conf", Rights::Read, "how names are resolved"),
        PathRule::optional(
            "/etc/ld.so.cache",
            Rights::Read,
            "finding the resolver's libraries",
        ),
        PathRule::optional("/usr/lib", Rights::Read, "the resolver's libraries"),
        PathRule::optional("/usr/lib64", Rights::Read, "the same"),
        PathRule::optional("/lib", Rights::Read, "the same"),
        PathRule::optional("/lib64", Rights::Read, "the same"),
    ];
    let rules = Rules {
        paths: Some(granted),
        connect: Ports::Only(ports.to_vec()),
        bind: Ports::Only(Vec::new()),
        scope: true,
    };
    let floor = config.confinement.landlock_floor;
    enforce(
        &rules,
        Floor {
            files: true,
            net: floor >= 4,
            scope: floor >= 6,
        },
    )
}

/// Tells the service manager, where there is one.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(error = %error, "the service manager was not told");
    }
}
