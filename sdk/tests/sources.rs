//! What crosses the boundary as JSON has grown since 1.0: the other side may know less of it, and sources of 1.0 compile.

use apus_sdk::{RunInfo, RunState};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The beginning of what 1.0 knew of a run.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct RunOf1_0 {
    name: String,
    max_steps: u64,
    id: String,
}

/// As plugins of 1.0 and their tests made and read them.
#[test]
fn sources_of_1_0_compile() {
    let state = RunState {
        global_step: 3,
        best_metric: Some(0.5),
        ..RunState::default()
    };
    let run = RunInfo {
        name: "mine".to_owned(),
        max_steps: 9,
        ..Default::default()
    };
    let RunState { global_step, .. } = state.clone();
    let RunInfo { max_steps, .. } = run.clone();
    assert_eq!((global_step, max_steps), (3, 9));
    for alone in [
        (state.rank, state.world_size),
        (run.rank, run.world_size),
        (RunInfo::default().rank, RunInfo::default().world_size),
    ] {
        assert_eq!(alone, (0, 1));
    }
}

#[test]
fn either_side_may_be_of_1_0() {
    let run = RunInfo {
        name: "mine".to_owned(),
        max_steps: 9,
        rank: 0,
        world_size: 4,
        ..RunInfo::default()
    };
    let old: RunOf1_0 = serde_json::from_value(json!(run)).unwrap();
    assert_eq!((old.name.as_str(), old.max_steps), ("mine", 9));
    let new: RunInfo = serde_json::from_value(json!(old)).unwrap();
    assert_eq!((new.rank, new.world_size, new.max_steps), (0, 1, 9));
    let same: RunInfo = serde_json::from_value(json!(run)).unwrap();
    assert_eq!(same, run);

    // What a host of 1.0 sends of the state has neither.
    let state = RunState {
        world_size: 4,
        ..RunState::default()
    };
    let Value::Object(mut sent) = json!(state) else {
        panic!("{state:?}")
    };
    assert_eq!(sent["world_size"], 4);
    let of_1_0: Map<String, Value> = ["rank", "world_size"]
        .iter()
        .filter_map(|name| sent.shift_remove_entry(*name))
        .collect();
    assert_eq!(of_1_0.len(), 2);
    let read: RunState = serde_json::from_value(Value::Object(sent)).unwrap();
    assert_eq!(read, RunState::default());
}
