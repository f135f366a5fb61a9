//! Questions and answers in Chinese, from the same tables.

use crate::facts::*;
use crate::questions::{Fact, strings};

fn fact(questions: Vec<String>, answer: String, follow_up: Option<String>) -> Fact {
    Fact {
        questions,
        answer,
        follow_up,
        chinese: true,
        ..Fact::default()
    }
}

/// Capitals of the countries that have a Chinese name in the tables.
pub fn capitals() -> Vec<Fact> {
    CAPITALS
        .iter()
        .filter(|(_, _, country, _)| !country.is_empty())
        .map(|(_, _, country, city)| {
            fact(
                strings([
                    format!("{country}的首都是哪里？"),
                    format!("{country}的首都是什么？"),
                    format!("{country}的首都在哪里？"),
                    format!("请告诉我{country}的首都。"),
                ]),
                format!("{country}的首都是{city}。"),
                Some(format!("{country}呢？")),
            )
        })
        .collect()
}

/// Colours, opposites, sounds, words, days and sums.
pub fn various() -> Vec<Fact> {
    let colours = COLOURS
        .iter()
        .filter(|row| !row.3.is_empty())
        .map(|(_, _, _, thing, colour)| {
            fact(
                strings([
                    format!("{thing}是什么颜色？"),
                    format!("{thing}是什么颜色的？"),
                    format!("{thing}的颜色是什么？"),
                ]),
                format!("{thing}是{colour}的。"),
                None,
            )
        });
    let opposites = OPPOSITES
        .iter()
        .filter(|row| !row.2.is_empty())
        .flat_map(|(_, _, one, other)| [(*one, *other), (*other, *one)])
        .map(|(word, opposite)| {
            fact(
                strings([
                    format!("{word}的反义词是什么？"),
                    format!("请告诉我{word}的反义词。"),
                ]),
                format!("{word}的反义词是{opposite}。"),
                None,
            )
        });
    let sounds = ANIMALS
        .iter()
        .filter(|row| !row.4.is_empty())
        .map(|(.., animal, sound)| {
            fact(
                strings([
                    format!("{animal}怎么叫？"),
                    format!("{animal}是怎么叫的？"),
                    format!("{animal}的叫声是什么？"),
                ]),
                format!("{animal}叫{sound}。"),
                None,
            )
        });
    let words = TRANSLATIONS.iter().map(|(word, .., translated)| {
        fact(
            strings([
                format!("{translated}用英语怎么说？"),
                format!("{translated}的英语是什么？"),
            ]),
            format!("{translated}的英语是 {word}。"),
            None,
        )
    });
    let days = (0..7).map(|i| {
        let (day, next) = (DAYS[i].1, DAYS[(i + 1) % 7].1);
        fact(
            strings([
                format!("{day}后面是星期几？"),
                format!("{day}的后一天是星期几？"),
            ]),
            format!("{day}后面是{next}。"),
            None,
        )
    });
    let sums = (1..=9)
        .flat_map(|a| (1..=9).map(move |b| (a, b)))
        .map(|(a, b)| {
            fact(
                strings([format!("{a}加{b}等于几？"), format!("{a}加{b}是多少？")]),
                format!("{a}加{b}等于{}。", a + b),
                None,
            )
        });
    colours
        .chain(opposites)
        .chain(sounds)
        .chain(words)
        .chain(days)
        .chain(sums)
        .collect()
}
