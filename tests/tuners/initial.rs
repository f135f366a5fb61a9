//! Initial values that a tuner makes of a layer's weight.

use super::{MODEL, all_tensors, answer, bottleneck, config, near, run, values};
use crate::common::training::{TINY, losses, trains};
use crate::common::works;
use candle_core::DType;
use std::path::Path;

/// What begins with a part of the weight computes at first what the model does, on linear layers and on experts, packed or not, and
/// then learns.
#[test]
fn an_update_that_begins_with_the_weight_changes_nothing_at_first() {
    let home = tempfile::tempdir().unwrap();
    let targets = "--target_modules q_proj v_proj --target_parameters 1.mlp.experts.down_proj";
    let all = format!("--max_steps 4 --lora_rank 4 {targets} --learning_rate 1e-3");
    for form in ["model_bf16", "model_mxfp4"] {
        let first = |name: &str| {
            let dir = home.path().join(format!("{form}-{name}"));
            trains(
                &dir,
                &format!("--model {TINY}/{form} {all} --init_weights {name}"),
            );
            losses(&dir)
        };
        let plain = first("true");
        for name in ["pissa", "pissa_niter_3", "olora"] {
            let found = first(name);
            assert!(
                (found[0].1 - plain[0].1).abs() < 1e-4,
                "{form} {name}: {found:?}"
            );
            assert!(
                found[0].2 > 0.0 && found[3].1 < found[0].1,
                "{form} {name}: {found:?}"
            );
        }
    }
}

/// The principal part of a weight is what PEFT takes out of it: what is left has none of its greatest singular values.
#[test]
fn the_product_is_the_principal_part() {
    let home = tempfile::tempdir().unwrap();
    let flags = "--init_weights pissa --lora_rank 4 --lora_alpha 8 --target_modules q_proj";
    let checkpoint = run(&home.path().join("run"), &format!("{flags} --save_steps 4"));
    let found = all_tensors(&checkpoint.join("adapter_model.safetensors"));
    let weights = all_tensors(&Path::new(MODEL).join("model.safetensors"));
    for layer in 0..4 {
        let module = format!("model.layers.{layer}.self_attn.q_proj");
        let of = |name: &str| &found[&format!("base_model.model.{module}.{name}")];
        let (a, b) = (of("pissa_start_A"), of("pissa_start_B"));
        let part = (b.matmul(a).unwrap() * 2.0).unwrap();
        let weight = weights[&format!("{module}.weight")]
            .to_dtype(DType::F32)
            .unwrap();
        let rest = (&weight - &part).unwrap();
        let square = |t: &candle_core::Tensor| {
            let sum = t.sqr().unwrap().sum_all().unwrap();
            f64::from(sum.to_scalar::<f32>().unwrap())
        };
        // Singular parts are orthogonal, and the squares of a matrix are those of its singular values.
        let (whole, parts) = (square(&weight), square(&part) + square(&rest));
        assert!(
            (whole - parts).abs() < 1e-4 * whole,
            "{module}: {whole} {parts}"
        );
        // Each of the four is greater than any that is left.
        let rows = a.sqr().unwrap().sum(1).unwrap().to_vec1::<f32>().unwrap();
        let least = rows
            .iter()
            .map(|v| 2.0 * f64::from(*v))
            .fold(f64::MAX, f64::min);
        let mut x = rest
            .ones_like()
            .unwrap()
            .narrow(0, 0, 1)
            .unwrap()
            .t()
            .unwrap();
        let mut greatest = 0.0;
        for _ in 0..100 {
            let y = rest.matmul(&x.contiguous().unwrap()).unwrap();
            let back = rest.t().unwrap().contiguous().unwrap().matmul(&y).unwrap();
            greatest = (square(&y) / square(&x)).sqrt();
            x = (&back / square(&back).sqrt()).unwrap();
        }
        assert!(greatest <= least * 1.001, "{module}: {greatest} {least}");
    }
}

/// Through a library: a factor begins with outputs of the weight, of a linear layer and of each expert.
#[test]
fn a_tuner_of_a_library_sees_the_weight() {
    let home = tempfile::tempdir().unwrap();
    let flags = format!(
        "{} --train_type.from_weight 0.5 --target_parameters 1.mlp.experts.down_proj --learning_rate 0 --save_steps 4",
        bottleneck()
    );
    let checkpoint = run(&home.path().join("run"), &flags);
    let found = values(&checkpoint);
    let weights = all_tensors(&Path::new(MODEL).join("model.safetensors"));
    let half = |values: Vec<f32>| values.into_iter().map(|v| v * 0.5).collect::<Vec<_>>();
    let linear = &weights["model.layers.2.self_attn.o_proj.weight"];
    let linear = linear
        .to_dtype(DType::F32)
        .unwrap()
        .narrow(1, 0, 3)
        .unwrap();
    let expected = linear.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(
        found["base_model.model.model.layers.2.self_attn.o_proj.down"],
        half(expected)
    );
    // `[E, I, O]` there, and the first inputs of each expert here.
    let experts = &weights["model.layers.1.mlp.experts.down_proj"];
    let experts = experts
        .to_dtype(DType::F32)
        .unwrap()
        .narrow(1, 0, 3)
        .unwrap();
    let expected = experts.transpose(1, 2).unwrap().contiguous().unwrap();
    let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(
        found["base_model.model.model.layers.1.mlp.experts.down_proj.down"],
        half(expected)
    );
}

/// With what it began with it is a LoRA of twice the rank on the base as it is, which PEFT and vLLM read.
#[test]
fn what_began_with_the_weight_is_written_as_a_lora_of_twice_the_rank() {
    let home = tempfile::tempdir().unwrap();
    let flags = "--init_weights pissa --lora_rank 4 --target_modules q_proj \
                 --target_parameters 1.mlp.experts.down_proj 1.mlp.experts.gate_up_proj";
    let checkpoint = run(&home.path().join("run"), flags);
    let lora = home.path().join("lora");
    works(&format!(
        "export --adapters {} --to_vllm true --output_dir {}",
        checkpoint.display(),
        lora.display()
    ));
    let said = config(&lora);
    assert_eq!(
        (&said["peft_type"], &said["r"]),
        (&"LORA".into(), &8.into())
    );
    let pairs = all_tensors(&lora.join("adapter_model.safetensors"));
    let experts = "base_model.model.model.layers.1.mlp.experts";
    // 8 experts of rank 8, hidden size 64, intermediate size 96; the outer pair is that of down.
    for (name, shape) in [
        (format!("{experts}.lora_A.weight"), [64, 96]),
        (format!("{experts}.lora_B.weight"), [64, 64]),
        (format!("{experts}.base_layer.lora_A.weight"), [64, 64]),
        (format!("{experts}.base_layer.lora_B.weight"), [192, 64]),
    ] {
        assert_eq!(pairs[&name].dims(), shape, "{name}");
    }
    let answers = |name: &str, dir: &Path| {
        answer(home.path(), name, &format!("--adapters {}", dir.display()))
    };
    let base = answer(home.path(), "base", &format!("--model {MODEL}"));
    let own = answers("own", &checkpoint);
    assert_ne!(own, base);
    near(&answers("lora", &lora), &own);
}
