//! What travels over a connection between two ranks: frames of a kind, a length and bytes.

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};

/// The first bytes of every frame, by which another program at the port is told from a rank.
const MAGIC: [u8; 4] = *b"APUS";

/// More than this is no frame of a run: prompts, configurations and the tokens of an evaluation are far below.
const MOST_BYTES: u64 = 1 << 32;

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The first frame of a rank: a [`Hello`](crate::rendezvous::Hello).
    Hello(Vec<u8>),
    /// All ranks have arrived.
    Welcome(Vec<u8>),
    /// What both sides wait for in the same place of their program.
    Data(Vec<u8>),
    /// The sender is alive: its [`Activity`].
    Beat(Vec<u8>),
    /// The run ends on all ranks, for this reason.
    Failed(String),
    /// The sender has finished, and what closes now is no failure.
    Bye,
    /// Numbers of the sender, which count until it sends newer ones.
    Report(Vec<u8>),
}

/// What a rank is doing, as its beats tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// For people: `step 12, callback plateau`.
    pub name: String,
    /// The number of collectives that it has entered.
    pub entered: u64,
    /// Whether it waits in a collective for the others.
    pub waits: bool,
    /// Whether it may take as long as it needs, as saving does.
    pub unhurried: bool,
    /// The component that it is in.
    #[serde(default)]
    pub component: Option<String>,
    /// Whether a signal has asked it to end.
    #[serde(default)]
    pub asked: bool,
    /// The newest checkpoint that it has written.
    #[serde(default)]
    pub saved: Option<String>,
}

impl Frame {
    fn parts(&self) -> (u8, &[u8]) {
        match self {
            Self::Hello(bytes) => (0, bytes),
            Self::Welcome(bytes) => (1, bytes),
            Self::Data(bytes) => (2, bytes),
            Self::Beat(bytes) => (3, bytes),
            Self::Failed(text) => (4, text.as_bytes()),
            Self::Bye => (5, &[]),
            Self::Report(bytes) => (6, bytes),
        }
    }

    /// Writes it whole.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn write(&self, to: &mut impl Write) -> Result<()> {
        let (kind, bytes) = self.parts();
        let mut header = Vec::with_capacity(13);
        header.extend(MAGIC);
        header.push(kind);
        header.extend((bytes.len() as u64).to_le_bytes());
        to.write_all(&header)?;
        to.write_all(bytes)?;
        to.flush().context("the connection is gone")
    }

    /// Reads the next one.
    ///
    /// # Errors
    /// The connection is gone, or what comes is no frame.
    pub fn read(from: &mut impl Read) -> Result<Self> {
        let mut header = [0; 13];
        from.read_exact(&mut header)
            .map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => {
                    anyhow!("it was closed, as when a process dies or is killed")
                }
                _ => error.into(),
            })?;
        let [m0, m1, m2, m3, kind, length @ ..] = header;
        ensure!(
            [m0, m1, m2, m3] == MAGIC,
            "what comes is not from a rank of Apus"
        );
        let length = u64::from_le_bytes(length);
        ensure!(
            length <= MOST_BYTES,
            "a frame of {length} bytes, more than there can be"
        );
        let mut bytes = Vec::new();
        let read = from.take(length).read_to_end(&mut bytes)?;
        ensure!(read as u64 == length, "the connection ended inside a frame");
        Ok(match kind {
            0 => Self::Hello(bytes),
            1 => Self::Welcome(bytes),
            2 => Self::Data(bytes),
            3 => Self::Beat(bytes),
            4 => Self::Failed(String::from_utf8_lossy(&bytes).into_owned()),
            5 => Self::Bye,
            6 => Self::Report(bytes),
            other => bail!("a frame of kind {other}, which this version does not know"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_as_they_were_sent() {
        let frames = [
            Frame::Hello(b"{}".to_vec()),
            Frame::Data(vec![7; 100_000]),
            Frame::Failed("rank 1: größer".to_owned()),
            Frame::Report(b"{}".to_vec()),
            Frame::Bye,
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut from = bytes.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read(&mut from).unwrap(), *frame);
        }
        assert!(Frame::read(&mut from).is_err());
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let mut cut = Vec::new();
        Frame::Data(vec![1; 50]).write(&mut cut).unwrap();
        for bytes in [
            b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
            cut[..30].to_vec(),
            [&b"APUS\x02"[..], &[255; 8]].concat(),
        ] {
            assert!(Frame::read(&mut bytes.as_slice()).is_err(), "{bytes:?}");
        }
    }
}
