//! A chain of loss scales, `a+b`: each scale runs on the segments of the one before, and their weights are multiplied.

use super::call::CallSyntax;
use super::folds::Folds;
use super::{rendered::Rendered, tokenizer::Tokenizer};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Base, LossScale, Need, Piece, Segment, Turn};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A loss scale failed. This is a mistake of the scale, not of the row.
#[derive(Debug, thiserror::Error)]
#[error("loss scale `{0}`")]
pub struct ScaleFailed(String);

/// Loss scales in the order in which they run.
pub struct Chain {
    base: Base,
    links: Vec<Link>,
    call_syntax: OnceLock<CallSyntax>,
}

/// Where a text stands: in its message, its conversation and its row.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The message and what it answers.
    pub turn: &'a Turn<'a>,
    /// The index of the message.
    pub message: usize,
    /// The number of messages.
    pub messages: usize,
    /// The channel of the row.
    pub channel: Option<&'a str>,
    /// The JSON text of the row; empty where there is none.
    pub row: &'a str,
    /// Counts the tokens of a piece, for scales that ask how many they are.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Where its segments are collected and answered, if scales take many texts together.
    pub folds: Option<&'a Folds>,
}

impl<'a> Place<'a> {
    /// The place of a text that stands alone.
    pub fn alone(turn: &'a Turn<'a>) -> Self {
        Self {
            turn,
            message: 0,
            messages: 1,
            channel: None,
            row: "",
            tokenizer: None,
            folds: None,
        }
    }

    /// The number of tokens of a text by itself.
    fn tokens(&self, text: &str) -> Option<usize> {
        let mut rendered = Rendered::default();
        rendered.text(text);
        let tokens = self.tokenizer?.encode(&rendered).ok()?;
        Some(tokens.ids.len())
    }

    /// A piece of the text `whole` here.
    fn piece(&self, text: &'a str, whole: &'a str, offset: usize) -> Piece<'a> {
        Piece::new(text, self.turn)
            .in_message(self.message, self.messages)
            .within(whole, offset)
            .of_row(self.channel, self.row)
    }
}

struct Link {
    name: String,
    scale: Box<dyn LossScale>,
    is_base: bool,
    /// Whether it asks where the text stands.
    reads_place: bool,
    matched: AtomicBool,
}

impl Default for Chain {
    /// Every turn of the assistant has weight 1.
    fn default() -> Self {
        Self {
            base: Base::Default,
            links: Vec::new(),
            call_syntax: OnceLock::new(),
        }
    }
}

impl Chain {
    /// Makes a chain of named scales. The first may be a base strategy; without one it is `default`.
    ///
    /// # Errors
    /// A base strategy is not the first scale.
    pub fn new(scales: Vec<(String, Box<dyn LossScale>)>) -> Result<Self> {
        let mut base = Base::Default;
        let mut links = Vec::with_capacity(scales.len());
        for (i, (name, scale)) in scales.into_iter().enumerate() {
            let found = scale.try_base()?;
            match found {
                Some(found) if i == 0 => base = found,
                Some(_) => bail!(
                    "loss scale `{name}` decides which turns are trained, so it must be the first of \
                     the chain, found it as number {}",
                    i + 1
                ),
                None => {}
            }
            links.push(Link {
                name,
                scale,
                is_base: found.is_some(),
                reads_place: false,
                matched: AtomicBool::new(false),
            });
        }
        Ok(Self {
            base,
            links,
            call_syntax: OnceLock::new(),
        })
    }

    /// The same chain, whose scales declare these needs.
    #[must_use]
    pub fn with_needs(mut self, needs: &[Vec<Need>]) -> Self {
        for (link, needs) in self.links.iter_mut().zip(needs) {
            link.reads_place = Need::Piece.is_in(needs);
        }
        self
    }

    /// Which turns are trained at all.
    pub fn base(&self) -> Base {
        self.base
    }

    /// Splits a text into segments with weights, which join back to it.
    ///
    /// # Errors
    /// A scale that fails, changes the text, or gives a weight that is negative or not finite.
    pub fn fold(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        self.fold_at(text, &Place::alone(turn))
    }

    /// As [`Self::fold`], for scales that ask where the text stands.
    ///
    /// # Errors
    /// As there.
    pub fn fold_at(&self, text: &str, place: &Place) -> Result<Vec<Segment>> {
        match place.folds.and_then(|folds| folds.segments(text, place)) {
            Some(segments) => segments,
            None => self.run_one(text, place, true),
        }
    }

    /// As [`Self::fold_at`], of many texts: each has its segments or its error.
    pub(super) fn fold_all(&self, texts: &[(&str, Place)]) -> Vec<Result<Vec<Segment>>> {
        self.run(texts, true)
    }

    /// Whether the way to one of the scales is so long that many texts should go together.
    pub fn takes_batches(&self) -> bool {
        self.links.iter().any(|link| link.scale.takes_batches())
    }

    /// Like [`Self::fold`], but for a text that is in no dataset, so that matches in it are not counted.
    pub(super) fn try_on(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        self.run_one(text, &Place::alone(turn), false)
    }

    /// The syntax in which the scales get a call of a tool.
    pub(super) fn call_syntax(&self) -> CallSyntax {
        *self.call_syntax.get_or_init(|| CallSyntax::of(self))
    }

    fn run_one(&self, text: &str, place: &Place, counts: bool) -> Result<Vec<Segment>> {
        let mut all = self.run(&[(text, *place)], counts);
        all.pop().context("a text without segments")?
    }

    /// Each scale gets the pieces of all texts that the one before has made.
    fn run(&self, texts: &[(&str, Place)], counts: bool) -> Vec<Result<Vec<Segment>>> {
        let whole = texts
            .iter()
            .map(|(text, _)| Ok(vec![Segment::new(*text, 1.0)]));
        let mut all: Vec<Result<Vec<Segment>>> = whole.collect();
        for link in &self.links {
            let mut outers = Vec::with_capacity(texts.len());
            for ((text, place), segments) in texts.iter().zip(&all) {
                let mut offset = 0;
                for outer in segments.iter().flatten() {
                    outers.push((outer.text.as_str(), *text, offset, place));
                    offset += outer.text.len();
                }
            }
            let counters = outers.iter();
            let counters = counters.map(|(text, _, _, place)| move || place.tokens(text));
            let counters: Vec<_> = counters.collect();
            let mut pieces = Vec::with_capacity(outers.len());
            for ((text, whole, offset, place), count) in outers.iter().zip(&counters) {
                pieces.push(match link.reads_place {
                    true => place.piece(text, whole, *offset).counted_by(count),
                    false => Piece::bare(text, place.turn),
                });
            }
            let mut found = link.run(&pieces, counts).into_iter();
            let next = all.iter().map(|outer| match outer {
                Ok(outer) => {
                    // Those of one text, and all of them, also if an earlier one has failed.
                    let inner: Vec<_> = found.by_ref().take(outer.len()).collect();
                    link.multiply(outer, inner)
                }
                Err(_) => Ok(Vec::new()),
            });
            let next: Vec<Result<Vec<Segment>>> = next.collect();
            for (segments, next) in all.iter_mut().zip(next) {
                if segments.is_ok() {
                    *segments = next;
                }
            }
        }
        all
    }

    /// Whether one of the scales sees the rows that its texts are of.
    pub fn reads_rows(&self) -> bool {
        self.links.iter().any(|link| link.reads_place)
    }

    /// The scales that have changed no weight so far, which after all rows is likely a mistake.
    pub fn unmatched(&self) -> Vec<&str> {
        let idle = |link: &&Link| !link.is_base && !link.matched.load(Ordering::Relaxed);
        self.links
            .iter()
            .filter(idle)
            .map(|l| l.name.as_str())
            .collect()
    }
}

impl Link {
    fn run(&self, pieces: &[Piece], counts: bool) -> Vec<Result<Vec<Segment>>> {
        let all = segments_of_all(self.scale.as_ref(), pieces);
        let weighs = |segment: &Segment| segment.weight != 1.0;
        if counts && all.iter().flatten().flatten().any(weighs) {
            self.matched.store(true, Ordering::Relaxed);
        }
        all
    }

    /// The segments of a text out of those of its pieces.
    fn multiply(
        &self,
        outer: &[Segment],
        inner: Vec<Result<Vec<Segment>>>,
    ) -> Result<Vec<Segment>> {
        let mut next = Vec::with_capacity(inner.len());
        for (outer, inner) in outer.iter().zip(inner) {
            for mut segment in inner.with_context(|| ScaleFailed(self.name.clone()))? {
                segment.weight *= outer.weight;
                ensure!(
                    (segment.weight as f32).is_finite(),
                    "the loss scales up to `{}` multiply to weight {}, more than {:e}",
                    self.name,
                    segment.weight,
                    f32::MAX
                );
                next.push(segment);
            }
        }
        Ok(next)
    }
}

/// Runs a scale on a piece of text and checks its segments.
///
/// # Errors
/// The scale fails, changes the text, or gives a weight that is negative or not finite.
pub fn segments(scale: &dyn LossScale, piece: &Piece) -> Result<Vec<Segment>> {
    let found = apus_sdk::private::checked(scale.segments_of(piece));
    joined(piece, found)
}

fn segments_of_all(scale: &dyn LossScale, pieces: &[Piece]) -> Vec<Result<Vec<Segment>>> {
    if !scale.takes_batches() {
        return pieces.iter().map(|piece| segments(scale, piece)).collect();
    }
    let found = scale.segments_of_all(pieces).into_iter();
    let checked = pieces.iter().zip(found);
    checked.map(|(piece, found)| joined(piece, found)).collect()
}

/// The segments that a scale has found, checked.
fn joined(piece: &Piece, found: apus_sdk::Result<Vec<Segment>>) -> Result<Vec<Segment>> {
    let segments = found.map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut rest = piece.text();
    for segment in &segments {
        ensure!(
            segment.weight.is_finite() && segment.weight >= 0.0,
            "gave weight {} to `{}`; weights are finite numbers of 0 or more",
            segment.weight,
            start_of(&segment.text)
        );
        let Some(after) = rest.strip_prefix(segment.text.as_str()) else {
            bail!(
                "its segments do not join back to the text: `{}` is not at `{}`",
                start_of(&segment.text),
                start_of(rest)
            );
        };
        rest = after;
    }
    ensure!(
        rest.is_empty(),
        "its segments do not join back to the text: they end before `{}`",
        start_of(rest)
    );
    Ok(segments)
}

fn start_of(text: &str) -> String {
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::Field;
    use std::sync::{Arc, Mutex};

    struct Fixed(Vec<(&'static str, f64)>, Option<Base>);
    impl LossScale for Fixed {
        fn base(&self) -> Option<Base> {
            self.1
        }
        fn segments(&self, _: &str, _: &Turn) -> apus_sdk::Result<Vec<Segment>> {
            Ok(self.0.iter().map(|(t, w)| Segment::new(*t, *w)).collect())
        }
    }

    const TURN: Turn = Turn {
        role: "assistant",
        field: Field::Content,
        query: None,
        is_last: true,
    };

    fn chain(links: Vec<Fixed>) -> Result<Chain> {
        let named = links.into_iter().enumerate();
        let boxed = named.map(|(i, link)| (format!("s{i}"), Box::new(link) as Box<dyn LossScale>));
        Chain::new(boxed.collect())
    }

    #[test]
    fn weights_multiply() {
        let chain = chain(vec![
            Fixed(vec![("a", 2.0)], None),
            Fixed(vec![("a", 0.25)], None),
        ])
        .unwrap();
        assert_eq!(chain.fold("a", &TURN).unwrap(), [Segment::new("a", 0.5)]);
        assert!(chain.unmatched().is_empty());
    }

    #[test]
    fn a_scale_that_breaks_the_rules_is_named() {
        let error = |segments, text| {
            let chain = chain(vec![Fixed(segments, None)]).unwrap();
            format!("{:#}", chain.fold(text, &TURN).unwrap_err())
        };
        let bad = error(vec![("a", f64::NAN)], "a");
        assert!(bad.contains("`s0`") && bad.contains("NaN"), "{bad}");
        assert!(error(vec![("a", -1.0)], "a").contains("weight -1"));
        assert!(error(vec![("b", 1.0)], "a").contains("do not join"));
        assert!(error(vec![("a", 1.0)], "ab").contains("end before `b`"));
    }

    #[test]
    fn a_base_comes_first_and_idle_scales_are_known() {
        let base = || Fixed(vec![("a", 1.0)], Some(Base::All));
        let idle = || Fixed(vec![("a", 1.0)], None);
        let good = chain(vec![base(), idle()]).unwrap();
        assert_eq!(good.base(), Base::All);
        good.fold("a", &TURN).unwrap();
        assert_eq!(good.unmatched(), ["s1"]);
        let bad = chain(vec![idle(), base()]).err().unwrap().to_string();
        assert!(bad.contains("`s1`") && bad.contains("first"), "{bad}");
    }

    /// Weighs a piece by its offset, and says what else it sees.
    struct Looks(Arc<Mutex<Vec<String>>>);
    impl LossScale for Looks {
        fn segments_of(&self, piece: &Piece) -> apus_sdk::Result<Vec<Segment>> {
            let seen = format!(
                "{} of {}, {:?} at {} in {:?}, {:?}, {}, {:?} tokens",
                piece.message(),
                piece.messages(),
                piece.text(),
                piece.offset(),
                piece.whole(),
                piece.channel(),
                piece
                    .columns()
                    .get("id")
                    .unwrap_or(&serde_json::Value::Null),
                piece.tokens()
            );
            self.0.lock().unwrap().push(seen);
            Ok(vec![Segment::new(piece.text(), piece.offset() as f64)])
        }
    }

    #[test]
    fn a_scale_that_says_so_is_told_where_its_piece_stands() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let halves = Fixed(vec![("é", 1.0), ("bc", 2.0)], None);
        let links: Vec<(String, Box<dyn LossScale>)> = vec![
            ("halves".to_owned(), Box::new(halves)),
            ("looks".to_owned(), Box::new(Looks(seen.clone()))),
        ];
        let chain = Chain::new(links).unwrap();
        let place = Place {
            message: 3,
            messages: 5,
            channel: Some("math"),
            row: r#"{"id": 7}"#,
            tokenizer: Some(&Tokenizer::of_bytes().unwrap()),
            ..Place::alone(&TURN)
        };
        let error = format!("{:#}", chain.fold_at("ébc", &place).unwrap_err());
        assert!(
            error.contains("`looks`") && error.contains("&[Need::Piece]"),
            "{error}"
        );
        seen.lock().unwrap().clear();
        let chain = chain.with_needs(&[vec![], vec![Need::Piece]]);
        let folded = chain.fold_at("ébc", &place).unwrap();
        assert_eq!(folded, [Segment::new("é", 0.0), Segment::new("bc", 4.0)]);
        assert_eq!(
            *seen.lock().unwrap(),
            [
                r#"3 of 5, "é" at 0 in "ébc", Some("math"), 7, Some(2) tokens"#,
                r#"3 of 5, "bc" at 2 in "ébc", Some("math"), 7, Some(2) tokens"#
            ]
        );
    }
}
