//! One pawd with its neighbours, started as systemd would start it: the real daemon, the real audit writer, a fake launcher.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use command_fds::{CommandFdExt, FdMapping};
use jsonrpsee::async_client::Client;
use nix::sys::signal::Signal;

use crate::{FakeLauncher, Model, Root, Running, Window, notify::Notify, root, stage, within};

/// What a pawd is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    config: String,
    launcher: bool,
    audit: bool,
    one_operator: bool,
    watchdog_us: Option<u64>,
    program: Option<PathBuf>,
    authority: Option<String>,
    credentials: Option<String>,
    stalls_at: Option<&'static str>,
}

/// The policy of a host with one operator: whoever runs a test asks and answers.
pub fn operated_by_one(root: &Root) {
    let rules = [
        ("10-default", paw_policy::rules::DEFAULT),
        ("50-single-operator", paw_policy::rules::SINGLE_OPERATOR),
    ];
    for (name, text) in rules {
        root.write(&format!("etc/policy/{name}.cedar"), text);
    }
}

/// One more rule, for tests of other things than second factors: whoever runs them answers what is critical, too, by a plain yes.
pub const ANSWERS_ALL: &str = "@id(\"answers-all\")\npermit (principal in Role::\"admin\", action == Action::\"approve\", resource);\n";

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// No provider, the skill `files` for the agent `default`, an audit writer, a launcher; whoever runs the test is admin.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: format!(
                "[roles]\nadmin = \"{}\"\n\n[agent.default]\nskills = [\"files\"]\n",
                root::our_group()
            ),
            launcher: true,
            audit: true,
            one_operator: true,
            watchdog_us: None,
            program: None,
            authority: None,
            credentials: None,
            stalls_at: None,
        }
    }

    /// Another copy of pawd; see [`stage::with_skills`].
    #[must_use]
    pub fn program(mut self, pawd: PathBuf) -> Self {
        self.program = Some(pawd);
        self
    }

    /// With the certificates in this file below the root, and no others, as those of the authorities that this host knows.
    #[must_use]
    pub fn authority(mut self, file: &str) -> Self {
        self.authority = Some(file.to_owned());
        self
    }

    /// With the files in this directory below the root as what the service manager hands over.
    #[must_use]
    pub fn credentials(mut self, directory: &str) -> Self {
        self.credentials = Some(directory.to_owned());
        self
    }

    /// Ready to stand still at this place of its store; see [`Pawd::disk_stops`].
    #[must_use]
    pub const fn stalls_at(mut self, place: &'static str) -> Self {
        self.stalls_at = Some(place);
        self
    }

    /// With these lines of configuration and no others.
    #[must_use]
    pub fn only(config: &str) -> Self {
        Self {
            config: config.to_owned(),
            ..Self::new()
        }
    }

    /// Without a skill, so that a question is as long as its words.
    #[must_use]
    pub fn without_skills(mut self) -> Self {
        self.config = self.config.replace("skills = [\"files\"]", "skills = []");
        self
    }

    /// With the model as provider `local`, over the wire of Ollama, asked once.
    #[must_use]
    pub fn ollama(self, model: &Model) -> Self {
        self.ollama_with(model, ASKED_ONCE)
    }

    /// The same with these lines of its table in place of that.
    #[must_use]
    pub fn ollama_with(self, model: &Model, more: &str) -> Self {
        self.provider("local", "ollama", &model.url(), more)
    }

    /// With the model as provider `open`, over the wire of OpenAI, asked once.
    #[must_use]
    pub fn openai(self, model: &Model) -> Self {
        self.openai_with(model, ASKED_ONCE)
    }

    /// The same with these lines of its table in place of that.
    #[must_use]
    pub fn openai_with(self, model: &Model, more: &str) -> Self {
        self.provider("open", "openai", &format!("{}/v1", model.url()), more)
    }

    /// With two models on this host for one another, over different wires: the providers `first` and `spare`, with these lines of the table
    /// of each.
    #[must_use]
    pub fn first_and_spare(self, first: &Model, spare: &Model, more: &str) -> Self {
        self.provider("first", "openai", &format!("{}/v1", first.url()), more)
            .provider("spare", "ollama", &spare.url(), more)
    }

    /// With a model on this host as provider `here`, and one that counts as elsewhere as provider `away`, with these lines of its table;
    /// each is asked once.
    #[must_use]
    pub fn here_and_away(self, here: &Model, away: &Model, more: &str) -> Self {
        self.provider("here", "ollama", &here.url(), ASKED_ONCE)
            .away(away, more)
    }

    /// With the latter alone.
    #[must_use]
    pub fn away(self, away: &Model, more: &str) -> Self {
        let more = format!("allow_plaintext = true\n{ASKED_ONCE}{more}");
        self.provider("away", "ollama", &away.url_elsewhere(), &more)
    }

    /// With a provider; `more` are further lines of its table.
    #[must_use]
    pub fn provider(self, name: &str, kind: &str, url: &str, more: &str) -> Self {
        self.with(&format!(
            "\n[provider.{name}]\nkind = \"{kind}\"\nbase_url = \"{url}\"\nmodel = \"m\"\n{more}"
        ))
    }

    /// With further lines of configuration.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self
    }

    /// A root with this configuration, for [`Pawd::start_in`].
    #[must_use]
    pub fn root(&self) -> Root {
        let root = Root::new();
        root.write("etc/pawd.toml", &self.config);
        if self.one_operator {
            operated_by_one(&root);
        }
        root.write("etc/pawd.d/00-isolation.toml", PROCESS_WILL_DO);
        root
    }

    /// With the shipped policy alone, by which nobody approves what they asked for.
    #[must_use]
    pub const fn shipped_policy(mut self) -> Self {
        self.one_operator = false;
        self
    }

    /// Without a launcher.
    #[must_use]
    pub const fn without_launcher(mut self) -> Self {
        self.launcher = false;
        self
    }

    /// Without an audit writer.
    #[must_use]
    pub const fn without_audit(mut self) -> Self {
        self.audit = false;
        self
    }

    /// With a watchdog that wants to hear from it within this time.
    #[must_use]
    pub const fn watchdog_us(mut self, us: u64) -> Self {
        self.watchdog_us = Some(us);
        self
    }
}

/// A pawd that runs.
pub struct Pawd {
    /// What it says to systemd.
    pub notify: Notify,
    /// The process.
    pub daemon: Running,
    /// The audit writer, if there is one.
    pub audit: Option<Running>,
    /// The launcher, if there is one.
    pub launcher: Option<FakeLauncher>,
    /// Where it has everything.
    pub root: Root,
    setup: Setup,
}

/// Most tests tell a model what to do with one question, and want to see what came of it.
const ASKED_ONCE: &str = "max_retries = 0\n";

/// Most tests are of something else than isolation, and the fake launcher has only native sandboxes. They count sandboxes, too, so
/// none waits before it is asked for.
pub const PROCESS_WILL_DO: &str =
    "[sandbox]\nisolation_floor = \"process\"\n\n[sandbox.pool]\nmax = 0\n";

/// A pool in spite of [`PROCESS_WILL_DO`], in a file that is read after it.
pub const POOL: (&str, &str) = ("etc/pawd.d/50-pool.toml", "[sandbox.pool]\nmax = 4\n");

impl Pawd {
    /// Starts everything and waits until pawd says that it is ready.
    ///
    /// # Panics
    /// When it does not become ready; what it said is shown.
    pub async fn start(setup: Setup) -> Self {
        Self::start_in(setup.root(), setup).await
    }

    /// The same in a root that is laid out already; its configuration stays as it is.
    ///
    /// # Panics
    /// As [`Pawd::start`].
    pub async fn start_in(root: Root, setup: Setup) -> Self {
        let audit = setup.audit.then(|| start_audit(&root));
        let launcher = setup.launcher.then(|| FakeLauncher::start(&root));
        let (daemon, notify) = start_daemon(&root, &setup, None);
        let mut pawd = Self {
            notify,
            daemon,
            audit,
            launcher,
            root,
            setup,
        };
        pawd.ready().await;
        pawd
    }

    /// Starts it again in the same root, after it has ended.
    ///
    /// # Panics
    /// As [`Pawd::start`].
    pub async fn start_again(&mut self) {
        self.daemon.end().await;
        let (daemon, notify) = start_daemon(&self.root, &self.setup, None);
        (self.daemon, self.notify) = (daemon, notify);
        self.ready().await;
    }

    /// Starts it again to die at a place, as [`paw_store::point::VARIABLE`] says it. Whether it became ready before.
    ///
    /// # Panics
    /// When it neither becomes ready nor dies in time.
    pub async fn start_to_die(&mut self, place: &str) -> bool {
        self.daemon.end().await;
        let (daemon, notify) = start_daemon(&self.root, &self.setup, Some(place));
        (self.daemon, self.notify) = (daemon, notify);
        tokio::select! {
            _ = self.notify.hears("READY=1") => true,
            _ = self.daemon.end() => false,
        }
    }

    /// From now on the disk of the store does not answer, at the place that [`Setup::stalls_at`] named.
    ///
    /// # Panics
    /// When the pipe cannot be made.
    pub fn disk_stops(&self) {
        let pipe = self.root.path().join(PIPE);
        nix::unistd::mkfifo(
            &pipe,
            nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
        )
        .expect("the root is ours");
        self.root.give(PIPE);
    }

    /// It answers again. Returns once whoever waited for it goes on, so somebody has to.
    pub async fn disk_answers(&self) {
        let pipe = self.root.path().join(PIPE);
        let opened = tokio::task::spawn_blocking(move || {
            // A second name, so that nobody waits there any more once this one goes on.
            let aside = pipe.with_extension("old");
            std::fs::rename(&pipe, &aside).expect("it is there");
            std::fs::OpenOptions::new().write(true).open(&aside)
        });
        within("somebody at the pipe", opened)
            .await
            .expect("it does not panic")
            .expect("it can be opened");
    }

    /// Starts the audit writer again, after it has ended.
    pub fn start_audit_again(&mut self) {
        self.audit = Some(start_audit(&self.root));
    }

    async fn ready(&mut self) {
        let ready = tokio::select! {
            _ = self.notify.hears("READY=1") => true,
            _ = self.daemon.end() => false,
        };
        assert!(
            ready,
            "pawd ended instead of becoming ready:\n{}",
            self.daemon.stderr()
        );
    }

    /// A client of its control socket, as whoever runs the test.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn client(&self) -> Client {
        within(
            "connecting to pawd",
            paw_api::client::connect(&self.root.control()),
        )
        .await
        .expect("pawd listens")
    }

    /// pawctl with these arguments, in a terminal of this size.
    #[must_use]
    pub fn pawctl_in_a_window(&self, size: (u16, u16), arguments: &[&str]) -> Window {
        let mut command = Command::new(stage::program("pawctl"));
        command.arg("--root").arg(self.root.path()).args(arguments);
        Window::open(size, &command)
    }

    /// `pawctl ARGUMENTS` against it.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn pawctl(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(stage::program("pawctl"));
        command
            .arg("--root")
            .arg(self.root.path())
            .args(arguments)
            .kill_on_drop(true);
        within("pawctl", command.output())
            .await
            .expect("pawctl starts")
    }

    /// Tells it to stop, as systemd does, and gives its exit code.
    ///
    /// # Panics
    /// When it does not end in time, or by a signal.
    pub async fn stop(&mut self) -> i32 {
        self.daemon.signal(Signal::SIGTERM);
        self.daemon.refused().await.0
    }
}

/// Starts only pawd in a root, expects it to end by itself, and gives its exit code and what it said.
///
/// # Panics
/// When it runs on.
pub async fn refused(root: &Root) -> (i32, String) {
    let (mut daemon, _notify) = start_daemon(root, &Setup::new(), None);
    daemon.refused().await
}

/// The command that starts pawd in a root; without the helpers it takes neighbours that run already.
#[must_use]
pub fn command(root: &Root) -> Command {
    command_of(&stage::program("pawd"), root)
}

fn command_of(pawd: &Path, root: &Root) -> Command {
    let mut command = Command::new(pawd);
    command.arg("--root").arg(root.path());
    for name in [
        "JOURNAL_STREAM",
        "INVOCATION_ID",
        "PAWD_LOG",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "WATCHDOG_USEC",
        "CREDENTIALS_DIRECTORY",
    ] {
        command.env_remove(name);
    }
    command
}

/// What pawd waits for at the place where it is to stand still.
const PIPE: &str = "state/stall";

fn start_daemon(root: &Root, setup: &Setup, dies_at: Option<&str>) -> (Running, Notify) {
    let path: PathBuf = root.path().join("notify.sock");
    // A new socket for each start, so that nothing of the last one is heard.
    let _ = std::fs::remove_file(&path);
    let notify = Notify::bind(&path);
    let pawd = setup.program.clone();
    let mut command = command_of(&pawd.unwrap_or_else(|| stage::program("pawd")), root);
    command.env("NOTIFY_SOCKET", &path);
    if let Some(place) = setup.stalls_at {
        let pipe = root.path().join(PIPE);
        command.env(
            paw_store::point::VARIABLE,
            format!("{place}:{}", pipe.display()),
        );
    }
    if let Some(place) = dies_at {
        command.env(paw_store::point::VARIABLE, place);
    }
    if let Some(file) = &setup.authority {
        command.env("SSL_CERT_FILE", root.path().join(file));
    }
    if let Some(directory) = &setup.credentials {
        command.env("CREDENTIALS_DIRECTORY", root.path().join(directory));
    }
    if let Some(us) = setup.watchdog_us {
        command.env("WATCHDOG_USEC", us.to_string());
    }
    (Running::unprivileged("pawd", command), notify)
}

/// Starts the real audit writer on `run/audit.sock`, with the socket passed as systemd passes it.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn start_audit(root: &Root) -> Running {
    let command = audit_command(root, Command::new(stage::program("paw-audit")));
    Running::unprivileged("paw-audit", command)
}

/// The same as a command, from one that names the program.
///
/// # Panics
/// When the socket cannot be made.
#[must_use]
pub fn audit_command(root: &Root, mut command: Command) -> Command {
    let path = root.path().join("run/audit.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("the root is ours");
    root.mode("run/audit.sock", 0o600);
    root.give("run/audit.sock");
    command
        .args(["--listen-fd", "3", "--log-dir"])
        .arg(root.path().join("log"))
        .arg("--state")
        .arg(root.path().join("audit"));
    command
        .fd_mappings(vec![FdMapping {
            parent_fd: OwnedFd::from(listener),
            child_fd: 3,
        }])
        .expect("one descriptor");
    command
}
