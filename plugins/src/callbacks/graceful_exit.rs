//! Leaves a run when a file appears, as ms-swift's `graceful_exit`: save, then stop.

use apus_sdk::{Callback, Control, Result, RunState, register};
use std::path::PathBuf;

apus_sdk::options! {
    struct GracefulExit {
        /// The file whose appearance ends the run; none is `EXIT` in the folder of the run.
        exit_file: Option<PathBuf> = None,
    }
}

impl Callback for GracefulExit {
    fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        let file = self
            .exit_file
            .clone()
            .unwrap_or_else(|| state.output_dir.join("EXIT"));
        if file.exists() {
            std::fs::remove_file(&file)?;
            control.should_save = true;
            control.should_training_stop = true;
        }
        Ok(())
    }

    fn metric_names(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

register! {
    /// Saves and stops when a file appears, and removes it.
    Callback, "graceful_exit", GracefulExit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_when_the_file_appears() {
        let dir = std::env::temp_dir().join(format!("apus-exit-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let state = RunState {
            output_dir: dir.clone(),
            ..Default::default()
        };
        let mut callback = GracefulExit::default();
        let mut control = Control::default();
        callback.on_step_end(&state, &mut control).unwrap();
        assert_eq!(control, Control::default());
        std::fs::write(dir.join("EXIT"), "").unwrap();
        callback.on_step_end(&state, &mut control).unwrap();
        assert!(control.should_save && control.should_training_stop);
        assert!(!dir.join("EXIT").exists());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
