//! What the tests stand on: real processes in a root of their own, a fake model, a fake launcher, and a deadline on everything.
//!
//! Nothing here knows what pawd should do; it starts it as systemd would and looks at it from outside. Every process that is
//! started sits in a guard that kills it by its own process id and sees it end, also when a test fails.

pub mod asking;
pub mod canary;
pub mod chaos;
pub mod deadline;
pub mod dialect;
pub mod footprint;
pub mod kata;
pub mod launcher;
mod layers;
pub mod model;
pub mod notify;
pub mod openmetrics;
pub mod pawd;
pub mod process;
pub mod pry;
pub mod report;
pub mod root;
pub mod somebody;
pub mod stage;
pub mod standalone;
pub mod traced;
pub mod window;
pub mod words;

pub use asking::Asking;
pub use chaos::Chaos;
pub use deadline::{LIMIT, within};
pub use dialect::Dialect;
pub use kata::KataLauncher;
pub use launcher::FakeLauncher;
pub use model::{Answer, Check, Model, Step, Trouble};
pub use pawd::{ANSWERS_ALL, POOL, PROCESS_WILL_DO, Pawd, Setup, operated_by_one};
pub use process::Running;
pub use root::Root;
pub use traced::Traced;
pub use window::Window;
