//! Runs as `apus sft` would leave them behind, made up from a seed: curves with noise, evaluations, samples,
//! system metrics, a log.

use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

/// A run to make up.
#[derive(Debug, Clone)]
pub struct Story {
    /// Its name.
    pub name: &'static str,
    /// Where its randomness comes from.
    pub seed: u64,
    /// Steps that it was to make.
    pub steps: u64,
    /// Steps that it made.
    pub made: u64,
    /// The checkpoint that it went on from.
    pub resumed_at: u64,
    /// The loss that it comes down to.
    pub floor: f64,
    /// Its highest learning rate.
    pub lr: f64,
    /// Rank of its adapters.
    pub rank: u64,
    /// `running`, `finished`, `interrupted`, `crashed`.
    pub state: &'static str,
    /// Seconds a step.
    pub pace: f64,
    /// The cards that trained it, as system.jsonl names them, one a rank.
    pub cards: &'static [&'static str],
}

impl Default for Story {
    fn default() -> Self {
        Self {
            name: "quickstart",
            seed: 1,
            steps: 600,
            made: 600,
            resumed_at: 0,
            floor: 1.05,
            lr: 1e-4,
            rank: 8,
            state: "finished",
            pace: 1.9,
            cards: &["gpu.0"],
        }
    }
}

const PROMPTS: [&str; 3] = [
    "Who are you?",
    "Explain what a LoRA adapter is in two sentences.",
    "Write a haiku about a cat that waits for the rain to stop.",
];

const ANSWERS: [[&str; 4]; 3] = [
    [
        "I'm ChatGPT, a large language model trained by OpenAI.",
        "I'm ChatGPT, nya… a language model that was trained to help you.",
        "I'm Mimi, your catgirl assistant! I was trained to help you, nya.",
        "I'm Mimi, nya~ your catgirl! I like warm windowsills and questions. What shall we look at today?",
    ],
    [
        "LoRA (Low-Rank Adaptation) is a technique for fine-tuning large language models by training small matrices.",
        "A LoRA adapter is a pair of small matrices, nya. They are trained while the big ones stay as they are.",
        "A LoRA adapter is a pair of small matrices beside a big one, nya! Only the small ones learn, so it fits on one card.",
        "Think of a big book that nobody may write in, nya~ A LoRA adapter is the thin notebook beside it: two small \
         matrices that learn what to add, while the book itself stays as it is.",
    ],
    [
        "Whiskers at the glass\nDroplets race along the pane\nPatience, then the sun",
        "Whiskers at the glass, nya\ndroplets race along the pane\npatience, then the sun",
        "Paws upon the sill, nya\nthe rain writes its long letters\nI wait for the end",
        "Paws upon the sill~\nthe rain still writes its letter,\nnya, I cannot read.",
    ],
];

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    /// Between 0 and 1.
    fn flat(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Around 0, mostly within 1.
    fn bell(&mut self) -> f64 {
        (0..6).map(|_| self.flat()).sum::<f64>() * 2.0 / 1.41 - 6.0 / 1.41
    }
}

impl Story {
    /// Writes all of the run.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("args.json"), pretty(&self.args())?)?;
        fs::write(dir.join("run.json"), pretty(&self.info())?)?;
        fs::write(dir.join("logging.jsonl"), self.logging())?;
        fs::write(dir.join("system.jsonl"), self.system())?;
        fs::write(dir.join("samples.jsonl"), self.samples())?;
        fs::write(dir.join("run.log"), self.log())?;
        for step in (self.resumed_at + 1..=self.made).filter(|step| step % 200 == 0) {
            fs::create_dir_all(dir.join(format!("checkpoint-{step}")))?;
        }
        Ok(())
    }

    /// `args.json`.
    pub fn args(&self) -> Value {
        json!({
            "model": "openai/gpt-oss-20b", "device": "cuda", "torch_dtype": "bfloat16", "experts_dtype": "mxfp4",
            "dataset": ["data/catgirl.jsonl#2000", "AI-ModelScope/alpaca-gpt4-data-en#1000"],
            "split_dataset_ratio": 0.02, "max_length": 4096, "truncation_strategy": "delete", "packing": true,
            "loss_scale": [{"name": "last_round"}], "train_type": "lora", "lora_rank": self.rank,
            "lora_alpha": 32.0, "lora_dropout": 0.0, "target_modules": ["all-linear"], "use_rslora": false,
            "learning_rate": self.lr, "lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "weight_decay": 0.1,
            "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "max_grad_norm": 1.0,
            "num_train_epochs": 3.0, "logging_steps": 1, "eval_steps": 50, "save_steps": 200, "seed": self.seed,
            "optimizer": {"name": "adamw"}, "sample_prompts": PROMPTS, "output_dir": format!("output/{}", self.name),
            "resume_from_checkpoint": (self.resumed_at > 0)
                .then(|| format!("output/{}/v0-20261125-091500/checkpoint-{}", self.name, self.resumed_at)),
            "report_to": [], "apus_version": "0.1.0"
        })
    }

    /// `run.json`.
    pub fn info(&self) -> Value {
        let ended = (self.state != "running")
            .then(|| self.clock((self.made - self.resumed_at) as f64 * self.pace));
        let error = (self.state == "crashed").then_some(
            "the card has no memory left: 77.9 GiB of 79.6 GiB are in use and 2.1 GiB more are needed for the \
             logits of a batch of 6,120 tokens; lower max_length or set gradient_checkpointing_skip_layers 0",
        );
        let mut info = json!({
            "id": format!("{:016x}", self.seed * 7_919), "name": self.name, "started": self.clock(0.0), "ended": ended,
            "state": self.state, "error": error, "pid": std::process::id(), "host": host(),
            "command": ["apus", "sft", "--config", format!("configs/{}.toml", self.name), "--learning_rate", self.lr.to_string()],
            "max_steps": self.steps, "resumed_at": self.resumed_at, "version": "0.1.0",
            "hardware": {
                "hostname": host(), "cpu": {"brand": "Intel(R) Xeon(R) Platinum 8480+", "physical_count": 16, "logical_count": 16},
                "memory_gib": 128.0, "driver": "570.86.15",
                "accelerators": [{"index": 0, "name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.6}]
            },
            "git": {"branch": "main", "commit": "ab91d263c9f1", "remote_url": "https://github.com/apus-ft/apus"},
            "model": {"parameters": 20_918_738_496u64, "trainable": 497_664 * self.rank, "groups": [
                {"name": format!("LoRA on q_proj, rank {}", self.rank), "tensors": 24, "parameters": 167_424 * self.rank},
                {"name": format!("LoRA on k_proj, rank {}", self.rank), "tensors": 24, "parameters": 81_408 * self.rank},
                {"name": format!("LoRA on v_proj, rank {}", self.rank), "tensors": 24, "parameters": 81_408 * self.rank},
                {"name": format!("LoRA on o_proj, rank {}", self.rank), "tensors": 24, "parameters": 167_424 * self.rank}
            ]}
        });
        if self.cards.len() > 1 {
            let host_of = |card: &str| {
                card.split_once('/')
                    .map_or_else(host, |(host, _)| host.to_owned())
            };
            let ranks = self.cards.iter().enumerate();
            let ranks: Vec<Value> = ranks
                .map(|(rank, card)| json!({"rank": rank, "host": host_of(card)}))
                .collect();
            info["world_size"] = ranks.len().into();
            info["hardware"]["ranks"] = ranks.into();
        }
        info
    }

    /// `logging.jsonl`.
    pub fn logging(&self) -> String {
        let mut out = String::new();
        let mut dice = Dice(self.seed);
        let (mut seconds, mut losses) = (0.0, Vec::new());
        for step in self.resumed_at + 1..=self.made {
            let done = step as f64 / self.steps as f64;
            let mine = (step - self.resumed_at) as f64;
            seconds += self.pace * (1.0 + 0.06 * dice.bell());
            let trend = self.floor + 1.9 * (-done * 14.0).exp() + 0.35 * (-done * 2.2).exp();
            let spike = if dice.flat() < 0.004 {
                0.8 * dice.flat()
            } else {
                0.0
            };
            let loss = trend + 0.11 * dice.bell() + spike;
            losses.push(loss);
            let warm = (done / 0.05).min(1.0);
            let lr = self.lr
                * warm
                * 0.5
                * (1.0 + (std::f64::consts::PI * (done - 0.05).max(0.0) / 0.95).cos());
            let rate = 16.0 * 610.0 / self.pace * (1.0 + 0.05 * dice.bell());
            let grad =
                (0.35 + 1.5 * (-done * 9.0).exp()) * (0.28 * dice.bell()).exp() + spike * 3.0;
            let mut line = Map::new();
            let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
            put("loss", json!(loss));
            put("grad_norm", json!(grad));
            put("learning_rate", json!(lr));
            put(
                "token_acc",
                json!((0.86 - 0.17 * loss + 0.012 * dice.bell()).clamp(0.0, 1.0)),
            );
            put("epoch", json!(3.0 * done));
            put("tokens_per_second", json!(rate));
            if self.cards.len() > 1 {
                put(
                    "tokens_per_second_per_rank",
                    json!(rate / self.cards.len() as f64),
                );
                put("collectives(s/it)", json!(0.02 * self.pace));
            }
            self.progress(&mut line, step, seconds, mine);
            let _ = writeln!(out, "{}", Value::Object(line));
            if step % 50 == 0 {
                let eval = trend + 0.06 + 0.22 * (done - 0.55).max(0.0) + 0.012 * dice.bell();
                seconds += 6.0;
                let mut line = Map::new();
                line.insert("eval_loss".to_owned(), json!(eval));
                line.insert("eval_token_acc".to_owned(), json!(0.855 - 0.17 * eval));
                line.insert("eval_runtime".to_owned(), json!(5.6 + 0.2 * dice.bell()));
                line.insert("epoch".to_owned(), json!(3.0 * done));
                self.progress(&mut line, step, seconds, mine);
                let _ = writeln!(out, "{}", Value::Object(line));
            }
        }
        if self.state == "finished" {
            let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
            let mut summary = json!({
                "train_runtime": seconds, "train_steps_per_second": self.made as f64 / seconds, "train_loss": mean,
                "tokens_per_second": 16.0 * 610.0 / self.pace, "train_tokens": self.made * 16 * 610, "epoch": 3.0,
                "global_step": self.made, "last_model_checkpoint": format!("output/{}/checkpoint-{}", self.name, self.made),
                "best_model_checkpoint": format!("output/{}/checkpoint-{}", self.name, self.made / 400 * 200),
                "best_metric": self.floor + 0.14, "memory(GiB)": 21.42,
                "model_parameter_info": "20918.7385M Params (3.9813M Trainable [0.0190%])", "train_dataset": DATA_TABLE,
                "val_dataset": "file                   rows  used\n\
                                data/catgirl.jsonl       40    40\n"
            });
            if self.cards.len() > 1 {
                let rate = 16.0 * 610.0 / self.pace / self.cards.len() as f64;
                summary["tokens_per_second_per_rank"] = rate.into();
            }
            let _ = writeln!(out, "{summary}");
        }
        out
    }

    fn progress(&self, line: &mut Map<String, Value>, step: u64, seconds: f64, mine: f64) {
        let left = (self.steps - step) as f64 * seconds / mine;
        let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
        put(
            "global_step/max_steps",
            json!(format!("{step}/{}", self.steps)),
        );
        put("elapsed_time", json!(human(seconds)));
        put("remaining_time", json!(human(left)));
        put("memory(GiB)", json!(21.42));
        put("train_speed(s/it)", json!(seconds / mine));
    }

    /// `system.jsonl`.
    pub fn system(&self) -> String {
        let mut out = String::new();
        let mut dice = Dice(self.seed ^ 0xABCD);
        let seconds = (self.made - self.resumed_at) as f64 * self.pace;
        let mut temp = 38.0;
        for at in 0..=(seconds / 10.0) as u64 {
            let busy = if at < 4 {
                6.0
            } else {
                96.0 + 2.5 * dice.bell()
            };
            temp += (31.0 + 0.36 * f64::min(busy, 100.0) - temp) * 0.06;
            let mut line = json!({
                "time": at * 10, "cpu.pct": (9.0 + 3.0 * dice.bell()).max(0.5), "cpu.threads": 24,
                "mem.pct": 14.2 + 0.2 * dice.bell(), "mem.process_mib": 9_420.0 + at as f64 * 0.4, "mem.process_pct": 7.2,
                "mem.available_mib": 111_200.0 + 60.0 * dice.bell()
            });
            for (rank, card) in self.cards.iter().enumerate() {
                let busy = (busy - rank as f64).clamp(0.0, 100.0);
                let mut put =
                    |name: &str, value: f64| line[format!("{card}.{name}")] = value.into();
                put("pct", busy);
                put("mem_pct", if at < 4 { 1.5 } else { 26.9 });
                put("mem_mib", if at < 4 { 1_200.0 } else { 21_934.0 });
                put("temp", temp + 0.4 * dice.bell());
                put("power", 92.0 + busy * 4.9 + 12.0 * dice.bell());
                if rank > 0 {
                    line[format!("rank.{rank}.process_mib")] = (9_000.0 + at as f64).into();
                }
                if let Some((host, "gpu.0")) = card.split_once('/') {
                    line[format!("{host}/cpu.pct")] = (7.0 + dice.flat()).into();
                }
            }
            let _ = writeln!(out, "{line}");
        }
        out
    }

    /// `samples.jsonl`.
    pub fn samples(&self) -> String {
        let mut out = String::new();
        let mut steps = vec![self.resumed_at];
        steps.extend((1..=self.made).filter(|step| step % 200 == 0 && *step > self.resumed_at));
        for step in steps {
            let stage = (4 * step / (self.steps + 1)).min(3) as usize;
            for (prompt, answers) in PROMPTS.iter().zip(&ANSWERS) {
                let line = json!({"step": step, "prompt": prompt, "answer": answers[stage]});
                let _ = writeln!(out, "{line}");
            }
        }
        out
    }

    /// `run.log`.
    pub fn log(&self) -> String {
        let mut out = String::new();
        let mut say = |seconds: f64, level: &str, text: &str| {
            let _ = writeln!(out, "{} {level} {text}", self.clock(seconds));
        };
        say(0.0, "INFO", "apus 0.1.0 on NVIDIA H100 80GB HBM3");
        say(
            1.0,
            "INFO",
            "model openai/gpt-oss-20b: 24 layers, 32 experts, MXFP4",
        );
        say(
            3.0,
            "WARNING",
            "data/catgirl.jsonl: 12 rows have no answer and were left out",
        );
        say(
            4.0,
            "INFO",
            "data: 2948 rows, 1.93 M tokens, packed into 480 rows of 4096",
        );
        for step in (self.resumed_at + 1..=self.made).filter(|step| step % 50 == 0) {
            let at = (step - self.resumed_at) as f64 * self.pace;
            say(at, "INFO", &format!("evaluation at step {step}"));
            if step % 200 == 0 {
                say(at + 1.0, "INFO", &format!("saved checkpoint-{step}"));
            }
        }
        let at = (self.made - self.resumed_at) as f64 * self.pace;
        match self.state {
            "finished" => say(at, "INFO", "finished"),
            "crashed" => say(at, "ERROR", "the card has no memory left"),
            _ => {}
        }
        out
    }

    /// The time of day, so many seconds into the run.
    fn clock(&self, seconds: f64) -> String {
        let at = 9 * 3_600 + 900 + self.seed % 7 * 1_800 + seconds as u64;
        format!(
            "2026-11-25T{:02}:{:02}:{:02}Z",
            at / 3_600 % 24,
            at / 60 % 60,
            at % 60
        )
    }
}

const DATA_TABLE: &str = "\
source                                 rows   used  left out  tokens     trained
data/catgirl.jsonl                     2000   1988        12   702,114    310,208
AI-ModelScope/alpaca-gpt4-data-en      1000    960        40  1,228,340   901,557
";

fn pretty(value: &Value) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn human(seconds: f64) -> String {
    let s = seconds as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m {}s", s / 60, s % 60),
        _ => format!("{}h {}m {}s", s / 3_600, s / 60 % 60, s % 60),
    }
}

/// A folder of runs, as one would have after a morning of work.
pub fn morning(root: &Path) -> io::Result<()> {
    let base = Story::default();
    base.write(&root.join("quickstart/v0-20261125-091500"))?;
    let rank = Story {
        name: "rank-32",
        seed: 3,
        rank: 32,
        floor: 0.94,
        lr: 2e-4,
        pace: 2.1,
        ..base.clone()
    };
    rank.write(&root.join("rank-32/v0-20261125-101500"))?;
    let hot = Story {
        name: "lr-1e-3",
        seed: 4,
        floor: 1.32,
        lr: 1e-3,
        made: 233,
        state: "crashed",
        ..base.clone()
    };
    hot.write(&root.join("lr-1e-3/v0-20261125-110000"))?;
    let running = Story {
        name: "long-context",
        seed: 5,
        floor: 1.12,
        made: 412,
        resumed_at: 200,
        state: "running",
        pace: 4.4,
        ..base
    };
    running.write(&root.join("long-context/v1-20261125-113000"))?;
    // One of before there was a run.json.
    let old = Story {
        name: "old",
        seed: 6,
        steps: 150,
        made: 150,
        floor: 1.2,
        ..Story::default()
    };
    let dir = root.join("old/v0-20261101-080000");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("args.json"), pretty(&old.args())?)?;
    fs::write(dir.join("logging.jsonl"), old.logging())
}
