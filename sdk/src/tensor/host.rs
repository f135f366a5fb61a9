//! What a host provides behind a [`Tensor`](super::Tensor): a table of functions that keeps its
//! layout for ever and grows only at its end.

use abi_stable::StableAbi;
use abi_stable::std_types::{RResult, RSlice, RSliceMut, RString};

/// What a call through the boundary gives.
pub type Wire<T> = RResult<T, RString>;

/// A tensor as the host knows it. Only the host that made it may look behind it.
#[repr(transparent)]
#[derive(Clone, Copy, StableAbi)]
pub struct Handle(pub *mut ());

/// The host's functions. Handles that they take stay the caller's; handles that they return are to
/// be given to `release` once.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = TensorHostRef)))]
#[allow(missing_docs)]
pub struct TensorHost {
    /// Minor version of the SDK that the host was built with.
    pub minor: u32,
    pub retain: unsafe extern "C" fn(Handle) -> Handle,
    pub release: unsafe extern "C" fn(Handle),
    /// Valid while the handle is.
    pub shape: unsafe extern "C" fn(Handle) -> RSlice<'static, usize>,
    /// Number of a [`DType`](super::DType).
    pub dtype: unsafe extern "C" fn(Handle) -> u32,
    /// `cpu`, `cuda:0`.
    pub device: unsafe extern "C" fn(Handle) -> RString,
    /// The operation [`Op`](super::Op) of this number.
    pub call: unsafe extern "C" fn(
        u32,
        RSlice<'_, Handle>,
        RSlice<'_, i64>,
        RSlice<'_, f64>,
    ) -> Wire<Handle>,
    /// The update [`Update`](super::Update) of this number, on the first tensor.
    pub update:
        unsafe extern "C" fn(u32, RSlice<'_, Handle>, RSlice<'_, i64>, RSlice<'_, f64>) -> Wire<()>,
    /// A tensor of this shape and type from its elements' bytes, on the device of the first.
    pub upload:
        unsafe extern "C" fn(Handle, RSlice<'_, usize>, u32, RSlice<'_, u8>) -> Wire<Handle>,
    /// The elements' bytes in the tensor's own type; as many as it has.
    #[sabi(last_prefix_field)]
    pub download: unsafe extern "C" fn(Handle, RSliceMut<'_, u8>) -> Wire<()>,
}

impl TensorHostRef {
    /// Whether both are the table of the same host.
    pub fn same(self, other: Self) -> bool {
        std::ptr::eq(self.0.to_raw_ptr(), other.0.to_raw_ptr())
    }
}
