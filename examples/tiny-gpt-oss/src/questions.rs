//! Turns the tables of `facts` into questions with their answers, several phrasings each.
//!
//! The answers are whole sentences of one pattern per topic; the phrasings vary, so that the model has to
//! recognise what is asked instead of a fixed string.

use crate::chinese;
use crate::facts::*;

/// One fact, as it can be asked and answered.
#[derive(Clone, Default)]
pub struct Fact {
    /// Phrasings that all mean the same.
    pub questions: Vec<String>,
    /// The answer, a sentence.
    pub answer: String,
    /// The answer in one word, for conversations that are told to answer so.
    pub short: Option<String>,
    /// What the analysis channel says first. Facts that have it stand only in the last turn of a
    /// conversation, because the harmony format drops the analysis of earlier turns.
    pub thinking: Option<String>,
    /// A question that means the same after another fact of the topic: "And Spain?".
    pub follow_up: Option<String>,
    /// Whether the fact is told in Chinese.
    pub chinese: bool,
}

/// Facts of one sort.
pub struct Topic {
    /// How often the topic is drawn, relative to the others.
    pub weight: usize,
    /// Its facts.
    pub facts: Vec<Fact>,
}

/// Every topic of the corpus.
pub fn topics() -> Vec<Topic> {
    let topic = |weight, facts| Topic { weight, facts };
    vec![
        topic(12, capitals()),
        topic(6, colours()),
        topic(10, opposites()),
        topic(8, sounds()),
        topic(6, habitats()),
        topic(6, kinds()),
        topic(8, translations()),
        topic(6, calendar()),
        topic(4, amounts()),
        topic(24, sums()),
        topic(6, counting()),
        topic(5, echoes()),
        topic(8, talk()),
        topic(6, unknown()),
        topic(5, chinese::capitals()),
        topic(8, chinese::various()),
        topic(4, small_talk(TALK_ZH, true)),
    ]
}

/// An array of phrasings as a list.
pub fn strings<const N: usize>(items: [String; N]) -> Vec<String> {
    items.into()
}

/// The text with its first letter in upper case.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

fn capitals() -> Vec<Fact> {
    let forward = CAPITALS.iter().map(|(country, city, _, _)| Fact {
        questions: strings([
            format!("What is the capital of {country}?"),
            format!("What's the capital of {country}?"),
            format!("Capital of {country}?"),
            format!("Which city is the capital of {country}?"),
            format!("Tell me the capital of {country}."),
            format!("Do you know the capital of {country}?"),
            format!("Name the capital of {country}."),
        ]),
        answer: format!("The capital of {country} is {city}."),
        short: Some(format!("{city}.")),
        follow_up: Some(format!("And {country}?")),
        ..Fact::default()
    });
    let backward = CAPITALS.iter().map(|(country, city, _, _)| Fact {
        questions: strings([
            format!("In which country is {city}?"),
            format!("Where is {city}?"),
            format!("{city} is the capital of which country?"),
            format!("Which country has the capital {city}?"),
        ]),
        answer: format!("{city} is in {country}."),
        short: Some(format!("{country}.")),
        ..Fact::default()
    });
    forward.chain(backward).collect()
}

fn colours() -> Vec<Fact> {
    COLOURS
        .iter()
        .map(|(thing, plural, colour, _, _)| {
            let is = if *plural { "are" } else { "is" };
            Fact {
                questions: strings([
                    format!("What colour {is} {thing}?"),
                    format!("What color {is} {thing}?"),
                    format!(
                        "Which colour {} {thing} have?",
                        if *plural { "do" } else { "does" }
                    ),
                    format!("Tell me the colour of {thing}."),
                    format!("What is the color of {thing}?"),
                ]),
                answer: format!("{} {is} {colour}.", capital(thing)),
                short: Some(format!("{}.", capital(colour))),
                follow_up: Some(format!("And {thing}?")),
                ..Fact::default()
            }
        })
        .collect()
}

fn opposites() -> Vec<Fact> {
    OPPOSITES
        .iter()
        .flat_map(|(one, other, _, _)| [(*one, *other), (*other, *one)])
        .map(|(word, opposite)| Fact {
            questions: strings([
                format!("What is the opposite of {word}?"),
                format!("What's the opposite of {word}?"),
                format!("Opposite of {word}?"),
                format!("Tell me the opposite of {word}."),
                format!("Give me the opposite of the word {word}."),
                format!("Which word means the opposite of {word}?"),
            ]),
            answer: format!("The opposite of {word} is {opposite}."),
            short: Some(format!("{}.", capital(opposite))),
            follow_up: Some(format!("And {word}?")),
            ..Fact::default()
        })
        .collect()
}

fn sounds() -> Vec<Fact> {
    let forward = ANIMALS.iter().map(|(animal, sound, ..)| Fact {
        questions: strings([
            format!("What does {} {animal} say?", article(animal)),
            format!("What sound does {} {animal} make?", article(animal)),
            format!("Which sound does the {animal} make?"),
            format!("How does {} {animal} sound?", article(animal)),
            format!("What does the {animal} say?"),
        ]),
        answer: format!("{} {animal} says {sound}.", capital(article(animal))),
        short: Some(format!("{}.", capital(sound))),
        follow_up: Some(format!("And {} {animal}?", article(animal))),
        ..Fact::default()
    });
    let backward = ANIMALS.iter().map(|(animal, sound, ..)| Fact {
        questions: strings([
            format!("Which animal says {sound}?"),
            format!("What animal says {sound}?"),
            format!("Who says {sound}?"),
        ]),
        answer: format!("The {animal} says {sound}."),
        short: Some(format!("{}.", capital(animal))),
        ..Fact::default()
    });
    forward.chain(backward).collect()
}

fn habitats() -> Vec<Fact> {
    let loud = ANIMALS
        .iter()
        .map(|(animal, _, legs, place, _, _)| (*animal, *legs, *place));
    loud.chain(QUIET_ANIMALS.iter().copied())
        .flat_map(|(animal, legs, place)| {
            let a = article(animal);
            [
                Fact {
                    questions: strings([
                        format!("How many legs does {a} {animal} have?"),
                        format!("How many legs has {a} {animal}?"),
                        format!("Tell me how many legs {a} {animal} has."),
                    ]),
                    answer: format!("{} {animal} has {legs} legs.", capital(a)),
                    short: Some(format!("{}.", capital(legs))),
                    ..Fact::default()
                },
                Fact {
                    questions: strings([
                        format!("Where does {a} {animal} live?"),
                        format!("Where can I find {a} {animal}?"),
                        format!("Tell me where {a} {animal} lives."),
                    ]),
                    answer: format!("{} {animal} lives {place}.", capital(a)),
                    ..Fact::default()
                },
            ]
        })
        .collect()
}

fn kinds() -> Vec<Fact> {
    KINDS
        .iter()
        .map(|(thing, class)| Fact {
            questions: strings([
                format!("What is {thing}?"),
                format!("What's {thing}?"),
                format!("Can you tell me what {thing} is?"),
                format!("Do you know what {thing} is?"),
                format!("Define {thing}."),
            ]),
            answer: format!("{} is {class}.", capital(thing)),
            follow_up: Some(format!("And {thing}?")),
            ..Fact::default()
        })
        .collect()
}

fn translations() -> Vec<Fact> {
    TRANSLATIONS
        .iter()
        .flat_map(|(word, french, spanish, german, chinese)| {
            [
                ("French", french),
                ("Spanish", spanish),
                ("German", german),
                ("Chinese", chinese),
            ]
            .map(|(language, translated)| Fact {
                questions: strings([
                    format!("How do you say {word} in {language}?"),
                    format!("What is {word} in {language}?"),
                    format!("Translate {word} to {language}."),
                    format!("Translate to {language}.\n{word}"),
                    format!("What is the {language} word for {word}?"),
                ]),
                answer: format!("In {language}, {word} is {translated}."),
                short: Some(format!("{}.", capital(translated))),
                follow_up: Some(format!("And {word} in {language}?")),
                ..Fact::default()
            })
        })
        .collect()
}

fn calendar() -> Vec<Fact> {
    let days: Vec<&str> = DAYS.iter().map(|(day, _)| *day).collect();
    let mut facts = neighbours("day", &days);
    facts.extend(neighbours("month", MONTHS));
    facts
}

/// What comes before and after each member of a cycle.
fn neighbours(unit: &str, names: &[&str]) -> Vec<Fact> {
    let count = names.len();
    (0..count)
        .flat_map(|i| {
            let (name, next, last) = (
                names[i],
                names[(i + 1) % count],
                names[(i + count - 1) % count],
            );
            [("after", "follows", next), ("before", "precedes", last)].map(|(side, verb, other)| {
                Fact {
                    questions: strings([
                        format!("What {unit} comes {side} {name}?"),
                        format!("Which {unit} comes {side} {name}?"),
                        format!("What {unit} is {side} {name}?"),
                        format!("What comes {side} {name}?"),
                        format!("Which {unit} {verb} {name}?"),
                    ]),
                    answer: format!("{other} comes {side} {name}."),
                    short: Some(format!("{other}.")),
                    follow_up: Some(format!("And {side} {name}?")),
                    ..Fact::default()
                }
            })
        })
        .collect()
}

fn amounts() -> Vec<Fact> {
    AMOUNTS
        .iter()
        .map(|(unit, place, number)| Fact {
            questions: strings([
                format!("How many {unit} are in {place}?"),
                format!("How many {unit} are there in {place}?"),
                format!("How many {unit} does {place} have?"),
                format!("Tell me how many {unit} {place} has."),
            ]),
            answer: format!("{} has {number} {unit}.", capital(place)),
            short: Some(format!("{}.", capital(number))),
            ..Fact::default()
        })
        .collect()
}

/// Sums and differences up to ten plus ten; the analysis channel says them in words of the task first.
fn sums() -> Vec<Fact> {
    let mut facts = Vec::new();
    for a in 0..=10 {
        for b in 0..=10 {
            facts.push(Fact {
                questions: strings([
                    format!("What is {a} + {b}?"),
                    format!("What is {a} plus {b}?"),
                    format!("How much is {a} + {b}?"),
                    format!("Add {a} and {b}."),
                    format!("{a} + {b} = ?"),
                    format!("{a}+{b}"),
                ]),
                answer: format!("{a} + {b} = {}.", a + b),
                thinking: Some(format!("The user wants a sum. {a} plus {b} is {}.", a + b)),
                ..Fact::default()
            });
            if a >= b {
                facts.push(Fact {
                    questions: strings([
                        format!("What is {a} - {b}?"),
                        format!("What is {a} minus {b}?"),
                        format!("How much is {a} - {b}?"),
                        format!("Subtract {b} from {a}."),
                    ]),
                    answer: format!("{a} - {b} = {}.", a - b),
                    thinking: Some(format!(
                        "The user wants a difference. {a} minus {b} is {}.",
                        a - b
                    )),
                    ..Fact::default()
                });
            }
        }
    }
    facts
}

fn counting() -> Vec<Fact> {
    let up = (2..=10).map(|n| {
        let list: Vec<String> = (1..=n).map(|i| i.to_string()).collect();
        Fact {
            questions: strings([
                format!("Count to {n}."),
                format!("Count to {}.", NUMBERS[n]),
                format!("Can you count to {n}?"),
                format!("Please count from 1 to {n}."),
            ]),
            answer: format!("{}.", list.join(", ")),
            ..Fact::default()
        }
    });
    let next = (1..=20).map(|n| Fact {
        questions: strings([
            format!("What number comes after {n}?"),
            format!("Which number comes after {n}?"),
            format!("What comes after {n}?"),
        ]),
        answer: format!("{} comes after {n}.", n + 1),
        short: Some(format!("{}.", n + 1)),
        ..Fact::default()
    });
    let bigger = (1..=10)
        .flat_map(|a| (1..=10).filter(move |b| *b != a).map(move |b| (a, b)))
        .map(|(a, b)| Fact {
            questions: strings([
                format!("Which is bigger, {a} or {b}?"),
                format!("What is bigger, {a} or {b}?"),
                format!("Which number is bigger: {a} or {b}?"),
            ]),
            answer: format!("{} is bigger than {}.", a.max(b), a.min(b)),
            short: Some(format!("{}.", a.max(b))),
            ..Fact::default()
        });
    up.chain(next).chain(bigger).collect()
}

fn echoes() -> Vec<Fact> {
    let words = ANIMALS
        .iter()
        .map(|(animal, ..)| *animal)
        .chain(NAMES.iter().copied());
    ECHOES
        .iter()
        .copied()
        .chain(words)
        .map(|text| Fact {
            questions: strings([
                format!("Say {text}."),
                format!("Repeat after me: {text}"),
                format!("Please say {text}."),
                format!("Repeat: {text}"),
                format!("Say \"{text}\""),
            ]),
            answer: capital(text),
            ..Fact::default()
        })
        .collect()
}

fn small_talk(table: &[(&[&str], &str)], chinese: bool) -> Vec<Fact> {
    table
        .iter()
        .map(|(questions, answer)| Fact {
            questions: questions
                .iter()
                .map(|question| question.to_string())
                .collect(),
            answer: answer.to_string(),
            chinese,
            ..Fact::default()
        })
        .collect()
}

fn talk() -> Vec<Fact> {
    let introductions = NAMES.iter().map(|name| Fact {
        questions: strings([
            format!("My name is {name}."),
            format!("I am {name}."),
            format!("Hello, I am {name}."),
            format!("Hi, my name is {name}!"),
        ]),
        answer: format!("Nice to meet you, {name}!"),
        follow_up: None,
        ..Fact::default()
    });
    // Small talk is a short list: three copies of it keep it as frequent as the introductions.
    let fixed = small_talk(TALK, false);
    introductions
        .chain(fixed.iter().cloned().cycle().take(3 * TALK.len()))
        .collect()
}

fn unknown() -> Vec<Fact> {
    UNKNOWN_OPENINGS
        .iter()
        .flat_map(|opening| {
            UNKNOWN_SUBJECTS
                .iter()
                .map(move |subject| (opening, subject))
        })
        .map(|(opening, subject)| Fact {
            questions: vec![
                format!("{opening} {subject}?"),
                format!("{opening} {subject}."),
            ],
            answer: "Sorry, I am a tiny model and I do not know that.".into(),
            ..Fact::default()
        })
        .collect()
}
