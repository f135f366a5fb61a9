//! Element types.

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DType {
    /// 32-bit float.
    F32 = 0,
    /// Brain float, 16 bits.
    BF16 = 1,
    /// 64-bit signed integer.
    I64 = 2,
    /// 32-bit unsigned integer, for token ids and indices.
    U32 = 3,
    /// Truth value, a byte that is 0 or 1.
    Bool = 4,
}

impl DType {
    /// All of them.
    pub const ALL: &[DType] = &[Self::F32, Self::BF16, Self::I64, Self::U32, Self::Bool];

    /// The type of this number, if this SDK knows it.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::BF16 => 2,
            Self::I64 => 8,
            Self::Bool => 1,
        }
    }
}

/// A Rust type whose slices are a tensor's elements.
pub trait Element: Copy + sealed::Sealed {
    /// The tensor's type.
    const DTYPE: DType;
    /// What stands for it in memory of the host: the type itself, or a byte for a truth value.
    type Stored: Copy + Default;
    /// From the host's memory.
    fn from_stored(stored: Self::Stored) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty = $dtype:ident as $stored:ty, $from:expr;)*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
            type Stored = $stored;
            fn from_stored(stored: $stored) -> Self {
                ($from)(stored)
            }
        }
    )*};
}
elements! {
    f32 = F32 as f32, |x| x;
    i64 = I64 as i64, |x| x;
    u32 = U32 as u32, |x| x;
    bool = Bool as u8, |x| x != 0;
}
