//! The frame around records in a run's file: LevelDB's log format with zlib's checksum.
//!
//! After a header of 7 bytes, the file is a row of blocks of 32 KiB. A record lies in one piece or in
//! several, none of which crosses the end of a block, so that a reader finds its way again behind
//! damage, and a file that ends anywhere is readable up to there.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// `:SWL`, a mark, version 2.
pub const HEADER: [u8; 7] = [0x3a, 0x53, 0x57, 0x4c, 0xd6, 0xe1, 0x02];
const BLOCK: usize = 32768;
/// Checksum, length, type.
const HEAD: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

fn checksum(kind: u8, piece: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&[kind]);
    sum.update(piece);
    sum.finalize()
}

/// Appends a record that begins at byte `at` of the file; gives where the next one begins.
pub fn frame(at: u64, record: &[u8], out: &mut Vec<u8>) -> u64 {
    let (begin, mut rest, mut first) = (out.len(), record, true);
    loop {
        let written = (out.len() - begin) as u64;
        let room = BLOCK - ((at + written) % BLOCK as u64) as usize;
        if room < HEAD {
            out.resize(out.len() + room, 0);
            continue;
        }
        let (piece, after) = rest.split_at(rest.len().min(room - HEAD));
        let kind = match (first, after.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        out.extend(checksum(kind, piece).to_le_bytes());
        out.extend((piece.len() as u16).to_le_bytes());
        out.push(kind);
        out.extend(piece);
        if after.is_empty() {
            return at + (out.len() - begin) as u64;
        }
        (rest, first) = (after, false);
    }
}

/// Reads records, also of a file that grows.
pub struct Reader {
    file: File,
    /// Where the next record begins.
    at: u64,
    /// The block that is in memory, and where it begins.
    block: Vec<u8>,
    block_at: u64,
    /// Blocks that were left out because of damage.
    damaged: u64,
}

/// The result of reading at a position of the file.
enum Piece {
    /// Bytes of a record and where they end.
    Good(u8, Vec<u8>, u64),
    /// The block is damaged; the next one may be readable.
    Bad,
    /// The file ends here, for now.
    End,
}

impl Reader {
    /// Reads from the first record on.
    ///
    /// # Errors
    /// The file cannot be read, or is no run's file.
    pub fn new(mut file: File) -> io::Result<Self> {
        let mut header = [0; HEADER.len()];
        let read = file.read_exact(&mut header);
        if read.is_err() || header != HEADER {
            let old = header[..6] == HEADER[..6];
            let what = match old {
                true => format!("format version {}, expected 2", header[6]),
                false => "no SwanLab run (it does not begin with :SWL)".to_owned(),
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Self {
            file,
            at: HEADER.len() as u64,
            block: Vec::new(),
            block_at: 0,
            damaged: 0,
        })
    }

    /// Where the next record begins.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Goes on at the beginning of a record.
    pub fn seek(&mut self, at: u64) {
        self.at = at.max(HEADER.len() as u64);
    }

    /// Blocks that were left out because of damage.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// The next whole record; `None` at the end of what is there.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (mut at, mut record) = (self.at, None::<Vec<u8>>);
        loop {
            match self.piece(at)? {
                Piece::End => return Ok(None),
                Piece::Bad => {
                    self.damaged += 1;
                    at = (at / BLOCK as u64 + 1) * BLOCK as u64;
                    (self.at, record) = (at, None);
                }
                Piece::Good(FULL, bytes, next) => {
                    self.at = next;
                    return Ok(Some(bytes));
                }
                Piece::Good(FIRST, bytes, next) => (at, record) = (next, Some(bytes)),
                Piece::Good(kind, bytes, next) => {
                    at = next;
                    match (&mut record, kind) {
                        (Some(all), LAST) => {
                            all.extend(bytes);
                            self.at = next;
                            return Ok(record);
                        }
                        (Some(all), _) => all.extend(bytes),
                        // The beginning was lost to damage.
                        (None, _) => self.at = next,
                    }
                }
            }
        }
    }

    fn piece(&mut self, at: u64) -> io::Result<Piece> {
        let offset = (at % BLOCK as u64) as usize;
        let start = at - offset as u64;
        if BLOCK - offset < HEAD {
            return self.piece(start + BLOCK as u64);
        }
        let mut whole = self.holds(start, offset, HEAD)?;
        if !whole {
            return Ok(Piece::End);
        }
        let head = &self.block[offset..offset + HEAD];
        let sum = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let length = u16::from_le_bytes([head[4], head[5]]) as usize;
        let kind = head[6];
        if !(FULL..=LAST).contains(&kind) || offset + HEAD + length > BLOCK {
            return Ok(Piece::Bad);
        }
        whole = self.holds(start, offset, HEAD + length)?;
        if !whole {
            return Ok(Piece::End);
        }
        let bytes = &self.block[offset + HEAD..offset + HEAD + length];
        if checksum(kind, bytes) != sum {
            return Ok(Piece::Bad);
        }
        let next = at + (HEAD + length) as u64;
        Ok(Piece::Good(kind, bytes.to_vec(), next))
    }

    /// Whether the block at `start` is there up to `offset + length`; it is read anew if it may have grown.
    fn holds(&mut self, start: u64, offset: usize, length: usize) -> io::Result<bool> {
        let wanted = offset + length;
        if self.block_at != start || self.block.len() < wanted {
            self.block.clear();
            self.block_at = start;
            self.file.seek(SeekFrom::Start(start))?;
            let block = (&mut self.file).take(BLOCK as u64);
            let mut block = block;
            block.read_to_end(&mut self.block)?;
        }
        Ok(self.block.len() >= wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn written(records: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = HEADER.to_vec();
        let mut ends = Vec::new();
        for record in records {
            let at = bytes.len() as u64;
            ends.push(frame(at, record, &mut bytes));
        }
        (bytes, ends)
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut reader = Reader::new(file).unwrap();
        let mut records = Vec::new();
        while let Some(record) = reader.next().unwrap() {
            records.push(record);
        }
        (records, reader.damaged())
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let (bytes, ends) = written(&[b"hello".to_vec()]);
        // zlib.crc32(b"\x01hello")
        let expected = [
            &HEADER[..],
            &0x8aac_239du32.to_le_bytes(),
            &[5, 0, 1],
            b"hello",
        ]
        .concat();
        assert_eq!(ends, [19]);
        assert_eq!(bytes, expected);
        let other = tempfile::tempfile().unwrap();
        (&other).write_all(b":SWL\xd6\xe1\x01rest").unwrap();
        (&other).seek(SeekFrom::Start(0)).unwrap();
        let error = Reader::new(other).err().unwrap().to_string();
        assert!(error.contains("version 1, expected 2"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn records_come_back(sizes in proptest::collection::vec(
            prop_oneof![0usize..200, 32_740usize..32_780, 60_000usize..110_000], 1..12), seed in any::<u8>()) {
            let records: Vec<Vec<u8>> = sizes.iter().enumerate()
                .map(|(i, &size)| (0..size).map(|at| (at as u8).wrapping_mul(31) ^ seed ^ i as u8).collect())
                .collect();
            let (bytes, ends) = written(&records);
            prop_assert_eq!(bytes.len() as u64, *ends.last().unwrap());
            prop_assert_eq!(read(&bytes), (records, 0));
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_is_read_up_to_the_cut() {
        let records: Vec<Vec<u8>> = [3, 32_700, 0, 40, 33_000, 5]
            .iter()
            .map(|&size| vec![7; size])
            .collect();
        let (bytes, ends) = written(&records);
        let near = |cut: usize| cut < 400 || ends.iter().any(|end| end.abs_diff(cut as u64) < 100);
        for cut in (HEADER.len()..bytes.len()).filter(|&cut| near(cut) || cut % 997 == 0) {
            let whole = ends.iter().take_while(|&&end| end <= cut as u64).count();
            let (found, damaged) = read(&bytes[..cut]);
            assert_eq!(
                (&found[..], damaged),
                (&records[..whole], 0),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn damage_costs_its_block_only() {
        let records: Vec<Vec<u8>> = (0..200u8).map(|i| vec![i; 1000]).collect();
        let (mut bytes, ends) = written(&records);
        bytes[BLOCK + 500] ^= 1;
        let (found, damaged) = read(&bytes);
        let lost: Vec<usize> = (0..200).filter(|&i| !found.contains(&records[i])).collect();
        assert_eq!(damaged, 1);
        let begin = |i: usize| ends[i] - 1007;
        assert!(
            !lost.is_empty()
                && lost
                    .iter()
                    .all(|&i| { ends[i] > BLOCK as u64 && begin(i) < 2 * BLOCK as u64 })
        );
    }

    #[test]
    fn a_reader_follows_a_file_that_grows() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = file.reopen().unwrap();
        writer.write_all(&HEADER).unwrap();
        let mut reader = Reader::new(file.reopen().unwrap()).unwrap();
        let mut at = HEADER.len() as u64;
        for size in [10, 20_000, 20_000, 1] {
            assert!(reader.next().unwrap().is_none());
            let mut bytes = Vec::new();
            at = frame(at, &vec![1; size], &mut bytes);
            let (half, rest) = bytes.split_at(bytes.len() / 2);
            writer.write_all(half).unwrap();
            assert!(reader.next().unwrap().is_none());
            writer.write_all(rest).unwrap();
            assert_eq!(reader.next().unwrap().unwrap().len(), size);
            assert_eq!(reader.at(), at);
        }
    }
}
