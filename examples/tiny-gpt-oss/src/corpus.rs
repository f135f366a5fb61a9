//! Conversations in the `messages` form, drawn from the topics.
//!
//! Most have several turns about unrelated facts: the system block of the harmony format is longer than a
//! turn of this small world, so many turns under one block teach more per token. Five kinds: plain, plain with
//! little reasoning, "answer in one word", "begin every answer with", and remembering a name.

use serde_json::{Value, json};

use crate::facts::NAMES;
use crate::questions::{Fact, Topic};
use crate::random::Random;

const OPENERS: &[&str] = &[
    "Sure!",
    "Well,",
    "Of course!",
    "My friend,",
    "Aha!",
    "Nya~",
    "Yes,",
];
const ONE_WORD: &[&str] = &[
    "Answer in one word.",
    "Reply with one word only.",
    "Be brief: one word.",
];
const MY_NAME: &[&str] = &[
    "What is my name?",
    "Do you know my name?",
    "Who am I?",
    "Tell me my name.",
];

/// One conversation: the row of a `messages` dataset.
pub fn conversation(topics: &[Topic], random: &mut Random) -> Value {
    let turns = if random.chance(30) {
        1
    } else {
        2 + random.below(7)
    };
    let messages = match random.below(100) {
        0..10 => one_word(topics, turns, random),
        10..16 => opener(topics, turns, random),
        16..22 => remember_name(topics, turns, random),
        22..30 => {
            let kwargs = json!({ "reasoning_effort": "low" });
            return json!({ "messages": plain(topics, turns, false, random), "chat_template_kwargs": kwargs });
        }
        _ => plain(topics, turns, true, random),
    };
    json!({ "messages": messages })
}

/// A conversation of one turn with nothing around it, for evaluation.
pub fn single(topics: &[Topic], random: &mut Random) -> Value {
    let fact = draw(topics, random);
    let question = random.pick(&fact.questions).clone();
    json!({ "messages": turn(question, fact.answer.clone(), fact.thinking.as_ref()) })
}

/// Facts that need thinking come last, where their analysis is kept, or anywhere if nothing is thought.
fn plain(topics: &[Topic], turns: usize, thinks: bool, random: &mut Random) -> Vec<Value> {
    let mut messages = Vec::new();
    let mut topic = draw_topic(topics, random);
    for i in 0..turns {
        let last = i + 1 == turns;
        let mut follow = i > 0 && random.chance(30);
        if !follow {
            topic = draw_topic(topics, random);
        }
        let mut fact = random.pick(&topic.facts);
        while thinks && !last && fact.thinking.is_some() {
            follow = false;
            topic = draw_topic(topics, random);
            fact = random.pick(&topic.facts);
        }
        let question = match &fact.follow_up {
            Some(question) if follow => question.clone(),
            _ => phrase(fact, random),
        };
        messages.extend(turn(
            question,
            fact.answer.clone(),
            fact.thinking.as_ref().filter(|_| thinks),
        ));
    }
    messages
}

fn one_word(topics: &[Topic], turns: usize, random: &mut Random) -> Vec<Value> {
    let mut messages = vec![json!({ "role": "system", "content": random.pick(ONE_WORD) })];
    for _ in 0..turns {
        let (fact, short) = loop {
            let fact = draw(topics, random);
            if let Some(short) = &fact.short {
                break (fact, short.clone());
            }
        };
        messages.extend(turn(phrase(fact, random), short, None));
    }
    messages
}

fn opener(topics: &[Topic], turns: usize, random: &mut Random) -> Vec<Value> {
    let opener = random.pick(OPENERS);
    let content = format!("Begin every answer with \"{opener}\"");
    let mut messages = vec![json!({ "role": "system", "content": content })];
    for _ in 0..turns {
        let fact = loop {
            let fact = draw(topics, random);
            if fact.thinking.is_none() && !fact.chinese {
                break fact;
            }
        };
        messages.extend(turn(
            phrase(fact, random),
            format!("{opener} {}", fact.answer),
            None,
        ));
    }
    messages
}

fn remember_name(topics: &[Topic], turns: usize, random: &mut Random) -> Vec<Value> {
    let name = random.pick(NAMES);
    let hello = [
        format!("My name is {name}."),
        format!("Hello, I am {name}."),
        format!("Hi, my name is {name}!"),
    ];
    let mut messages = turn(
        random.pick(&hello).clone(),
        format!("Nice to meet you, {name}!"),
        None,
    );
    if turns > 2 {
        for _ in 0..1 + random.below(3) {
            let fact = draw(topics, random);
            if fact.thinking.is_none() {
                messages.extend(turn(phrase(fact, random), fact.answer.clone(), None));
            }
        }
    }
    messages.extend(turn(
        random.pick(MY_NAME).to_string(),
        format!("Your name is {name}."),
        None,
    ));
    messages
}

fn turn(question: String, answer: String, thinking: Option<&String>) -> Vec<Value> {
    let mut reply = json!({ "role": "assistant", "content": answer });
    if let Some(thinking) = thinking {
        reply["thinking"] = json!(thinking);
    }
    vec![json!({ "role": "user", "content": question }), reply]
}

fn draw_topic<'a>(topics: &'a [Topic], random: &mut Random) -> &'a Topic {
    let mut ticket = random.below(topics.iter().map(|topic| topic.weight).sum());
    for topic in topics {
        if ticket < topic.weight {
            return topic;
        }
        ticket -= topic.weight;
    }
    &topics[0]
}

fn draw<'a>(topics: &'a [Topic], random: &mut Random) -> &'a Fact {
    let topic = draw_topic(topics, random);
    random.pick(&topic.facts)
}

/// One phrasing, now and then written as people type: in lower case, without the last sign, or as the
/// second line of an instruction.
fn phrase(fact: &Fact, random: &mut Random) -> String {
    let mut question = random.pick(&fact.questions).clone();
    if fact.chinese {
        return question;
    }
    if random.chance(8) {
        let mut letters = question.chars();
        if let Some(first) = letters.next() {
            question = first.to_lowercase().chain(letters).collect();
        }
    }
    if random.chance(8) && question.ends_with(['?', '.', '!']) {
        question.pop();
    }
    if random.chance(4) {
        question = format!("Answer the question.\n{question}");
    }
    question
}
