//! The curves of transformers and PEFT, trained by one process as a user would. Several: `tests/ranks/curves.rs`.

#[path = "common/curves.rs"]
mod curves;

fn follow(curve: &str) {
    let dir = tempfile::tempdir().unwrap();
    curves::follow(curve, 1, dir.path());
}

#[test]
fn attention() {
    follow("a_attn");
}

#[test]
fn attention_and_experts() {
    follow("b_attn_experts");
}

#[test]
fn accumulation_weight_decay_and_clipping() {
    follow("c_fast_accum2_wd");
}

#[test]
fn loraplus() {
    follow("d_loraplus");
}
