//! A host for tests: tensors as plain lists of numbers, every operation as its definition says it.
//!
//! It is also what other hosts are compared with, so it is made to be read, not to be fast. Numbers
//! are f64 inside and are rounded to a tensor's type whenever one is made. It is strict: what a real
//! host might get away with (an integer that overflows, an index out of range, the exponential of a
//! whole number) is an error here. It knows no gradients.

mod arguments;
mod array;
mod create;
mod elementwise;
mod index;
mod low_rank;
mod pair;
mod quantize;
mod random;
mod reduce;
mod shape;
mod update;

pub(super) use array::unrounded;
pub(super) use low_rank::with_layer;

use crate::abi::guard::guard;
use crate::{DType, Error, Handle, Op, Result, Tensor, TensorHost, TensorHostRef, Update, Wire};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RSlice, RSliceMut, RString};
use arguments::{Arguments, element_type, size, sizes};
use array::Array;
use std::sync::OnceLock;

/// A tensor of these numbers, rounded to f32.
pub(super) fn floats(values: Vec<f64>, shape: &[usize]) -> Result<Tensor> {
    let made = Array::new(shape.to_vec(), DType::F32, values)?;
    // SAFETY: the handle is made here for this table, and belongs to nobody else.
    Ok(unsafe { Tensor::from_raw(give(made), host()) })
}

/// A tensor's numbers as this host holds them.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    let (handle, made_by) = tensor.raw();
    if !made_by.same(host()) {
        return Err(Error::new("this tensor was not made by the reference host"));
    }
    // SAFETY: this host's handles are what `give` makes, and this one lives as long as `tensor`.
    Ok(unsafe { behind(&handle) }.values())
}

fn host() -> TensorHostRef {
    static HOST: OnceLock<TensorHostRef> = OnceLock::new();
    *HOST.get_or_init(|| {
        TensorHost {
            minor: crate::abi::sdk_minor(),
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

fn give(array: Array) -> Handle {
    Handle(Box::into_raw(Box::new(array)).cast())
}

/// The array behind a handle.
///
/// # Safety
/// The handle came from [`give`] and was not released.
unsafe fn behind(handle: &Handle) -> &Array {
    // SAFETY: by the contract above.
    unsafe { &*handle.0.cast::<Array>() }
}

unsafe extern "C" fn retain(handle: Handle) -> Handle {
    // SAFETY: callers give handles of this host only, here and below.
    give(unsafe { behind(&handle) }.clone())
}

unsafe extern "C" fn release(handle: Handle) {
    // SAFETY: the handle came from `give` and is released once.
    drop(unsafe { Box::from_raw(handle.0.cast::<Array>()) });
}

unsafe extern "C" fn shape(handle: Handle) -> RSlice<'static, usize> {
    // SAFETY: see `retain`; the caller uses the slice no longer than the handle.
    let shape: &'static [usize] = unsafe { &*std::ptr::from_ref(&*behind(&handle).shape) };
    RSlice::from_slice(shape)
}

unsafe extern "C" fn dtype(handle: Handle) -> u32 {
    // SAFETY: see `retain`.
    unsafe { behind(&handle) }.dtype as u32
}

unsafe extern "C" fn device(_handle: Handle) -> RString {
    "cpu".into()
}

unsafe extern "C" fn call(
    op: u32,
    tensors: RSlice<'_, Handle>,
    ints: RSlice<'_, i64>,
    floats: RSlice<'_, f64>,
) -> Wire<Handle> {
    guard(|| {
        let op = Op::from_code(op).ok_or_else(|| format!("unknown operation {op}"))?;
        // SAFETY: see `retain`.
        let arguments = unsafe { Arguments::new(&tensors, &ints, &floats) };
        let made = run(op, &arguments);
        made.map(give).map_err(|error| arguments.failed(op, &error))
    })
}

unsafe extern "C" fn update(
    op: u32,
    tensors: RSlice<'_, Handle>,
    ints: RSlice<'_, i64>,
    floats: RSlice<'_, f64>,
) -> Wire<()> {
    guard(|| {
        let op = Update::from_code(op).ok_or_else(|| format!("unknown update {op}"))?;
        // SAFETY: see `retain`.
        let arguments = unsafe { Arguments::new(&tensors, &ints, &floats) };
        update::run(op, &arguments).map_err(|error| arguments.failed(op, &error))
    })
}

unsafe extern "C" fn upload(
    _beside: Handle,
    shape: RSlice<'_, usize>,
    dtype: u32,
    bytes: RSlice<'_, u8>,
) -> Wire<Handle> {
    guard(|| {
        let dtype = element_type(i64::from(dtype))?;
        Array::from_bytes(shape.to_vec(), dtype, &bytes).map(give)
    })
}

unsafe extern "C" fn download(handle: Handle, mut out: RSliceMut<'_, u8>) -> Wire<()> {
    guard(|| {
        // SAFETY: see `retain`.
        let bytes = unsafe { behind(&handle) }.to_bytes();
        if bytes.len() != out.len() {
            let (found, wanted) = (out.len(), bytes.len());
            return Err(format!("{wanted} bytes of elements do not fit {found}").into());
        }
        out.as_mut_slice().copy_from_slice(&bytes);
        Ok(())
    })
}

fn run(op: Op, arguments: &Arguments) -> Result<Array> {
    match op as u32 {
        0..32 => elementwise::unary(op, arguments),
        32..64 => pair::run(op, arguments),
        64..80 => elementwise::with_numbers(op, arguments),
        80..96 => reduce::run(op, arguments),
        96..112 => shape::run(op, arguments),
        112..128 => index::run(op, arguments),
        128..144 => create::convert(op, arguments),
        144..160 => create::run(op, arguments),
        176..192 => low_rank::run(op, arguments),
        _ => quantize::run(op, arguments),
    }
}

/// A failed operation's message.
#[cfg(test)]
fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tensor;

    #[test]
    fn elements_come_back_as_they_went() {
        let x = tensor(&[1.5f32, f32::NEG_INFINITY], &[2]);
        assert_eq!(x.to_vec::<f32>().unwrap(), [1.5, f32::NEG_INFINITY]);
        assert_eq!(
            (x.shape(), x.dtype(), x.device().as_str()),
            (&[2][..], DType::F32, "cpu")
        );
        assert_eq!(tensor(&[-3i64], &[]).to_vec::<i64>().unwrap(), [-3]);
        assert_eq!(
            tensor(&[u32::MAX], &[1]).to_vec::<u32>().unwrap(),
            [u32::MAX]
        );
        assert_eq!(
            tensor(&[true, false], &[2]).to_vec::<bool>().unwrap(),
            [true, false]
        );
        assert_eq!(tensor::<f32>(&[], &[0, 3]).elements(), 0);
        assert!(x.to_vec::<u32>().is_err());
    }

    #[test]
    fn every_operation_refuses_what_makes_no_sense_without_a_panic() {
        let tensors = [
            tensor(&[1.0f32, 2.0], &[2]),
            tensor(&[1u32, 2], &[2, 1]),
            tensor(&[true], &[]),
            tensor::<i64>(&[], &[0]),
        ];
        let ints: [&[i64]; 7] = [
            &[],
            &[-1],
            &[9],
            &[0, i64::MAX, 1],
            &[0; 3],
            &[i64::MAX; 4],
            &[1, 0],
        ];
        let floats: [&[f64]; 4] = [&[], &[f64::NAN], &[1.0, f64::NAN], &[2.0, 1.0]];
        for &op in Op::ALL {
            for x in &tensors {
                for y in &tensors {
                    for ints in ints {
                        for floats in floats {
                            for more in [&[][..], &[y], &[y, x], &[x, y]] {
                                if let Err(error) = x.call(op, more, ints, floats) {
                                    assert!(!error.to_string().contains("panicked"), "{error}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn errors_name_operation_and_tensors() {
        let (a, b) = (tensor(&[0.0f32; 2], &[2]), tensor(&[0u32; 3], &[3]));
        assert_eq!(
            message(a.add(&b)),
            "Add of F32[2], U32[3]: one element type is needed"
        );
    }
}
