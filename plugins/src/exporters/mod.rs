//! Exporters: the forms that the host writes itself.

mod bf16;
mod gguf;
mod merged;
mod mxfp4;
mod vllm;
