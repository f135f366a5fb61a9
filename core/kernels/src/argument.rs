//! What kernels take: pointers to elements of a type, numbers, and descriptors of matrices.
//!
//! A declaration names the type on the device; [`Argument::Given`] is what a launcher takes for it. A size is given as
//! `usize` and checked when it is passed, so that no caller converts.

use anyhow::{Result, ensure};
use half::bf16;
use std::marker::PhantomData;

/// A type of elements in device memory.
pub trait Element: Copy + 'static {
    /// Its name in the kernels.
    const C: &'static str;
}

macro_rules! elements {
    ($($element:ty = $name:literal),+) => {$(
        impl Element for $element {
            const C: &'static str = $name;
        }
    )+};
}
elements!(
    bf16 = "bf16",
    f32 = "float",
    f64 = "double",
    u32 = "u32",
    u8 = "uint8_t"
);

/// The type of elements of a kernel that there is for bf16 and for f32.
pub trait Float: Element {
    /// The one for this type.
    fn choose<T>(bf16: T, f32: T) -> T;
}

impl Float for bf16 {
    fn choose<T>(bf16: T, _: T) -> T {
        bf16
    }
}

impl Float for f32 {
    fn choose<T>(_: T, f32: T) -> T {
        f32
    }
}

/// An address that a kernel reads from, `const T*`.
#[derive(Debug)]
pub struct In<'a, T>(u64, PhantomData<&'a T>);

/// An address that a kernel writes to, `T*`; some kernels read there first.
#[derive(Debug)]
pub struct Out<'a, T>(u64, PhantomData<&'a T>);

macro_rules! pointers {
    ($($pointer:ident)+) => {$(
        impl<T> Clone for $pointer<'_, T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T> Copy for $pointer<'_, T> {}

        impl<'a, T: Element> $pointer<'a, T> {
            /// The address of elements in the memory of `owner`, which keeps it alive.
            pub fn at<O: ?Sized>(address: u64, _owner: &'a O) -> Self {
                Self(address, PhantomData)
            }

            /// The address `elements` further.
            pub fn offset(self, elements: usize) -> Self {
                Self(self.0 + (elements * size_of::<T>()) as u64, PhantomData)
            }
        }
    )+};
}
pointers!(In Out);

/// The declaration of an [`In`] that may be missing; the kernel gets a null pointer then.
#[derive(Debug)]
pub struct InOrNull<'a, T>(PhantomData<&'a T>);

/// The declaration of an [`Out`] that may be missing; the kernel gets a null pointer then.
#[derive(Debug)]
pub struct OutOrNull<'a, T>(PhantomData<&'a T>);

/// A descriptor of a matrix for the tensor memory accelerator, by value: `const __grid_constant__ TensorMap`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct TensorMap(pub(crate) [u64; 16]);

/// The bytes of an argument as the kernel reads them.
pub trait Passed {}

macro_rules! passed {
    ($($value:ty),+) => {$(impl Passed for $value {})+};
}
passed!(i32, i64, u32, u64, f32, TensorMap);

/// A type of parameters, by the name that declarations use.
pub trait Argument {
    /// What a launcher takes.
    type Given: Copy;
    /// What the kernel gets.
    type Passed: Passed;
    /// Whether null may be passed.
    const NULL: bool = false;

    /// The type in the kernel's source.
    fn c() -> String;

    /// Converts what was given for `parameter` of `kernel`.
    ///
    /// # Errors
    /// A size is too large for the kernel's type.
    fn pass(given: Self::Given, kernel: &str, parameter: &str) -> Result<Self::Passed>;
}

macro_rules! pointer_arguments {
    ($($declared:ident, $null:literal, $given:ty, $prefix:literal, $pass:expr;)+) => {$(
        impl<'a, T: Element> Argument for $declared<'a, T> {
            type Given = $given;
            type Passed = u64;
            const NULL: bool = $null;

            fn c() -> String {
                format!(concat!($prefix, "{}*"), T::C)
            }

            fn pass(given: $given, _: &str, _: &str) -> Result<u64> {
                let address: fn($given) -> u64 = $pass;
                Ok(address(given))
            }
        }
    )+};
}
pointer_arguments!(
    In, false, In<'a, T>, "const ", |given| given.0;
    Out, false, Out<'a, T>, "", |given| given.0;
    InOrNull, true, Option<In<'a, T>>, "const ", |given| given.map_or(0, |given| given.0);
    OutOrNull, true, Option<Out<'a, T>>, "", |given| given.map_or(0, |given| given.0);
);

macro_rules! sizes {
    ($($size:ident = $name:literal),+) => {$(
        impl Argument for $size {
            type Given = usize;
            type Passed = $size;

            fn c() -> String {
                $name.into()
            }

            fn pass(given: usize, kernel: &str, parameter: &str) -> Result<$size> {
                let size = $size::try_from(given);
                ensure!(
                    size.is_ok(),
                    "CUDA kernel {kernel}: {parameter} is {given}, expected at most {}",
                    $size::MAX
                );
                Ok(size?)
            }
        }
    )+};
}
sizes!(i32 = "int", i64 = "i64");

macro_rules! values {
    ($($value:ident = $name:literal),+) => {$(
        impl Argument for $value {
            type Given = $value;
            type Passed = $value;

            fn c() -> String {
                $name.into()
            }

            fn pass(given: $value, _: &str, _: &str) -> Result<$value> {
                Ok(given)
            }
        }
    )+};
}
values!(
    u32 = "u32",
    u64 = "u64",
    f32 = "float",
    TensorMap = "const TensorMap"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        assert_eq!(i32::pass(5, "k", "rows").unwrap(), 5);
        let most = i32::MAX as usize;
        assert_eq!(i32::pass(most, "k", "rows").unwrap(), i32::MAX);
        let error = i32::pass(most + 1, "add_bias", "rows").unwrap_err();
        assert_eq!(
            error.to_string(),
            "CUDA kernel add_bias: rows is 2147483648, expected at most 2147483647"
        );
        assert_eq!(i64::pass(most + 1, "k", "rows").unwrap(), 1 << 31);
        assert!(i64::pass(usize::MAX, "k", "rows").is_err());
    }

    #[test]
    fn addresses_count_elements_and_nothing_is_null() {
        let owner = [0f64; 4];
        let x = In::<f64>::at(4096, &owner).offset(3);
        assert_eq!(In::pass(x, "k", "x").unwrap(), 4096 + 24);
        assert_eq!(InOrNull::pass(Some(x), "k", "x").unwrap(), 4096 + 24);
        assert_eq!(InOrNull::<f64>::pass(None, "k", "x").unwrap(), 0);
    }

    #[test]
    fn a_descriptor_is_what_kernels_take() {
        assert_eq!((size_of::<TensorMap>(), align_of::<TensorMap>()), (128, 64));
    }
}
