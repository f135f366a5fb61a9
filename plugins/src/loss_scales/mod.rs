//! Loss scales: which parts of a conversation are trained, and how much.

mod agentflan;
mod alpha_umi;
mod base;
mod config;
mod file;
mod hermes;
mod ignore_empty_think;
mod ignore_think_prefix;
mod qwen;
mod react;
