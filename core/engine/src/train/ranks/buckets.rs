//! Which gradients travel together, and when.
//!
//! A message of a few kilobytes takes as long as one of a megabyte, so gradients are put one after another into buckets. A
//! bucket goes out as soon as the backward pass has completed what is in it. Buckets follow from the list of parameters
//! alone, so that all ranks make the same calls in the same order, whatever they have computed.

use apus_model::nn::{Param, Ready};
use candle_core::Tensor;
use std::sync::Arc;

/// A parameter that is trained.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The part of the model after whose backward pass its gradient is complete.
    pub part: Ready,
    /// The rank that updates it; none where each of them does.
    pub owner: Option<usize>,
    /// The parameter.
    pub param: Arc<Param>,
}

/// Gradients that travel together.
#[derive(Debug)]
pub struct Bucket {
    /// The part of the model after which all of them are complete.
    pub after: Ready,
    /// The rank that gets their sums; none where each of them does.
    pub owner: Option<usize>,
    /// Their parameters.
    pub params: Vec<Arc<Param>>,
}

impl Bucket {
    /// Its parameters that are not frozen for now, which are the same on all ranks.
    pub fn moving(&self) -> impl Iterator<Item = &Arc<Param>> {
        self.params.iter().filter(|param| !param.is_frozen())
    }

    /// Its parameters, each with its part, in its shape, of a tensor in which their numbers lie one after another.
    pub fn parts<'a>(
        &'a self,
        joined: &'a Tensor,
    ) -> impl Iterator<Item = (&'a Param, candle_core::Result<Tensor>)> {
        let mut end = 0;
        self.moving().map(move |param| {
            let start = end;
            end += count(param);
            let part = joined.narrow(0, start, end - start);
            let value = param.value();
            (&**param, part.and_then(|part| part.reshape(value.dims())))
        })
    }
}

/// How many numbers travel together.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// With fewer a part of the model waits for the next one.
    pub least: usize,
    /// A bucket has no more, unless a parameter alone has.
    pub most: usize,
}

impl Sizes {
    /// 16 MiB, from which on two cards of one host come near the rate of their link, and 256 MiB, above which nothing is
    /// gained and memory is lost.
    pub const USUAL: Self = Self {
        least: 4 << 20,
        most: 64 << 20,
    };
}

/// The most bytes of gradients that a rank holds on their way to other ranks: the bucket that is put together, from gradients
/// that are there until it is, and those whose memory is given back after it.
pub const ON_THEIR_WAY: u64 = 4 * (4 * Sizes::USUAL.most) as u64;

/// The buckets of these parameters, in the order in which they go out.
pub fn buckets(trained: &[Trained], sizes: Sizes) -> Vec<Bucket> {
    let mut order: Vec<&Trained> = trained.iter().collect();
    order.sort_by_key(|trained| trained.part);
    let mut buckets = Vec::new();
    let mut waiting: Vec<&Trained> = Vec::new();
    let mut parts = order.chunk_by(|one, next| one.part == next.part).peekable();
    while let Some(part) = parts.next() {
        waiting.extend(part);
        let numbers: usize = waiting.iter().map(|trained| count(&trained.param)).sum();
        if numbers >= sizes.least || parts.peek().is_none() {
            close(
                &mut buckets,
                std::mem::take(&mut waiting),
                part[0].part,
                sizes.most,
            );
        }
    }
    buckets
}

/// Puts parameters whose gradients are complete after a part into buckets, those of one owner together.
fn close(buckets: &mut Vec<Bucket>, mut complete: Vec<&Trained>, after: Ready, most: usize) {
    complete.sort_by_key(|trained| trained.owner);
    for owned in complete.chunk_by(|one, next| one.owner == next.owner) {
        let mut room = 0;
        for Trained { owner, param, .. } in owned {
            let numbers = count(param);
            match buckets.last_mut().filter(|_| numbers <= room) {
                Some(bucket) => {
                    bucket.params.push(Arc::clone(param));
                    room -= numbers;
                }
                None => {
                    buckets.push(Bucket {
                        after,
                        owner: *owner,
                        params: vec![Arc::clone(param)],
                    });
                    room = most.saturating_sub(numbers);
                }
            }
        }
    }
}

/// The numbers of a parameter.
pub fn count(param: &Param) -> usize {
    param.value().elem_count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use proptest::prelude::*;

    /// Parameters of these parts, owners and sizes; each is called by its place in the list.
    pub fn trained(list: &[(Ready, Option<usize>, usize)]) -> Vec<Trained> {
        let one = |(at, &(part, owner, size)): (usize, &(Ready, Option<usize>, usize))| {
            let value = Tensor::zeros(size, DType::F32, &Device::Cpu).unwrap();
            let param = Param::new(at.to_string(), &value, true).unwrap();
            Trained { part, owner, param }
        };
        list.iter().enumerate().map(one).collect()
    }

    fn described(buckets: &[Bucket]) -> Vec<(Ready, Option<usize>, String)> {
        let names =
            |bucket: &Bucket| -> String { bucket.params.iter().map(|p| p.name()).collect() };
        let one = |bucket: &Bucket| (bucket.after, bucket.owner, names(bucket));
        buckets.iter().map(one).collect()
    }

    #[test]
    fn small_parts_wait_and_large_ones_are_split() {
        use Ready::{Embedding, Head, Layer};
        let list = [
            (Embedding, None, 3),
            (Layer(0), None, 5),
            (Layer(0), None, 6),
            (Layer(1), None, 2),
            (Head, None, 1),
        ];
        let found = |least, most| described(&buckets(&trained(&list), Sizes { least, most }));
        let bucket = |after, names: &str| (after, None, names.to_owned());
        assert_eq!(found(100, 100), [bucket(Embedding, "43120")]);
        let of_each = [
            (Head, "4"),
            (Layer(1), "3"),
            (Layer(0), "12"),
            (Embedding, "0"),
        ];
        assert_eq!(
            found(1, 100),
            of_each.map(|(after, names)| bucket(after, names))
        );
        assert_eq!(
            found(4, 8),
            [
                bucket(Layer(0), "431"),
                bucket(Layer(0), "2"),
                bucket(Embedding, "0")
            ]
        );
        assert!(buckets(&[], Sizes::USUAL).is_empty());
    }

    proptest! {
        #[test]
        fn each_gradient_goes_out_once_and_not_before_it_is_complete(
            list in prop::collection::vec((0usize..6, 0usize..4, 1usize..50), 0..40),
            least in 1usize..100,
            most in 1usize..100,
        ) {
            let list: Vec<_> = list.into_iter().map(|(part, owner, size)| {
                let part = match part {
                    0 => Ready::Head,
                    1 => Ready::Embedding,
                    layer => Ready::Layer(layer),
                };
                (part, owner.checked_sub(1), size)
            }).collect();
            let trained = trained(&list);
            let buckets = buckets(&trained, Sizes { least, most });
            prop_assert!(buckets.is_sorted_by_key(|bucket| bucket.after));
            let mut all: Vec<usize> = Vec::new();
            for bucket in &buckets {
                let sum: usize = bucket.params.iter().map(|param| count(param)).sum();
                prop_assert!(sum <= most || bucket.params.len() == 1);
                for param in &bucket.params {
                    let at: usize = param.name().parse().unwrap();
                    prop_assert!(list[at].0 <= bucket.after && list[at].1 == bucket.owner);
                    all.push(at);
                }
            }
            all.sort_unstable();
            prop_assert_eq!(all, (0..list.len()).collect::<Vec<_>>());
        }
    }
}
