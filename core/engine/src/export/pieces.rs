//! Tensors that are written in pieces, by all cores at once.
//!
//! A piece is the unit of work and of memory: a thread reads it, computes it, checks it and writes it before it takes the next
//! one, in the order of the files, so that the disk gets long runs and files are whole one after another. What is in memory is a
//! piece for each thread, and no more threads work than fit the limit.

use super::progress::Writing;
use super::shards::Shards;
use anyhow::{Error, Result};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The bytes of a piece of a tensor that is no matrix of experts.
pub const PART: usize = 8 << 20;
/// The bytes of pieces that are worked on at the same time.
const MOST_IN_WORK: usize = 3 << 30;

/// A part of one or more tensors.
pub struct Piece<J> {
    /// What gives its bytes.
    pub job: J,
    /// The tensors by their number, and which bytes of each.
    pub places: Vec<(usize, Range<usize>)>,
    /// Bytes that are read and computed besides those that are written.
    pub besides: usize,
}

impl<J> Piece<J> {
    fn written(&self) -> usize {
        self.places.iter().map(|(_, range)| range.len()).sum()
    }

    fn in_work(&self) -> usize {
        self.written() + self.besides
    }
}

/// Pieces of tensor `number`, which has so many rows of `row` bytes: each of a few rows, for each of which `besides` more bytes are in
/// memory.
pub fn by_rows<J>(
    number: usize,
    (rows, row, besides): (usize, usize, usize),
    job: impl Fn(Range<usize>) -> J,
) -> impl Iterator<Item = Piece<J>> {
    let step = (PART / row.max(1)).max(1);
    (0..rows).step_by(step).map(move |first| {
        let rows = first..rows.min(first + step);
        Piece {
            places: vec![(number, rows.start * row..rows.end * row)],
            besides: besides * rows.len(),
            job: job(rows),
        }
    })
}

/// How many threads work on pieces at the same time.
fn workers<J>(pieces: &[Piece<J>], threads: usize, most: usize) -> usize {
    let largest = pieces.iter().map(Piece::in_work).max().unwrap_or(0);
    (most / largest.max(1)).clamp(1, threads.max(1))
}

/// Writes pieces. `fill` gives the bytes of each of a piece's places; it has a buffer of its thread's own.
///
/// # Errors
/// The first that `fill` or the disk gave. No piece is begun after it.
pub fn write<J: Sync>(
    shards: &Shards,
    pieces: &[Piece<J>],
    fill: impl Fn(&J, &mut Vec<u8>, &mut [&mut [u8]]) -> Result<()> + Sync,
) -> Result<()> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let error: Mutex<Option<Error>> = Mutex::new(None);
    let workers = workers(pieces, rayon::current_num_threads(), MOST_IN_WORK);
    let writing = Writing::start(pieces.iter().map(|piece| piece.written() as u64).sum());
    rayon::broadcast(|thread| {
        if thread.index() >= workers {
            return;
        }
        let (mut buffer, mut bytes) = (Vec::new(), Vec::new());
        while !failed.load(Ordering::Relaxed)
            && let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let mut work = || -> Result<()> {
                bytes.resize(piece.written().max(bytes.len()), 0);
                let mut rest = bytes.as_mut_slice();
                let mut rooms = Vec::new();
                for (_, range) in &piece.places {
                    let (room, behind) = rest.split_at_mut(range.len());
                    rooms.push(room);
                    rest = behind;
                }
                fill(&piece.job, &mut buffer, &mut rooms)?;
                for ((entry, range), room) in piece.places.iter().zip(rooms) {
                    shards.write(*entry, range.start, room)?;
                }
                writing.wrote(piece.written());
                Ok(())
            };
            if let Err(found) = work() {
                failed.store(true, Ordering::Relaxed);
                let mut error = error.lock().unwrap_or_else(|e| e.into_inner());
                error.get_or_insert(found);
            }
        }
    });
    match error.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(error) => Err(error),
        None => {
            writing.done();
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Entry, Layout};
    use super::*;
    use anyhow::{bail, ensure};
    use safetensors::Dtype;

    fn pieces(sizes: &[usize]) -> Vec<Piece<usize>> {
        let mut at = 0;
        let piece = |(job, size): (usize, &usize)| {
            at += size;
            Piece {
                job,
                places: vec![(0, at - size..at)],
                besides: 0,
            }
        };
        sizes.iter().enumerate().map(piece).collect()
    }

    fn written(fill: impl Fn(&usize, &mut [&mut [u8]]) -> Result<()> + Sync) -> Result<Vec<u8>> {
        let sizes: Vec<usize> = (0..200).map(|i| i * 37 % 101).collect();
        let total: usize = sizes.iter().sum();
        let entries = [Entry {
            name: "a".to_owned(),
            dtype: Dtype::U8,
            shape: vec![total],
        }];
        let layout = Layout::new(&entries, usize::MAX)?;
        let dir = tempfile::tempdir()?;
        let shards = Shards::create(dir.path(), &entries, &layout)?;
        write(&shards, &pieces(&sizes), |job, _, to| fill(job, to))?;
        shards.finish()?;
        let file = std::fs::read(dir.path().join("model.safetensors"))?;
        Ok(file[file.len() - total..].to_vec())
    }

    #[test]
    fn each_piece_is_written_once_in_its_place() {
        let bytes = written(|job, to| {
            to[0].fill(*job as u8);
            Ok(())
        });
        let expected = (0..200usize).flat_map(|i| vec![i as u8; i * 37 % 101]);
        assert!(bytes.unwrap() == expected.collect::<Vec<u8>>());
    }

    #[test]
    fn nothing_is_begun_after_an_error_and_nothing_may_be_missing() {
        let begun = AtomicUsize::new(0);
        let error = written(|job, _| {
            begun.fetch_add(1, Ordering::Relaxed);
            ensure!(*job != 3, "piece 3");
            // Long enough that a machine with other work to do gets to the error of piece 3 before the last piece.
            std::thread::sleep(std::time::Duration::from_millis(50));
            Ok(())
        });
        assert_eq!(error.unwrap_err().to_string(), "piece 3");
        assert!(begun.into_inner() < 200);
        let error = written(|_, _| bail!("each")).unwrap_err();
        assert_eq!(error.to_string(), "each");
    }

    /// An expert of gpt-oss-20b or 120b is the largest piece there is, in whatever form: it and what is made on the way bound the
    /// memory on a machine of any size.
    #[test]
    fn what_is_in_work_has_a_limit_on_any_machine() {
        let expert = 2880 * 5760;
        let (dense, packed) = (expert * 2, expert / 32 * 17);
        let mut all = pieces(&[dense]);
        all[0].besides = packed;
        for threads in [1, 2, 16, 64, 128, 1024] {
            let workers = workers(&all, threads, MOST_IN_WORK);
            assert!(workers * all[0].in_work() <= MOST_IN_WORK);
            assert!(workers == threads || threads > 64, "{workers} of {threads}");
        }
        assert_eq!(workers(&pieces(&[100, 7]), 8, 350), 3);
        assert_eq!(workers(&pieces(&[100]), 8, 50), 1);
        assert_eq!(workers(&pieces(&[]), 8, 50), 8);
    }
}
