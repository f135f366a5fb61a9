//! The beginning of a GGUF file (version 3): facts about the model, and where each tensor lies.
//!
//! All numbers are little-endian. A text is its length and its bytes. Dimensions stand in the order of ggml, the one whose elements lie
//! side by side first.

use super::super::layout::{Entry, FileLayout, Layout};
use anyhow::Result;
use safetensors::Dtype;

/// Tensors begin at multiples of this many bytes, unless the file says otherwise.
const ALIGNMENT: usize = 32;

/// A fact about the model.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number.
    U32(u32),
    /// A number.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of numbers.
    I32s(Vec<i32>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// How the values of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 32 bits.
    F32,
    /// The upper 16 of these.
    Bf16,
    /// Blocks of a scale and 32 values of four bits.
    Mxfp4,
}

impl Kind {
    /// Its name in the names of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::Mxfp4 => "MXFP4",
        }
    }

    /// ggml's number of it.
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Bf16 => 30,
            Self::Mxfp4 => 39,
        }
    }
}

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its shape in the usual order, in values.
    pub shape: Vec<usize>,
}

impl Tensor {
    /// The tensor as its bytes.
    fn entry(&self) -> Entry {
        let (dtype, mut shape) = match self.kind {
            Kind::F32 => (Dtype::F32, self.shape.clone()),
            Kind::Bf16 => (Dtype::BF16, self.shape.clone()),
            Kind::Mxfp4 => (Dtype::U8, self.shape.clone()),
        };
        if let (Kind::Mxfp4, Some(last)) = (self.kind, shape.last_mut()) {
            *last = *last / 32 * super::blocks::BYTES;
        }
        Entry {
            name: self.name.clone(),
            dtype,
            shape,
        }
    }
}

/// Lays out a file of this name.
pub fn layout(
    name: &str,
    facts: &[(String, Value)],
    tensors: &[Tensor],
) -> Result<(Vec<Entry>, Layout)> {
    let entries: Vec<Entry> = tensors.iter().map(Tensor::entry).collect();
    let mut start = b"GGUF".to_vec();
    start.extend(3u32.to_le_bytes());
    count(&mut start, tensors.len());
    count(&mut start, facts.len());
    for (key, value) in facts {
        text(&mut start, key);
        fact(&mut start, value);
    }
    let (mut at, mut bytes) = (0, 0);
    let mut places = Vec::new();
    for (tensor, entry) in tensors.iter().zip(&entries) {
        text(&mut start, &tensor.name);
        start.extend(u32::try_from(tensor.shape.len())?.to_le_bytes());
        for size in tensor.shape.iter().rev() {
            count(&mut start, *size);
        }
        start.extend(tensor.kind.number().to_le_bytes());
        count(&mut start, at);
        places.push(at);
        at = (at + entry.bytes()).next_multiple_of(ALIGNMENT);
        bytes += entry.bytes();
    }
    start.resize(start.len().next_multiple_of(ALIGNMENT), 0);
    let begin = start.len();
    let layout = Layout {
        places: (places.into_iter())
            .map(|place| (0, (begin + place) as u64))
            .collect(),
        files: vec![FileLayout {
            name: name.to_owned(),
            start,
            entries: 0..entries.len(),
            bytes,
            padding: at - bytes,
        }],
    };
    Ok((entries, layout))
}

fn count(to: &mut Vec<u8>, count: usize) {
    to.extend((count as u64).to_le_bytes());
}

fn text(to: &mut Vec<u8>, text: &str) {
    count(to, text.len());
    to.extend(text.as_bytes());
}

/// The types of facts, by their numbers.
#[derive(Clone, Copy)]
enum Type {
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Text = 8,
    List = 9,
}

/// A value behind the number of its type; in a list the type of the elements and their number come first.
fn fact(to: &mut Vec<u8>, value: &Value) {
    let mut types =
        |types: &[Type]| to.extend(types.iter().flat_map(|t| (*t as u32).to_le_bytes()));
    match value {
        Value::U32(number) => {
            types(&[Type::U32]);
            to.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            types(&[Type::F32]);
            to.extend(number.to_le_bytes());
        }
        Value::Bool(yes) => {
            types(&[Type::Bool]);
            to.push(u8::from(*yes));
        }
        Value::Text(words) => {
            types(&[Type::Text]);
            text(to, words);
        }
        Value::Texts(list) => {
            types(&[Type::List, Type::Text]);
            count(to, list.len());
            list.iter().for_each(|words| text(to, words));
        }
        Value::I32s(list) => {
            types(&[Type::List, Type::I32]);
            count(to, list.len());
            to.extend(list.iter().flat_map(|number| number.to_le_bytes()));
        }
    }
}
