//! Descriptors of matrices for the tensor memory accelerator (TMA) of Hopper and later, which copies boxes of a matrix
//! to shared memory. The driver encodes a descriptor, and a kernel takes it as `const __grid_constant__ CUtensorMap`.

use crate::TensorMap;
use anyhow::{Result, ensure};
use cudarc::driver::sys;

/// The bytes of an element.
const BF16: usize = 2;
/// The bytes of a swizzled row, which the inner side of a box has to fit into.
const SWIZZLE: usize = 128;

/// A row-major bf16 matrix on the device and the boxes it is copied in.
#[derive(Debug, Clone, Copy)]
pub struct Boxes {
    /// Address of the first element.
    pub pointer: u64,
    /// Rows of the matrix; what is asked for beyond them is zero.
    pub rows: usize,
    /// Columns of the matrix; what is asked for beyond them is zero.
    pub columns: usize,
    /// Elements from one row to the next.
    pub pitch: usize,
    /// Rows of a box, at most 256.
    pub box_rows: usize,
    /// Columns of a box, at most 64.
    pub box_columns: usize,
}

impl Boxes {
    /// Checks what the hardware requires, with a clearer message than CUDA_ERROR_INVALID_VALUE.
    fn check(&self) -> Result<()> {
        let Self {
            rows,
            columns,
            pitch,
            box_rows,
            box_columns,
            ..
        } = *self;
        let sizes = 1..=1usize << 32;
        ensure!(
            sizes.contains(&rows) && sizes.contains(&columns),
            "a tensor map takes 1 to 2^32 rows and columns, found {rows} x {columns}"
        );
        ensure!(
            self.pointer.is_multiple_of(16)
                && (pitch * BF16).is_multiple_of(16)
                && pitch >= columns,
            "a tensor map needs rows that start on 16 bytes and do not overlap, found address {:#x}, {columns} \
             columns, {pitch} elements from row to row",
            self.pointer
        );
        ensure!(
            (1..=256).contains(&box_rows)
                && (1..=SWIZZLE / BF16).contains(&box_columns)
                && (box_columns * BF16).is_multiple_of(16),
            "a box has 1 to 256 rows and 8 to 64 columns, a multiple of 8, found {box_rows} x {box_columns}"
        );
        Ok(())
    }
}

impl TensorMap {
    /// Boxes with 128-byte swizzle, zeros outside of the matrix.
    ///
    /// # Errors
    /// The hardware does not take these sizes, or the driver has no tensor maps.
    pub fn bf16(boxes: &Boxes) -> Result<Self> {
        boxes.check()?;
        let sizes = [boxes.columns as u64, boxes.rows as u64];
        let pitches = [(boxes.pitch * BF16) as u64];
        let sides = [boxes.box_columns as u32, boxes.box_rows as u32];
        let steps = [1u32; 2];
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: arrays of the rank's length, read during the call; the matrix itself is not touched.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                sizes.len() as u32,
                boxes.pointer as *mut _,
                sizes.as_ptr(),
                pitches.as_ptr(),
                sides.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        ensure!(
            status == sys::CUresult::CUDA_SUCCESS,
            "a tensor map of {boxes:?}: {status:?}"
        );
        Ok(Self(map.opaque))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Boxes = Boxes {
        pointer: 4096,
        rows: 100,
        columns: 2880,
        pitch: 2880,
        box_rows: 128,
        box_columns: 64,
    };

    fn message(boxes: Boxes) -> String {
        boxes.check().unwrap_err().to_string()
    }

    #[test]
    fn sizes_are_checked_before_the_driver_sees_them() {
        GOOD.check().unwrap();
        assert!(message(Boxes { rows: 0, ..GOOD }).contains("0 x 2880"));
        assert!(
            message(Boxes {
                pointer: 4098,
                ..GOOD
            })
            .contains("0x1002")
        );
        assert!(
            message(Boxes {
                pitch: 2884,
                ..GOOD
            })
            .contains("2884 elements")
        );
        assert!(message(Boxes { pitch: 64, ..GOOD }).contains("64 elements"));
        assert!(
            message(Boxes {
                box_columns: 128,
                ..GOOD
            })
            .contains("128 x 128")
        );
        assert!(
            message(Boxes {
                box_rows: 257,
                ..GOOD
            })
            .contains("257 x 64")
        );
    }
}
