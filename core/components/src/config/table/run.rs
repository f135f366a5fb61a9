//! What a run evaluates, saves and says.

macro_rules! rows {
    ($then:ident $others:tt $($before:tt)*) => {
        $then! {
            $others
            $($before)*
            Saving {
                /// steps, epoch or no; as save_strategy if not given
                eval_strategy | evaluation_strategy: Option<EvalStrategy> = None
                    => sft "same: as `save_strategy`; `steps` with `save_strategy best`";
                /// Steps between evaluations, below 1 a share of all steps; as save_steps if not given
                eval_steps: Option<StepsOrShare> = None, bounds above(0.0)
                    => sft "same: as `save_steps`; below 1 a share of all steps, rounded up";
                /// Evaluation metrics
                metrics | eval_metric | metric: Vec<Spec> = Spec::all_named(METRICS), about Questions
                    => sft "different: components ([evaluating.md](evaluating.md)); ms-swift always logs token_acc, which is its `acc`, too",
                       infer(Vec<Spec> = Vec::new()) "any metric ([evaluating.md](evaluating.md)); ms-swift has two, of which its `acc` is equality to the letter. The numbers are also written beside the answers, in `.metrics.json`";
                /// Answer the rows of the evaluation data at each evaluation, for metrics that read answers (nlg if none are named)
                predict_with_generate: bool = false
                    => sft "same, with `max_new_tokens` and `temperature`, and `predict.jsonl` in the run's folder; the loss is computed beside it, which ms-swift leaves out, so that `metric_for_best_model` stays `loss` unless it is given";
                /// steps, epoch, best (after each evaluation that is the best so far) or no
                save_strategy: SaveStrategy = SaveStrategy::Steps
                    => sft "same; `best` as in transformers since 4.46";
                /// Steps between checkpoints; below 1 a share of all steps
                save_steps: StepsOrShare = StepsOrShare::Steps(500), bounds above(0.0)
                    => sft "same; below 1 a share of all steps, rounded up";
                /// Checkpoints to keep; the best and the last always stay
                save_total_limit: Option<usize> = None, bounds from(1.0)
                    => sft "same; the best and the last are always kept";
                /// Leave the optimizer's state out of checkpoints
                save_only_model: bool = false
                    => sft "same";
                /// loss, or a metric
                metric_for_best_model: String = "loss".to_owned()
                    => sft r#"same; see "The best checkpoint" above"#;
                /// Whether more of that metric is better; by its name if not given
                greater_is_better: Option<bool> = None
                    => sft "same: true unless the name ends with loss, or is the loss of a channel; here `perplexity` is better when less, too";
                /// Go back to the best checkpoint at the end
                load_best_model_at_end: bool = false
                    => sft r#"same, `save_steps` a multiple of `eval_steps` and both numbers of steps or both shares; "try it" and the answers at the end are the best checkpoint's"#;
            }
            Logging {
                /// Steps between log lines; below 1 a share of all steps
                logging_steps: StepsOrShare = StepsOrShare::Steps(5), bounds above(0.0)
                    => sft "same; below 1 a share of all steps, rounded up";
                /// Log the first step too
                logging_first_step: bool = true
                    => sft "same";
                /// Where numbers go beside the terminal and logging.jsonl
                report_to: Vec<String> = Vec::new()
                    => sft "different default: ms-swift `tensorboard`; `apus components tracker` lists what there is; `wandb`, `mlflow` are answered in a line; the terminal and logging.jsonl are always on";
                /// Trackers with their options, beside report_to
                trackers: Vec<Spec> = Vec::new()
                    => sft "only in Apus";
                /// Seconds that the end of a run waits for its trackers
                tracker_timeout: f64 = 30.0, bounds from(0.0)
                    => sft "seconds that the end of a run waits for its trackers";
                /// Name of the run; its folder if not given
                run_name: Option<String> = None
                    => sft "same";
                /// Draw images/*.png of every number at each save and at the end, and write report.html
                plot: bool = true
                    => sft "only in Apus: `images/*.png` at each save and at the end, as ms-swift draws them, and report.html";
                /// Draw a live panel with the loss curve on the terminal, in place of the progress bar
                tui: bool = false
                    => sft "only in Apus: a live panel on the terminal";
                /// Prompts to answer before training, at each evaluation and after training
                sample_prompts: Vec<String> = Vec::new()
                    => sft "only in Apus";
            }
        }
    };
}
pub(super) use rows;
