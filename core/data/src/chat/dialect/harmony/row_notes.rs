//! What is said of rows that were changed on their way to harmony.

use crate::chat::notes::RowNoteTexts;

pub const TEXTS: RowNoteTexts = RowNoteTexts {
    moved: "<think>..</think> before an answer was moved to the analysis channel \
            (--think_to_analysis false leaves it where it is)",
    dropped: "reasoning before the first final answer was left out, as openai-harmony does; it is \
              not trained (--keep_thinking true keeps all reasoning)",
    built_in: "the model's template has no place for text that looks like a control token, or for words \
               beside reasoning before a call, so the renderer native wrote them, which writes the \
               same as the template otherwise (--template_backend jinja refuses such rows)",
    tools: Some(
        "definitions and results are written as the model's chat template writes \
         them. Servers built on openai-harmony, vLLM among them, send other tokens: for those, \
         train with --template_backend harmony (docs/gpt-oss-20b.md)",
    ),
};
