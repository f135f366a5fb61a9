//! Callbacks: reactions to training events.

mod early_stop;
mod graceful_exit;
mod lisa;
mod reduce_lr_on_plateau;
