//! What crosses the boundary as JSON has grown since 1.0: the other side may know less of it, and sources of 1.0 compile.

use apus_sdk::{
    ChunkOps, Field, LossChunk, Optimizer, Param, Result, RunInfo, RunState, State, StepInfo,
    Tensor, Turn, testing,
};
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

/// The operations of a chunk as tests of 1.0 made them.
struct Ops(Tensor);

impl ChunkOps for Ops {
    fn logits(&self) -> Result<Tensor> {
        Ok(self.0.clone())
    }
    fn cross_entropy(&self) -> Result<Tensor> {
        self.0.sum(1)?.squeeze(1)
    }
}

struct Descent;

impl Optimizer for Descent {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        let StepInfo { step } = *info;
        for param in params {
            let by = param.grad.affine(param.lr * step as f64, 0.0)?;
            param.value.set(&param.value.sub(&by)?)?;
        }
        Ok(())
    }
}

/// Literals of every type that tests of 1.0 made themselves.
#[test]
fn literals_of_1_0_compile() {
    let turn = Turn {
        role: "assistant",
        field: Field::Content,
        query: None,
        is_last: true,
    };
    let Turn {
        role,
        field,
        query,
        is_last,
    } = turn.clone();
    assert_eq!(
        (role, field, query, is_last),
        ("assistant", Field::Content, None, true)
    );

    let ops = Ops(testing::tensor(&[1.0f32, 2.0], &[1, 2]));
    let (labels, weights) = (
        testing::tensor(&[1u32], &[1]),
        testing::tensor(&[1.0f32], &[1]),
    );
    let chunk = LossChunk::new(&labels, &weights, &ops);
    assert_eq!(chunk.cross_entropy().unwrap().to_vec_f32().unwrap(), [3.0]);
    assert!(chunk.rows().is_err() && chunk.hidden().is_err());

    let mut state = State::default();
    let value = testing::tensor(&[1.0f32], &[1]);
    let param = Param {
        name: "w",
        value: value.clone(),
        grad: testing::tensor(&[0.5f32], &[1]),
        lr: 1.0,
        decay: false,
        state: &mut state,
    };
    Descent.step(&mut [param], &StepInfo { step: 1 }).unwrap();
    assert_eq!(value.to_vec_f32().unwrap(), [0.5]);
}
