//! The skill that ships does what it is for in the runtime that is used by default, whose kernel is not the host's.

use harness::{
    cases,
    report::Case,
    standalone::Standalone,
    words::{answer, ask_to_write, call, finally},
};
use paw_api::action::Answer;
use paw_policy::State;
use serde_json::json;

use crate::probes::without_gvisor;

pub(crate) fn cases() -> Vec<Case> {
    cases![without_gvisor; files_are_written_listed_and_read_in_gvisor]
}

async fn files_are_written_listed_and_read_in_gvisor() {
    // Of the agent, whose table the lines are added to.
    let system = Standalone::start("isolation_floor = \"kernel\"\n").await;
    let client = system.client().await;
    let waiting = ask_to_write(&client, "note.txt", "hello").await;
    answer(&client, &waiting.id, waiting.digest, Answer::Approve)
        .await
        .expect("an administrator may");
    let written = finally(&client, &waiting.id).await;
    assert_eq!(written.state, State::Completed, "{written:?}");
    for (tool, path, expected) in [("list", ".", "note.txt"), ("read", "note.txt", "hello")] {
        let action = call(&client, tool, json!({"path": path})).await;
        assert_eq!(action.state, State::Completed, "{action:?}");
        let result = json!(action.result).to_string();
        assert!(result.contains(expected), "{tool}: {result}");
    }
}
