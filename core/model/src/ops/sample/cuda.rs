//! Sampling on a card: one launch where nothing narrows the choice, else four.

use super::{Row, Sampled};
use crate::ops::cuda::{empty, input, optional_input, output};
use anyhow::{Result, ensure};
use apus_kernels::{
    SAMPLE_CHUNK, SAMPLE_THREADS, sample_bins, sample_draw, sample_first, sample_floor,
    sample_words,
};
use candle_core::{CudaDevice, DType, Device, Tensor};

/// Numbers of a row's parameters and of its draw.
const PARAMETERS: usize = 8;
const NUMBERS: usize = 6;
/// The bit of a count that says that a token has been seen.
const SEEN: u32 = 1 << 31;
/// Blocks that are enough to keep a card busy.
const BUSY: usize = 528;

/// The settings of rows on a card.
#[derive(Debug)]
pub struct SampleInputs {
    /// `[S, 8]` f64: temperature, top_k, top_p, min_p, penalties on repetition, frequency and presence, whether the mask applies.
    pub parameters: Tensor,
    /// `[S, 6]` u32: the halves, low first, of the seed, the number of the answer and the place of the token.
    pub numbers: Tensor,
    /// The tokens whose logits are changed, if any row has some.
    pub listed: Option<ListedInputs>,
    /// A bit for each token that may come, `[S, ceil(V / 32)]` u32, if any row has a mask.
    pub allowed: Option<Tensor>,
    /// Whether any row has top_k, top_p or min_p.
    pub narrows: bool,
}

/// Listed tokens of all rows, one row after another.
#[derive(Debug)]
pub struct ListedInputs {
    /// The first entry of each row, and the number of all, `[S + 1]` u32.
    pub offsets: Tensor,
    /// Tokens, u32.
    pub tokens: Tensor,
    /// Biases, f32.
    pub biases: Tensor,
    /// How often each is in the answer, u32; bit 31 says that it is in the prompt or the answer.
    pub counts: Tensor,
    /// Room for their logits, f32.
    pub saved: Tensor,
}

/// What sampling writes to, for so many rows and tokens.
#[derive(Debug)]
pub struct SampleBuffers {
    /// The tokens, `[S]` u32.
    pub tokens: Tensor,
    /// Their log-probabilities by the logits as they were given, `[S]` f32.
    pub logprobs: Tensor,
    /// 1 for rows without a token, because a logit is not a number or infinite, or none may come; `[S]` u32.
    pub flags: Tensor,
    /// 0 between launches where the kernels need it.
    work: Tensor,
}

impl SampleBuffers {
    /// Room for these logits.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(rows: usize, vocab: usize, cuda: &CudaDevice) -> Result<Self> {
        let device = Device::Cuda(cuda.clone());
        Ok(Self {
            tokens: empty(rows, DType::U32, cuda)?,
            logprobs: empty(rows, DType::F32, cuda)?,
            flags: empty(rows, DType::U32, cuda)?,
            work: Tensor::zeros((rows, sample_words(vocab)), DType::U32, &device)?,
        })
    }
}

impl SampleInputs {
    /// Puts the settings of rows on a card.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(rows: &[Row], vocab: usize, cuda: &CudaDevice) -> Result<Self> {
        let device = &Device::Cuda(cuda.clone());
        let (count, words) = (rows.len(), vocab.div_ceil(32));
        let parameters: Vec<f64> = rows.iter().flat_map(parameters).collect();
        let halves = |n: u64| [n as u32, (n >> 32) as u32];
        let numbers: Vec<u32> = rows
            .iter()
            .flat_map(|row| [row.draw.seed, row.draw.answer, row.draw.place])
            .flat_map(halves)
            .collect();
        let masked = rows.iter().any(|row| row.allowed.is_some());
        let allowed = masked.then(|| {
            let all = vec![u32::MAX; words];
            let bits = rows
                .iter()
                .flat_map(|row| row.allowed.as_ref().unwrap_or(&all));
            Tensor::from_vec(bits.copied().collect::<Vec<u32>>(), (count, words), device)
        });
        let listed = rows.iter().any(|row| !row.listed.is_empty());
        Ok(Self {
            parameters: Tensor::from_vec(parameters, (count, PARAMETERS), device)?,
            numbers: Tensor::from_vec(numbers, (count, NUMBERS), device)?,
            listed: listed.then(|| ListedInputs::new(rows, cuda)).transpose()?,
            allowed: allowed.transpose()?,
            narrows: rows.iter().any(|row| {
                let choice = row.choice;
                choice.temperature > 0.0
                    && (choice.top_k > 0 || choice.top_p < 1.0 || choice.min_p > 0.0)
            }),
        })
    }
}

fn parameters(row: &Row) -> [f64; PARAMETERS] {
    let (choice, penalties) = (row.choice, row.penalties);
    [
        choice.temperature,
        choice.top_k as f64,
        choice.top_p,
        choice.min_p,
        penalties.repetition,
        penalties.frequency,
        penalties.presence,
        f64::from(u8::from(row.allowed.is_some())),
    ]
}

impl ListedInputs {
    fn new(rows: &[Row], cuda: &CudaDevice) -> Result<Self> {
        let device = &Device::Cuda(cuda.clone());
        let mut offsets = vec![0u32];
        for row in rows {
            let before = offsets.last().copied().unwrap_or(0);
            offsets.push(before + row.listed.len() as u32);
        }
        let all = || rows.iter().flat_map(|row| &row.listed);
        let tokens: Vec<u32> = all().map(|listed| listed.token).collect();
        let biases: Vec<f32> = all().map(|listed| listed.bias).collect();
        let seen = |seen| if seen { SEEN } else { 0 };
        let counts: Vec<u32> = all()
            .map(|l| l.count.min(SEEN - 1) | seen(l.seen))
            .collect();
        Ok(Self {
            offsets: Tensor::new(offsets.as_slice(), device)?,
            saved: empty(tokens.len(), DType::F32, cuda)?,
            tokens: Tensor::new(tokens.as_slice(), device)?,
            biases: Tensor::new(biases.as_slice(), device)?,
            counts: Tensor::new(counts.as_slice(), device)?,
        })
    }
}

/// See [`super::sample`]; `None` where a row has no token.
pub fn sample(logits: &Tensor, rows: &[Row], cuda: &CudaDevice) -> Result<Vec<Option<Sampled>>> {
    let logits = logits.contiguous()?;
    let (count, vocab) = logits.dims2()?;
    let inputs = SampleInputs::new(rows, vocab, cuda)?;
    let buffers = SampleBuffers::new(count, vocab, cuda)?;
    launch(&logits, &inputs, &buffers, cuda)?;
    let (tokens, logprobs) = (buffers.tokens.to_vec1()?, buffers.logprobs.to_vec1()?);
    let flags = buffers.flags.to_vec1::<u32>()?;
    let sampled = tokens.into_iter().zip(logprobs).zip(flags);
    Ok(sampled
        .map(|((token, logprob), flag)| (flag == 0).then_some(Sampled { token, logprob }))
        .collect())
}

/// Samples from `logits` `[S, V]` f32, which it changes in place. It allocates nothing and reads nothing of the card, so that it can be
/// captured in a graph; inputs may be written anew between launches of it.
///
/// # Errors
/// Shapes do not fit.
pub fn launch(
    logits: &Tensor,
    inputs: &SampleInputs,
    buffers: &SampleBuffers,
    cuda: &CudaDevice,
) -> Result<()> {
    let (rows, vocab) = logits.dims2()?;
    let room = [&inputs.parameters, &inputs.numbers].map(|tensor| tensor.dims().first().copied());
    ensure!(
        room == [Some(rows); 2]
            && buffers.tokens.dims() == [rows]
            && buffers.work.dims() == [rows, sample_words(vocab)],
        "sampling: logits {:?}, settings of {room:?} rows and buffers of {:?} do not fit",
        logits.dims(),
        buffers.work.dims()
    );
    let stream = cuda.cuda_stream();
    let turns = vocab.div_ceil(SAMPLE_CHUNK * SAMPLE_THREADS as usize / 32);
    let takers = (BUSY / rows.max(1)).clamp(2, turns.max(2));
    let listed = inputs.listed.as_ref();
    let saved = listed.map(|l| output(&l.saved)).transpose()?;
    let listed_offsets = optional_input(listed.map(|l| &l.offsets))?;
    let listed_tokens = optional_input(listed.map(|l| &l.tokens))?;
    sample_first {
        tokens: output(&buffers.tokens)?,
        logprobs: Some(output(&buffers.logprobs)?),
        flags: output(&buffers.flags)?,
        logits: output(logits)?,
        work: output(&buffers.work)?,
        parameters: input(&inputs.parameters)?,
        numbers: input(&inputs.numbers)?,
        mask: optional_input(inputs.allowed.as_ref())?,
        listed_offsets,
        listed: listed_tokens,
        biases: optional_input(listed.map(|l| &l.biases))?,
        counts: optional_input(listed.map(|l| &l.counts))?,
        saved,
        vocab,
        rows,
        takers,
    }
    .launch(&stream)?;
    if !inputs.narrows {
        return Ok(());
    }
    sample_bins {
        work: output(&buffers.work)?,
        logits: input(logits)?,
        parameters: input(&inputs.parameters)?,
        vocab,
        rows,
        takers,
    }
    .launch(&stream)?;
    sample_floor {
        work: output(&buffers.work)?,
        logits: input(logits)?,
        parameters: input(&inputs.parameters)?,
        vocab,
        rows,
        takers,
    }
    .launch(&stream)?;
    sample_draw {
        tokens: output(&buffers.tokens)?,
        logprobs: Some(output(&buffers.logprobs)?),
        flags: output(&buffers.flags)?,
        work: output(&buffers.work)?,
        logits: input(logits)?,
        parameters: input(&inputs.parameters)?,
        numbers: input(&inputs.numbers)?,
        listed_offsets,
        listed: listed_tokens,
        saved,
        vocab,
        rows,
        takers,
    }
    .launch(&stream)
}
