//! A chain of loss scales, `a+b`: each scale runs on the segments of the one before, and their weights are multiplied.

use super::call::CallSyntax;
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Base, LossScale, Segment, Turn};
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

struct Link {
    name: String,
    scale: Box<dyn LossScale>,
    is_base: bool,
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
                matched: AtomicBool::new(false),
            });
        }
        Ok(Self {
            base,
            links,
            call_syntax: OnceLock::new(),
        })
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
        self.run(text, turn, true)
    }

    /// Like [`Self::fold`], but for a text that is in no dataset, so that matches in it are not counted.
    pub(super) fn try_on(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        self.run(text, turn, false)
    }

    /// The syntax in which the scales get a call of a tool.
    pub(super) fn call_syntax(&self) -> CallSyntax {
        *self.call_syntax.get_or_init(|| CallSyntax::of(self))
    }

    fn run(&self, text: &str, turn: &Turn, counts: bool) -> Result<Vec<Segment>> {
        let mut segments = vec![Segment::new(text, 1.0)];
        for link in &self.links {
            let mut next = Vec::with_capacity(segments.len());
            for outer in segments {
                let inner = link
                    .run(&outer.text, turn, counts)
                    .with_context(|| ScaleFailed(link.name.clone()))?;
                for mut segment in inner {
                    segment.weight *= outer.weight;
                    ensure!(
                        (segment.weight as f32).is_finite(),
                        "the loss scales up to `{}` multiply to weight {}, more than {:e}",
                        link.name,
                        segment.weight,
                        f32::MAX
                    );
                    next.push(segment);
                }
            }
            segments = next;
        }
        Ok(segments)
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
    fn run(&self, text: &str, turn: &Turn, counts: bool) -> Result<Vec<Segment>> {
        let segments = segments(self.scale.as_ref(), text, turn)?;
        if counts && segments.iter().any(|segment| segment.weight != 1.0) {
            self.matched.store(true, Ordering::Relaxed);
        }
        Ok(segments)
    }
}

/// Runs a scale on a text and checks its segments.
///
/// # Errors
/// The scale fails, changes the text, or gives a weight that is negative or not finite.
pub fn segments(scale: &dyn LossScale, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
    let segments = scale
        .segments(text, turn)
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut rest = text;
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
}
