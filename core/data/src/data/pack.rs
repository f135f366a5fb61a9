//! Packs samples into rows of `max_length` tokens.
//!
//! A packed row is several sequences of a batch, not one: attention stays inside each sample and its
//! positions start at 0, so packing changes how many samples a micro-batch holds, and nothing else.

use std::collections::BTreeMap;

/// Assigns samples to rows by best-fit decreasing and returns the numbers of each row's samples. The longest sample comes
/// first, and each goes into the row in which it leaves the least room. No row is longer than `capacity` unless it is a single
/// sample. Samples with equal lengths keep their order, so that the same lengths give the same rows.
pub fn pack(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&sample| std::cmp::Reverse(lengths[sample]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut by_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for sample in order {
        let length = lengths[sample];
        let least_room = by_room.range(length..).next().map(|(room, _)| *room);
        let (row, room) = match least_room {
            Some(room) => (take_row(&mut by_room, room), room),
            None => {
                rows.push(Vec::new());
                (rows.len() - 1, capacity.max(length))
            }
        };
        rows[row].push(sample);
        by_room.entry(room - length).or_default().push(row);
    }
    rows
}

/// Removes a row with exactly this room and returns it.
fn take_row(by_room: &mut BTreeMap<usize, Vec<usize>>, room: usize) -> usize {
    let rows = by_room.entry(room).or_default();
    let row = rows.pop().unwrap_or_default();
    if rows.is_empty() {
        by_room.remove(&room);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_sample_goes_where_it_leaves_the_least_room() {
        assert_eq!(pack(&[5, 8, 2, 4, 1], 10), [vec![1, 2], vec![0, 3, 4]]);
        assert_eq!(pack(&[], 10), Vec::<Vec<usize>>::new());
    }

    proptest! {
        #[test]
        fn no_sample_is_lost_and_no_row_is_too_long(
            lengths in prop::collection::vec(1usize..200, 0..400),
            capacity in 200usize..1000,
        ) {
            let rows = pack(&lengths, capacity);
            let length = |row: &Vec<usize>| row.iter().map(|&i| lengths[i]).sum::<usize>();
            prop_assert!(rows.iter().all(|row| !row.is_empty() && length(row) <= capacity));
            let mut all = rows.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            // Of two rows at most half full, best fit would have made one.
            let half_empty = rows.iter().filter(|row| 2 * length(row) <= capacity).count();
            prop_assert!(half_empty <= 1);
            prop_assert_eq!(rows, pack(&lengths, capacity));
        }
    }
}
