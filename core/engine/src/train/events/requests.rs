//! What callbacks ask for, kept until the trainer takes it: logging, evaluation and saving, answers, and lists of requests.

use super::Events;
use crate::train::settings::Due;
use anyhow::{Result, bail};
use apus_sdk::{Control, Question, Request};
use std::path::PathBuf;

/// A request, and who made it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The callback and the event, for messages.
    pub by: String,
    /// The request.
    pub request: Request,
}

impl Events {
    /// Takes what callback `index` asked for in its list of requests.
    pub(super) fn take_list(&mut self, index: usize, event: &str) -> Result<()> {
        let callback = &self.callbacks[index];
        for request in std::mem::take(&mut self.control.requests) {
            let need = request.need();
            if !callback.declares(need) {
                bail!(
                    "{}, {event}: {}",
                    callback.label,
                    need.undeclared(&callback.needs)
                );
            }
            match request {
                Request::Ask(question) => {
                    let mut own = self.questions.iter().filter(|(asker, _)| *asker == index);
                    if own.any(|(_, other)| other.id() == question.id()) {
                        bail!(
                            "{}, {event}: asks two questions by the id {:?} in one step; give each its own",
                            callback.label,
                            question.id()
                        );
                    }
                    self.questions.push((index, *question));
                }
                request => self.requests.push(Asked {
                    by: format!("{}, {event}", callback.label),
                    request,
                }),
            }
        }
        Ok(())
    }

    /// What was asked for since the last time.
    pub(in crate::train) fn take_requests(&mut self) -> Due {
        let Control {
            should_log,
            should_evaluate,
            should_save,
            ..
        } = &mut self.control;
        Due {
            log: std::mem::take(should_log),
            evaluate: std::mem::take(should_evaluate),
            save: std::mem::take(should_save),
        }
    }

    /// Whether answers were asked for.
    pub fn has_prompts(&self) -> bool {
        !self.control.generate.is_empty() || !self.questions.is_empty()
    }

    /// Questions that were asked since the last time, each with the number of the callback that asked.
    pub fn take_questions(&mut self) -> Vec<(usize, Question)> {
        std::mem::take(&mut self.questions)
    }

    /// Prompts that were asked for since the last time.
    pub fn take_prompts(&mut self) -> Vec<String> {
        std::mem::take(&mut self.control.generate)
    }

    /// What was asked of the parameters since the last time.
    pub fn take_of_parameters(&mut self) -> Vec<Asked> {
        let of_parameters =
            |asked: &mut Asked| !matches!(asked.request, Request::Keep(_) | Request::Release(_));
        self.requests.extract_if(.., of_parameters).collect()
    }

    /// The checkpoints that are to be kept, or not any more: who asks, which, and whether to keep it.
    pub fn take_kept(&mut self) -> Vec<(String, PathBuf, bool)> {
        let mut kept = Vec::new();
        self.requests.retain(|Asked { by, request }| match request {
            Request::Keep(path) | Request::Release(path) => {
                let keep = matches!(request, Request::Keep(_));
                kept.push((by.clone(), path.clone(), keep));
                false
            }
            _ => true,
        });
        kept
    }
}
