//! A text through a chain of loss scales: the first byte chooses the chain.

#![no_main]

use apus_data::chat::Chain;
use apus_components::registry::Spec;
use apus_data::{invariants}; use apus_components::{registry};
use apus_sdk::{Field, LossScale, Turn};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static SCALES: LazyLock<Vec<String>> = LazyLock::new(|| {
    apus_plugins::link();
    invariants::scales()
});

fn chain(names: &[&str]) -> Chain {
    let build = |name: &&str| {
        let scale: Box<dyn LossScale> = registry::build(&Spec::named(*name)).unwrap();
        ((*name).to_owned(), scale)
    };
    Chain::new(names.iter().map(build).collect()).unwrap()
}

fuzz_target!(|input: (u8, Option<String>, String)| {
    let (which, query, text) = input;
    let which = usize::from(which);
    let count = SCALES.len();
    let names = [which % count, which / count % count].map(|at| SCALES[at].as_str());
    let turn = Turn {
        role: "assistant",
        field: Field::Content,
        query: query.as_deref(),
        is_last: true,
    };
    let links = names.map(|name| chain(&[name]));
    invariants::chain_is_a_fold(&text, &turn, &chain(&names), &links);
});
