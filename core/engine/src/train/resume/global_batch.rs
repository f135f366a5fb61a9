//! What makes up the examples of a step, for a run that resumes with another number of them.

use apus_base::wording::some;
use serde_json::{Map, Value};

/// How the checkpoint and this run came to their examples of a step, and which numbers of ranks come to the checkpoint's.
pub fn hint(saved: (u64, &Map<String, Value>), now: (u64, &Map<String, Value>)) -> String {
    let factors = |(examples, args): (u64, &Map<String, Value>)| {
        let number = |name: &str| args.get(name)?.as_u64().filter(|number| *number > 0);
        let [size, steps] =
            ["per_device_train_batch_size", "gradient_accumulation_steps"].map(number);
        let shown =
            |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
        let ranks = size
            .zip(steps)
            .map(|(size, steps)| examples / (size * steps));
        [size, steps, ranks].map(shown).join(" x ")
    };
    let size = now
        .1
        .get("per_device_train_batch_size")
        .and_then(Value::as_u64);
    format!(
        "per_device_train_batch_size x gradient_accumulation_steps x ranks: {} and {}; {}",
        factors(saved),
        factors(now),
        ways(saved.0, size.unwrap_or(1))
    )
}

/// The ways to `examples` of a step with micro-batches of this size.
fn ways(examples: u64, size: u64) -> String {
    let divisors =
        |number: u64| (1..=number).filter(move |divisor| number.is_multiple_of(*divisor));
    if size == 0 || !examples.is_multiple_of(size) {
        return format!(
            "{examples} are no multiple of per_device_train_batch_size {size}, but of {}",
            some(divisors(examples), 12)
        );
    }
    let batches = examples / size;
    let ways = divisors(batches).map(|ranks| match ranks {
        1 => format!("1 rank with {batches}"),
        ranks => format!("{ranks} ranks with {}", batches / ranks),
    });
    format!(
        "{examples} with per_device_train_batch_size {size} are {} gradient_accumulation_steps",
        some(ways, 12)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_ranks_that_divide_a_global_batch_are_listed() {
        let args = |size: u64, steps: u64| {
            let fields = [
                ("per_device_train_batch_size", size),
                ("gradient_accumulation_steps", steps),
            ];
            Map::from_iter(fields.map(|(name, value)| (name.to_owned(), json!(value))))
        };
        let (saved, now) = (args(1, 3), args(2, 3));
        assert_eq!(
            hint((12, &saved), (30, &now)),
            "per_device_train_batch_size x gradient_accumulation_steps x ranks: 1 x 3 x 4 and 2 x 3 x 5; 12 with \
             per_device_train_batch_size 2 are 1 rank with 6, 2 ranks with 3, 3 ranks with 2, 6 ranks with 1 \
             gradient_accumulation_steps"
        );
        assert!(
            hint((12, &saved), (5, &args(5, 1))).ends_with(
                "no multiple of per_device_train_batch_size 5, but of 1, 2, 3, 4, 6, 12"
            )
        );
        assert!(hint((12, &Map::new()), (5, &args(1, 1))).contains("? x ? x ? and 1 x 1 x 5"));
    }
}
