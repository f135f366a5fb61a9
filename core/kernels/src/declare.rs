//! The macro of the table. A declaration reads
//!
//! ```text
//! module RMS_NORM = "rms_norm";              // rms_norm.cu, or another file: from "attention" with "HEAD_DIM=64"
//! {
//!     /// What it computes.
//!     rms_norm_rstd(rstd: Out<f32>, x: In<bf16>, rows: i32, width: i32, eps: f32) => Grid::rows(rows);
//! }
//! ```
//!
//! and becomes a struct named as the kernel, whose fields are the parameters, so that call sites name what they pass:
//! `rms_norm_rstd { rstd, x, rows, width, eps }.launch(stream)`. After `=>` stands the grid, computed of the fields. What
//! the grid needs beside the parameters are fields too, listed after `with`. `name<T>(..)` declares `name_bf16` and `name_f32`;
//! `name[n: 1 2 3](..)` declares `name_1` to `name_3` and a field `n` that chooses. A block of several modules says after
//! `in` which of them a launch takes.

/// A kernel as the table declares it.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// Its name in the source.
    pub kernel: &'static str,
    /// The name of the launcher, which several kernels may share.
    pub launcher: &'static str,
    /// The modules that have it.
    pub modules: Vec<&'static super::Module>,
    /// Its parameters in order.
    pub parameters: Vec<Parameter>,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its type in the source, without `__restrict__`.
    pub c: String,
    /// Whether it is a pointer that may be null.
    pub null: bool,
}

macro_rules! kernels {
    ($(
        $(
            $(#[$about:meta])*
            module $module:ident = $name:literal $(from $source:literal)? $(with $define:literal)* $(only $only:literal)?;
        )*
        $(in $known:ident;)*
        {
            $(
                $(#[$doc:meta])*
                $kernel:ident $(<$element:ident>)? $([$version:ident: $($number:literal)+])?
                ($($parameter:ident: $kind:ident $(<$of:ident>)?),+ $(,)?)
                $(with ($($extra:ident: $extra_type:ty),+))?
                $(in $place:expr)?
                => $grid:expr;
            )+
        }
    )+) => {
        use crate::argument::{Argument, Float, In, InOrNull, Out, OutOrNull, TensorMap};
        use crate::declare::Declaration;
        use crate::sizes::{DOWN_ROWS, MOST_ROUTED_EXPERTS, PAGED_ROWS, PAIRS_PER_BLOCK, PRODUCT_SHARED_BYTES, SAMPLE_THREADS};
        use crate::{Attention, Grid, LargeAttention, Module, RowsLayout};
        use anyhow::Result;
        use half::bf16;

        $(
            $(
                $(#[$about])*
                pub static $module: Module = Module {
                    name: $name,
                    source: [$($source,)? $name][0],
                    defines: &[$($define),*],
                    only: [$(Some($only),)? None][0],
                    #[cfg(feature = "cuda")]
                    image: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".fatbin")),
                };
            )*

            $(
                $(#[$doc])*
                #[derive(Debug, Clone, Copy)]
                #[allow(non_camel_case_types)]
                pub struct $kernel<'a $(, $element: Float)?> {
                    $(
                        #[doc = concat!("`", stringify!($kind $(<$of>)?), "`")]
                        pub $parameter: <$kind $(<'a, $of>)? as Argument>::Given,
                    )+
                    $($(
                        /// For the grid.
                        pub $extra: $extra_type,
                    )+)?
                    $(
                        /// Which of the kernels of this name.
                        pub $version: usize,
                    )?
                }
            )+

            const _: () = {
                /// Where the kernels of this block are unless they say another place.
                const MODULE: &Module = [$(&$module,)* $(&$known,)*][0];

                $(
                    #[allow(unused_variables)]
                    impl<'a $(, $element: Float)?> $kernel<'a $(, $element)?> {
                        /// The blocks and threads of the launch.
                        pub fn grid(&self) -> Grid {
                            let Self { $($parameter,)+ $($($extra,)+)? $($version,)? } = *self;
                            $grid
                        }

                        /// The module and the name of the kernel in it.
                        pub fn target(&self) -> Result<(&'static Module, &'static str)> {
                            let Self { $($parameter,)+ $($($extra,)+)? $($version,)? } = *self;
                            let name = kernel_name!($kernel $(<$element>)? $([$version: $($number)+])?);
                            Ok(([$($place,)? MODULE][0], name))
                        }

                        /// Puts the kernel on the stream; a grid without blocks does nothing.
                        #[cfg(feature = "cuda")]
                        pub fn launch(self, stream: &cudarc::driver::CudaStream) -> Result<()> {
                            let (module, name) = self.target()?;
                            crate::launch::launch(stream, module, name, self.grid(), &[
                                $(&<$kind $(<'a, $of>)? as Argument>::pass(
                                    self.$parameter, name, stringify!($parameter)
                                )?),+
                            ])
                        }
                    }
                )+
            };
        )+

        /// Every module.
        pub static MODULES: &[&Module] = &[$($(&$module,)*)+];

        /// Every kernel.
        pub fn declarations() -> Vec<Declaration> {
            let mut all = Vec::new();
            $(
                let modules = [$(&$module,)* $(&$known,)*];
                $(declaration!(
                    all, modules, $kernel $(<$element>)? $([$($number)+])? ($($parameter: $kind $(<$of>)?),+)
                );)+
            )+
            all
        }
    };
}

macro_rules! kernel_name {
    ($kernel:ident) => {
        stringify!($kernel)
    };
    ($kernel:ident <$element:ident>) => {
        $element::choose(
            concat!(stringify!($kernel), "_bf16"),
            concat!(stringify!($kernel), "_f32"),
        )
    };
    ($kernel:ident [$version:ident: $($number:literal)+]) => {
        match $version {
            $($number => concat!(stringify!($kernel), "_", $number),)+
            other => anyhow::bail!(concat!("there is no CUDA kernel ", stringify!($kernel), "_{}"), other),
        }
    };
}

macro_rules! declaration {
    ($all:ident, $modules:ident, $kernel:ident <$element:ident> $parameters:tt) => {
        {
            type $element = bf16;
            declaration!($all, $modules, $kernel, concat!(stringify!($kernel), "_bf16"), $parameters);
        }
        {
            type $element = f32;
            declaration!($all, $modules, $kernel, concat!(stringify!($kernel), "_f32"), $parameters);
        }
    };
    ($all:ident, $modules:ident, $kernel:ident [$($number:literal)+] $parameters:tt) => {
        declaration!(numbers $all, $modules, $kernel, [$($number)+] $parameters);
    };
    (numbers $all:ident, $modules:ident, $kernel:ident, [$first:literal $($number:literal)*] $parameters:tt) => {
        declaration!($all, $modules, $kernel, concat!(stringify!($kernel), "_", $first), $parameters);
        declaration!(numbers $all, $modules, $kernel, [$($number)*] $parameters);
    };
    (numbers $all:ident, $modules:ident, $kernel:ident, [] $parameters:tt) => {};
    ($all:ident, $modules:ident, $kernel:ident $parameters:tt) => {
        declaration!($all, $modules, $kernel, stringify!($kernel), $parameters);
    };
    ($all:ident, $modules:ident, $kernel:ident, $name:expr,
        ($($parameter:ident: $kind:ident $(<$of:ident>)?),+)) => {
        $all.push(crate::Declaration {
            kernel: $name,
            launcher: stringify!($kernel),
            modules: $modules.to_vec(),
            parameters: vec![$(crate::Parameter {
                name: stringify!($parameter),
                c: <$kind $(<'static, $of>)? as Argument>::c(),
                null: <$kind $(<'static, $of>)? as Argument>::NULL,
            }),+],
        });
    };
}
