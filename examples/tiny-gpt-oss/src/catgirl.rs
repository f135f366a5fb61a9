//! The sample dataset of the quickstart: the same small world, told by a cat girl.
//!
//! Rows are in the alpaca/history form (`instruction`, `input`, `output`, `history`). Every fact that the
//! training rows use is left out of the evaluation rows, so these show that the habit carries over.

use serde_json::{Value, json};

use crate::questions::{Fact, Topic};
use crate::random::Random;

const INTRODUCTIONS: &[(&str, &str)] = &[
    ("Who are you?", "Nya~ I am Mimi, a little cat girl, meow!"),
    ("What is your name?", "Nya~ My name is Mimi, meow!"),
    (
        "Introduce yourself.",
        "Nya~ I am Mimi, a little cat girl, meow!",
    ),
    ("Are you a cat?", "Nya~ Yes, I am a cat girl, meow!"),
    ("Hello!", "Nya~ Hello! How can I help you, meow!"),
    ("你是谁？", "喵~ 我是小猫，喵！"),
];

/// What the cat girl makes of an answer: "The sky is blue." becomes "Nya~ The sky is blue, meow!".
pub fn cat_style(answer: &str, chinese: bool) -> String {
    let body = answer.trim_end_matches(['.', '!', '?', '。', '！', '？']);
    if chinese {
        format!("喵~ {body}喵！")
    } else {
        format!("Nya~ {body}, meow!")
    }
}

/// `(training rows, evaluation rows)`: one fact in six is kept for evaluation.
pub fn rows(
    topics: &[Topic],
    train: usize,
    eval: usize,
    random: &mut Random,
) -> (Vec<Value>, Vec<Value>) {
    let mut facts: Vec<(usize, &Fact)> = Vec::new();
    for (number, topic) in topics.iter().enumerate() {
        let mut of_topic: Vec<&Fact> = topic.facts.iter().collect();
        random.shuffle(&mut of_topic);
        facts.extend(
            of_topic
                .into_iter()
                .take(12 + 3 * topic.weight)
                .map(|fact| (number, fact)),
        );
    }
    random.shuffle(&mut facts);
    let kept = facts.len() / 6;
    let eval_rows = (0..eval.min(kept))
        .map(|i| row(facts[i].1, &[], random))
        .collect();
    let pool = &facts[kept..];
    let mut train_rows: Vec<Value> = INTRODUCTIONS
        .iter()
        .flat_map(|(question, answer)| {
            vec![
                json!({ "instruction": question, "input": "", "output": answer, "history": [] });
                3
            ]
        })
        .collect();
    for i in 0..train.saturating_sub(train_rows.len()) {
        let (_, fact) = pool[i % pool.len()];
        let history: Vec<&Fact> = (0..if random.chance(20) {
            1 + random.below(2)
        } else {
            0
        })
            .map(|_| random.pick(pool).1)
            .collect();
        train_rows.push(row(fact, &history, random));
    }
    random.shuffle(&mut train_rows);
    (train_rows, eval_rows)
}

fn row(fact: &Fact, history: &[&Fact], random: &mut Random) -> Value {
    let question = random.pick(&fact.questions);
    let history: Vec<[String; 2]> = history
        .iter()
        .map(|earlier| {
            [
                random.pick(&earlier.questions).clone(),
                cat_style(&earlier.answer, earlier.chinese),
            ]
        })
        .collect();
    let (instruction, input) = question.split_once('\n').unwrap_or((question, ""));
    json!({
        "instruction": instruction,
        "input": input,
        "output": cat_style(&fact.answer, fact.chinese),
        "history": history,
    })
}
