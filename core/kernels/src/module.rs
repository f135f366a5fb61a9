//! A module: kernels that are compiled and loaded together.

/// A source file, compiled with definitions for some cards.
#[derive(Debug)]
pub struct Module {
    /// Its name, unique.
    pub name: &'static str,
    /// The source file without `.cu`.
    pub source: &'static str,
    /// What is defined for the preprocessor, such as `HEAD_DIM=64`.
    pub defines: &'static [&'static str],
    /// The architecture that it has machine code for if it is not for all cards, such as `90a`.
    pub only: Option<&'static str>,
    /// A fatbin, of which the driver takes the machine code for the card at hand, else the PTX.
    #[cfg(feature = "cuda")]
    pub image: &'static [u8],
}

/// The attention kernels of a head dim.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    pub(crate) module: &'static Module,
}

/// One of the three large attention kernels, of which some cards have faster versions.
#[derive(Debug, Clone, Copy)]
pub struct LargeAttention {
    pub(crate) module: &'static Module,
    pub(crate) threads: u32,
}
