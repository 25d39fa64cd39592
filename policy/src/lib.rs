//! What an action is, how risky it is, and who may do it.
//!
//! This crate decides and never acts: no files, no clock, no network. Everything it needs comes in as an argument, so the
//! same question always has the same answer, and the answer can be explained afterwards.
//!
//! - [`words`]: kinds, states, risks, taints, roles, tool classes, digests: the vocabulary of every other crate.
//! - [`plan`]: the exact, canonical thing that will be done, and its digest.
//! - [`changes`]: what such a thing says that changes pawd itself.
//! - [`rules`]: the Cedar policies of this host, parsed and validated.
//! - [`facts`]: what a rule can ask about a plan.
//! - [`circumstances`]: how an action came to be asked.
//! - [`named()`]: whether a call does what a person asked for in so many words.
//! - [`grant`]: a yes that holds for a while, for what is alike.
//! - [`guard`]: how suspicious a text is, and why.
//! - [`cases`]: what a policy is expected to say, for `policy test`.
//! - [`secret`]: whether a secret may be used, for each use.
//! - [`judge`]: plan and facts in, verdict out; the only place where risk is computed and permits are made.

pub mod cases;
mod ceiling;
pub mod changes;
pub mod circumstances;
pub mod facts;
pub mod grant;
pub mod guard;
mod index;
pub mod judge;
mod known;
mod named;
pub mod plan;
mod question;
pub mod rules;
pub mod secret;
pub mod words;

pub use ceiling::Ceiling;
pub use changes::{
    ConfigArguments, ConfigChange, FileArguments, FileChange, SecretArguments, SecretChange,
    Subject, SwitchArguments,
};
pub use circumstances::{Circumstances, Identity, Via};
pub use judge::{
    Approval, Factors, Facts, NotApproved, Permit, Principal, Verdict, Yes, judge, permit,
    permit_approved,
};
pub use named::named;
pub use plan::{
    ApiArguments, ChatArguments, Operation, Plan, PlanError, SkillArguments, SkillChange, Target,
    ToolArguments,
};
pub use rules::{Fault, Rules};
pub use secret::{SecretUse, UseVerdict, may_use};
pub use words::{Decision, Digest, Kind, Name, Risk, Role, State, Taint, TaintSet, ToolClass};
