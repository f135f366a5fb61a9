//! A renderer of a dialect that needs no template.

use crate::chat::{rendered::Rendered, template::RenderOptions};
use anyhow::Result;
use apus_sdk::Conversation;

/// A renderer of conversations that is built in.
#[derive(Debug)]
pub struct BuiltInRenderer {
    /// Its name, a value of `template_backend`.
    pub name: &'static str,
    /// SHA-256 of the published template that it writes the same as, if there is one: under `auto` it writes the
    /// conversations that this template has no place for.
    pub writes_as: Option<&'static str>,
    /// The variables of a conversation that it reads.
    pub variables: &'static [&'static str],
    /// Renders a conversation.
    pub render: fn(&Conversation, &RenderOptions) -> Result<Rendered>,
}
