//! Only what is on the disk is named; the numbers of the last line are those of this process's steps.

mod common;

use common::training::{checkpoints, log};
use common::{fails, folder, works};
use serde_json::Value;
use std::fs;
use std::path::Path;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

fn sft(dir: &Path, flags: &str) -> String {
    format!(
        "sft --model {TINY}/model_bf16 --dataset {TINY}/chat_train.jsonl --current_date 2025-08-05 --device cpu \
         --gradient_accumulation_steps 1 --lora_rank 4 --max_new_tokens 3 --output_dir {} --add_version false {flags}",
        dir.display()
    )
}

fn evaluated() -> String {
    format!("--val_dataset {TINY}/chat_train.jsonl --eval_strategy steps")
}

fn summary(dir: &Path) -> Value {
    log(dir).pop().unwrap()
}

/// Losses of evaluations by step, from a log.
fn evaluations(dir: &Path) -> Vec<(u64, f64)> {
    let lines = log(dir).into_iter();
    let evaluations = lines.filter_map(|line| {
        let step = line["global_step/max_steps"].as_str()?.split('/').next()?;
        Some((step.parse().ok()?, line["eval_loss"].as_f64()?))
    });
    evaluations.collect()
}

#[test]
fn the_best_checkpoint_is_one_that_is_there() {
    // A rate at which the loss rises and falls. The intervals of evaluations and checkpoints, none for no checkpoints.
    for (name, evaluates, saves, flags) in [
        ("apart", 2, Some(5), ""),
        ("limited", 1, Some(3), "--save_total_limit 1"),
        ("rarely", 5, Some(2), "--save_total_limit 2"),
        ("never", 2, None, "--save_strategy no"),
    ] {
        let dir = folder(&format!("best-{name}"));
        let said = works(&sft(
            &dir,
            &format!(
                "{} --eval_steps {evaluates} --save_steps {} {flags} --max_steps 12 --learning_rate 3e-2 \
                 --lr_scheduler_type constant",
                evaluated(),
                saves.unwrap_or(1)
            ),
        ));
        let summary = summary(&dir);
        for key in ["best_model_checkpoint", "last_model_checkpoint"] {
            if let Some(path) = summary[key].as_str() {
                assert!(Path::new(path).is_dir(), "{name}, {key}: {path}");
                assert!(said.contains(path), "{name}: {said}");
            }
        }
        let all = evaluations(&dir);
        let is_saved =
            |step: u64| saves.is_some_and(|every| step.is_multiple_of(every) || step == 12);
        let least = |evaluations: &mut dyn Iterator<Item = &(u64, f64)>| {
            evaluations.min_by(|a, b| a.1.total_cmp(&b.1)).copied()
        };
        let best = least(&mut all.iter().filter(|(step, _)| is_saved(*step)));
        let expected = best.map(|(step, _)| dir.join(format!("checkpoint-{step}")));
        let named = summary["best_model_checkpoint"].as_str().map(Path::new);
        assert_eq!(named, expected.as_deref(), "{name}: {all:?}");
        let (_, of_all) = least(&mut all.iter()).unwrap();
        assert_eq!(summary["best_metric"].as_f64(), Some(of_all), "{name}");
        let unsaved = best.is_none_or(|(_, loss)| loss > of_all);
        let line = format!("best eval_loss: {of_all:.4}, of weights that were not saved");
        assert_eq!(said.contains(&line), unsaved, "{name}: {said}");
    }
}

#[test]
fn save_strategy_best_saves_what_is_better_and_nothing_else() {
    let dir = folder("save-best");
    let flags = format!(
        "{} --eval_steps 1 --save_strategy best --max_steps 12 --learning_rate 3e-2 --lr_scheduler_type constant",
        evaluated()
    );
    works(&sft(&dir, &flags));
    let mut best = f64::INFINITY;
    let mut better = Vec::new();
    for (step, loss) in evaluations(&dir) {
        if loss < best {
            best = loss;
            better.push(step);
        }
    }
    assert!(
        better.len() < 12,
        "the loss falls at every step, which shows nothing"
    );
    assert_eq!(checkpoints(&dir), better);
    let summary = summary(&dir);
    let last = format!("checkpoint-{}", better.last().unwrap());
    assert!(
        summary["best_model_checkpoint"]
            .as_str()
            .unwrap()
            .ends_with(&last)
    );

    fails(
        &sft(&dir, "--save_strategy best"),
        2,
        &["save_strategy best needs evaluations", "--val_dataset"],
    );
    let flags = format!(
        "{} --save_strategy best --early_stop_interval 2",
        evaluated()
    );
    fails(
        &sft(&dir, &flags),
        2,
        &["early_stop_interval", "save_strategy best"],
    );
    fails(
        &sft(&dir, "--load_best_model_at_end true"),
        2,
        &["load_best_model_at_end needs evaluations"],
    );
}

#[test]
fn answers_of_the_best_weights_carry_their_step() {
    let dir = folder("load-best");
    let said = works(&sft(
        &dir,
        &format!(
            "{} --eval_steps 1 --save_strategy best --load_best_model_at_end true --max_steps 12 --learning_rate 3e-2 \
             --lr_scheduler_type constant --sample_prompts Hello",
            evaluated()
        ),
    ));
    let all = evaluations(&dir);
    let (step, loss) = *all.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(step < 12, "the last step is the best, which shows nothing");
    let best = dir.join(format!("checkpoint-{step}"));
    assert!(
        said.contains(&format!("try it: apus infer --adapters {}", best.display())),
        "{said}"
    );
    assert!(said.contains(&format!("{loss:.4} after")), "{said}");
    let samples = fs::read_to_string(dir.join("samples.jsonl")).unwrap();
    let samples: Vec<Value> = samples
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps: Vec<u64> = samples
        .iter()
        .map(|sample| sample["step"].as_u64().unwrap())
        .collect();
    let mut expected: Vec<u64> = (0..12).collect();
    expected.push(step);
    assert_eq!(steps, expected);
    let of_best: Vec<&Value> = samples
        .iter()
        .filter(|sample| sample["step"] == step)
        .collect();
    assert_eq!(of_best[0]["answer"], of_best[1]["answer"]);
}

#[test]
fn the_mean_loss_is_that_of_all_steps_of_this_process() {
    let losses = |dir: &Path| {
        let lines = log(dir)
            .into_iter()
            .filter(|line| line.get("train_loss").is_none());
        lines
            .filter_map(|line| line["loss"].as_f64())
            .collect::<Vec<f64>>()
    };
    let near = |a: &Value, b: f64| (a.as_f64().unwrap() - b).abs() < 1e-9;
    let each = folder("logs-1");
    works(&sft(
        &each,
        "--max_steps 7 --save_steps 3 --logging_steps 1",
    ));
    let all = losses(&each);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert_eq!(all.len(), 7);
    assert!(near(&summary(&each)["train_loss"], mean(&all)));
    for every in [2, 5, 100] {
        let dir = folder(&format!("logs-{every}"));
        works(&sft(
            &dir,
            &format!("--max_steps 7 --logging_steps {every} --logging_first_step false"),
        ));
        assert!(near(&summary(&dir)["train_loss"], mean(&all)), "{every}");
    }
    // After a resume, within a window of the log.
    let rest = folder("logs-resumed");
    let from = each.join("checkpoint-3");
    works(&sft(
        &rest,
        &format!(
            "--max_steps 7 --logging_steps 5 --resume_from_checkpoint {}",
            from.display()
        ),
    ));
    let last = summary(&rest);
    assert!(near(&last["train_loss"], mean(&all[3..])));
    let steps =
        last["train_steps_per_second"].as_f64().unwrap() * last["train_runtime"].as_f64().unwrap();
    assert!((steps - 4.0).abs() < 1e-6, "{steps}");
    let samples = last["train_samples_per_second"].as_f64().unwrap()
        * last["train_runtime"].as_f64().unwrap();
    assert!((samples - 4.0).abs() < 1e-6, "{samples}");
    // With nothing left to do, and said so.
    let again = folder("logs-again");
    let from = each.join("checkpoint-7");
    let said = works(&sft(
        &again,
        &format!("--max_steps 7 --resume_from_checkpoint {}", from.display()),
    ));
    assert!(
        said.contains("nothing is left to train: 7 of 7 steps are made"),
        "{said}"
    );
    assert_eq!(summary(&again)["train_loss"], 0.0);
}

#[test]
fn the_auxiliary_loss_is_in_the_loss() {
    let first = |name: &str, flags: &str| {
        let dir = folder(name);
        let flags = format!(
            "{} --eval_steps 1 --max_steps 1 --learning_rate 0 {flags}",
            evaluated()
        );
        works(&sft(&dir, &flags));
        let lines = log(&dir);
        let find = |key: &str| {
            let line = lines.iter().find(|line| line.get(key).is_some());
            line.and_then(|line| line[key].as_f64())
        };
        ["loss", "aux_loss", "eval_loss", "eval_aux_loss"].map(find)
    };
    let [loss, none, eval, eval_none] = first("aux-0", "");
    assert_eq!((none, eval_none), (None, None));
    let [with, aux, eval_with, eval_aux] = first("aux-1", "--router_aux_loss_coef 0.1");
    let (aux, eval_aux) = (aux.unwrap(), eval_aux.unwrap());
    assert!(aux > 1.0 && eval_aux > 1.0);
    assert!((with.unwrap() - loss.unwrap() - 0.1 * aux).abs() < 1e-6);
    assert!((eval_with.unwrap() - eval.unwrap() - 0.1 * eval_aux).abs() < 1e-6);
}

/// A last step of an epoch that is not full counts the examples that it has: 8 in steps of 3, 3 and 2.
#[test]
fn samples_are_those_that_were_trained() {
    let dir = folder("samples");
    works(&sft(
        &dir,
        "--num_train_epochs 1 --gradient_accumulation_steps 3",
    ));
    let last = summary(&dir);
    let number = |key: &str| last[key].as_f64().unwrap();
    assert_eq!(number("global_step"), 3.0);
    let samples = number("train_samples_per_second") * number("train_runtime");
    assert!((samples - 8.0).abs() < 1e-6, "{samples}");
}

/// Below 1 an interval is a share of all steps, rounded up, as in transformers.
#[test]
fn intervals_may_be_shares_of_the_run() {
    let dir = folder("shares");
    let flags = format!(
        "{} --max_steps 7 --save_steps 0.5 --eval_steps 0.25 --logging_steps 0.4 --logging_first_step false \
         --load_best_model_at_end true",
        evaluated()
    );
    works(&sft(&dir, &flags));
    assert_eq!(checkpoints(&dir), [4, 7]);
    let evaluated: Vec<u64> = evaluations(&dir)
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    assert_eq!(evaluated, [2, 4, 6, 7]);
    let lines = log(&dir)
        .into_iter()
        .filter(|line| line.get("loss").is_some());
    let logged: Vec<String> = lines
        .map(|line| line["global_step/max_steps"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(logged, ["3/7", "6/7", "7/7"]);
    let args = fs::read_to_string(dir.join("args.json")).unwrap();
    let args: Value = serde_json::from_str(&args).unwrap();
    assert_eq!(
        (&args["save_steps"], &args["warmup_steps"]),
        (&0.5.into(), &Value::Null)
    );

    // What is a multiple as a share need not be one in steps.
    let dir = folder("shares-apart");
    let flags = format!(
        "--val_dataset {TINY}/chat_train.jsonl --eval_strategy steps --max_steps 5 --save_steps 0.6 --eval_steps 0.3 \
         --load_best_model_at_end true"
    );
    let said = works(&sft(&dir, &flags));
    assert!(
        said.contains("of 5 steps, checkpoints come every 3 and evaluations every 2"),
        "{said}"
    );
    fails(
        &sft(&dir, &flags.replace("0.3", "2")),
        2,
        &["save_steps (0.6) to be a multiple of eval_steps (2)"],
    );
}
