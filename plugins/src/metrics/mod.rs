//! Evaluation metrics: of tokens, and of generated answers.

mod bleu;
mod chrf;
mod exact_match;
mod nlg;
mod rouge;
mod token_acc;
mod words;

#[cfg(test)]
mod goldens;
