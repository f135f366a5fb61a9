//! Exporters: the forms that the host writes itself.

mod bf16;
mod gguf;
mod llamapro;
mod merged;
mod mxfp4;
mod vllm;
