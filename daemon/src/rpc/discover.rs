//! `rpc.discover`: every method, described by OpenRPC with the schemas of results and items.

use jsonrpsee::{RpcModule, types::ResponsePayload};
use paw_api::{
    action, agent, budget, events, image, job, methods, model, provider, sandbox, secret, skill,
    system, trail, workspace,
};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

/// The method itself, ready to be merged. `version` is that of pawd.
#[must_use]
pub fn module(version: &str) -> RpcModule<Box<RawValue>> {
    // Written once: it is long, and whoever asks for it again and again shall not have it written each time.
    let written = to_raw_value(&document(version)).expect("what was read as JSON can be written");
    let mut module = RpcModule::new(written);
    module
        .register_method("rpc.discover", |_, document, _| {
            ResponsePayload::success(document.clone())
        })
        .expect("a module that was just made has no method of this name");
    module
}

/// The OpenRPC document.
#[must_use]
pub fn document(version: &str) -> Value {
    let mut schemas = SchemaSettings::openapi3().into_generator();
    let results: Vec<(&str, Value)> = methods::TABLE
        .iter()
        .filter_map(|method| Some((method.name, result_of(method.name)?(&mut schemas))))
        .collect();
    let schema_of = |name: &str| {
        results
            .iter()
            .find(|(method, _)| *method == name)
            .map(|(_, schema)| schema.clone())
    };
    let mut document = methods::open_rpc(version, schema_of);
    document["components"]["schemas"] = Value::Object(schemas.take_definitions(true));
    document
}

type SchemaOf = fn(&mut SchemaGenerator) -> Value;

fn of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}

/// What a method answers with; for a subscription, what its items are.
fn result_of(method: &str) -> Option<SchemaOf> {
    Some(match method {
        "action.cancel" | "action.show" | "action.submit" | "action.wait" | "approval.answer"
        | "mcp.call" => of::<action::Action>,
        "action.list" => of::<action::Page<action::Action>>,
        "agent.list" => of::<Vec<agent::Agent>>,
        "agent.create" | "agent.edit" | "agent.remove" | "agent.show" => of::<agent::Agent>,
        "approval.list" => of::<Vec<action::Approval>>,
        "approval.show" => of::<action::Approval>,
        "audit.list" => of::<Vec<Value>>,
        "audit.find" => of::<trail::AuditPage>,
        "audit.verify" => of::<trail::Verification>,
        "budget.list" => of::<Vec<budget::Budget>>,
        "budget.remove" | "budget.set" => of::<budget::Budget>,
        "budget.show" => of::<budget::Budget>,
        "chat.send" => of::<provider::ChatEvent>,
        "config.reload" | "policy.reload" => of::<system::Reloaded>,
        "config.show" | "rpc.discover" => of::<Value>,
        "events.subscribe" => of::<events::EventItem>,
        "image.add" => of::<image::ImageAdded>,
        "image.list" => of::<Vec<image::ImageInfo>>,
        "image.remove" => of::<image::ImagesSwept>,
        "image.send" => of::<image::Upload>,
        "job.add" | "job.remove" => of::<job::Job>,
        "job.history" => of::<Vec<job::JobRun>>,
        "job.list" => of::<Vec<job::Job>>,
        "job.run" => of::<job::JobRun>,
        "model.ab" => of::<provider::Arms>,
        "model.list" => of::<Vec<model::Model>>,
        "model.pull" => of::<model::PullEvent>,
        "model.show" => of::<model::Model>,
        "model.switch" => of::<model::SwitchEvent>,
        "model.warm" => of::<model::ModelWarmed>,
        "approval.grants" => of::<Vec<action::Grant>>,
        "approval.revoke" => of::<action::Grant>,
        "approval.enroll" => of::<action::Enrolment>,
        "policy.explain" => of::<system::Explanation>,
        "policy.show" => of::<Vec<system::Rule>>,
        "provider.add" | "provider.default" | "provider.edit" | "provider.remove"
        | "provider.reset" => of::<provider::Provider>,
        "provider.list" => of::<Vec<provider::Provider>>,
        "provider.show" => of::<provider::Provider>,
        "provider.test" => of::<provider::ProviderTest>,
        "route.list" => of::<Vec<provider::Route>>,
        "route.show" => of::<provider::Route>,
        "sandbox.list" => of::<Vec<sandbox::SandboxInfo>>,
        "sandbox.gc" => of::<sandbox::SandboxesForgotten>,
        "sandbox.logs" => of::<sandbox::LogEvent>,
        "sandbox.show" => of::<sandbox::SandboxDetail>,
        "sandbox.stats" => of::<Vec<sandbox::SandboxUsage>>,
        "sandbox.run" => of::<sandbox::RunEvent>,
        "sandbox.runtimes" => of::<Vec<sandbox::RuntimeInfo>>,
        "secret.allow" | "secret.deny" | "secret.remove" | "secret.rotate" | "secret.set"
        | "secret.show" => of::<secret::Secret>,
        "secret.init" | "secret.rekey" => of::<secret::VaultKeyed>,
        "secret.export" => of::<secret::VaultCopy>,
        "secret.list" => of::<Vec<secret::Secret>>,
        "secret.import" | "secret.lock" | "secret.status" | "secret.unlock" => {
            of::<secret::VaultStatus>
        }
        "secret.log" => of::<Vec<Value>>,
        "session.list" => of::<action::Page<agent::Session>>,
        "session.show" => of::<agent::Transcript>,
        "skill.list" => of::<Vec<agent::Skill>>,
        "skill.disable" | "skill.show" => of::<agent::Skill>,
        "skill.send" => of::<image::Upload>,
        "skill.stage" => of::<skill::SkillStaged>,
        "skill.verify" => of::<Vec<skill::SkillChecked>>,
        "system.backup" => of::<system::BackedUp>,
        "system.doctor" => of::<system::Doctor>,
        "system.metrics" => of::<system::Metrics>,
        "system.ping" => of::<String>,
        "system.status" => of::<system::Status>,
        "system.whoami" => of::<action::Caller>,
        "workspace.commit" => of::<workspace::Committed>,
        "workspace.diff" => of::<workspace::WorkspaceDiff>,
        "workspace.discard" => of::<workspace::Discarded>,
        "workspace.list" => of::<Vec<workspace::Workspace>>,
        "workspace.undo" => of::<workspace::Undone>,
        "approval.confirm" | "approval.forget" | "chat.cancel" | "events.unsubscribe"
        | "model.abort" | "model.leave" | "sandbox.abort" | "sandbox.input" | "sandbox.kill"
        | "sandbox.leave" | "sandbox.resize" | "session.delete" => of::<bool>,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_table_has_a_schema() {
        let without: Vec<_> = methods::TABLE
            .iter()
            .filter(|method| result_of(method.name).is_none())
            .map(|method| method.name)
            .collect();
        assert_eq!(without, Vec::<&str>::new());
    }

    #[test]
    fn the_document_lists_the_table_in_order() {
        let document = document("1.2.3");
        let listed: Vec<&str> = document["methods"]
            .as_array()
            .unwrap()
            .iter()
            .map(|method| method["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            listed,
            methods::TABLE
                .iter()
                .map(|method| method.name)
                .collect::<Vec<_>>()
        );
        assert_eq!(document["info"]["version"], "1.2.3");
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn walk(value: &Value, document: &Value, followed: &mut usize) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                        *followed += 1;
                    }
                    map.values()
                        .for_each(|value| walk(value, document, followed));
                }
                Value::Array(values) => values
                    .iter()
                    .for_each(|value| walk(value, document, followed)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let document = document("1.2.3");
        let mut followed = 0;
        walk(&document, &document, &mut followed);
        assert!(followed > 20, "{followed} references");
    }
}
