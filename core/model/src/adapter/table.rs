//! The table of a model's parts: how many numbers, stored and computed in which type, how many trained.

use super::blueprint::Blueprint;
use crate::model::{CausalLm, LoadedForm, LoadedTensor, part};
use crate::nn::Param;
use crate::tensors::{Part, Role, TensorSpec};
use candle_core::DType;
use comfy_table::{CellAlignment, Table, presets};
use std::fmt;
use std::sync::Arc;

/// Parts of the model in the order of the table; adapters follow.
const PARTS: [&str; 12] = [
    "embed_tokens",
    "self_attn",
    "self_attn biases",
    "self_attn sinks",
    "mlp.router",
    "mlp.router biases",
    "mlp.experts",
    "mlp.experts biases",
    "mlp",
    "mlp biases",
    "norms",
    "lm_head",
];

/// One part of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterRow {
    /// `self_attn`, `mlp.experts`, `LoRA on q_proj`.
    pub part: String,
    /// The number of modules of this kind.
    pub modules: usize,
    /// The number of parameters.
    pub parameters: usize,
    /// The type in which they are stored on the device.
    pub stored: String,
    /// The type in which they are computed.
    pub computed: String,
    /// The number of parameters that are trained.
    pub trainable: usize,
}

/// All parts; its `Display` is the table that a run prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterTable {
    /// The model's own weights first, then the adapter.
    pub rows: Vec<ParameterRow>,
}

impl ParameterTable {
    /// The parts of a loaded model.
    pub fn of(model: &CausalLm) -> Self {
        let computed = type_name(model.dtype());
        let mut table = Self { rows: Vec::new() };
        let list = model.config().tensors();
        let offloaded = model.decoder().embedding.offloaded_bytes().is_some();
        for LoadedTensor {
            layer,
            role,
            part,
            form,
        } in model.tensors()
        {
            let spec = match part {
                Part::Weight => list.weight(layer, role),
                Part::Bias => list.bias(layer, role),
            };
            let Some(spec) = spec else {
                continue;
            };
            let name = match role {
                Role::Embedding if offloaded => "embed_tokens, in host memory",
                _ => part_of(spec),
            };
            let count = spec.elements();
            let trained = form.param().map_or(0, |_| count);
            match form {
                LoadedForm::Plain(weight) => {
                    table.add(name, count, type_name(weight.stored()), computed, trained);
                }
                LoadedForm::Packed { .. } => {
                    let computed = format!("{computed}, unpacked");
                    table.add(name, count, "mxfp4", &computed, trained);
                }
            }
        }
        table.adapters(model, computed);
        table.sorted()
    }

    /// The parts of a model that is not loaded; the same as those of the loaded one.
    pub fn planned(blueprint: &Blueprint) -> Self {
        let computed = type_name(blueprint.compute);
        let mut table = Self { rows: Vec::new() };
        for planned in &blueprint.weights {
            let (part, count) = (part_of(&planned.spec), planned.spec.elements());
            let (stored, computed) = match (planned.packed, planned.trained) {
                (true, _) => ("mxfp4", format!("{computed}, unpacked")),
                (false, true) => (type_name(DType::F32), computed.to_owned()),
                (false, false) => (computed, computed.to_owned()),
            };
            let trained = if planned.trained { count } else { 0 };
            table.add(part, count, stored, &computed, trained);
        }
        for update in &blueprint.updates {
            let count = update.elements() as usize;
            let part = format!("LoRA on {}, rank {}", update.short_target(), update.rank());
            table.add(&part, count, "f32", computed, count);
        }
        for addition in &blueprint.additions {
            let (count, trained) = (addition.elements(), addition.trained_elements());
            let part = addition.part();
            table.add(&part, count as usize, "f32", computed, trained as usize);
        }
        table.sorted()
    }

    fn sorted(mut self) -> Self {
        let place = |row: &ParameterRow| {
            let part = row.part.split(',').next().unwrap_or_default();
            PARTS.iter().position(|known| *known == part)
        };
        self.rows
            .sort_by_key(|row| place(row).unwrap_or(PARTS.len()));
        self
    }

    /// The number of parameters that are trained.
    pub fn trainable(&self) -> usize {
        self.rows.iter().map(|row| row.trainable).sum()
    }

    /// The number of all parameters, adapters included.
    pub fn parameters(&self) -> usize {
        self.rows.iter().map(|row| row.parameters).sum()
    }

    fn adapters(&mut self, model: &CausalLm, computed: &str) {
        let mut add = |part: String, params: &[&Arc<Param>]| {
            let count = |param: &&Arc<Param>| param.value().elem_count();
            let trained = params.iter().copied().filter(|param| !param.is_fixed());
            let trained = trained.map(|param| count(&param)).sum();
            let all = params.iter().map(count).sum();
            self.add(&part, all, "f32", computed, trained);
        };
        for tuned in model.tuners() {
            let params: Vec<&Arc<Param>> = tuned.params.iter().collect();
            add(part(tuned.tuning.as_ref(), &tuned.module), &params);
        }
        for linear in model.linears() {
            if let Some(lora) = &linear.lora {
                let mut params = vec![&lora.a, &lora.b];
                params.extend(&lora.magnitude);
                let name = linear.name.rsplit('.').next().unwrap_or_default();
                add(
                    format!("LoRA on {name}, rank {}", rank(&lora.a, 1)),
                    &params,
                );
            }
        }
        let layers = model.decoder().layers.iter();
        for linear in layers.flat_map(|layer| layer.mlp.experts()) {
            if let Some(lora) = &linear.lora {
                let name = linear.name.rsplit('.').next().unwrap_or_default();
                let rank = rank(&lora.a, lora.experts);
                add(
                    format!("LoRA on experts.{name}, rank {rank}"),
                    &[&lora.a, &lora.b],
                );
            }
        }
    }

    fn add(&mut self, part: &str, count: usize, stored: &str, computed: &str, trained: usize) {
        let same = |row: &&mut ParameterRow| {
            row.part == part && row.stored == stored && (row.trainable > 0) == (trained > 0)
        };
        match self.rows.iter_mut().find(same) {
            Some(row) => {
                row.modules += 1;
                row.parameters += count;
                row.trainable += trained;
            }
            None => self.rows.push(ParameterRow {
                part: part.to_owned(),
                modules: 1,
                parameters: count,
                stored: stored.to_owned(),
                computed: computed.to_owned(),
                trainable: trained,
            }),
        }
    }
}

impl fmt::Display for ParameterTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut drawing = Table::new();
        drawing.load_style(presets::UTF8_BORDERS_ONLY);
        drawing.set_header([
            "part",
            "tensors",
            "parameters",
            "stored",
            "computed",
            "trained",
        ]);
        let number = |n: usize| match n {
            0 => "-".to_owned(),
            n => grouped(n),
        };
        for row in &self.rows {
            drawing.add_row([
                row.part.clone(),
                number(row.modules),
                number(row.parameters),
                row.stored.clone(),
                row.computed.clone(),
                number(row.trainable),
            ]);
        }
        for column in [1, 2, 5] {
            if let Some(column) = drawing.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let (trained, all) = (self.trainable(), self.parameters());
        let percent = 100.0 * trained as f64 / all.max(1) as f64;
        writeln!(f, "{drawing}")?;
        write!(
            f,
            "trainable {} of {} parameters ({percent:.4}%)",
            grouped(trained),
            grouped(all)
        )
    }
}

/// The part that a tensor of the model belongs to.
fn part_of(spec: &TensorSpec) -> &'static str {
    let either = |weights, biases| match spec.part {
        Part::Weight => weights,
        Part::Bias => biases,
    };
    match spec.role {
        Role::Embedding => "embed_tokens",
        Role::Query | Role::Key | Role::Value | Role::Output => {
            either("self_attn", "self_attn biases")
        }
        Role::Sinks => "self_attn sinks",
        Role::Router => either("mlp.router", "mlp.router biases"),
        Role::Gate | Role::Up | Role::Down => either("mlp", "mlp biases"),
        Role::Experts(_) => either("mlp.experts", "mlp.experts biases"),
        Role::AttentionNorm | Role::QueryNorm | Role::KeyNorm | Role::MlpNorm | Role::FinalNorm => {
            "norms"
        }
        Role::Head => "lm_head",
    }
}

fn rank(a: &Arc<Param>, experts: usize) -> usize {
    a.value().dims()[0] / experts
}

fn type_name(dtype: DType) -> &'static str {
    dtype.as_str()
}

/// `20914757184` as `20,914,757,184`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let parts: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|part| std::str::from_utf8(part).ok())
        .collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::testing::{goldens, tiny};
    use crate::adapter::{TargetSpec, resolve};
    use crate::families::testing::dense;
    use crate::model::{Init, LoadOptions, LoraSettings};
    use crate::synthetic::SyntheticWeights;
    use crate::weights::Directory;
    use candle_core::Device;

    #[test]
    fn counts_and_types() {
        let source = Directory::open(&goldens().join("model_mxfp4")).unwrap();
        let options = LoadOptions::frozen(&Device::Cpu);
        let mut model = CausalLm::load(&tiny(), &source, &options, |_| {}).unwrap();
        assert_eq!(ParameterTable::of(&model).trainable(), 0);
        let wanted = TargetSpec {
            parameters: ["1", "3"]
                .iter()
                .flat_map(|n| ["gate_up_proj", "down_proj"].map(|p| format!("{n}.mlp.experts.{p}")))
                .collect(),
            ..TargetSpec::from_names(vec!["all-linear".into()])
        };
        let settings = LoraSettings {
            rank: 4,
            alpha: 8.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            init: Init::Kaiming,
            seed: 1,
        };
        let targets = resolve(&tiny(), &wanted).unwrap();
        model.add_lora(&targets, &settings).unwrap();
        let table = ParameterTable::of(&model);
        assert_eq!(table.trainable(), 35_840);
        let experts = table.rows.iter().find(|r| r.part == "mlp.experts").unwrap();
        assert_eq!(
            (experts.stored.as_str(), experts.parameters),
            ("mxfp4", 589_824)
        );
        let text = table.to_string();
        assert!(text.contains("LoRA on experts.down_proj, rank 4"), "{text}");
        assert!(text.contains("trainable 35,840 of"), "{text}");
        assert_eq!(grouped(20_914_757_184), "20,914,757,184");
    }

    /// What is planned from the shape is what is there after loading, in every way that a model is trained.
    #[test]
    fn a_plan_is_what_is_loaded() {
        use crate::model::{ExpertsDtype, Training};
        let experts = |layers: &[usize]| {
            let names = layers.iter().flat_map(|n| {
                ["gate_up_proj", "down_proj"].map(|p| format!("{n}.mlp.experts.{p}"))
            });
            names.collect::<Vec<String>>()
        };
        let wanted = |modules: &[&str], parameters: Vec<String>, save: &[&str]| TargetSpec {
            parameters,
            save: save.iter().map(|s| (*s).to_owned()).collect(),
            ..TargetSpec::from_names(modules.iter().map(|s| (*s).to_owned()).collect())
        };
        let ways = [
            None,
            Some(wanted(&["all-linear"], vec![], &[])),
            Some(wanted(
                &["q_proj"],
                experts(&[0, 2]),
                &["lm_head", "embed_tokens"],
            )),
            Some(wanted(
                &[],
                experts(&[1])[..1].to_vec(),
                &["2.mlp.router", "all-norm"],
            )),
            Some(wanted(
                &["o_proj"],
                vec![],
                &["3.mlp.experts", "1.self_attn.q_proj"],
            )),
        ];
        for form in ["model_mxfp4", "model_bf16"] {
            let source = Directory::open(&goldens().join(form)).unwrap();
            for dtype in [ExpertsDtype::Mxfp4, ExpertsDtype::Dense] {
                for (number, wanted) in ways.iter().enumerate() {
                    for use_dora in [false, true] {
                        let settings = LoraSettings {
                            rank: 4,
                            alpha: 8.0,
                            dropout: 0.0,
                            use_rslora: false,
                            use_dora,
                            init: Init::Kaiming,
                            seed: 1,
                        };
                        let targets = wanted.as_ref().map(|w| resolve(&tiny(), w).unwrap());
                        if use_dora && targets.as_ref().is_none_or(|t| !t.experts.is_empty()) {
                            continue;
                        }
                        let options = LoadOptions {
                            experts: dtype,
                            training: match &targets {
                                None => Training::Full,
                                Some(t) => Training::Adapters(t.modules_to_save.clone()),
                            },
                            ..LoadOptions::frozen(&Device::Cpu)
                        };
                        let updates = targets.as_ref().map(|targets| (targets, &settings));
                        let plan = Blueprint::new(&tiny(), &source, &options, updates).unwrap();
                        plan.check(&source).unwrap();
                        let mut model = CausalLm::load(&tiny(), &source, &options, |_| {}).unwrap();
                        if let Some(targets) = &targets {
                            model.add_lora(targets, &settings).unwrap();
                        }
                        let what = format!("{form} {dtype:?} {number} {use_dora}");
                        assert_eq!(
                            ParameterTable::planned(&plan),
                            ParameterTable::of(&model),
                            "{what}"
                        );
                        assert_eq!(plan.weight_bytes(), model.weight_bytes(), "{what}");
                        let trained: usize =
                            model.params().iter().map(|p| p.value().elem_count()).sum();
                        assert_eq!(plan.trainable(), trained as u64, "{what}");
                    }
                }
            }
        }
    }

    /// The same for a model without experts, whose head is the embedding.
    #[test]
    fn a_plan_of_a_dense_model_is_what_is_loaded() {
        let config = dense(true);
        let source = SyntheticWeights::new(&config, 1);
        let wanted = TargetSpec::from_names(vec!["all-linear".into()]);
        let targets = resolve(&config, &wanted).unwrap();
        let settings = LoraSettings {
            rank: 2,
            alpha: 8.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: true,
            init: Init::Kaiming,
            seed: 1,
        };
        let options = LoadOptions::frozen(&Device::Cpu);
        let updates = Some((&targets, &settings));
        let plan = Blueprint::new(&config, &source, &options, updates).unwrap();
        plan.check(&source).unwrap();
        let mut model = CausalLm::load(&config, &source, &options, |_| {}).unwrap();
        model.add_lora(&targets, &settings).unwrap();
        let table = ParameterTable::of(&model);
        assert_eq!(ParameterTable::planned(&plan), table);
        assert_eq!(plan.weight_bytes(), model.weight_bytes());
        assert_eq!(plan.movable_embedding(), model.movable_embedding());
        let parts: Vec<&str> = table.rows.iter().map(|row| row.part.as_str()).collect();
        assert_eq!(parts[..4], ["embed_tokens", "self_attn", "mlp", "norms"]);
        assert!(parts.contains(&"LoRA on gate_proj, rank 2"), "{parts:?}");
    }
}
