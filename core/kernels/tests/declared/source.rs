//! As much of the preprocessor and of C++ as the declarations of kernels need.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const KERNEL: &str = "extern \"C\" __global__ void";

/// A source with what it includes, without comments, its macros expanded.
pub struct Source(String);

/// `#define NAME(parameters) body`.
struct Macro {
    name: String,
    parameters: Vec<String>,
    body: String,
}

impl Source {
    /// Reads a file of a folder.
    pub fn read(folder: &Path, file: &str) -> Source {
        let mut text = String::new();
        include(folder, file, &mut Vec::new(), &mut text);
        Source::new(&text)
    }

    fn new(text: &str) -> Source {
        let text = text.replace("\\\n", " ");
        let (mut macros, mut code) = (Vec::new(), String::new());
        for line in text.lines() {
            match line.trim_start().strip_prefix('#') {
                Some(directive) => macros.extend(definition(directive)),
                None => {
                    code.push_str(line);
                    code.push('\n');
                }
            }
        }
        for definition in &macros {
            code = definition.expand(&code);
        }
        Source(code.replace("KERNEL ", &format!("{KERNEL} ")))
    }

    /// The kernels, each with its parameters as `type name, type name`.
    pub fn kernels(&self) -> BTreeMap<String, String> {
        let declarations = self.0.split(KERNEL).skip(1);
        declarations.map(kernel).collect()
    }
}

fn include(folder: &Path, file: &str, seen: &mut Vec<String>, text: &mut String) {
    if seen.iter().any(|other| other == file) {
        return;
    }
    seen.push(file.to_owned());
    let path = folder.join(file);
    let source = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    for line in source.lines() {
        let line = line.split("//").next().unwrap_or_default();
        match line.strip_prefix("#include \"") {
            Some(rest) => include(folder, rest.trim_end().trim_end_matches('"'), seen, text),
            None => {
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
    }
}

fn definition(directive: &str) -> Option<Macro> {
    let rest = directive.trim_start().strip_prefix("define ")?.trim_start();
    let (name, rest) = rest.split_at(rest.find(|c| !is_word(c))?);
    let (parameters, body) = rest.strip_prefix('(')?.split_once(')')?;
    Some(Macro {
        name: name.to_owned(),
        parameters: parameters.split(',').map(|p| p.trim().to_owned()).collect(),
        body: body.to_owned(),
    })
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The text cut into words and what is between them.
fn tokens(text: &str) -> Vec<&str> {
    text.split_inclusive(|c| !is_word(c))
        .flat_map(|piece| match piece.char_indices().next_back() {
            Some((at, last)) if !is_word(last) => vec![&piece[..at], &piece[at..]],
            _ => vec![piece],
        })
        .filter(|token| !token.is_empty())
        .collect()
}

impl Macro {
    fn expand(&self, code: &str) -> String {
        let call = format!("{}(", self.name);
        let (mut expanded, mut rest) = (String::new(), code);
        while let Some(at) = rest.find(&call) {
            let (before, found) = rest.split_at(at);
            expanded.push_str(before);
            let (arguments, after) = parenthesised(&found[self.name.len()..]);
            expanded.push_str(&self.body_with(&arguments));
            rest = after;
        }
        expanded + rest
    }

    fn body_with(&self, arguments: &[String]) -> String {
        let value = |word: &str| {
            let at = self.parameters.iter().position(|p| p == word);
            at.map_or(word.to_owned(), |at| arguments[at].clone())
        };
        let body: String = tokens(&self.body).into_iter().map(value).collect();
        body.replace("##", "")
    }
}

/// What stands between the parenthesis that the text begins with and its partner, cut at commas, and what follows.
fn parenthesised(text: &str) -> (Vec<String>, &str) {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for (at, letter) in text.char_indices() {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        match letter {
            ')' if depth == 0 => {
                let parts = parts.iter().map(|part| part.trim().to_owned());
                return (parts.collect(), &text[at + 1..]);
            }
            '(' if depth == 1 => {}
            ',' if depth == 1 => parts.push(String::new()),
            letter => parts.last_mut().unwrap().push(letter),
        }
    }
    panic!("a parenthesis is not closed: {text:.80}");
}

/// Name and parameters of the kernel that the text goes on with.
fn kernel(text: &str) -> (String, String) {
    let mut text = text.trim_start();
    if let Some(bounds) = text.strip_prefix("__launch_bounds__") {
        text = parenthesised(bounds).1.trim_start();
    }
    let (name, rest) = text.split_at(text.find('(').unwrap());
    let parameters = parenthesised(rest).0;
    let parameters: Vec<String> = parameters.iter().map(|p| parameter(p)).collect();
    (name.trim().to_owned(), parameters.join(", "))
}

fn parameter(text: &str) -> String {
    let apart = text.replace('*', " * ");
    let words = apart.split_whitespace();
    let said = words.filter(|word| !["__restrict__", "__grid_constant__"].contains(word));
    said.collect::<Vec<_>>().join(" ").replace(" *", "*")
}

#[test]
fn declarations_are_read() {
    let source = Source::new(
        "#define PAIR(name, n) KERNEL __launch_bounds__(8 * (n)) name##_##n(const __grid_constant__ Map m, \\\n  int k) { f<n>(k); }\n\
         PAIR(one, 1)\nPAIR(two, 2)\n\
         extern \"C\" __global__ void\n    plain(float* __restrict__ y, const bf16 *x,\n  i64 count) { }\n",
    );
    let kernels: Vec<(String, String)> = source.kernels().into_iter().collect();
    let expected = [
        ("one_1", "const Map m, int k"),
        ("plain", "float* y, const bf16* x, i64 count"),
        ("two_2", "const Map m, int k"),
    ];
    let expected = expected.map(|(name, parameters)| (name.to_owned(), parameters.to_owned()));
    assert_eq!(kernels, expected);
}
