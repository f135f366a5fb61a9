use super::*;
use apus_components::registry::{self, Spec};
use apus_plugins as _;
use apus_sdk::{OptimizerStep, Param as Handle, StepInfo};
use serde_json::Value;

/// Descent that shows values twice as large, counts its steps, and goes wrong in the way that it is told.
#[derive(Clone, Default)]
struct Told {
    wrong: &'static str,
    steps: u64,
}

impl Optimizer for Told {
    fn step(&mut self, params: &mut [Handle], _: &StepInfo) -> apus_sdk::Result<()> {
        self.steps += 1;
        for param in params {
            // The rate falls with the steps, so that a count that is lost is seen.
            let change = param.grad.scale(param.lr * 2.0 / self.steps as f64)?;
            param.value.set(&param.value.sub(&change)?)?;
        }
        Ok(())
    }

    fn step_with(
        &mut self,
        params: &mut [Handle],
        step: &mut OptimizerStep,
    ) -> apus_sdk::Result<()> {
        if self.wrong != "makes no pass" {
            step.evaluate()?;
        }
        self.step(params, &step.info())
    }

    fn save_state(&self) -> apus_sdk::Result<Value> {
        Ok(match self.wrong {
            "keeps nothing" => Value::Null,
            _ => self.steps.into(),
        })
    }

    fn load_state(&mut self, saved: Value) -> apus_sdk::Result<()> {
        if !["keeps nothing", "reads nothing"].contains(&self.wrong) {
            self.steps = saved.as_u64().ok_or("no number of steps")?;
        }
        Ok(())
    }

    fn before_evaluation(&mut self, params: &mut [Handle]) -> apus_sdk::Result<()> {
        for param in params {
            param.state.insert("trained", param.value.affine(1.0, 0.0)?);
            if self.wrong != "shows nothing" {
                param.value.set(&param.value.scale(2.0)?)?;
            }
        }
        Ok(())
    }

    fn after_evaluation(&mut self, params: &mut [Handle]) -> apus_sdk::Result<()> {
        for param in params {
            let trained = match self.wrong {
                "leaves state" => param.state.get("trained").cloned(),
                _ => param.state.remove("trained"),
            };
            match self.wrong {
                "stays away" => {}
                _ => param.value.set(&trained.ok_or("nothing was kept")?)?,
            }
        }
        if self.wrong == "counts evaluations" {
            self.steps += 1;
        }
        Ok(())
    }
}

fn findings(wrong: &'static str, needs: &'static [Need]) -> Vec<String> {
    let make = || {
        let told: Box<dyn Optimizer> = Box::new(Told { wrong, steps: 0 });
        let mut named = Named::new("optimizer told", told).with(needs);
        named.from_plugin = true;
        Ok(named)
    };
    let mut findings = Findings::new();
    check_made(&make, &Device::Cpu, &mut findings).unwrap();
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn what_does_not_survive_or_come_back_is_found() {
    const ALL: &[Need] = &[Need::State, Need::Hooks, Need::Closure];
    for finding in findings("", ALL) {
        assert!(finding.starts_with("ok"), "{finding}");
    }
    assert!(findings("", ALL).len() >= 7);
    for (wrong, starts, says) in [
        ("keeps nothing", "FAIL  goes on exactly", "end elsewhere"),
        (
            "keeps nothing",
            "FAIL  a step that is taken back",
            "with Need::State",
        ),
        (
            "reads nothing",
            "FAIL  goes on exactly",
            "save_state gave [3], and gives [0]",
        ),
        (
            "stays away",
            "FAIL  an evaluation changes",
            "after after_evaluation in step 1 the weights",
        ),
        (
            "stays away",
            "FAIL  a checkpoint changes",
            "after after_saving in step 1 the weights",
        ),
        (
            "leaves state",
            "FAIL  an evaluation changes",
            "trained is not what it was",
        ),
        (
            "counts evaluations",
            "FAIL  an evaluation changes",
            "save_state gives something else",
        ),
        (
            "shows nothing",
            "note",
            "before_evaluation shows the weights that are trained",
        ),
        ("makes no pass", "note", "calls step.evaluate()"),
    ] {
        let all = findings(wrong, ALL);
        assert!(
            all.iter()
                .any(|one| one.starts_with(starts) && one.contains(says)),
            "{wrong}: {all:#?}"
        );
    }
    // Without Need::State its count is lost at a checkpoint.
    let all = findings("", &[]);
    let lost = "FAIL  goes on exactly";
    assert!(all.iter().any(|one| one.starts_with(lost)), "{all:#?}");
}

#[test]
fn built_in_optimizers_pass() {
    for name in [
        "adafactor",
        "adamw_8bit",
        "galore",
        "muon",
        "schedule_free_adamw",
    ] {
        let make = || registry::named(&Spec::named(name));
        let mut findings = Findings::new();
        check_made(&make, &Device::Cpu, &mut findings).unwrap();
        for finding in findings {
            let finding = finding.to_string();
            assert!(finding.starts_with("ok"), "{name}: {finding}");
        }
    }
}
