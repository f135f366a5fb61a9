//! The SDK's [`Tensor`](apus_sdk::Tensor) handle on top of candle: one table of functions for
//! components that are linked in and for those of plugins.
//!
//! A handle is a pointer to a candle tensor. Nothing here may panic into a plugin, so every function
//! runs inside [`guarded`].

mod create;
mod elementwise;
mod index;
mod low_rank;
mod quantize;
mod reduce;
mod shape;
#[cfg(test)]
mod tests;
mod update;

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RResult, RSlice, RSliceMut, RString};
use anyhow::{Context, Result, bail, ensure};
use apus_model::model::LowRank;
use apus_sdk::{DType, Handle, Op, TensorHost, TensorHostRef, Update, Wire};
use candle_core::Tensor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// A component's handle on this tensor.
pub fn wrap(tensor: Tensor) -> apus_sdk::Tensor {
    // SAFETY: the handle is made here for this table, and belongs to nobody else.
    unsafe { apus_sdk::Tensor::from_raw(into_handle(tensor), host()) }
}

/// A component's handle on this tensor, which it can read and not change in place.
pub fn to_read(tensor: Tensor) -> apus_sdk::Tensor {
    let held = Held {
        to_read: true,
        ..Held::new(tensor)
    };
    // SAFETY: as in `wrap`.
    unsafe { apus_sdk::Tensor::from_raw(held.into_handle(), host()) }
}

/// A component's handle on this tensor, which is a part of a layer that a tuner computes with.
pub fn wrap_as(tensor: Tensor, role: Role) -> apus_sdk::Tensor {
    let held = Held {
        role: Some(role),
        ..Held::new(tensor)
    };
    // SAFETY: as in `wrap`.
    unsafe { apus_sdk::Tensor::from_raw(held.into_handle(), host()) }
}

/// The part of a layer that a tensor is.
///
/// # Errors
/// A handle that another host made.
pub fn role(tensor: &apus_sdk::Tensor) -> Result<Option<Role>> {
    unwrap(tensor)?;
    // SAFETY: this host made it, and it lives as long as `tensor`.
    Ok(unsafe { held(tensor.raw().0) }.role)
}

/// The tensor behind a handle.
///
/// # Errors
/// A handle that another host made.
pub fn unwrap(tensor: &apus_sdk::Tensor) -> Result<&Tensor> {
    let (handle, made_by) = tensor.raw();
    ensure!(
        made_by.same(host()),
        "this tensor was not made by this host"
    );
    // SAFETY: this host's handles are what `into_handle` makes, and this one lives as long as `tensor`.
    Ok(unsafe { tensor_of(handle) })
}

fn host() -> TensorHostRef {
    static HOST: OnceLock<TensorHostRef> = OnceLock::new();
    *HOST.get_or_init(|| {
        TensorHost {
            minor: apus_sdk::abi::sdk_minor(),
            retain,
            release,
            shape,
            dtype,
            device,
            call,
            update,
            upload,
            download,
        }
        .leak_into_prefix()
    })
}

/// What a tensor is of a layer that a tuner computes with. It goes with the handle and its clones; what operations make has none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// The layer's input.
    Input,
    /// Its output.
    Output,
    /// The parameter at this place.
    Param(usize),
    /// The output with a low-rank update of parameters, and nothing else.
    Updated(LowRank),
}

/// What a handle points to.
#[derive(Clone)]
struct Held {
    tensor: Tensor,
    /// Whether it must not be changed in place: somebody else's, given to be read.
    to_read: bool,
    /// What it is of a layer.
    role: Option<Role>,
}

impl Held {
    fn new(tensor: Tensor) -> Self {
        Self {
            tensor,
            to_read: false,
            role: None,
        }
    }

    fn into_handle(self) -> Handle {
        Handle(Box::into_raw(Box::new(self)).cast())
    }
}

/// A handle that owns this tensor.
fn into_handle(tensor: Tensor) -> Handle {
    Held::new(tensor).into_handle()
}

/// What is behind a handle.
///
/// # Safety
/// As [`tensor_of`].
unsafe fn held<'a>(handle: Handle) -> &'a Held {
    // SAFETY: by the contract above.
    unsafe { &*handle.0.cast::<Held>() }
}

/// The tensor of a handle.
///
/// # Safety
/// The handle came from [`into_handle`] and is not released while the reference lives.
unsafe fn tensor_of<'a>(handle: Handle) -> &'a Tensor {
    // SAFETY: by the contract above.
    &unsafe { held(handle) }.tensor
}

/// Runs `act`; an error or a panic of it becomes a message.
fn guarded<T>(act: impl FnOnce() -> Result<T>) -> Wire<T> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => RResult::ROk(value),
        Ok(Err(error)) => RResult::RErr(format!("{error:#}").into()),
        Err(_) => RResult::RErr("the tensor library of Apus panicked".into()),
    }
}

unsafe extern "C" fn retain(handle: Handle) -> Handle {
    // SAFETY: callers give handles of this host only, here and below.
    unsafe { held(handle) }.clone().into_handle()
}

unsafe extern "C" fn release(handle: Handle) {
    // SAFETY: the handle came from `into_handle` and is released once.
    drop(unsafe { Box::from_raw(handle.0.cast::<Held>()) });
}

unsafe extern "C" fn shape(handle: Handle) -> RSlice<'static, usize> {
    // SAFETY: see `retain`; the caller uses the slice no longer than the handle.
    RSlice::from_slice(unsafe { tensor_of(handle) }.dims())
}

unsafe extern "C" fn dtype(handle: Handle) -> u32 {
    // SAFETY: see `retain`.
    sdk_dtype(unsafe { tensor_of(handle) }.dtype()) as u32
}

unsafe extern "C" fn device(handle: Handle) -> RString {
    // SAFETY: see `retain`.
    apus_model::device::name(unsafe { tensor_of(handle) }.device()).into()
}

unsafe extern "C" fn call(
    op: u32,
    tensors: RSlice<'_, Handle>,
    ints: RSlice<'_, i64>,
    floats: RSlice<'_, f64>,
) -> Wire<Handle> {
    guarded(|| {
        let known = Op::from_code(op);
        let op = known.with_context(|| {
            format!(
                "this Apus, with apus-sdk {}, does not know the tensor operation {op}; update it",
                apus_sdk::abi::SDK_VERSION
            )
        })?;
        // SAFETY: see `retain`.
        let arguments = unsafe { Arguments::new(&tensors, &ints, &floats) };
        let (tensor, role) = arguments.run(op).with_context(|| arguments.describe(op))?;
        // Another shape or type may be the same memory.
        let to_read = matches!(op as u32, 96..112 | 128..144) && arguments.any_to_read();
        let held = Held {
            tensor,
            to_read,
            role,
        };
        Ok(held.into_handle())
    })
}

unsafe extern "C" fn update(
    op: u32,
    tensors: RSlice<'_, Handle>,
    ints: RSlice<'_, i64>,
    floats: RSlice<'_, f64>,
) -> Wire<()> {
    guarded(|| {
        let op = Update::from_code(op).with_context(|| {
            format!(
                "this Apus, with apus-sdk {}, does not know the update {op}; update it",
                apus_sdk::abi::SDK_VERSION
            )
        })?;
        // SAFETY: see `retain`.
        let arguments = unsafe { Arguments::new(&tensors, &ints, &floats) };
        update::run(op, &arguments).with_context(|| arguments.describe(op))
    })
}

unsafe extern "C" fn upload(
    beside: Handle,
    shape: RSlice<'_, usize>,
    dtype: u32,
    bytes: RSlice<'_, u8>,
) -> Wire<Handle> {
    guarded(|| {
        let dtype = candle_dtype(i64::from(dtype))?;
        // SAFETY: see `retain`.
        let device = unsafe { tensor_of(beside) }.device();
        let made = Tensor::from_raw_buffer(bytes.as_slice(), dtype, shape.as_slice(), device)?;
        Ok(into_handle(made))
    })
}

unsafe extern "C" fn download(handle: Handle, mut out: RSliceMut<'_, u8>) -> Wire<()> {
    // SAFETY: see `retain`.
    guarded(|| create::download(unsafe { tensor_of(handle) }, out.as_mut_slice()))
}

/// The arguments of an operation.
struct Arguments<'a> {
    tensors: &'a [Handle],
    ints: &'a [i64],
    floats: &'a [f64],
}

impl<'a> Arguments<'a> {
    /// # Safety
    /// The handles came from [`into_handle`] and stay for `'a`.
    unsafe fn new(
        tensors: &'a RSlice<'_, Handle>,
        ints: &'a RSlice<'_, i64>,
        floats: &'a RSlice<'_, f64>,
    ) -> Self {
        Self {
            tensors: tensors.as_slice(),
            ints: ints.as_slice(),
            floats: floats.as_slice(),
        }
    }

    fn run(&self, op: Op) -> Result<(Tensor, Option<Role>)> {
        let made = match op as u32 {
            0..32 => elementwise::unary(op, self.one()?),
            32..64 => elementwise::several(op, self),
            64..80 => elementwise::scalars(op, self.one()?, self.floats),
            80..96 => reduce::run(op, self.one()?, self.ints),
            96..112 => shape::run(op, self),
            112..128 => index::run(op, self),
            128..144 => create::convert(op, self.one()?, self.ints),
            144..160 => create::run(op, self.one()?, self.ints, self.floats),
            176..192 => return low_rank::run(op, self),
            _ => quantize::run(op, self),
        };
        Ok((made?, None))
    }

    /// The tensors.
    fn all(&self) -> impl Iterator<Item = &'a Tensor> {
        // SAFETY: by the contract of `new`.
        self.tensors
            .iter()
            .map(|&handle| unsafe { tensor_of(handle) })
    }

    /// What the tensors are of a layer.
    fn roles(&self) -> Vec<Option<Role>> {
        // SAFETY: by the contract of `new`.
        let all = self.tensors.iter().map(|&handle| unsafe { held(handle) });
        all.map(|held| held.role).collect()
    }

    /// Whether one of them is there to be read.
    fn any_to_read(&self) -> bool {
        // SAFETY: by the contract of `new`.
        let mut all = self.tensors.iter().map(|&handle| unsafe { held(handle) });
        all.any(|held| held.to_read)
    }

    /// Whether the tensor at a place is there to be read.
    fn is_to_read(&self, at: usize) -> bool {
        // SAFETY: by the contract of `new`.
        let held = self.tensors.get(at).map(|&handle| unsafe { held(handle) });
        held.is_some_and(|held| held.to_read)
    }

    /// Exactly `N` tensors.
    fn tensors<const N: usize>(&self) -> Result<[&'a Tensor; N]> {
        let all: Vec<&Tensor> = self.all().collect();
        let found = all.len();
        match all.try_into() {
            Ok(exactly) => Ok(exactly),
            Err(_) => bail!("{N} tensors are needed, found {found}"),
        }
    }

    fn one(&self) -> Result<&'a Tensor> {
        self.all().next().context("no tensor was given")
    }

    fn describe(&self, op: impl std::fmt::Debug) -> String {
        let shapes = self
            .all()
            .map(|t| format!("{:?}{:?}", sdk_dtype(t.dtype()), t.dims()));
        format!("{op:?} of {}", shapes.collect::<Vec<_>>().join(", "))
    }
}

/// A whole number that is a size.
fn size(value: i64) -> Result<usize> {
    usize::try_from(value).with_context(|| format!("{value} is no size"))
}

/// Whole numbers that are sizes.
fn sizes(values: &[i64]) -> Result<Vec<usize>> {
    values.iter().map(|&value| size(value)).collect()
}

/// Numbers that go with an operation, exactly as many as it takes.
fn exactly<T: Copy, const N: usize>(values: &[T]) -> Result<[T; N]> {
    let found = values.len();
    match values.try_into() {
        Ok(exactly) => Ok(exactly),
        Err(_) => bail!("{N} numbers are needed, found {found}"),
    }
}

/// The SDK's element type for one of candle's.
fn sdk_dtype(dtype: candle_core::DType) -> DType {
    match dtype {
        candle_core::DType::BF16 => DType::BF16,
        candle_core::DType::I64 => DType::I64,
        candle_core::DType::U32 => DType::U32,
        candle_core::DType::U8 => DType::Bool,
        _ => DType::F32,
    }
}

/// candle's element type for the SDK's number of one.
fn candle_dtype(code: i64) -> Result<candle_core::DType> {
    let dtype = u32::try_from(code).ok().and_then(DType::from_code);
    Ok(
        match dtype.with_context(|| format!("unknown element type {code}"))? {
            DType::F32 => candle_core::DType::F32,
            DType::BF16 => candle_core::DType::BF16,
            DType::I64 => candle_core::DType::I64,
            DType::U32 => candle_core::DType::U32,
            DType::Bool => candle_core::DType::U8,
        },
    )
}
